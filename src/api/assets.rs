//! `/assets/…`: what the pages are made of. Each file is kept once, as `build.rs` has compressed it.

use super::call::Api;
use crate::http::router::Answer;
use crate::http::{Problem, Request, Response};

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// What gzip puts in front of the data, and behind them.
const HEAD: usize = 10;
const TAIL: usize = 8;

/// A file by its name in `src/page/`, or `openapi.json`.
pub(super) fn text(name: &str) -> String {
    let gzip = find(name).unwrap_or_default();
    let data = gzip.get(HEAD..gzip.len().saturating_sub(TAIL));
    let bytes = miniz_oxide::inflate::decompress_to_vec(data.unwrap_or_default());
    // They are ours, and a test reads each.
    String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
}

/// A file, compressed for who takes it so.
pub(super) fn send(request: &Request<'_>, kind: &'static str, name: &str) -> Response {
    match find(name).filter(|_| request.takes_gzip()) {
        Some(gzip) => Response::bytes(kind, gzip).with("Content-Encoding", "gzip"),
        None => Response::bytes(kind, text(name)),
    }
}

/// A page that begins with a text of its own, compressed for who takes it so: the text as it is, the file as it is kept.
pub(super) fn send_after(
    request: &Request<'_>,
    head: &str,
    kind: &'static str,
    name: &str,
) -> Response {
    let plain = [head, &text(name)].concat();
    let gzip = find(name).unwrap_or_default();
    let (Ok(length), true) = (u16::try_from(head.len()), request.takes_gzip()) else {
        return Response::bytes(kind, plain);
    };
    let mut out = gzip[..HEAD].to_vec();
    // A block that is stored and not the last.
    out.push(0);
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(head.as_bytes());
    out.extend(&gzip[HEAD..gzip.len() - TAIL]);
    out.extend(crc32(plain.as_bytes()).to_le_bytes());
    out.extend((plain.len() as u32).to_le_bytes());
    Response::bytes(kind, out).with("Content-Encoding", "gzip")
}

/// The checksum at the end of a gzip file.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc: u32, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

/// `/assets/VERSION/NAME`. What a name of this version leads to never changes.
pub(super) fn serve(_: &Api, request: &Request<'_>, _: &str) -> Answer {
    let path = request.path().strip_prefix("/assets/");
    let name = path.and_then(|path| path.strip_prefix(VERSION)?.strip_prefix('/'));
    let kind = match name.and_then(|name| name.rsplit_once('.')) {
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "",
    };
    match name.filter(|name| !kind.is_empty() && find(name).is_some()) {
        Some(name) => Ok(send(request, kind, name)
            .with("Vary", "Accept-Encoding")
            .with("Cache-Control", "public, max-age=31536000, immutable")),
        None => {
            let message = "This file is not of the version that runs here: reload the page";
            Err(Problem::new(404, "not_found", message))
        }
    }
}

fn find(name: &str) -> Option<&'static [u8]> {
    let place = FILES.iter().find(|(known, _)| *known == name);
    place.map(|(_, gzip)| *gzip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_gzip() {
        // The value that every description of it names.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn every_file_is_read_again_as_it_was() {
        for (name, _) in FILES {
            let folder = if *name == "openapi.json" {
                "api"
            } else {
                "page"
            };
            let path = format!("{}/src/{folder}/{name}", env!("CARGO_MANIFEST_DIR"));
            let source = std::fs::read_to_string(path).expect("a source");
            let filled = source
                .replace("{{assets}}", &format!("/assets/{VERSION}"))
                .replace("{{version}}", env!("CARGO_PKG_VERSION"))
                .replace(
                    "\"version\": \"0.0.0\"",
                    concat!("\"version\": \"", env!("CARGO_PKG_VERSION"), "\""),
                );
            assert!(text(name) == filled, "{name}");
        }
    }
}
