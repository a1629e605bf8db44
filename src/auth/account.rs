//! Tokens of registered users: what a login gives out, signed with a key that the server made itself.
//!
//! They are JSON Web Tokens like those of the operator's, and are checked in the same way, but with this key alone. Which key a token is
//! for says its header (`kid`), which anybody can write: it chooses who checks the token, and proves nothing.

use jsonwebtoken::decode_header;

use super::jwt::{KeyError, KeySource, Options, Signer, TOKEN_BYTES_MAX, Verifier};
use super::{Claims, TokenError};
use crate::chat::name::Nickname;
use crate::config::JwtAlgorithm;

/// What the header of our tokens says.
const KEY_ID: &str = "starling-account";

/// Who gives them out.
const ISSUER: &str = "starling";

/// The key, for signing and checking.
#[derive(Debug, Clone)]
pub struct AccountKey {
    signer: Signer,
    verifier: Verifier,
}

impl AccountKey {
    /// A key from random bytes.
    ///
    /// # Errors
    /// Never, as far as is known: any bytes are a key of HMAC.
    pub fn new(secret: [u8; 32]) -> Result<Self, KeyError> {
        // The library below takes secrets as text. Of hexadecimal digits there are as many as HMAC-SHA-256 takes without hashing them.
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let source = KeySource::Secret(&secret);
        Ok(AccountKey {
            signer: Signer::new(JwtAlgorithm::Hs256, source)?,
            verifier: Verifier::new(JwtAlgorithm::Hs256, source, None, Some(ISSUER.to_owned()))?,
        })
    }

    /// A token by which somebody is the user of this name for `lifetime_s` seconds, and the moment at which it ends, in
    /// milliseconds since the Unix epoch. Tokens from before `since_ms` are void: this one is not, though the clock may not have come so
    /// far.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn issue(
        &self,
        name: &Nickname,
        now_ms: u64,
        since_ms: u64,
        lifetime_s: u64,
    ) -> Result<(String, u64), KeyError> {
        let issued_at_ms = now_ms.max(since_ms);
        // Tokens end with whole seconds.
        let expires_at_ms = (issued_at_ms / 1000).saturating_add(lifetime_s).saturating_mul(1000);
        let claims = Claims {
            nickname: name.clone(),
            is_admin: false,
            rooms: None,
            tags: Vec::new(),
            expires_at_ms: Some(expires_at_ms),
            account_at_ms: None,
        };
        let options = Options {
            issuer: Some(ISSUER.to_owned()),
            key_id: Some(KEY_ID.to_owned()),
            issued_at_ms: Some(issued_at_ms),
            ..Options::default()
        };
        Ok((self.signer.sign(&claims, &options)?, expires_at_ms))
    }

    /// What a token says, at the time `now_ms` since the Unix epoch. Whether the account is still what it was when the token was given out,
    /// is for those to say who know the accounts.
    ///
    /// # Errors
    /// When it is not one that this key has signed, or not good any more.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Claims, TokenError> {
        let (claims, account_at_ms) = self.verifier.verify_dated(token, now_ms)?;
        match (claims.expires_at_ms, account_at_ms) {
            (Some(_), Some(_)) => Ok(Claims { account_at_ms, ..claims }),
            _ => Err(TokenError::Bad("the token does not say from when to when it is good".to_owned())),
        }
    }
}

/// Whether a token says that it is one of a registered user. It may be lying.
pub fn is_ours(token: &str) -> bool {
    token.len() <= TOKEN_BYTES_MAX
        && decode_header(token).is_ok_and(|header| header.kid.as_deref() == Some(KEY_ID))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::auth::Authority;
    use crate::auth::api_key::ApiKeys;
    use crate::auth::resume::ResumeKey;

    const NOW_MS: u64 = 1_800_000_000_123;
    const SECRET: &str = "a secret of thirty-two bytes, yes";

    fn key(byte: u8) -> AccountKey {
        AccountKey::new([byte; 32]).unwrap()
    }

    fn zoe() -> Nickname {
        Nickname::parse("Zoë").unwrap()
    }

    fn issued() -> String {
        key(7).issue(&zoe(), NOW_MS, 0, 60).unwrap().0
    }

    fn part(value: &serde_json::Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    /// A server with a key for accounts, and one for tokens of the operator's.
    fn authority(accounts: Option<AccountKey>, secret: Option<&str>) -> Authority {
        let verifier = secret
            .map(|secret| Verifier::new(JwtAlgorithm::Hs256, KeySource::Secret(secret), None, None).unwrap());
        Authority {
            verifier,
            accounts,
            api_keys: ApiKeys::default(),
            resume: ResumeKey::new([0; 32]),
            reading: 0,
        }
    }

    /// A token as the operator's own program makes it, which may name any key.
    fn of_operator(kid: Option<&str>) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
        let claims = json!({ "sub": "ops", "iss": ISSUER, "exp": 1_900_000_000, "iat": 1_700_000_000 });
        encode(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }

    #[track_caller]
    fn assert_bad(found: Result<Claims, TokenError>) {
        assert!(matches!(found, Err(TokenError::Bad(_))), "{found:?}");
    }

    #[test]
    fn a_token_is_its_users_until_it_ends() {
        let (token, expires_at_ms) = key(7).issue(&zoe(), NOW_MS, 0, 60).unwrap();
        assert_eq!(expires_at_ms, 1_800_000_060_000);
        assert!(is_ours(&token));
        let claims = key(7).verify(&token, expires_at_ms - 1).unwrap();
        assert_eq!((claims.nickname.as_str(), claims.is_admin, claims.rooms), ("Zoë", false, None));
        assert_eq!((claims.expires_at_ms, claims.account_at_ms), (Some(expires_at_ms), Some(NOW_MS)));
        let (later, _) = key(7).issue(&zoe(), NOW_MS, NOW_MS + 1, 60).unwrap();
        assert_eq!(key(7).verify(&later, NOW_MS).unwrap().account_at_ms, Some(NOW_MS + 1));
        assert_eq!(key(7).verify(&token, expires_at_ms), Err(TokenError::Expired));
        assert_bad(key(8).verify(&token, NOW_MS));
    }

    #[test]
    fn what_others_sign_is_bad_whatever_it_says() {
        let header = json!({ "alg": "none", "kid": KEY_ID });
        let claims = json!({ "sub": "Zoë", "iss": ISSUER, "exp": 1_900_000_000, "iat": 1_700_000_000 });
        assert_bad(key(7).verify(&format!("{}.{}.", part(&header), part(&claims)), NOW_MS));
        // An algorithm of public keys in the header, and a MAC below it.
        let token = issued();
        let (_, rest) = token.split_once('.').unwrap();
        for algorithm in ["RS256", "ES256", "HS512", "EdDSA"] {
            let header = json!({ "alg": algorithm, "kid": KEY_ID, "typ": "JWT" });
            let token = format!("{}.{rest}", part(&header));
            assert!(is_ours(&token), "{algorithm}");
            assert_bad(key(7).verify(&token, NOW_MS));
        }
        let secret = "07".repeat(32);
        let signed = |header: &Header, claims: &serde_json::Value| {
            encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
        };
        assert!(key(7).verify(&signed(&Header::default(), &claims), NOW_MS).is_ok(), "signed as ours are");
        assert_bad(key(7).verify(&signed(&Header::new(Algorithm::HS384), &claims), NOW_MS));
        // Right by the key, but nothing that a login gives out.
        for (missing, claims) in [
            ("exp", json!({ "sub": "Zoë", "iss": ISSUER, "iat": 1_700_000_000 })),
            ("iat", json!({ "sub": "Zoë", "iss": ISSUER, "exp": 1_900_000_000 })),
            ("iss", json!({ "sub": "Zoë", "exp": 1_900_000_000, "iat": 1_700_000_000 })),
        ] {
            let found = key(7).verify(&signed(&Header::default(), &claims), NOW_MS);
            assert!(matches!(found, Err(TokenError::Bad(_))), "without {missing}: {found:?}");
        }
    }

    #[test]
    fn the_header_chooses_the_key_and_proves_nothing() {
        let both = authority(Some(key(7)), Some(SECRET));
        let named =
            |token: &str| both.verify(token, NOW_MS).map(|claims| claims.nickname.as_str().to_owned());
        assert_eq!(named(&issued()), Ok("Zoë".to_owned()));
        assert_eq!(named(&of_operator(None)), Ok("ops".to_owned()));
        assert_eq!(named(&of_operator(Some("another"))), Ok("ops".to_owned()));
        assert!(
            matches!(named(&of_operator(Some(KEY_ID))), Err(TokenError::Bad(_))),
            "goes to the other key"
        );
        let forged =
            issued().replacen(issued().split('.').next().unwrap(), &part(&json!({ "alg": "HS256" })), 1);
        assert!(!is_ours(&forged));
        assert!(matches!(named(&forged), Err(TokenError::Bad(_))), "goes to the operator's");
        for garbage in ["", ".", "..", "a.b.c", "\u{e4}.\u{e4}.\u{e4}", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert!(!is_ours(garbage));
            assert!(matches!(named(garbage), Err(TokenError::Bad(_))));
        }
    }

    #[test]
    fn a_server_without_one_of_the_keys_takes_no_such_tokens() {
        let accounts = authority(Some(key(7)), None);
        assert!(accounts.verify(&issued(), NOW_MS).is_ok());
        assert_bad(accounts.verify(&of_operator(None), NOW_MS));
        let operator = authority(None, Some(SECRET));
        assert_bad(operator.verify(&issued(), NOW_MS));
        assert!(
            operator.verify(&of_operator(Some(KEY_ID)), NOW_MS).is_ok(),
            "nobody else's key has that name"
        );
        assert!(accounts.can_verify() && operator.can_verify() && !authority(None, None).can_verify());
    }

    proptest! {
        #[test]
        fn every_change_is_noticed(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.=-]|ä") {
            let token = issued();
            let at = at.index(token.len());
            let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
            prop_assume!(changed != token);
            let both = authority(Some(key(7)), Some(SECRET));
            for changed in [&*changed, &token[..at]] {
                let _ = is_ours(changed);
                prop_assert!(matches!(key(7).verify(changed, NOW_MS), Err(TokenError::Bad(_))), "{}", changed);
                prop_assert!(matches!(both.verify(changed, NOW_MS), Err(TokenError::Bad(_))), "{}", changed);
            }
        }

        #[test]
        fn garbage_is_refused(garbage in ".{0,200}") {
            prop_assert!(!is_ours(&garbage));
            prop_assert!(key(7).verify(&garbage, NOW_MS).is_err());
        }
    }
}
