//! Users' tokens with real keys: what the verifier takes of each algorithm, and all that it must refuse.
//!
//! Tokens are made here by hand or by the library, not by our signer, wherever the signer would not make them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::prelude::*;
use serde_json::{Value, json};
use starling::auth::jwt::{KeySource, Options, Signer, Verifier};
use starling::auth::{Claims, TokenError};
use starling::chat::name::Nickname;
use starling::config::JwtAlgorithm::{self, EdDsa, Es256, Hs256, Rs256};

const NOW_S: u64 = 1_800_000_000;
const NOW_MS: u64 = NOW_S * 1000;
const SECRET: &str = "a secret of thirty-two bytes, yes";

/// The algorithms with a pair of keys, and how their files begin.
const WITH_PAIRS: [(JwtAlgorithm, &str); 3] = [(Rs256, "rs256"), (Es256, "es256"), (EdDsa, "eddsa")];

fn key(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)).unwrap()
}

fn public(name: &str) -> String {
    key(&format!("{name}-public.pem"))
}

fn private(name: &str) -> String {
    key(&format!("{name}-private.pem"))
}

fn checked_with(algorithm: JwtAlgorithm, source: KeySource) -> Verifier {
    Verifier::new(algorithm, source, None, None).unwrap()
}

fn hs256() -> Verifier {
    checked_with(Hs256, KeySource::Secret(SECRET))
}

fn part(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A token with this header and these claims, to the letter.
fn made(header: &str, claims: &str, algorithm: Algorithm, key: &EncodingKey) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let signature = sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// A token of these claims that is right in all else.
fn of_claims(claims: &str) -> String {
    made(r#"{"alg":"HS256"}"#, claims, Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()))
}

fn of_header(header: &str) -> String {
    made(header, r#"{"sub":"alice"}"#, Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()))
}

/// A token that names its key.
fn by(name: &str, kid: Option<&str>) -> String {
    let pem = private(name);
    let (algorithm, word, key) = match &name[..5] {
        "rs256" => (Algorithm::RS256, "RS256", EncodingKey::from_rsa_pem(pem.as_bytes())),
        "es256" => (Algorithm::ES256, "ES256", EncodingKey::from_ec_pem(pem.as_bytes())),
        _ => (Algorithm::EdDSA, "EdDSA", EncodingKey::from_ed_pem(pem.as_bytes())),
    };
    let header = match kid {
        Some(kid) => json!({ "alg": word, "kid": kid }),
        None => json!({ "alg": word }),
    };
    made(&header.to_string(), r#"{"sub":"alice"}"#, algorithm, &key.unwrap())
}

fn alice() -> Claims {
    Claims {
        nickname: Nickname::parse("alice").unwrap(),
        is_admin: false,
        rooms: None,
        tags: Vec::new(),
        expires_at_ms: None,
        account_at_ms: None,
    }
}

/// What the payload of a token says.
fn payload(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// Refused for a reason with `part` in it.
#[track_caller]
fn assert_bad(verifier: &Verifier, token: &str, part: &str) {
    match verifier.verify(token, NOW_MS) {
        Err(TokenError::Bad(why)) => assert!(why.contains(part), "{why:?} has no {part:?}"),
        other => panic!("{other:?} for {token}"),
    }
}

#[track_caller]
fn assert_no_key(algorithm: JwtAlgorithm, source: KeySource, part: &str) {
    let why = Verifier::new(algorithm, source, None, None).unwrap_err().to_string();
    assert!(why.contains(part), "{why:?} has no {part:?}");
}

mod keys {
    use super::*;

    #[test]
    fn each_algorithm_takes_what_its_signer_signs() {
        let claims = Claims {
            is_admin: true,
            rooms: Some(vec!["lobby".to_owned(), "team-*".to_owned()]),
            tags: vec!["beta".to_owned()],
            expires_at_ms: Some(NOW_MS + 1000),
            account_at_ms: None,
            ..alice()
        };
        let of_pair = |algorithm, name: &str| {
            let signer = Signer::new(algorithm, KeySource::Pem(private(name).as_bytes())).unwrap();
            (signer, checked_with(algorithm, KeySource::Pem(public(name).as_bytes())))
        };
        let secret = (Signer::new(Hs256, KeySource::Secret(SECRET)).unwrap(), hs256());
        let pairs = WITH_PAIRS.map(|(algorithm, name)| of_pair(algorithm, name));
        for (signer, verifier) in std::iter::once(secret).chain(pairs) {
            let token = signer.sign(&claims, &Options::default()).unwrap();
            assert_eq!(verifier.verify(&token, NOW_MS), Ok(claims.clone()));
            assert_eq!(verifier.verify(&token, NOW_MS + 999), Ok(claims.clone()));
            assert_eq!(verifier.verify(&token, NOW_MS + 1000), Err(TokenError::Expired));
        }
    }

    #[test]
    fn the_older_form_of_rsa_keys_is_known() {
        let signer = Signer::new(Rs256, KeySource::Pem(private("rs256-pkcs1").as_bytes())).unwrap();
        let verifier = checked_with(Rs256, KeySource::Pem(public("rs256-pkcs1").as_bytes()));
        let token = signer.sign(&alice(), &Options::default()).unwrap();
        assert_eq!(verifier.verify(&token, NOW_MS), Ok(alice()));
    }

    #[test]
    fn tokens_by_the_wrong_key_or_of_another_algorithm_are_bad() {
        for (algorithm, name) in WITH_PAIRS {
            let verifier = checked_with(algorithm, KeySource::Pem(public(name).as_bytes()));
            assert_eq!(verifier.verify(&by(name, None), NOW_MS), Ok(alice()));
            assert_bad(&verifier, &by(&format!("{name}-other"), None), "signature");
            for (_, other) in WITH_PAIRS.iter().filter(|(other, _)| *other != algorithm) {
                assert_bad(&verifier, &by(other, None), "algorithm");
            }
            assert_bad(&verifier, &of_claims(r#"{"sub":"alice"}"#), "algorithm");
            assert_bad(&hs256(), &by(name, None), "algorithm");
        }
        let other = EncodingKey::from_secret(b"another secret of thirty-two bytes");
        let token = made(r#"{"alg":"HS256"}"#, r#"{"sub":"alice"}"#, Algorithm::HS256, &other);
        assert_bad(&hs256(), &token, "signature");
    }

    /// The public key is known to everybody, so it must never serve as a secret.
    #[test]
    fn a_public_key_is_no_secret() {
        let verifier = checked_with(Rs256, KeySource::Pem(public("rs256").as_bytes()));
        let pem = public("rs256");
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
        for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), &der] {
            let key = EncodingKey::from_secret(secret);
            let hs256 = made(r#"{"alg":"HS256"}"#, r#"{"sub":"alice"}"#, Algorithm::HS256, &key);
            assert_bad(&verifier, &hs256, "algorithm");
            let named_rs256 = made(r#"{"alg":"RS256"}"#, r#"{"sub":"alice"}"#, Algorithm::HS256, &key);
            assert_bad(&verifier, &named_rs256, "signature");
        }
    }

    #[test]
    fn keys_that_cannot_check_are_refused_with_the_reason() {
        for (algorithm, name) in WITH_PAIRS {
            assert_no_key(algorithm, KeySource::Secret(SECRET), "not a secret");
            assert_no_key(algorithm, KeySource::Pem(b""), "no public key");
            assert_no_key(algorithm, KeySource::Pem(b"not PEM"), "no public key");
            // A private key at the server is a mistake, and would check nothing.
            let why = if algorithm == Rs256 { "it takes a public RSA key" } else { "no public key" };
            assert_no_key(algorithm, KeySource::Pem(private(name).as_bytes()), why);
            for (_, other) in WITH_PAIRS.iter().filter(|(other, _)| *other != algorithm) {
                assert_no_key(algorithm, KeySource::Pem(public(other).as_bytes()), "no public key");
            }
            let cut: String = public(name).lines().take(2).collect();
            assert_no_key(algorithm, KeySource::Pem(cut.as_bytes()), "no public key");
        }
        assert_no_key(Rs256, KeySource::Pem(private("rs256-pkcs1").as_bytes()), "public RSA key");
        assert_no_key(Rs256, KeySource::Pem(public("rsa1024").as_bytes()), "2048 to 8192 bits");
        assert_no_key(Es256, KeySource::Pem(public("es384").as_bytes()), "P-256");
        assert_no_key(Hs256, KeySource::Pem(public("rs256").as_bytes()), "not a public key");
        assert_no_key(Hs256, KeySource::Secret(""), "not empty");
    }

    fn refused(algorithm: JwtAlgorithm, source: KeySource) -> String {
        Signer::new(algorithm, source).unwrap_err().to_string()
    }

    #[test]
    fn keys_that_cannot_sign_are_refused_with_the_reason() {
        for (algorithm, name) in WITH_PAIRS {
            for text in [public(name), private("rsa1024"), private("es384"), String::new(), "x".to_owned()] {
                let why = refused(algorithm, KeySource::Pem(text.as_bytes()));
                assert!(why.contains("no private key") && why.contains("PKCS #8"), "{why}");
            }
            assert!(refused(algorithm, KeySource::Secret(SECRET)).contains("with a private key"));
        }
        let why = refused(Es256, KeySource::Pem(private("es256-sec1").as_bytes()));
        assert!(why.contains("openssl pkcs8"), "{why}");
        assert!(refused(Hs256, KeySource::Pem(private("rs256").as_bytes())).contains("with a secret"));
        assert!(refused(Hs256, KeySource::Secret("")).contains("not empty"));
        assert!(refused(Hs256, KeySource::Jwks("{\"keys\":[]}")).contains("with a secret"));
    }
}

mod sets {
    use super::*;

    /// The keys of `tests/keys/set.json`, by name.
    fn known() -> BTreeMap<String, Value> {
        let set: Value = serde_json::from_str(&key("set.json")).unwrap();
        let keys = set["keys"].as_array().unwrap().iter();
        keys.map(|key| (key["kid"].as_str().unwrap().to_owned(), key.clone())).collect()
    }

    fn set(keys: &[Value]) -> String {
        json!({ "keys": keys }).to_string()
    }

    #[test]
    fn the_key_that_is_named_checks() {
        for (algorithm, name) in WITH_PAIRS {
            let verifier = checked_with(algorithm, KeySource::Jwks(&key("set.json")));
            let other = format!("{name}-other");
            assert_eq!(verifier.verify(&by(name, Some(name)), NOW_MS), Ok(alice()));
            assert_eq!(verifier.verify(&by(&other, Some(&other)), NOW_MS), Ok(alice()));
            assert_bad(&verifier, &by(name, Some(&other)), "signature");
            assert_bad(&verifier, &by(name, Some("nobody")), "not known");
            assert_bad(&verifier, &by(name, None), "there are several");
            // Of another type: not among the keys of this algorithm.
            let (_, foreign) = WITH_PAIRS.iter().find(|(other, _)| *other != algorithm).unwrap();
            assert_bad(&verifier, &by(name, Some(foreign)), "not known");
        }
    }

    #[test]
    fn a_single_key_needs_no_name_but_a_wrong_one_is_refused() {
        for (algorithm, name) in WITH_PAIRS {
            let text = set(&[known()[name].clone()]);
            let verifier = checked_with(algorithm, KeySource::Jwks(&text));
            assert_eq!(verifier.verify(&by(name, None), NOW_MS), Ok(alice()));
            assert_eq!(verifier.verify(&by(name, Some(name)), NOW_MS), Ok(alice()));
            assert_bad(&verifier, &by(name, Some("nobody")), "not known");
            assert_bad(&verifier, &by(&format!("{name}-other"), None), "signature");
        }
    }

    #[test]
    fn a_secret_may_be_in_a_set() {
        let text = set(&[json!({ "kty": "oct", "kid": "s", "k": part(SECRET) }), known()["rs256"].clone()]);
        let verifier = checked_with(Hs256, KeySource::Jwks(&text));
        assert_eq!(verifier.verify(&of_header(r#"{"alg":"HS256","kid":"s"}"#), NOW_MS), Ok(alice()));
        assert_eq!(verifier.verify(&of_header(r#"{"alg":"HS256"}"#), NOW_MS), Ok(alice()));
    }

    #[test]
    fn other_keys_are_passed_over() {
        for (algorithm, name) in WITH_PAIRS {
            let good = known()[name].clone();
            let with = |field: &str, value: &str| {
                let mut key = good.clone();
                key[field] = json!(value);
                key
            };
            let mut odd: Vec<Value> = known().into_values().filter(|key| key["kty"] != good["kty"]).collect();
            odd.extend([
                with("use", "enc"),
                with("alg", "HS256"),
                with("kty", "of tomorrow"),
                json!({}),
                json!(1),
                json!({ "kty": "oct", "k": part(SECRET) }),
                // Right in its type, wrong in its numbers.
                with(if algorithm == Rs256 { "n" } else { "x" }, "AQAB"),
                with(if algorithm == Rs256 { "n" } else { "x" }, "!"),
            ]);
            let count = odd.len();
            let text = set(&odd);
            assert_no_key(algorithm, KeySource::Jwks(&text), &format!("none of the {count} keys"));
            assert_no_key(algorithm, KeySource::Jwks(&text), "it takes a public");
            odd.push(good);
            // One usable key, so that no token needs to name it.
            let verifier = checked_with(algorithm, KeySource::Jwks(&set(&odd)));
            assert_eq!(verifier.verify(&by(name, None), NOW_MS), Ok(alice()));
        }
        let empty = set(&[json!({ "kty": "oct", "k": "" })]);
        assert_no_key(Hs256, KeySource::Jwks(&empty), "not empty");
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", "[]", "{}", "{\"keys\":1}", "{\"keys\":[", "null", &public("rs256")] {
            assert_no_key(Rs256, KeySource::Jwks(text), "no JSON Web Key Set");
        }
        for (text, why) in [
            ("\"SECRET\"", "no list `keys` (line 1, column 8)"),
            ("{\"keys\": SECRET", "no JSON (line 1, column 10)"),
        ] {
            let Err(error) = Verifier::new(Rs256, KeySource::Jwks(text), None, None) else {
                panic!("{text}")
            };
            let message = error.to_string();
            assert!(
                message.contains(why) && !message.contains("SECRET") && !message.contains("struct"),
                "{message}"
            );
        }
    }
}

mod headers {
    use super::*;

    #[test]
    fn unsigned_tokens_are_bad() {
        let claims = part(r#"{"sub":"alice"}"#);
        for algorithm in ["none", "None", "NONE", "nOnE", "", "HS", "hs256"] {
            let header = part(json!({ "alg": algorithm, "typ": "JWT" }).to_string());
            let signed = of_claims(r#"{"sub":"alice"}"#);
            let signature = signed.rsplit('.').next().unwrap();
            for token in [format!("{header}.{claims}."), format!("{header}.{claims}.{signature}")] {
                assert_bad(&hs256(), &token, "");
                let verifier = checked_with(Rs256, KeySource::Pem(public("rs256").as_bytes()));
                assert_bad(&verifier, &token, "");
            }
        }
        assert_bad(&hs256(), &of_header(r#"{"typ":"JWT"}"#), "header");
        let unsigned = of_claims(r#"{"sub":"alice"}"#);
        let unsigned = unsigned.rsplit_once('.').unwrap().0;
        assert_bad(&hs256(), &format!("{unsigned}."), "signature");
        assert_bad(&hs256(), unsigned, "no token");
    }

    #[test]
    fn stronger_algorithms_of_the_same_secret_are_bad() {
        for (word, algorithm) in [("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)] {
            let header = json!({ "alg": word }).to_string();
            let key = EncodingKey::from_secret(SECRET.as_bytes());
            assert_bad(&hs256(), &made(&header, r#"{"sub":"alice"}"#, algorithm, &key), "algorithm");
        }
    }

    #[test]
    fn critical_extensions_are_refused() {
        for crit in [r#"["exp"]"#, r#"["b64"]"#, "[]", r#"["alice"]"#] {
            let token = of_header(&format!(r#"{{"alg":"HS256","crit":{crit},"b64":true,"exp":1}}"#));
            assert_bad(&hs256(), &token, "`crit`");
        }
        for crit in ["1", r#""exp""#, "{}", "[1]", "true"] {
            assert_bad(&hs256(), &of_header(&format!(r#"{{"alg":"HS256","crit":{crit}}}"#)), "header");
        }
        // Without it, unknown parameters are to be ignored: RFC 7515 section 4.
        assert!(hs256().verify(&of_header(r#"{"alg":"HS256","exp":1,"b64":true}"#), NOW_MS).is_ok());
    }

    #[test]
    fn every_change_of_a_part_is_noticed() {
        let token = of_claims(r#"{"sub":"alice"}"#);
        let parts: Vec<&str> = token.split('.').collect();
        let admin = part(r#"{"sub":"alice","admin":true}"#);
        assert_bad(&hs256(), &format!("{}.{admin}.{}", parts[0], parts[2]), "signature");
        let header = part(r#"{"alg":"HS256","typ":"JWT"}"#);
        assert_bad(&hs256(), &format!("{header}.{}.{}", parts[1], parts[2]), "signature");
        let signature = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
        for bit in 0..signature.len() * 8 {
            let mut changed = signature.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_bad(&hs256(), &format!("{}.{}.{}", parts[0], parts[1], part(changed)), "signature");
        }
        let long = [&signature[..], b"."].concat();
        let others: [&[u8]; 4] = [&signature[1..], &long, &[], &[0; 32]];
        for other in others {
            assert_bad(&hs256(), &format!("{}.{}.{}", parts[0], parts[1], part(other)), "");
        }
        for odd in [format!("{token}."), format!(".{token}"), format!("{token}="), format!(" {token}")] {
            assert_bad(&hs256(), &odd, "");
        }
    }
}

mod claims {
    use super::*;

    #[test]
    fn a_token_is_good_from_its_beginning_to_its_end() {
        let token = of_claims(&format!(r#"{{"sub":"alice","nbf":{NOW_S},"exp":{}}}"#, NOW_S + 10));
        assert_bad_at(&token, NOW_MS - 1);
        let claims = Claims { expires_at_ms: Some(NOW_MS + 10_000), ..alice() };
        for at in [NOW_MS, NOW_MS + 9999] {
            assert_eq!(hs256().verify(&token, at), Ok(claims.clone()));
        }
        for at in [NOW_MS + 10_000, u64::MAX] {
            assert_eq!(hs256().verify(&token, at), Err(TokenError::Expired));
        }
        let fraction = of_claims(&format!(r#"{{"sub":"alice","exp":{NOW_S}.5}}"#));
        assert!(hs256().verify(&fraction, NOW_MS + 499).is_ok());
        assert_eq!(hs256().verify(&fraction, NOW_MS + 500), Err(TokenError::Expired));
        assert_eq!(
            hs256().verify(&of_claims(r#"{"sub":"alice","exp":0}"#), NOW_MS),
            Err(TokenError::Expired)
        );
    }

    #[track_caller]
    fn assert_bad_at(token: &str, at: u64) {
        assert!(
            matches!(hs256().verify(token, at), Err(TokenError::Bad(why)) if why.contains("not valid yet"))
        );
    }

    #[test]
    fn times_that_are_none_are_bad() {
        for name in ["exp", "nbf"] {
            for time in ["-1", "-0.001", "1e300", "9007199254741", "18446744073709551616"] {
                let token = of_claims(&format!(r#"{{"sub":"alice","{name}":{time}}}"#));
                assert_bad(&hs256(), &token, &format!("`{name}` is no time"));
            }
            for time in [r#""1900000000""#, r#""NaN""#, "true", "[]", "{}", "1e999", "NaN", "Infinity"] {
                let token = of_claims(&format!(r#"{{"sub":"alice","{name}":{time}}}"#));
                assert_bad(&hs256(), &token, "claims");
            }
        }
    }

    #[test]
    fn whoever_is_not_the_audience_refuses() {
        let named = |audience: Option<&str>, issuer: Option<&str>| {
            let (audience, issuer) = (audience.map(str::to_owned), issuer.map(str::to_owned));
            Verifier::new(Hs256, KeySource::Secret(SECRET), audience, issuer).unwrap()
        };
        let chat = named(Some("chat"), None);
        for audience in [r#""chat""#, r#"["chat"]"#, r#"["mail","chat"]"#] {
            let token = of_claims(&format!(r#"{{"sub":"alice","aud":{audience}}}"#));
            assert_eq!(chat.verify(&token, NOW_MS), Ok(alice()));
            assert_bad(&hs256(), &token, "another audience");
        }
        for audience in [r#""mail""#, r#""Chat""#, r#""chat ""#, r#"["mail"]"#, "[]", r#""""#] {
            let token = of_claims(&format!(r#"{{"sub":"alice","aud":{audience}}}"#));
            assert_bad(&chat, &token, "another audience");
        }
        assert_bad(&chat, &of_claims(r#"{"sub":"alice"}"#), "names no audience");
        for audience in ["1", "[1]", "{}", r#"["chat",1]"#] {
            assert_bad(&chat, &of_claims(&format!(r#"{{"sub":"alice","aud":{audience}}}"#)), "claims");
        }

        let ours = named(None, Some("us"));
        assert_eq!(ours.verify(&of_claims(r#"{"sub":"alice","iss":"us"}"#), NOW_MS), Ok(alice()));
        for claims in [r#"{"sub":"alice","iss":"them"}"#, r#"{"sub":"alice","iss":""}"#, r#"{"sub":"alice"}"#]
        {
            assert_bad(&ours, &of_claims(claims), "another issuer");
        }
        assert_bad(&ours, &of_claims(r#"{"sub":"alice","iss":["us"]}"#), "claims");
        assert!(hs256().verify(&of_claims(r#"{"sub":"alice","iss":"them"}"#), NOW_MS).is_ok(), "any issuer");
    }

    #[test]
    fn whose_token_it_is_must_be_said() {
        for claims in ["{}", r#"{"sub":1}"#, r#"{"sub":null}"#, r#"{"sub":["alice"]}"#, "[]", "1", "", "{"] {
            assert_bad(&hs256(), &of_claims(claims), "claims");
        }
        let long = "x".repeat(33);
        for sub in ["", "no nickname", "-a", "\u{0}", "a\u{1b}[2J", &long] {
            assert_bad(&hs256(), &of_claims(&json!({ "sub": sub }).to_string()), "`sub` is no nickname");
        }
        // Of two answers neither is to be believed.
        assert_bad(&hs256(), &of_claims(r#"{"sub":"alice","sub":"bob"}"#), "claims");
    }

    #[test]
    fn claims_of_the_wrong_type_are_bad() {
        for claim in [
            r#""admin":"true""#,
            r#""admin":1"#,
            r#""admin":null"#,
            r#""rooms":"lobby""#,
            r#""rooms":[1]"#,
            r#""rooms":{}"#,
            r#""tags":[1,2]"#,
            r#""tags":"beta""#,
            r#""tags":null"#,
        ] {
            assert_bad(&hs256(), &of_claims(&format!(r#"{{"sub":"alice",{claim}}}"#)), "claims");
        }
        let none = hs256().verify(&of_claims(r#"{"sub":"alice","rooms":[]}"#), NOW_MS).unwrap();
        assert_eq!(none.rooms, Some(Vec::new()), "no room is not every room");
    }

    #[test]
    fn the_signer_writes_whole_seconds_and_only_what_was_asked_for() {
        let signer = Signer::new(Hs256, KeySource::Secret(SECRET)).unwrap();
        let claims = Claims { expires_at_ms: Some(NOW_MS + 1999), ..alice() };
        let options = Options { not_before_ms: Some(NOW_MS + 1), ..Options::default() };
        let token = signer.sign(&claims, &options).unwrap();
        // As text: in JSON values 1.0 and 1 would be told apart too late.
        let text = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, format!(r#"{{"sub":"alice","exp":{0},"nbf":{0}}}"#, NOW_S + 1));
        let plain = signer.sign(&alice(), &Options::default()).unwrap();
        assert_eq!(payload(&plain), json!({ "sub": "alice" }));
    }
}

mod garbage {
    use super::*;

    fn verifiers() -> Vec<Verifier> {
        let mut verifiers = vec![hs256()];
        for (algorithm, name) in WITH_PAIRS {
            verifiers.push(checked_with(algorithm, KeySource::Pem(public(name).as_bytes())));
            verifiers.push(checked_with(algorithm, KeySource::Jwks(&key("set.json"))));
        }
        verifiers
    }

    /// All that a reason may say: whatever is not in here came from a token.
    const REASONS: &[&str] = &[
        "the token is too long",
        "the token asks for extensions (`crit`) that this server does not know",
        "the token names a key (`kid`) that is not known",
        "the token does not name its key (`kid`), and there are several",
        "the token's `exp` is no time",
        "the token's `nbf` is no time",
        "the token names no audience (`aud`)",
        "the token is for another audience (`aud`)",
        "the token is from another issuer (`iss`)",
        "the token's `sub` is no nickname: a name has at least one character",
        "the token's `sub` is no nickname: a name has at most 32 characters",
        "the token's `sub` is no nickname: a name begins with a letter or a number",
        "the token's `sub` is no nickname: a name has letters, marks, numbers, '_', '-' and '.'",
        "the token's `sub` is no nickname: a name has no invisible characters",
        "the token is not valid yet (`nbf`)",
        "the token's signature is not by this server's key",
        "the token is not signed with the algorithm that this server asks for",
        "the token's header or claims are not as they should be",
        "this is no token",
    ];

    fn is_known(outcome: &Result<Claims, TokenError>) -> bool {
        !matches!(outcome, Err(TokenError::Bad(why)) if !REASONS.contains(&why.as_str()))
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn nothing_at_all_is_no_token() {
        for verifier in verifiers() {
            for token in ["", ".", "..", "...", "....", "a.b.c", "\u{0}", "\u{e4}.\u{e4}.\u{e4}"] {
                assert_bad(&verifier, token, "");
            }
            assert_bad(&verifier, &"[".repeat(1 << 20), "no token");
            assert_bad(&verifier, &"x".repeat((1 << 20) + 1), "too long");
            // Nested as deep as it goes, where a parser may run out of stack.
            assert_bad(&verifier, &format!("{}.a.a", part("[".repeat(500_000))), "header");
        }
        assert_bad(&hs256(), &of_claims(&format!(r#"{{"sub":{}"#, "[".repeat(300_000))), "claims");
        assert_bad(
            &hs256(),
            &of_claims(&format!(r#"{{"sub":"alice","x":{}"#, "[".repeat(300_000))),
            "claims",
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..5),
        ) {
            let parts: Vec<String> = parts.iter().map(part).collect();
            for verifier in verifiers() {
                for token in [&*String::from_utf8_lossy(&bytes), &parts.join("."), &part(&bytes)] {
                    let outcome = verifier.verify(token, NOW_MS);
                    prop_assert!(outcome.is_err() && is_known(&outcome), "{outcome:?}");
                }
            }
        }

        /// As an issuer may write them: signed, so that the claims themselves are looked at.
        #[test]
        fn any_signed_claims_are_taken_or_refused_without_quoting_them(
            name in prop::sample::select(vec!["sub", "admin", "rooms", "tags", "exp", "nbf", "aud", "iss"]),
            value in json_value(),
        ) {
            let mut claims = json!({ "sub": "alice" });
            claims[name] = value;
            let outcome = hs256().verify(&of_claims(&claims.to_string()), NOW_MS);
            prop_assert!(is_known(&outcome), "{outcome:?}");
        }

        #[test]
        fn any_nickname_is_taken_or_refused_without_quoting_it(sub in "\\PC{1,3}|[a-z]{1,3}\\PC") {
            let outcome = hs256().verify(&of_claims(&json!({ "sub": sub }).to_string()), NOW_MS);
            prop_assert!(is_known(&outcome), "{outcome:?}");
            prop_assert_eq!(outcome.is_ok(), Nickname::parse(&sub).is_ok());
        }

        #[test]
        fn any_header_is_taken_or_refused_without_quoting_it(
            name in prop::sample::select(vec!["alg", "kid", "crit", "typ", "jwk", "x5c", "zip", "x"]),
            value in json_value(),
        ) {
            let mut header = json!({ "alg": "HS256" });
            header[name] = value;
            let token = of_header(&header.to_string());
            for verifier in verifiers() {
                let outcome = verifier.verify(&token, NOW_MS);
                prop_assert!(is_known(&outcome), "{outcome:?}");
            }
        }

        #[test]
        fn one_changed_letter_is_noticed(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.=-]|\u{e4}") {
            let token = of_claims(r#"{"sub":"alice"}"#);
            let at = at.index(token.len());
            let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
            prop_assume!(changed != token);
            let outcome = hs256().verify(&changed, NOW_MS);
            prop_assert!(outcome.is_err() && is_known(&outcome), "{outcome:?}");
        }

        #[test]
        fn any_bytes_are_no_key(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = String::from_utf8_lossy(&bytes);
            for (algorithm, name) in WITH_PAIRS {
                let label = public(name).lines().next().unwrap().to_owned();
                let body = base64::engine::general_purpose::STANDARD.encode(&bytes);
                let pem = format!("{label}\n{body}\n-----END PUBLIC KEY-----\n");
                for source in [KeySource::Pem(&bytes), KeySource::Pem(pem.as_bytes()), KeySource::Jwks(&text)] {
                    prop_assert!(Verifier::new(algorithm, source, None, None).is_err());
                    prop_assert!(Signer::new(algorithm, source).is_err());
                }
            }
        }
    }
}
