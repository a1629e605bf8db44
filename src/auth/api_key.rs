//! Keys of programs that use the HTTP API: each stands for a name, as a token does.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::Claims;
use crate::chat::name::Nickname;
use crate::config::ApiKey;

/// Which key it was that somebody has shown, without telling it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyId([u8; SHA256_OUTPUT_LEN]);

impl std::fmt::Debug for KeyId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("KeyId(..)")
    }
}

/// The configured keys.
///
/// They are found by their hashes, so that the time it takes says nothing of how much of a key was guessed.
#[derive(Debug, Clone, Default)]
pub struct ApiKeys {
    by_hash: HashMap<KeyId, Claims>,
}

impl ApiKeys {
    /// The keys of the configuration.
    ///
    /// # Errors
    /// A line for the operator, when the name of a key is no nickname: it is the sender of what the program publishes.
    pub fn new(keys: &[ApiKey]) -> Result<Self, String> {
        let mut by_hash = HashMap::new();
        for ApiKey { name, key, admin } in keys {
            let nickname = Nickname::parse(name)
                .map_err(|why| format!("auth.api_keys: the name {name:?} is no nickname: {why}"))?;
            let claims = Claims {
                nickname,
                is_admin: *admin,
                rooms: None,
                tags: Vec::new(),
                expires_at_ms: None,
                account_at_ms: None,
            };
            by_hash.insert(hash(&key.0), claims);
        }
        Ok(ApiKeys { by_hash })
    }

    /// Who shows this key, and which it is.
    pub fn find(&self, key: &str) -> Option<(KeyId, &Claims)> {
        let id = hash(key);
        self.by_hash.get(&id).map(|claims| (id, claims))
    }

    /// Whether a key that was found once is still there, and stands for the same.
    pub fn has(&self, id: &KeyId, claims: &Claims) -> bool {
        self.by_hash.get(id) == Some(claims)
    }
}

fn hash(key: &str) -> KeyId {
    let hash = digest(&SHA256, key.as_bytes());
    KeyId(hash.as_ref().try_into().expect("SHA-256 has this length"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn key(name: &str, key: &str) -> ApiKey {
        ApiKey { name: name.to_owned(), key: Secret(key.to_owned()), admin: name == "ops" }
    }

    #[test]
    fn a_key_stands_for_its_name() {
        let keys = ApiKeys::new(&[key("ci", "one"), key("ops", "two")]).unwrap();
        let named = |key| keys.find(key).map(|(_, claims)| (claims.nickname.as_str(), claims.is_admin));
        assert_eq!(named("one"), Some(("ci", false)));
        assert_eq!(named("two"), Some(("ops", true)));
        for wrong in ["", "on", "one ", "ONE", "ci"] {
            assert_eq!(named(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_that_is_taken_away_or_stands_for_another_is_not_the_same() {
        let before = ApiKeys::new(&[key("ci", "one"), key("cd", "two")]).unwrap();
        let (one, claims) = before.find("one").unwrap();
        let has = |keys: &[ApiKey]| ApiKeys::new(keys).unwrap().has(&one, claims);
        assert!(has(&[key("ci", "one"), key("new", "three")]));
        assert!(!has(&[key("ci", "another"), key("cd", "two")]));
        assert!(!has(&[key("cd", "one")]));
        assert!(!has(&[ApiKey { admin: true, ..key("ci", "one") }]));
        assert!(!format!("{one:?}").contains(char::is_numeric));
    }

    #[test]
    fn a_name_that_nobody_can_have_is_refused_without_the_key() {
        let refused = ApiKeys::new(&[key("a b", "hush")]).unwrap_err();
        assert!(refused.contains("\"a b\"") && !refused.contains("hush"), "{refused}");
    }
}
