//! The transcripts of docs/protocol.md, replayed against a server of their own each: the page cannot drift from what the
//! server says.
//!
//! `alice> ...` is said by alice's client, `alice< ...` is what it hears next, and `alice (connection lost)` is what it
//! says. What differs from run to run is compared by its type alone, and put in place of what the page shows where a
//! client says it again.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Client, Server};
use serde_json::Value;
use starling::auth::Claims;
use starling::auth::jwt::{KeySource, Options, Signer};
use starling::chat::name::Nickname;
use starling::config::JwtAlgorithm;
use starling::proto::wire::COMMANDS;

const SECRET: &str = "a secret of at least 32 bytes, for tests";

/// Fields whose values are never the same twice.
const VOLATILE: &[&str] =
    &["timestamp", "last_active", "session", "resume", "epoch", "server", "retry_after_ms"];

/// One person of a transcript.
#[derive(Default)]
struct Person {
    client: Option<Client>,
    /// The last values heard of the fields that a client says again.
    heard: BTreeMap<&'static str, Value>,
}

fn transcripts() -> Vec<(usize, Vec<String>)> {
    let page = include_str!("../docs/protocol.md");
    let mut found = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line == "```transcript" {
            let said = lines.by_ref().map(|(_, line)| line.to_owned()).take_while(|line| line != "```");
            found.push((number + 1, said.collect()));
        }
    }
    found
}

fn admin_token(name: &str) -> String {
    let claims = Claims {
        nickname: Nickname::parse(name).unwrap(),
        is_admin: true,
        rooms: None,
        tags: Vec::new(),
        expires_at_ms: None,
        account_at_ms: None,
    };
    let signer = Signer::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET)).unwrap();
    signer.sign(&claims, &Options::default()).unwrap()
}

/// Puts what was heard in the place of what the page shows.
fn say_again(value: &mut Value, heard: &BTreeMap<&'static str, Value>) {
    let Some(object) = value.as_object_mut() else { return };
    for (key, field) in object.iter_mut() {
        match heard.get(key.as_str()) {
            Some(heard) => *field = heard.clone(),
            None => say_again(field, heard),
        }
    }
}

fn compare(shown: &Value, said: &Value, place: &str) {
    match (shown, said) {
        (Value::Object(shown), Value::Object(said)) => {
            let keys =
                |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(keys(shown), keys(said), "the fields at {place}");
            for (key, shown) in shown {
                if VOLATILE.contains(&key.as_str()) {
                    assert_eq!(shown.is_string(), said[key].is_string(), "{key} at {place}");
                } else {
                    compare(shown, &said[key], place);
                }
            }
        }
        (Value::Array(shown), Value::Array(said)) if shown.len() == said.len() => {
            shown.iter().zip(said).for_each(|(shown, said)| compare(shown, said, place));
        }
        _ => assert_eq!(shown, said, "at {place}"),
    }
}

fn replay(first: usize, lines: &[String], said: &mut BTreeSet<String>) {
    let secret = format!("auth.jwt_secret={SECRET}");
    let server = Server::start(&["--cores", "2", "--set", &secret]);
    let mut people: BTreeMap<String, Person> = BTreeMap::new();
    for (number, line) in lines.iter().enumerate() {
        let place = format!("docs/protocol.md:{}: {line}", first + 1 + number);
        let at = line.find(['>', '<', ' ']).unwrap_or_else(|| panic!("nobody speaks at {place}"));
        let (name, rest) = line.split_at(at);
        let person = people.entry(name.to_owned()).or_default();
        if rest == " (connection lost)" {
            person.client = None;
            continue;
        }
        let mut shown: Value =
            serde_json::from_str(rest[1..].trim()).unwrap_or_else(|e| panic!("{e} at {place}"));
        let client =
            person.client.get_or_insert_with(|| Client::connect(server.line).expect("the server listens"));
        if rest.starts_with('>') {
            said.insert(shown["type"].as_str().expect("a command has a type").to_owned());
            say_again(&mut shown, &person.heard);
            if shown.get("token").is_some() {
                shown["token"] = admin_token(name).into();
            }
            client.say(&shown.to_string());
        } else {
            let event: Value = serde_json::from_str(&client.line()).unwrap();
            compare(&shown, &event, &place);
            for key in ["resume", "epoch"] {
                if let Some(value) = event.get(key) {
                    person.heard.insert(key, value.clone());
                }
            }
        }
    }
}

#[test]
fn every_transcript_is_what_the_server_says() {
    let mut said = BTreeSet::new();
    let transcripts = transcripts();
    assert!(transcripts.len() >= 7, "{} transcripts are found", transcripts.len());
    for (first, lines) in &transcripts {
        replay(*first, lines, &mut said);
    }
    let missing: Vec<_> = COMMANDS.iter().filter(|command| !said.contains(**command)).collect();
    assert!(missing.is_empty(), "no transcript shows {missing:?}");
}
