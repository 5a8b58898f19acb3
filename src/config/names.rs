//! Names that are not in the table: variables of the original, and misspelt ones.

use super::variables::VARIABLES;
use super::variables::Variable;
use crate::log_safe::LogSafe;

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
    let meant = meant_by(name)?.name;
    let name = LogSafe(name);
    Some(format!(
        "{name} is not a variable of this program: did you mean {meant}?"
    ))
}

/// The variable that a name is almost the name of.
fn meant_by(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| {
        // Two letters off a name of four is another word: HOME is not a misspelt HOST.
        let tolerance = if variable.name.len() <= 4 { 1 } else { 2 };
        distance(name, variable.name) <= tolerance
    })
}

/// How many letters to insert, remove, replace or swap with a neighbour, to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
