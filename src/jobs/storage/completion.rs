//! Results of attempts, and the document in which a statement reads many of them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::jobs::database::Dialect;
use crate::jobs::job::{JobStatus, Progress};
use crate::jobs::storage::Claim;
use crate::jobs::storage::logs::UnwrittenLog;

/// The row that is written when an attempt finishes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CompletionRow {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    /// Milliseconds since the executor was called.
    #[serde(rename = "xage")]
    pub(crate) age: u64,
    #[serde(flatten)]
    pub(crate) latest: Progress,
    #[serde(rename = "xstatus")]
    pub(crate) status: u8,
    #[serde(rename = "xresult", skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<String>,
    /// JSON: an object with a message.
    #[serde(rename = "xerror", skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// JSON: the message alone.
    #[serde(rename = "xmessage", skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// Milliseconds to the next attempt; `None` if there is none.
    #[serde(rename = "xagain", skip_serializing_if = "Option::is_none")]
    pub(crate) again: Option<u64>,
}

/// What separates the rows of a document of lines, and the columns of a row.
const ROW: char = '\u{1e}';
const COLUMN: char = '\u{1f}';

impl CompletionRow {
    /// The row as the statement reads it. PostgreSQL takes half as long to split a line as to parse an object.
    fn row(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::Sqlite => serde_json::to_string(self).expect("numbers and texts are JSON"),
            Dialect::Postgres => self.line(),
        }
    }

    /// The columns in the order of the statement; an empty one is null.
    fn line(&self) -> String {
        let again = self.again.map(|millis| millis.to_string());
        let text = |text: &Option<String>| text.as_ref().map_or(String::new(), |t| separable(t));
        let Progress {
            progress,
            step,
            detail,
        } = &self.latest;
        let columns = [
            self.claim.id.to_string(),
            self.claim.token.to_string(),
            self.status.to_string(),
            progress.to_string(),
            self.age.to_string(),
            text(&self.result),
            text(&self.error),
            text(step),
            text(detail),
            text(&self.message),
            again.unwrap_or_default(),
        ];
        columns.join(COLUMN.encode_utf8(&mut [0; 4]))
    }
}

/// A text without what separates lines. JSON never holds these characters.
fn separable(text: &str) -> String {
    text.replace([ROW, COLUMN], "\u{fffd}")
}

/// The rows of several completions as one document.
pub(super) fn document_of<'a>(
    completions: impl Iterator<Item = &'a Completion>,
    dialect: Dialect,
) -> String {
    let rows: Vec<&str> = completions.map(|completion| &*completion.row).collect();
    match dialect {
        Dialect::Sqlite => format!("[{}]", rows.join(",")),
        Dialect::Postgres => rows.join(ROW.encode_utf8(&mut [0; 4])),
    }
}

/// The result of an attempt, ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct Completion {
    pub(crate) claim: Claim,
    columns: Box<CompletionRow>,
    /// The thread of the attempt encodes it, because a single thread writes all of them.
    row: String,
    /// The lines that are not written yet.
    pub(crate) log: Option<Arc<UnwrittenLog>>,
    /// For the metrics, like `kind` and `ran`.
    pub(crate) status: JobStatus,
    pub(crate) kind: String,
    pub(crate) ran: Duration,
}

impl Completion {
    pub(crate) fn new(
        columns: CompletionRow,
        dialect: Dialect,
        kind: String,
        status: JobStatus,
        ran: Duration,
    ) -> Completion {
        Completion {
            claim: columns.claim,
            row: columns.row(dialect),
            columns: Box::new(columns),
            log: None,
            status,
            kind,
            ran,
        }
    }

    /// Returns the same completion without the lines.
    pub(crate) fn without_log(&self) -> Completion {
        Completion {
            log: None,
            ..self.clone()
        }
    }

    /// Returns the same completion as a failure, with `why` instead of the executor's texts.
    pub(crate) fn without_texts(&self, why: &str, dialect: Dialect) -> Completion {
        let columns = CompletionRow {
            latest: Progress {
                progress: self.columns.latest.progress,
                ..Progress::default()
            },
            status: JobStatus::Failed as u8,
            result: None,
            error: Some(json!({ "message": why }).to_string()),
            message: Some(json!(why).to_string()),
            ..*self.columns.clone()
        };
        let (kind, ran) = (self.kind.clone(), self.ran);
        Completion::new(columns, dialect, kind, JobStatus::Failed, ran)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_text_cannot_end_its_column_or_its_row() {
        let id = Uuid::from_u128(7);
        let row = CompletionRow {
            claim: Claim { id, token: 3 },
            age: 12,
            latest: Progress {
                progress: 100,
                step: Some("a\u{1f}b\u{1e}c\\ \"d\"\n".to_owned()),
                detail: None,
            },
            status: JobStatus::Completed as u8,
            result: Some(r#"{"made":"x\u001f"}"#.to_owned()),
            error: None,
            message: None,
            again: None,
        };
        let (kind, ran) = ("sample".to_owned(), Duration::ZERO);
        let completion = Completion::new(row, Dialect::Postgres, kind, JobStatus::Completed, ran);
        let document = document_of([&completion, &completion].into_iter(), Dialect::Postgres);
        let rows: Vec<Vec<&str>> = document
            .split(ROW)
            .map(|row| row.split(COLUMN).collect())
            .collect();
        let step = "a\u{fffd}b\u{fffd}c\\ \"d\"\n";
        let result = r#"{"made":"x\u001f"}"#;
        let id = id.to_string();
        let want = [&*id, "3", "3", "100", "12", result, "", step, "", "", ""];
        assert_eq!(rows, [want, want]);
        let failed = completion.without_texts("why", Dialect::Postgres);
        let columns: Vec<&str> = failed.row.split(COLUMN).collect();
        assert_eq!(
            columns[5..],
            ["", r#"{"message":"why"}"#, "", "", "\"why\"", ""]
        );
    }
}
