//! A task's trail in few bytes: entries are appended to one buffer and never rewritten.
//!
//! An entry is a tag (kind, and which texts follow), the percent, the milliseconds since the
//! entry before, and the texts with their lengths; numbers are LEB128 varints. `seq` is the
//! entry's place and the attempt is one more for each `retried`, so neither is stored, and
//! neither can have a gap. A percent without text costs about five bytes instead of fifty.

use crate::store::varint;
use crate::task::{EventKind, HistoryEvent, Millis};

const KIND: u8 = 0b0011_1111;
const STEP: u8 = 0b0100_0000;
const MESSAGE: u8 = 0b1000_0000;

/// A kind that did not fit into its bits would be read back as another one.
const _: () = {
    let mut place = 0;
    while place < EventKind::ALL.len() {
        assert!(place <= KIND as usize);
        assert!(EventKind::ALL[place] as usize == place);
        place += 1;
    }
};

/// The most bytes an entry takes besides its texts, for gaps of up to a century.
pub(crate) const ENTRY: usize = 2 + 6;

/// Past this many entries in one attempt, step changes within a percent are not added.
pub(crate) const MAX_ENTRIES: u32 = 1_000;

/// An append-only trail.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    bytes: Vec<u8>,
    in_attempt: u32,
    /// Where it begins cannot be told from its end.
    newest_len: u32,
    first_at: Millis,
    end: Mark,
}

/// A place between two entries, to read on from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    offset: usize,
    seq: u32,
    attempt: u32,
    at: Millis,
}

impl Mark {
    /// The number of the entry ahead of this place; 0 at the start.
    pub(crate) fn seq(self) -> u32 {
        self.seq
    }
}

impl History {
    /// An empty trail with room for a few entries; `bytes` is exact for a task never started.
    pub(crate) fn with_capacity(bytes: usize) -> History {
        History {
            bytes: Vec::with_capacity(bytes),
            ..History::default()
        }
    }

    /// How many bytes they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether this attempt still has room for step changes within a percent.
    pub(crate) fn has_room(&self) -> bool {
        self.in_attempt < MAX_ENTRIES
    }

    /// What the texts of an entry would cost.
    pub(crate) fn text_cost(step: &str, message: &str) -> usize {
        [step, message]
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(|text| varint::len(text.len() as u64) + text.len())
            .sum()
    }

    /// Appends an entry; empty texts are left out.
    pub(crate) fn push(
        &mut self,
        kind: EventKind,
        at: Millis,
        progress: u8,
        step: &str,
        message: &str,
    ) {
        if self.bytes.is_empty() {
            self.first_at = at;
            self.end = Mark {
                attempt: 1,
                at,
                ..Mark::default()
            };
        }
        // A clock set back does not turn history round.
        let at = at.max(self.end.at);
        let begin = self.bytes.len();
        let flag = |text: &str, bit| if text.is_empty() { 0 } else { bit };
        self.bytes
            .push(kind as u8 | flag(step, STEP) | flag(message, MESSAGE));
        self.bytes.push(progress);
        varint::push(&mut self.bytes, at - self.end.at);
        for text in [step, message].into_iter().filter(|text| !text.is_empty()) {
            varint::push(&mut self.bytes, text.len() as u64);
            self.bytes.extend_from_slice(text.as_bytes());
        }
        self.in_attempt += 1;
        if kind == EventKind::Retried {
            self.in_attempt = 1;
            self.end.attempt += 1;
        }
        self.newest_len = (self.bytes.len() - begin) as u32;
        self.end.offset = self.bytes.len();
        self.end.seq += 1;
        self.end.at = at;
    }

    /// The place behind the newest entry.
    pub(crate) fn end(&self) -> Mark {
        self.end
    }

    /// The newest entry.
    pub(crate) fn newest(&self) -> Option<HistoryEvent<'_>> {
        let begin = Mark {
            offset: self.end.offset - self.newest_len as usize,
            ..self.end
        };
        let event = self.since(begin).next()?;
        // Read alone, it would count on from the end.
        Some(HistoryEvent {
            seq: self.end.seq,
            at: self.end.at,
            attempt: self.end.attempt,
            ..event
        })
    }

    /// Gives back the spare capacity of a trail that will rest for a while.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// The place ahead of the first entry.
    pub(crate) fn start(&self) -> Mark {
        Mark {
            attempt: 1,
            at: self.first_at,
            ..Mark::default()
        }
    }

    /// The entries, oldest first.
    pub(crate) fn iter(&self) -> Events<'_> {
        self.since(self.start())
    }

    /// The entries behind `mark`, oldest first.
    pub(crate) fn since(&self, mark: Mark) -> Events<'_> {
        Events {
            rest: self.bytes.get(mark.offset..).unwrap_or_default(),
            end: self.bytes.len(),
            mark,
        }
    }
}

/// Reads a trail back.
pub(crate) struct Events<'a> {
    rest: &'a [u8],
    end: usize,
    mark: Mark,
}

impl<'a> Iterator for Events<'a> {
    type Item = HistoryEvent<'a>;

    fn next(&mut self) -> Option<HistoryEvent<'a>> {
        let (&[tag, progress], rest) = self.rest.split_first_chunk::<2>()?;
        self.rest = rest;
        let kind = EventKind::ALL[usize::from(tag & KIND)];
        self.mark.at += varint::take(&mut self.rest);
        let step = (tag & STEP != 0).then(|| self.take_text());
        let message = (tag & MESSAGE != 0).then(|| self.take_text());
        self.mark.seq += 1;
        if kind == EventKind::Retried {
            self.mark.attempt += 1;
        }
        Some(HistoryEvent {
            seq: self.mark.seq,
            at: self.mark.at,
            kind,
            attempt: self.mark.attempt,
            status: kind.status(),
            progress,
            step,
            message,
        })
    }
}

impl<'a> Events<'a> {
    /// The place behind the entry read last.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            offset: self.end - self.rest.len(),
            ..self.mark
        }
    }

    fn take_text(&mut self) -> &'a str {
        let len = varint::take(&mut self.rest) as usize;
        let (text, rest) = self.rest.split_at(len);
        self.rest = rest;
        // Only `push` writes the buffer, and it writes whole strings.
        std::str::from_utf8(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let long = "ü".repeat(300);
        let written = [
            (EventKind::Created, 1_700_000_000_000, 0, "", ""),
            (EventKind::Queued, 1_700_000_000_000, 0, "", ""),
            (EventKind::Started, 1_700_000_000_129, 0, "", ""),
            (EventKind::Progress, 1_700_000_400_000, 10, "Step 1", &long),
            (
                EventKind::Failed,
                1_700_000_400_001,
                10,
                "",
                "out of patience",
            ),
            (EventKind::Retried, 1_700_900_000_000, 0, "", ""),
            (EventKind::Completed, 1_700_900_000_000, 100, "", ""),
        ];
        let mut history = History::default();
        assert_eq!(history.newest(), None);
        for (kind, at, progress, step, message) in written {
            history.push(kind, at, progress, step, message);
            assert_eq!(history.newest(), history.iter().last());
        }
        let read: Vec<_> = history.iter().collect();
        assert_eq!(read.len(), written.len());
        for (i, (event, (kind, at, progress, step, message))) in
            read.iter().zip(written).enumerate()
        {
            assert_eq!(event.seq as usize, i + 1);
            assert_eq!((event.kind, event.at), (kind, at));
            assert_eq!((event.progress, event.status), (progress, kind.status()));
            assert_eq!(event.step.unwrap_or_default(), step);
            assert_eq!(event.message.unwrap_or_default(), message);
            assert_eq!(event.attempt, if i < 5 { 1 } else { 2 });
        }
    }

    #[test]
    fn every_kind_comes_back_with_and_without_texts() {
        for &kind in EventKind::ALL {
            for (step, message) in [("", ""), ("s", ""), ("", "m"), ("s", "m")] {
                let mut history = History::default();
                history.push(kind, 1, 5, step, message);
                let event = history.newest().expect("it was pushed");
                assert_eq!((event.kind, event.progress), (kind, 5));
                assert_eq!(event.step.unwrap_or_default(), step);
                assert_eq!(event.message.unwrap_or_default(), message);
            }
        }
    }

    #[test]
    fn a_clock_set_back_does_not_turn_history_round() {
        let mut history = History::default();
        history.push(EventKind::Created, 1_000, 0, "", "");
        history.push(EventKind::Queued, 400, 0, "", "");
        history.push(EventKind::Started, 1_200, 0, "", "");
        let times: Vec<_> = history.iter().map(|event| event.at).collect();
        assert_eq!(times, [1_000, 1_000, 1_200]);
    }

    #[test]
    fn a_mark_reads_on_from_where_it_was_taken() {
        let mut history = History::default();
        history.push(EventKind::Created, 10, 0, "", "");
        history.push(EventKind::Retried, 20, 0, "", "");
        let mark = history.end();
        assert_eq!(history.since(mark).count(), 0);
        history.push(EventKind::Started, 30, 0, "", "");
        let event = history.since(mark).next().expect("one more");
        assert_eq!((event.seq, event.attempt, event.at), (3, 2, 30));
    }

    #[test]
    fn an_entry_costs_what_it_says() {
        for (step, message, gap) in [("", "", 0), ("Step", "", 200), ("S", "why", 1 << 27)] {
            let mut history = History::default();
            history.push(EventKind::Created, 5, 0, "", "");
            let before = history.bytes();
            history.push(EventKind::Progress, 5 + gap, 7, step, message);
            let used = history.bytes() - before;
            let texts = History::text_cost(step, message);
            assert!(used <= texts + ENTRY && used >= texts + 3, "{used}");
        }
    }
}
