//! Parses the bodies of requests that add jobs.

use std::sync::Arc;

use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::executor::{ExecutorRegistry, TaskInput};
use crate::http::Problem;
use crate::http::fields::Fields;
use crate::jobs::dummy;
use crate::jobs::job::NewJob;
use crate::jobs::storage::User;

/// The most jobs in one request.
const MAX_BULK: usize = 10_000;

/// The default of `maxAttempts`.
const DEFAULT_ATTEMPTS: u32 = 3;

/// The limit of `timeoutMs` and `delaySec`: one year.
const YEAR_S: u64 = 31_536_000;

/// The limit of `runAt`: the end of 9999, the last time that RFC 3339 can express.
const LAST_MS: i128 = 253_402_300_799_999;

/// Parses jobs for one user.
pub(crate) struct JobParser<'a> {
    pub(crate) registry: Arc<ExecutorRegistry>,
    pub(crate) user: &'a User,
}

impl JobParser<'_> {
    /// Parses one job.
    pub(crate) fn job(&self, fields: &mut Fields<'_>) -> Result<NewJob, Problem> {
        let kind = self.kind(fields);
        let faults = fields.faults();
        let arguments = fields.object("arguments").map(|json| json.get().to_owned());
        let arguments = text_for_databases(fields, "arguments", arguments);
        if fields.faults() == faults {
            self.check(fields, &kind, arguments.as_deref());
        }
        let system = fields.flag("system").unwrap_or(false);
        if system && !self.user.admin {
            let message = "Only an admin may add a system job";
            return Err(Problem::new(403, "access_denied", message));
        }
        let run_at = run_at(fields);
        let delay = fields.number("delaySec", 0.0..=YEAR_S as f64);
        if run_at.is_some() && delay.is_some() {
            fields.fault("delaySec", "give either runAt or delaySec, not both");
        }
        let priority = fields.whole("priority", i32::MIN..=i32::MAX);
        let attempts = fields.whole("maxAttempts", 1..=1_000);
        let unique_key = fields.text("uniqueKey", 255).filter(|key| !key.is_empty());
        let unique_key = text_for_databases(fields, "uniqueKey", unique_key);
        let timeout = fields.whole("timeoutMs", 1..=YEAR_S * 1_000);
        Ok(NewJob {
            id: Uuid::now_v7(),
            user: (!system).then(|| self.user.name.clone()),
            kind,
            arguments,
            max_attempts: attempts.unwrap_or(DEFAULT_ATTEMPTS),
            priority: priority.unwrap_or(0),
            run_at,
            delay: delay.map_or(0, |seconds| (seconds * 1_000.0) as u64),
            unique_key,
            timeout,
        })
    }

    /// Adds the faults that the type's own check finds in the arguments.
    fn check(&self, fields: &mut Fields<'_>, kind: &str, arguments: Option<&str>) {
        let Some(known) = self.registry.get(kind) else {
            return;
        };
        let arguments = arguments.and_then(|json| RawValue::from_string(json.to_owned()).ok());
        let input = TaskInput::new(Uuid::nil(), kind.into(), kind.into(), 1, arguments);
        fields.fault_all("arguments", known.check_job(&input));
    }

    fn kind(&self, fields: &mut Fields<'_>) -> String {
        let faults = fields.faults();
        let kind = fields.required_text("type", 200);
        if fields.faults() == faults
            && let Some(message) = self.registry.unknown(&kind)
        {
            fields.fault("type", message);
        }
        kind
    }

    /// Parses `{jobs: […]}`.
    pub(crate) fn bulk(&self, fields: &mut Fields<'_>) -> Result<Vec<NewJob>, Problem> {
        let given = fields.array("jobs").unwrap_or_default();
        if !(1..=MAX_BULK).contains(&given.len()) {
            let message = format!("jobs must be an array of 1 to {MAX_BULK} jobs");
            fields.fault("jobs", message);
            return Ok(Vec::new());
        }
        let mut jobs = Vec::with_capacity(given.len());
        for (i, value) in given.into_iter().enumerate() {
            if let Some(mut element) = fields.element(&format!("jobs[{i}]"), value) {
                jobs.push(self.job(&mut element)?);
                fields.adopt(element);
            }
        }
        Ok(jobs)
    }

    /// Parses `{delayMinSec?, delayMaxSec?}`.
    pub(crate) fn dummy(&self, fields: &mut Fields<'_>) -> NewJob {
        let (least, most) = dummy::delays(fields);
        let arguments = serde_json::json!({ "delayMinSec": least, "delayMaxSec": most });
        NewJob {
            id: Uuid::now_v7(),
            user: Some(self.user.name.clone()),
            kind: "dummy".to_owned(),
            arguments: Some(arguments.to_string()),
            max_attempts: DEFAULT_ATTEMPTS,
            priority: 0,
            run_at: None,
            delay: 0,
            unique_key: None,
            timeout: None,
        }
    }
}

/// PostgreSQL's text cannot contain NUL, nor can its JSON contain the escape for it.
fn text_for_databases(fields: &mut Fields<'_>, name: &str, text: Option<String>) -> Option<String> {
    let text = text?;
    if text.contains('\0') {
        fields.fault(name, format!("{name} must not contain the character NUL"));
        return None;
    }
    Some(text)
}

fn run_at(fields: &mut Fields<'_>) -> Option<i64> {
    let text = fields.text("runAt", 64)?;
    let at = OffsetDateTime::parse(&text, &Rfc3339).ok();
    let at = at.map(|at| at.unix_timestamp_nanos() / 1_000_000);
    match at.filter(|at| (0..=LAST_MS).contains(at)) {
        Some(at) => Some(at as i64),
        None => {
            let message = "runAt must be a time like 2030-01-31T08:00:00Z (RFC 3339)";
            fields.fault("runAt", message);
            None
        }
    }
}
