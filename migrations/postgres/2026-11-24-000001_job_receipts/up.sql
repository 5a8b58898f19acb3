-- The first answer to each idempotency key of a user, kept for a day.
CREATE TABLE job_receipts (
    user_id TEXT NOT NULL,
    key TEXT NOT NULL,
    -- Of the request: another one with the same key is refused.
    fingerprint TEXT NOT NULL,
    status SMALLINT NOT NULL,
    location TEXT,
    body TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (user_id, key)
);

CREATE INDEX job_receipts_at ON job_receipts (at);
