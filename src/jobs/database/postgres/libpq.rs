//! A connection to PostgreSQL with a time limit for every call.
//!
//! libpq's own calls wait for a response as long as the socket lives. Here statements are sent without blocking, and
//! the socket is polled until a deadline. A connection that misses a deadline is discarded.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use pq_sys::{
    ConnStatusType, ExecStatusType, Oid, PGconn, PGresult, PQclear, PQconnectdb, PQconninfoFree,
    PQconninfoParse, PQconsumeInput, PQerrorMessage, PQfinish, PQflush, PQfreemem, PQgetResult,
    PQgetisnull, PQgetvalue, PQisBusy, PQnotifies, PQntuples, PQresultErrorField, PQresultStatus,
    PQsendPrepare, PQsendQuery, PQsendQueryPrepared, PQsetnonblocking, PQsocket, PQstatus,
};

use crate::jobs::database::{DatabaseError, Rows};

/// The type of all parameters: text.
const TEXT: Oid = 25;

/// The fields of an error that are read.
const SQLSTATE: c_int = b'C' as c_int;
const MESSAGE: c_int = b'M' as c_int;

/// The most prepared statements. The program has fewer; the limit is for statements built at run time.
const MAX_PREPARED: usize = 200;

/// Why a statement failed.
pub(super) struct Failure {
    pub(super) error: DatabaseError,
    /// Another transaction was in the way, so a retry may succeed.
    pub(super) is_conflict: bool,
}

/// Checks whether libpq can read the address, without connecting.
///
/// # Errors
///
/// The message of libpq.
pub(super) fn check(url: &str) -> Result<(), String> {
    let url = CString::new(url).map_err(|_| "the address contains NUL")?;
    let mut why = ptr::null_mut();
    // SAFETY: the string ends with NUL. What libpq allocates is copied and freed here.
    unsafe {
        let options = PQconninfoParse(url.as_ptr(), &raw mut why);
        let text = (!why.is_null()).then(|| one_line(CStr::from_ptr(why)));
        PQconninfoFree(options);
        PQfreemem(why.cast());
        text.map_or(Ok(()), Err)
    }
}

/// Joins the lines of a message, because a log entry is one line.
fn one_line(message: &CStr) -> String {
    let text = message.to_string_lossy();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

pub(in crate::jobs) struct Connection {
    raw: NonNull<PGconn>,
    /// The names of prepared statements, by their SQL.
    prepared: HashMap<String, CString>,
    is_broken: bool,
}

// SAFETY: libpq allows any thread to use a connection, but only one at a time.
unsafe impl Send for Connection {}

type Done<T> = Result<T, Failure>;

impl Connection {
    /// Connects. The address sets the time limit (`connect_timeout`).
    pub(in crate::jobs) fn open(url: &str) -> Result<Connection, DatabaseError> {
        let lost = |text: &str| DatabaseError::Unavailable(text.to_owned());
        let url = CString::new(url).map_err(|_| lost("the address contains NUL"))?;
        // SAFETY: the string ends with NUL; the connection, failed or not, is freed by `drop`.
        let raw = unsafe { NonNull::new(PQconnectdb(url.as_ptr())) };
        let connection = Connection {
            raw: raw.ok_or_else(|| lost("out of memory"))?,
            prepared: HashMap::new(),
            is_broken: false,
        };
        // SAFETY: the connection is valid.
        let is_open = unsafe {
            PQstatus(connection.raw.as_ptr()) == ConnStatusType::CONNECTION_OK
                && PQsetnonblocking(connection.raw.as_ptr(), 1) == 0
        };
        match is_open {
            true => Ok(connection),
            false => Err(DatabaseError::Unavailable(connection.message())),
        }
    }

    /// Whether it must not be used again.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether the server has not closed the connection, without a round trip.
    pub(super) fn is_alive(&mut self) -> bool {
        let raw = self.raw.as_ptr();
        // SAFETY: the connection is valid.
        !self.is_broken
            && (!self.poll(libc::POLLIN, Duration::ZERO)
                || unsafe {
                    PQconsumeInput(raw) == 1 && PQstatus(raw) == ConnStatusType::CONNECTION_OK
                })
    }

    /// Runs statements without parameters and ignores their rows.
    pub(super) fn execute(&mut self, sql: &str, deadline: Instant) -> Done<()> {
        self.query(sql, deadline).map(drop)
    }

    /// As [`execute`](Self::execute), but calls `meanwhile` about once a second.
    pub(super) fn execute_patiently(
        &mut self,
        sql: &str,
        deadline: Instant,
        meanwhile: &mut dyn FnMut(),
    ) -> Done<()> {
        let sql = text(sql)?;
        // SAFETY: as above.
        if unsafe { PQsendQuery(self.raw.as_ptr(), sql.as_ptr()) } == 0 {
            return Err(self.lost());
        }
        self.flush(deadline)?;
        // SAFETY: the connection is valid.
        while Instant::now() < deadline && unsafe { PQisBusy(self.raw.as_ptr()) } != 0 {
            meanwhile();
            // SAFETY: as above.
            if self.poll(libc::POLLIN, Duration::from_secs(1))
                && unsafe { PQconsumeInput(self.raw.as_ptr()) } == 0
            {
                return Err(self.lost());
            }
        }
        self.response(1, deadline).map(drop)
    }

    /// Runs a statement without preparing it, and returns the first column of its rows.
    pub(super) fn query(&mut self, sql: &str, deadline: Instant) -> Done<Rows> {
        let sql = text(sql)?;
        // SAFETY: the connection is valid, and the text ends with NUL.
        let sent = unsafe { PQsendQuery(self.raw.as_ptr(), sql.as_ptr()) };
        self.response(sent, deadline)
    }

    /// Runs a statement with at most one parameter, `$1`, and returns the first column of its rows. The statement is
    /// prepared once.
    pub(super) fn run(&mut self, sql: &str, parameter: &str, deadline: Instant) -> Done<Rows> {
        let count = c_int::from(sql.contains("$1"));
        let parameter = text(parameter)?;
        let name = match self.prepared.get(sql) {
            Some(name) => name.clone(),
            None => self.prepare(sql, count, deadline)?,
        };
        let values = [parameter.as_ptr()];
        // SAFETY: one value if one is announced; all texts end with NUL and live across the call.
        let sent = unsafe {
            PQsendQueryPrepared(
                self.raw.as_ptr(),
                name.as_ptr(),
                count,
                values.as_ptr(),
                ptr::null(),
                ptr::null(),
                0,
            )
        };
        self.response(sent, deadline)
    }

    fn prepare(&mut self, sql: &str, count: c_int, deadline: Instant) -> Done<CString> {
        if self.prepared.len() >= MAX_PREPARED {
            self.execute("DEALLOCATE ALL", deadline)?;
            self.prepared.clear();
        }
        let name = text(&format!("s{}", self.prepared.len()))?;
        let types = [TEXT];
        let query = text(sql)?;
        // SAFETY: at most as many types as parameters are announced; the texts end with NUL.
        let sent = unsafe {
            let raw = self.raw.as_ptr();
            PQsendPrepare(raw, name.as_ptr(), query.as_ptr(), count, types.as_ptr())
        };
        self.response(sent, deadline)?;
        self.prepared.insert(sql.to_owned(), name.clone());
        Ok(name)
    }

    /// Subscribes to a channel. Returns whether that succeeded.
    pub(in crate::jobs) fn listen(&mut self, channel: &str, deadline: Instant) -> bool {
        self.execute(&format!("LISTEN {channel}"), deadline).is_ok()
    }

    /// Returns the messages that arrive within `patience`, or `None` if the connection is lost.
    pub(in crate::jobs) fn notified(&mut self, patience: Duration) -> Option<Vec<String>> {
        self.poll(libc::POLLIN, patience);
        let raw = self.raw.as_ptr();
        // SAFETY: the connection is valid; each notification is freed after its text was copied.
        unsafe {
            if PQconsumeInput(raw) == 0 {
                self.is_broken = true;
                return None;
            }
            let mut messages = Vec::new();
            while let Some(notification) = NonNull::new(PQnotifies(raw)) {
                let text = CStr::from_ptr(notification.as_ref().extra);
                messages.push(text.to_string_lossy().into_owned());
                PQfreemem(notification.as_ptr().cast());
            }
            Some(messages)
        }
    }

    /// Waits for the response to a statement. `sent` is the return value of libpq's send function.
    fn response(&mut self, sent: c_int, deadline: Instant) -> Done<Rows> {
        if sent == 0 {
            return Err(self.lost());
        }
        self.flush(deadline)?;
        let mut response = Ok(Rows::new());
        loop {
            self.wait_for_result(deadline)?;
            // SAFETY: the connection is valid; a result is freed by its owner.
            let result = unsafe { NonNull::new(PQgetResult(self.raw.as_ptr())) };
            let Some(result) = result.map(ResultSet) else {
                break;
            };
            // If several statements were sent, the first failure is returned.
            match (result.read(), &mut response) {
                (Ok(rows), Ok(all)) => all.extend(rows),
                (Err(failure), Ok(_)) => response = Err(failure),
                (_, Err(_)) => {}
            }
        }
        // SAFETY: the connection is valid.
        if unsafe { PQstatus(self.raw.as_ptr()) } != ConnStatusType::CONNECTION_OK {
            self.is_broken = true;
        }
        if let Err(failure) = &response {
            self.is_broken |= matches!(failure.error, DatabaseError::Unavailable(_));
        }
        response
    }

    fn flush(&mut self, deadline: Instant) -> Done<()> {
        loop {
            // SAFETY: the connection is valid.
            match unsafe { PQflush(self.raw.as_ptr()) } {
                0 => return Ok(()),
                1 => self.wait(libc::POLLIN | libc::POLLOUT, deadline)?,
                _ => return Err(self.lost()),
            }
            // SAFETY: as above. The server may wait until its output is read before it reads more.
            if self.poll(libc::POLLIN, Duration::ZERO)
                && unsafe { PQconsumeInput(self.raw.as_ptr()) } == 0
            {
                return Err(self.lost());
            }
        }
    }

    fn wait_for_result(&mut self, deadline: Instant) -> Done<()> {
        // SAFETY: the connection is valid.
        while unsafe { PQisBusy(self.raw.as_ptr()) } != 0 {
            self.wait(libc::POLLIN, deadline)?;
            // SAFETY: as above.
            if unsafe { PQconsumeInput(self.raw.as_ptr()) } == 0 {
                return Err(self.lost());
            }
        }
        Ok(())
    }

    /// Waits for the socket. If the deadline passes, the connection is broken.
    fn wait(&mut self, events: libc::c_short, deadline: Instant) -> Done<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.poll(events, left) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                self.is_broken = true;
                let text = "no response in time".to_owned();
                return Err(DatabaseError::Unavailable(text).into());
            }
        }
    }

    /// Returns whether the socket is ready for one of `events` within `patience`. It may return early.
    fn poll(&self, events: libc::c_short, patience: Duration) -> bool {
        // SAFETY: the connection is valid; `poll` gets one entry.
        unsafe {
            let mut entry = libc::pollfd {
                fd: PQsocket(self.raw.as_ptr()),
                events,
                revents: 0,
            };
            let millis = patience.as_micros().div_ceil(1_000).min(60_000);
            libc::poll(&raw mut entry, 1, millis as c_int) > 0
        }
    }

    fn lost(&mut self) -> Failure {
        self.is_broken = true;
        DatabaseError::Unavailable(self.message()).into()
    }

    fn message(&self) -> String {
        // SAFETY: the connection is valid; its message ends with NUL and is copied.
        one_line(unsafe { CStr::from_ptr(PQerrorMessage(self.raw.as_ptr())) })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the connection is finished once and not used afterwards. The socket does not block.
        unsafe { PQfinish(self.raw.as_ptr()) };
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Failure {
        Failure {
            error,
            is_conflict: false,
        }
    }
}

fn text(text: &str) -> Done<CString> {
    let refused = |_| DatabaseError::Refused("a text contains NUL".to_owned()).into();
    CString::new(text).map_err(refused)
}

struct ResultSet(NonNull<PGresult>);

impl ResultSet {
    fn read(&self) -> Done<Rows> {
        let raw = self.0.as_ptr();
        // SAFETY: the result is valid; rows and texts are read within their bounds, and copied.
        unsafe {
            match PQresultStatus(raw) {
                ExecStatusType::PGRES_COMMAND_OK | ExecStatusType::PGRES_EMPTY_QUERY => {
                    Ok(Rows::new())
                }
                ExecStatusType::PGRES_TUPLES_OK => Ok((0..PQntuples(raw))
                    .map(|row| match PQgetisnull(raw, row, 0) {
                        1 => String::new(),
                        _ => copied(PQgetvalue(raw, row, 0)),
                    })
                    .collect()),
                _ => Err(failure(
                    &copied(PQresultErrorField(raw, SQLSTATE)),
                    copied(PQresultErrorField(raw, MESSAGE)),
                )),
            }
        }
    }
}

impl Drop for ResultSet {
    fn drop(&mut self) {
        // SAFETY: the result is cleared once and not used afterwards.
        unsafe { PQclear(self.0.as_ptr()) };
    }
}

/// # Safety
///
/// `text` is null or ends with NUL.
unsafe fn copied(text: *const c_char) -> String {
    match text.is_null() {
        true => String::new(),
        // SAFETY: guaranteed by the caller.
        false => unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned(),
    }
}

/// Maps an error's SQLSTATE to this program's errors.
fn failure(state: &str, message: String) -> Failure {
    let text = match state {
        "" => message,
        _ => format!("{message} (SQLSTATE {state})"),
    };
    let is_conflict = matches!(state, "40001" | "40P01");
    let error = match state {
        // Lock timeout, statement timeout, serialization failure, deadlock.
        "55P03" | "57014" | "40001" | "40P01" => DatabaseError::Busy(text),
        "23505" => DatabaseError::Duplicate(text),
        // Read-only: the server may have become a standby. 25P02, 25P03 and no code: the session must not be used
        // again.
        "25006" | "25P02" | "25P03" | "" => DatabaseError::Unavailable(text),
        _ => match &state[..2] {
            // Connection errors, lack of resources, shutdown by an operator, system errors.
            "08" | "53" | "57" | "58" => DatabaseError::Unavailable(text),
            _ => DatabaseError::Refused(text),
        },
    };
    Failure { error, is_conflict }
}
