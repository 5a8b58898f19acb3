//! How attempts end, and the document that a statement reads of many ends.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::jobs::database::Dialect;
use crate::jobs::job::{JobStatus, Progress};
use crate::jobs::storage::Claim;

/// How an attempt ended: the row that is written of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finish {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    /// Milliseconds since its executor was called.
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
    /// Milliseconds to the next attempt, where there is to be one.
    #[serde(rename = "xagain", skip_serializing_if = "Option::is_none")]
    pub(crate) again: Option<u64>,
}

/// What separates the rows of a document of lines, and the columns of a row.
const ROW: char = '\u{1e}';
const COLUMN: char = '\u{1f}';

impl Finish {
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

/// The rows of several ends as one document.
pub(super) fn document_of<'a>(ends: impl Iterator<Item = &'a End>, dialect: Dialect) -> String {
    let rows: Vec<&str> = ends.map(|end| &*end.row).collect();
    match dialect {
        Dialect::Sqlite => format!("[{}]", rows.join(",")),
        Dialect::Postgres => rows.join(ROW.encode_utf8(&mut [0; 4])),
    }
}

/// An end that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) claim: Claim,
    finish: Box<Finish>,
    /// Made by the thread that ran the attempt: a single one writes all of them.
    row: String,
    /// For the meter, as is the time from begin to end.
    pub(crate) status: JobStatus,
    pub(crate) kind: String,
    pub(crate) ran: Duration,
}

impl End {
    pub(crate) fn new(
        finish: Finish,
        dialect: Dialect,
        kind: String,
        status: JobStatus,
        ran: Duration,
    ) -> End {
        End {
            claim: finish.claim,
            row: finish.row(dialect),
            finish: Box::new(finish),
            status,
            kind,
            ran,
        }
    }

    /// The same as a failure, with words that every database can hold in place of the executor's.
    pub(crate) fn without_texts(&self, why: &str, dialect: Dialect) -> End {
        let finish = Finish {
            latest: Progress {
                progress: self.finish.latest.progress,
                ..Progress::default()
            },
            status: JobStatus::Failed as u8,
            result: None,
            error: Some(json!({ "message": why }).to_string()),
            message: Some(json!(why).to_string()),
            ..*self.finish.clone()
        };
        let (kind, ran) = (self.kind.clone(), self.ran);
        End::new(finish, dialect, kind, JobStatus::Failed, ran)
    }
}
