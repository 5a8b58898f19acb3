//! Taking jobs in: requests that come at the same time share one commit.
//!
//! One that comes alone commits by itself, without a change of threads. The others queue for a
//! thread that takes what has come while the commit before was under way. Nobody waits for company,
//! and under load a commit carries as many jobs as there are clients.

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
use crate::jobs::storage::addition::{AddedJobs, InsertRequest, Outcome};
use crate::jobs::worker::Wakeup;
use crate::threads::{self, join_until};

/// The most jobs in one commit.
const MAX_BATCH: usize = 2_000;

/// A commit that fails after this time failed for want of a database.
const SLOW: Duration = Duration::from_secs(1);

/// How long a request waits for its answer. It may be added all the same.
const ANSWER_WITHIN: Duration = Duration::from_secs(9);

/// The most requests that wait for the database.
const MAX_WAITING: usize = 10_000;

type Inserted = Result<Outcome, DatabaseError>;

struct Request {
    wish: InsertRequest,
    reply: Sender<Inserted>,
}

/// The way in.
pub(super) struct Inserter {
    committer: Arc<Committer>,
    requests: Mutex<Option<Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What all who commit share.
struct Committer {
    storage: Arc<Storage>,
    meter: Arc<JobMeter>,
    bell: Wakeup,
    /// Somebody commits. A hint: two at once do no harm, only less well.
    busy: AtomicBool,
}

impl Inserter {
    /// The `bell` is rung after each commit.
    pub(super) fn start(
        storage: Arc<Storage>,
        meter: Arc<JobMeter>,
        bell: Wakeup,
    ) -> std::io::Result<Inserter> {
        let (requests, queue) = crossbeam_channel::bounded(MAX_WAITING);
        let committer = Arc::new(Committer {
            storage,
            meter,
            bell,
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

    /// Adds a request's jobs, all or none, and waits until that is durable.
    pub(super) fn add(&self, wish: InsertRequest) -> Inserted {
        let requests = self.requests.lock().clone();
        let requests = requests.ok_or(DatabaseError::Stopping)?;
        if requests.is_empty() && !self.committer.busy.swap(true, SeqCst) {
            let granted = self.committer.grant(&wish);
            self.committer.busy.store(false, SeqCst);
            return granted;
        }
        let (reply, answer) = crossbeam_channel::bounded(1);
        let request = Request { wish, reply };
        requests
            .try_send(request)
            .map_err(|_| DatabaseError::Overloaded)?;
        match answer.recv_timeout(ANSWER_WITHIN) {
            Ok(granted) => granted,
            Err(RecvTimeoutError::Disconnected) => Err(DatabaseError::Stopping),
            Err(RecvTimeoutError::Timeout) => {
                let text = "an addition waits for those before it";
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
    fn grant(&self, wish: &InsertRequest) -> Inserted {
        let outcome = self.storage.add(wish)?;
        if let Outcome::Added(jobs) = &outcome {
            self.tell([jobs]);
        }
        self.storage.sync()?;
        Ok(outcome)
    }

    /// `None` where one of several was answered before: nothing is added.
    fn grant_all(
        &self,
        wishes: &[&InsertRequest],
    ) -> Result<Option<Vec<AddedJobs>>, DatabaseError> {
        let added = self.storage.add_all(wishes)?;
        if let Some(added) = &added {
            self.tell(added);
            self.storage.sync()?;
        }
        Ok(added)
    }

    fn tell<'a>(&self, added: impl IntoIterator<Item = &'a AddedJobs>) {
        added.into_iter().for_each(|jobs| self.meter.added(jobs));
        (self.bell)();
    }

    fn serve(&self, queue: &Receiver<Request>) {
        let mut left = None;
        while let Some(first) = left.take().or_else(|| queue.recv().ok()) {
            self.busy.store(true, SeqCst);
            let batch;
            (batch, left) = gather(first, queue);
            self.commit(batch);
            self.busy.store(false, SeqCst);
        }
    }

    fn commit(&self, batch: Vec<Request>) {
        let wishes: Vec<&InsertRequest> = batch.iter().map(|request| &request.wish).collect();
        let begun = Instant::now();
        match self.grant_all(&wishes) {
            Ok(Some(added)) => {
                for (request, jobs) in batch.into_iter().zip(added) {
                    let _ = request.reply.send(Ok(Outcome::Added(jobs)));
                }
            }
            Ok(None) => self.commit_each(batch),
            // What the database refuses in one request is no reason to refuse the others; but where
            // it is away, or locked, nobody waits for it once for each.
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

    fn commit_each(&self, batch: Vec<Request>) {
        for request in batch {
            let _ = request.reply.send(self.grant(&request.wish));
        }
    }
}

/// `first` and what has come meanwhile, as much as a commit takes; and what is left for the next:
/// two requests with one idempotency key are never in the same.
fn gather(first: Request, queue: &Receiver<Request>) -> (Vec<Request>, Option<Request>) {
    let (mut batch, mut count, mut keys) = (Vec::new(), 0, HashSet::new());
    let mut next = Some(first);
    while let Some(request) = next.take() {
        let asked = request.wish.asked.as_ref();
        let key = asked.map(|asked| (asked.key.user.clone(), asked.key.key.clone()));
        if key.is_some_and(|key| !keys.insert(key)) {
            return (batch, Some(request));
        }
        count += request.wish.jobs.len();
        batch.push(request);
        if count < MAX_BATCH {
            next = queue.try_recv().ok();
        }
    }
    (batch, None)
}
