//! Users' tokens: JSON Web Tokens (RFC 7519), signed with the one algorithm that is configured.

use std::error::Error;
use std::fmt;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{PublicEncryptingKey, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use jsonwebtoken::crypto::sign;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, EncodingKey, Header, Validation, decode, decode_header, encode,
};
use serde::Deserialize;
use serde_json::{Number, Value};

use super::{Audience, Claims, TokenError, WrittenClaims};
use crate::chat::name::{NameError, Nickname};
use crate::config::JwtAlgorithm;

/// Longest token that is looked at, in bytes: the upper end of what an operator may allow in a hello.
pub(super) const TOKEN_BYTES_MAX: usize = 1_048_576;

/// A key set before its keys are understood.
#[derive(Deserialize)]
struct WrittenSet {
    keys: Vec<serde_json::Value>,
}

/// Key material, as text that the caller has read.
#[derive(Debug, Clone, Copy)]
pub enum KeySource<'a> {
    /// The shared secret of HS256.
    Secret(&'a str),
    /// A public key (RFC 7468), or for signing a private one.
    Pem(&'a [u8]),
    /// A JSON Web Key Set (RFC 7517).
    Jwks(&'a str),
}

/// Why a key cannot be used: a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError(String);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for KeyError {}

/// Checks tokens.
#[derive(Debug, Clone)]
pub struct Verifier {
    validation: Validation,
    keys: Vec<(Option<String>, DecodingKey)>,
    /// Whether a token names the key that it is signed with.
    is_set: bool,
    audience: Option<String>,
    issuer: Option<String>,
}

/// Makes tokens.
#[derive(Clone)]
pub struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

/// What a token may say beside the claims.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// From when on it is good, in milliseconds since the Unix epoch.
    pub not_before_ms: Option<u64>,
    /// Whom it is for.
    pub audience: Option<String>,
    /// Who gives it out.
    pub issuer: Option<String>,
    /// Which key it is signed with (`kid`).
    pub key_id: Option<String>,
    /// When it is given out, in milliseconds since the Unix epoch (`iat`).
    pub issued_at_ms: Option<u64>,
}

impl Verifier {
    /// A verifier of tokens that are signed with `algorithm`, for an `audience` and by an `issuer` if these are given.
    ///
    /// # Errors
    /// When the key material is not of the algorithm.
    pub fn new(
        algorithm: JwtAlgorithm,
        source: KeySource,
        audience: Option<String>,
        issuer: Option<String>,
    ) -> Result<Self, KeyError> {
        let unusable = |error: jsonwebtoken::errors::Error| {
            KeyError(format!("this is no public key for {}: {error}", algorithm.word()))
        };
        let algorithm_of = algorithm_of(algorithm);
        let keys = match (source, algorithm) {
            (KeySource::Secret(secret), JwtAlgorithm::Hs256) => {
                vec![(None, DecodingKey::from_secret(secret.as_bytes()))]
            }
            (KeySource::Secret(_), _) => {
                return Err(KeyError(format!(
                    "{} is checked with a public key, not a secret",
                    algorithm.word()
                )));
            }
            (KeySource::Pem(_), JwtAlgorithm::Hs256) => {
                return Err(KeyError("HS256 is checked with a secret, not a public key".to_owned()));
            }
            (KeySource::Pem(pem), JwtAlgorithm::Rs256) => {
                vec![(None, DecodingKey::from_rsa_pem(pem).map_err(unusable)?)]
            }
            (KeySource::Pem(pem), JwtAlgorithm::Es256) => {
                vec![(None, DecodingKey::from_ec_pem(pem).map_err(unusable)?)]
            }
            (KeySource::Pem(pem), JwtAlgorithm::EdDsa) => {
                vec![(None, DecodingKey::from_ed_pem(pem).map_err(unusable)?)]
            }
            (KeySource::Jwks(text), _) => keys_of_set(algorithm, text)?,
        };
        // A key set drops such keys itself, for the sake of the others.
        if keys.iter().any(|(_, key)| !is_usable(algorithm, key)) {
            return Err(KeyError(format!(
                "this is no key that can check {}: {}",
                algorithm.word(),
                need(algorithm)
            )));
        }
        let mut validation = Validation::new(algorithm_of);
        // Time, audience and issuer are looked at here, by the time that is handed in.
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        validation.required_spec_claims.clear();
        Ok(Verifier { validation, keys, is_set: matches!(source, KeySource::Jwks(_)), audience, issuer })
    }

    /// What a token says, at the time `now_ms` since the Unix epoch.
    ///
    /// # Errors
    /// When it is not to be believed, or not any more.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Claims, TokenError> {
        let written = self.decode(token)?;
        self.check(written, now_ms)
    }

    /// The same, with the moment at which it was given out, in milliseconds since the Unix epoch, if it says so.
    pub(super) fn verify_dated(&self, token: &str, now_ms: u64) -> Result<(Claims, Option<u64>), TokenError> {
        let written = self.decode(token)?;
        let issued_s = written.iat.as_ref().and_then(Value::as_number);
        let issued_at_ms = issued_s.map(|seconds| moment("iat", seconds)).transpose()?;
        Ok((self.check(written, now_ms)?, issued_at_ms))
    }

    /// What is written in a token that is signed as it should be.
    fn decode(&self, token: &str) -> Result<WrittenClaims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(bad("the token is too long"));
        }
        let header = decode_header(token).map_err(|error| bad(explain(&error)))?;
        // RFC 7515 section 4.1.11: whoever does not understand an extension that is critical must refuse, and none is
        // understood here.
        if header.crit.is_some() {
            return Err(bad("the token asks for extensions (`crit`) that this server does not know"));
        }
        let named = |(kid, _): &&(Option<String>, DecodingKey)| *kid == header.kid;
        let key = match &self.keys[..] {
            [(_, key)] if !self.is_set || header.kid.is_none() => key,
            keys if header.kid.is_some() => {
                &keys
                    .iter()
                    .find(named)
                    .ok_or_else(|| bad("the token names a key (`kid`) that is not known"))?
                    .1
            }
            _ => return Err(bad("the token does not name its key (`kid`), and there are several")),
        };
        Ok(decode(token, key, &self.validation).map_err(|error| bad(explain(&error)))?.claims)
    }

    fn check(&self, written: WrittenClaims, now_ms: u64) -> Result<Claims, TokenError> {
        let expires_at_ms = written.exp.map(|seconds| moment("exp", &seconds)).transpose()?;
        let not_before_ms = written.nbf.map(|seconds| moment("nbf", &seconds)).transpose()?;
        match (&self.audience, &written.aud) {
            (Some(audience), Some(named)) if named.contains(audience) => {}
            (None, None) => {}
            (Some(_), None) => return Err(bad("the token names no audience (`aud`)")),
            // RFC 7519 section 4.1.3: whoever is not named must refuse.
            (_, Some(_)) => return Err(bad("the token is for another audience (`aud`)")),
        }
        if self.issuer.is_some() && self.issuer != written.iss {
            return Err(bad("the token is from another issuer (`iss`)"));
        }
        let nickname = Nickname::parse(&written.sub)
            .map_err(|error| bad(format!("the token's `sub` is no nickname: {}", explain_name(error))))?;
        if not_before_ms.is_some_and(|at| at > now_ms) {
            return Err(bad("the token is not valid yet (`nbf`)"));
        }
        if expires_at_ms.is_some_and(|at| at <= now_ms) {
            return Err(TokenError::Expired);
        }
        let WrittenClaims { admin: is_admin, rooms, tags, .. } = written;
        Ok(Claims { nickname, is_admin, rooms, tags, expires_at_ms, account_at_ms: None })
    }
}

impl Signer {
    /// A signer with `algorithm`, by the shared secret of HS256 or a private key.
    ///
    /// # Errors
    /// When the key material is not of the algorithm.
    pub fn new(algorithm: JwtAlgorithm, source: KeySource) -> Result<Self, KeyError> {
        let unusable = |error: jsonwebtoken::errors::Error| {
            KeyError(format!(
                "this is no private key for {} ({error}): it takes PEM with `BEGIN PRIVATE KEY` (PKCS #8; \
                 `openssl pkcs8 -topk8 -nocrypt` makes it from older forms)",
                algorithm.word()
            ))
        };
        let key = match (source, algorithm) {
            (KeySource::Secret(secret), JwtAlgorithm::Hs256) => EncodingKey::from_secret(secret.as_bytes()),
            (KeySource::Pem(pem), JwtAlgorithm::Rs256) => EncodingKey::from_rsa_pem(pem).map_err(unusable)?,
            (KeySource::Pem(pem), JwtAlgorithm::Es256) => EncodingKey::from_ec_pem(pem).map_err(unusable)?,
            (KeySource::Pem(pem), JwtAlgorithm::EdDsa) => EncodingKey::from_ed_pem(pem).map_err(unusable)?,
            (_, JwtAlgorithm::Hs256) => return Err(KeyError("HS256 is signed with a secret".to_owned())),
            _ => return Err(KeyError(format!("{} is signed with a private key", algorithm.word()))),
        };
        if matches!(source, KeySource::Secret("")) {
            return Err(KeyError("HS256 is signed with a secret that is not empty".to_owned()));
        }
        let algorithm_of = algorithm_of(algorithm);
        // A key of another size or curve, or a public one, shows only when it signs.
        sign(b"", &key, algorithm_of).map_err(unusable)?;
        Ok(Signer { algorithm: algorithm_of, key })
    }

    /// A token that says `claims`. The times between which it is good are whole seconds, rounded so that it is never good for longer than
    /// asked; when it was given out is told to the millisecond.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign(&self, claims: &Claims, options: &Options) -> Result<String, KeyError> {
        let written = WrittenClaims {
            sub: claims.nickname.as_str().to_owned(),
            admin: claims.is_admin,
            rooms: claims.rooms.clone(),
            tags: claims.tags.clone(),
            exp: claims.expires_at_ms.map(|ms| Number::from(ms / 1000)),
            nbf: options.not_before_ms.map(|ms| Number::from(ms.div_ceil(1000))),
            iat: options.issued_at_ms.map(|ms| {
                if ms % 1000 == 0 { Value::from(ms / 1000) } else { Value::from(ms as f64 / 1000.0) }
            }),
            aud: options.audience.clone().map(Audience::One),
            iss: options.issuer.clone(),
        };
        let header = Header { kid: options.key_id.clone(), ..Header::new(self.algorithm) };
        encode(&header, &written, &self.key).map_err(|error| KeyError(error.to_string()))
    }
}

fn algorithm_of(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::Hs256 => Algorithm::HS256,
        JwtAlgorithm::Rs256 => Algorithm::RS256,
        JwtAlgorithm::Es256 => Algorithm::ES256,
        JwtAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

fn keys_of_set(algorithm: JwtAlgorithm, text: &str) -> Result<Vec<(Option<String>, DecodingKey)>, KeyError> {
    let set: WrittenSet = serde_json::from_str(text)
        // In the words of the library there may be what it is about.
        .map_err(|error| {
            let why = if error.is_data() { "it has no list `keys`" } else { "it is no JSON" };
            let (line, column) = (error.line(), error.column());
            KeyError(format!("this is no JSON Web Key Set: {why} (line {line}, column {column})"))
        })?;
    // One by one: RFC 7517 section 5 has keys of unknown types ignored, not the set refused.
    let known: Vec<Jwk> =
        set.keys.iter().filter_map(|key| serde_json::from_value(key.clone()).ok()).collect();
    let fitting = known.iter().filter(|key| fits(algorithm, key));
    let keys: Vec<_> = fitting
        .filter_map(|key| Some((key.common.key_id.clone(), DecodingKey::from_jwk(key).ok()?)))
        .filter(|(_, key)| is_usable(algorithm, key))
        .collect();
    if keys.is_empty() {
        let (count, name) = (set.keys.len(), algorithm.word());
        return Err(KeyError(format!(
            "none of the {count} keys of the set can check {name}: {}",
            need(algorithm)
        )));
    }
    Ok(keys)
}

/// Whether a key is one for signatures of this algorithm.
fn fits(algorithm: JwtAlgorithm, key: &Jwk) -> bool {
    let (named, is_of_type) = match (algorithm, &key.algorithm) {
        (JwtAlgorithm::Hs256, AlgorithmParameters::OctetKey(_)) => (KeyAlgorithm::HS256, true),
        (JwtAlgorithm::Rs256, AlgorithmParameters::RSA(_)) => (KeyAlgorithm::RS256, true),
        (JwtAlgorithm::Es256, AlgorithmParameters::EllipticCurve(key)) => {
            (KeyAlgorithm::ES256, key.curve == EllipticCurve::P256)
        }
        (JwtAlgorithm::EdDsa, AlgorithmParameters::OctetKeyPair(key)) => {
            (KeyAlgorithm::EdDSA, key.curve == EllipticCurve::Ed25519)
        }
        _ => return false,
    };
    let is_for_signatures = !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
    is_of_type && is_for_signatures && key.common.key_algorithm.is_none_or(|algorithm| algorithm == named)
}

/// Whether the key itself is one of the algorithm. The library takes the bytes of a key as they come (a private key, a
/// point of another curve, a short modulus), and would then refuse every token as if the user were at fault.
fn is_usable(algorithm: JwtAlgorithm, key: &DecodingKey) -> bool {
    let parses = |verification: &'static dyn VerificationAlgorithm| {
        key.try_get_as_bytes().is_ok_and(|bytes| ParsedPublicKey::new(verification, bytes).is_ok())
    };
    match algorithm {
        // Whoever knows that there is no secret can sign.
        JwtAlgorithm::Hs256 => key.try_get_as_bytes().is_ok_and(|secret| !secret.is_empty()),
        JwtAlgorithm::Rs256 => rsa_key(key).is_some(),
        JwtAlgorithm::Es256 => parses(&ECDSA_P256_SHA256_FIXED),
        JwtAlgorithm::EdDsa => parses(&ED25519),
    }
}

/// The RSA key, if its size is right. A key for encryption is held to the same bounds as signatures are checked with, 2048 to 8192 bits, but
/// when it is made; a key for signatures only when it is used.
fn rsa_key(key: &DecodingKey) -> Option<PublicEncryptingKey> {
    let der = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => {
            ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, bytes).ok()?.as_der().ok()?
        }
        DecodingKeyKind::RsaModulusExponent { n, e } => PublicKeyComponents { n, e }.as_der().ok()?,
    };
    PublicEncryptingKey::from_der(der.as_ref()).ok()
}

/// What a key must be to check tokens with an algorithm.
fn need(algorithm: JwtAlgorithm) -> &'static str {
    match algorithm {
        JwtAlgorithm::Hs256 => "it takes a secret that is not empty (in a set: of the type oct)",
        JwtAlgorithm::Rs256 => "it takes a public RSA key of 2048 to 8192 bits",
        JwtAlgorithm::Es256 => "it takes a public EC key on the curve P-256",
        JwtAlgorithm::EdDsa => "it takes a public Ed25519 key",
    }
}

fn moment(name: &str, seconds: &Number) -> Result<u64, TokenError> {
    let ms = seconds.as_f64().unwrap_or(f64::NAN) * 1000.0;
    // Up to where every whole number of milliseconds can be told apart: the year 287,396.
    if !(0.0..=9_007_199_254_740_991.0).contains(&ms) {
        return Err(bad(format!("the token's `{name}` is no time")));
    }
    // A fraction of milliseconds has no exact form: 1.001 s is a little less than that.
    Ok((ms + 0.001) as u64)
}

fn bad(why: impl Into<String>) -> TokenError {
    TokenError::Bad(why.into())
}

/// What is wrong with a name, without the character that the error itself would quote.
fn explain_name(error: NameError) -> String {
    match error {
        NameError::Empty | NameError::TooLong { .. } => error.to_string(),
        NameError::BadFirst(_) => "a name begins with a letter or a number".to_owned(),
        NameError::BadChar(_) => "a name has letters, marks, numbers, '_', '-' and '.'".to_owned(),
        NameError::Invisible(_) => "a name has no invisible characters".to_owned(),
    }
}

/// What is wrong with a token, without a word of it.
fn explain(error: &jsonwebtoken::errors::Error) -> &'static str {
    match error.kind() {
        ErrorKind::InvalidSignature => "the token's signature is not by this server's key",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            "the token is not signed with the algorithm that this server asks for"
        }
        ErrorKind::Json(_) => "the token's header or claims are not as they should be",
        _ => "this is no token",
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;
    const SECRET: &str = "a secret of thirty-two bytes, yes";

    fn verifier() -> Verifier {
        Verifier::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET), None, None).unwrap()
    }

    fn signed(claims: &serde_json::Value, header: &Header) -> String {
        encode(header, claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }

    #[track_caller]
    fn assert_bad(verifier: &Verifier, token: &str) {
        assert!(matches!(verifier.verify(token, NOW_MS), Err(TokenError::Bad(_))), "{token:?}");
    }

    #[test]
    fn claims_come_back_until_they_expire() {
        let claims = Claims {
            nickname: Nickname::parse("alice").unwrap(),
            is_admin: true,
            rooms: Some(vec!["ops-*".to_owned()]),
            tags: vec!["beta".to_owned()],
            expires_at_ms: Some(NOW_MS + 1000),
            account_at_ms: None,
        };
        let signer = Signer::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET)).unwrap();
        let token = signer.sign(&claims, &Options::default()).unwrap();
        assert_eq!(verifier().verify(&token, NOW_MS + 999), Ok(claims));
        assert_eq!(verifier().verify(&token, NOW_MS + 1000), Err(TokenError::Expired));
    }

    #[test]
    fn wrong_claims_are_bad() {
        for claims in [
            json!({}),
            json!({ "sub": "no nickname" }),
            json!({ "sub": 1 }),
            json!({ "sub": "a", "admin": "yes" }),
            json!({ "sub": "a", "rooms": "x" }),
            json!({ "sub": "a", "exp": "1900000000" }),
            json!({ "sub": "a", "exp": -1 }),
            json!({ "sub": "a", "exp": 1e300 }),
            json!({ "sub": "a", "nbf": 1_800_000_001 }),
            json!({ "sub": "a", "aud": "chat" }),
        ] {
            assert_bad(&verifier(), &signed(&claims, &Header::default()));
        }
        let good = signed(&json!({ "sub": "a", "nbf": 1_800_000_000, "iat": "today" }), &Header::default());
        assert!(verifier().verify(&good, NOW_MS).is_ok());
    }

    #[test]
    fn audience_and_issuer_must_be_the_configured_ones() {
        let (audience, issuer) = (Some("chat".to_owned()), Some("us".to_owned()));
        let verifier =
            Verifier::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET), audience, issuer).unwrap();
        let token =
            |aud, iss: &str| signed(&json!({ "sub": "a", "aud": aud, "iss": iss }), &Header::default());
        assert!(verifier.verify(&token(json!(["mail", "chat"]), "us"), NOW_MS).is_ok());
        assert_bad(&verifier, &token(json!(["mail"]), "us"));
        assert_bad(&verifier, &token(json!("chat"), "them"));
        assert_bad(&verifier, &signed(&json!({ "sub": "a", "iss": "us" }), &Header::default()));
    }

    #[test]
    fn other_algorithms_keys_and_garbage_are_bad() {
        let claims = json!({ "sub": "a" });
        assert_bad(&verifier(), &signed(&claims, &Header::new(Algorithm::HS512)));
        let other = EncodingKey::from_secret(b"another secret of thirty-two bytes");
        assert_bad(&verifier(), &encode(&Header::default(), &claims, &other).unwrap());
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        assert_bad(&verifier(), &format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims)));
        assert_bad(&verifier(), &"x".repeat(TOKEN_BYTES_MAX + 1));
        for garbage in ["", ".", "..", "a.b.c", "\u{e4}.\u{e4}.\u{e4}"] {
            assert_bad(&verifier(), garbage);
        }
    }

    #[test]
    fn a_set_is_searched_by_kid() {
        let key = |kid: &str, secret: &str| json!({ "kty": "oct", "kid": kid, "k": URL_SAFE_NO_PAD.encode(secret) });
        let set = |keys: serde_json::Value| json!({ "keys": keys }).to_string();
        let odd = json!({ "kty": "of tomorrow" });
        let of_set = |text: &str| Verifier::new(JwtAlgorithm::Hs256, KeySource::Jwks(text), None, None);
        let two = of_set(&set(json!([key("1", "other"), odd, key("2", SECRET)]))).unwrap();
        let token = |kid: Option<&str>| {
            let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
            signed(&json!({ "sub": "a" }), &header)
        };
        assert!(two.verify(&token(Some("2")), NOW_MS).is_ok());
        for kid in [Some("1"), Some("3"), None] {
            assert_bad(&two, &token(kid));
        }
        let one = of_set(&set(json!([odd, key("2", SECRET)]))).unwrap();
        assert!(one.verify(&token(None), NOW_MS).is_ok());
        assert!(of_set(&set(json!([odd]))).unwrap_err().to_string().contains("none of the 1 keys"));
        assert!(of_set("[]").is_err());
    }
}
