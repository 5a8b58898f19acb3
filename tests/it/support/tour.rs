//! Runs what a document tells its reader to type.

use std::process::{Command, Stdio};

/// What a reader does at a keyboard: a stream is looked at up to `$peek` bytes, then interrupted.
const READER: &str = r#"
set -eu
curl() {
    case " $* " in
        *" -N "*) command curl --noproxy '*' "$@" 2>/dev/null | head -c $peek ;;
        *) command curl --noproxy '*' "$@" ;;
    esac
}
"#;

/// Between the outputs of two blocks.
const MARK: &str = "\n== next block ==\n";

/// The blocks of a kind of fence in a text, each with where it ends there.
pub(crate) fn blocks<'a>(text: &'a str, fence: &str) -> Vec<(usize, &'a str)> {
    let opening = format!("\n```{fence}\n");
    let starts = text.match_indices(&opening);
    let blocks = starts.map(|(at, _)| {
        let start = at + opening.len();
        let length = text[start..].find("```").expect("a closing fence");
        (start + length, &text[start..start + length])
    });
    blocks.collect()
}

/// The block that follows a shell block at once: the answer that the text promises.
fn promised_after(text: &str, end: usize) -> Option<&str> {
    let rest = text[end..].strip_prefix("```\n```json\n")?;
    rest.split("```").next()
}

/// The names of all members in a piece of JSON, elisions allowed, in order.
fn members(json: &str) -> Vec<&str> {
    let parts: Vec<&str> = json.split('"').collect();
    let pairs = parts.windows(2);
    let names = pairs.filter(|pair| pair[1].starts_with(':'));
    names.map(|pair| pair[0]).collect()
}

/// Runs blocks one after the other in one shell, as a reader would who looks at `peek` bytes of each
/// stream; what each printed.
pub(crate) fn run(address: &str, blocks: &[&str], peek: usize) -> Vec<String> {
    let mut script = format!("peek={peek}{READER}");
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
    // A look may end within a character.
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut parts: Vec<String> = printed.split(MARK).map(str::to_owned).collect();
    assert_eq!(parts.pop().as_deref(), Some(""), "{printed}");
    parts
}

/// Whether every answer has the members that the text promises.
#[track_caller]
pub(crate) fn check_promises(text: &str, tour: &[(usize, &str)], printed: &[String]) {
    for ((end, block), output) in tour.iter().zip(printed) {
        let promised = promised_after(text, *end).unwrap_or_default();
        for name in members(promised) {
            let member = format!("\"{name}\":");
            assert!(output.contains(&member), "{block}no {member} in {output}");
        }
    }
}
