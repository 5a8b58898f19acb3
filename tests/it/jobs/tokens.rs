use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{Db, SECRET};
use crate::support::{Client, Reply, TempDir, TestServer, run, stderr, stdout};

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

fn sign(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    sign_with(&Header::new(algorithm), secret, claims)
}

fn sign_with(header: &Header, secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(header, claims, &key).expect("a token")
}

fn ask(client: &Client, bearer: &str) -> Reply {
    let call = client.call("GET", "/jobs/stats");
    call.header("Authorization", bearer).send()
}

fn good() -> Value {
    json!({ "sub": "alice", "exp": now() + 600 })
}

/// `alg: none`, and no signature.
fn unsigned() -> String {
    // {"alg":"none"} . {"sub":"alice","exp":9999999999} .
    "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.".to_owned()
}

#[test]
fn whatever_is_wrong_with_a_token_the_answer_is_the_same() {
    let db = Db::sqlite();
    let server = db.serve();
    let hs256 = |claims: Value| sign(Algorithm::HS256, SECRET, &claims);
    ask(&server, &format!("Bearer {}", hs256(good()))).expect(200);
    let other = "another secret, also long enough for it";
    let huge = json!({ "sub": "alice", "exp": now() + 600, "pad": "x".repeat(7_000) });
    let tokens = [
        unsigned(),
        sign(Algorithm::HS384, SECRET, &good()),
        sign(Algorithm::HS256, other, &good()),
        hs256(json!({ "sub": "alice", "exp": now() - 60 })),
        hs256(json!({ "sub": "alice", "exp": now() + 600, "nbf": now() + 60 })),
        hs256(json!({ "sub": "alice" })),
        hs256(json!({ "exp": now() + 600 })),
        hs256(json!({ "sub": "", "exp": now() + 600 })),
        hs256(huge),
        "not.a.token".to_owned(),
        String::new(),
    ];
    let mut headers: Vec<String> = tokens.iter().map(|t| format!("Bearer {t}")).collect();
    let mut critical = Header::new(Algorithm::HS256);
    critical.crit = Some(vec!["exp2".to_owned()]);
    headers.push(format!("Bearer {}", sign_with(&critical, SECRET, &good())));
    headers.push(format!("Basic {}", hs256(good())));
    headers.push(hs256(good()));
    let expected = body(server.get("/jobs/stats"));
    for header in headers {
        assert_eq!(body(ask(&server, &header)), expected, "{header}");
    }
    // A proxy may have looked at the other one.
    let bearer = format!("Bearer {}", hs256(good()));
    let twice = server.call("GET", "/jobs/stats");
    let twice = twice.header("Authorization", &bearer);
    let reply = twice.header("Authorization", "Bearer x").send();
    assert_eq!(body(reply), expected);
}

/// The body of the one refusal, without what differs each time.
#[track_caller]
fn body(reply: Reply) -> Value {
    let reply = reply.expect_problem(401, "unauthorized");
    assert_eq!(reply.header("WWW-Authenticate"), Some("Bearer"));
    let mut body = reply.json();
    body.as_object_mut().expect("an object").remove("requestId");
    body
}

#[test]
fn issuer_and_audience_must_fit_where_they_are_configured() {
    let db = Db::sqlite();
    let more = [("JWT_ISSUER", "us"), ("JWT_AUDIENCE", "jobs")];
    let server = TestServer::start(&db.variables(&more));
    for (issuer, audience, status) in [
        (json!("us"), json!("jobs"), 200),
        (json!("us"), json!(["other", "jobs"]), 200),
        (json!("them"), json!("jobs"), 401),
        (json!("us"), json!("other"), 401),
    ] {
        let mut claims = good();
        claims["iss"] = issuer;
        claims["aud"] = audience;
        let token = sign(Algorithm::HS256, SECRET, &claims);
        ask(&server, &format!("Bearer {token}")).expect(status);
    }
    let bare = sign(Algorithm::HS256, SECRET, &good());
    ask(&server, &format!("Bearer {bare}")).expect(401);
}

#[test]
fn the_subcommand_prints_a_token_that_holds() {
    let db = Db::sqlite();
    let server = db.serve();
    let dir = TempDir::new();
    let arguments = ["token", "--sub", "alice", "--role", "admin", "--ttl", "1h"];
    let output = run(&dir, &arguments, &[("JWT_SECRET", SECRET)]);
    assert!(output.status.success(), "{}", stderr(&output));
    ask(&server, &format!("Bearer {}", stdout(&output).trim())).expect(200);
}

#[test]
fn a_short_secret_stops_the_start() {
    let db = Db::sqlite();
    let dir = TempDir::new();
    for arguments in [&[][..], &["--check"]] {
        let output = run(&dir, arguments, &db.variables(&[("JWT_SECRET", "short")]));
        assert!(!output.status.success());
        let text = stderr(&output);
        let lines = text.lines().filter(|line| line.contains("JWT_SECRET"));
        assert_eq!(lines.count(), 1, "{text}");
        assert!(text.contains("at least 32 bytes"), "{text}");
    }
}

#[test]
fn a_key_that_cannot_be_read_does_not_pass_the_check() {
    let db = Db::sqlite();
    let nowhere = [("JWT_PUBLIC_KEY_FILE", "nowhere.pem")];
    let output = run(&TempDir::new(), &["--check"], &db.variables(&nowhere));
    assert!(!output.status.success());
    let text = stderr(&output);
    assert!(text.contains("JWT_PUBLIC_KEY_FILE=nowhere.pem"), "{text}");
}

/// Has openssl write a file in `dir`; `None` where it is not installed.
fn openssl(dir: &TempDir, arguments: &str, name: &str) -> Option<PathBuf> {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).args(["-out", name]);
    let run = command.current_dir(dir.path()).stderr(Stdio::null());
    let Ok(status) = run.status() else {
        super::skip("openssl", "openssl");
        return None;
    };
    assert!(status.success(), "openssl {arguments}");
    Some(dir.file(name))
}

/// A new key pair of openssl's, in PEM: a file with the private one, and one with the public one.
fn key_pair(dir: &TempDir, name: &str, options: &str) -> Option<[PathBuf; 2]> {
    let [private, public] = ["pem", "pub"].map(|end| format!("{name}.{end}"));
    let made = openssl(dir, &format!("genpkey -algorithm {options}"), &private)?;
    let told = openssl(dir, &format!("pkey -pubout -in {private}"), &public)?;
    Some([made, told])
}

type FromPem = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;

/// Algorithm, what openssl makes its key of, and how that is read.
const SIGNERS: [(Algorithm, &str, FromPem); 3] = [
    (Algorithm::RS256, "RSA", EncodingKey::from_rsa_pem),
    (Algorithm::ES256, P_256, EncodingKey::from_ec_pem),
    (Algorithm::EdDSA, "ED25519", EncodingKey::from_ed_pem),
];

const P_256: &str = "EC -pkeyopt ec_paramgen_curve:P-256";

#[test]
fn a_public_key_admits_what_its_private_key_has_signed() {
    let (dir, mut signed) = (TempDir::new(), Vec::new());
    for (algorithm, options, from_pem) in SIGNERS {
        let name = format!("{algorithm:?}");
        let Some([private, public]) = key_pair(&dir, &name, options) else {
            return;
        };
        let key = from_pem(&std::fs::read(&private).expect("a key")).expect("a key");
        let token = jsonwebtoken::encode(&Header::new(algorithm), &good(), &key).expect("a token");
        if algorithm == Algorithm::RS256 {
            let arguments = "rsa -RSAPublicKey_out -in RS256.pem";
            let pkcs1 = openssl(&dir, arguments, "pkcs1.pub").expect("it is installed");
            signed.push((pkcs1, token.clone()));
        }
        signed.push((public, token));
    }
    for (public, own) in &signed {
        let db = Db::sqlite();
        let file = public.display().to_string();
        let server = TestServer::start(&db.variables(&[("JWT_PUBLIC_KEY_FILE", &file)]));
        // The public key is no secret; and where there is one, `JWT_SECRET` does not count.
        let pem = std::fs::read_to_string(public).expect("a key");
        let by_secret = [&*pem, pem.trim(), SECRET].map(|s| sign(Algorithm::HS256, s, &good()));
        for (_, token) in &signed {
            let status = if token == own { 200 } else { 401 };
            ask(&server, &format!("Bearer {token}")).expect(status);
        }
        for token in by_secret.into_iter().chain([unsigned()]) {
            body(ask(&server, &format!("Bearer {token}")));
        }
    }
}

#[test]
fn a_key_that_no_token_could_be_checked_with_stops_the_start_in_one_line() {
    let (dir, db) = (TempDir::new(), Db::sqlite());
    let make = |options, name: &str| openssl(&dir, &format!("genpkey -algorithm {options}"), name);
    let Some(_) = make("RSA", "rsa.pem") else {
        return;
    };
    make(P_256, "p256.pem");
    make("ED25519", "ed25519.pem");
    let public = |options, name| key_pair(&dir, name, options);
    public("EC -pkeyopt ec_paramgen_curve:P-384", "p384");
    public("EC -pkeyopt ec_paramgen_curve:P-521", "p521");
    public("RSA -pkeyopt rsa_keygen_bits:1024", "short");
    public("X25519", "x25519");
    for (arguments, name) in [
        ("rsa -traditional -in rsa.pem", "pkcs1.pem"),
        ("ec -in p256.pem", "sec1.pem"),
        ("req -x509 -new -key rsa.pem -subj /CN=x", "certificate.pem"),
    ] {
        openssl(&dir, arguments, name);
    }
    std::fs::write(dir.file("empty.pem"), "").expect("written");
    std::fs::write(dir.file("garbage.pem"), b"\xff\xfe garbage").expect("written");
    let pubout = "openssl pkey -in KEY -pubout";
    let genpkey = "openssl genpkey";
    for (name, found, command) in [
        ("rsa.pem", "a private key (PRIVATE KEY)", pubout),
        ("pkcs1.pem", "a private key (RSA PRIVATE KEY)", pubout),
        ("p256.pem", "a private key (PRIVATE KEY)", pubout),
        ("sec1.pem", "a private key (EC PRIVATE KEY)", pubout),
        ("ed25519.pem", "a private key (PRIVATE KEY)", pubout),
        ("p384.pub", "P-384", genpkey),
        ("p521.pub", "P-521", genpkey),
        ("short.pub", "1024 bits", genpkey),
        ("x25519.pub", "unknown kind", "RSA, EC on P-256 and Ed25519"),
        (
            "certificate.pem",
            "a certificate",
            "openssl x509 -in CERTIFICATE -noout -pubkey",
        ),
        ("empty.pem", "is empty", pubout),
        ("garbage.pem", "no public key in PEM", pubout),
    ] {
        for arguments in [&[][..], &["--check"]] {
            let variables = db.variables(&[("JWT_PUBLIC_KEY_FILE", name)]);
            let output = run(&dir, arguments, &variables);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{name}: {text}");
            assert_eq!(text.lines().count(), 1, "{name}: {text}");
            for part in ["JWT_PUBLIC_KEY_FILE", found, command] {
                assert!(text.contains(part), "{name}: {part} is missing: {text}");
            }
        }
    }
}
