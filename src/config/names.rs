//! Names that are not in the table: variables of the original, and misspelt ones.

use super::variables::VARIABLES;
use crate::log_safe::LogSafe;
use crate::spelling::nearest;

/// A variable of the original that protected something, and that this program does not have.
struct Retired {
    name: &'static str,
    /// Values that asked for no protection, or for what this program does anyway.
    harmless: &'static [&'static str],
    /// What to do instead.
    instead: &'static str,
}

const FIREWALL: &str = "restrict addresses in a firewall or a proxy in front \
                        (HOST=127.0.0.1 admits this machine alone), and remove the variable";

const RETIRED: [Retired; 5] = [
    Retired {
        name: "AUTH_MODE",
        harmless: &["none", "off", "disabled", "false"],
        instead: "require a login in a proxy in front, or use the Job API's tokens (JWT_SECRET), \
                  and remove the variable",
    },
    Retired {
        name: "IP_RESTRICTION_ENABLED",
        harmless: &["false", "0"],
        instead: FIREWALL,
    },
    Retired {
        name: "ALLOWED_IPS",
        harmless: &[],
        instead: FIREWALL,
    },
    Retired {
        name: "ALLOW_LOCAL_ADDRESSES",
        harmless: &[],
        instead: FIREWALL,
    },
    Retired {
        name: "SESSION_HEADER",
        harmless: &["x-app-session"],
        instead: "have clients, or a proxy in front, send the session in X-App-Session, \
                  and remove the variable",
    },
];

/// Why a variable of the original cannot be ignored, where `name` is one. Without it the server
/// would be more open than its owner thinks.
pub(super) fn retired(name: &str, value: &str) -> Option<String> {
    let retired = RETIRED.iter().find(|retired| retired.name == name)?;
    let value = value.trim().to_ascii_lowercase();
    let is_harmless = value.is_empty() || retired.harmless.contains(&&*value);
    (!is_harmless).then(|| {
        format!(
            "{name} is not a variable of this program, and what it asked for is not done: {}",
            retired.instead
        )
    })
}

pub(super) fn is_retired(name: &str) -> bool {
    RETIRED.iter().any(|retired| retired.name == name)
}

/// What to say of a name that is almost one of ours.
pub(super) fn misspelt(name: &str) -> Option<String> {
    let meant = nearest(name, VARIABLES.iter().map(|variable| variable.name))?;
    let name = LogSafe(name);
    Some(format!(
        "{name} is not a variable of this program: did you mean {meant}?"
    ))
}
