//! Who somebody is: tokens of users (RFC 7519), keys of programs, and tokens by which a session goes on over another connection.
//! Pure: the key material and the time are handed in.

pub mod account;
pub mod api_key;
pub mod jwt;
pub mod password;
pub mod resume;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use crate::chat::name::Nickname;
use account::AccountKey;
use api_key::ApiKeys;
use jwt::Verifier;
use resume::ResumeKey;

/// Whether two secrets are the same, in a time that tells nothing but their lengths.
pub fn is_same_secret(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

/// What the cores check tokens and keys with.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Checks users' tokens, if there is a key to check them with.
    pub verifier: Option<Verifier>,
    /// Signs and checks tokens of registered users, if there is a store that knows them.
    pub accounts: Option<AccountKey>,
    /// Finds the programs that may use the HTTP API.
    pub api_keys: ApiKeys,
    /// Signs and checks resume tokens.
    pub resume: ResumeKey,
    /// How often the keys have been read again: what was found out with those before is not to be relied on.
    pub reading: u64,
}

impl Authority {
    /// Whether any tokens are taken.
    pub fn can_verify(&self) -> bool {
        self.verifier.is_some() || self.accounts.is_some()
    }

    /// What a user's token says, at the time `now_ms` since the Unix epoch: checked with the key for accounts if it says that it is of that
    /// one, and with the configured key otherwise.
    ///
    /// # Errors
    /// When it is not to be believed, or not any more.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Claims, TokenError> {
        match (&self.accounts, &self.verifier) {
            (Some(accounts), _) if account::is_ours(token) => accounts.verify(token, now_ms),
            (_, Some(verifier)) => verifier.verify(token, now_ms),
            _ => Err(TokenError::Bad("the token is of no kind that this server takes".to_owned())),
        }
    }
}

/// What a user's token says, or the key of a program stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who it is of: `sub`.
    pub nickname: Nickname,
    /// Whether it is of somebody who may do everything: `admin`.
    pub is_admin: bool,
    /// The rooms it is for, names or patterns with `*`: `rooms`. `None`: all.
    pub rooms: Option<Vec<String>>,
    /// What targeted broadcasts find its sessions by: `tags`.
    pub tags: Vec<String>,
    /// When it ends, in milliseconds since the Unix epoch: `exp`.
    pub expires_at_ms: Option<u64>,
    /// When it was given out, in milliseconds since the Unix epoch, if it is the token of an account of this server: what happens to the
    /// account after that may make it void. `None` for all others.
    pub account_at_ms: Option<u64>,
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// It is no good, for this reason. The text says nothing of the token's own.
    Bad(String),
    /// It was good once.
    Expired,
}

/// Claims as tokens write them.
#[derive(Debug, Serialize, Deserialize)]
struct WrittenClaims {
    sub: String,
    #[serde(default, skip_serializing_if = "is_false")]
    admin: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rooms: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    /// Seconds since the Unix epoch; RFC 7519 section 2 allows a fraction, which is read but never written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<Number>,
    /// Only tokens of our own are asked for it; in others it may be anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aud: Option<Audience>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
}

/// One audience or several (RFC 7519 section 4.1.3).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Audience::One(one) => one == audience,
            Audience::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}
