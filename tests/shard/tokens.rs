//! Tokens of users, which cores take.

use std::sync::Arc;

use starling::auth::Claims;
use starling::auth::jwt::{KeySource, Options, Signer, Verifier};
use starling::chat::name::Nickname;
use starling::config::JwtAlgorithm;
use starling::shard::Flock;

const SECRET: KeySource = KeySource::Secret("a secret of thirty-two bytes, yes");

/// Has cores take tokens.
pub fn taken(flock: &mut Flock) {
    let verifier = Verifier::new(JwtAlgorithm::Hs256, SECRET, None, None).expect("a key");
    Arc::make_mut(&mut flock.authority).verifier = Some(verifier);
}

/// A token by which somebody is the user of this nickname, and what else `set` says.
pub fn token(nickname: &str, set: impl FnOnce(&mut Claims)) -> String {
    let mut claims = Claims {
        nickname: Nickname::parse(nickname).expect("a nickname"),
        is_admin: false,
        rooms: None,
        tags: Vec::new(),
        expires_at_ms: None,
        account_at_ms: None,
    };
    set(&mut claims);
    let signer = Signer::new(JwtAlgorithm::Hs256, SECRET).expect("a key");
    signer.sign(&claims, &Options::default()).expect("it can be signed")
}
