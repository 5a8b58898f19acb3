//! `/`: the page for browsers, and a short text for everything else.

use serde_json::json;

use super::assets;
use super::call::{Api, Call, named};
use crate::executor::Source;
use crate::http::response::reason_phrase;
use crate::http::router::Answer;
use crate::http::{Method, Problem, Request, Response};
use crate::store::NewTask;
use crate::terminal::{TEXT, TEXT_UTF8};

const WORKER: &str = include_str!("../page/worker.sh");
pub(super) const HTML: &str = "text/html";
const HTML_UTF8: &str = "text/html; charset=utf-8";
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn home(call: &Call<'_>) -> Answer {
    let response = match call.request.wanted(&[HTML], TEXT) == HTML {
        true => {
            let has_jobs = cfg!(feature = "jobs") && call.api.config.database_url.is_some();
            let head = assets::text("head.html");
            let head = head.replace("{{session}}", call.session.as_str());
            let head = head.replace("{{jobs}}", if has_jobs { "on" } else { "off" });
            guarded(
                200,
                assets::send_after(call.request, &head, HTML_UTF8, "index.html"),
            )
        }
        false if !call.api.config.enable_session_isolation => {
            Response::bytes(TEXT_UTF8, text_off(call))
        }
        false => Response::bytes(TEXT_UTF8, text(call)),
    };
    Ok(response.with("Vary", "Accept"))
}

/// The page of a share link, which fetches its task itself; `status` 404 where that has gone.
pub(super) fn shared(request: &Request<'_>, status: u16) -> Response {
    let page = assets::send(request, HTML_UTF8, "share.html");
    guarded(status, page).with("Vary", "Accept")
}

/// A worker in a shell, for this server.
pub(super) fn worker(api: &Api, request: &Request<'_>, _: &str) -> Answer {
    let script = WORKER.replace("{{base}}", &base(api, request));
    Ok(Response::bytes("text/x-shellscript; charset=utf-8", script))
}

/// The page that shows the API's document.
pub(super) fn docs(request: &Request<'_>) -> Response {
    let page = assets::send(request, HTML_UTF8, "docs.html");
    guarded(200, page)
}

/// A refusal: for whoever has opened an address in a browser a page that can be read, else the problem.
pub(super) fn refusal(request: &Request<'_>, problem: Problem) -> Response {
    let is_page = |path: &str| !path.starts_with("/api/") && !path.starts_with("/s/");
    let is_visit = matches!(request.method, Method::Get | Method::Head)
        && is_page(request.path())
        && request.wanted(&[HTML], TEXT) == HTML;
    let message = is_visit.then(|| escape(problem.message()));
    let mut response = problem.into_response(request.id);
    if let Some(message) = message {
        let page = assets::text("refusal.html");
        let page = page.replace("{{title}}", reason_phrase(response.status));
        let page = page.replace("{{message}}", &message);
        response = response.with_body_of(guarded(200, Response::bytes(HTML_UTF8, page)));
        response = response.with("Vary", "Accept");
    }
    response
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

/// What a page may do: load its own files and call its own server, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn guarded(status: u16, mut page: Response) -> Response {
    page.status = status;
    page.with("Content-Security-Policy", POLICY)
        .with("X-Frame-Options", "DENY")
        // Session keys and share tokens stand in addresses: they go nowhere else.
        .with("Referrer-Policy", "no-referrer")
}

/// The start of this server's addresses, as the client knows it, where that can be pasted into a shell
/// without harm. A trusted proxy tells the scheme.
pub(super) fn base(api: &Api, request: &Request<'_>) -> String {
    let host = request.host();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".:-[]".contains(&b);
    let host = match !host.is_empty() && host.bytes().all(plain) {
        true => host,
        false => "localhost:3000",
    };
    let proxied = api.config.trusted_proxies > 0;
    let scheme = request.header("X-Forwarded-Proto");
    match scheme.filter(|scheme| proxied && *scheme == "https") {
        Some(_) => format!("https://{host}"),
        None => format!("http://{host}"),
    }
}

/// No command that would be refused.
fn text_off(call: &Call<'_>) -> String {
    format!(
        "Async Task System {VERSION}\n\n\
         The Task System is off: start the server with ENABLE_SESSION_ISOLATION=true.\n\
         All routes: {}/docs\n",
        base(call.api, call.request)
    )
}

/// What to paste next: commands that stay in the session that this request named.
fn text(call: &Call<'_>) -> String {
    let (base, session) = (base(call.api, call.request), call.session.as_str());
    let header = match named(call.request) {
        Some(_) => format!(" -H 'X-App-Session: {session}'"),
        None => String::new(),
    };
    let start = start(call);
    format!(
        r#"Async Task System {VERSION}: background tasks with progress

Your session: {session}

Start a task, and watch it run:

  curl -N {start}{header}

Your own process, step by step:

  curl -X POST {base}/api/v1/demo/tasks/workflow{header} \
    -H 'Content-Type: application/json' \
    -d '{{"name":"Order","steps":[{{"name":"Pick","durationMs":2000}},{{"name":"Ship","durationMs":3000}}]}}'

Look around; latest is the newest task's id:

  curl {base}/api/v1/executors{header}
  curl {base}/api/v1/tasks{header}
  curl {base}/api/v1/tasks/latest/status{header}
  curl -N {base}/api/v1/tasks/events{header}

The same with a page: open {base}/?session={session} in a browser; all routes: {base}/docs
"#
    )
}

/// Starts a task that is watched: of the operator's or the program's first type that its example suits, else a demo.
fn start(call: &Call<'_>) -> String {
    let (base, execution) = (base(call.api, call.request), call.api.system.execution());
    let registry = execution.registry();
    let types = registry.listed().into_iter();
    // Workers run remote types, and there may be none.
    let mut own = types.filter(|(_, one)| !matches!(one.source, Source::Remote | Source::Demo));
    let found = own.find_map(|(kind, one)| {
        let mut new = NewTask::new(kind).kind(kind);
        let mut body = json!({ "name": kind, "type": kind });
        if let Some(example) = &one.example {
            new = new.metadata(example);
            body["metadata"] = example.clone();
        }
        execution.check(&new).is_ok().then_some(body)
    });
    match found {
        None => format!("-X POST '{base}/api/v1/demo/tasks/sample?watch=1'"),
        Some(body) => {
            let body = body.to_string().replace('\'', r"'\''");
            format!("'{base}/api/v1/tasks?watch=1' -H 'Content-Type: application/json' -d '{body}'")
        }
    }
}
