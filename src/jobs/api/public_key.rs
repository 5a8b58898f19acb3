//! Reads and checks the public key for tokens. A wrong key stops the start with a helpful message, instead of
//! refusing every token with 401.

use jsonwebtoken::{Algorithm, DecodingKey, crypto};

// Object identifiers, in DER, of key types and curves.
const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
const EC: &[u8] = b"\x2a\x86\x48\xce\x3d\x02\x01";
const ED25519: &[u8] = b"\x2b\x65\x70";
const P256: &[u8] = b"\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x2b\x81\x04\x00\x22";
const P521: &[u8] = b"\x2b\x81\x04\x00\x23";

// Tags of DER elements.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// Shorter keys can be broken. The library that verifies signatures refuses longer ones.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=4_096;

const MAKE_PUBLIC: &str = "make the public key: openssl pkey -in KEY -pubout";
const MAKE_P256: &str =
    "make a key on P-256: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const MAKE_RSA: &str = "make another: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072";

/// Parses a key in PEM. The key determines the algorithm.
///
/// # Errors
///
/// What was found instead, and the command that makes the right file.
pub(crate) fn read(pem: &[u8]) -> Result<(DecodingKey, Algorithm), String> {
    parse(pem).map_err(|found| format!("JWT_PUBLIC_KEY_FILE {found}"))
}

fn parse(pem: &[u8]) -> Result<(DecodingKey, Algorithm), String> {
    let text = String::from_utf8_lossy(pem);
    if text.trim().is_empty() {
        return Err(format!("is empty; {MAKE_PUBLIC}"));
    }
    let labels = labels(&text);
    if let Some(label) = labels.iter().find(|label| label.contains("PRIVATE KEY")) {
        let label = crate::log_safe::LogSafe(label);
        return Err(format!("holds a private key ({label}); {MAKE_PUBLIC}"));
    }
    let label = match labels[..] {
        ["PUBLIC KEY" | "RSA PUBLIC KEY"] => labels[0],
        ["CERTIFICATE" | "TRUSTED CERTIFICATE", ..] => {
            let make = "take its public key: openssl x509 -in CERTIFICATE -noout -pubkey";
            return Err(format!("holds a certificate; {make}"));
        }
        [_, _, ..] => return Err("holds more than one key; leave one in it".to_owned()),
        _ => return Err(format!("holds no public key in PEM; {MAKE_PUBLIC}")),
    };
    let der = pem::parse(pem).map_err(|_| broken())?.into_contents();
    match label {
        "RSA PUBLIC KEY" => rsa(&der),
        _ => of_any_kind(&der),
    }
}

fn broken() -> String {
    format!("holds a public key that is damaged; {MAKE_PUBLIC}")
}

/// The labels after each `BEGIN`.
fn labels(text: &str) -> Vec<&str> {
    let blocks = text.split("-----BEGIN ").skip(1);
    blocks
        .filter_map(|block| Some(block.split_once("-----")?.0))
        .collect()
}

/// Parses a `SubjectPublicKeyInfo`: the type of the key, then the key.
fn of_any_kind(der: &[u8]) -> Result<(DecodingKey, Algorithm), String> {
    let (kind, curve, key) = parts(der).ok_or_else(broken)?;
    let (key, algorithm) = match (kind, curve) {
        (RSA, _) => return rsa(key),
        (EC, Some(P256)) => (DecodingKey::from_ec_der(key), Algorithm::ES256),
        // The library that verifies signatures assumes this length.
        (ED25519, _) if key.len() != 32 => return Err(broken()),
        (ED25519, _) => (DecodingKey::from_ed_der(key), Algorithm::EdDSA),
        (EC, curve) => {
            let name = match curve {
                Some(P384) => "P-384",
                Some(P521) => "P-521",
                _ => "another curve than P-256",
            };
            return Err(format!("holds an EC key on {name}; {MAKE_P256}"));
        }
        _ => {
            let known = "known are RSA, EC on P-256 and Ed25519";
            return Err(format!("holds a public key of an unknown kind; {known}"));
        }
    };
    // An empty signature never fits, but an invalid key is an error even before that.
    match crypto::verify("", b"", &key, algorithm) {
        Ok(_) => Ok((key, algorithm)),
        Err(_) => Err(broken()),
    }
}

/// The type of a key, its curve if it names one, and the key itself.
type Parts<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

fn parts(mut der: &[u8]) -> Option<Parts<'_>> {
    let mut info = take(&mut der, SEQUENCE)?;
    let mut algorithm = take(&mut info, SEQUENCE)?;
    let kind = take(&mut algorithm, OBJECT_IDENTIFIER)?;
    let curve = take(&mut algorithm, OBJECT_IDENTIFIER);
    // The first byte counts the unused bits of the last byte: none.
    let key = take(&mut info, BIT_STRING)?.strip_prefix(&[0])?;
    Some((kind, curve, key))
}

fn rsa(der: &[u8]) -> Result<(DecodingKey, Algorithm), String> {
    let bits = rsa_bits(der).ok_or_else(broken)?;
    if !RSA_BITS.contains(&bits) {
        let (min, max) = (RSA_BITS.start(), RSA_BITS.end());
        return Err(format!(
            "holds an RSA key of {bits} bits; {min} to {max} are accepted, {MAKE_RSA}"
        ));
    }
    Ok((DecodingKey::from_rsa_der(der), Algorithm::RS256))
}

/// The length of the modulus.
fn rsa_bits(mut der: &[u8]) -> Option<usize> {
    let mut key = take(&mut der, SEQUENCE)?;
    let modulus = take(&mut key, INTEGER)?;
    let _exponent = take(&mut key, INTEGER)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    Some((modulus.len() - zeros) * 8 - first.leading_zeros() as usize)
}

/// Removes an element with this tag from the front of `der` and returns its content.
fn take<'a>(der: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&[found, short], mut rest) = der.split_first_chunk::<2>()?;
    let mut length = usize::from(short);
    // A long length has bytes of its own. No key needs more than two of them.
    if let 0x81 | 0x82 = short {
        let (bytes, after) = rest.split_at_checked(length - 0x80)?;
        length = bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    if found != tag {
        return None;
    }
    *der = rest;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let Err(message) = read(text.as_bytes()) else {
            panic!("{text} is accepted");
        };
        assert!(message.starts_with("JWT_PUBLIC_KEY_FILE "), "{message}");
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn the_refusal_names_what_the_file_holds_instead_of_a_public_key() {
        for (text, named) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("secret", "no public key in PEM"),
            ("-----BEGIN PUBLIC KEY", "no public key in PEM"),
            ("-----BEGIN X-----\n-----END X-----\n", "no public key"),
            (
                "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n",
                "damaged",
            ),
            (
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
                "damaged",
            ),
            (
                "-----BEGIN RSA PUBLIC KEY-----\nMAA=\n-----END RSA PUBLIC KEY-----\n",
                "damaged",
            ),
            (
                "-----BEGIN PUBLIC KEY-----\n-----BEGIN PUBLIC KEY-----\n",
                "more than one",
            ),
            (
                "-----BEGIN EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\n",
                "(EC PRIVATE KEY)",
            ),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
                "(ENCRYPTED PRIVATE KEY)",
            ),
            ("-----BEGIN CERTIFICATE-----\n", "openssl x509"),
        ] {
            assert!(refusal(text).contains(named), "{text}: {}", refusal(text));
        }
    }

    /// Tries every prefix of a key, and every change of a single byte.
    #[test]
    fn a_damaged_key_is_refused_and_harms_nothing() {
        let der = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
        let mut der = der.to_vec();
        // The base point of Ed25519.
        der.push(0x58);
        der.extend([0x66; 31]);
        assert!(of_any_kind(&der).is_ok());
        for end in 0..der.len() {
            assert!(of_any_kind(&der[..end]).is_err(), "{end}");
        }
        for at in 0..der.len() {
            for byte in 0..=255 {
                let mut other = der.clone();
                other[at] = byte;
                let _ = of_any_kind(&other);
            }
        }
    }
}
