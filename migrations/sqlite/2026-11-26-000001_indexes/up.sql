-- no transaction: one after the other, so that nobody waits for all of them.
-- Due jobs, by what a worker asks for: how careful to be, which type, in which order.
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (ready, kind, (-priority), run_at, id) WHERE status = 1 AND ready > 0;

CREATE INDEX IF NOT EXISTS jobs_claimed ON jobs (lease_until, coalesce(user_id, ''), kind) WHERE status = 2;

-- For lists, newest first. What is processing is few, and found by the index above.
CREATE INDEX IF NOT EXISTS jobs_pending_of_user ON jobs (coalesce(user_id, ''), kind, id) WHERE status = 1;

CREATE INDEX IF NOT EXISTS jobs_ended_of_user ON jobs (coalesce(user_id, ''), kind, status, id) WHERE status > 2;

CREATE INDEX IF NOT EXISTS jobs_ended ON jobs (kind, status, id) WHERE status > 2;

DROP INDEX IF EXISTS jobs_ready;

DROP INDEX IF EXISTS jobs_leases;
