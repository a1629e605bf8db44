//! How a request of HTTP becomes a WebSocket.

use starling::auth::Claims;
use starling::config::ListenKind;

use crate::answers::{Answer, browser, request};
use crate::cores::{Client, Cores};
use crate::tokens::{self, claims, token};

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn socket(cores: &mut Cores, query: &str, fields: &str) -> (Client, Answer) {
    let client = browser(cores, 0, &request(&format!("GET /ws{query}"), &format!("{UPGRADE}{fields}")));
    let answer = Answer::of(&cores.heard(client));
    (client, answer)
}

/// A text frame of a client, masked with zeros.
fn say(cores: &mut Cores, client: Client, text: &str) -> String {
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    cores.receive(client, &frame);
    cores.heard(client)
}

#[test]
fn the_first_subprotocol_that_is_known_is_spoken() {
    let mut cores = Cores::new(|_| {});
    let json = "starling.json.v1";
    let protobuf = "starling.proto.v1";
    let offers = [
        ("", None, true),
        ("soap", None, true),
        (json, Some(json), true),
        (protobuf, Some(protobuf), false),
        ("soap, starling.proto.v1, starling.json.v1", Some(protobuf), false),
        ("starling.json.v1, starling.proto.v1", Some(json), true),
    ];
    for (number, (offered, chosen, is_text)) in offers.into_iter().enumerate() {
        let field = match offered {
            "" => String::new(),
            _ => format!("Sec-WebSocket-Protocol: {offered}\r\n"),
        };
        let (_, answer) = socket(&mut cores, &format!("?nickname=user-{number}&room=den"), &field);
        assert_eq!((answer.status, answer.field("Sec-WebSocket-Protocol")), (101, chosen));
        assert_eq!(answer.body.contains(r#"{"type":"joined","room":"den""#), is_text, "{answer:?}");
        assert!(answer.body.contains(&format!("user-{number}")));
    }
}

#[test]
fn a_query_says_hello_and_joins_or_is_refused_as_a_whole() {
    let mut cores = Cores::made(1, |_| {}, tokens::arrange);
    let dora = token(&Claims { rooms: Some(vec!["den".to_owned()]), ..claims("dora") });
    let (client, answer) = socket(&mut cores, &format!("?token={dora}&room=den&x=y"), "");
    assert_eq!(answer.status, 101);
    assert!(answer.body.contains(r#""type":"welcome","nickname":"dora""#), "{answer:?}");
    assert!(say(&mut cores, client, r#"{"type":"members","room":"den"}"#).contains(r#""total":1"#));
    let cases = [
        ("?nickname=a%20b", 400, "bad_name"),
        ("?nickname=alice&room=a%20b", 400, "bad_name"),
        ("?token=nonsense", 401, "bad_token"),
        (&format!("?token={dora}&nickname=alice"), 401, "bad_token"),
        (&format!("?token={dora}&room=hall"), 403, "forbidden"),
        ("?room=den", 400, "bad_request"),
        ("?nickname=%zz", 400, "bad_request"),
    ];
    for (query, status, reason) in cases {
        let (client, answer) = socket(&mut cores, query, "");
        assert_eq!(answer.error(), (status, reason.to_owned()), "{query}");
        assert!(!cores.is_over(client));
    }
    let sessions = cores.shards[0].inventory().sessions;
    assert_eq!(sessions, 1, "nothing is left of those that were refused");
}

#[test]
fn a_query_costs_what_its_commands_cost() {
    let limited =
        |burst: u64| Cores::new(|config| (config.rate.commands_per_second, config.rate.burst) = (1, burst));
    for (query, expected) in [("?nickname=alice&room=den", 429), ("?nickname=alice", 101)] {
        let mut cores = limited(2);
        let client = browser(&mut cores, 0, &request("GET /api/rooms", ""));
        assert_eq!(Answer::of(&cores.heard(client)).status, 200);
        cores.receive(client, request(&format!("GET /ws{query}"), UPGRADE).as_bytes());
        let answer = Answer::of(&cores.heard(client));
        let retry_after = (expected == 429).then_some("1");
        assert_eq!((answer.status, answer.field("Retry-After")), (expected, retry_after));
    }
    for (burst, query) in [(1, "?nickname=alice"), (2, "?nickname=alice&room=den")] {
        let mut cores = limited(burst);
        let (client, answer) = socket(&mut cores, query, "");
        assert_eq!(answer.status, 101);
        assert!(say(&mut cores, client, r#"{"type":"ping"}"#).contains("rate_limited"));
        cores.pass(1_000);
        assert!(say(&mut cores, client, r#"{"type":"ping"}"#).contains("pong"));
    }
}

#[test]
fn pages_of_this_server_and_of_those_that_are_listed_may_connect() {
    let mut cores =
        Cores::new(|config| config.web.allowed_origins = vec!["https://Friend.example".to_owned()]);
    let mut status = |host: &str, origin: &str, is_secure: bool| {
        let client = cores.connect(0, ListenKind::Web);
        if is_secure {
            cores.shards[0].securing(client.id);
            cores.shards[0].secured(client.id);
        }
        let said = format!("GET /ws HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n{UPGRADE}\r\n");
        cores.receive(client, said.as_bytes());
        Answer::of(&cores.heard(client)).status
    };
    for (host, origin, is_secure, expected) in [
        ("a:8080", "http://a:8080", false, 101),
        ("A:8080", "http://a:8080", false, 101),
        ("a", "http://a", false, 101),
        ("a:80", "http://a", false, 101),
        ("a:80", "http://a:80", false, 101),
        ("a:443", "https://a", true, 101),
        ("a", "https://a", true, 101),
        ("a:80", "https://a", true, 403),
        ("a:443", "http://a", false, 403),
        ("a", "https://a", false, 403),
        ("a", "http://a", true, 403),
        ("a", "http://b", false, 403),
        ("a:8080", "http://a", false, 403),
        ("a", "null", false, 403),
        ("a", "https://friend.example", false, 101),
        ("a", "http://friend.example", false, 403),
    ] {
        assert_eq!(status(host, origin, is_secure), expected, "{host} {origin} {is_secure}");
    }
}

#[test]
fn who_asks_for_a_socket_on_and_on_is_sent_away() {
    let mut cores = Cores::new(|config| {
        (config.rate.commands_per_second, config.rate.burst) = (1, 1);
        config.limits.rate_ignored_ms = 500;
    });
    let client = browser(&mut cores, 0, &request("GET /api/rooms", ""));
    cores.heard(client);
    let asked = request("GET /ws?nickname=alice", UPGRADE);
    for (ms, connection) in [(0, None), (400, None), (99, None), (1, Some("close"))] {
        cores.pass(ms);
        cores.receive(client, asked.as_bytes());
        let answer = Answer::of(&cores.heard(client));
        assert_eq!((answer.status, answer.field("Connection")), (429, connection), "after {ms} ms more");
        assert_eq!(cores.is_over(client), connection.is_some());
    }
    assert_eq!(cores.total(|counters| &counters.rate_limits_ignored), 1);
}
