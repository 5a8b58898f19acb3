//! Work from outside the program: the types of `EXECUTORS`, commands, and what their output says.

mod command;
mod file;
pub(crate) mod output;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use self::command::Commands;
use self::file::{OwnType, RunsAs};
use crate::executor::{ExecutorRegistry, Source};

/// The types of `EXECUTORS`.
pub(crate) struct OwnTypes {
    path: PathBuf,
    /// The types that the program has.
    others: ExecutorRegistry,
    commands: Commands,
}

/// Every mistake in the file, for a program that has these types.
pub(crate) fn mistakes(path: &Path, registry: &ExecutorRegistry) -> Vec<String> {
    let is_taken = |name: &str| registry.get(name).is_some();
    file::read(path, is_taken).err().unwrap_or_default()
}

impl OwnTypes {
    /// Adds the types of the file to `registry`.
    ///
    /// # Errors
    ///
    /// Every mistake in the file, or a thread cannot be started.
    pub(crate) fn start(
        path: &Path,
        registry: &mut ExecutorRegistry,
        max_result_bytes: usize,
    ) -> io::Result<OwnTypes> {
        let others = registry.clone();
        let types = file::read(path, |name| others.get(name).is_some());
        let invalid = |mistakes: Vec<String>| {
            io::Error::new(io::ErrorKind::InvalidInput, mistakes.join("; "))
        };
        let types = types.map_err(invalid)?;
        let own = OwnTypes {
            path: path.to_owned(),
            others,
            commands: Commands::start(max_result_bytes)?,
        };
        *registry = own.register(&types);
        Ok(own)
    }

    /// Reads the file anew. Returns the executors of attempts that begin from now on, in the place of `before`; `None` if
    /// the file has mistakes, which are logged.
    pub(crate) fn reload(&self, before: &ExecutorRegistry) -> Option<ExecutorRegistry> {
        match file::read(&self.path, |name| self.others.get(name).is_some()) {
            Ok(types) => {
                let mut registry = self.register(&types);
                registry.succeed(before);
                log::info!("The file of EXECUTORS was read anew: {} types", types.len());
                Some(registry)
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    log::error!("{mistake}");
                }
                log::error!("The types of EXECUTORS stay as they were before");
                None
            }
        }
    }

    fn register(&self, types: &[OwnType]) -> ExecutorRegistry {
        let mut registry = self.others.clone();
        for own in types {
            let registration = match &own.runs_as {
                RunsAs::Command(line) => {
                    let registration = self.commands.register(&own.name, line, &mut registry);
                    registration.source(Source::Command)
                }
                RunsAs::Remote(lease) => registry.register_remote(&own.name, *lease),
            };
            registration.concurrency(own.concurrency);
            registration.time_limit = own.time_limit;
            registration.description.clone_from(&own.description);
            registration.example.clone_from(&own.example);
        }
        registry
    }

    /// Has commands end whose attempts are over.
    pub(crate) fn close(&self) {
        self.commands.wake_all();
    }

    /// Ends what is left, at the latest by this time.
    pub(crate) fn stop(&self, kill_by: Instant) {
        self.commands.stop(kill_by);
    }
}
