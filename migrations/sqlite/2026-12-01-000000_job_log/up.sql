-- What executors say besides their progress. A row has the lines of one write: in each the milliseconds since at, the
-- stream, and the text.
CREATE TABLE job_log (
    job_id TEXT NOT NULL,
    -- The number of its first line, from 1 over all attempts. Where numbers are missing, lines were dropped.
    n INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    -- The bytes of the job's log ahead of this row, with those that were deleted.
    begins INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (job_id, n)
);

CREATE TRIGGER jobs_deleted_log AFTER DELETE ON jobs BEGIN
    DELETE FROM job_log WHERE job_id = old.id;
END;
