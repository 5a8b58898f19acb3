//! The lines of an attempt that are not written yet.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::jobs::storage::Claim;
use crate::jobs::storage::logs::{LogOwner, LogRow, UnwrittenLog, log_rows};
use crate::plain_text::log_lines;
use crate::store::{Budget, LogMark, NewLine, TaskLog};
use crate::task::LogStream;

/// The bytes of unwritten lines of all attempts of this process. Beyond it, attempts lose their oldest ones.
pub(super) const MAX_UNWRITTEN: usize = 32 << 20;

/// The most bytes of an attempt that are written at once.
const MAX_BYTES: usize = 64 * 1024;

/// The unwritten lines of an attempt.
pub(super) struct RunLog {
    claim: Claim,
    attempt: u32,
    epoch: Instant,
    lines: Mutex<Unwritten>,
    budget: Arc<Budget>,
    /// The most bytes of this attempt.
    max: usize,
}

#[derive(Default)]
struct Unwritten {
    lines: TaskLog,
    /// The number of the line that was written last.
    written: u64,
    /// The completer knows that there are lines.
    is_announced: bool,
}

impl RunLog {
    pub(super) fn new(claim: Claim, attempt: u32, budget: Arc<Budget>, max: usize) -> RunLog {
        RunLog {
            claim,
            attempt,
            epoch: Instant::now(),
            lines: Mutex::default(),
            budget,
            max,
        }
    }

    /// Adds lines. Returns their number, and whether the completer must be notified.
    pub(super) fn add(&self, stream: LogStream, text: &str) -> (u64, bool) {
        let mut count = 0;
        let mut unwritten = self.lines.lock();
        for text in log_lines(text) {
            let line = NewLine {
                at: self.epoch.elapsed().as_millis() as u64,
                attempt: self.attempt,
                stream,
                text: &text,
            };
            unwritten.lines.push(&line, self.max, &self.budget);
            count += 1;
        }
        let is_first = !std::mem::replace(&mut unwritten.is_announced, true);
        (count, is_first)
    }

    fn owner(&self) -> LogOwner {
        LogOwner {
            claim: self.claim,
            attempt: self.attempt,
            epoch: self.epoch,
        }
    }

    /// Returns the next rows to write, and the place behind them.
    pub(super) fn next_rows(&self) -> (Vec<LogRow>, LogMark) {
        let mut unwritten = self.lines.lock();
        let log = &unwritten.lines;
        let mut lines = log.since(log.start());
        let mut bytes = 0;
        let some = lines.by_ref().take_while(|line| {
            let is_room = bytes < MAX_BYTES;
            bytes += line.text.len();
            is_room
        });
        let rows = log_rows(self.owner(), some, unwritten.written, self.max);
        let count: u64 = rows.iter().map(LogRow::lines).sum();
        let mark = log.mark_after(log.dropped() + count);
        unwritten.is_announced = count > 0;
        (rows, mark)
    }

    /// The lines up to `mark` are written. Returns whether there are more; if not, the next line notifies the completer.
    pub(super) fn mark_written(&self, mark: LogMark) -> bool {
        let mut unwritten = self.lines.lock();
        unwritten.written = mark.n();
        unwritten.lines.release(mark, &self.budget);
        unwritten.is_announced = unwritten.lines.is_behind(mark);
        unwritten.is_announced
    }

    /// Takes all lines of an attempt that has finished. They stay charged until they are dropped.
    pub(super) fn take(&self) -> Option<Arc<UnwrittenLog>> {
        let mut unwritten = self.lines.lock();
        let log = std::mem::take(&mut unwritten.lines);
        let rows = log_rows(
            self.owner(),
            log.since(log.start()),
            unwritten.written,
            self.max,
        );
        let log = UnwrittenLog {
            rows,
            charged: log.room(),
            budget: self.budget.clone(),
        };
        (!log.rows.is_empty()).then(|| Arc::new(log))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.lock().lines.is_empty()
    }
}

impl Drop for RunLog {
    fn drop(&mut self) {
        self.budget.refund(self.lines.get_mut().lines.room());
    }
}
