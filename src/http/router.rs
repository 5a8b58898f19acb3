//! The route table: patterns, and what answers them.

use std::borrow::Cow;

use crate::http::request::{Method, Request, percent_decode};
use crate::http::{Problem, Response};

/// Answers one route. The strings are the path's parameters, in order.
pub(crate) type Handler = Box<dyn Fn(&Request<'_>, &[Cow<'_, str>]) -> Answer + Send + Sync>;

pub(crate) type Answer = Result<Response, Problem>;

/// One path pattern, like `/tasks/:id/start`, with its methods.
pub(crate) struct Route {
    segments: Vec<&'static str>,
    get: Option<Handler>,
    post: Option<Handler>,
}

impl Route {
    pub(crate) fn get(pattern: &'static str, handler: Handler) -> Route {
        Route {
            segments: pattern.split('/').collect(),
            get: Some(handler),
            post: None,
        }
    }

    pub(crate) fn post(pattern: &'static str, handler: Handler) -> Route {
        Route {
            segments: pattern.split('/').collect(),
            get: None,
            post: Some(handler),
        }
    }

    pub(crate) fn and_post(mut self, handler: Handler) -> Route {
        self.post = Some(handler);
        self
    }

    fn matches(&self, path: &[&str]) -> bool {
        let rest = self.segments.last() == Some(&"*");
        let fixed = self.segments.len() - usize::from(rest);
        (path.len() == fixed || rest && path.len() >= fixed)
            && self.segments[..fixed]
                .iter()
                .zip(path)
                .all(|(want, have)| want.starts_with(':') || want == have)
    }

    fn parameters<'p>(&self, path: &[&'p str]) -> Vec<Cow<'p, str>> {
        let pairs = self.segments.iter().zip(path);
        pairs
            .filter(|(want, _)| want.starts_with(':'))
            .map(|(_, have)| percent_decode(have))
            .collect()
    }

    fn allow(&self) -> &'static str {
        match (&self.get, &self.post) {
            (Some(_), Some(_)) => "GET, HEAD, POST, OPTIONS",
            (Some(_), None) => "GET, HEAD, OPTIONS",
            (None, _) => "POST, OPTIONS",
        }
    }
}

/// The first route that matches answers; put `/a/fixed` before `/a/:any`.
pub(crate) struct Router {
    routes: Vec<Route>,
}

impl Router {
    pub(crate) fn new(routes: Vec<Route>) -> Router {
        Router { routes }
    }

    pub(crate) fn answer(&self, request: &Request<'_>) -> Answer {
        if request.method == Method::Options && request.path() == "*" {
            return Ok(Response::empty(204).with("Allow", "GET, HEAD, POST, OPTIONS"));
        }
        let mut path = Vec::with_capacity(8);
        path.extend(request.path().split('/'));
        let Some(route) = self.routes.iter().find(|route| route.matches(&path)) else {
            let message = "There is nothing at this path; see the README for the routes";
            return Err(Problem::new(404, "not_found", message));
        };
        let handler = match request.method {
            Method::Get | Method::Head => route.get.as_ref(),
            Method::Post => route.post.as_ref(),
            Method::Options => {
                return Ok(Response::empty(204).with("Allow", route.allow()));
            }
            Method::Other => None,
        };
        match handler {
            Some(handler) => handler(request, &route.parameters(&path)),
            None => {
                let message = format!("This path allows only {}", route.allow());
                Err(Problem::new(405, "method_not_allowed", message).with("Allow", route.allow()))
            }
        }
    }
}
