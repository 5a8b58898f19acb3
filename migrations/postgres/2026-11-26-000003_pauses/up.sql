SET LOCAL lock_timeout = '2s';

-- 1: its executor has returned and is called again later, as far as is written. A worker that is lost meanwhile was not
-- lost by it.
ALTER TABLE jobs ADD COLUMN paused SMALLINT NOT NULL DEFAULT 0;

CREATE OR REPLACE VIEW jobs_readable AS
SELECT id, user_id, kind AS type,
    (ARRAY['pending', 'processing', 'completed', 'failed', 'cancelled'])[status] AS status,
    status = 2 AND ahead = 1 AS claimed_ahead, progress, step, detail,
    arguments::json, result::json, error::json, attempts, max_attempts, losses, priority,
    to_timestamp(run_at / 1000.0) AS run_at, to_timestamp(created_at / 1000.0) AS created_at,
    to_timestamp(updated_at / 1000.0) AS updated_at, to_timestamp(started_at / 1000.0) AS started_at,
    to_timestamp(completed_at / 1000.0) AS completed_at, to_timestamp(lease_until / 1000.0) AS lease_until,
    claim, unique_key, timeout_ms * interval '1 millisecond' AS time_limit,
    status = 2 AND paused = 1 AS paused
FROM jobs;
