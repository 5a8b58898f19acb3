//! Taking jobs in: requests that come at the same time share one commit.
//!
//! One that comes alone commits by itself, without a change of threads. The others queue for a
//! thread that takes what has come while the commit before was under way. Nobody waits for company,
//! and under load a commit carries as many jobs as there are clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::engine::join_until;
use crate::jobs::addition::{Outcome, Wish};
use crate::jobs::database::DatabaseError;
use crate::jobs::meter::JobMeter;
use crate::jobs::storage::Storage;

/// The most jobs in one commit.
const MAX_BATCH: usize = 2_000;

/// A commit that fails after this time failed for want of a database.
const SLOW: Duration = Duration::from_secs(1);

/// The most requests that wait for the database.
const MAX_WAITING: usize = 10_000;

type Granted = Result<Outcome, DatabaseError>;

struct Request {
    wish: Wish,
    reply: Sender<Granted>,
}

/// The way in.
pub(super) struct Intake {
    committer: Arc<Committer>,
    requests: Mutex<Option<Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Who is called when jobs were added.
pub(super) struct Bells {
    /// This process's workers; even before the disk has what was added.
    pub(super) near: Box<dyn Fn() + Send + Sync>,
    /// Those of other processes. May take its time.
    pub(super) far: Box<dyn Fn() + Send + Sync>,
}

/// What all who commit share.
struct Committer {
    storage: Arc<Storage>,
    meter: Arc<JobMeter>,
    bells: Bells,
    /// Somebody commits. A hint: two at once do no harm, only less well.
    busy: AtomicBool,
}

impl Intake {
    /// The `bells` are rung after each commit.
    pub(super) fn start(
        storage: Arc<Storage>,
        meter: Arc<JobMeter>,
        bells: Bells,
    ) -> std::io::Result<Intake> {
        let (requests, queue) = crossbeam_channel::bounded(MAX_WAITING);
        let committer = Arc::new(Committer {
            storage,
            meter,
            bells,
            busy: AtomicBool::new(false),
        });
        let own = committer.clone();
        let thread = std::thread::Builder::new()
            .name("intake".to_owned())
            .spawn(move || own.serve(&queue))?;
        Ok(Intake {
            committer,
            requests: Mutex::new(Some(requests)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Adds a request's jobs, all or none, and waits until that is durable.
    pub(super) fn add(&self, wish: Wish) -> Granted {
        let busy = || DatabaseError::new("too many requests wait for the database");
        let stopped = || DatabaseError::new("the server is stopping");
        let requests = self.requests.lock().clone().ok_or_else(stopped)?;
        if requests.is_empty() && !self.committer.busy.swap(true, SeqCst) {
            let granted = self.committer.grant(&wish);
            self.committer.busy.store(false, SeqCst);
            (self.committer.bells.far)();
            return granted;
        }
        let (reply, answer) = crossbeam_channel::bounded(1);
        let request = Request { wish, reply };
        requests.try_send(request).map_err(|_| busy())?;
        answer.recv().map_err(|_| stopped())?
    }

    pub(super) fn stop(&self, deadline: Instant) {
        self.requests.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            join_until(thread, deadline);
        }
    }
}

impl Committer {
    fn grant(&self, wish: &Wish) -> Granted {
        let lost = || DatabaseError::new("a request got no outcome");
        self.insert(&[wish])?.pop().ok_or_else(lost)
    }

    fn insert(&self, wishes: &[&Wish]) -> Result<Vec<Outcome>, DatabaseError> {
        let outcomes = self.storage.insert(wishes)?;
        for outcome in &outcomes {
            if let Outcome::Added(jobs) = outcome {
                self.meter.added(jobs);
            }
        }
        (self.bells.near)();
        self.storage.settle()?;
        Ok(outcomes)
    }

    fn serve(&self, queue: &Receiver<Request>) {
        while let Ok(first) = queue.recv() {
            self.busy.store(true, SeqCst);
            let mut count = first.wish.jobs.len();
            let mut batch = vec![first];
            while count < MAX_BATCH
                && let Ok(next) = queue.try_recv()
            {
                count += next.wish.jobs.len();
                batch.push(next);
            }
            self.commit(batch);
            self.busy.store(false, SeqCst);
            (self.bells.far)();
        }
    }

    fn commit(&self, batch: Vec<Request>) {
        let wishes: Vec<&Wish> = batch.iter().map(|request| &request.wish).collect();
        let begun = Instant::now();
        match self.insert(&wishes) {
            Ok(outcomes) => {
                for (request, outcome) in batch.into_iter().zip(outcomes) {
                    let _ = request.reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                let again = !error.is_away() && begun.elapsed() < SLOW;
                self.refuse(batch, error, again);
            }
        }
    }

    /// What the database refuses in one request is no reason to refuse the others, which are tried
    /// `again`; but where it is away, or locked, nobody waits for it once for each.
    fn refuse(&self, batch: Vec<Request>, error: DatabaseError, again: bool) {
        let again = again && batch.len() > 1;
        for request in batch {
            let answer = match again {
                true => self.grant(&request.wish),
                false => Err(error.clone()),
            };
            let _ = request.reply.send(answer);
        }
    }
}
