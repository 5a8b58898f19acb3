//! What an executor says besides its progress, in few bytes: the newest lines of a task.
//!
//! A line is a tag (its stream, and whether an attempt follows), the milliseconds since the line before, and the
//! text with its length; numbers are LEB128 varints, so a line costs its text and about four bytes. Its number
//! follows from its place: what is kept has no gap, and what is dropped are the oldest lines.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::store::budget::Budget;
use crate::store::varint;
use crate::task::{LogLine, LogStream, Millis};

/// What a log costs besides its bytes, with the allocator's overhead.
pub(crate) const LOG_FIXED: usize = size_of::<TaskLog>() + 32;

/// The most bytes of a line ahead of its text.
const HEAD: usize = 1 + 5 + 10 + 10;

/// The first bytes that a log takes.
const FIRST_ROOM: usize = 256;

const STREAM: u8 = 0b011;
const ATTEMPT: u8 = 0b100;

/// The newest lines of a task.
#[derive(Default)]
pub(crate) struct TaskLog {
    bytes: VecDeque<u8>,
    /// How many bytes are charged: the capacity.
    room: usize,
    /// Ahead of the oldest line.
    start: LogMark,
    /// Behind the newest one.
    end: LogMark,
}

/// A place between two lines, to read on from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogMark {
    /// Bytes ahead of it, with those of dropped lines.
    offset: u64,
    /// Lines ahead of it.
    n: u64,
    attempt: u32,
    at: Millis,
}

impl LogMark {
    /// The number of the line ahead of this place; 0 at the start.
    pub(crate) fn n(self) -> u64 {
        self.n
    }
}

/// A line to be added.
pub(crate) struct NewLine<'a> {
    pub(crate) at: Millis,
    pub(crate) attempt: u32,
    pub(crate) stream: LogStream,
    pub(crate) text: &'a str,
}

impl TaskLog {
    /// What it is charged besides [`LOG_FIXED`].
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// How many lines are no longer kept.
    pub(crate) fn dropped(&self) -> u64 {
        self.start.n
    }

    /// Adds a line. The oldest ones leave where it would pass `max` bytes, or where `budget` has no more room.
    pub(crate) fn push(&mut self, line: &NewLine<'_>, max: usize, budget: &Budget) {
        if self.bytes.is_empty() {
            self.end.at = line.at;
            self.end.attempt = line.attempt;
            self.start = self.end;
        }
        // A clock set back does not turn the log round.
        let at = line.at.max(self.end.at);
        let text = &line.text[..line.text.floor_char_boundary(max.saturating_sub(HEAD))];
        let mut head = Vec::with_capacity(HEAD);
        head.push(line.stream as u8);
        if line.attempt != self.end.attempt {
            head[0] |= ATTEMPT;
            varint::push(&mut head, line.attempt.into());
        }
        varint::push(&mut head, at - self.end.at);
        varint::push(&mut head, text.len() as u64);
        if self.make_room(head.len() + text.len(), max, budget) {
            self.bytes.extend(&head);
            self.bytes.extend(text.as_bytes());
        }
        self.end = LogMark {
            offset: self.start.offset + self.bytes.len() as u64,
            n: self.end.n + 1,
            attempt: line.attempt,
            at,
        };
        if self.bytes.is_empty() {
            self.start = self.end;
        }
    }

    /// Whether `size` more bytes fit now; where they never can, all lines have left.
    fn make_room(&mut self, size: usize, max: usize, budget: &Budget) -> bool {
        self.drop_for(size, max);
        let needed = self.bytes.len() + size;
        if needed <= self.room {
            return true;
        }
        let ample = (self.room * 2).max(FIRST_ROOM).min(max).max(needed);
        if needed <= max && (self.grow(ample, budget) || self.grow(needed, budget)) {
            return true;
        }
        self.drop_for(size, self.room);
        size <= self.room.min(max)
    }

    /// Drops the oldest lines until `size` more bytes make `most` at most, or none is left.
    fn drop_for(&mut self, size: usize, most: usize) {
        while !self.bytes.is_empty() && self.bytes.len() + size > most {
            let (_, next) = self.line(self.start);
            self.bytes
                .drain(..(next.offset - self.start.offset) as usize);
            self.start = next;
        }
    }

    fn grow(&mut self, room: usize, budget: &Budget) -> bool {
        let charged = budget.charge(room - self.room);
        if charged {
            self.bytes.reserve_exact(room - self.bytes.len());
            self.room = room;
        }
        charged
    }

    /// Gives spare capacity back. The caller refunds it.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.room = self.bytes.len();
    }

    #[cfg(feature = "jobs")]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets the lines up to `mark`, and gives back the capacity of a log that is empty then.
    #[cfg(feature = "jobs")]
    pub(crate) fn release(&mut self, mark: LogMark, budget: &Budget) {
        if mark.n > self.start.n {
            self.bytes
                .drain(..(mark.offset - self.start.offset) as usize);
            self.start = mark;
        }
        if self.bytes.is_empty() {
            let before = self.room;
            self.shrink();
            budget.refund(before - self.room);
        }
    }

    /// The place ahead of the oldest line.
    pub(crate) fn start(&self) -> LogMark {
        self.start
    }

    /// The place behind the newest line.
    pub(crate) fn end(&self) -> LogMark {
        self.end
    }

    /// Whether there are lines behind `mark`, be they kept or not.
    pub(crate) fn is_behind(&self, mark: LogMark) -> bool {
        mark.n < self.end.n
    }

    /// The lines behind `mark`, or from the oldest one on where those have left.
    pub(crate) fn since(&self, mark: LogMark) -> Lines<'_> {
        let mark = if mark.n <= self.start.n {
            self.start
        } else {
            mark
        };
        Lines { log: self, mark }
    }

    /// The place behind line `n`, also where that is dropped; at most the end.
    pub(crate) fn mark_after(&self, n: u64) -> LogMark {
        if n < self.start.n {
            return LogMark { n, ..self.start };
        }
        let mut lines = self.since(self.start);
        while lines.mark.n < n && lines.next().is_some() {}
        lines.mark
    }

    /// The line behind `mark`, and the place behind that.
    fn line(&self, mark: LogMark) -> (LogLine<'_>, LogMark) {
        let begin = (mark.offset - self.start.offset) as usize;
        let mut head = [0; HEAD];
        let copied = head.iter_mut().zip(self.bytes.range(begin..));
        copied.for_each(|(to, from)| *to = *from);
        let mut rest = &head[1..];
        let attempt = match head[0] & ATTEMPT {
            0 => mark.attempt,
            _ => varint::take(&mut rest) as u32,
        };
        let at = mark.at + varint::take(&mut rest);
        let len = varint::take(&mut rest) as usize;
        let text = begin + HEAD - rest.len();
        let next = LogMark {
            offset: self.start.offset + (text + len) as u64,
            n: mark.n + 1,
            attempt,
            at,
        };
        let line = LogLine {
            n: next.n,
            at,
            attempt,
            stream: LogStream::ALL[usize::from(head[0] & STREAM)],
            text: self.text(text, len),
        };
        (line, next)
    }

    fn text(&self, begin: usize, len: usize) -> Cow<'_, str> {
        let (front, back) = self.bytes.as_slices();
        let end = begin + len;
        // Only `push` writes the buffer, and it writes whole strings.
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        if end <= front.len() {
            Cow::Borrowed(text(&front[begin..end]))
        } else if begin >= front.len() {
            Cow::Borrowed(text(&back[begin - front.len()..end - front.len()]))
        } else {
            let joined = [&front[begin..], &back[..end - front.len()]].concat();
            Cow::Owned(String::from_utf8(joined).unwrap_or_default())
        }
    }
}

/// Reads lines, oldest first.
pub(crate) struct Lines<'a> {
    log: &'a TaskLog,
    mark: LogMark,
}

impl Lines<'_> {
    /// The place behind the line read last.
    pub(crate) fn mark(&self) -> LogMark {
        self.mark
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = LogLine<'a>;

    fn next(&mut self) -> Option<LogLine<'a>> {
        (self.mark.n < self.log.end.n).then(|| {
            let (line, next) = self.log.line(self.mark);
            self.mark = next;
            line
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Kept = (u64, Millis, u32, LogStream, String);

    #[derive(Clone, Debug)]
    enum Op {
        Line {
            gap: u64,
            retry: bool,
            stream: usize,
            text: String,
        },
        /// Others take so much of the budget, or give it back.
        Others(usize),
        Shrink,
    }

    fn op() -> impl Strategy<Value = Op> {
        let text = prop_oneof![6 => "[a-zü]{0,40}", 1 => "[ü]{100,400}"];
        let line = (0..70_000_u64, prop::bool::weighted(0.1), 0..3_usize, text);
        prop_oneof![
            12 => line.prop_map(|(gap, retry, stream, text)| Op::Line { gap, retry, stream, text }),
            1 => (0..3_000_usize).prop_map(Op::Others),
            1 => Just(Op::Shrink),
        ]
    }

    fn kept(log: &TaskLog) -> Vec<Kept> {
        let lines = log.since(LogMark::default());
        lines
            .map(|line| {
                (
                    line.n,
                    line.at,
                    line.attempt,
                    line.stream,
                    line.text.into_owned(),
                )
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        #[test]
        fn it_keeps_the_newest_lines_within_its_bounds(ops in prop::collection::vec(op(), 1..200), max in 1..2_000_usize) {
            let budget = Budget::new(2_500);
            let (mut log, mut others) = (TaskLog::default(), 0);
            let (mut all, mut at, mut attempt) = (Vec::new(), 1_700_000_000_000, 1);
            let mut reader = log.start();
            for op in ops {
                match op {
                    Op::Line { gap, retry, stream, text } => {
                        at += gap;
                        attempt += u32::from(retry);
                        let stream = LogStream::ALL[stream];
                        let new = NewLine { at, attempt, stream, text: &text };
                        log.push(&new, max, &budget);
                        let cut = text.floor_char_boundary(max.saturating_sub(HEAD));
                        all.push((all.len() as u64 + 1, at, attempt, stream, text[..cut].to_owned()));
                    }
                    Op::Others(bytes) => {
                        budget.refund(others);
                        others = if budget.charge(bytes) { bytes } else { 0 };
                    }
                    Op::Shrink => {
                        let before = log.room();
                        log.shrink();
                        budget.refund(before - log.room());
                    }
                }
                // What is charged is its weight, and its memory.
                prop_assert_eq!(budget.used(), others + log.room());
                prop_assert!(log.bytes.capacity() == log.room() && log.bytes.len() <= max);
                // The newest lines, without a gap.
                let kept = kept(&log);
                prop_assert_eq!(log.dropped() as usize, all.len() - kept.len());
                prop_assert_eq!(&kept[..], &all[all.len() - kept.len()..]);
                // A reader goes on from its mark.
                let mut lines = log.since(reader);
                let first = lines.next();
                prop_assert!(first.is_none_or(|line| line.n == reader.n().max(log.dropped()) + 1));
                reader = lines.mark();
                let again = log.mark_after(reader.n());
                prop_assert_eq!((again.n(), log.since(again).mark()), (reader.n(), log.since(reader).mark()));
            }
        }
    }

    #[test]
    fn a_line_costs_its_text_and_a_few_bytes() {
        let (mut log, budget) = (TaskLog::default(), Budget::new(1 << 20));
        for i in 0..1_000 {
            let new = NewLine {
                at: 1_700_000_000_000 + i * 50,
                attempt: 1,
                stream: LogStream::Out,
                text: "a line of text",
            };
            log.push(&new, 65_536, &budget);
        }
        assert_eq!(log.bytes.len(), 1_000 * (3 + 14));
        log.shrink();
        assert_eq!((log.room(), log.dropped()), (17_000, 0));
    }

    #[test]
    fn a_clock_set_back_does_not_turn_the_log_round() {
        let (mut log, budget) = (TaskLog::default(), Budget::new(1 << 20));
        for at in [1_000, 400, 1_200] {
            log.push(
                &NewLine {
                    at,
                    attempt: 1,
                    stream: LogStream::Log,
                    text: "x",
                },
                1_000,
                &budget,
            );
        }
        let times: Vec<_> = log.since(log.start()).map(|line| line.at).collect();
        assert_eq!(times, [1_000, 1_000, 1_200]);
    }
}
