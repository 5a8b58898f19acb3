//! Hears what other processes notify through PostgreSQL.
//!
//! diesel can collect notifications, but not wait for them; libpq can, so this is the one place
//! that calls it directly.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::time::Duration;

use pq_sys::{
    ConnStatusType, ExecStatusType, PGconn, PQclear, PQconnectdb, PQconsumeInput, PQexec, PQfinish,
    PQfreemem, PQnotifies, PQresultStatus, PQsocket, PQstatus,
};

use crate::jobs::database::with_time_limits;

/// A connection that listens.
pub(super) struct Listener(NonNull<PGconn>);

// SAFETY: libpq lets one thread at a time use a connection, whichever it is.
unsafe impl Send for Listener {}

impl Listener {
    /// Connects and listens; `None` where that fails.
    pub(super) fn open(url: &str) -> Option<Listener> {
        let url = CString::new(with_time_limits(url)).ok()?;
        // SAFETY: both strings end with NUL; the connection, failed or not, is freed by `drop`,
        // and so is the result here.
        unsafe {
            let listener = Listener(NonNull::new(PQconnectdb(url.as_ptr()))?);
            if PQstatus(listener.0.as_ptr()) != ConnStatusType::CONNECTION_OK {
                return None;
            }
            let result = PQexec(listener.0.as_ptr(), c"LISTEN async_task_jobs".as_ptr());
            let listens = PQresultStatus(result) == ExecStatusType::PGRES_COMMAND_OK;
            PQclear(result);
            listens.then_some(listener)
        }
    }

    /// What was notified within `patience`, perhaps nothing; `None` where the connection is lost.
    pub(super) fn wait(&self, patience: Duration) -> Option<Vec<String>> {
        let connection = self.0.as_ptr();
        // SAFETY: the connection lives as long as `self`; `poll` gets one entry; each
        // notification is freed after its text was copied.
        unsafe {
            let socket = PQsocket(connection);
            if socket < 0 {
                return None;
            }
            let mut entry = libc::pollfd {
                fd: socket,
                events: libc::POLLIN,
                revents: 0,
            };
            libc::poll(&raw mut entry, 1, patience.as_millis() as libc::c_int);
            if PQconsumeInput(connection) == 0 {
                return None;
            }
            let mut heard = Vec::new();
            while let Some(notification) = NonNull::new(PQnotifies(connection)) {
                let text = CStr::from_ptr(notification.as_ref().extra);
                heard.push(text.to_string_lossy().into_owned());
                PQfreemem(notification.as_ptr().cast());
            }
            Some(heard)
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // SAFETY: it is finished once, and not used after.
        unsafe { PQfinish(self.0.as_ptr()) };
    }
}
