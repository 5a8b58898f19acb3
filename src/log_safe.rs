//! What comes from outside, in the log.

use std::fmt::{self, Write};

/// Text from outside, for a log line: control characters are escaped, so that it cannot forge
/// a line of its own.
pub(crate) struct LogSafe<'a>(pub(crate) &'a str);

impl fmt::Display for LogSafe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() || is_deceptive(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// The separators and direction marks. They are no control characters, but as deceptive.
pub(crate) fn is_deceptive(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::LogSafe;

    #[test]
    fn a_log_line_cannot_be_forged() {
        let text = LogSafe("a\r\n2025 [INFO] b\u{85}\u{1b}[31m\u{2028}\u{200f}ü").to_string();
        assert_eq!(text, r"a\r\n2025 [INFO] b\u{85}\u{1b}[31m\u{2028}\u{200f}ü");
    }
}
