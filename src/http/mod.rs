//! HTTP without opinion: requests, responses, problems, a route table, and the transport.
//!
//! Nothing here knows what a task is. Only [`transport`] knows sockets.

pub(crate) mod fields;
pub(crate) mod meter;
mod negotiate;
pub(crate) mod problem;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod sse;
pub(crate) mod streaming;
pub(crate) mod transport;

pub(crate) use problem::Problem;
pub(crate) use request::{Method, Request};
pub(crate) use response::{Outlet, Response};
pub(crate) use transport::Peer;
