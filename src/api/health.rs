//! `/health`: alive, since when, in which version, and as whom it sees the caller; or what is wrong.

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use super::call::Call;
use crate::http::Response;
use crate::http::router::Answer;
use crate::task::SessionKey;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health<'a> {
    status: &'static str,
    timestamp: String,
    session_key: &'a SessionKey,
    version: &'static str,
    uptime_ms: u64,
}

pub(super) fn health(call: &Call<'_>) -> Answer {
    if let Some(problem) = call.api.ailment.get().and_then(|ailment| ailment()) {
        return Err(problem);
    }
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let health = Health {
        status: "healthy",
        timestamp: OffsetDateTime::now_utc().format(format).unwrap_or_default(),
        session_key: &call.session,
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: call.api.started.elapsed().as_millis() as u64,
    };
    Ok(Response::json(200, &health))
}
