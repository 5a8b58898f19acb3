//! Logs of jobs, and the rows in which the database has their lines.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use serde_json::json;
use uuid::Uuid;

use crate::jobs::database::{Duty, Session};
use crate::jobs::storage::{Claim, Done, Storage, Written, ids, read};
use crate::store::Budget;
use crate::task::{LogLine, LogStream};

/// A row with more text than this ends with the line that made it so.
const ROW_BYTES: usize = 16 * 1024;

/// The most rows read at once.
const MAX_ROWS: usize = 500;

/// Some lines of a job, one behind the other.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LogRow {
    #[serde(rename = "xid")]
    id: Uuid,
    /// How many lines of this write are ahead of it, with those that were dropped.
    #[serde(rename = "xoff")]
    ahead: u64,
    #[serde(rename = "xlines")]
    lines: u32,
    /// When its first line came.
    #[serde(rename = "xage", serialize_with = "age")]
    at: Instant,
    #[serde(rename = "xattempt")]
    attempt: u32,
    /// Bytes of this write ahead of it.
    #[serde(rename = "xbegins")]
    begins: usize,
    /// In each line the milliseconds since `at`, the stream and the text.
    #[serde(rename = "xtext")]
    text: String,
}

impl LogRow {
    pub(crate) fn lines(&self) -> u64 {
        self.lines.into()
    }
}

/// The lines of an attempt that are written with its result. They are charged as long as they live.
pub(crate) struct UnwrittenLog {
    pub(crate) rows: Vec<LogRow>,
    pub(crate) charged: usize,
    pub(crate) budget: Arc<Budget>,
}

impl Drop for UnwrittenLog {
    fn drop(&mut self) {
        self.budget.refund(self.charged);
    }
}

impl std::fmt::Debug for UnwrittenLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of lines", self.charged)
    }
}

fn age<S: Serializer>(at: &Instant, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(at.elapsed().as_millis() as u64)
}

/// Whose lines they are.
#[derive(Clone, Copy)]
pub(crate) struct LogOwner {
    pub(crate) claim: Claim,
    pub(crate) attempt: u32,
    /// The times of the lines are milliseconds since then.
    pub(crate) epoch: Instant,
}

/// Puts lines into rows of at most `max` bytes, or a little more than [`ROW_BYTES`]. `written` is the number of the line
/// that was written last.
pub(crate) fn log_rows<'a>(
    owner: LogOwner,
    lines: impl Iterator<Item = LogLine<'a>>,
    written: u64,
    max: usize,
) -> Vec<LogRow> {
    let mut rows: Vec<LogRow> = Vec::new();
    let (mut first, mut begins) = (0, 0);
    for line in lines {
        if rows
            .last()
            .is_none_or(|row| row.text.len() >= ROW_BYTES.min(max / 8))
        {
            first = line.at;
            rows.push(LogRow {
                id: owner.claim.id,
                ahead: line.n - 1 - written,
                lines: 0,
                at: owner.epoch + Duration::from_millis(first),
                attempt: owner.attempt,
                begins,
                text: String::new(),
            });
        }
        if let Some(row) = rows.last_mut() {
            let before = row.text.len();
            let _ = writeln!(
                row.text,
                "{} {} {}",
                line.at - first,
                line.stream,
                line.text
            );
            begins += row.text.len() - before;
            row.lines += 1;
        }
    }
    rows
}

/// Reads the lines of a row: `N AT ATTEMPT`, then a line for each.
fn parse_row(row: &str) -> Option<Vec<LogLine<'static>>> {
    let (head, text) = row.split_once('\n')?;
    let mut words = head.split(' ');
    let mut next = || words.next()?.parse::<u64>().ok();
    let (n, at, attempt) = (next()?, next()?, next()? as u32);
    let line = |(place, line): (usize, &str)| {
        let mut words = line.splitn(3, ' ');
        let after: u64 = words.next()?.parse().ok()?;
        let stream = words.next()?;
        Some(LogLine {
            n: n + place as u64,
            at: at + after,
            attempt,
            stream: LogStream::ALL.into_iter().find(|s| s.as_str() == stream)?,
            text: words.next()?.to_owned().into(),
        })
    };
    text.lines().enumerate().map(line).collect()
}

/// Adds rows of jobs that this transaction has locked, and deletes what is beyond `max` bytes a job.
pub(super) fn insert(
    storage: &Storage,
    session: &mut dyn Session,
    rows: &[&LogRow],
    max: usize,
) -> Done<()> {
    if rows.is_empty() {
        return Ok(());
    }
    session.run(&storage.work.log, &serde_json::to_string(rows)?)?;
    let jobs: HashSet<Uuid> = rows.iter().map(|row| row.id).collect();
    let jobs: Vec<_> = jobs
        .iter()
        .map(|id| json!({ "xid": id, "xmost": max }))
        .collect();
    session.run(&storage.work.trim_log, &serde_json::to_string(&jobs)?)?;
    Ok(())
}

impl Storage {
    /// Adds the lines of running attempts.
    pub(crate) fn log(&self, logs: &[(Claim, Vec<LogRow>)]) -> Done<Written> {
        let claims: Vec<Claim> = logs.iter().map(|(claim, _)| *claim).collect();
        let document = serde_json::to_string(&claims)?;
        let mut free = Vec::new();
        self.database.transact(Duty::Complete, &mut |session| {
            free = session.run(&self.work.lock_free, &document)?;
            let free: HashSet<Uuid> = ids(&free)?.into_iter().collect();
            let rows = logs.iter().flat_map(|(_, rows)| rows);
            let rows: Vec<_> = rows.filter(|row| free.contains(&row.id)).collect();
            insert(self, session, &rows, self.max_log_bytes)
        })?;
        self.written(&free, claims.into_iter())
    }

    /// Returns the next lines behind number `after`; none at the end.
    pub(crate) fn log_after(
        &self,
        duty: Duty,
        id: Uuid,
        after: u64,
    ) -> Done<Vec<LogLine<'static>>> {
        let document = json!({ "id": id, "after": after, "limit": MAX_ROWS });
        let rows = self.read(duty, &self.requests.log, &document)?;
        let mut lines = Vec::new();
        for row in &rows {
            lines.extend(read(row, parse_row)?);
        }
        lines.retain(|line| line.n > after);
        Ok(lines)
    }

    /// Returns how many of the job's lines are no longer kept.
    pub(crate) fn log_dropped(&self, id: Uuid) -> Done<u64> {
        let rows = self.read(
            Duty::Request,
            &self.requests.log_dropped,
            &json!({ "id": id }),
        )?;
        rows.first()
            .map_or(Ok(0), |row| read(row, |words| words.parse().ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_from_their_rows() {
        let owner = LogOwner {
            claim: Claim {
                id: Uuid::from_u128(7),
                token: 3,
            },
            attempt: 2,
            epoch: Instant::now(),
        };
        let texts = ["", " two  words ", "ü", &"x".repeat(3_000), "last"];
        let lines = texts.iter().zip(13_u64..).map(|(text, n)| LogLine {
            n,
            at: 500 + n,
            attempt: 2,
            stream: LogStream::ALL[n as usize % 3],
            text: (*text).into(),
        });
        let lines: Vec<_> = lines.collect();
        let rows = log_rows(owner, lines.iter().cloned(), 10, 16_000);
        let shape: Vec<_> = rows.iter().map(|row| (row.ahead, row.lines)).collect();
        // Two lines were dropped. The fourth one fills its row.
        assert_eq!(shape, [(2, 4), (6, 1)]);
        assert_eq!(rows[1].begins, rows[0].text.len());
        let read: Vec<_> = rows
            .iter()
            .flat_map(|row| {
                let at = row.at.duration_since(owner.epoch).as_millis();
                let head = format!("{} {at} {}", 11 + row.ahead, row.attempt);
                parse_row(&format!("{head}\n{}", row.text)).expect("it is whole")
            })
            .collect();
        assert_eq!(read, lines);
    }
}
