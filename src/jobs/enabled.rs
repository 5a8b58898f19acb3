//! The Job API, put together: database, intake, queue, and what listens to other processes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::config::Config;
use crate::engine::TaskExecutionService;
use crate::engine::pool::Pool;
use crate::executor::ExecutorRegistry;
use crate::http::router::Route;
use crate::jobs::auth::{self, Gatekeeper, TokenConfig};
use crate::jobs::dummy::{self, Dummy};
use crate::jobs::intake::{Bells, Intake};
use crate::jobs::listen::Listener;
use crate::jobs::meter::JobMeter;
use crate::jobs::queue::{Queue, QueueOptions};
use crate::jobs::storage::Storage;
use crate::jobs::watch::Watch;
use crate::jobs::{database, routes};
use crate::metrics::Exposition;
use crate::permits::Permits;
use crate::threads::{self, join_until};

/// How long the listener waits before it looks whether it is to stop.
const LISTEN_LOOK: Duration = Duration::from_millis(250);

/// How long the listener waits before it connects again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// The running Job API; nothing where `STORAGE=memory`.
pub(crate) struct Jobs(Option<Arc<JobSystem>>);

/// What its routes work on.
pub(super) struct JobSystem {
    pub(super) storage: Arc<Storage>,
    pub(super) intake: Intake,
    pub(super) gatekeeper: Gatekeeper,
    pub(super) registry: ExecutorRegistry,
    pub(super) meter: Arc<JobMeter>,
    pub(super) watch: Watch,
    /// `None` where other processes run the jobs.
    queue: Option<Arc<Queue>>,
    pool: Pool,
    listener: Mutex<Option<JoinHandle<()>>>,
    /// What other processes are told when there is something to run; this one knows it without.
    added: Arc<str>,
    stopping: Arc<AtomicBool>,
}

/// Registers the types that every Job API has, where `registry` does not have them.
pub(crate) fn register(registry: &mut ExecutorRegistry) {
    if registry.get("dummy").is_none() {
        registry
            .register("dummy", Dummy::new)
            .check("dummy", dummy::check);
    }
}

impl Jobs {
    /// Opens the database and starts what works on it.
    ///
    /// # Errors
    ///
    /// The configuration lacks a key, the database cannot be had, or a thread cannot be started.
    pub(crate) fn start(config: &Config, execution: &TaskExecutionService) -> io::Result<Jobs> {
        let Some(url) = &config.database_url else {
            super::warn_where_no_job_runs(config);
            return Ok(Jobs(None));
        };
        let gatekeeper = Gatekeeper::new(&tokens(config)?).map_err(io::Error::other)?;
        let database = database::open(url).map_err(|error| {
            io::Error::other(format!(
                "DATABASE_URL: the database cannot be used: {error}"
            ))
        })?;
        let is_shared = database.is_shared();
        let storage = Arc::new(Storage::new(database));
        let pool = execution.pool().clone();
        let registry = pool.registry().clone();
        let meter = Arc::new(JobMeter::new(config.metrics, &registry));
        let queue = match config.enable_queue {
            false => None,
            true => {
                let options = QueueOptions {
                    workers: config.worker_threads,
                    rescue_within: config.job_lease,
                    retention: config.job_retention,
                };
                let queue = Queue::start(storage.clone(), pool.clone(), options, meter.clone())?;
                Some(Arc::new(queue))
            }
        };
        let added: Arc<str> = format!("added by {}", Uuid::new_v4()).into();
        let bells = bells(&storage, queue.clone(), is_shared.then(|| added.clone()));
        let intake = Intake::start(storage.clone(), meter.clone(), bells)?;
        let stopping = Arc::<AtomicBool>::default();
        let listener = match &queue {
            Some(queue) if is_shared => {
                Some(listen(url, queue.clone(), stopping.clone(), added.clone())?)
            }
            _ => None,
        };
        let workers = if queue.is_some() { "with" } else { "without" };
        log::info!("Job API initialized successfully, {workers} workers");
        let watch = Watch::start(storage.clone())?;
        Ok(Jobs(Some(Arc::new(JobSystem {
            watch,
            storage,
            intake,
            gatekeeper,
            registry,
            meter,
            queue,
            pool,
            listener: Mutex::new(listener),
            added,
            stopping,
        }))))
    }

    /// Its routes; without a database, ones that say how to get one.
    pub(crate) fn routes(&self, streams: &Permits) -> Vec<Route> {
        match &self.0 {
            Some(system) => routes::routes(system, streams),
            None => super::routes_off(""),
        }
    }

    /// Writes its numbers; asks no database.
    pub(crate) fn metrics(&self) -> impl Fn(&mut Exposition) + Send + Sync + 'static {
        const NOUN: &str = "task_system_jobs";
        let system = self.0.clone();
        move |out| {
            let Some(system) = &system else { return };
            system.meter.write(NOUN, out);
            if let Some(queue) = &system.queue {
                queue.write(NOUN, out);
            }
        }
    }

    /// Takes no more jobs up, and tells the running ones that it is over.
    pub(crate) fn close(&self) {
        if let Some(system) = &self.0 {
            system.stopping.store(true, SeqCst);
            system.watch.close();
            if let Some(queue) = &system.queue {
                queue.close();
            }
        }
    }

    /// After the pool's end: writes what is left to write. Harmless when repeated.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.close();
        if let Some(system) = &self.0 {
            system.intake.stop(deadline);
            system.watch.stop(deadline);
            if let Some(queue) = &system.queue {
                queue.stop(system.pool.has_ended(), deadline);
            }
            if let Some(thread) = system.listener.lock().take() {
                join_until(thread, deadline);
            }
        }
    }
}

impl JobSystem {
    /// Something may be due.
    pub(super) fn wake(&self) {
        if let Some(queue) = &self.queue {
            queue.wake();
        }
        self.tell(&self.added);
    }

    /// Calls a job off wherever it runs.
    pub(super) fn call_off(&self, id: Uuid) {
        if let Some(queue) = &self.queue {
            queue.cancel(id);
        }
        self.tell(&id.to_string());
    }

    fn tell(&self, message: &str) {
        if let Err(error) = self.storage.notify(message) {
            log::debug!("Other workers were not told: {error}");
        }
    }
}

/// Calls this process's queue, and with `news` those of others.
fn bells(storage: &Arc<Storage>, queue: Option<Arc<Queue>>, news: Option<Arc<str>>) -> Bells {
    let storage = storage.clone();
    Bells {
        near: Box::new(move || {
            if let Some(queue) = &queue {
                queue.wake();
            }
        }),
        far: Box::new(move || {
            if let Some(news) = &news
                && let Err(error) = storage.notify(news)
            {
                log::debug!("Other workers were not called: {error}");
            }
        }),
    }
}

/// Hears from other processes what was added, and what was cancelled.
fn listen(
    url: &str,
    queue: Arc<Queue>,
    stopping: Arc<AtomicBool>,
    own: Arc<str>,
) -> io::Result<JoinHandle<()>> {
    let url = url.to_owned();
    let body = move || {
        let mut listener = None;
        while !stopping.load(SeqCst) {
            let Some(open) = listener.take().or_else(|| Listener::open(&url)) else {
                std::thread::sleep(LISTEN_AGAIN);
                continue;
            };
            let Some(heard) = open.wait(LISTEN_LOOK) else {
                continue;
            };
            listener = Some(open);
            for message in heard.iter().filter(|message| ***message != *own) {
                match message.parse() {
                    Ok(id) => queue.cancel(id),
                    Err(_) => queue.wake(),
                }
            }
        }
    };
    threads::spawn("listener", body)
}

fn tokens(config: &Config) -> io::Result<TokenConfig> {
    let key = config.jwt_public_key_file.as_ref();
    let public_key = key.map(|path| {
        std::fs::read(path).map_err(|error| {
            let text = format!("JWT_PUBLIC_KEY_FILE={}: {error}", path.display());
            io::Error::new(error.kind(), text)
        })
    });
    Ok(TokenConfig {
        secret: config.jwt_secret.clone(),
        public_key: public_key.transpose()?,
        issuer: config.jwt_issuer.clone(),
        audience: config.jwt_audience.clone(),
    })
}

/// What a start would find wrong with the Job API's keys. The database is not asked.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    if config.database_url.is_some() {
        let tokens = tokens(config).map_err(|error| error.to_string())?;
        Gatekeeper::new(&tokens)?;
    }
    Ok(())
}

/// A token for a test of the Job API with curl, signed with `JWT_SECRET`.
///
/// ```
/// use std::time::Duration;
///
/// let pairs = [("STORAGE", "sqlite"), ("JWT_SECRET", "at least thirty-two bytes, and secret")];
/// let config = async_task_system::Config::from_pairs(pairs)?;
/// async_task_system::Server::check(&config)?;
/// let token = async_task_system::token(&config, "alice", None, Duration::from_secs(60))?;
/// assert_eq!(token.split('.').count(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// What is missing, for the person at the terminal.
pub fn token(
    config: &Config,
    subject: &str,
    role: Option<&str>,
    lifetime: Duration,
) -> Result<String, String> {
    let tokens = tokens(config).map_err(|error| error.to_string())?;
    auth::issue(&tokens, subject, role, lifetime)
}
