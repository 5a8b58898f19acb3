//! The README's tour, run as it stands there against the program itself.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::browser::skip;
use crate::support::{Client, FREE_PORT, Process, TempDir};

const README: &str = include_str!("../../README.md");

/// Shell blocks that are not for the running server.
const OTHERS: [&str; 2] = ["cargo run --release\n", "cargo test\n"];

/// What a reader does at a keyboard: a stream is looked at for a while, then interrupted.
const READER: &str = r#"
set -eu
curl() {
    case " $* " in
        *" -N "*) command curl --noproxy '*' "$@" 2>/dev/null | head -c 300 ;;
        *) command curl --noproxy '*' "$@" ;;
    esac
}
"#;

/// Between the outputs of two blocks.
const MARK: &str = "\n== next block ==\n";

/// The blocks of a kind of fence, each with where it ends in the text.
fn blocks(fence: &str) -> Vec<(usize, &'static str)> {
    let opening = format!("\n```{fence}\n");
    let starts = README.match_indices(&opening);
    let blocks = starts.map(|(at, _)| {
        let start = at + opening.len();
        let length = README[start..].find("```").expect("a closing fence");
        (start + length, &README[start..start + length])
    });
    blocks.collect()
}

/// The block that follows a shell block at once: the answer that the README promises.
fn promised_after(end: usize) -> Option<&'static str> {
    let rest = README[end..].strip_prefix("```\n```json\n")?;
    rest.split("```").next()
}

/// The names of all members in a piece of JSON, elisions allowed, in order.
fn members(json: &str) -> Vec<&str> {
    let parts: Vec<&str> = json.split('"').collect();
    let pairs = parts.windows(2);
    let names = pairs.filter(|pair| pair[1].starts_with(':'));
    names.map(|pair| pair[0]).collect()
}

/// Runs the blocks one after the other in one shell, as a reader would; what each printed.
fn run(address: &str, blocks: &[&str]) -> Vec<String> {
    let mut script = READER.to_owned();
    for block in blocks {
        script += &block.replace("localhost:3000", address);
        script += &format!("printf '%s' '{MARK}'\n");
    }
    let output = Command::new("bash")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    let printed = String::from_utf8(output.stdout).expect("text");
    let mut parts: Vec<String> = printed.split(MARK).map(str::to_owned).collect();
    assert_eq!(parts.pop().as_deref(), Some(""), "{printed}");
    parts
}

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
    let tour: Vec<_> = blocks("sh")
        .into_iter()
        .filter(|(_, block)| !OTHERS.contains(block))
        .collect();
    let scripts: Vec<&str> = tour.iter().map(|(_, block)| *block).collect();
    let printed = run(&address, &scripts);

    for ((end, block), output) in tour.iter().zip(&printed) {
        let promised = promised_after(*end).unwrap_or_default();
        for name in members(promised) {
            let member = format!("\"{name}\":");
            assert!(output.contains(&member), "{block}no {member} in {output}");
        }
    }

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
        "tasks/sample",
        &["Sample task created and started", "\"status\":\"pending\""],
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
    has(
        "customer-42",
        &[
            "Task created successfully",
            "\"sessionKey\":\"customer-42\"",
        ],
    );

    share_is_open(&server.client, of("/share"));
    let again = &run(&address, &[block_with("Idempotency-Key")])[0];
    assert_eq!(again, of("Idempotency-Key"), "it is made once");
    let wrong: Value = serde_json::from_str(of("timeoutMs\": -1")).expect("JSON");
    let promised = blocks("json").last().map(|(_, block)| *block);
    let mut promised: Value = serde_json::from_str(promised.expect("one")).expect("JSON");
    promised["requestId"] = wrong["requestId"].clone();
    assert_eq!(wrong, promised);
}

fn block_with(text: &str) -> &'static str {
    let mut blocks = blocks("sh").into_iter().map(|(_, block)| block);
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
