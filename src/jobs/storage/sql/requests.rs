//! The statements of requests: insert, read, list, count, cancel, retry.

use super::statements;

/// An idempotency key is kept for one day; in milliseconds.
pub(crate) const RECEIPTS_FOR: u64 = 86_400_000;

/// The newest `limit` jobs before `cursor` from three sources: finished jobs by type and status, pending jobs by user
/// and type, and claimed jobs with a suitable `ahead`. The rows are not sorted, because PostgreSQL would scan the
/// whole table in order rather than sort a page. For the same reason claimed jobs are sorted by an expression without
/// an index.
fn list(ended: &str, claimed: &str) -> String {
    format!(
        "SELECT {{job}} FROM jobs WHERE id {{in_ids:SELECT id FROM (\
         SELECT x.id AS id FROM {{rows_of:ended:xkind text,xstatus int}} \
           {{each:SELECT y.id FROM jobs AS y {ended} AND y.kind = xkind \
             AND y.status = xstatus AND y.status > 2 AND y.id < ({{arg:cursor}}){{uuid}} \
             ORDER BY y.id DESC LIMIT ({{arg:limit}}){{int}}}} \
         UNION ALL \
         SELECT x.id FROM {{rows_of:pending:xuser text,xkind text}} \
           {{each:SELECT y.id FROM jobs AS y {{by:jobs_pending_of_user}} \
             WHERE coalesce(y.user_id, '') = xuser AND y.kind = xkind AND y.status = 1 \
             AND y.id < ({{arg:cursor}}){{uuid}} ORDER BY y.id DESC LIMIT ({{arg:limit}}){{int}}}} \
         UNION ALL \
         SELECT id FROM (SELECT id FROM jobs {{by:jobs_claimed}} WHERE status = 2 \
           AND ahead BETWEEN ({{arg:least_ahead}}){{int}} AND ({{arg:most_ahead}}){{int}} {claimed} \
           AND (({{arg:kind}}) IS NULL OR kind = ({{arg:kind}})) \
           AND id < ({{arg:cursor}}){{uuid}} ORDER BY id || '' DESC LIMIT ({{arg:limit}}){{int}}) AS z\
         ) AS found ORDER BY id DESC LIMIT ({{arg:limit}}){{int}}}}"
    )
}

statements! {
    /// The statements of requests, in one dialect.
    RequestStatements {
        insert: "{adding:INSERT INTO jobs (id, user_id, kind, ready, arguments, max_attempts, \
             priority, run_at, run_given, created_at, updated_at, unique_key, timeout_ms, trail) \
             SELECT xid, xuser, xkind, \
               CASE WHEN coalesce(xrun, {now} + xdelay) <= {now} THEN 1 ELSE 0 END, \
               xarguments, xtries, xpriority, coalesce(xrun, {now} + xdelay), \
               CASE WHEN xrun IS NULL THEN 0 ELSE 1 END, {now}, {now}, \
               xkey, xtimeout, '1 ' || {now} || ' created 0 0 \n' \
             FROM {rows:xid uuid,xuser text,xkind text,xarguments text,xtries int,\
               xpriority int,xrun bigint,xdelay bigint,xkey text,xtimeout bigint} WHERE {counted} \
             ON CONFLICT DO NOTHING RETURNING id || ' ' || created_at || ' ' || run_at}",
        own: "SELECT id || ' ' || created_at || ' ' || run_at FROM jobs JOIN {rows:xid uuid} ON id = xid",
        by_unique_key: "SELECT xid || ' ' || {job} FROM jobs JOIN {rows:xid uuid,xuser text,xkey text} \
             ON coalesce(user_id, '') = coalesce(xuser, '') AND unique_key = xkey \
             WHERE status < 3",
        get: "SELECT {job} FROM jobs WHERE id = ({arg:id}){uuid}",
        // One statement, so that both parts show the same moment: the trail, then the reports.
        history: "SELECT trail FROM jobs WHERE id = ({arg:id}){uuid} UNION ALL \
             SELECT {object}('seq', seq, 'at', at, 'attempt', attempt, 'progress', progress, \
             'step', step, 'detail', detail){text} FROM job_progress \
             WHERE job_id = ({arg:id}){uuid} AND seq > ({arg:after}){int}",
        /// The rows of a log with lines behind number `after`, oldest first.
        log: "SELECT n || ' ' || at || ' ' || attempt || '\n' || text FROM job_log \
             WHERE job_id = ({arg:id}){uuid} AND n + lines > ({arg:after}){big} + 1 \
             ORDER BY n LIMIT ({arg:limit}){int}",
        /// The number of lines that are no longer kept.
        log_dropped: "SELECT (max(n + lines) - 1 - sum(lines)) || '' FROM job_log \
             WHERE job_id = ({arg:id}){uuid} HAVING count(*) > 0",
        versions: "SELECT id || ' ' || seq || ' ' || CASE WHEN xlog = 1 THEN coalesce((SELECT l.n + l.lines - 1 \
             FROM job_log AS l WHERE l.job_id = xid ORDER BY l.n DESC LIMIT 1), 0) ELSE 0 END \
             FROM jobs JOIN {rows:xid uuid,xlog int} ON id = xid",
        list_all: "SELECT {job} FROM jobs WHERE id < ({arg:cursor}){uuid} \
             ORDER BY id DESC LIMIT ({arg:limit}){int}",
        list_some: list("{by:jobs_ended} WHERE true", ""),
        list_of_user: list(
            "{by:jobs_ended_of_user} WHERE coalesce(y.user_id, '') = ({arg:user})",
            "AND {owner} = ({arg:user})",
        ),
        /// The number of jobs of each type and status. Pending and processing jobs are counted together.
        counts: "SELECT {object}('kind', kind, 'status', status, 'jobs', sum(n){big}){text} FROM \
             (SELECT kind, status, jobs AS n FROM job_totals \
              {unfolded:SELECT kind, status, change FROM job_count_changes}) AS c \
             GROUP BY kind, status HAVING sum(n) > 0",
        counts_of_user: "SELECT {object}('kind', kind, 'status', status, 'jobs', sum(n){big}){text} FROM \
             (SELECT kind, status, jobs AS n FROM job_counts WHERE user_id = ({arg:user}) \
              {unfolded:SELECT kind, status, change FROM job_count_changes \
              WHERE user_id = ({arg:user})}) AS c \
             GROUP BY kind, status HAVING sum(n) > 0",
        /// The users and types of pending and processing jobs.
        live: "SELECT {object}('xuser', user_id, 'xkind', kind){text} FROM \
             (SELECT user_id, kind, jobs AS n FROM job_counts WHERE status = 1 \
              {unfolded:SELECT user_id, kind, change FROM job_count_changes WHERE status = 1}) AS c \
             WHERE (({arg:kind}) IS NULL OR kind = ({arg:kind})) \
             GROUP BY user_id, kind HAVING sum(n) > 0",
        processing: "SELECT count(*) || '' FROM jobs {by:jobs_claimed} WHERE status = 2 AND ahead = 0 \
             AND (({arg:kind}) IS NULL OR kind = ({arg:kind}))",
        processing_of_user: "SELECT count(*) || '' FROM jobs {by:jobs_claimed} WHERE status = 2 AND ahead = 0 \
             AND {owner} = ({arg:user}) AND (({arg:kind}) IS NULL OR kind = ({arg:kind}))",
        cancel: "UPDATE jobs SET status = 5, completed_at = {now}, updated_at = {now}, \
             lease_until = NULL, claim = claim + 1, ahead = 0, seq = seq + 1, \
             trail = {trail} || (seq + 1) || ' ' || {now} || ' cancelled ' || attempts || ' ' || progress || ' \n' \
             WHERE id = ({arg:id}){uuid} AND status < 3 RETURNING {job}",
        retry: "UPDATE jobs SET status = 1, ready = 1, attempts = 0, losses = 0, run_at = {now}, run_given = 0, \
             updated_at = {now}, started_at = NULL, completed_at = NULL, result = NULL, \
             error = NULL, progress = 0, step = NULL, detail = NULL, claim = claim + 1, \
             seq = seq + 1, \
             trail = {trail} || (seq + 1) || ' ' || {now} || ' retried 0 0 \n' \
             WHERE id = ({arg:id}){uuid} AND status IN (4, 5) \
             AND NOT EXISTS (SELECT 1 FROM jobs AS o WHERE o.unique_key = jobs.unique_key \
               AND coalesce(o.user_id, '') = coalesce(jobs.user_id, '') AND o.status < 3) \
             RETURNING {job}",
        stored: format!(
            "SELECT {{object}}('fingerprint', fingerprint, 'status', status, \
             'location', location, 'body', body){{text}} FROM job_receipts WHERE user_id = ({{arg:user}}) \
             AND key = ({{arg:key}}) AND at > {{now}} - {RECEIPTS_FOR}"
        ),
        /// Returns nothing if the key already has a response.
        store_response: format!(
            "INSERT INTO job_receipts (user_id, key, fingerprint, status, location, body, at) \
             SELECT xuser, xkey, xfingerprint, xstatus, xlocation, xbody, {{now}} \
             FROM {{rows:xuser text,xkey text,xfingerprint text,xstatus int,xlocation text,\
               xbody text}} \
             WHERE true ON CONFLICT (user_id, key) DO UPDATE \
             SET fingerprint = excluded.fingerprint, status = excluded.status, \
               location = excluded.location, body = excluded.body, at = excluded.at \
             WHERE job_receipts.at <= {{now}} - {RECEIPTS_FOR} RETURNING key"
        ),
    }
}
