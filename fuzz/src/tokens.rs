//! Tokens: of the operator, of accounts and of sessions, forged and signed.

use std::sync::OnceLock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use starling::auth::account::{AccountKey, is_ours};
use starling::auth::jwt::{KeySource, Options, Signer, Verifier};
use starling::auth::resume::{ResumeKey, Ticket};
use starling::config::JwtAlgorithm;

const SECRET: &str = "a secret of thirty-two bytes, yes";
const NOW_MS: u64 = 1_800_000_000_000;

struct Keys {
    verifier: Verifier,
    signer: Signer,
    accounts: AccountKey,
    resume: ResumeKey,
    hmac: hmac::Key,
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let source = KeySource::Secret(SECRET);
        Keys {
            verifier: Verifier::new(JwtAlgorithm::Hs256, source, None, None).expect("a secret"),
            signer: Signer::new(JwtAlgorithm::Hs256, source).expect("a secret"),
            accounts: AccountKey::new([7; 32]).expect("any bytes are a key"),
            resume: ResumeKey::new([7; 32]),
            hmac: hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()),
        }
    })
}

/// The bytes as a token, which nobody has signed, and so it says nothing; as the claims of one that is signed, which come back as they are when they are
/// signed again, and are void when a letter of it is another; and as a signed header, which must not decide how it is checked.
pub fn run(input: &[u8]) {
    let keys = keys();
    if let Ok(token) = std::str::from_utf8(input) {
        is_ours(token);
        assert_eq!(keys.resume.check(token), None, "a forged session");
        assert!(keys.accounts.verify(token, NOW_MS).is_err(), "a forged account");
        if let Ok(claims) = keys.verifier.verify(token, NOW_MS) {
            let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else {
                panic!("{claims:?} of what has no three parts");
            };
            assert_eq!(sign(&keys.hmac, &format!("{head}.{body}")), signature, "{claims:?} are forged");
        }
    }
    let claims = signed(keys, br#"{"typ":"JWT","alg":"HS256"}"#, input);
    if let Ok(claims) = keys.verifier.verify(&claims, NOW_MS) {
        assert!(claims.expires_at_ms.is_none_or(|at| at > NOW_MS), "a token that has ended");
        // Tokens end with whole seconds.
        let at = claims.expires_at_ms.map(|at| at / 1000 * 1000);
        let whole = starling::auth::Claims { expires_at_ms: at, ..claims.clone() };
        if at.is_none_or(|at| at > NOW_MS) {
            let token = keys.signer.sign(&whole, &Options::default()).expect("claims can be signed");
            assert_eq!(keys.verifier.verify(&token, NOW_MS), Ok(whole));
            let mut forged = token.into_bytes();
            let middle = forged.len() / 2;
            forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("letters");
            assert!(keys.verifier.verify(&forged, NOW_MS).is_err(), "a letter is another");
        }
        let ticket = Ticket { session: NOW_MS, nickname: claims.nickname.clone(), claims: Some(claims) };
        let token = keys.resume.issue(&ticket);
        let back = keys.resume.check(&token);
        if token.len() <= 65_536 {
            assert_eq!(back, Some(ticket), "a session's token says something else");
        }
    }
    let header = signed(keys, input, br#"{"sub":"zoe"}"#);
    if keys.verifier.verify(&header, NOW_MS).is_ok() {
        let header: serde_json::Value = serde_json::from_slice(input).expect("a header is JSON");
        assert_eq!(header["alg"], "HS256", "another algorithm");
        assert!(header.get("crit").is_none_or(serde_json::Value::is_null), "an extension");
    }
}

fn signed(keys: &Keys, header: &[u8], claims: &[u8]) -> String {
    let said = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(&keys.hmac, &said);
    format!("{said}.{signature}")
}

fn sign(key: &hmac::Key, said: &str) -> String {
    URL_SAFE_NO_PAD.encode(hmac::sign(key, said.as_bytes()))
}
