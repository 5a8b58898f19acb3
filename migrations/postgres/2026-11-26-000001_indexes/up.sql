-- no transaction: nobody who works waits for these.
-- Due jobs, by what a worker asks for: how careful to be, which type, in which order.
DROP INDEX CONCURRENTLY IF EXISTS jobs_due;
CREATE INDEX CONCURRENTLY jobs_due ON jobs (ready, kind, (-(priority::bigint)), run_at, id) WHERE status = 1 AND ready > 0;

DROP INDEX CONCURRENTLY IF EXISTS jobs_claimed;
CREATE INDEX CONCURRENTLY jobs_claimed ON jobs (lease_until, coalesce(user_id, ''), kind) WHERE status = 2;

-- For lists, newest first. What is processing is few, and found by the index above.
DROP INDEX CONCURRENTLY IF EXISTS jobs_pending_of_user;
CREATE INDEX CONCURRENTLY jobs_pending_of_user ON jobs (coalesce(user_id, ''), kind, id) WHERE status = 1;

DROP INDEX CONCURRENTLY IF EXISTS jobs_ended_of_user;
CREATE INDEX CONCURRENTLY jobs_ended_of_user ON jobs (coalesce(user_id, ''), kind, status, id) WHERE status > 2;

DROP INDEX CONCURRENTLY IF EXISTS jobs_ended;
CREATE INDEX CONCURRENTLY jobs_ended ON jobs (kind, status, id) WHERE status > 2;

DROP INDEX CONCURRENTLY IF EXISTS jobs_ready;

DROP INDEX CONCURRENTLY IF EXISTS jobs_leases;

ALTER TABLE jobs VALIDATE CONSTRAINT jobs_status_known;

ALTER TABLE jobs VALIDATE CONSTRAINT jobs_ended_has_end;

ALTER TABLE jobs VALIDATE CONSTRAINT jobs_claimed_has_lease;
