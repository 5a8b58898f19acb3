//! How a statement and its document reach a connection.

use diesel::backend::Backend;
use diesel::connection::LoadConnection;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{HasSqlType, Text};
use diesel::{QueryResult, RunQueryDsl};

use super::{DatabaseError, Rows, Session};

impl<C> Session for C
where
    C: LoadConnection,
    for<'s> Statement<'s>: diesel::query_dsl::LoadQuery<'s, C, String>,
{
    fn run(&mut self, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        Ok(Statement { sql, document }.load(self)?)
    }
}

/// A statement that diesel prepares once for each connection, unlike its own `sql_query`.
struct Statement<'a> {
    sql: &'a str,
    document: &'a str,
}

impl QueryId for Statement<'_> {
    type QueryId = ();
    // The SQL itself is the key.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement<'_> {
    type SqlType = Text;
}

impl<C> RunQueryDsl<C> for Statement<'_> {}

impl<DB> QueryFragment<DB> for Statement<'_>
where
    DB: Backend + HasSqlType<Text>,
    str: ToSql<Text, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        let (before, after) = self.sql.split_once("{in}").unwrap_or((self.sql, ""));
        out.push_sql(before);
        if self.sql.len() > before.len() {
            out.push_bind_param::<Text, str>(self.document)?;
        }
        out.push_sql(after);
        Ok(())
    }
}
