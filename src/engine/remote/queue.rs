//! The attempts that wait for a worker, by type, and the claims that wait for an attempt.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::engine::run::Run;
use crate::engine::waiting::Waiting;
use crate::task::TaskId;

/// How often a waiting claim looks whether its client is still there. It looks before it takes a run in any case; this
/// only frees its connection, and a thousand of them must cost next to nothing.
const LOOK: Duration = Duration::from_secs(6);

#[derive(Default)]
pub(super) struct Queue {
    runs: HashMap<Box<str>, Waiting>,
    waiters: BTreeMap<u64, Waiter>,
    next_number: u64,
    is_closed: bool,
}

struct Waiter {
    types: Vec<String>,
    #[cfg_attr(not(feature = "jobs"), allow(dead_code))]
    limit: usize,
    notify: Sender<()>,
}

/// A claim's side of its wait.
pub(super) struct Wait {
    pub(super) number: u64,
    notified: Receiver<()>,
}

impl Queue {
    /// Adds a run. Returns what notifies the claim that has waited longest for its type; that claim waits no more.
    pub(super) fn add(&mut self, run: Box<Run>, kind: &str) -> Option<Sender<()>> {
        let number = self.number();
        let runs = self.runs.entry(kind.into()).or_default();
        runs.insert(number, run);
        self.notify(kind)
    }

    fn notify(&mut self, kind: &str) -> Option<Sender<()>> {
        let mut waiters = self.waiters.iter();
        let (&number, _) = waiters.find(|(_, waiter)| waiter.wants(kind))?;
        self.waiters.remove(&number).map(|waiter| waiter.notify)
    }

    /// Takes up to `limit` runs of these types, the oldest first.
    #[allow(clippy::vec_box, reason = "runs are handed on in their boxes")]
    pub(super) fn take(&mut self, types: &[String], limit: usize) -> Vec<Box<Run>> {
        let mut taken = Vec::new();
        while taken.len() < limit {
            let first = types
                .iter()
                .filter_map(|kind| Some((self.first(kind)?, kind)));
            let Some((_, kind)) = first.min() else {
                break;
            };
            taken.extend(self.runs.get_mut(&**kind).and_then(Waiting::pop_first));
        }
        taken
    }

    fn first(&self, kind: &str) -> Option<u64> {
        self.runs.get(kind)?.first()
    }

    /// Notes a claim that waits for a run. `None` after the close.
    pub(super) fn wait(&mut self, types: &[String], limit: usize) -> Option<Wait> {
        if self.is_closed {
            return None;
        }
        let (notify, notified) = bounded(1);
        let number = self.number();
        let types = types.to_vec();
        let waiter = Waiter {
            types,
            limit,
            notify,
        };
        self.waiters.insert(number, waiter);
        Some(Wait { number, notified })
    }

    /// A claim waits no more, and looks for a run itself.
    pub(super) fn forget(&mut self, number: u64) {
        self.waiters.remove(&number);
    }

    /// A claim waits no more. If it was notified, and leaves without the run, another claim must be.
    pub(super) fn leave(&mut self, number: u64) {
        if self.waiters.remove(&number).is_some() {
            return;
        }
        let kinds: Vec<_> = self
            .runs
            .iter()
            .filter(|(_, runs)| runs.len() > 0)
            .collect();
        let kinds: Vec<_> = kinds.into_iter().map(|(kind, _)| kind.clone()).collect();
        for kind in kinds {
            if let Some(notify) = self.notify(&kind) {
                let _ = notify.try_send(());
            }
        }
    }

    pub(super) fn remove(&mut self, id: (TaskId, u32)) -> Option<Box<Run>> {
        self.runs.values_mut().find_map(|runs| runs.remove(id))
    }

    #[cfg(feature = "jobs")]
    pub(super) fn demand(&self, kind: &str) -> usize {
        let waiters = self.waiters.values().filter(|waiter| waiter.wants(kind));
        waiters.map(|waiter| waiter.limit).sum()
    }

    pub(super) fn close(&mut self) {
        self.is_closed = true;
        // Dropping a waiter's sender ends its wait.
        self.waiters.clear();
    }

    pub(super) fn clear(&mut self) -> impl Iterator<Item = Box<Run>> {
        self.runs.values_mut().flat_map(Waiting::take)
    }

    pub(super) fn len(&self) -> usize {
        self.runs.values().map(Waiting::len).sum()
    }

    pub(super) fn waiters(&self) -> usize {
        self.waiters.len()
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

impl Waiter {
    fn wants(&self, kind: &str) -> bool {
        self.types.iter().any(|own| own == kind)
    }
}

impl Wait {
    /// Waits until it is notified or `deadline`. Returns false if the client has gone.
    pub(super) fn wait(&self, deadline: Instant, is_gone: &dyn Fn() -> bool) -> bool {
        loop {
            let look = deadline.min(Instant::now() + LOOK);
            match self.notified.recv_deadline(look) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {
                    if is_gone() {
                        return false;
                    }
                }
                _ => return !is_gone(),
            }
        }
    }
}
