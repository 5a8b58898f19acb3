-- status: 1 pending, 2 processing, 3 completed, 4 failed, 5 cancelled. Times: ms since 1970, this database's clock.
CREATE TABLE jobs (
    id TEXT PRIMARY KEY NOT NULL,
    user_id TEXT,
    kind TEXT NOT NULL,
    status INTEGER NOT NULL DEFAULT 1,
    -- 0: run_at has not come yet, as far as anybody has looked.
    ready INTEGER NOT NULL DEFAULT 1,
    progress INTEGER NOT NULL DEFAULT 0,
    step TEXT,
    detail TEXT,
    arguments TEXT,
    result TEXT,
    error TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL,
    priority INTEGER NOT NULL DEFAULT 0,
    run_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    started_at INTEGER,
    completed_at INTEGER,
    unique_key TEXT,
    timeout_ms INTEGER,
    -- The fencing token: one more with every claim; and until when the claim holds.
    claim INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER,
    -- Entries of the history so far; the transitions among them, a line each.
    seq INTEGER NOT NULL DEFAULT 1,
    trail TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX jobs_ready ON jobs (priority DESC, run_at, id) WHERE status = 1 AND ready = 1;
CREATE INDEX jobs_later ON jobs (run_at) WHERE status = 1 AND ready = 0;
CREATE INDEX jobs_leases ON jobs (lease_until) WHERE status = 2;
CREATE UNIQUE INDEX jobs_unique ON jobs (coalesce(user_id, ''), unique_key)
    WHERE unique_key IS NOT NULL AND status < 3;

-- What happened between two transitions.
CREATE TABLE job_progress (
    job_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    progress INTEGER NOT NULL,
    step TEXT,
    detail TEXT,
    PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
