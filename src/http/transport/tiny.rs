//! A second transport: `tiny_http`, used as its documentation shows.
