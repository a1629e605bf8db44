//! Who somebody is: tokens of users (RFC 7519), keys of programs, and tokens by which a session goes on over another connection.
//! Pure: the key material and the time are handed in.

pub mod api_key;
pub mod jwt;
pub mod resume;

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::chat::name::Nickname;
use api_key::ApiKeys;
use jwt::Verifier;
use resume::ResumeKey;

/// What the cores check tokens and keys with.
#[derive(Debug)]
pub struct Authority {
    /// Checks users' tokens, if there is a key to check them with.
    pub verifier: Option<Verifier>,
    /// Finds the programs that may use the HTTP API.
    pub api_keys: ApiKeys,
    /// Signs and checks resume tokens.
    pub resume: ResumeKey,
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
