//! What docs/jobs.md tells its reader to type, against the program itself.

use super::Db;
use crate::support::tour::{blocks, check_promises, run};
use crate::support::{BINARY, Process};

const DOCUMENT: &str = include_str!("../../../docs/jobs.md");

/// Streams are read to their end.
const WHOLE: usize = 1 << 20;

#[test]
fn the_document_does_what_it_says() {
    let db = Db::sqlite();
    let secret = "change-me-to-at-least-32-random-bytes";
    let server = Process::start(&db.dir, &db.variables(&[("JWT_SECRET", secret)]));
    let mut tour = blocks(DOCUMENT, "sh");
    let (_, start) = tour.remove(0);
    assert!(start.contains("cargo run"), "{start}");
    let scripts = tour
        .iter()
        .map(|(_, block)| block.replace("target/release/async-task-system", BINARY));
    let scripts: Vec<String> = scripts.collect();
    let scripts: Vec<&str> = scripts.iter().map(String::as_str).collect();
    let printed = run(&server.client.addr().to_string(), &scripts, WHOLE);
    check_promises(DOCUMENT, &tour, &printed);
    let all = printed.concat();
    for text in [
        "\"status\":\"pending\"",
        "\"total\":2",
        "job_already_finished",
        "job_not_retryable",
    ] {
        assert!(all.contains(text), "no {text} in {all}");
    }
}
