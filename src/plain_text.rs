//! Text of other programs, without what only a terminal understands.

use std::borrow::Cow;

use crate::log_safe::is_deceptive;

/// The longest line of a log, in bytes.
pub(crate) const MAX_LINE: usize = 8 * 1024;

/// The lines of `text` as a log keeps them: plain, and none longer than [`MAX_LINE`]. A carriage return ends a
/// line too. A line that only steered the terminal is left out.
pub(crate) fn log_lines(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = Some(text);
    let lines = std::iter::from_fn(move || {
        let (line, more) = split_line(rest?);
        rest = more.filter(|more| !more.is_empty());
        Some(line)
    });
    lines.filter_map(|line| {
        let plain = plain(line);
        let is_shown = line.is_empty() || !plain.is_empty();
        is_shown.then(|| cut(plain))
    })
}

/// The first line, and what follows it.
fn split_line(text: &str) -> (&str, Option<&str>) {
    let Some(end) = text.find(['\n', '\r']) else {
        return (text, None);
    };
    let (line, rest) = text.split_at(end);
    let rest = rest.strip_prefix("\r\n").unwrap_or(&rest[1..]);
    (line, Some(rest))
}

fn cut(line: Cow<'_, str>) -> Cow<'_, str> {
    const MARK: &str = "…";
    if line.len() <= MAX_LINE {
        return line;
    }
    let kept = &line[..line.floor_char_boundary(MAX_LINE - MARK.len())];
    Cow::Owned(format!("{kept}{MARK}"))
}

/// `text` without the codes that steer a terminal, and without control characters except tabs.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c == '\t' || !(c.is_control() || is_deceptive(c));
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => skip_escape(&mut rest),
            '\u{9b}' => skip_sequence(&mut rest),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut rest),
            c if is_plain(c) => kept.push(c),
            _ => {}
        }
    }
    Cow::Owned(kept)
}

type Rest<'a> = std::str::Chars<'a>;

/// What follows ESC.
fn skip_escape(rest: &mut Rest<'_>) {
    let after = rest.clone();
    match rest.next() {
        Some('[') => skip_sequence(rest),
        Some('P' | 'X' | ']' | '^' | '_') => skip_string(rest),
        // Intermediates, then one final byte.
        Some(' '..='/') => skip_while(rest, |c| matches!(c, ' '..='/'), |c| matches!(c, '0'..='~')),
        Some('0'..='~') => {}
        // No code: the character is text.
        _ => *rest = after,
    }
}

/// A control sequence: parameters, then one final byte.
fn skip_sequence(rest: &mut Rest<'_>) {
    skip_while(rest, |c| matches!(c, ' '..='?'), |c| matches!(c, '@'..='~'));
}

/// Skips all that is `inside`, and one `end` after it.
fn skip_while(rest: &mut Rest<'_>, inside: fn(char) -> bool, end: fn(char) -> bool) {
    let mut after = rest.clone();
    while let Some(c) = rest.next() {
        if !inside(c) {
            if !end(c) {
                *rest = after;
            }
            return;
        }
        after = rest.clone();
    }
}

/// A title or its like, up to its end: BEL, or the string terminator.
fn skip_string(rest: &mut Rest<'_>) {
    while let Some(c) = rest.next() {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => return skip_escape(rest),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terminal_codes_are_left_out() {
        for (given, kept) in [
            ("plain ü\tx", "plain ü\tx"),
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("\u{9b}31mred\u{9b}m", "red"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}Pdata\u{9c}text", "text"),
            ("\u{1b}(Btext\u{1b}=\u{1b}7", "text"),
            ("\u{1b}[?25l50 %\u{1b}[K", "50 %"),
            ("a\u{8}b\u{7}c\u{0}d\u{7f}e\u{85}", "abcde"),
            ("\u{1b}[12ü", "ü"),
            ("\u{1b}ü\u{1b}", "ü"),
            ("\u{1b}[", ""),
            ("a\u{202e}b\u{2028}c", "abc"),
        ] {
            assert_eq!(plain(given), kept, "{given:?}");
        }
    }

    #[test]
    fn a_text_becomes_lines() {
        for (given, lines) in [
            ("", vec![""]),
            ("one", vec!["one"]),
            ("one\n", vec!["one"]),
            (
                "one\r\ntwo\n\nthree\n\n",
                vec!["one", "two", "", "three", ""],
            ),
            (
                "10 %\r20 %\r\u{1b}[K30 %\r\u{1b}[K",
                vec!["10 %", "20 %", "30 %"],
            ),
        ] {
            assert_eq!(log_lines(given).collect::<Vec<_>>(), lines, "{given:?}");
        }
        let long = "ü".repeat(MAX_LINE);
        let line = log_lines(&long).next().expect("a line");
        assert_eq!(line.len(), MAX_LINE - 1);
        assert!(line.ends_with("ü…"));
    }

    proptest! {
        #[test]
        fn nothing_that_steers_is_left(text in "(\\PC|[\u{1b}\u{9b}\u{90}\\[\\]\n\r\t\u{7}\u{0};0-9mK])*") {
            for line in log_lines(&text) {
                prop_assert!(line.chars().all(|c| c == '\t' || !c.is_control()), "{line:?}");
                prop_assert!(line.len() <= MAX_LINE);
                let again = plain(&line);
                prop_assert_eq!(&*again, &*line);
            }
        }

        #[test]
        fn a_text_without_controls_stays(text in "[ -~\t]{0,200}") {
            prop_assert_eq!(&*plain(&text), &*text);
        }
    }
}
