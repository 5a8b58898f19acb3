//! Group commit: requests that arrive at the same time share one commit.
//!
//! A request that arrives alone commits on its own thread. The others queue for the inserter thread, which takes all
//! requests that arrived during the previous commit. No request waits to be joined by others, and under load a commit
//! holds as many requests as there are clients.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;

use crate::jobs::database::DatabaseError;
use crate::jobs::meter::JobMeter;
use crate::jobs::storage::Storage;
use crate::jobs::storage::addition::{AddedJobs, InsertOutcome, InsertRequest};
use crate::jobs::worker::Wakeup;
use crate::threads::{self, join_until};

const MAX_BATCH: usize = 2_000;

/// If a commit fails after this time, the database is unavailable or locked.
const SLOW: Duration = Duration::from_secs(1);

/// How long a request waits for its response. Its jobs may be added all the same.
const RESPONSE_WITHIN: Duration = Duration::from_secs(9);

/// The most requests that wait for a commit.
const MAX_WAITING: usize = 10_000;

type InsertResult = Result<InsertOutcome, DatabaseError>;

struct PendingInsert {
    insert: InsertRequest,
    reply: Sender<InsertResult>,
}

pub(super) struct Inserter {
    committer: Arc<Committer>,
    requests: Mutex<Option<Sender<PendingInsert>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Shared by the inserter thread and the threads of requests.
struct Committer {
    storage: Arc<Storage>,
    meter: Arc<JobMeter>,
    wakeup: Wakeup,
    /// A commit is running. This is only a hint: two commits at once are correct, but slower.
    busy: AtomicBool,
}

impl Inserter {
    /// `wakeup` is called after each commit.
    pub(super) fn start(
        storage: Arc<Storage>,
        meter: Arc<JobMeter>,
        wakeup: Wakeup,
    ) -> std::io::Result<Inserter> {
        let (requests, queue) = crossbeam_channel::bounded(MAX_WAITING);
        let committer = Arc::new(Committer {
            storage,
            meter,
            wakeup,
            busy: AtomicBool::new(false),
        });
        let own = committer.clone();
        let thread = threads::spawn("inserter", move || own.serve(&queue))?;
        Ok(Inserter {
            committer,
            requests: Mutex::new(Some(requests)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Adds the jobs of one request, all or none, and waits until they are durable.
    pub(super) fn add(&self, request: InsertRequest) -> InsertResult {
        let requests = self.requests.lock().clone();
        let requests = requests.ok_or(DatabaseError::Stopping)?;
        if requests.is_empty() && !self.committer.busy.swap(true, SeqCst) {
            let inserted = self.committer.insert(&request);
            self.committer.busy.store(false, SeqCst);
            return inserted;
        }
        let (reply, response) = crossbeam_channel::bounded(1);
        let pending = PendingInsert {
            insert: request,
            reply,
        };
        requests
            .try_send(pending)
            .map_err(|_| DatabaseError::Overloaded)?;
        match response.recv_timeout(RESPONSE_WITHIN) {
            Ok(inserted) => inserted,
            Err(RecvTimeoutError::Disconnected) => Err(DatabaseError::Stopping),
            Err(RecvTimeoutError::Timeout) => {
                let text = "earlier inserts take too long";
                Err(DatabaseError::Busy(text.to_owned()))
            }
        }
    }

    pub(super) fn stop(&self, deadline: Instant) {
        self.requests.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            join_until(thread, deadline);
        }
    }
}

impl Committer {
    fn insert(&self, request: &InsertRequest) -> InsertResult {
        let outcome = self.storage.add(request)?;
        if let InsertOutcome::Added(jobs) = &outcome {
            self.announce([jobs]);
        }
        self.storage.sync()?;
        Ok(outcome)
    }

    /// Returns `None`, and adds nothing, if one of the requests has a stored response.
    fn insert_all(
        &self,
        requests: &[&InsertRequest],
    ) -> Result<Option<Vec<AddedJobs>>, DatabaseError> {
        let added = self.storage.add_all(requests)?;
        if let Some(added) = &added {
            self.announce(added);
            self.storage.sync()?;
        }
        Ok(added)
    }

    fn announce<'a>(&self, added: impl IntoIterator<Item = &'a AddedJobs>) {
        added.into_iter().for_each(|jobs| self.meter.added(jobs));
        (self.wakeup)();
    }

    fn serve(&self, queue: &Receiver<PendingInsert>) {
        let mut left = None;
        while let Some(first) = left.take().or_else(|| queue.recv().ok()) {
            self.busy.store(true, SeqCst);
            let batch;
            (batch, left) = gather(first, queue);
            self.commit(batch);
            self.busy.store(false, SeqCst);
        }
    }

    fn commit(&self, batch: Vec<PendingInsert>) {
        let requests: Vec<&InsertRequest> = batch.iter().map(|request| &request.insert).collect();
        let begun = Instant::now();
        match self.insert_all(&requests) {
            Ok(Some(added)) => {
                for (request, jobs) in batch.into_iter().zip(added) {
                    let _ = request.reply.send(Ok(InsertOutcome::Added(jobs)));
                }
            }
            Ok(None) => self.commit_each(batch),
            // If the database refuses the batch, retry the requests one by one, because only one may be at fault. If
            // the database is unavailable or locked, fail them all at once, so that they do not wait for it one after
            // the other.
            Err(error)
                if batch.len() == 1
                    || matches!(error, DatabaseError::Unavailable(_))
                    || begun.elapsed() >= SLOW =>
            {
                for request in batch {
                    let _ = request.reply.send(Err(error.clone()));
                }
            }
            Err(_) => self.commit_each(batch),
        }
    }

    fn commit_each(&self, batch: Vec<PendingInsert>) {
        for request in batch {
            let _ = request.reply.send(self.insert(&request.insert));
        }
    }
}

/// Returns `first` with the requests that have arrived meanwhile, up to one commit, and the request that must wait
/// for the next commit: two requests with the same idempotency key never share one.
fn gather(
    first: PendingInsert,
    queue: &Receiver<PendingInsert>,
) -> (Vec<PendingInsert>, Option<PendingInsert>) {
    let (mut batch, mut count, mut keys) = (Vec::new(), 0, HashSet::new());
    let mut next = Some(first);
    while let Some(request) = next.take() {
        let idempotency = request.insert.idempotency.as_ref();
        let key = idempotency.map(|it| (it.key.user.clone(), it.key.key.clone()));
        if key.is_some_and(|key| !keys.insert(key)) {
            return (batch, Some(request));
        }
        count += request.insert.jobs.len();
        batch.push(request);
        if count < MAX_BATCH {
            next = queue.try_recv().ok();
        }
    }
    (batch, None)
}
