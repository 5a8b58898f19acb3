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
use crate::jobs::addition::Once;
use crate::jobs::database::DatabaseError;
use crate::jobs::job::{Job, NewJob};
use crate::jobs::meter::JobMeter;
use crate::jobs::receipts::{First, RepeatKey};
use crate::jobs::storage::Storage;

/// The most jobs in one commit.
const MAX_BATCH: usize = 2_000;

/// A commit that fails after this time failed for want of a database.
const SLOW: Duration = Duration::from_secs(1);

/// The most requests that wait for the database.
const MAX_WAITING: usize = 10_000;

type Added = Result<Vec<(Job, bool)>, DatabaseError>;

struct Request {
    jobs: Vec<NewJob>,
    reply: Sender<Added>,
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

    /// Adds jobs, all or none, and waits until that is durable. Each is new, or the one that
    /// has its unique key.
    pub(super) fn add(&self, jobs: Vec<NewJob>) -> Added {
        let busy = || DatabaseError::new("too many requests wait for the database");
        let stopped = || DatabaseError::new("the server is stopping");
        let requests = self.requests.lock().clone().ok_or_else(stopped)?;
        if requests.is_empty() && !self.committer.busy.swap(true, SeqCst) {
            let added = self.committer.insert(&jobs);
            self.committer.busy.store(false, SeqCst);
            (self.committer.bells.far)();
            return added;
        }
        let (reply, answer) = crossbeam_channel::bounded(1);
        let request = Request { jobs, reply };
        requests.try_send(request).map_err(|_| busy())?;
        answer.recv().map_err(|_| stopped())?
    }

    /// As [`add`](Self::add), once for each `key`, in a commit with the receipt that `answer` makes
    /// of it.
    pub(super) fn add_once(
        &self,
        jobs: &[NewJob],
        key: &RepeatKey,
        answer: &mut First<'_>,
    ) -> Result<Once, DatabaseError> {
        let committer = &self.committer;
        let once = committer.storage.insert_once(jobs, key, answer)?;
        if let Once::Added(added) = &once {
            committer.show(added)?;
            (committer.bells.far)();
        }
        Ok(once)
    }

    pub(super) fn stop(&self, deadline: Instant) {
        self.requests.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            join_until(thread, deadline);
        }
    }
}

impl Committer {
    fn insert(&self, jobs: &[NewJob]) -> Added {
        let added = self.storage.insert(jobs)?;
        self.show(&added)?;
        Ok(added)
    }

    /// Calls this process's workers, and waits until what was added is durable.
    fn show(&self, added: &[(Job, bool)]) -> Result<(), DatabaseError> {
        self.meter.added(added);
        (self.bells.near)();
        self.storage.settle()
    }

    fn serve(&self, queue: &Receiver<Request>) {
        while let Ok(first) = queue.recv() {
            self.busy.store(true, SeqCst);
            let mut count = first.jobs.len();
            let mut batch = vec![first];
            while count < MAX_BATCH
                && let Ok(next) = queue.try_recv()
            {
                count += next.jobs.len();
                batch.push(next);
            }
            commit(&|jobs| self.insert(jobs), batch);
            self.busy.store(false, SeqCst);
            (self.bells.far)();
        }
    }
}

fn commit(insert: &dyn Fn(&[NewJob]) -> Added, batch: Vec<Request>) {
    let all: Vec<NewJob> = batch.iter().flat_map(|r| r.jobs.iter().cloned()).collect();
    let begun = Instant::now();
    match insert(&all) {
        Ok(jobs) => {
            let mut jobs = jobs.into_iter();
            for request in batch {
                let own = jobs.by_ref().take(request.jobs.len()).collect();
                let _ = request.reply.send(Ok(own));
            }
        }
        Err(error) => {
            let again = !error.is_away() && begun.elapsed() < SLOW;
            refuse(insert, batch, error, again);
        }
    }
}

/// What the database refuses in one request is no reason to refuse the others, which are tried
/// `again`; but where it is away, or locked, nobody waits for it once for each.
fn refuse(
    insert: &dyn Fn(&[NewJob]) -> Added,
    batch: Vec<Request>,
    error: DatabaseError,
    again: bool,
) {
    let again = again && batch.len() > 1;
    for request in batch {
        let answer = match again {
            true => insert(&request.jobs),
            false => Err(error.clone()),
        };
        let _ = request.reply.send(answer);
    }
}
