//! A PgBouncer before a PostgreSQL.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::postgres::user;
use super::{TempDir, quiet_port, succeeds, wait_until};

const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A running pooler; stopped when it is dropped.
pub(crate) struct Pooler {
    child: Child,
    pub(crate) url: String,
    _dir: TempDir,
}

impl Pooler {
    /// Before the database of this address, in this mode. `None` where PgBouncer is not installed.
    pub(crate) fn before(url: &str, mode: &str) -> Option<Pooler> {
        if !Path::new(PROGRAM).exists() {
            return None;
        }
        let (_, rest) = url.split_once("://").expect("a scheme");
        let (authority, path) = rest.split_once('/').expect("a database");
        let (login, host) = authority.rsplit_once('@').expect("a user");
        let login = match login.split_once(':') {
            Some((name, password)) => format!("user={name} password={password}"),
            None => format!("user={login}"),
        };
        let (host, server_port) = host.split_once(':').unwrap_or((host, "5432"));
        let database = path.split('?').next().expect("a name");
        let port = quiet_port();
        let dir = TempDir::new();
        let settings = format!(
            "[databases]\n\
             {database} = host={host} port={server_port} {login}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {mode}\n"
        );
        let file = dir.file("pgbouncer.ini");
        std::fs::write(&file, settings).expect("settings");
        let mut command = Command::new(PROGRAM);
        command.arg("-q").arg(&file).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = user() {
            std::os::unix::fs::chown(dir.path(), Some(user), None).expect("the folder's owner");
            command.uid(user);
        }
        let child = command.spawn().expect("pgbouncer runs");
        let url = format!("postgres://anyone@127.0.0.1:{port}/{database}");
        wait_until(|| succeeds(&url, "SELECT 1"));
        Some(Pooler {
            child,
            url,
            _dir: dir,
        })
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
