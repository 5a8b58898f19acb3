//! Authentication by bearer tokens.
//!
//! The configured key determines the algorithm; the token cannot choose. The response is the same whatever is wrong
//! with a token.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, TokenData, Validation};
use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::http::{Problem, Request};
use crate::jobs::api::public_key;
use crate::jobs::storage::User;

/// Longer tokens are refused without being decoded.
const MAX_TOKEN: usize = 8 * 1024;

/// The allowed difference between the clocks of issuer and server.
const LEEWAY_S: u64 = 5;

#[derive(Deserialize, Serialize)]
struct Claims {
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aud: Option<String>,
}

pub(crate) struct TokenVerifier {
    key: DecodingKey,
    rules: Validation,
}

/// The keys and rules for tokens. It has no `Debug`, so that keys never reach a log.
#[derive(Clone, Default)]
pub(crate) struct TokenConfig {
    /// The secret of HS256, at least 32 bytes.
    pub(crate) secret: Option<Secret>,
    /// The contents of a public key file, for [`public_key::read`].
    pub(crate) public_key: Option<Vec<u8>>,
    /// The issuer that tokens must name.
    pub(crate) issuer: Option<String>,
    /// The audience that tokens must name.
    pub(crate) audience: Option<String>,
}

impl TokenVerifier {
    /// # Errors
    ///
    /// What the configuration lacks, in words for the operator.
    pub(crate) fn new(config: &TokenConfig) -> Result<TokenVerifier, String> {
        let (key, algorithm) = match (&config.public_key, &config.secret) {
            (Some(pem), _) => public_key::read(pem)?,
            (None, Some(secret)) if secret.len() >= 32 => (
                DecodingKey::from_secret(secret.as_bytes()),
                Algorithm::HS256,
            ),
            (None, Some(_)) => return Err("JWT_SECRET must have at least 32 bytes".to_owned()),
            (None, None) => {
                let wanted =
                    "the Job API needs JWT_SECRET (at least 32 bytes) or JWT_PUBLIC_KEY_FILE";
                return Err(wanted.to_owned());
            }
        };
        let mut rules = Validation::new(algorithm);
        rules.leeway = LEEWAY_S;
        rules.validate_nbf = true;
        rules.set_required_spec_claims(&["exp", "sub"]);
        rules.validate_aud = false;
        if let Some(issuer) = &config.issuer {
            rules.set_issuer(&[issuer]);
            rules.required_spec_claims.insert("iss".to_owned());
        }
        if let Some(audience) = &config.audience {
            rules.validate_aud = true;
            rules.set_audience(&[audience]);
            rules.required_spec_claims.insert("aud".to_owned());
        }
        Ok(TokenVerifier { key, rules })
    }

    /// Returns the user that the request's token names.
    pub(crate) fn verify(&self, request: &Request<'_>) -> Result<User, Problem> {
        self.user(request).ok_or_else(|| {
            let message = "A valid token is required: Authorization: Bearer TOKEN";
            Problem::new(401, "unauthorized", message).with("WWW-Authenticate", "Bearer")
        })
    }

    fn user(&self, request: &Request<'_>) -> Option<User> {
        let token = request.bearer().filter(|token| token.len() <= MAX_TOKEN)?;
        let decoded = jsonwebtoken::decode::<Subject>(token, &self.key, &self.rules);
        let decoded = decoded.inspect_err(|error| log::debug!("A token was refused: {error}"));
        let TokenData { header, claims } = decoded.ok()?;
        // RFC 7515: an extension in `crit` that is not understood invalidates the token.
        if header.crit.is_some() {
            return None;
        }
        let usable = (1..=255).contains(&claims.sub.len()) && !claims.sub.contains('\0');
        usable.then(|| User {
            admin: claims.role.as_deref() == Some("admin"),
            name: claims.sub,
        })
    }
}

/// The only claims that are used once a token is valid.
#[derive(Deserialize)]
struct Subject {
    sub: String,
    role: Option<String>,
}

/// Issues a token for tests with curl.
///
/// # Errors
///
/// What is missing, in words for the terminal.
pub(crate) fn issue(
    config: &TokenConfig,
    subject: &str,
    role: Option<&str>,
    lifetime: Duration,
) -> Result<String, String> {
    let Some(secret) = config.secret.as_deref().filter(|s| s.len() >= 32) else {
        return Err("JWT_SECRET must be set, with at least 32 bytes, to sign a token".to_owned());
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let end = now.map_err(|_| "the clock is set before 1970")? + lifetime;
    let claims = Claims {
        sub: subject.to_owned(),
        role: role.map(str::to_owned),
        exp: end.as_secs(),
        iss: config.issuer.clone(),
        aud: config.audience.clone(),
    };
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key)
        .map_err(|error| format!("the token cannot be signed: {error}"))
}
