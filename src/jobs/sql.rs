//! Every statement, written once; a few words differ between the databases.
//!
//! A document's rows are read as a table `i` whose columns begin with `x`, so that no name is
//! ambiguous. `{now}` is the database's clock: the only one that counts.

use crate::jobs::database::Dialect;

/// A job as one line of JSON.
const JOB: &str = "{object}('id', id, 'user', user_id, 'kind', kind, 'status', status, \
    'progress', progress, 'step', step, 'detail', detail, 'arguments', arguments, \
    'result', result, 'error', error, 'attempts', attempts, 'max', max_attempts, \
    'priority', priority, 'run', run_at, 'created', created_at, 'updated', updated_at, \
    'started', started_at, 'completed', completed_at, 'timeout', timeout_ms, \
    'seq', seq){text}";

/// What a user may see: the job's own user, or everything.
const VISIBLE: &str = "(({arg:admin}) = 'yes' OR user_id = ({arg:user}))";

/// Whether the row `i` still has its claim. The sum keeps the planner from the index of leases, which
/// it would walk once for each row.
const HELD: &str = "id = xid AND claim = xclaim AND status + 0 = 2";

/// The newest reports of a job that its history keeps, about; transitions are all kept.
const MAX_REPORTS: u32 = 2_000;

/// For how many milliseconds an idempotency key is remembered: a day.
const RECEIPTS_FOR: u64 = 86_400_000;

/// The statements in one dialect.
pub(super) struct Statements {
    pub(super) insert: String,
    pub(super) own: String,
    pub(super) by_unique_key: String,
    pub(super) get: String,
    pub(super) history: String,
    pub(super) versions: String,
    pub(super) list: String,
    pub(super) count: String,
    pub(super) stats: String,
    pub(super) cancel: String,
    pub(super) retry: String,
    pub(super) claim: String,
    pub(super) promote: String,
    pub(super) rescue: String,
    pub(super) renew: String,
    pub(super) report: String,
    pub(super) log_reports: String,
    pub(super) trim_reports: String,
    pub(super) finish: String,
    pub(super) release: String,
    pub(super) next_run: String,
    pub(super) purge: String,
    pub(super) purge_progress: String,
    pub(super) receipt: String,
    pub(super) keep_receipt: String,
    pub(super) purge_receipts: String,
}

impl Statements {
    pub(super) fn new(dialect: Dialect) -> Statements {
        let sql = |template: &str| translate(template, dialect);
        Statements {
            insert: sql(
                "INSERT INTO jobs (id, user_id, kind, ready, arguments, max_attempts, \
                 priority, run_at, created_at, updated_at, unique_key, timeout_ms, trail) \
                 SELECT xid, xuser, xkind, \
                   CASE WHEN coalesce(xrun, {now} + xdelay) <= {now} THEN 1 ELSE 0 END, \
                   xarguments, xtries, xpriority, coalesce(xrun, {now} + xdelay), {now}, {now}, \
                   xkey, xtimeout, '1 ' || {now} || ' created 0 0 \n' \
                 FROM {rows:xid uuid,xuser text,xkind text,xarguments text,xtries int,\
                   xpriority int,xrun bigint,xdelay bigint,xkey text,xtimeout bigint} WHERE true \
                 ON CONFLICT DO NOTHING \
                 RETURNING {object}('id', id, 'created', created_at, 'run', run_at){text}",
            ),
            own: sql(
                "SELECT {object}('id', id, 'created', created_at, 'run', run_at){text} \
                 FROM jobs JOIN {rows:xid uuid} ON id = xid",
            ),
            by_unique_key: sql(
                "SELECT xid || ' ' || {job} FROM jobs JOIN {rows:xid uuid,xuser text,xkey text} \
                 ON coalesce(user_id, '') = coalesce(xuser, '') AND unique_key = xkey \
                 WHERE status < 3",
            ),
            get: sql("SELECT {job} FROM jobs WHERE id = ({arg:id}){uuid}"),
            // In one statement, and so of one moment: the trail, then what lies between.
            history: sql(
                "SELECT trail FROM jobs WHERE id = ({arg:id}){uuid} UNION ALL \
                 SELECT {object}('seq', seq, 'at', at, 'attempt', attempt, 'progress', progress, \
                 'step', step, 'detail', detail){text} FROM job_progress \
                 WHERE job_id = ({arg:id}){uuid} AND seq > ({arg:after}){int}",
            ),
            versions: sql("SELECT id || ' ' || seq FROM jobs JOIN {rows:xid uuid} ON id = xid"),
            list: sql(&format!(
                "SELECT {{job}} FROM jobs WHERE {VISIBLE} \
                 AND (({{arg:statuses}}) IS NULL OR instr_statuses) \
                 AND (({{arg:kind}}) IS NULL OR kind = ({{arg:kind}})) \
                 AND (({{arg:cursor}}) IS NULL OR id < ({{arg:cursor}}){{uuid}}) \
                 ORDER BY id DESC LIMIT ({{arg:limit}}){{int}}"
            )),
            count: sql(&format!(
                "SELECT count(*) || '' FROM jobs WHERE {VISIBLE} \
                 AND (({{arg:statuses}}) IS NULL OR instr_statuses) \
                 AND (({{arg:kind}}) IS NULL OR kind = ({{arg:kind}}))"
            )),
            stats: sql(&format!(
                "SELECT {{object}}('status', status, 'count', count(*)){{text}} FROM jobs \
                 WHERE {VISIBLE} GROUP BY status"
            )),
            cancel: sql(
                "UPDATE jobs SET status = 5, completed_at = {now}, updated_at = {now}, \
                 lease_until = NULL, claim = claim + 1, seq = seq + 1, \
                 trail = trail || (seq + 1) || ' ' || {now} || ' cancelled ' || attempts || ' ' || progress || ' \n' \
                 WHERE id = ({arg:id}){uuid} AND status < 3 RETURNING {job}",
            ),
            retry: sql(
                "UPDATE jobs SET status = 1, ready = 1, attempts = 0, run_at = {now}, \
                 updated_at = {now}, started_at = NULL, completed_at = NULL, result = NULL, \
                 error = NULL, progress = 0, step = NULL, detail = NULL, claim = claim + 1, \
                 seq = seq + 1, \
                 trail = trail || (seq + 1) || ' ' || {now} || ' retried 0 0 \n' \
                 WHERE id = ({arg:id}){uuid} AND status IN (4, 5) \
                 AND NOT EXISTS (SELECT 1 FROM jobs AS o WHERE o.unique_key = jobs.unique_key \
                   AND coalesce(o.user_id, '') = coalesce(jobs.user_id, '') AND o.status < 3) \
                 RETURNING {job}",
            ),
            claim: sql(
                "UPDATE jobs SET status = 2, attempts = attempts + 1, claim = claim + 1, \
                 lease_until = {now} + ({arg:lease}){big}, started_at = {now}, updated_at = {now}, \
                 progress = 0, step = NULL, detail = NULL, error = NULL, seq = seq + 1, \
                 trail = trail || (seq + 1) || ' ' || {now} || ' started ' || (attempts + 1) || ' 0 \n' \
                 WHERE id {in_ids:SELECT id FROM jobs WHERE status = 1 AND ready = 1 \
                   AND kind {in_kinds} ORDER BY priority DESC, run_at, id LIMIT ({arg:count}){int} {skip}} \
                 RETURNING {object}('id', id, 'kind', kind, 'arguments', arguments, \
                   'attempts', attempts, 'max', max_attempts, 'timeout', timeout_ms, 'claim', claim, \
                   'waited', {now} - run_at, 'priority', priority, 'run', run_at){text}",
            ),
            promote: sql(
                "UPDATE jobs SET ready = 1 WHERE id {in_ids:SELECT id FROM jobs \
                 WHERE status = 1 AND ready = 0 AND run_at <= {now} ORDER BY run_at LIMIT 10000 {skip}} \
                 RETURNING id || ''",
            ),
            rescue: sql(
                "UPDATE jobs SET status = CASE WHEN attempts < max_attempts THEN 1 ELSE 4 END, \
                 ready = 1, claim = claim + 1, lease_until = NULL, updated_at = {now}, seq = seq + 1, \
                 completed_at = CASE WHEN attempts < max_attempts THEN NULL ELSE {now} END, \
                 error = CASE WHEN attempts < max_attempts THEN NULL \
                   ELSE '{\"message\":\"its worker was lost, for the last time\"}' END, \
                 progress = CASE WHEN attempts < max_attempts THEN 0 ELSE progress END, \
                 step = CASE WHEN attempts < max_attempts THEN NULL ELSE step END, \
                 detail = CASE WHEN attempts < max_attempts THEN NULL ELSE detail END, \
                 trail = trail || (seq + 1) || ' ' || {now} || \
                   CASE WHEN attempts < max_attempts THEN ' retried ' || attempts || ' 0' \
                     ELSE ' failed ' || attempts || ' ' || progress END || \
                   ' \"its worker was lost\"\n' \
                 WHERE id {in_ids:SELECT id FROM jobs WHERE status = 2 AND lease_until < {now} \
                   LIMIT 1000 {skip}} RETURNING {object}('kind', kind, 'status', status){text}",
            ),
            renew: sql("UPDATE jobs SET lease_until = {now} + xlease \
                 FROM {rows:xid uuid,xclaim bigint,xlease bigint} \
                 WHERE {held} RETURNING id || ''"),
            report: sql(
                "UPDATE jobs SET progress = xprogress, step = xstep, detail = xdetail, \
                 updated_at = {now}, seq = seq + 1 \
                 FROM {rows:xid uuid,xclaim bigint,xprogress int,xstep text,xdetail text} \
                 WHERE {held} RETURNING id || ''",
            ),
            log_reports: sql(
                "INSERT INTO job_progress (job_id, seq, at, attempt, progress, step, detail) \
                 SELECT id, seq, updated_at, attempts, progress, step, detail \
                 FROM jobs JOIN {rows:xid uuid,xclaim bigint} \
                 ON {held} WHERE true RETURNING job_id || ''",
            ),
            // Usually finds nothing; otherwise it removes about a hundred reports.
            trim_reports: sql(&format!(
                "DELETE FROM job_progress WHERE (job_id, seq) IN \
                 (SELECT p.job_id, p.seq FROM jobs JOIN {{rows:xid uuid}} ON jobs.id = xid \
                  JOIN job_progress AS p ON p.job_id = jobs.id AND p.seq <= jobs.seq - {MAX_REPORTS} \
                  WHERE jobs.seq % 100 = 0) RETURNING job_id || ''"
            )),
            // xagain: null for an end; else the ms to the next attempt.
            finish: sql(
                "UPDATE jobs SET status = CASE WHEN xagain IS NULL THEN xstatus ELSE 1 END, \
                 ready = CASE WHEN xagain > 0 THEN 0 ELSE 1 END, \
                 run_at = CASE WHEN xagain IS NULL THEN run_at ELSE {now} + xagain END, \
                 completed_at = CASE WHEN xagain IS NULL THEN {now} END, \
                 result = xresult, error = xerror, \
                 progress = CASE WHEN xagain IS NULL THEN xprogress ELSE 0 END, \
                 step = CASE WHEN xagain IS NULL THEN xstep END, \
                 detail = CASE WHEN xagain IS NULL THEN xdetail END, \
                 lease_until = NULL, updated_at = {now}, \
                 seq = seq + CASE WHEN xagain IS NULL THEN 1 ELSE 2 END, \
                 trail = trail || (seq + 1) || ' ' || {now} || \
                   CASE xstatus WHEN 3 THEN ' completed ' ELSE ' failed ' END || \
                   attempts || ' ' || xprogress || ' ' || coalesce(xmessage, '') || '\n' || \
                   CASE WHEN xagain IS NULL THEN '' ELSE \
                     (seq + 2) || ' ' || {now} || ' retried ' || attempts || ' 0 \"next attempt in ' || \
                     xagain || ' ms\"\n' END \
                 FROM {rows:xid uuid,xclaim bigint,xstatus int,xresult text,xerror text,\
                   xprogress int,xstep text,xdetail text,xmessage text,xagain bigint} \
                 WHERE {held} RETURNING id || ''",
            ),
            release: sql(
                "UPDATE jobs SET status = 1, ready = 1, attempts = attempts - 1, claim = claim + 1, \
                 lease_until = NULL, updated_at = {now}, seq = seq + 1, \
                 progress = 0, step = NULL, detail = NULL, \
                 trail = trail || (seq + 1) || ' ' || {now} || ' retried ' || attempts || \
                   ' 0 \"server stopped\"\n' \
                 FROM {rows:xid uuid,xclaim bigint} \
                 WHERE {held} RETURNING id || ''",
            ),
            next_run: sql(
                "SELECT (min(run_at) - {now}) || '' FROM jobs WHERE status = 1 AND ready = 0 \
                 HAVING min(run_at) IS NOT NULL",
            ),
            // Ids begin with their time: the oldest jobs are the first.
            purge: sql("DELETE FROM jobs WHERE id {in_ids:SELECT id FROM jobs \
                 WHERE id < ({arg:before}){uuid} AND status > 2 \
                 AND completed_at < {now} - ({arg:age}){big} ORDER BY id LIMIT 1000 {skip}} \
                 RETURNING id || ''"),
            purge_progress: sql("DELETE FROM job_progress WHERE job_id IN \
                 (SELECT xid FROM {rows:xid uuid}) RETURNING seq || ''"),
            receipt: sql(&format!(
                "SELECT {{object}}('fingerprint', fingerprint, 'status', status, \
                 'location', location, 'body', body){{text}} FROM job_receipts WHERE user_id = ({{arg:user}}) \
                 AND key = ({{arg:key}}) AND at > {{now}} - {RECEIPTS_FOR}"
            )),
            // Nothing where the key has an answer already.
            keep_receipt: sql(&format!(
                "INSERT INTO job_receipts (user_id, key, fingerprint, status, location, body, at) \
                 SELECT xuser, xkey, xfingerprint, xstatus, xlocation, xbody, {{now}} \
                 FROM {{rows:xuser text,xkey text,xfingerprint text,xstatus int,xlocation text,\
                   xbody text}} \
                 WHERE true ON CONFLICT (user_id, key) DO UPDATE \
                 SET fingerprint = excluded.fingerprint, status = excluded.status, \
                   location = excluded.location, body = excluded.body, at = excluded.at \
                 WHERE job_receipts.at <= {{now}} - {RECEIPTS_FOR} RETURNING key"
            )),
            purge_receipts: sql(&format!(
                "DELETE FROM job_receipts WHERE (user_id, key) IN (SELECT user_id, key \
                 FROM job_receipts WHERE at <= {{now}} - {RECEIPTS_FOR} ORDER BY at LIMIT 1000 {{skip}}) \
                 AND at <= {{now}} - {RECEIPTS_FOR} RETURNING key"
            )),
        }
    }
}

/// Puts a dialect's own words in.
fn translate(template: &str, dialect: Dialect) -> String {
    let postgres = dialect == Dialect::Postgres;
    let word = |sqlite: &'static str, pg: &'static str| if postgres { pg } else { sqlite };
    let mut sql = template.replace("{job}", JOB).replace("{held}", HELD);
    sql = sql.replace(
        "instr_statuses",
        "instr(({arg:statuses}), ',' || status || ',') > 0",
    );
    if postgres {
        sql = sql.replace("instr(", "strpos(");
    }
    sql = sql.replace("{object}", word("json_object", "json_build_object"));
    sql = sql.replace("{text}", word("", "::text"));
    sql = sql.replace("{uuid}", word("", "::uuid"));
    sql = sql.replace("{int}", word("", "::int"));
    sql = sql.replace("{big}", word("", "::bigint"));
    sql = sql.replace("{skip}", word("", "FOR UPDATE SKIP LOCKED"));
    sql = sql.replace(
        "{in_kinds}",
        word(
            "IN (SELECT value FROM json_each((SELECT doc -> '$.kinds' FROM input)))",
            "= ANY(ARRAY(SELECT json_array_elements_text(doc -> 'kinds') FROM input))",
        ),
    );
    // One moment for a whole statement.
    sql = sql.replace(
        "{now}",
        word(
            "CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER)",
            // Unlike `extract`, without arbitrary precision.
            "(date_part('epoch', statement_timestamp()) * 1000)::bigint",
        ),
    );
    sql = expand(&sql, "{in_ids:", |query| match postgres {
        // With IN the planner scans the table.
        true => format!("= ANY(ARRAY({query}))"),
        false => format!("IN ({query})"),
    });
    sql = expand(&sql, "{rows:", |columns| rows(columns, postgres));
    let arguments = sql.contains("{arg:") || sql.contains("FROM input");
    sql = expand(&sql, "{arg:", |name| match postgres {
        true => format!("SELECT doc ->> '{name}' FROM input"),
        false => format!("SELECT doc ->> '$.{name}' FROM input"),
    });
    if arguments {
        let cast = word("", "::json");
        sql = format!("WITH input AS (SELECT {{in}}{cast} AS doc) {sql}");
    }
    sql
}

/// The document's rows as a table `i`; `columns` are names with PostgreSQL's types.
fn rows(columns: &str, postgres: bool) -> String {
    if postgres {
        return format!("json_to_recordset({{in}}::json) AS i({columns})");
    }
    let columns = columns.split(',').filter_map(|column| {
        let name = column.split_whitespace().next()?;
        Some(format!("value ->> '$.{name}' AS {name}"))
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    // With the limit each is read once a row, without it at each use.
    format!("(SELECT {columns} FROM json_each({{in}}) LIMIT -1) AS i")
}

/// Replaces every `{start…}` by what `with` makes of its inside, which may hold braces.
fn expand(sql: &str, start: &str, with: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = sql;
    while let Some(at) = rest.find(start) {
        out.push_str(&rest[..at]);
        let inside = &rest[at + start.len()..];
        let mut depth = 1;
        let end = inside.find(|c| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        let end = end.unwrap_or(inside.len());
        out.push_str(&with(&inside[..end]));
        rest = inside.get(end + 1..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}
