//! Assembles the Job API: database, inserter, queue, and the listener for other processes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::Config;
use crate::engine::TaskExecutionService;
use crate::engine::remote::Claimed;
use crate::executor::{ExecutorRegistry, Source};
use crate::http::Problem;
use crate::http::router::Route;
use crate::jobs::api::auth::{self, TokenConfig, TokenVerifier};
use crate::jobs::database::DatabaseError;
use crate::jobs::dummy::{self, Dummy};
use crate::jobs::inserter::Inserter;
use crate::jobs::job::NewJob;
use crate::jobs::meter::JobMeter;
use crate::jobs::notify::Notifier;
use crate::jobs::notify::watch::Watch;
use crate::jobs::storage::Storage;
use crate::jobs::system::JobSystem;
use crate::jobs::worker::maintenance::Maintenance;
use crate::jobs::worker::{Queue, QueueOptions, Wakeup};
use crate::jobs::{api, database};
use crate::metrics::Exposition;
use crate::semaphore::Semaphore;
use crate::store::NewTask;
use crate::threads::join_until;

/// The running Job API; `None` if `STORAGE=memory`.
pub(crate) struct Jobs(Option<Arc<JobSystem>>);

/// Registers the built-in job types that `registry` does not have yet.
pub(crate) fn register(registry: &mut ExecutorRegistry) {
    if registry.get("dummy").is_none() {
        registry
            .register("dummy", Dummy::new)
            .source(Source::Demo)
            .description("Waits for a random time between two delays")
            .example(serde_json::json!({ "delayMinSec": 1, "delayMaxSec": 5 }))
            .check(dummy::check)
            .only_jobs();
    }
}

impl Jobs {
    /// Opens the database and starts the threads of the Job API.
    ///
    /// # Errors
    ///
    /// A key is missing, the database cannot be used, or a thread cannot be started.
    pub(crate) fn start(config: &Config, execution: &TaskExecutionService) -> io::Result<Jobs> {
        let Some(url) = &config.database_url else {
            return Ok(Jobs(None));
        };
        let address = database::url::parse(url).map_err(io::Error::other)?;
        let verifier = TokenVerifier::new(&tokens(config)?).map_err(io::Error::other)?;
        let options = QueueOptions {
            workers: config.worker_threads,
            rescue_within: config.job_lease,
            retention: config.job_retention,
        };
        let database = database::open(&address, options.statement_within()).map_err(|error| {
            io::Error::other(format!(
                "DATABASE_URL: the database cannot be used: {error}"
            ))
        })?;
        let is_shared = database.is_shared();
        let storage = Arc::new(Storage::new(database, config.max_log_bytes));
        let pool = execution.pool().clone();
        let meter = Arc::new(JobMeter::new(config.metrics, &pool.registry()));
        let notifier = match is_shared {
            true => Some(Arc::new(Notifier::start(storage.clone())?)),
            false => None,
        };
        let (queue, wakeup) = match config.enable_queue {
            false => (None, wakeup_of_others(notifier.clone())),
            true => {
                let others = wakeup_of_others(notifier.clone());
                let (storage, pool, meter) = (storage.clone(), pool.clone(), meter.clone());
                let queue = Arc::new(Queue::start(storage, pool, options, meter, others)?);
                (Some(queue.clone()), wakeup_of(queue))
            }
        };
        let rescuer = queue.as_ref().map(|queue| queue.rescuer());
        let maintenance = Maintenance::start(storage.clone(), rescuer)?;
        let stopping = Arc::<AtomicBool>::default();
        let listener = match (&queue, &notifier) {
            (Some(queue), Some(notifier)) => {
                let url = address.into_url();
                Some(notifier.listen(&url, queue.clone(), stopping.clone())?)
            }
            _ => None,
        };
        let inserter = Inserter::start(storage.clone(), meter.clone(), wakeup.clone())?;
        let workers = if queue.is_some() { "with" } else { "without" };
        log::info!("Job API initialized successfully, {workers} workers");
        let watch = Watch::start(storage.clone())?;
        Ok(Jobs(Some(Arc::new(JobSystem {
            watch,
            storage,
            inserter,
            verifier,
            meter,
            queue,
            pool,
            maintenance,
            notifier,
            wakeup,
            listener: Mutex::new(listener),
            stopping,
        }))))
    }

    /// The routes of the Job API. Without a database they answer that it is off, and how to turn it on.
    pub(crate) fn routes(&self, streams: &Semaphore) -> Vec<Route> {
        match &self.0 {
            Some(system) => api::routes(system, streams),
            None => super::routes_off(""),
        }
    }

    /// Writes the metrics, without a database query.
    pub(crate) fn metrics(&self) -> impl Fn(&mut Exposition) + Send + Sync + 'static {
        const PREFIX: &str = "task_system_jobs";
        let system = self.0.clone();
        move |out| {
            let Some(system) = &system else { return };
            system.meter.write(PREFIX, out);
            if let Some(queue) = &system.queue {
                queue.write(PREFIX, out);
            }
            let help = "1 while this process cannot use its database, else 0.";
            let is_away = u8::from(system.is_away());
            out.gauge(&format!("{PREFIX}_database_away"), help, is_away);
        }
    }

    /// Returns the problem for the health check while the database cannot be used.
    pub(crate) fn ailment(&self) -> impl Fn() -> Option<Problem> + Send + Sync + 'static {
        let system = self.0.clone();
        move || {
            let system = system.as_ref()?;
            system.is_away().then(|| {
                let message = "The server is up, and the Job API cannot use its database now";
                Problem::new(503, "database_unavailable", message).with("Retry-After", "2")
            })
        }
    }

    /// Adds a job that its worker already runs, and leases it to that worker.
    pub(crate) fn adopter(
        &self,
    ) -> impl Fn(&str, NewTask) -> Result<Claimed, Problem> + Send + Sync + 'static {
        let system = self.0.clone();
        move |user, new| match system.as_ref().map(|system| &system.queue) {
            None => Err(super::no_job_of_a_user("")),
            Some(None) => Err(super::no_job_of_a_user("")),
            Some(Some(queue)) => {
                let name = new.name.clone();
                let adopted = queue.adopt(&NewJob::adopted(user, new), &name)?;
                adopted.ok_or_else(|| DatabaseError::Stopping.into())
            }
        }
    }

    /// The pool may run other types now.
    pub(crate) fn note_types(&self) {
        if let Some(system) = &self.0 {
            system.meter.add_types(&system.pool.registry());
        }
    }

    /// Stops claiming jobs and tells running executors to stop.
    pub(crate) fn close(&self) {
        if let Some(system) = &self.0 {
            system.stopping.store(true, SeqCst);
            system.watch.close();
            if let Some(queue) = &system.queue {
                queue.close();
            }
        }
    }

    /// Call this after the pool has stopped. Writes what is left; may be called again.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.close();
        if let Some(system) = &self.0 {
            system.inserter.stop(deadline);
            system.watch.stop(deadline);
            system.maintenance.stop(deadline);
            if let Some(queue) = &system.queue {
                queue.stop(system.pool.has_ended(), deadline);
            }
            if let Some(notifier) = &system.notifier {
                notifier.stop(deadline);
            }
            if let Some(thread) = system.listener.lock().take() {
                join_until(thread, deadline);
            }
        }
    }
}

fn wakeup_of_others(notifier: Option<Arc<Notifier>>) -> Wakeup {
    Arc::new(move || {
        if let Some(notifier) = &notifier {
            notifier.added();
        }
    })
}

fn wakeup_of(queue: Arc<Queue>) -> Wakeup {
    Arc::new(move || queue.added())
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

/// Finds mistakes in the Job API's keys and the database's address, without a connection to the database.
pub(crate) fn mistakes(config: &Config) -> Vec<String> {
    let Some(url) = &config.database_url else {
        return Vec::new();
    };
    let address = database::url::parse(url).and_then(|address| database::check(&address));
    let keys = match config.jwt_secret.is_some() || config.jwt_public_key_file.is_some() {
        true => tokens(config).map_err(|error| error.to_string()),
        // The configuration already reports the missing key.
        false => return Vec::from_iter(address.err()),
    };
    let keys = keys.and_then(|tokens| TokenVerifier::new(&tokens).map(drop));
    [address, keys]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

/// Issues a token for a test of the Job API with curl, signed with `JWT_SECRET`.
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
/// What is missing, in words for the terminal.
pub fn token(
    config: &Config,
    subject: &str,
    role: Option<&str>,
    lifetime: Duration,
) -> Result<String, String> {
    let tokens = tokens(config).map_err(|error| error.to_string())?;
    auth::issue(&tokens, subject, role, lifetime)
}

/// Brings the tables of the Job API up to date, as a server does when it starts. Returns the names of the migrations
/// that it has applied, in order.
///
/// ```
/// # let folder = std::env::temp_dir().join(format!("async-task-system-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let url = format!("sqlite://{}", folder.join("jobs.db").display());
/// let secret = "at least thirty-two bytes, and secret";
/// let pairs = [("STORAGE", "sqlite"), ("DATABASE_URL", &*url), ("JWT_SECRET", secret)];
/// let config = async_task_system::Config::from_pairs(pairs)?;
/// assert!(async_task_system::migration_sql(&config)?.contains("CREATE TABLE"));
/// assert_ne!(async_task_system::migrate(&config)?.len(), 0);
/// assert_eq!(async_task_system::migrate(&config)?.len(), 0);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// No database is configured, or it cannot be used. The message is for the terminal.
pub fn migrate(config: &Config) -> Result<Vec<String>, String> {
    database::migrate(&address(config)?).map_err(|error| error.to_string())
}

/// Returns the SQL that [`migrate`] would run, to read it or to run it by hand. It is empty if the schema is current.
/// This only reads the database.
///
/// ```no_run
/// let config = async_task_system::Config::from_env()?;
/// print!("{}", async_task_system::migration_sql(&config)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// As [`migrate`].
pub fn migration_sql(config: &Config) -> Result<String, String> {
    database::migration_sql(&address(config)?).map_err(|error| error.to_string())
}

fn address(config: &Config) -> Result<database::url::Address, String> {
    let url = config.database_url.as_deref();
    database::url::parse(url.ok_or("there is no database; set STORAGE=sqlite or STORAGE=postgres")?)
}
