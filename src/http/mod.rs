//! HTTP's messages: requests, responses, problems, events, and the table of routes.
//!
//! Nothing here knows what a task is, nor what a socket is.

pub(crate) mod fields;
pub(crate) mod json;
pub(crate) mod meter;
mod negotiate;
pub(crate) mod polling;
pub(crate) mod problem;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod sse;
pub(crate) mod streaming;

pub(crate) use problem::Problem;
pub(crate) use request::{Method, Request};
pub(crate) use response::{BodyWriter, Peer, Response};
