//! Accounts: what is asked to register and log in, and who is put out when an account changes.

use std::sync::Arc;

use serde_json::{Value, json};
use starling::base::attempts::Attempts;
use starling::base::slots::Id;
use starling::config::{AckLevel, Config, ListenKind};
use starling::record::AccountState;
use starling::shard::accounts::{AccountAction, AccountOutcome, AccountRequest};
use starling::shard::mail::Mail;
use starling::shard::reading::{StoreNews, StoreRequest};

use crate::answers::{Answer, ask, browser, request};
use crate::cores::{Client, Cores};
use crate::tokens::{self, account_token, nickname};

/// Cores of a server with accounts, whose store does nothing by itself.
fn server(cores: u16, set: impl FnOnce(&mut Config)) -> Cores {
    let mut cores = Cores::made(cores, set, |flock| {
        tokens::arrange(flock);
        flock.has_store = true;
    });
    cores.slow_store(true);
    cores
}

/// A request about an account.
fn about(path: &str, body: &str) -> String {
    let fields = format!("X-Request-Id: r1\r\nContent-Length: {}\r\n", body.len());
    request(&format!("POST /api/{path}"), &fields) + body
}

fn credentials(username: &str, password: &str) -> String {
    json!({ "username": username, "password": password }).to_string()
}

/// What the threads that look at passwords have been asked.
fn asked(cores: &mut Cores) -> Option<(AccountRequest, Id)> {
    match cores.asked.pop_front()? {
        (_, Mail::StoreRequest { request: StoreRequest::Account { request, wait }, .. }) => {
            Some((request, wait))
        }
        other => panic!("{other:?}"),
    }
}

fn register(cores: &mut Cores, name: &str, account: Option<AccountState>) {
    for core in 0..cores.shards.len() {
        cores.tell(core, StoreNews::Users(vec![(nickname(name), account)]));
    }
}

fn since(since_ms: u64) -> Option<AccountState> {
    Some(AccountState { since_ms, is_disabled: false })
}

/// Somebody says hello with a token of an account, and has heard what comes of it.
fn enter(cores: &mut Cores, core: usize, token: &str) -> Client {
    let client = cores.connect(core, ListenKind::Line);
    cores.say(client, &json!({ "type": "hello", "token": token }).to_string());
    client
}

/// The types of the events that a client has heard, with the code or what else tells them apart.
fn heard(cores: &mut Cores, client: Client) -> Vec<String> {
    let events = cores.events(client);
    let of = |event: &Value| {
        let more = ["code", "resumed"].into_iter().find_map(|field| event.get(field));
        [event["type"].as_str().unwrap(), &more.map_or(String::new(), |more| format!(" {more}"))].concat()
    };
    events.iter().map(of).collect()
}

#[test]
fn a_password_is_looked_at_elsewhere_and_a_token_given_out_for_it() {
    let mut cores = server(1, |config| config.auth.account_token_s = 60);
    let now_ms = cores.unix_ms();
    for (path, action) in [("register", AccountAction::Register), ("login", AccountAction::Login)] {
        let client = browser(&mut cores, 0, &about(path, &credentials("Alice", "correct horse")));
        assert_eq!(cores.heard(client), "");
        let (request, wait) = asked(&mut cores).expect("the threads are asked");
        assert_eq!(format!("{request:?}"), format!("{action:?}(Alice)"), "nothing shows the password");
        assert_eq!((request.action, request.name.as_str()), (action, "Alice"));
        assert_eq!(request.password, "correct horse");
        assert_eq!(request.asked.conn.connection, client.id);
        assert_eq!(
            (request.asked.peer, request.asked.request.as_deref()),
            ([127, 0, 0, 1].into(), Some("r1"))
        );
        let outcome = AccountOutcome::Granted { name: nickname("alice"), since_ms: now_ms };
        cores.tell(0, StoreNews::Account { wait, outcome });
        let answer = Answer::of(&cores.heard(client));
        let fields = ["Content-Type", "Cache-Control", "X-Request-Id"].map(|name| answer.field(name));
        assert_eq!(fields, [Some("application/json"), Some("no-store"), Some("r1")]);
        let granted = answer.json();
        assert_eq!((answer.status, &granted["expires_at"]), (200, &json!(now_ms + 60_000)));
        register(&mut cores, "alice", since(now_ms));
        let alice = enter(&mut cores, 0, granted["token"].as_str().unwrap());
        assert_eq!(cores.told(alice, "welcome", "nickname"), ["alice"]);
    }
}

#[test]
fn what_comes_of_a_login_is_told() {
    let mut cores = server(1, |_| {});
    let mut answer = |outcome: AccountOutcome| {
        let client = browser(&mut cores, 0, &about("login", &credentials("alice", "correct horse")));
        let (_, wait) = asked(&mut cores).expect("the threads are asked");
        cores.tell(0, StoreNews::Account { wait, outcome });
        let answer = Answer::of(&cores.heard(client));
        (answer.error(), answer.json()["retry_after_ms"].as_u64())
    };
    let error = |status: u16, reason: &str, ms: Option<u64>| ((status, reason.to_owned()), ms);
    assert_eq!(answer(AccountOutcome::Taken), error(409, "nickname_in_use", None));
    assert_eq!(answer(AccountOutcome::BadCredentials), error(401, "bad_credentials", None));
    assert_eq!(answer(AccountOutcome::Busy), error(503, "unavailable", Some(1000)));
    assert_eq!(answer(AccountOutcome::Down("full".into())), error(503, "store_down", Some(1000)));
    // Who waits for too long is told so too.
    let client = browser(&mut cores, 0, &about("login", &credentials("alice", "correct horse")));
    cores.pass(4_999);
    assert_eq!(cores.heard(client), "");
    cores.pass(1);
    assert_eq!(Answer::of(&cores.heard(client)).error(), (503, "store_down".to_owned()));
}

#[test]
fn what_cannot_be_an_account_is_refused_before_anybody_is_asked() {
    let mut cores = server(1, |_| {});
    let long = |bytes: usize| "x".repeat(bytes);
    for (path, body, status, reason) in [
        ("register", "nonsense".to_owned(), 400, "bad_json"),
        ("register", r#"{"username":"alice"}"#.to_owned(), 400, "bad_request"),
        ("register", credentials("al ice", "correct horse"), 400, "bad_name"),
        ("register", credentials("alice", "1234567"), 400, "bad_request"),
        ("register", credentials("alice", &long(1025)), 413, "too_large"),
        ("login", credentials("alice", &long(1025)), 413, "too_large"),
    ] {
        let answer = Answer::of(&cores.http(0, &about(path, &body)));
        assert_eq!(answer.error(), (status, reason.to_owned()), "{path} {body}");
    }
    assert_eq!(cores.total(|counters| &counters.too_large), 2);
    assert!(asked(&mut cores).is_none());
    for (path, password) in [("register", long(8)), ("register", long(1024)), ("login", String::new())] {
        cores.http(0, &about(path, &credentials("alice", &password)));
        assert!(asked(&mut cores).is_some(), "{path} {password}");
    }
    assert_eq!(ask(&mut cores, 0, "POST /api/login", "").status, 411);
    let coded = "Content-Length: 0\r\nContent-Encoding: gzip\r\n";
    assert_eq!(ask(&mut cores, 0, "POST /api/login", coded).status, 415);
    for (mut cores, why) in [(Cores::new(|_| {}), "disk"), (Cores::node(|_| {}), "nodes")] {
        let answer = Answer::of(&cores.http(0, &about("login", &credentials("alice", "correct horse"))));
        assert_eq!(answer.error(), (404, "not_found".to_owned()));
        assert!(answer.json()["message"].as_str().unwrap().contains(why));
    }
}

#[test]
fn attempts_are_counted() {
    let mut cores = Cores::made(
        1,
        |_| {},
        |flock| {
            tokens::arrange(flock);
            (flock.has_store, flock.attempts) = (true, Arc::new(Attempts::new(2, 1, 64)));
        },
    );
    cores.slow_store(true);
    let mut try_once = |path: &str, name: &str| {
        let heard = cores.http(0, &about(path, &credentials(name, "correct horse")));
        let limited = cores.total(|counters| &counters.rate_limited_logins);
        let told = (!heard.is_empty()).then(|| Answer::of(&heard));
        (told.map(|answer| (answer.error(), answer.field("Retry-After").map(str::to_owned))), limited)
    };
    let too_fast = |s: &str| Some(((429, "rate_limited".to_owned()), Some(s.to_owned())));
    assert_eq!(try_once("login", "alice"), (None, 0));
    assert_eq!(try_once("login", "alice"), (None, 0));
    assert_eq!(try_once("login", "alice"), (too_fast("30"), 1));
    assert_eq!(try_once("register", "alice"), (None, 1));
    assert_eq!(try_once("register", "bob"), (too_fast("3600"), 2));
}

#[test]
fn a_token_is_as_good_as_its_account() {
    let mut cores = server(1, |_| {});
    let now_ms = cores.unix_ms();
    let token = account_token("ann", now_ms);
    let mut refused = |account: Option<AccountState>| {
        register(&mut cores, "ann", account);
        let client = enter(&mut cores, 0, &token);
        let event = cores.events(client).remove(0);
        let quit = r#"{"type":"quit"}"#;
        cores.say(client, quit);
        (event["code"].as_u64(), event["reason"].as_str().map(str::to_owned))
    };
    let error = |reason: &str| (Some(401), Some(reason.to_owned()));
    assert_eq!(refused(None), error("bad_token"));
    assert_eq!(refused(since(now_ms)), (None, None));
    assert_eq!(refused(since(now_ms + 1)), error("bad_token"));
    let disabled = AccountState { since_ms: now_ms - 1000, is_disabled: true };
    assert_eq!(refused(Some(disabled)), error("bad_credentials"));
    assert_eq!(refused(since(now_ms - 1000)), (None, None));
}

#[test]
fn whose_account_changes_is_put_out_and_nobody_else() {
    let mut cores = server(1, |_| {});
    let now_ms = cores.unix_ms();
    let void =
        |cores: &Cores| [&cores.counters[0].void_tokens, &cores.counters[0].void_guests].map(|c| c.value());
    for name in ["ann", "ben"] {
        register(&mut cores, name, since(now_ms));
    }
    let guest = cores.enter(0, "guest", &["den"]);
    let [ann, away, ben] = ["ann", "ann", "ben"].map(|name| {
        let client = enter(&mut cores, 0, &account_token(name, now_ms));
        cores.say(client, r#"{"type":"join","room":"den"}"#);
        client
    });
    cores.broken(away);
    let nameless = cores.connect(0, ListenKind::Line);
    cores.say(nameless, r#"{"type":"ping"}"#);
    for client in [guest, ann, ben, nameless] {
        cores.events(client);
    }
    assert_eq!(cores.shards[0].inventory().away, 1);
    register(&mut cores, "ann", since(now_ms + 1));
    assert_eq!(heard(&mut cores, ann), ["bye 4101"]);
    assert!(cores.is_over(ann));
    assert_eq!(cores.shards[0].inventory().away, 0, "nor does a session wait");
    assert_eq!(void(&cores), [2, 0]);
    let left = cores.events(guest);
    assert_eq!((left.len(), &left[0]["nickname"], &left[0]["reason"]), (1, &json!("ann"), &json!("lost")));
    assert_eq!(heard(&mut cores, ben), ["presence"]);
    register(&mut cores, "ben", None);
    assert_eq!(heard(&mut cores, ben), ["bye 4101"]);
    assert_eq!(void(&cores), [3, 0]);
    assert!(!cores.is_over(guest) && !cores.is_over(nameless));
}

#[test]
fn guests_are_put_out_when_there_are_to_be_none() {
    let mut cores = server(1, |_| {});
    let now_ms = cores.unix_ms();
    register(&mut cores, "ann", since(now_ms));
    let ann = enter(&mut cores, 0, &account_token("ann", now_ms));
    let guest = cores.enter(0, "guest", &["den"]);
    let nameless = cores.connect(0, ListenKind::Line);
    cores.say(nameless, r#"{"type":"ping"}"#);
    for client in [ann, nameless] {
        cores.events(client);
    }
    tokens::reconfigure(&mut cores, |config| config.auth.guests = false);
    assert_eq!(heard(&mut cores, guest), ["bye 4101"]);
    assert_eq!(cores.total(|counters| &counters.void_guests), 1);
    assert_eq!(cores.total(|counters| &counters.void_tokens), 0);
    assert!(!cores.is_over(ann) && !cores.is_over(nameless));
    cores.say(nameless, r#"{"type":"hello","nickname":"late"}"#);
    assert_eq!(heard(&mut cores, nameless), ["error 401"]);
}

#[test]
fn who_has_become_void_while_something_is_under_way_is_answered_first_only_if_that_is_the_hello() {
    let mut cores = server(2, |_| {});
    let now_ms = cores.unix_ms();
    let (name, room) = (cores.name_at(1, "ann"), cores.name_at(1, "room"));
    register(&mut cores, &name, since(now_ms));
    let token = account_token(&name, now_ms);
    // The other core is asked for the nickname, and the account changes before it has answered.
    let client = cores.connect(0, ListenKind::Line);
    let hello = json!({ "type": "hello", "token": token }).to_string() + "\n";
    cores.shards[0].receive(client.id, &mut hello.into_bytes());
    cores.shards[0].mail(Mail::Store(StoreNews::Users(vec![(nickname(&name), since(now_ms + 1))])));
    assert!(!cores.is_over(client));
    cores.settle();
    assert_eq!(heard(&mut cores, client), ["welcome false", "bye 4101"]);
    assert!(cores.is_over(client));
    assert_eq!(cores.total(|counters| &counters.void_tokens), 1);

    let token = account_token(&name, now_ms + 1000);
    let client = enter(&mut cores, 0, &token);
    assert_eq!(heard(&mut cores, client), ["welcome false"]);
    let join = json!({ "type": "join", "room": room }).to_string() + "\n";
    cores.shards[0].receive(client.id, &mut join.into_bytes());
    cores.shards[0].mail(Mail::Store(StoreNews::Users(vec![(nickname(&name), since(now_ms + 2000))])));
    cores.settle();
    assert_eq!(heard(&mut cores, client), ["bye 4101"]);
    assert_eq!(cores.total(|counters| &counters.void_tokens), 2);
    assert_eq!(cores.total(|counters| &counters.nicknames), 0);
}

#[test]
fn a_session_that_is_being_taken_over_is_looked_at_by_who_has_it_then() {
    let mut cores = server(1, |config| config.store.ack = AckLevel::Stored);
    let now_ms = cores.unix_ms();
    register(&mut cores, "ann", since(now_ms));
    cores.slow_store(false);
    let ann = enter(&mut cores, 0, &account_token("ann", now_ms));
    let resume = cores.told(ann, "welcome", "resume").remove(0);
    cores.say(ann, r#"{"type":"join","room":"den"}"#);
    cores.events(ann);
    cores.slow_store(true);
    cores.say(ann, r#"{"type":"message","room":"den","content":"x","id":"1"}"#);
    let next = cores.connect(0, ListenKind::Line);
    cores.say(next, &json!({ "type": "hello", "resume": resume }).to_string());
    assert_eq!(heard(&mut cores, ann), ["message", "bye 4103"]);
    assert_eq!(heard(&mut cores, next), [""; 0], "the message is not stored");
    register(&mut cores, "ann", since(now_ms + 1));
    assert_eq!(heard(&mut cores, next), [""; 0]);
    cores.slow_store(false);
    assert_eq!(heard(&mut cores, next), ["welcome true", "bye 4101"]);
    assert_eq!(cores.total(|counters| &counters.void_tokens), 1);
}

#[test]
fn the_bytes_of_a_request_are_paid_for() {
    let login = about("login", &credentials("alice", "open sesame"));
    let body = r#"{"content":"so it goes, so it goes, so it goes"}"#;
    let publish = format!(
        "POST /api/rooms/den/messages HTTP/1.1\r\nHost: a\r\nX-API-Key: ci\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for second in [&login, &publish] {
        let mut cores = server(1, |config| {
            (config.rate.bytes_per_second, config.rate.bytes_burst) = (1, 60);
        });
        let client = browser(&mut cores, 0, &(publish.clone() + second));
        let heard = cores.heard(client);
        assert!(heard.starts_with("HTTP/1.1 401") && heard.contains("HTTP/1.1 429"), "{second}: {heard}");
        assert_eq!(cores.total(|counters| &counters.rate_limited_bytes), 1);
    }
}
