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
    let response = match find(name).filter(|_| request.takes_gzip()) {
        Some(gzip) => Response::bytes(kind, gzip).with("Content-Encoding", "gzip"),
        None => Response::bytes(kind, text(name)),
    };
    response.with("Vary", "Accept-Encoding")
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
    fn every_file_is_read_again_as_it_was() {
        for (name, _) in FILES {
            let folder = if *name == "openapi.json" { "api" } else { "page" };
            let path = format!("{}/src/{folder}/{name}", env!("CARGO_MANIFEST_DIR"));
            let source = std::fs::read_to_string(path).expect("a source");
            let filled = source
                .replace("{{assets}}", &format!("/assets/{VERSION}"))
                .replace("{{version}}", env!("CARGO_PKG_VERSION"))
                .replace("\"version\": \"0.0.0\"", concat!("\"version\": \"", env!("CARGO_PKG_VERSION"), "\""));
            assert!(text(name) == filled, "{name}");
        }
    }
}
