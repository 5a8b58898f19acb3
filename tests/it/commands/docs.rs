//! What docs/commands.md tells its reader to type, with the example's file.

use std::process::Command;

use serde_json::Value;

use super::Folder;
use crate::browser::skip;
use crate::support::tour::{blocks, check_promises, run};
use crate::support::{FREE_PORT, Process, TempDir, wait_until};

const DOCUMENT: &str = include_str!("../../../docs/commands.md");

/// How much of a stream its reader looks at, in bytes.
const PEEK: usize = 600;

fn start(dir: &TempDir) -> Process {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/executors.json");
    let path = std::env::var("PATH").unwrap_or_default();
    Process::start(dir, &[FREE_PORT, ("EXECUTORS", examples), ("PATH", &path)])
}

#[test]
fn the_tour_does_what_it_says() {
    for program in ["bash", "curl"] {
        if Command::new(program).arg("--version").output().is_err() {
            return skip(&format!("no {program} in PATH"));
        }
    }
    let dir = TempDir::new();
    let server = start(&dir);
    let tour = blocks(DOCUMENT, "sh");
    let scripts: Vec<&str> = tour.iter().map(|(_, block)| *block).collect();
    let printed = run(&server.client.addr().to_string(), &scripts, PEEK);
    assert_eq!(scripts.len(), 3);
    assert!(
        printed[0].contains("Count for me") && printed[0].contains(" 10 % Counting to 1"),
        "{}",
        printed[0]
    );
    assert!(printed[1].starts_with("1 it is\n"), "{}", printed[1]);
    assert!(printed[1].contains("Task cancelled successfully"));
    wait_until(|| server.client.task("latest")["status"] == "completed");
    let task = server.client.task("latest");
    assert!(task["result"]["files"].as_u64() > Some(2), "{task}");
    check_promises(DOCUMENT, &tour[1..2], &printed[1..2]);
}

/// The file that the text shows is a valid one, and so is each entry of its table.
#[test]
fn the_entries_that_it_shows_are_valid() {
    let entry = |line: &str| {
        let line = line.replace("\\|", "|");
        let json = &line[line.find("{\"command\"")?..];
        let mut values = serde_json::Deserializer::from_str(json).into_iter::<Value>();
        Some(
            values
                .next()?
                .unwrap_or_else(|error| panic!("{json}: {error}")),
        )
    };
    let entries = DOCUMENT.lines().filter(|line| line.starts_with("| "));
    let entries = entries.filter_map(entry).enumerate();
    let mut types: serde_json::Map<_, _> = entries
        .map(|(n, entry)| (format!("type-{n}"), entry))
        .collect();
    assert!(types.len() >= 12, "{types:?}");
    let shown = blocks(DOCUMENT, "json")[0].1;
    let Value::Object(shown) = serde_json::from_str(shown).expect("JSON") else {
        panic!("an object: {shown}");
    };
    types.extend(shown);
    let folder = Folder::new(&Value::Object(types));
    let output = crate::support::run(
        &folder.dir,
        &["--check"],
        &[("EXECUTORS", "executors.json")],
    );
    assert!(
        output.status.success(),
        "{}",
        crate::support::stderr(&output)
    );
}
