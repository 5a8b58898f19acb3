//! Checks `DATABASE_URL` before any connection.
//!
//! If libpq cannot read an address, its message repeats parts of it; and it takes the text after an `@` in a password
//! for the host. Such addresses are refused here. No message repeats a part that could belong to a user or a
//! password.

use std::path::{Path, PathBuf};

use crate::log_safe::LogSafe;

/// The address of a database. It has no `Debug`, because `Postgres` may hold a password.
pub(in crate::jobs) enum Address {
    /// The path of the file.
    Sqlite(PathBuf),
    /// A URL for libpq.
    Postgres(String),
}

const KNOWN: &str =
    "must begin with sqlite://, postgres:// or postgresql://, as sqlite://jobs.db does";
const NO_FILE: &str = "names no file; write sqlite://jobs.db, or sqlite:///folder/jobs.db";
const NO_PARAMETERS: &str = "has parameters behind the file; leave the ? and what follows it out";
const NO_HOST: &str = "has a host or a port that cannot be read; in the user and the password \
                       @ / ? # are written %40 %2F %3F %23";
const NO_ESCAPE: &str = "has a % without two hexadecimal digits; the % itself is written %25";
const NO_SPACE: &str = "has a space in it; write %20";
const NO_PAIR: &str =
    "has something behind ? that is not name=value; a = in a value is written %3D";
const NO_SCHEMA: &str = "names a schema that is not made of a-z, 0-9 and _; \
                         write options=-csearch_path%3D and its name in %22 instead";
const NO_STRICT: &str =
    "has sslaccept=strict; write sslmode=verify-full and sslrootcert=FILE instead";

/// Parameters that only Prisma reads and that libpq refuses. They have no counterpart here.
const PRISMA_ONLY: [&str; 8] = [
    "connection_limit",
    "max_connection_lifetime",
    "max_idle_connection_lifetime",
    "pgbouncer",
    "pool_timeout",
    "single_use_connections",
    "socket_timeout",
    "statement_cache_size",
];

/// # Errors
///
/// What to write instead, in words for the terminal.
pub(in crate::jobs) fn parse(url: &str) -> Result<Address, String> {
    let address = match url.split_once(':') {
        Some(("sqlite", path)) => sqlite(path.strip_prefix("//").unwrap_or(path)),
        Some(("postgres" | "postgresql", rest)) => match rest.strip_prefix("//") {
            Some(rest) => postgres(rest).map_err(str::to_owned),
            None => Err(KNOWN.to_owned()),
        },
        _ => Err(KNOWN.to_owned()),
    };
    address.map_err(|why| format!("DATABASE_URL {why}"))
}

impl Address {
    pub(in crate::jobs) fn into_url(self) -> String {
        match self {
            Address::Sqlite(path) => format!("sqlite://{}", path.display()),
            Address::Postgres(url) => url,
        }
    }
}

fn sqlite(path: &str) -> Result<Address, String> {
    let path = path.strip_suffix('?').unwrap_or(path);
    let is_memory = path.starts_with(":memory:") || path.starts_with("file:");
    if path.is_empty() || is_memory {
        return Err(NO_FILE.to_owned());
    }
    if path.contains('?') {
        return Err(NO_PARAMETERS.to_owned());
    }
    let file = Path::new(path);
    if file.is_dir() {
        let (folder, same) = (LogSafe(path), LogSafe(path.trim_end_matches('/')));
        return Err(format!("names the folder {folder}; write {same}/jobs.db"));
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    if !folder.as_os_str().is_empty() && !folder.is_dir() {
        let folder = folder.display().to_string();
        return Err(format!(
            "names the folder {}, which does not exist",
            LogSafe(&folder)
        ));
    }
    Ok(Address::Sqlite(file.to_owned()))
}

/// Parses the part after `postgres://`.
fn postgres(rest: &str) -> Result<Address, &'static str> {
    if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(NO_SPACE);
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (user, hosts) = match authority.split_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    // A second `@`, or one after the first of / ? #, means that the password holds one of these characters.
    if hosts.contains('@') || tail.contains(['@', '#']) || !hosts.split(',').all(is_host) {
        return Err(NO_HOST);
    }
    if !rest.split('%').skip(1).all(is_escape) {
        return Err(NO_ESCAPE);
    }
    let (name, given) = tail.split_once('?').unwrap_or((tail, ""));
    let mut url = format!("postgres://{user}{hosts}{name}");
    let parameters = parameters(given)?;
    if !parameters.is_empty() {
        url = format!("{url}?{parameters}");
    }
    Ok(Address::Postgres(url))
}

/// A host name or address, optionally with a port. Addresses with colons are in brackets.
fn is_host(host: &str) -> bool {
    let port = match host.strip_prefix('[') {
        None => host.find(':').map_or("", |colon| &host[colon..]),
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if !address.is_empty() => port,
            _ => return false,
        },
    };
    matches!(port, "" | ":")
        || port
            .strip_prefix(':')
            .is_some_and(|n| n.parse::<u16>().is_ok())
}

/// Whether the text after a `%` is a valid escape.
fn is_escape(rest: &str) -> bool {
    let digits = rest.as_bytes().first_chunk::<2>();
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00")
}

/// Returns the parameters for libpq.
fn parameters(given: &str) -> Result<String, &'static str> {
    let (mut kept, mut options) = (Vec::new(), Vec::new());
    for pair in given.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(NO_PAIR)?;
        if name.is_empty() || value.contains('=') {
            return Err(NO_PAIR);
        }
        match (name, value) {
            ("schema", "") | ("sslaccept", "accept_invalid_certs") => {}
            ("schema", value) if !is_plain(value) => return Err(NO_SCHEMA),
            ("schema", value) => options.push(format!("-csearch_path%3D{value}")),
            ("options", value) => options.push(value.to_owned()),
            ("sslaccept", _) => return Err(NO_STRICT),
            (name, _) if PRISMA_ONLY.contains(&name) => {}
            _ => kept.push(pair.to_owned()),
        }
    }
    if !options.is_empty() {
        kept.push(format!("options={}", options.join("%20")));
    }
    Ok(kept.join("&"))
}

/// Whether PostgreSQL reads the name without quotes as it is.
fn is_plain(schema: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    schema.bytes().all(fits) && !schema.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn accepted(url: &str) -> String {
        parse(url)
            .unwrap_or_else(|why| panic!("{url}: {why}"))
            .into_url()
    }

    #[track_caller]
    fn refused(url: &str) -> String {
        let message = parse(url)
            .err()
            .unwrap_or_else(|| panic!("{url} is accepted"));
        assert!(
            message.starts_with("DATABASE_URL ") && !message.contains('\n'),
            "{message}"
        );
        message
    }

    #[test]
    fn sqlite_takes_a_file_in_a_folder_that_exists() {
        for (url, same) in [
            ("sqlite://jobs.db", "sqlite://jobs.db"),
            ("sqlite:jobs.db", "sqlite://jobs.db"),
            ("sqlite:///tmp/jobs.db", "sqlite:///tmp/jobs.db"),
            ("sqlite:/tmp/jobs.db?", "sqlite:///tmp/jobs.db"),
            ("sqlite://./jobs.db", "sqlite://./jobs.db"),
        ] {
            assert_eq!(accepted(url), same);
        }
        for url in [
            "sqlite://",
            "sqlite:",
            "sqlite://?",
            "sqlite://:memory:",
            "sqlite::memory:",
            "sqlite://file::memory:?cache=shared",
        ] {
            assert!(refused(url).contains("sqlite://jobs.db"), "{url}");
        }
        assert!(refused("sqlite:///tmp").contains("/tmp/jobs.db"));
        assert!(refused("sqlite:///tmp/").contains("/tmp/jobs.db"));
        assert!(refused("sqlite://jobs.db?mode=rwc").contains("parameters"));
        let message = refused("sqlite:///nowhere/at\nall/jobs.db");
        assert!(message.contains(r"/nowhere/at\nall, which"), "{message}");
    }

    #[test]
    fn the_refusal_of_an_unknown_scheme_names_the_known_ones() {
        for url in [
            "",
            "jobs.db",
            ":memory:",
            "file::memory:",
            "file:./dev.db",
            "mysql://hugo:hunter2@db/jobs",
            "postgres:jobs",
            "host=db user=hugo password=hunter2",
        ] {
            let message = refused(url);
            assert!(
                message.contains("sqlite://, postgres:// or postgresql://"),
                "{message}"
            );
            assert!(
                !message.contains("hunter2") && !message.contains("hugo"),
                "{message}"
            );
        }
    }

    #[test]
    fn postgres_takes_what_libpq_takes() {
        for url in [
            "postgres://hugo:hunter2@db.example/jobs",
            "postgres://hugo:h%40u%2Fn%3Ft%23@db.example:5432/jobs?sslmode=require",
            "postgres://hugo:a:b@db:/jobs",
            "postgres://one:1,two,[::1]:3,[::2]/jobs",
            "postgres:///jobs?host=/var/run/postgresql&user=hugo",
            "postgres://%2Fvar%2Frun/jobs",
            "postgres://hugo@db/jobs?options=-csearch_path%3Dqueue",
            "postgres://",
        ] {
            assert_eq!(accepted(url), url);
        }
        assert_eq!(accepted("postgresql://db/jobs"), "postgres://db/jobs");
        assert_eq!(accepted("postgres://db/jobs?"), "postgres://db/jobs");
        assert_eq!(accepted("postgres://db?&"), "postgres://db");
    }

    #[test]
    fn what_prisma_alone_reads_is_translated_or_left_out() {
        for (given, kept) in [
            ("schema=queue", "?options=-csearch_path%3Dqueue"),
            (
                "options=-cwork_mem%3D8MB&sslmode=disable&schema=a_1",
                "?sslmode=disable&options=-cwork_mem%3D8MB%20-csearch_path%3Da_1",
            ),
            ("schema=", ""),
            (
                "connection_limit=5&pool_timeout=2&pgbouncer=true&socket_timeout=3",
                "",
            ),
            ("statement_cache_size=0&sslaccept=accept_invalid_certs", ""),
        ] {
            let url = accepted(&format!("postgresql://db/jobs?{given}"));
            assert_eq!(url, format!("postgres://db/jobs{kept}"));
        }
        for (given, message) in [
            ("schema=Queue", "options=-csearch_path%3D"),
            ("schema=a%20b", "options=-csearch_path%3D"),
            ("sslaccept=strict", "sslmode=verify-full"),
            ("sslmode", "name=value"),
            ("options=-csearch_path=a", "%3D"),
        ] {
            assert!(
                refused(&format!("postgres://db/jobs?{given}")).contains(message),
                "{given}"
            );
        }
    }

    /// Each password has an unescaped special character, in a place where users put it.
    #[test]
    fn no_refusal_repeats_a_piece_of_user_or_password() {
        for password in [
            "pa@ss",
            "pa/ss",
            "pa?ss",
            "pa#ss",
            "@pass",
            "pass@",
            "/pass",
            "?pass",
            "#pass",
            "1/pass",
            "1?pass=1",
            "pa@ss?b=c",
            "pa@ss/b",
            "[pass",
            "pa ss@",
            "pa@ss\n",
            "pa%ss",
            "pass%",
            "pass%4",
            "pa%00ss",
            "pa\tss",
            "1/pass?pass=pass",
            "pa/ss?x",
            "@1/pass",
            "1?a=pass&b",
        ] {
            for rest in [
                "db.example/jobs",
                "db.example:5432/jobs?sslmode=require",
                "[::1]/jobs",
                "",
            ] {
                let url = format!("postgres://hugo:{password}@{rest}");
                // A bracket at the beginning is an ordinary character of the password.
                if password == "[pass" {
                    assert_eq!(accepted(&url), url);
                    continue;
                }
                let message = refused(&url);
                let words = message.to_lowercase();
                assert!(
                    !words.contains("hugo") && !words.contains("pass@"),
                    "{url}: {message}"
                );
                assert!(
                    !words.contains("ss@") && !words.contains(password),
                    "{url}: {message}"
                );
                assert!(
                    message.contains("%40") || message.contains("%25") || message.contains("%20"),
                    "{message}"
                );
            }
        }
        for url in [
            "postgres://hugo:hunter2",
            "postgres://hugo:hunter2/jobs",
            "postgres://[::1/jobs",
            "postgres://[]/jobs",
            "postgres://[::1]x/jobs",
            "postgres://db:99999/jobs",
        ] {
            let message = refused(url);
            assert!(
                !message.contains("hunter2") && !message.contains("hugo"),
                "{message}"
            );
        }
    }
}
