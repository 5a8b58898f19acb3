//! What the handlers share, and one call of a handler: its session, its task and its body.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;

use crate::config::Config;
use crate::engine::remote::Claimed;
use crate::executor;
use crate::http::fields::Fields;
use crate::http::meter::HttpMeter;
use crate::http::router::{Answer, LATEST, Router};
use crate::http::{Problem, Request};
use crate::idempotency::Idempotency;
use crate::metrics::Exposition;
use crate::player::{Player, Script};
use crate::semaphore::Semaphore;
use crate::store::{NewTask, Scenes, StoreError, TaskManager};
use crate::system::TaskSystem;
use crate::task::{SessionKey, TaskId};

/// Adds a job of this user that its worker already runs.
type JobAdopter = dyn Fn(&str, NewTask) -> Result<Claimed, Problem> + Send + Sync;

type Ailment = dyn Fn() -> Option<Problem> + Send + Sync;

/// Writes the numbers of one part.
type Source = dyn Fn(&mut Exposition) + Send + Sync;

/// What the handlers share.
pub(crate) struct Api {
    pub(super) system: TaskSystem,
    pub(super) tasks: TaskManager,
    pub(super) config: Config,
    pub(super) started: Instant,
    addresses: RandomState,
    repeats: Idempotency,
    pub(super) streams: Semaphore,
    pub(super) player: Arc<Player>,
    /// Those that all sessions have.
    pub(super) scenes: Scenes,
    /// Counts requests, where metrics are on.
    pub(super) http_meter: OnceLock<HttpMeter>,
    /// The other parts that have numbers.
    pub(super) sources: Mutex<Vec<Arc<Source>>>,
    /// Tells why the server is not healthy, if it is not.
    pub(super) ailment: OnceLock<Box<Ailment>>,
    pub(super) job_adopter: OnceLock<Box<JobAdopter>>,
}

/// One call of a session-scoped route.
pub(super) struct Call<'a> {
    pub(super) api: &'a Api,
    pub(super) request: &'a Request<'a>,
    pub(super) session: SessionKey,
    pub(super) parameter: &'a str,
}

impl Api {
    pub(crate) fn new(
        system: TaskSystem,
        player: Arc<Player>,
        scenes: Scenes,
        config: Config,
    ) -> Api {
        Api {
            player,
            scenes,
            streams: Semaphore::new(config.max_streams),
            repeats: Idempotency::new(system.tasks().clone()),
            tasks: system.tasks().clone(),
            system,
            config,
            started: Instant::now(),
            addresses: RandomState::new(),
            http_meter: OnceLock::new(),
            sources: Mutex::default(),
            ailment: OnceLock::new(),
            job_adopter: OnceLock::new(),
        }
    }

    /// Has `/health` show this problem, if there is one.
    pub(crate) fn ask_of_health(
        &self,
        ailment: impl Fn() -> Option<Problem> + Send + Sync + 'static,
    ) {
        let _ = self.ailment.set(Box::new(ailment));
    }

    /// Has `/work/adopt` add jobs in this way.
    pub(crate) fn adopt_jobs(
        &self,
        adopter: impl Fn(&str, NewTask) -> Result<Claimed, Problem> + Send + Sync + 'static,
    ) {
        let _ = self.job_adopter.set(Box::new(adopter));
    }

    /// Plays a script under this name.
    pub(super) fn play(
        &self,
        session: &SessionKey,
        name: &str,
        script: Script,
        first: Option<TaskId>,
    ) -> Result<(), Problem> {
        let played = self.player.play(session, name, Arc::new(script), first);
        played.map_err(|error| {
            log::error!("The player cannot be started: {error}");
            let message = "The server cannot start a thread now: try again later";
            Problem::new(500, "internal_error", message)
        })
    }

    /// The places for streams, of tasks and of jobs.
    pub(crate) fn streams(&self) -> &Semaphore {
        &self.streams
    }

    /// Starts to count the requests of these routes, if metrics are on.
    pub(crate) fn measure(&self, router: &Router) {
        if self.config.metrics {
            self.http_meter.get_or_init(|| HttpMeter::new(router));
        }
    }

    /// Adds the numbers of a part to what `/metrics` shows.
    pub(crate) fn report(&self, source: impl Fn(&mut Exposition) + Send + Sync + 'static) {
        self.sources.lock().push(Arc::new(source));
    }

    /// The session key: from the header, the query, the cookie, the address, or the default.
    pub(super) fn session_of(&self, request: &Request<'_>) -> Result<SessionKey, Problem> {
        if let Some(text) = named(request) {
            return SessionKey::parse(text).ok_or_else(invalid);
        }
        if self.config.auto_map_session_by_ip
            && let Some(address) = self.client_address(request)
        {
            let hash = self.addresses.hash_one(address);
            return SessionKey::parse(&format!("ip_{hash:016x}")).ok_or_else(invalid);
        }
        Ok(self.config.default_session.clone())
    }

    /// The address that the outermost trusted proxy saw. If `X-Forwarded-For` has fewer entries than
    /// `TRUSTED_PROXIES`, the request bypassed the proxies, and the connection's address counts.
    pub(super) fn client_address(&self, request: &Request<'_>) -> Option<IpAddr> {
        let proxies = self.config.trusted_proxies;
        if proxies == 0 {
            return request.address;
        }
        let forwarded = request.headers.all("X-Forwarded-For").join(",");
        forwarded
            .rsplit(',')
            .nth(proxies - 1)
            .and_then(|text| parse_address(text.trim()))
            .or(request.address)
    }
}

impl Call<'_> {
    pub(super) fn fields(&self) -> Result<Fields<'_>, Problem> {
        Fields::parse(self.request)
    }

    /// Refuses to create or start a task that a command runs, if that needs the operator's token and the request does
    /// not show it.
    pub(super) fn may_start(&self, kind: &str) -> Result<(), Problem> {
        let Some(token) = &self.api.config.executors_token else {
            return Ok(());
        };
        let registry = self.api.system.execution().registry();
        let is_command = registry
            .get(kind)
            .is_some_and(|one| one.source == executor::Source::Command);
        let shows_it = || {
            self.request
                .bearer()
                .is_some_and(|given| is_same(given, token))
        };
        if !is_command || shows_it() {
            return Ok(());
        }
        let message = "Tasks of this type need a token: Authorization: Bearer followed by the server's EXECUTORS_TOKEN";
        Err(Problem::new(401, "unauthorized", message).with("WWW-Authenticate", "Bearer"))
    }

    /// As [`may_start`](Self::may_start), for a task that there is.
    pub(super) fn may_start_task(&self, id: TaskId) -> Result<(), Problem> {
        let kind = self
            .api
            .tasks
            .inspect(&self.session, id, |task| task.kind.clone())?;
        self.may_start(&kind)
    }

    /// Refuses a body where the route takes none.
    pub(super) fn no_fields(&self) -> Result<(), Problem> {
        self.fields()?.finish()
    }

    /// Runs a creating handler, once for each idempotency key.
    pub(super) fn once(&self, create: impl FnOnce() -> Answer) -> Answer {
        let repeats = &self.api.repeats;
        repeats.once(&self.session, self.request, create)
    }

    /// The task id in the path, which may be `latest`. No task has an id that is not a UUID.
    pub(super) fn id(&self) -> Result<TaskId, Problem> {
        let text = self.parameter;
        if text == LATEST {
            let message = "This session has no task yet, so there is no latest one";
            let none = || Problem::new(404, "task_not_found", message);
            return self.api.tasks.newest(&self.session).ok_or_else(none);
        }
        text.parse().map_err(|_| StoreError::TaskNotFound.into())
    }
}

/// The key that the request itself names.
pub(super) fn named<'r>(request: &'r Request<'_>) -> Option<&'r str> {
    request
        .header("X-App-Session")
        .or_else(|| request.query_value("session"))
        .or_else(|| {
            let cookies = request.headers.all("Cookie");
            cookies
                .into_iter()
                .find_map(|header| cookie(header, "app_session"))
        })
}

fn invalid() -> Problem {
    let message = "A session key has 1 to 128 characters of A-Z a-z 0-9 . _ : -";
    Problem::new(400, "invalid_session_key", message)
}

/// Compares in a time that does not tell how much of it is right.
pub(super) fn is_same(given: &str, secret: &str) -> bool {
    let differences = given
        .bytes()
        .zip(secret.bytes())
        .fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == secret.len() && differences == 0
}

fn cookie<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.split(';').find_map(|pair| {
        let (n, value) = pair.trim().split_once('=')?;
        (n == name).then_some(value)
    })
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = bare
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        for (text, want) in [
            ("1.2.3.4", Some("1.2.3.4")),
            ("1.2.3.4:80", Some("1.2.3.4")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("unknown", None),
            ("", None),
        ] {
            let want = want.map(|w| w.parse().expect("an address"));
            assert_eq!(parse_address(text), want, "{text}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        assert_eq!(
            cookie("a=1; app_session=me; b=2", "app_session"),
            Some("me")
        );
        assert_eq!(cookie("xapp_session=me", "app_session"), None);
    }
}
