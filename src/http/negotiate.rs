//! Which of several forms of an answer a client asks for.

use super::Request;

/// How much a client wants a form: its `q` in thousandths, and whether it named the form itself.
type Wish = (u16, bool);

impl Request<'_> {
    /// The media type of `offers` that `Accept` wants most; of equal ones the first. Types that
    /// only a wildcard lets in were not asked for: then, as without `Accept`, it is `default`.
    pub(crate) fn wanted<'o>(&self, offers: &[&'o str], default: &'o str) -> &'o str {
        let accept = self.headers.all("Accept").join(",");
        let mut best = (wish(&accept, default), default);
        // Backwards, so that the first of equal ones is the last to win.
        for offer in offers.iter().rev() {
            let wish = wish(&accept, offer);
            if wish.1 && wish.0 > 0 && wish >= best.0 {
                best = (wish, offer);
            }
        }
        best.1
    }
}

impl Request<'_> {
    /// Whether the client asks for gzip.
    pub(crate) fn takes_gzip(&self) -> bool {
        let codings = self.headers.all("Accept-Encoding").join(",");
        codings.split(',').any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let is_gzip = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
            is_gzip && parts.find_map(quality) != Some(0)
        })
    }
}

/// What `accept` says of a media type; its most specific range counts.
fn wish(accept: &str, media_type: &str) -> Wish {
    let kind = media_type.split('/').next().unwrap_or_default();
    let mut found = (0, 0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let precision = match name.split_once('/') {
            _ if name.eq_ignore_ascii_case(media_type) => 3,
            Some((of, "*")) if of.eq_ignore_ascii_case(kind) => 2,
            Some(("*", "*")) => 1,
            _ => continue,
        };
        let quality = parts.find_map(quality).unwrap_or(1_000);
        found = found.max((precision, quality));
    }
    (found.1, found.0 == 3)
}

/// `q=0.5` in thousandths; one that makes no sense counts as absent.
fn quality(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    let value: f32 = value.trim().parse().ok()?;
    let is_quality = name.trim().eq_ignore_ascii_case("q") && (0.0..=1.0).contains(&value);
    is_quality.then_some((value * 1_000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use crate::http::Peer;
    use crate::http::request::{Client, Headers, Method, Request};

    #[test]
    fn the_form_that_is_wanted_most_is_chosen() {
        for (accept, wanted) in [
            ("", "text/plain"),
            ("*/*", "text/plain"),
            ("text/*", "text/plain"),
            ("image/png", "text/plain"),
            ("text/html", "text/html"),
            ("TEXT/HTML ; Q=0.3", "text/html"),
            ("text/html;charset=utf-8", "text/html"),
            ("text/html, text/plain, */*;q=0.01", "text/html"),
            ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
            ("image/png|text/html", "text/html"),
            ("application/json, text/plain, */*", "application/json"),
            ("application/json, text/html", "text/html"),
            ("text/html;q=0.1, application/json", "application/json"),
            ("text/plain, text/html;q=0.9", "text/plain"),
            ("text/html;q=0.5, */*", "text/plain"),
            ("text/html;q=0", "text/plain"),
            (
                "text/html;q=0.000, application/json;q=0.001",
                "application/json",
            ),
            ("text/html;q=NaN", "text/html"),
            ("text/html;q=7", "text/html"),
            (",;q=1,/,text/html/x", "text/plain"),
        ] {
            let client = Client {
                address: None,
                request_id: "",
                state: &|| Peer::Open,
            };
            let values = accept.split('|').map(|value| ("Accept", value));
            let headers = Headers(values.collect());
            let body = Vec::new();
            let request = Request::new(Method::Get, "/", &headers, &body, client);
            let offers = ["text/html", "application/json"];
            assert_eq!(request.wanted(&offers, "text/plain"), wanted, "{accept}");
        }
    }
}
