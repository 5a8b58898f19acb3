use async_task_system::Config;

use crate::support::TestServer;

/// Every variable that the contract names, its default, and values that it refuses.
const VARIABLES: [(&str, &str, &[&str]); 27] = [
    ("HOST", "127.0.0.1", &[]),
    ("PORT", "3000", &["-1", "65536", "http", "80.5"]),
    ("LOG_LEVEL", "info", &["loud", "1"]),
    ("WORKER_THREADS", "", &["0", "-1", "many"]),
    ("ENABLE_SESSION_ISOLATION", "true", &["yes", "1", "TRUE!"]),
    ("AUTO_MAP_SESSION_BY_IP", "true", &["on", "0"]),
    ("DEFAULT_SESSION", "default", &["a b", "ä", "a/b"]),
    ("TRUSTED_PROXIES", "0", &["-1", "x"]),
    ("SESSION_TIMEOUT", "1800000", &["99", "0", "1.5", "30m"]),
    ("MAX_SESSIONS", "1000", &["0", "-5"]),
    ("MAX_TASKS_PER_SESSION", "10000", &["0", "1e3"]),
    ("MAX_ACTIVE_TASKS", "100000", &["0", "x"]),
    ("MAX_STORE_BYTES", "268435456", &["1048575", "256MiB"]),
    ("MAX_BODY_BYTES", "65536", &["0", "64k"]),
    ("MAX_RESULT_BYTES", "65536", &["0", "x"]),
    ("TASK_CLEANUP_INTERVAL", "300000", &["99", "5min"]),
    ("MAX_COMPLETED_TASKS", "50", &["-1", "x"]),
    ("MAX_FAILED_TASKS", "20", &["-1", "x"]),
    ("MAX_CANCELLED_TASKS", "20", &["-1", "x"]),
    ("MAX_CONNECTIONS", "1024", &["0", "x"]),
    ("MAX_CONNECTIONS_PER_IP", "128", &["0", "x"]),
    ("HEAD_TIMEOUT", "10000", &["99", "x"]),
    ("REQUEST_TIMEOUT", "30000", &["99", "x"]),
    ("KEEP_ALIVE_TIMEOUT", "30000", &["99", "x"]),
    ("MAX_STREAMS", "1000", &["0", "x"]),
    ("METRICS", "false", &["no", "x"]),
    ("STORAGE", "memory", &["disk"]),
];

fn refusal(name: &str, value: &str) -> String {
    match Config::from_pairs([(name, value)]) {
        Ok(_) => panic!("{name}={value} is accepted"),
        Err(error) => error.to_string(),
    }
}

fn example() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example");
    let text = std::fs::read_to_string(path).expect(".env.example is there");
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn a_bad_value_is_refused_in_one_line_with_its_name_and_what_is_allowed() {
    for (name, _, refused) in VARIABLES {
        for value in refused {
            let text = refusal(name, value);
            assert!(text.contains(name) && text.contains(value), "{text}");
            assert!(!text.contains('\n'), "{text}");
            assert!(
                text.len() > name.len() + value.len() + 10,
                "what is allowed? {text}"
            );
        }
    }
}

#[test]
fn what_no_browser_could_send_is_no_origin_and_no_host() {
    for origin in [
        "*",
        "ok.example",
        "https://ok.example/",
        "null",
        "https://a b",
    ] {
        let refusal = refusal("CORS_ALLOWED_ORIGINS", origin);
        assert!(refusal.contains("https://app.example"), "{refusal}");
    }
    for host in ["http://ok.example", "a b", "ok.example/"] {
        let refusal = refusal("ALLOWED_HOSTS", host);
        assert!(refusal.contains("demo.example"), "{refusal}");
    }
    let origins = "HTTP://A.example, https://b.example:443, http://c.example:8080";
    let config = Config::from_pairs([("CORS_ALLOWED_ORIGINS", origins)]).expect("valid");
    let wanted = [
        "http://a.example",
        "https://b.example",
        "http://c.example:8080",
    ];
    assert_eq!(config.cors_allowed_origins, wanted);
}

#[test]
fn bounds_are_taken_at_their_edge() {
    for (name, value) in [
        ("PORT", "0"),
        ("PORT", "65535"),
        ("TRUSTED_PROXIES", "0"),
        ("MAX_COMPLETED_TASKS", "0"),
        ("MAX_FAILED_TASKS", "0"),
        ("MAX_CANCELLED_TASKS", "0"),
        ("SESSION_TIMEOUT", "100"),
        ("TASK_CLEANUP_INTERVAL", "100"),
        ("MAX_SESSIONS", "1"),
        ("WORKER_THREADS", "1"),
        ("MAX_STORE_BYTES", "1048576"),
        ("METRICS", "true"),
    ] {
        let config = Config::from_pairs([(name, value)]);
        assert!(config.is_ok(), "{name}={value}: {config:?}");
    }
}

#[test]
fn a_name_one_or_two_letters_off_is_refused_with_the_one_that_was_meant() {
    for (typo, meant) in [
        ("MAX_COMPLETED_TASK", "MAX_COMPLETED_TASKS"),
        ("MAX_COMPLETED_TASKSS", "MAX_COMPLETED_TASKS"),
        ("SESION_TIMEOUT", "SESSION_TIMEOUT"),
        ("SESSION_TIMOUT", "SESSION_TIMEOUT"),
        ("SESSION_TMEOT", "SESSION_TIMEOUT"),
        ("AUDITLOG", "AUDIT_LOG"),
        ("PROT", "PORT"),
        ("WORKER_THREAD", "WORKER_THREADS"),
    ] {
        let text = refusal(typo, "1");
        assert!(
            text.contains(typo) && text.contains(meant),
            "{typo}: {text}"
        );
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn other_programs_variables_are_none_of_ours() {
    for name in [
        "HOME", "PATH", "USER", "SHELL", "TERM", "LANG", "PWD", "HOSTNAME",
    ] {
        let config = Config::from_pairs([(name, "/x")]);
        assert!(config.is_ok(), "{name}: {config:?}");
    }
}

#[test]
fn the_example_file_has_every_variable_with_its_default() {
    let example = example();
    let text = format!("{example:?}");
    for (name, default, _) in VARIABLES {
        let found = example.iter().find(|(n, _)| n == name);
        let (_, value) = found.unwrap_or_else(|| panic!("{name} is missing in {text}"));
        assert_eq!(value, default, "{name}");
    }
    for name in ["AUDIT_LOG", "ALLOWED_HOSTS", "CORS_ALLOWED_ORIGINS"] {
        let value = example
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str());
        assert_eq!(value, Some(""), "{name}");
    }
}

#[test]
fn the_example_file_starts_the_server_as_it_is() {
    let mut pairs = example();
    assert!(Config::from_pairs(pairs.clone()).is_ok());
    pairs.retain(|(name, _)| name != "PORT");
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    TestServer::start(&pairs).get("/health").expect(200);
}

#[test]
fn a_log_path_that_cannot_be_opened_stops_the_start() {
    let pairs = [("PORT", "0"), ("AUDIT_LOG", "/nowhere/at/all/audit.log")];
    let config = Config::from_pairs(pairs).expect("valid");
    let server = async_task_system::Server::start(config, Default::default());
    assert!(server.is_err());
}

#[test]
fn stopping_is_harmless_when_repeated() {
    let server = TestServer::start(&[]);
    server.run("held");
    server.stop();
    server.stop();
    assert!(std::net::TcpStream::connect(server.addr()).is_err());
}
