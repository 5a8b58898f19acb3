-- Whoever queues behind these locks waits no longer than this; the migration is tried again.
SET LOCAL lock_timeout = '2s';

ALTER TABLE jobs
    -- 1: claimed, and its executor not called yet, as far as is written. An attempt counts from that call.
    ADD COLUMN ahead SMALLINT NOT NULL DEFAULT 0,
    -- How often a worker was lost while it ran this job.
    ADD COLUMN losses SMALLINT NOT NULL DEFAULT 0,
    -- 1: run_at was asked for as a time. 0: it follows from a delay.
    ADD COLUMN run_given SMALLINT NOT NULL DEFAULT 0,
    ADD CONSTRAINT jobs_status_known CHECK (status BETWEEN 1 AND 5) NOT VALID,
    ADD CONSTRAINT jobs_ended_has_end CHECK ((status > 2) = (completed_at IS NOT NULL)) NOT VALID,
    ADD CONSTRAINT jobs_claimed_has_lease CHECK ((status = 2) = (lease_until IS NOT NULL)) NOT VALID;

-- No change of a status can be HOT, since indexes follow it: room on each page would only cost.
ALTER TABLE jobs SET (fillfactor = 100, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE job_progress SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0);

-- How many jobs there are, so that nobody has to count them. The status is 1 for pending and processing, else that
-- of jobs; user_id is '' for the system's jobs.
CREATE TABLE job_counts (
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    status SMALLINT NOT NULL,
    jobs BIGINT NOT NULL,
    PRIMARY KEY (user_id, kind, status)
) WITH (fillfactor = 50);

CREATE TABLE job_totals (
    kind TEXT NOT NULL,
    status SMALLINT NOT NULL,
    jobs BIGINT NOT NULL,
    PRIMARY KEY (kind, status)
) WITH (fillfactor = 50);

-- What has changed since those two were written. Who changes jobs adds rows here, in the same transaction, and so
-- waits for nobody; now and then they are folded into the counts.
CREATE TABLE job_count_changes (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    status SMALLINT NOT NULL,
    change BIGINT NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

CREATE OR REPLACE FUNCTION count_added_jobs() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO job_count_changes (user_id, kind, status, change)
    SELECT coalesce(user_id, ''), kind, CASE WHEN status < 3 THEN 1 ELSE status END, count(*)
    FROM added GROUP BY 1, 2, 3;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION count_changed_jobs() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO job_count_changes (user_id, kind, status, change)
    SELECT coalesce(user_id, ''), kind, CASE WHEN status < 3 THEN 1 ELSE status END, sum(change)
    FROM (SELECT user_id, kind, status, 1 AS change FROM added
          UNION ALL SELECT user_id, kind, status, -1 FROM gone) AS changes
    GROUP BY 1, 2, 3 HAVING sum(change) <> 0;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION count_deleted_jobs() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO job_count_changes (user_id, kind, status, change)
    SELECT coalesce(user_id, ''), kind, CASE WHEN status < 3 THEN 1 ELSE status END, -count(*)
    FROM gone GROUP BY 1, 2, 3;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION forget_job_counts() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM job_counts;
    DELETE FROM job_totals;
    DELETE FROM job_count_changes;
    RETURN NULL;
END $$;

CREATE TRIGGER jobs_added AFTER INSERT ON jobs
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_added_jobs();
CREATE TRIGGER jobs_changed AFTER UPDATE ON jobs
    REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_changed_jobs();
CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION count_deleted_jobs();
CREATE TRIGGER jobs_truncated AFTER TRUNCATE ON jobs
    FOR EACH STATEMENT EXECUTE FUNCTION forget_job_counts();

-- For people: what jobs has in the compact form that is fast.
CREATE VIEW jobs_readable AS
SELECT id, user_id, kind AS type,
    (ARRAY['pending', 'processing', 'completed', 'failed', 'cancelled'])[status] AS status,
    status = 2 AND ahead = 1 AS claimed_ahead, progress, step, detail,
    arguments::json, result::json, error::json, attempts, max_attempts, losses, priority,
    to_timestamp(run_at / 1000.0) AS run_at, to_timestamp(created_at / 1000.0) AS created_at,
    to_timestamp(updated_at / 1000.0) AS updated_at, to_timestamp(started_at / 1000.0) AS started_at,
    to_timestamp(completed_at / 1000.0) AS completed_at, to_timestamp(lease_until / 1000.0) AS lease_until,
    claim, unique_key, timeout_ms * interval '1 millisecond' AS time_limit
FROM jobs;

CREATE VIEW job_trail AS
SELECT id AS job_id, split_part(line, ' ', 1)::int AS seq, to_timestamp(split_part(line, ' ', 2)::bigint / 1000.0) AS at,
    split_part(line, ' ', 3) AS event, split_part(line, ' ', 4)::int AS attempt, split_part(line, ' ', 5)::int AS progress,
    NULL AS step, substring(line FROM '^(?:\S+ ){5}(.+)$')::json #>> '{}' AS message
FROM jobs, regexp_split_to_table(rtrim(trail, E'\n'), E'\n') AS line
UNION ALL
SELECT job_id, seq, to_timestamp(at / 1000.0), 'progress', attempt, progress, step, detail FROM job_progress;
