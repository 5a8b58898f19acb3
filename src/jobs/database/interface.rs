//! What the callers of a database see of it.

use super::DatabaseError;

/// The purpose of a connection. Duties share no connections, so that one duty cannot exhaust those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Reads and writes of requests.
    Request,
    /// Lists and counts.
    List,
    /// Polling for streams, and notifications to other processes.
    Watch,
    Claim,
    Complete,
    Renew,
    Maintain,
}

/// One value for each duty.
pub(super) struct PerDuty<T>([T; 7]);

impl<T> PerDuty<T> {
    pub(super) fn new(make: impl FnMut(Duty) -> T) -> PerDuty<T> {
        use Duty::*;
        PerDuty([Request, List, Watch, Claim, Complete, Renew, Maintain].map(make))
    }

    pub(super) fn of(&self, duty: Duty) -> &T {
        &self.0[duty as usize]
    }
}

/// The first column of each row of a statement.
pub(crate) type Rows = Vec<String>;

/// Runs statements. The placeholder `{in}` stands for the document.
pub(crate) trait Session {
    fn run(&mut self, sql: &str, document: &str) -> Result<Rows, DatabaseError>;
}

/// The work of one transaction. It may be called again after a conflict.
pub(crate) type Work<'a> = dyn FnMut(&mut dyn Session) -> Result<(), DatabaseError> + 'a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

pub(crate) trait Database: Send + Sync {
    fn dialect(&self) -> Dialect;

    /// Whether other processes on other machines may use it.
    fn is_shared(&self) -> bool {
        self.dialect() == Dialect::Postgres
    }

    /// Runs a statement that changes nothing.
    fn read(&self, duty: Duty, sql: &str, document: &str) -> Result<Rows, DatabaseError>;

    /// Runs one statement. Its changes are visible, and survive the end of this process.
    fn write(&self, duty: Duty, sql: &str, document: &str) -> Result<Rows, DatabaseError>;

    /// Runs several statements, all or none. An error of `work` rolls them back.
    fn transact(&self, duty: Duty, work: &mut Work<'_>) -> Result<(), DatabaseError>;

    /// Makes earlier writes survive a power failure.
    fn sync(&self) -> Result<(), DatabaseError>;

    /// Notifies other processes, if there can be any.
    fn notify(&self, duty: Duty, message: &str) -> Result<(), DatabaseError>;

    /// Frees unused space. Call it from time to time.
    fn tidy(&self) -> Result<(), DatabaseError>;
}
