//! All SQL statements. Each is written once, with placeholders for the few words that differ between the databases.
//!
//! A statement reads one JSON document. The document's rows become a table `i`, whose columns begin with `x` so that
//! no name is ambiguous. `{now}` is the database's clock, the only clock that counts.

mod requests;
pub(crate) mod work;

pub(crate) use requests::RequestStatements;
pub(crate) use work::WorkStatements;

use crate::jobs::database::Dialect;

/// Declares a struct of statements. Each is translated once.
macro_rules! statements {
    ($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $name:ident: $template:expr,)* }) => {
        $(#[$about])*
        pub(crate) struct $type { $($(#[$doc])* pub(crate) $name: String,)* }

        impl $type {
            pub(crate) fn new(dialect: crate::jobs::database::Dialect) -> $type {
                $type { $($name: crate::jobs::storage::sql::translate(&$template, dialect),)* }
            }
        }
    };
}
use statements;

/// A job as one line of JSON. A job that is claimed ahead still counts as pending.
const JOB: &str = "{object}('id', id, 'user', user_id, 'kind', kind, \
    'status', CASE WHEN status = 2 AND ahead = 1 THEN 1 ELSE status END, \
    'progress', progress, 'step', step, 'detail', detail, 'arguments', arguments, \
    'result', result, 'error', error, 'attempts', attempts, 'max', max_attempts, \
    'priority', priority, 'run', run_at, 'created', created_at, 'updated', updated_at, \
    'started', started_at, 'completed', completed_at, 'timeout', timeout_ms, \
    'seq', seq, 'claim', claim){text}";

/// Whether the claim in row `i` is valid. `status + 0` keeps the planner from the index of leases, which it would
/// scan once for each row.
const HELD: &str = "id = xid AND claim = xclaim AND status + 0 = 2";

/// The trail before the next entry. A long trail loses its middle, so that an entry costs the same however many came
/// before it. Gaps in the numbers show what was dropped.
const TRAIL: &str = "CASE WHEN octet_length(trail) < 8000 THEN trail ELSE \
    substr(trail, 1, 2000 + instr(substr(trail, 2001), '\n')) || \
    substr(trail, length(trail) - 3999 + instr(substr(trail, length(trail) - 3999), '\n')) END";

/// Translates a template to a dialect.
pub(crate) fn translate(template: &str, dialect: Dialect) -> String {
    let postgres = dialect == Dialect::Postgres;
    let word = |sqlite: &'static str, pg: &'static str| if postgres { pg } else { sqlite };
    let mut sql = template.replace("{job}", JOB).replace("{held}", HELD);
    sql = sql.replace("{trail}", TRAIL);
    if postgres {
        sql = sql.replace("instr(", "strpos(");
    }
    sql = sql.replace("{object}", word("json_object", "json_build_object"));
    sql = sql.replace("{text}", word("", "::text"));
    sql = sql.replace("{uuid}", word("", "::uuid"));
    sql = sql.replace("{int}", word("", "::int"));
    sql = sql.replace("{big}", word("", "::bigint"));
    sql = sql.replace("{rank}", word("(-y.priority)", "(-(y.priority::bigint))"));
    sql = sql.replace("{place}", word("", ", y.priority, y.run_at, y.id"));
    sql = sql.replace("{owner}", "coalesce(user_id, '')");
    sql = sql.replace("{skip}", word("", "FOR UPDATE SKIP LOCKED"));
    // The address of a row, for the statement that has locked it.
    sql = sql.replace("{row}", word("id", "ctid"));
    sql = sql.replace("{quote}", word("json_quote", "to_json"));
    // In SQLite, triggers count each row. In PostgreSQL, this setting turns the triggers off, as the migration
    // explains.
    let counted = "(SELECT set_config('jobs.counted', 'on', true)) = 'on'";
    sql = sql.replace("{counted}", word("true", counted));
    sql = expand(&sql, "{adding:", |change| counting(change, ADDED, postgres));
    sql = expand(&sql, "{ending:", |change| counting(change, ENDED, postgres));
    // A query, so that the whole statement sees one time. `date_part` avoids the arbitrary-precision numbers of
    // `extract`.
    sql = sql.replace(
        "{now}",
        word(
            "(SELECT CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER))",
            "(SELECT (date_part('epoch', statement_timestamp()) * 1000)::bigint)",
        ),
    );
    // SQLite has no statistics and may choose another index. PostgreSQL is told by its session settings.
    sql = expand(&sql, "{by:", |index| match postgres {
        true => String::new(),
        false => format!("INDEXED BY {index}"),
    });
    // Changes that are not folded into the counts yet. SQLite's counts are always current.
    sql = expand(&sql, "{unfolded:", |query| match postgres {
        true => format!("UNION ALL {query}"),
        false => String::new(),
    });
    // Joins each row with the ids that the query finds for it.
    sql = expand(&sql, "{each:", |query| match postgres {
        true => format!("CROSS JOIN LATERAL ({query}) AS x"),
        false => format!("JOIN jobs AS x ON x.id IN ({query})"),
    });
    sql = expand(&sql, "{in_ids:", |query| match postgres {
        // With IN, the planner scans the table.
        true => format!("= ANY(ARRAY({query}))"),
        false => format!("IN ({query})"),
    });
    sql = expand(&sql, "{rows:", |columns| rows("{in}", columns, postgres));
    sql = expand(&sql, "{lines:", |columns| match postgres {
        true => lines(columns),
        false => rows("{in}", columns, postgres),
    });
    sql = expand(&sql, "{rows_of:", |given| {
        let (name, columns) = given.split_once(':').unwrap_or((given, ""));
        rows(&format!("({{arg_json:{name}}})"), columns, postgres)
    });
    let arguments = sql.contains("{arg");
    sql = expand(&sql, "{arg_json:", |name| match postgres {
        true => format!("SELECT doc -> '{name}' FROM input"),
        false => format!("SELECT doc -> '$.{name}' FROM input"),
    });
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

/// For inserted rows: the columns that the counts and the response need, and the changes of the counts.
const ADDED: (&str, &str) = (
    "id, user_id, kind, created_at, run_at",
    "SELECT coalesce(user_id, ''), kind, 1, count(*) FROM changed GROUP BY 1, 2",
);

/// The same for rows that finish or are retried.
const ENDED: (&str, &str) = (
    "id, user_id, kind, status",
    "SELECT coalesce(user_id, ''), kind, c.status, sum(c.change) FROM changed \
     CROSS JOIN LATERAL (VALUES (1, -1), (changed.status, 1)) AS c(status, change) \
     WHERE changed.status > 2 GROUP BY 1, 2, 3",
);

/// Makes a change with `RETURNING` write its count changes itself, because no trigger does. It returns its lines in
/// one row, because many small rows are slow.
fn counting(change: &str, (columns, counts): (&str, &str), postgres: bool) -> String {
    match change.split_once(" RETURNING ") {
        Some((change, given)) if postgres => format!(
            "WITH changed AS ({change} RETURNING {columns}), counted AS (\
             INSERT INTO job_count_changes (user_id, kind, status, change) {counts}) \
             SELECT string_agg({given}, '\n') FROM changed HAVING count(*) > 0"
        ),
        _ => change.to_owned(),
    }
}

/// The rows of a document, or of a part of it, as a table `i`. `columns` are names with PostgreSQL's types.
fn rows(document: &str, columns: &str, postgres: bool) -> String {
    if postgres {
        // The planner cannot see the value of this limit, so it expects few rows and uses an index even if it
        // believes that the table is small.
        return format!(
            "(SELECT * FROM json_to_recordset({document}::json) AS r({columns}) LIMIT (SELECT 1000000)) AS i"
        );
    }
    let columns = columns.split(',').filter_map(|column| {
        let name = column.split_whitespace().next()?;
        Some(format!("value ->> '$.{name}' AS {name}"))
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    // The limit makes SQLite read each value once per row instead of once per use. Values of `jsonb_each` are not
    // parsed again.
    format!("(SELECT {columns} FROM jsonb_each({document}) LIMIT -1) AS i")
}

/// As [`rows`], of a document of lines (see `storage::completion`): an empty column is null.
fn lines(columns: &str) -> String {
    let columns = columns.split(',').enumerate();
    let columns = columns.filter_map(|(place, column)| {
        let (name, kind) = column.trim().split_once(' ')?;
        let text = format!("split_part(line, chr(31), {})", place + 1);
        Some(format!("nullif({text}, '')::{kind} AS {name}"))
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let table = "unnest(string_to_array({in}, chr(30))) AS lines(line)";
    format!("(SELECT {columns} FROM {table} LIMIT (SELECT 1000000)) AS i")
}

/// Replaces every `{start…}` by what `with` returns for its inside, which may contain braces.
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
