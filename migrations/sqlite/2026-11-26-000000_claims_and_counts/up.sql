-- 1: claimed, and its executor not called yet, as far as is written. An attempt counts from that call.
ALTER TABLE jobs ADD COLUMN ahead INTEGER NOT NULL DEFAULT 0;
-- How often a worker was lost while it ran this job.
ALTER TABLE jobs ADD COLUMN losses INTEGER NOT NULL DEFAULT 0;
-- 1: run_at was asked for as a time. 0: it follows from a delay.
ALTER TABLE jobs ADD COLUMN run_given INTEGER NOT NULL DEFAULT 0;

-- By how many ms the system's clock is ahead of the time since its start (whose mark is boot): where that changes,
-- somebody has set the clock, and what is reckoned from delays is moved with it.
CREATE TABLE job_clock (
    boot TEXT NOT NULL,
    ahead_ms INTEGER NOT NULL
);

-- How many jobs there are, so that nobody has to count them. The status is 1 for pending and processing, else that
-- of jobs; user_id is '' for the system's jobs.
CREATE TABLE job_counts (
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    status INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (user_id, kind, status)
) WITHOUT ROWID;

CREATE TABLE job_totals (
    kind TEXT NOT NULL,
    status INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (kind, status)
) WITHOUT ROWID;

INSERT INTO job_counts (user_id, kind, status, jobs)
SELECT coalesce(user_id, ''), kind, CASE WHEN status < 3 THEN 1 ELSE status END, count(*) FROM jobs GROUP BY 1, 2, 3;

INSERT INTO job_totals (kind, status, jobs)
SELECT kind, status, sum(jobs) FROM job_counts GROUP BY 1, 2;

CREATE TRIGGER jobs_added AFTER INSERT ON jobs BEGIN
    INSERT INTO job_counts VALUES (coalesce(new.user_id, ''), new.kind, CASE WHEN new.status < 3 THEN 1 ELSE new.status END, 1)
        ON CONFLICT DO UPDATE SET jobs = jobs + 1;
    INSERT INTO job_totals VALUES (new.kind, CASE WHEN new.status < 3 THEN 1 ELSE new.status END, 1)
        ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;

CREATE TRIGGER jobs_changed AFTER UPDATE OF status ON jobs
WHEN new.status <> old.status AND (new.status > 2 OR old.status > 2) BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE user_id = coalesce(old.user_id, '') AND kind = old.kind
        AND status = CASE WHEN old.status < 3 THEN 1 ELSE old.status END;
    UPDATE job_totals SET jobs = jobs - 1 WHERE kind = old.kind
        AND status = CASE WHEN old.status < 3 THEN 1 ELSE old.status END;
    INSERT INTO job_counts VALUES (coalesce(new.user_id, ''), new.kind, CASE WHEN new.status < 3 THEN 1 ELSE new.status END, 1)
        ON CONFLICT DO UPDATE SET jobs = jobs + 1;
    INSERT INTO job_totals VALUES (new.kind, CASE WHEN new.status < 3 THEN 1 ELSE new.status END, 1)
        ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;

CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE user_id = coalesce(old.user_id, '') AND kind = old.kind
        AND status = CASE WHEN old.status < 3 THEN 1 ELSE old.status END;
    UPDATE job_totals SET jobs = jobs - 1 WHERE kind = old.kind
        AND status = CASE WHEN old.status < 3 THEN 1 ELSE old.status END;
END;

-- For people: what jobs has in the compact form that is fast.
CREATE VIEW jobs_readable AS
SELECT id, user_id, kind AS type,
    CASE status WHEN 1 THEN 'pending' WHEN 2 THEN 'processing' WHEN 3 THEN 'completed' WHEN 4 THEN 'failed'
        ELSE 'cancelled' END AS status,
    status = 2 AND ahead = 1 AS claimed_ahead, progress, step, detail, arguments, result, error,
    attempts, max_attempts, losses, priority,
    strftime('%Y-%m-%d %H:%M:%f', run_at / 1000.0, 'unixepoch') AS run_at,
    strftime('%Y-%m-%d %H:%M:%f', created_at / 1000.0, 'unixepoch') AS created_at,
    strftime('%Y-%m-%d %H:%M:%f', updated_at / 1000.0, 'unixepoch') AS updated_at,
    strftime('%Y-%m-%d %H:%M:%f', started_at / 1000.0, 'unixepoch') AS started_at,
    strftime('%Y-%m-%d %H:%M:%f', completed_at / 1000.0, 'unixepoch') AS completed_at,
    strftime('%Y-%m-%d %H:%M:%f', lease_until / 1000.0, 'unixepoch') AS lease_until,
    claim, unique_key, timeout_ms, trail
FROM jobs;
