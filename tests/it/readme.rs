//! The README's tour, run as it stands there against the program itself.

use std::process::Command;

use serde_json::Value;

use crate::browser::skip;
use crate::support::tour::{blocks, check_promises, run};
use crate::support::{Client, FREE_PORT, Process, TempDir};

const README: &str = include_str!("../../README.md");

/// How much of a stream its reader looks at, in bytes.
const PEEK: usize = 300;

/// Shell blocks that are not for the running server.
const OTHERS: [&str; 2] = ["cargo run --release\n", "cargo test\n"];

#[test]
fn the_tour_does_what_it_says() {
    for program in ["bash", "curl"] {
        if Command::new(program).arg("--version").output().is_err() {
            return skip(&format!("no {program} in PATH"));
        }
    }
    let dir = TempDir::new();
    let server = Process::start(&dir, &[FREE_PORT]);
    let address = server.client.addr().to_string();
    let tour: Vec<_> = blocks(README, "sh")
        .into_iter()
        .filter(|(_, block)| !OTHERS.contains(block))
        .collect();
    let scripts: Vec<&str> = tour.iter().map(|(_, block)| *block).collect();
    let printed = run(&address, &scripts, PEEK);

    check_promises(README, &tour, &printed);

    let of = |start: &str| {
        let place = scripts.iter().position(|block| block.contains(start));
        &printed[place.unwrap_or_else(|| panic!("no block with {start}"))]
    };
    let has = |block: &str, texts: &[&str]| {
        let output = of(block);
        for text in texts {
            assert!(output.contains(text), "{block}: no {text} in {output}");
        }
    };
    has(
        "tasks/sample?watch=1",
        &["Sample Long-Running Task", " 0 % "],
    );
    has(
        "/latest\n",
        &["\"name\":\"Sample Long-Running Task\"", "\"links\":"],
    );
    has("/status", &["\"success\":true", "\"currentStep\":\"Step "]);
    has("/watch", &["Sample Long-Running Task", " % Step "]);
    has(
        "/cancel",
        &["Task cancelled successfully", "Task retried successfully"],
    );
    has(
        "/history",
        &[
            "\"event\":\"cancelled\"",
            "\"event\":\"retried\",\"attempt\":2",
        ],
    );
    has(
        "tasks/workflow",
        &[
            "Workflow task created and started",
            "\"stats\":{\"total\":2,",
        ],
    );
    has("/executors", &["\"type\":\"workflow\""]);
    has(
        "customer-42",
        &[
            "Task created successfully",
            "\"sessionKey\":\"customer-42\"",
        ],
    );

    share_is_open(&server.client, of("/share"));
    let again = &run(&address, &[block_with("Idempotency-Key")], PEEK)[0];
    assert_eq!(again, of("Idempotency-Key"), "it is made once");
    let wrong: Value = serde_json::from_str(of("timeoutMs\": -1")).expect("JSON");
    let promised = blocks(README, "json").last().map(|(_, block)| *block);
    let mut promised: Value = serde_json::from_str(promised.expect("one")).expect("JSON");
    promised["requestId"] = wrong["requestId"].clone();
    assert_eq!(wrong, promised);
}

fn block_with(text: &str) -> &'static str {
    let mut blocks = blocks(README, "sh").into_iter().map(|(_, block)| block);
    blocks.find(|block| block.contains(text)).expect("a block")
}

/// The link leads to the task, for whoever has it.
fn share_is_open(client: &Client, answer: &str) {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    let link = answer["url"].as_str().expect("a link");
    let call = client.call_exact("GET", link);
    let shown = call.header("Accept", "application/json").send().expect(200);
    let shown = shown.text();
    assert!(shown.contains("Sample Long-Running Task"), "{shown}");
}

#[test]
fn every_file_that_the_readme_names_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let links = README.split("](").skip(1);
    let links = links.filter_map(|rest| rest.split(')').next());
    let files: Vec<&str> = links.filter(|link| !link.contains("://")).collect();
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        assert!(root.join(file).exists(), "{file}");
    }
}
