//! Tokens of users.

use std::sync::Arc;

use starling::auth::Authority;
use starling::auth::account::AccountKey;
use starling::chat::name::Nickname;
use starling::config::{ApiKey, Config, Secret};
use starling::shard::Flock;
use starling::shard::mail::Mail;
use starling::shard::reconfigure::Reconfigured;

use crate::cores::{self, Cores};
pub use crate::cores::{claims, sign as token};

/// What signs and checks those of accounts: for [`crate::cores::Cores::made`].
pub fn arrange(flock: &mut Flock) {
    let authority = Authority { accounts: Some(account_key()), ..Authority::clone(&flock.authority) };
    flock.authority = Arc::new(authority);
}

fn account_key() -> AccountKey {
    AccountKey::new([7; 32]).expect("any bytes are a key")
}

pub fn nickname(name: &str) -> Nickname {
    Nickname::parse(name).expect("a nickname")
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
    let known = cores::authority(&config);
    let authority = Authority { accounts: Some(account_key()), reading: 1, ..Authority::clone(&known) };
    let new = Reconfigured { config: Arc::new(config), authority: Arc::new(authority) };
    cores.mail(0, Mail::Reconfigured(Arc::new(new)));
}
