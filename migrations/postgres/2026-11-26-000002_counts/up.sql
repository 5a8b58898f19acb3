-- One moment for both: what has changed before it is in the counts, what changes after it is in the changes.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;

DELETE FROM job_count_changes;

INSERT INTO job_counts (user_id, kind, status, jobs)
SELECT coalesce(user_id, ''), kind, CASE WHEN status < 3 THEN 1 ELSE status END, count(*) FROM jobs GROUP BY 1, 2, 3;

INSERT INTO job_totals (kind, status, jobs)
SELECT kind, status, sum(jobs) FROM job_counts GROUP BY 1, 2;
