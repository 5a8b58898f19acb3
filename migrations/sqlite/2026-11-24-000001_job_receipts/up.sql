-- The first answer to each idempotency key of a user, kept for a day.
CREATE TABLE job_receipts (
    user_id TEXT NOT NULL,
    key TEXT NOT NULL,
    -- Of the request: another one with the same key is refused.
    fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL,
    location TEXT,
    body TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (user_id, key)
) WITHOUT ROWID;

CREATE INDEX job_receipts_at ON job_receipts (at);
