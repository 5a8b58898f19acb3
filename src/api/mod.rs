//! The Task System's routes: a handler parses, calls one method, answers.

mod assets;
mod call;
mod demo;
mod executors;
mod health;
mod hold;
mod live;
mod logs;
mod metrics;
mod openapi;
mod origin;
mod page;
mod recordings;
mod scene_of;
mod scenes;
mod share;
mod status;
mod tasks;
mod view;
mod watch;
mod work;

use std::sync::Arc;
use std::time::Instant;

pub(crate) use self::call::Api;
use self::call::Call;
pub(crate) use self::demo::register;
pub(crate) use self::scenes::load as scenes;
use crate::actor::{self, Actor};
use crate::http::router::{Answer, Handler, Route, Router};
use crate::http::{Method, Problem, Request, Response};

type Scoped = fn(&Call<'_>) -> Answer;
type Unscoped = fn(&Api, &Request<'_>, &str) -> Answer;

/// Every route of the Task System.
pub(crate) fn routes(api: &Arc<Api>) -> Vec<Route> {
    let on = |handler: Scoped| -> Handler {
        let api = api.clone();
        Box::new(move |request, parameter| api.call(handler, request, parameter))
    };
    let get = |pattern, handler: Scoped| Route::get(pattern, on(handler));
    let post = |pattern, handler: Scoped| Route::post(pattern, on(handler));
    let to_anyone = |pattern, handler: Unscoped| {
        let api = api.clone();
        Route::get(
            pattern,
            Box::new(move |request, parameter| handler(&api, request, parameter)),
        )
    };
    let from_worker = |pattern, handler: Unscoped| {
        let api = api.clone();
        Route::post(
            pattern,
            Box::new(move |request, parameter| handler(&api, request, parameter)),
        )
    };
    vec![
        get("/", page::home).page(),
        to_anyone("/docs", openapi::page).page(),
        to_anyone("/assets/*", assets::serve),
        to_anyone("/worker.sh", page::worker),
        to_anyone("/metrics", metrics::show),
        to_anyone("/api/v1/openapi.json", openapi::document),
        to_anyone("/s/:token", share::show).with_query(),
        get("/api/v1/health", health::health),
        to_anyone("/api/v1/executors", executors::list),
        get("/api/v1/tasks", tasks::list)
            .and_post(on(tasks::create))
            .with_query(),
        get("/api/v1/tasks/stats", tasks::stats),
        get("/api/v1/tasks/events", live::session_events).with_query(),
        get("/api/v1/tasks/cleanup/status", tasks::cleanup_status),
        post("/api/v1/tasks/cleanup/run", tasks::cleanup_run),
        Route::delete(SESSION, on(tasks::remove_session)),
        get("/api/v1/tasks/:id", tasks::show),
        get("/api/v1/tasks/:id/status", status::status).with_query(),
        get("/api/v1/tasks/:id/history", tasks::history),
        get("/api/v1/tasks/:id/log", logs::log).with_query(),
        get("/api/v1/tasks/:id/events", live::task_events).with_query(),
        get("/api/v1/tasks/:id/watch", watch::watch).with_query(),
        get("/api/v1/tasks/:id/recording", recordings::recording),
        get(
            "/api/v1/tasks/:id/recording.cast",
            recordings::recording_cast,
        ),
        post("/api/v1/tasks/:id/share", share::share),
        post("/api/v1/tasks/:id/start", tasks::start),
        post("/api/v1/tasks/:id/cancel", tasks::cancel),
        post("/api/v1/tasks/:id/retry", tasks::retry),
        post("/api/v1/tasks/:id/advance", hold::advance),
        post("/api/v1/tasks/:id/pause", hold::pause),
        post("/api/v1/tasks/:id/resume", hold::resume),
        post("/api/v1/tasks/:id/fail", hold::fail),
        from_worker("/api/v1/work/claim", work::claim),
        from_worker("/api/v1/work/adopt", work::adopt),
        from_worker("/api/v1/work/:lease/progress", work::progress),
        from_worker("/api/v1/work/:lease/complete", work::complete),
        from_worker("/api/v1/work/:lease/fail", work::fail),
        from_worker("/api/v1/work/:lease/release", work::release),
        post("/api/v1/demo/tasks/sample", demo::sample).with_query(),
        post("/api/v1/demo/tasks/file-processing", demo::file_processing).with_query(),
        post("/api/v1/demo/tasks/api-call", demo::api_call).with_query(),
        post("/api/v1/demo/tasks/batch", demo::batch).with_query(),
        post("/api/v1/demo/tasks/workflow", demo::workflow).with_query(),
        post("/api/v1/demo/tasks/replay", recordings::replay).with_query(),
        get("/api/v1/demo/scene", scene_of::write).with_query(),
        get("/api/v1/demo/scenes", scenes::list).and_post(on(scenes::create_scene)),
        get(SCENE, scenes::show).and_delete(on(scenes::remove)),
        post("/api/v1/demo/scenes/:name/start", scenes::start),
        post("/api/v1/demo/scenes/:name/stop", scenes::stop),
    ]
}

const SCENE: &str = "/api/v1/demo/scenes/:name";
const SESSION: &str = "/api/v1/session";
const TASK_ROUTES: [&str; 3] = ["/api/v1/tasks", "/api/v1/demo", SESSION];
const SESSION_HEADER: &str = "X-App-Session";
const HEALTH: &str = "/api/v1/health";
const HOME: &str = "/";

impl Api {
    /// Answers a request: first the rules for browsers, then the routes, then the common headers.
    pub(crate) fn serve(&self, router: &Router, request: &Request<'_>) -> Response {
        let measured = self.http_meter.get().map(|meter| (meter, Instant::now()));
        let (route, answer) = match origin::check(&self.config, request) {
            Ok(()) => router.answer(request),
            Err(problem) => (usize::MAX, Err(problem)),
        };
        let response = answer.unwrap_or_else(|problem| page::refusal(request, problem));
        if let Some((meter, begun)) = measured {
            meter.count(route, request.method, response.status, begun.elapsed());
        }
        self.finish(request, response)
    }

    /// Answers a request that the transport refuses.
    pub(crate) fn refuse(&self, request: &Request<'_>, problem: Problem) -> Response {
        self.finish(request, page::refusal(request, problem))
    }

    /// Adds the common headers.
    fn finish(&self, request: &Request<'_>, mut response: Response) -> Response {
        let path = request.path();
        let is_scoped = || is_under(path, &TASK_ROUTES) || path == HEALTH || path == HOME;
        // Responses that no handler made (405, OPTIONS, 503) have the session header too.
        if response.header(SESSION_HEADER).is_none()
            && is_scoped()
            && let Ok(session) = self.session_of(request)
        {
            response = response.with(SESSION_HEADER, session.as_str().to_owned());
        }
        origin::allow(&self.config, request, response)
    }

    fn call(&self, handler: Scoped, request: &Request<'_>, parameter: &str) -> Answer {
        if !self.config.enable_session_isolation && is_under(request.path(), &TASK_ROUTES) {
            let message = "The Task System is off: start the server with \
                           ENABLE_SESSION_ISOLATION=true";
            return Err(Problem::new(503, "task_system_disabled", message));
        }
        let call = Call {
            api: self,
            request,
            session: self.session_of(request)?,
            parameter,
        };
        let answer = match self.actor(request) {
            Some(actor) => actor::during(actor, || handler(&call)),
            None => handler(&call),
        };
        let key = call.session.as_str().to_owned();
        match answer {
            Ok(response) => Ok(response.with(SESSION_HEADER, key)),
            Err(problem) => Err(problem.with(SESSION_HEADER, key)),
        }
    }

    /// The client, for the audit log.
    fn actor(&self, request: &Request<'_>) -> Option<Actor> {
        let changes = matches!(request.method, Method::Post | Method::Delete);
        (changes && self.config.audit_log.is_some()).then(|| Actor {
            client: self.client_address(request),
            request_id: request.id.into(),
        })
    }
}

fn is_under(path: &str, roots: &[&str]) -> bool {
    roots.iter().any(|root| {
        path.strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}
