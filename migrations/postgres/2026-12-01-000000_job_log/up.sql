SET LOCAL lock_timeout = '2s';

-- What executors say besides their progress. A row has the lines of one write: in each the milliseconds since at, the
-- stream, and the text.
CREATE TABLE job_log (
    job_id UUID NOT NULL,
    -- The number of its first line, from 1 over all attempts. Where numbers are missing, lines were dropped.
    n BIGINT NOT NULL,
    lines INTEGER NOT NULL,
    at BIGINT NOT NULL,
    attempt INTEGER NOT NULL,
    -- The bytes of the job's log ahead of this row, with those that were deleted.
    begins BIGINT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (job_id, n)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE OR REPLACE FUNCTION delete_job_logs() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM job_log USING gone WHERE job_id = gone.id;
    RETURN NULL;
END $$;

CREATE TRIGGER jobs_deleted_log AFTER DELETE ON jobs
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION delete_job_logs();

-- For people: a row for each line.
CREATE VIEW job_log_lines AS
SELECT job_id, log.n + place - 1 AS n, to_timestamp((at + split_part(line, ' ', 1)::bigint) / 1000.0) AS at, attempt,
    split_part(line, ' ', 2) AS stream, substring(line FROM '^\S+ \S+ (.*)$') AS text
FROM job_log AS log, unnest(string_to_array(rtrim(text, E'\n'), E'\n')) WITH ORDINALITY AS each(line, place);
