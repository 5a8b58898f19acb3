//! The file `.env`.

use std::path::Path;

use crate::config::variables::find;
use crate::log_safe::LogSafe;

/// The pairs of names and values; none where the file is not there.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>, String> {
    let broken = |error: dotenvy::Error| {
        let reason = match error {
            dotenvy::Error::LineParse(line, _) => unreadable(&line),
            other => other.to_string(),
        };
        let reason = LogSafe(&reason);
        format!("{} cannot be read: {reason}", path.display())
    };
    if !path.exists() {
        return Ok(Vec::new());
    }
    dotenvy::from_path_iter(path)
        .map_err(broken)?
        .collect::<Result<_, _>>()
        .map_err(broken)
}

/// Says which line it is; the line itself may hold a secret.
fn unreadable(line: &str) -> String {
    let name = line.split('=').next().unwrap_or_default();
    let name = name.trim_start().trim_start_matches("export ").trim();
    let which = match find(name) {
        Some(variable) => format!("the line of {}", variable.name),
        None => "one of its lines".to_owned(),
    };
    format!("{which} is not NAME=value; a value with spaces, #, $ or quotes goes into '…'")
}

#[cfg(test)]
mod tests {
    use super::unreadable;

    #[test]
    fn a_line_that_cannot_be_read_is_named_and_not_repeated() {
        let url = "postgres://hugo:hunter2@db.example/jobs";
        for line in [format!("DATABASE_URL={url} x"), format!("{url} = 1")] {
            let text = unreadable(&line);
            assert!(
                !text.contains("hunter2") && !text.contains("hugo"),
                "{text}"
            );
        }
        assert!(unreadable("export DATABASE_URL=a b").contains("the line of DATABASE_URL"));
    }
}
