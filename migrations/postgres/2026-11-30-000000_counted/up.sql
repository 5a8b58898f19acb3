SET LOCAL lock_timeout = '2s';

-- A statement that keeps the counts itself says so, and spares the trigger, which would cost about as much as a
-- statement of one row. Whoever says nothing is counted.
DROP TRIGGER jobs_added ON jobs;
CREATE TRIGGER jobs_added AFTER INSERT ON jobs
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT
    WHEN (current_setting('jobs.counted', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION count_added_jobs();
DROP TRIGGER jobs_changed ON jobs;
CREATE TRIGGER jobs_changed AFTER UPDATE ON jobs
    REFERENCING OLD TABLE AS gone NEW TABLE AS added FOR EACH STATEMENT
    WHEN (current_setting('jobs.counted', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION count_changed_jobs();
