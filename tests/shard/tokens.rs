//! Tokens of users.

use std::sync::Arc;

use starling::auth::account::AccountKey;
use starling::auth::api_key::ApiKeys;
use starling::auth::jwt::{KeySource, Options, Signer, Verifier};
use starling::auth::{Authority, Claims};
use starling::base::census::Census;
use starling::chat::name::Nickname;
use starling::config::{ApiKey, Config, JwtAlgorithm, Secret};
use starling::shard::Flock;
use starling::shard::mail::Mail;
use starling::shard::reconfigure::Reconfigured;

use crate::cores::Cores;

const SECRET: &str = "a secret of more than thirty-two bytes";

/// What checks them, and what signs and checks those of accounts: for [`crate::cores::Cores::made`].
pub fn arrange(flock: &mut Flock) {
    let verifier = Verifier::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET), None, None);
    let authority = Authority {
        verifier: Some(verifier.expect("a secret checks")),
        accounts: Some(account_key()),
        ..Authority::clone(&flock.authority)
    };
    flock.authority = Arc::new(authority);
}

fn account_key() -> AccountKey {
    AccountKey::new([7; 32]).expect("any bytes are a key")
}

/// What a token says that says no more than whose it is.
pub fn claims(name: &str) -> Claims {
    Claims {
        nickname: nickname(name),
        is_admin: false,
        rooms: None,
        tags: Vec::new(),
        expires_at_ms: None,
        account_at_ms: None,
    }
}

pub fn nickname(name: &str) -> Nickname {
    Nickname::parse(name).expect("a nickname")
}

/// A token that says this.
pub fn token(claims: &Claims) -> String {
    let signer = Signer::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET)).expect("a secret signs");
    signer.sign(claims, &Options::default()).expect("it can be signed")
}

/// A token of a registered user, given out at this moment, good for an hour.
pub fn account_token(name: &str, unix_ms: u64) -> String {
    account_key().issue(&nickname(name), unix_ms, 0, 3600).expect("it can be signed").0
}

/// The key of an admin's program, which is its name.
pub fn admin_key(name: &str) -> ApiKey {
    ApiKey { name: name.to_owned(), key: Secret(name.to_owned()), admin: true }
}

/// The configuration is read again, and is the default but for this; [`arrange`] has been called before.
pub fn reconfigure(cores: &mut Cores, set: impl FnOnce(&mut Config)) {
    let mut config = Config::default();
    config.rate.commands_per_second = 0;
    set(&mut config);
    let mut flock = Flock::of_one(Arc::default(), Arc::new(Census::new(0, 0)));
    arrange(&mut flock);
    let api_keys = ApiKeys::new(&config.auth.api_keys).expect("names");
    let authority = Authority { api_keys, reading: 1, ..Authority::clone(&flock.authority) };
    let new = Reconfigured { config: Arc::new(config), authority: Arc::new(authority) };
    cores.mail(0, Mail::Reconfigured(Arc::new(new)));
}
