//! How the client's commands end.

use std::process::ExitCode;

use crate::plain_text::plain;

/// What a task has come to.
pub(super) const FAILED: u8 = 1;
pub(super) const CANCELLED: u8 = 3;

/// Wrong arguments, or what the server refuses because of them.
pub(super) const MISUSE: u8 = 2;
pub(super) const UNREACHABLE: u8 = 4;

/// Tells the person why.
pub(super) fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("async-task-system: {}", plain(message));
    ExitCode::from(code)
}
