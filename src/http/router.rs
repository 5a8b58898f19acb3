//! The route table: patterns, and what answers them.

use crate::http::fields::Query;
use crate::http::request::{Method, Request, cut, percent_decode};
use crate::http::{Problem, Response};

/// Answers one route. The text is the path's parameter; empty where it has none.
pub(crate) type Handler = Box<dyn Fn(&Request<'_>, &str) -> Answer + Send + Sync>;

pub(crate) type Answer = Result<Response, Problem>;

/// In a path, in place of an id: the newest that the caller has created.
pub(crate) const LATEST: &str = "latest";

/// One path pattern, like `/tasks/:id/start` with one parameter at most, or `/jobs/*`, with its methods.
pub(crate) struct Route {
    pattern: &'static str,
    prefix: &'static str,
    ending: Ending,
    get: Option<Handler>,
    post: Option<Handler>,
    delete: Option<Handler>,
    query: QueryRule,
}

/// What may stand behind a pattern's prefix.
enum Ending {
    /// Nothing.
    Fixed,
    /// A parameter without a slash, then this.
    Parameter(&'static str),
    /// Nothing, or more segments.
    Any,
}

/// Which query parameters a route takes besides `session`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum QueryRule {
    Refused,
    /// The handler reads and checks them.
    Read,
    /// None; but a page's address may carry what other sites hang on it.
    Page,
}

impl Route {
    fn new(pattern: &'static str, get: Option<Handler>, post: Option<Handler>) -> Route {
        let (prefix, ending) = match pattern.split_once(':') {
            Some((prefix, rest)) => {
                let suffix = &rest[rest.find('/').unwrap_or(rest.len())..];
                (prefix, Ending::Parameter(suffix))
            }
            None => match pattern.strip_suffix("/*") {
                Some(prefix) => (prefix, Ending::Any),
                None => (pattern, Ending::Fixed),
            },
        };
        Route {
            pattern,
            prefix,
            ending,
            get,
            post,
            delete: None,
            query: QueryRule::Refused,
        }
    }

    pub(crate) fn get(pattern: &'static str, handler: Handler) -> Route {
        Route::new(pattern, Some(handler), None)
    }

    pub(crate) fn post(pattern: &'static str, handler: Handler) -> Route {
        Route::new(pattern, None, Some(handler))
    }

    pub(crate) fn and_post(mut self, handler: Handler) -> Route {
        self.post = Some(handler);
        self
    }

    pub(crate) fn and_delete(mut self, handler: Handler) -> Route {
        self.delete = Some(handler);
        self
    }

    pub(crate) fn delete(pattern: &'static str, handler: Handler) -> Route {
        Route {
            delete: Some(handler),
            ..Route::new(pattern, None, None)
        }
    }

    /// Its handlers read the query, and refuse what they do not know. Of other routes every parameter is refused.
    pub(crate) fn with_query(mut self) -> Route {
        self.query = QueryRule::Read;
        self
    }

    /// It answers browsers with a page, whatever its query.
    pub(crate) fn page(mut self) -> Route {
        self.query = QueryRule::Page;
        self
    }

    fn check_query(&self, request: &Request<'_>) -> Result<(), Problem> {
        let is_browser = || request.wanted(&["text/html"], "text/plain") == "text/html";
        match self.query {
            QueryRule::Read => Ok(()),
            QueryRule::Page if is_browser() => Ok(()),
            QueryRule::Refused | QueryRule::Page => Query::new(request, &[]).finish(),
        }
    }

    /// The parameter of a path that this route is for; empty where it has none.
    fn parameter<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.ending {
            Ending::Fixed => (path == self.prefix).then_some(""),
            Ending::Any => {
                let rest = path.strip_prefix(self.prefix)?;
                (rest.is_empty() || rest.starts_with('/')).then_some("")
            }
            Ending::Parameter(suffix) => {
                let parameter = path.strip_prefix(self.prefix)?.strip_suffix(suffix)?;
                cut(parameter, b'/').is_none().then_some(parameter)
            }
        }
    }

    fn answer(&self, request: &Request<'_>, parameter: &str) -> Answer {
        let handler = match request.method {
            Method::Get | Method::Head => self.get.as_ref(),
            Method::Post => self.post.as_ref(),
            Method::Delete => self.delete.as_ref(),
            Method::Options => {
                return Ok(Response::empty(204).with("Allow", self.allow()));
            }
            Method::Other => None,
        };
        match handler {
            Some(handler) => {
                self.check_query(request)?;
                handler(request, &percent_decode(parameter))
            }
            None => {
                let message = format!("This path allows only {}", self.allow());
                Err(Problem::new(405, "method_not_allowed", message).with("Allow", self.allow()))
            }
        }
    }

    fn allow(&self) -> &'static str {
        match (&self.get, &self.post, &self.delete) {
            (None, None, _) => "DELETE, OPTIONS",
            (Some(_), Some(_), _) => "GET, HEAD, POST, OPTIONS",
            (Some(_), None, None) => "GET, HEAD, OPTIONS",
            (Some(_), None, Some(_)) => "GET, HEAD, DELETE, OPTIONS",
            (None, Some(_), _) => "POST, OPTIONS",
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

    /// Each route's pattern, by its number.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &'static str> {
        self.routes.iter().map(|route| route.pattern)
    }

    /// Every method with the pattern that it is for.
    #[cfg(test)]
    pub(crate) fn table(&self) -> Vec<(&'static str, &'static str)> {
        let routes = self.routes.iter();
        let methods = routes.flat_map(|route| {
            let get = route.get.as_ref().map(|_| ("GET", route.pattern));
            let post = route.post.as_ref().map(|_| ("POST", route.pattern));
            let delete = route.delete.as_ref().map(|_| ("DELETE", route.pattern));
            [get, post, delete]
        });
        methods.flatten().collect()
    }

    /// The answer, and the number of the route that gave it; beyond them all where none did.
    pub(crate) fn answer(&self, request: &Request<'_>) -> (usize, Answer) {
        let none = self.routes.len();
        if request.method == Method::Options && request.path() == "*" {
            let all = Response::empty(204).with("Allow", "GET, HEAD, POST, DELETE, OPTIONS");
            return (none, Ok(all));
        }
        let mut routes = self.routes.iter().enumerate();
        let found = routes.find_map(|(number, route)| {
            let parameter = route.parameter(request.path())?;
            Some((number, route.answer(request, parameter)))
        });
        found.unwrap_or_else(|| {
            let message = "There is nothing at this path; see /docs for the routes";
            (none, Err(Problem::new(404, "not_found", message)))
        })
    }
}
