//! Tokens by which a session goes on over another connection: signed, so that any core can tell its own server's from others.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Claims;
use crate::chat::name::Nickname;

/// Longest token that is looked at, in bytes. One that this server gave out is as long as its user's claims.
const TOKEN_BYTES_MAX: usize = 65_536;

/// The form of the payload, signed with it.
const VERSION: &[u8] = b"starling resume 1\n";

/// What a resume token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The session's number.
    pub session: u64,
    /// Its nickname when the token was given out.
    pub nickname: Nickname,
    /// What its user's token said, if there was one.
    pub claims: Option<Claims>,
}

/// The key that resume tokens are signed with.
#[derive(Clone)]
pub struct ResumeKey {
    own: hmac::Key,
    /// What other nodes sign with. All copies of a key have these in common.
    others: Arc<RwLock<Vec<hmac::Key>>>,
}

impl std::fmt::Debug for ResumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumeKey")
    }
}

#[derive(Serialize, Deserialize)]
struct Payload {
    s: u64,
    n: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    u: Option<User>,
}

#[derive(Serialize, Deserialize)]
struct User {
    a: bool,
    r: Option<Vec<String>>,
    t: Vec<String>,
    e: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<u64>,
}

impl ResumeKey {
    /// A key from random bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        ResumeKey { own: hmac::Key::new(hmac::HMAC_SHA256, &secret), others: Arc::default() }
    }

    /// Takes tokens that were signed with another secret too. The caller bounds how many.
    pub fn accept(&self, secret: [u8; 32]) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        self.others.write().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    /// A token: letters, digits, `-`, `_` and one `.`.
    pub fn issue(&self, ticket: &Ticket) -> String {
        let user = ticket.claims.as_ref().map(|claims| User {
            a: claims.is_admin,
            r: claims.rooms.clone(),
            t: claims.tags.clone(),
            e: claims.expires_at_ms,
            i: claims.account_at_ms,
        });
        let payload = Payload { s: ticket.session, n: ticket.nickname.as_str().to_owned(), u: user };
        let payload = serde_json::to_vec(&payload).expect("plain values become JSON");
        let mut token = URL_SAFE_NO_PAD.encode(&payload);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(self.sign(&payload), &mut token);
        token
    }

    /// What a token says, if it was issued with this key.
    pub fn check(&self, token: &str) -> Option<Ticket> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (payload, signature) = token.split_once('.')?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let signed = [VERSION, &payload].concat();
        let is_signed_with = |key: &hmac::Key| hmac::verify(key, &signed, &signature).is_ok(); // in constant time
        let others = || self.others.read().unwrap_or_else(PoisonError::into_inner);
        (is_signed_with(&self.own) || others().iter().any(is_signed_with)).then_some(())?;
        let Payload { s, n, u } = serde_json::from_slice(&payload).ok()?;
        let nickname = Nickname::parse(&n).ok()?;
        let claims = u.map(|user| Claims {
            nickname: nickname.clone(),
            is_admin: user.a,
            rooms: user.r,
            tags: user.t,
            expires_at_ms: user.e,
            account_at_ms: user.i,
        });
        Some(Ticket { session: s, nickname, claims })
    }

    fn sign(&self, payload: &[u8]) -> hmac::Tag {
        hmac::sign(&self.own, &[VERSION, payload].concat())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket() -> Ticket {
        let nickname = Nickname::parse("Zoë").unwrap();
        let claims = Claims {
            nickname: nickname.clone(),
            is_admin: true,
            rooms: Some(vec!["ops-*".to_owned()]),
            tags: vec!["beta".to_owned()],
            expires_at_ms: Some(1_800_000_000_000),
            account_at_ms: Some(1_700_000_000_000),
        };
        Ticket { session: u64::MAX, nickname, claims: Some(claims) }
    }

    #[test]
    fn a_ticket_comes_back_as_it_was() {
        let key = ResumeKey::new([7; 32]);
        assert_eq!(key.check(&key.issue(&ticket())), Some(ticket()));
        let guest = Ticket { claims: None, session: 1, ..ticket() };
        assert_eq!(key.check(&key.issue(&guest)), Some(guest));
        assert_eq!(ResumeKey::new([8; 32]).check(&key.issue(&ticket())), None, "another server's");
    }

    #[test]
    fn what_other_nodes_sign_with_is_taken_and_not_used() {
        let (key, other) = (ResumeKey::new([7; 32]), ResumeKey::new([8; 32]));
        let copy = key.clone();
        key.accept([8; 32]);
        for key in [key, copy] {
            assert_eq!(key.check(&other.issue(&ticket())), Some(ticket()));
            assert_eq!(other.check(&key.issue(&ticket())), None);
        }
    }

    proptest! {
        #[test]
        fn every_change_is_noticed(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.=-]|ä") {
            let key = ResumeKey::new([7; 32]);
            let token = key.issue(&ticket());
            let at = at.index(token.len());
            let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
            prop_assume!(changed != token);
            prop_assert_eq!(key.check(&changed), None);
            prop_assert_eq!(key.check(&token[..at]), None, "cut off");
        }

        #[test]
        fn garbage_is_refused(garbage in ".{0,200}") {
            prop_assert_eq!(ResumeKey::new([7; 32]).check(&garbage), None);
        }
    }
}
