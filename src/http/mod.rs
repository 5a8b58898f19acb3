//! HTTP without opinion: requests, answers, problems, a route table, and the transport.
//!
//! Nothing here knows what a task is. [`transport`] is the only module that names `tiny_http`.

mod chunks;
mod connection;
pub(crate) mod fields;
pub(crate) mod head;
pub(crate) mod meter;
mod negotiate;
pub(crate) mod problem;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod sse;
pub(crate) mod streaming;
pub(crate) mod sys;
pub(crate) mod transport;
mod wire;

pub(crate) use problem::Problem;
pub(crate) use request::{Method, Request};
pub(crate) use response::{Outlet, Response};
