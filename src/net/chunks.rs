//! Chunked bodies (RFC 9112, 7.1), read to the letter.
//!
//! A body is whole only with its last chunk and its trailers. Trailers are read and dropped.

use std::io::{BufRead, Read};

use crate::net::head::{MAX_HEAD, is_text};

/// Why a body is not one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It ended before its last chunk.
    Cut,
    Malformed,
    TooLarge,
}

/// The longest line: a chunk's size with its extensions, or a trailer.
const MAX_LINE: usize = 4 * 1024;

/// Reads a body of at most `max` bytes, and nothing behind it.
pub(super) fn read_chunks(from: &mut impl BufRead, max: usize) -> Result<Vec<u8>, Broken> {
    let mut body = Vec::new();
    // A chunk of one byte takes five more.
    let mut spare = max.saturating_mul(8).saturating_add(MAX_HEAD);
    loop {
        let size = chunk_size(&line(from, &mut spare)?)?;
        if size == 0 {
            break;
        }
        if size > max - body.len() {
            return Err(Broken::TooLarge);
        }
        let read = from.take(size as u64).read_to_end(&mut body);
        if read.map_err(|_| Broken::Cut)? < size {
            return Err(Broken::Cut);
        }
        let mut end = [0; 2];
        from.read_exact(&mut end).map_err(|_| Broken::Cut)?;
        if end != *b"\r\n" {
            return Err(Broken::Malformed);
        }
    }
    loop {
        let trailer = line(from, &mut spare)?;
        if trailer.is_empty() {
            return Ok(body);
        }
        if !trailer.contains(&b':') {
            return Err(Broken::Malformed);
        }
    }
}

/// A line without its end; all lines together take no more than there is to `spare`.
fn line(from: &mut impl BufRead, spare: &mut usize) -> Result<Vec<u8>, Broken> {
    let mut line = Vec::new();
    let most = MAX_LINE.min(*spare);
    let read = from.take(most as u64).read_until(b'\n', &mut line);
    *spare -= read.map_err(|_| Broken::Cut)?;
    match line.strip_suffix(b"\r\n") {
        Some(text) if is_text(text) => {
            line.truncate(text.len());
            Ok(line)
        }
        None if line.len() == most => Err(Broken::TooLarge),
        None if !line.ends_with(b"\n") => Err(Broken::Cut),
        _ => Err(Broken::Malformed),
    }
}

/// Reads the hexadecimal size of a chunk. Extensions behind a semicolon are ignored.
fn chunk_size(line: &[u8]) -> Result<usize, Broken> {
    let text = std::str::from_utf8(line).map_err(|_| Broken::Malformed)?;
    let size = text.split(';').next().unwrap_or_default();
    let size = size.trim_end_matches([' ', '\t']);
    if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Broken::Malformed);
    }
    // More digits than fit into a number are too large as well.
    usize::from_str_radix(size, 16).map_err(|_| Broken::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, Broken> {
        let body = read_chunks(&mut text.as_bytes(), 10)?;
        Ok(String::from_utf8(body).expect("text"))
    }

    #[test]
    fn chunks_are_joined_and_what_surrounds_them_is_dropped() {
        for text in [
            "3\r\nabc\r\n0\r\n\r\n",
            "1\r\na\r\n02\r\nbc\r\n00\r\n\r\n",
            "3;x=\"y\";z\r\nabc\r\n0;last\r\nChecksum: 1\r\nX:\r\n\r\n",
            "3 ; x\r\nabc\r\n0\r\n\r\n",
        ] {
            assert_eq!(read(text).as_deref(), Ok("abc"), "{text:?}");
        }
        assert_eq!(
            read("A\r\n0123456789\r\n0\r\n\r\n").as_deref(),
            Ok("0123456789")
        );
        assert_eq!(read("0\r\n\r\n").as_deref(), Ok(""));
    }

    #[test]
    fn nothing_behind_a_body_is_read() {
        let mut text = &b"1\r\na\r\n0\r\n\r\nGET /"[..];
        assert_eq!(read_chunks(&mut text, 10), Ok(b"a".to_vec()));
        assert_eq!(text, b"GET /");
    }

    #[test]
    fn a_body_cut_off_anywhere_is_not_whole() {
        let text = "3;x\r\nabc\r\n1\r\nd\r\n0\r\nX: y\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(read(&text[..end]), Err(Broken::Cut), "{:?}", &text[..end]);
        }
    }

    #[test]
    fn what_is_not_a_chunk_is_refused() {
        for text in [
            "\r\n",
            "x\r\n",
            "-1\r\na\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            " 1\r\na\r\n",
            "1 1\r\na\r\n",
            "1\na\n0\n\n",
            "\n1\r\na\r\n0\r\n\r\n",
            "1;a\nb\r\na\r\n0\r\n\r\n",
            "1;a\rb\r\na\r\n0\r\n\r\n",
            "1;\0\r\na\r\n0\r\n\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "1\r\na\n\n0\r\n\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\nX: y\n\r\n",
        ] {
            assert_eq!(read(text), Err(Broken::Malformed), "{text:?}");
        }
    }

    #[test]
    fn bodies_lines_and_all_lines_together_have_a_limit() {
        let many = |count: usize, line: &str| format!("{}0\r\n\r\n", line.repeat(count));
        for text in [
            "b\r\n".to_owned(),
            "fffffffffffffffff\r\n".to_owned(),
            many(11, "1\r\na\r\n"),
            "0".repeat(MAX_LINE),
            format!("0\r\n{}", "X: y\r\n".repeat(MAX_HEAD)),
        ] {
            assert_eq!(read(&text), Err(Broken::TooLarge), "{:.20}", text);
        }
        assert!(read(&many(10, "1\r\na\r\n")).is_ok());
    }
}
