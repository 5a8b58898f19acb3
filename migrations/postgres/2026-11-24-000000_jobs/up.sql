-- status: 1 pending, 2 processing, 3 completed, 4 failed, 5 cancelled. Times: ms since 1970, this database's clock.
CREATE TABLE jobs (
    id UUID PRIMARY KEY,
    user_id TEXT,
    kind TEXT NOT NULL,
    status SMALLINT NOT NULL DEFAULT 1,
    -- 0: run_at has not come yet, as far as anybody has looked.
    ready SMALLINT NOT NULL DEFAULT 1,
    progress SMALLINT NOT NULL DEFAULT 0,
    step TEXT,
    detail TEXT,
    arguments TEXT,
    result TEXT,
    error TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL,
    priority INTEGER NOT NULL DEFAULT 0,
    run_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    started_at BIGINT,
    completed_at BIGINT,
    unique_key TEXT,
    timeout_ms BIGINT,
    -- The fencing token: one more with every claim; and until when the claim holds.
    claim BIGINT NOT NULL DEFAULT 0,
    lease_until BIGINT,
    -- Entries of the history so far; the transitions among them, a line each.
    seq INTEGER NOT NULL DEFAULT 1,
    trail TEXT NOT NULL
);

-- Rows change a few times and are then deleted: leave room on each page.
ALTER TABLE jobs SET (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX jobs_ready ON jobs (priority DESC, run_at, id) WHERE status = 1 AND ready = 1;
CREATE INDEX jobs_later ON jobs (run_at) WHERE status = 1 AND ready = 0;
CREATE INDEX jobs_leases ON jobs (lease_until) WHERE status = 2;
CREATE UNIQUE INDEX jobs_unique ON jobs (coalesce(user_id, ''), unique_key)
    WHERE unique_key IS NOT NULL AND status < 3;

-- What happened between two transitions.
CREATE TABLE job_progress (
    job_id UUID NOT NULL,
    seq INTEGER NOT NULL,
    at BIGINT NOT NULL,
    attempt INTEGER NOT NULL,
    progress SMALLINT NOT NULL,
    step TEXT,
    detail TEXT,
    PRIMARY KEY (job_id, seq)
);
