//! The statements of workers (claim, begin, report, finish, renew, release, rescue) and of maintenance.

use super::requests::RECEIPTS_FOR;
use super::statements;

/// The history of a job keeps about this many of its newest reports.
const MAX_REPORTS: u32 = 2_000;

/// The number of lanes. Lane 1 is for jobs that never lost a worker. A job that was running when its worker was lost
/// moves to the next lane; in the last lane it fails.
pub(crate) const LANES: u8 = 5;

/// A claimed job, as [`Claimed::parse`](crate::jobs::job::Claimed::parse) reads it.
const CLAIMED: &str = "concat_ws(' ', id, claim, ready, attempts, losses, max_attempts, coalesce(timeout_ms, -1), \
     {now} - run_at, priority, run_at, {quote}(kind), \
     '\n' || CASE WHEN user_id IS NULL THEN '' ELSE {quote}(user_id){text} END, '\n' || arguments)";

fn rescue() -> String {
    let is_last = format!("(ahead + paused = 0 AND ready >= {LANES})");
    format!(
        "UPDATE jobs SET status = CASE WHEN {is_last} THEN 4 ELSE 1 END, \
         ready = CASE WHEN ready < 1 THEN 2 WHEN ready < {LANES} AND (ready = 1 OR ahead + paused = 0) \
           THEN ready + 1 ELSE ready END, \
         losses = losses + 1 - ahead, claim = claim + 1, lease_until = NULL, updated_at = {{now}}, \
         ahead = 0, paused = 0, seq = seq + 1 - ahead, \
         completed_at = CASE WHEN {is_last} THEN {{now}} END, \
         error = CASE WHEN {is_last} \
           THEN '{{\"message\":\"its worker was lost' || CASE losses WHEN 0 THEN '' ELSE ' ' || (losses + 1) || ' times' END || \
             '\",\"attempt\":' || attempts || '}}' \
           ELSE error END, \
         started_at = CASE WHEN {is_last} THEN started_at END, \
         progress = CASE WHEN {is_last} THEN progress ELSE 0 END, \
         step = CASE WHEN {is_last} THEN step END, \
         detail = CASE WHEN {is_last} THEN detail END, \
         trail = CASE WHEN ahead = 1 THEN trail ELSE {{trail}} || (seq + 1) || ' ' || {{now}} || \
           CASE WHEN {is_last} THEN ' failed ' || attempts || ' ' || progress \
             ELSE ' retried ' || attempts || ' 0' END || \
           ' \"its worker was lost\"\n' END \
         WHERE id {{in_ids:SELECT id FROM jobs JOIN {{rows:xid uuid,xclaim bigint}} ON {{held}} \
           WHERE lease_until < {{now}} {{skip}}}} \
         RETURNING {{object}}('kind', kind, 'status', status){{text}}"
    )
}

statements! {
    /// The statements of workers, in one dialect.
    WorkStatements {
        /// Claims up to `count` due jobs, the first of all types together, and of each type only those behind its
        /// mark.
        ///
        /// `ready` is the lane: 1, plus 1 for each time that the worker was lost.
        claim: "UPDATE jobs SET status = 2, claim = claim + 1, \
             lease_until = {now} + ({arg:lease}){big}, updated_at = {now}, ahead = 1, paused = 0, started_at = NULL \
             WHERE {counted} AND {row} {in_ids:SELECT x.{row} FROM {rows_of:kinds:xkind text,xrank bigint,xrun bigint,xid uuid} \
               {each:SELECT y.{row}{place} FROM jobs AS y {by:jobs_due} WHERE y.status = 1 AND y.ready > 0 \
                 AND y.ready = ({arg:lane}){int} AND y.kind = xkind \
                 AND ({rank}, y.run_at, y.id) > (xrank, xrun, xid) \
                 ORDER BY {rank}, y.run_at, y.id LIMIT ({arg:count}){int} {skip}} \
               ORDER BY x.priority DESC, x.run_at, x.id LIMIT ({arg:count}){int}} \
             RETURNING ".to_owned() + CLAIMED,
        /// Claims a job that was just added for its own worker. No other worker may run it, so its lane is the last: if its
        /// worker is lost, it fails.
        adopt: format!("UPDATE jobs SET status = 2, claim = claim + 1, ready = {LANES}, \
             lease_until = {{now}} + ({{arg:lease}}){{big}}, updated_at = {{now}}, ahead = 1, paused = 0 \
             WHERE {{counted}} AND id = ({{arg:id}}){{uuid}} AND status = 1 RETURNING {CLAIMED}"),
        promote: "UPDATE jobs SET ready = CASE WHEN losses > 0 THEN 2 ELSE 1 END WHERE id {in_ids:SELECT id FROM jobs {by:jobs_later} \
             WHERE status = 1 AND ready = 0 AND run_at <= {now} ORDER BY run_at LIMIT 10000 {skip}} \
             RETURNING id || ''",
        next_run: "SELECT (min(run_at) - {now}) || '' FROM jobs {by:jobs_later} WHERE status = 1 AND ready = 0 \
             HAVING min(run_at) IS NOT NULL",
        /// `xage`: milliseconds since the executor was called. A job that has already begun keeps its data. This
        /// statement and the next two skip locked rows, which are written later.
        begin: "UPDATE jobs SET ahead = 0, paused = xpaused, attempts = attempts + ahead, \
             started_at = CASE WHEN ahead = 1 THEN {now} - xage ELSE started_at END, \
             updated_at = {now}, error = NULL, progress = 0, step = NULL, detail = NULL, seq = seq + ahead, \
             trail = CASE WHEN ahead = 1 THEN {trail} || (seq + 1) || ' ' || ({now} - xage) || ' started ' || \
               (attempts + 1) || ' 0 \n' ELSE trail END \
             FROM {rows:xid uuid,xclaim bigint,xage bigint,xpaused int} \
             WHERE {held} AND id {in_ids:SELECT id FROM jobs JOIN {rows:xid uuid,xclaim bigint} ON {held} {skip}} \
             RETURNING id || ''",
        pause: "UPDATE jobs SET paused = xpaused FROM {rows:xid uuid,xclaim bigint,xpaused int} \
             WHERE {held} AND id {in_ids:SELECT id FROM jobs JOIN {rows:xid uuid,xclaim bigint} ON {held} {skip}} \
             RETURNING id || ''",
        report: "UPDATE jobs SET progress = xprogress, step = xstep, detail = xdetail, \
             updated_at = {now}, seq = seq + 1 \
             FROM {rows:xid uuid,xclaim bigint,xprogress int,xstep text,xdetail text} \
             WHERE {held} AND id {in_ids:SELECT id FROM jobs JOIN {rows:xid uuid,xclaim bigint} ON {held} {skip}} \
             RETURNING id || ''",
        log_reports: "INSERT INTO job_progress (job_id, seq, at, attempt, progress, step, detail) \
             SELECT id, seq, updated_at, attempts, progress, step, detail \
             FROM jobs JOIN {rows:xid uuid,xclaim bigint} \
             ON {held} WHERE true RETURNING job_id || ''",
        /// Usually finds nothing; otherwise deletes about a hundred reports.
        trim_reports: format!(
            "DELETE FROM job_progress WHERE (job_id, seq) IN \
             (SELECT p.job_id, p.seq FROM jobs JOIN {{rows:xid uuid}} ON jobs.id = xid \
              JOIN job_progress AS p ON p.job_id = jobs.id AND p.seq <= jobs.seq - {MAX_REPORTS} \
              WHERE jobs.seq % 100 = 0) RETURNING job_id || ''"
        ),
        /// Adds lines to logs, of claims that `lock_free` or `finish` has locked. `xoff` and `xbegins` count from the end
        /// of the job's log.
        log: "INSERT INTO job_log (job_id, n, lines, at, attempt, begins, text) \
             SELECT xid, coalesce((SELECT l.n + l.lines FROM job_log AS l WHERE l.job_id = xid ORDER BY l.n DESC LIMIT 1), 1) + xoff, \
               xlines, {now} - xage, xattempt, \
               coalesce((SELECT l.begins + octet_length(l.text) FROM job_log AS l WHERE l.job_id = xid \
                 ORDER BY l.n DESC LIMIT 1), 0) + xbegins, xtext \
             FROM {rows:xid uuid,xoff bigint,xlines int,xage bigint,xattempt int,xbegins bigint,xtext text} \
             WHERE true RETURNING ''",
        /// Deletes the oldest lines beyond `xmost` bytes. One call adds fewer rows than this may delete.
        trim_log: "DELETE FROM job_log WHERE (job_id, n) IN (SELECT o.job_id, o.n \
             FROM {rows:xid uuid,xmost bigint} JOIN job_log AS o ON o.job_id = xid AND o.n <= \
               (SELECT max(l.n) FROM (SELECT n, begins FROM job_log WHERE job_id = xid ORDER BY n LIMIT 100) AS l \
                WHERE l.begins < (SELECT e.begins + octet_length(e.text) FROM job_log AS e WHERE e.job_id = xid \
                  ORDER BY e.n DESC LIMIT 1) - xmost)) \
             RETURNING ''",
        /// `xagain`: null if the job has finished, else milliseconds to the next attempt. `xage`: as in `begin`.
        finish: "{ending:UPDATE jobs SET status = CASE WHEN xagain IS NULL THEN xstatus ELSE 1 END, \
             ready = CASE WHEN xagain > 0 THEN 0 ELSE 1 END, \
             run_at = CASE WHEN xagain IS NULL THEN run_at ELSE {now} + xagain END, \
             run_given = CASE WHEN xagain IS NULL THEN run_given ELSE 0 END, \
             completed_at = CASE WHEN xagain IS NULL THEN {now} END, \
             result = xresult, error = xerror, attempts = attempts + ahead, ahead = 0, paused = 0, \
             started_at = CASE WHEN ahead = 1 THEN {now} - xage ELSE started_at END, \
             progress = CASE WHEN xagain IS NULL THEN xprogress ELSE 0 END, \
             step = CASE WHEN xagain IS NULL THEN xstep END, \
             detail = CASE WHEN xagain IS NULL THEN xdetail END, \
             lease_until = NULL, updated_at = {now}, \
             seq = seq + ahead + CASE WHEN xagain IS NULL THEN 1 ELSE 2 END, \
             trail = {trail} || CASE WHEN ahead = 1 THEN (seq + 1) || ' ' || ({now} - xage) || ' started ' || \
               (attempts + 1) || ' 0 \n' ELSE '' END || \
               (seq + ahead + 1) || ' ' || {now} || \
               CASE xstatus WHEN 3 THEN ' completed ' ELSE ' failed ' END || \
               (attempts + ahead) || ' ' || xprogress || ' ' || coalesce(xmessage, '') || '\n' || \
               CASE WHEN xagain IS NULL THEN '' ELSE \
                 (seq + ahead + 2) || ' ' || {now} || ' retried ' || (attempts + ahead) || \
                 ' 0 \"next attempt in ' || xagain || ' ms\"\n' END \
             FROM {lines:xid uuid,xclaim bigint,xstatus int,xprogress int,xage bigint,xresult text,xerror text,\
               xstep text,xdetail text,xmessage text,xagain bigint} \
             WHERE {held} AND {counted} RETURNING id || ''}",
        /// `xdone`: the executor has finished, so the claim stays valid however late its result is written. Any other
        /// expired lease is not renewed.
        renew: "UPDATE jobs SET lease_until = {now} + xlease \
             FROM {rows:xid uuid,xclaim bigint,xlease bigint,xdone int} \
             WHERE {held} AND (xdone = 1 OR lease_until >= {now}) \
             AND id {in_ids:SELECT id FROM jobs JOIN {rows:xid uuid,xclaim bigint} ON {held} {skip}} \
             RETURNING id || ''",
        /// Returns the valid claims without waiting for locks. `xdone`: null if the lease does not matter.
        holding: "SELECT id || '' FROM jobs JOIN {rows:xid uuid,xclaim bigint,xdone int} ON {held} \
             WHERE coalesce(xdone, 1) = 1 OR lease_until >= {now}",
        /// Locks those rows that no other transaction has locked.
        lock_free: "SELECT id || '' FROM jobs JOIN {rows:xid uuid,xclaim bigint} ON {held} {skip}",
        /// If the attempt had not begun, the release leaves no history entry.
        release: "UPDATE jobs SET status = 1, ready = CASE WHEN xdelay > 0 THEN 0 WHEN ready > 0 THEN ready ELSE 1 END, \
             run_at = CASE WHEN xdelay > 0 THEN {now} + xdelay ELSE run_at END, \
             run_given = CASE WHEN xdelay > 0 THEN 0 ELSE run_given END, \
             attempts = attempts - 1 + ahead, claim = claim + 1, ahead = 0, paused = 0, \
             lease_until = NULL, started_at = NULL, updated_at = {now}, seq = seq + 1 - ahead, \
             progress = 0, step = NULL, detail = NULL, \
             trail = CASE WHEN ahead = 1 THEN trail ELSE {trail} || (seq + 1) || ' ' || {now} || ' retried ' || \
               attempts || ' 0 ' || xwhy || '\n' END \
             FROM {rows:xid uuid,xclaim bigint,xdelay bigint,xwhy text} \
             WHERE {held} RETURNING id || ''",
        lapsed: "SELECT {object}('xid', id, 'xclaim', claim){text} FROM jobs {by:jobs_claimed} \
             WHERE status = 2 AND lease_until < {now} ORDER BY lease_until LIMIT 1000",
        /// Requeues jobs whose lease has expired. Jobs that were running count a loss. A job that had not begun, or
        /// had paused, according to the database, may still have killed its worker at once. The next lane finds out,
        /// because there an executor is called only after its begin is written.
        rescue: rescue(),
        // Ids begin with their time, so the oldest jobs come first.
        purge: "DELETE FROM jobs WHERE id {in_ids:SELECT id FROM jobs \
             WHERE id < ({arg:before}){uuid} AND status > 2 \
             AND completed_at < {now} - ({arg:age}){big} ORDER BY id LIMIT 1000 {skip}} \
             RETURNING id || ''",
        purge_progress: "DELETE FROM job_progress WHERE job_id IN \
             (SELECT xid FROM {rows:xid uuid}) RETURNING seq || ''",
        purge_responses: format!(
            "DELETE FROM job_receipts WHERE (user_id, key) IN (SELECT user_id, key \
             FROM job_receipts WHERE at <= {{now}} - {RECEIPTS_FOR} ORDER BY at LIMIT 1000 {{skip}}) \
             AND at <= {{now}} - {RECEIPTS_FOR} RETURNING key"
        ),
    }
}

/// Folds changes into the counts, in one process at a time. Returns the number of changes.
pub(crate) const FOLD: &str = "\
    WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock('job_counts'::regclass::oid::int, 1) AS mine), \
    gone AS (DELETE FROM job_count_changes WHERE (SELECT mine FROM turn) AND id = ANY(ARRAY(\
      SELECT id FROM job_count_changes ORDER BY id LIMIT 20000)) RETURNING user_id, kind, status, change), \
    of_users AS (INSERT INTO job_counts AS c (user_id, kind, status, jobs) \
      SELECT user_id, kind, status, sum(change) FROM gone GROUP BY 1, 2, 3 \
      ON CONFLICT (user_id, kind, status) DO UPDATE SET jobs = c.jobs + excluded.jobs), \
    of_all AS (INSERT INTO job_totals AS t (kind, status, jobs) \
      SELECT kind, status, sum(change) FROM gone GROUP BY 1, 2 \
      ON CONFLICT (kind, status) DO UPDATE SET jobs = t.jobs + excluded.jobs) \
    SELECT count(*)::text FROM gone";

/// SQLite uses the system's clock, which somebody may set. These statements move leases and delays by as many
/// milliseconds.
pub(crate) const CLOCK: &str = "SELECT boot || ' ' || ahead_ms FROM job_clock";
pub(crate) const SHIFT_LEASES: &str = "UPDATE jobs SET lease_until = lease_until + CAST({in} AS INTEGER) WHERE status = 2 RETURNING ''";
pub(crate) const SHIFT_DELAYS: &str = "UPDATE jobs SET run_at = run_at + CAST({in} AS INTEGER) \
     WHERE status = 1 AND ready = 0 AND run_given = 0 RETURNING ''";
pub(crate) const FORGET_CLOCK: &str = "DELETE FROM job_clock RETURNING ''";
pub(crate) const KEEP_CLOCK: &str = "INSERT INTO job_clock (boot, ahead_ms) \
     SELECT doc ->> '$.boot', doc ->> '$.ahead' FROM (SELECT {in} AS doc) WHERE true RETURNING ''";
