//! The HTTP server: joins the route tables over a task system, and starts and stops it all.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::Api;
use crate::config::{Config, ConfigError};
use crate::engine::audit;
use crate::executor::ExecutorRegistry;
use crate::http::router::Router;
use crate::http::{Problem, Request, Response};
use crate::jobs::Jobs;
use crate::log_safe::LogSafe;
#[cfg(feature = "tiny-http")]
use crate::net::tiny::TinyTransport;
use crate::net::{RunningTransport, Service, Transport, TransportOptions};
use crate::player::Player;
use crate::system::{STOP_WITHIN, TaskSystem};
use crate::{api, demo, executors, jobs, system};

/// How long requests in hand may take at the stop.
const REQUESTS_IN_HAND: Duration = Duration::from_secs(2);

/// The HTTP server over a [`TaskSystem`].
///
/// ```
/// use async_task_system::{Config, ExecutorRegistry, Server};
///
/// let config = Config::from_pairs([("PORT", "0")])?;
/// let server = Server::start(config, ExecutorRegistry::new())?;
/// println!("curl http://{}/api/v1/health", server.local_addr());
/// server.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    system: TaskSystem,
    player: Arc<Player>,
    jobs: Jobs,
    transport: Box<dyn RunningTransport>,
}

impl Server {
    /// Everything that a start would find wrong with what the configuration names: the address, the
    /// audit log, the database's address and folder, the keys. A port in use is no mistake, and no
    /// database is connected to.
    ///
    /// ```
    /// # use async_task_system::{Config, Server};
    /// assert_eq!(Server::check(&Config::from_pairs([("PORT", "0")])?), Ok(()));
    /// # Ok::<(), async_task_system::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What is wrong or missing, for the person at the terminal.
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        let mut mistakes = match Server::check_settings(config) {
            Ok(()) => Vec::new(),
            Err(error) => error.into_mistakes(),
        };
        if number_mistake(config).is_none() {
            mistakes.extend(address_mistake(config));
        }
        ConfigError::unless_none(mistakes)
    }

    /// The part of it that no later start could find otherwise.
    pub(crate) fn check_settings(config: &Config) -> Result<(), ConfigError> {
        let mut mistakes = Vec::from_iter(number_mistake(config));
        if let Some(path) = &config.audit_log {
            mistakes.extend(audit::mistake(path));
        }
        if let Some(path) = &config.executors {
            mistakes.extend(executors::mistakes(path, &built_in_types()));
        }
        mistakes.extend(
            api::scenes(config.scenes.as_deref())
                .err()
                .into_iter()
                .flatten(),
        );
        mistakes.extend(jobs::mistakes(config));
        ConfigError::unless_none(mistakes)
    }

    /// Listens and starts the system.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, Server};
    /// let config = Config::from_pairs([("PORT", "0")])?;
    /// let server = Server::start(config, ExecutorRegistry::new())?;
    /// println!("http://{}", server.local_addr());
    /// server.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`TaskSystem::start`], and where the address cannot be listened on.
    pub fn start(config: Config, mut registry: ExecutorRegistry) -> io::Result<Server> {
        for warning in &config.warnings {
            log::warn!("{warning}");
        }
        // First of all: a process that cannot serve does no work either.
        let listeners = Transport::bind(&config.host, config.port).map_err(with_hint)?;
        api::register(&mut registry);
        jobs::register(&mut registry);
        warn_of_commands(&config, &listeners);
        let scenes = api::scenes(config.scenes.as_deref())
            .map_err(|mistakes| io::Error::other(mistakes.join("\n")))?;
        let system = TaskSystem::start_threads(&config, registry)?;
        let is_on = config.enable_session_isolation;
        let jobs = Jobs::start(&config, system.execution()).inspect_err(|_| system.stop())?;
        let options = TransportOptions {
            max_connections: config.max_connections,
            max_connections_per_ip: config.max_connections_per_ip,
            head_timeout: config.head_timeout,
            request_timeout: config.request_timeout,
            keep_alive_timeout: config.keep_alive_timeout,
            max_body_bytes: config.max_body_bytes,
        };
        let is_tiny_http = config.is_tiny_http;
        let player = Player::new(system.execution().clone());
        let api = Arc::new(Api::new(system.clone(), player.clone(), scenes, config));
        let mut routes = api::routes(&api);
        routes.extend(jobs.routes(api.streams()));
        let router = Router::new(routes);
        api.measure(&router);
        let service = Box::new(Routed {
            api: api.clone(),
            router,
        });
        let transport =
            start_transport(is_tiny_http, listeners, options, service).inspect_err(|_| {
                jobs.close();
                system.stop();
                jobs.stop(Instant::now() + STOP_WITHIN);
            })?;
        api.report(jobs.metrics());
        api.ask_of_health(jobs.ailment());
        api.adopt_jobs(jobs.adopter());
        api.report(transport.metrics());
        log::info!("Listening on http://{}", transport.local_addr());
        match is_on {
            true => system::say_initialized(),
            false => log::warn!(
                "The Task System is off (ENABLE_SESSION_ISOLATION=false): its routes answer 503"
            ),
        }
        Ok(Server {
            system,
            player,
            jobs,
            transport,
        })
    }

    /// Where it listens; with `PORT=0`, the port it was given.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, Server};
    /// let config = Config::from_pairs([("PORT", "0")])?;
    /// let server = Server::start(config, ExecutorRegistry::new())?;
    /// assert_ne!(server.local_addr().port(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn local_addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    /// The system behind it, for business code.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, Server};
    /// let config = Config::from_pairs([("PORT", "0")])?;
    /// let server = Server::start(config, ExecutorRegistry::new())?;
    /// let session = async_task_system::SessionKey::parse("me").expect("a valid key");
    /// assert_eq!(server.system().tasks().stats(&session).total, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn system(&self) -> &TaskSystem {
        &self.system
    }

    /// Opens the files that it writes anew: `AUDIT_LOG`, after somebody has moved it away.
    /// [`run`](crate::run) does this at SIGHUP.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, Server};
    /// let config = Config::from_pairs([("PORT", "0")])?;
    /// let server = Server::start(config, ExecutorRegistry::new())?;
    /// server.reopen_files();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reopen_files(&self) {
        self.system.reopen_files();
        self.jobs.note_types();
    }

    /// Stops accepting, lets the requests in hand finish, and stops the system; all within
    /// five seconds. Harmless when repeated.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, Server};
    /// let config = Config::from_pairs([("PORT", "0")])?;
    /// let server = Server::start(config, ExecutorRegistry::new())?;
    /// server.stop();
    /// server.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stop(&self) {
        let begun = Instant::now();
        // The tasks' end is what streams and long polls wait for.
        self.transport.stop_accepting();
        self.jobs.close();
        self.system.close();
        self.player.stop(begun + STOP_WITHIN);
        self.transport.stop(begun + REQUESTS_IN_HAND);
        self.system.stop_until(begun + STOP_WITHIN);
        self.jobs.stop(begun + STOP_WITHIN);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn start_transport(
    is_tiny_http: bool,
    listeners: Vec<TcpListener>,
    options: TransportOptions,
    service: Box<dyn Service>,
) -> io::Result<Box<dyn RunningTransport>> {
    #[cfg(feature = "tiny-http")]
    if is_tiny_http {
        let transport = TinyTransport::start(listeners, options, service)?;
        return Ok(Box::new(transport));
    }
    debug_assert!(!is_tiny_http, "the configuration refuses it in this build");
    Ok(Box::new(Transport::start(listeners, options, service)?))
}

/// The API behind its routes, as the transport calls it.
struct Routed {
    api: Arc<Api>,
    router: Router,
}

impl Service for Routed {
    fn answer(&self, request: &Request<'_>) -> Response {
        self.api.serve(&self.router, request)
    }

    fn refuse(&self, request: &Request<'_>, problem: Problem) -> Response {
        self.api.refuse(request, problem)
    }
}

/// Whoever reaches the server can start its commands.
fn warn_of_commands(config: &Config, listeners: &[TcpListener]) {
    let is_open = |listener: &TcpListener| {
        listener
            .local_addr()
            .is_ok_and(|address| !address.ip().is_loopback())
    };
    let has_own = config.executors.is_some() && config.enable_session_isolation;
    if has_own && config.executors_token.is_none() && listeners.iter().any(is_open) {
        log::warn!(
            "HOST={} can be reached from other machines: everybody there can start the commands of EXECUTORS. \
             Set EXECUTORS_TOKEN, or HOST=127.0.0.1",
            config.host
        );
    }
}

/// The types that every server has.
fn built_in_types() -> ExecutorRegistry {
    let mut registry = ExecutorRegistry::new();
    demo::register(&mut registry);
    jobs::register(&mut registry);
    registry
}

/// Why `HOST` is no address, where it is written like one: a name may be found later, a number not.
fn number_mistake(config: &Config) -> Option<String> {
    let host = &config.host;
    let is_number = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let error = match is_number {
        true => (&**host, config.port).to_socket_addrs().err()?,
        false => return None,
    };
    Some(format!("HOST={host} is not an address: {error}"))
}

/// Says what to do where another program has the port.
fn with_hint(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            io::Error::new(error.kind(), format!("{error}; set PORT to another"))
        }
        _ => error,
    }
}

/// Why no server can listen there. The port may be in use: by the server that this configuration is
/// to restart, for one.
fn address_mistake(config: &Config) -> Option<String> {
    let error = Transport::bind(&config.host, config.port).err()?;
    let is_mistake = error.kind() != io::ErrorKind::AddrInUse;
    is_mistake.then(|| LogSafe(&error.to_string()).to_string())
}
