//! Requests of HTTP: how they are read, and how their answers are written.

use serde_json::json;
use starling::config::{AckLevel, ListenKind};
use starling::shard::backplane::BackplaneNews;
use starling::shard::mail::Mail;
use starling::shard::reading::StoreNews;

use crate::answers::{Answer, ask, browser, request};
use crate::cores::{Client, Cores, programs};

const DATE: &str = "Tue, 14 Nov 2023 22:13:21 GMT";

/// A request to publish, with these fields.
fn publish(fields: &str, body: &str) -> String {
    let fields = format!("X-API-Key: ci\r\n{fields}");
    request("POST /api/rooms/den/messages", &fields) + body
}

/// The requests that have been answered until now, by method and status, when the turn ends.
fn answered(cores: &mut Cores) -> Vec<(&'static str, u16, u64)> {
    cores.shards[0].turn_ended(u64::MAX);
    cores.counters[0].http.answered().collect()
}

#[test]
fn an_answer_has_a_date_a_type_a_length_and_the_id_of_its_request() {
    let mut cores = Cores::new(|_| {});
    let head = |date: &str, connection: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: 2\r\n{connection}X-Request-Id: r1\r\n\r\n"
        )
    };
    let mut health = |line: &str, fields: &str| {
        cores.http(0, &format!("{line}\r\nHost: a\r\nX-Request-Id: r1\r\n{fields}\r\n"))
    };
    assert_eq!(health("GET /health HTTP/1.1", ""), head(DATE, "") + "OK");
    assert_eq!(health("HEAD /health HTTP/1.1", ""), head(DATE, ""));
    let kept = health("GET /health HTTP/1.0", "Connection: keep-alive\r\n");
    assert_eq!(kept, head(DATE, "Connection: keep-alive\r\n") + "OK");
    let last = health("GET /health HTTP/1.1", "Connection: close\r\n");
    assert_eq!(last, head(DATE, "Connection: close\r\n") + "OK");
    cores.pass(999);
    assert_eq!(ask(&mut cores, 0, "GET /health", "").field("Date"), Some(DATE));
    cores.pass(1);
    let next = ask(&mut cores, 0, "GET /health", "");
    assert_eq!(next.field("Date"), Some("Tue, 14 Nov 2023 22:13:22 GMT"));
    // An id is made for who gives none, another one each time.
    let ids = [0; 2].map(|_| ask(&mut cores, 0, "GET /health", "").field("X-Request-Id").unwrap().to_owned());
    assert!(ids[0].len() == 16 && ids[0] != ids[1], "{ids:?}");
    let methods = [("GET", 200, 7), ("HEAD", 200, 1)];
    assert_eq!(answered(&mut cores), methods);
}

#[test]
fn each_answer_says_what_it_is() {
    let mut cores = Cores::new(|config| {
        config.auth.api_keys = programs(&["ci"]);
        config.web.allowed_origins = vec!["https://a".to_owned()];
    });
    let page = ask(&mut cores, 0, "GET /style.css", "");
    assert_eq!((page.status, page.field("Content-Type")), (200, Some("text/css; charset=utf-8")));
    assert_eq!(page.field("X-Content-Type-Options"), Some("nosniff"));
    assert!(page.field("Content-Length") == Some(&page.body.len().to_string()) && !page.body.is_empty());
    let (status, place) = cores.publish(0, "ci", "den", "x", "");
    let epoch = place["epoch"].as_str().expect("an epoch");
    let expected = json!({ "epoch": epoch, "offset": 1, "timestamp": 1_700_000_001_000_u64 });
    assert_eq!((status, &place), (200, &expected));
    let body = r#"{"content":"y"}"#;
    let published =
        Answer::of(&cores.http(0, &publish(&format!("Content-Length: {}\r\n", body.len()), body)));
    assert_eq!((published.status, published.field("Content-Type")), (200, Some("application/json")));
    assert_eq!(published.field("Cache-Control"), None);
    let rooms = ask(&mut cores, 0, "GET /api/rooms", "");
    assert_eq!((rooms.status, rooms.field("Content-Type")), (200, Some("application/json")));
    assert_eq!(rooms.field("Cache-Control"), Some("no-store"));
    assert_eq!(
        rooms.json(),
        json!({ "type": "rooms", "rooms": [{ "room": "den", "members": 0, "offset": 2 }] })
    );

    let nowhere = ask(&mut cores, 0, "GET /nowhere", "");
    assert_eq!(nowhere.error(), (404, "not_found".to_owned()));
    assert_eq!(nowhere.field("Content-Type"), Some("application/json"));
    assert_eq!(nowhere.field("Date"), Some(DATE));
    assert_eq!(nowhere.json()["retryable"], false);
    let denied = ask(&mut cores, 0, "DELETE /api/rooms", "");
    assert_eq!(denied.error(), (405, "bad_request".to_owned()));
    assert_eq!(denied.field("Allow"), Some("GET, HEAD, OPTIONS"));
    assert_eq!(ask(&mut cores, 0, "BREW /api/rooms", "").error(), (501, "bad_request".to_owned()));
    for (target, methods) in
        [("/api/rooms", "GET, HEAD, OPTIONS"), ("/ws", "GET, OPTIONS"), ("*", "GET, HEAD, OPTIONS")]
    {
        let options = ask(&mut cores, 0, &format!("OPTIONS {target}"), "");
        assert_eq!((options.status, options.field("Allow"), options.body.as_str()), (204, Some(methods), ""));
    }
    let foreign = ask(&mut cores, 0, "GET /ws", "Origin: https://evil\r\n");
    assert_eq!(foreign.error(), (403, "forbidden".to_owned()));
    assert_eq!(foreign.field("WWW-Authenticate"), None);
    let nobody = request("POST /api/rooms/den/messages", "Content-Length: 2\r\n") + "{}";
    let nobody = Answer::of(&cores.http(0, &nobody));
    assert_eq!(nobody.status, 401);
    assert_eq!(nobody.field("WWW-Authenticate"), Some("Bearer"));
    assert_eq!((nobody.field("Retry-After"), &nobody.json()["retry_after_ms"]), (None, &json!(null)));
    let many = [
        ("DELETE", 405, 1),
        ("GET", 200, 2),
        ("GET", 403, 1),
        ("GET", 404, 1),
        ("OPTIONS", 204, 3),
        ("POST", 200, 2),
        ("POST", 401, 1),
        ("other", 501, 1),
    ];
    let mut answered = answered(&mut cores);
    answered.sort_unstable();
    assert_eq!(answered, many);
}

/// One core with a store that is slow, for which a program that publishes waits.
fn slow() -> Cores {
    let mut cores = Cores::stored(1, |config| {
        config.auth.api_keys = programs(&["ci"]);
        config.store.ack = AckLevel::Stored;
    });
    cores.slow_store(true);
    cores
}

fn written(cores: &mut Cores) {
    cores.write();
    cores.settle();
}

const BODY: &str = r#"{"content":"x"}"#;

/// The statuses of the answers in what a client has heard.
fn statuses(cores: &mut Cores, client: Client) -> Vec<u16> {
    let heard = cores.heard(client);
    heard.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().expect("a status")).collect()
}

#[test]
fn a_body_comes_in_any_pieces_and_what_has_come_is_counted() {
    let mut cores = Cores::new(|config| config.auth.api_keys = programs(&["ci"]));
    let kept = |cores: &Cores| cores.total(|counters| &counters.input_bytes);
    let whole = format!(r#"{{"content":"{}"}}"#, "x".repeat(3000));
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let (begin, end) = whole.split_at(2500);
    let chunked = [chunk(begin), chunk(end), "0\r\n\r\n".to_owned()];
    let of_length = [begin.to_owned(), end.to_owned()];
    let length = format!("Content-Length: {}\r\n", whole.len());
    for (fields, pieces) in [("Transfer-Encoding: chunked\r\n", &chunked[..]), (&length, &of_length)] {
        let client = browser(&mut cores, 0, &publish(fields, ""));
        for piece in pieces {
            assert_eq!(cores.heard(client), "");
            cores.receive(client, piece.as_bytes());
            let bytes = kept(&cores);
            assert!(bytes == 0 || bytes >= 2500, "{bytes}");
        }
        assert_eq!(statuses(&mut cores, client), [200]);
        assert_eq!(kept(&cores), 0);
        cores.receive(client, &publish(fields, pieces[0].as_str()).into_bytes());
        assert!(kept(&cores) >= 2500);
        cores.broken(client);
        assert_eq!(kept(&cores), 0);
    }
    let head = request("GET /health", &format!("X-Long: {}\r\n", "x".repeat(2000)));
    let (begin, end) = head.split_at(1500);
    let client = browser(&mut cores, 0, begin);
    assert!(kept(&cores) >= 1500);
    cores.receive(client, end.as_bytes());
    assert_eq!((statuses(&mut cores, client), kept(&cores)), (vec![200], 0));
}

#[test]
fn who_waits_to_be_told_to_send_its_body_is_told_when_it_is_its_turn() {
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    let mut cores = slow();
    let length = format!("Content-Length: {}\r\n", BODY.len());
    let waits = publish(&format!("Expect: 100-continue\r\n{length}"), "");
    let whole = publish(&length, BODY);
    let fresh = browser(&mut cores, 0, &waits);
    assert_eq!(cores.heard(fresh), CONTINUE);
    let second = browser(&mut cores, 0, &(whole.clone() + &waits));
    let impatient = browser(&mut cores, 0, &(whole.clone() + &waits + BODY));
    let silent = browser(&mut cores, 0, &(whole.clone() + &publish(&length, "")));
    for client in [second, impatient, silent] {
        assert_eq!(cores.heard(client), "", "the one before is not answered");
    }
    written(&mut cores);
    let heard = cores.heard(second);
    assert!(heard.starts_with("HTTP/1.1 200 OK") && heard.ends_with(CONTINUE), "{heard}");
    assert_eq!(statuses(&mut cores, impatient), [200, 200]);
    assert_eq!(statuses(&mut cores, silent), [200]);
    for client in [fresh, second, silent] {
        cores.receive(client, BODY.as_bytes());
        written(&mut cores);
        assert_eq!(statuses(&mut cores, client), [200]);
    }
}

#[test]
fn what_is_too_long_or_no_request_ends_the_connection_when_those_before_are_answered() {
    let mut cores = Cores::new(|config| {
        config.auth.api_keys = programs(&["ci"]);
        config.limits.http_body_bytes = 16;
    });
    let counts = |cores: &Cores| (cores.total(|c| &c.too_large), cores.total(|c| &c.errors));
    let largest = Answer::of(&cores.http(0, &publish("Content-Length: 16\r\n", "0123456789abcdef")));
    assert_eq!(largest.error(), (400, "bad_json".to_owned()));
    assert_eq!(counts(&cores), (0, 1));
    let chunked = "Transfer-Encoding: chunked\r\n";
    let cases = [
        (publish("Content-Length: 17\r\n", ""), 413, "too_large", 1),
        (publish(chunked, "10\r\n0123456789abcdef\r\n1\r\n0\r\n0\r\n\r\n"), 413, "too_large", 2),
        (publish(chunked, "zz\r\n"), 400, "bad_request", 2),
        (request("GET /health", " folded: 1\r\n"), 400, "bad_request", 2),
    ];
    for (number, (said, status, reason, too_large)) in cases.into_iter().enumerate() {
        let client = browser(&mut cores, 0, &(said + &request("GET /health", "")));
        let answer = Answer::of(&cores.heard(client));
        assert_eq!(answer.error(), (status, reason.to_owned()));
        assert_eq!((answer.field("Connection"), answer.field("X-Request-Id")), (Some("close"), None));
        assert_eq!(counts(&cores), (too_large, number as u64 + 2));
        assert!(cores.is_over(client));
    }
    for line in ["HEAD /health", "GET /health"] {
        let answer = ask(&mut cores, 0, line, "Content-Length: 17\r\n");
        assert_eq!((answer.status, answer.body.is_empty()), (413, line == "HEAD /health"));
    }

    let mut cores = slow();
    let length = format!("Content-Length: {}\r\n", BODY.len());
    let nonsense = request("GET  /health", "") + &"x".repeat(3000);
    let client = browser(&mut cores, 0, &(publish(&length, BODY) + &nonsense));
    assert_eq!(cores.heard(client), "");
    assert!(cores.total(|counters| &counters.input_bytes) < 3000, "nothing that follows is kept");
    assert!(!cores.is_over(client));
    written(&mut cores);
    assert_eq!(statuses(&mut cores, client), [200, 400]);
    assert!(cores.is_over(client));
}

#[test]
fn requests_have_10_seconds_and_between_them_are_75() {
    let mut cores = slow();
    let silent = |cores: &Cores| cores.total(|counters| &counters.no_hello);
    // Not before that many milliseconds more, and then at once.
    let ends_after = |cores: &mut Cores, client: Client, ms: u64| {
        cores.pass(ms - 1);
        assert!(!cores.is_over(client));
        cores.pass(1);
        assert!(cores.is_over(client));
        cores.heard(client)
    };
    let client = cores.connect(0, ListenKind::Web);
    assert_eq!(ends_after(&mut cores, client, 10_000), "", "who has not asked is not answered");
    assert_eq!(silent(&cores), 0);

    let client = cores.connect(0, ListenKind::Web);
    cores.pass(4_000);
    cores.receive(client, b"GET /hea");
    cores.pass(3_000);
    cores.receive(client, b"lth");
    let late = Answer::of(&ends_after(&mut cores, client, 7_000));
    assert_eq!(late.error(), (408, "bad_request".to_owned()));
    assert!(late.field("Date").is_some() && late.field("Connection") == Some("close"));
    assert_eq!(silent(&cores), 1);

    let client = browser(&mut cores, 0, "GET /health HTTP/1.1\r\n");
    cores.pass(9_000);
    cores.receive(client, b"Host: a\r\n\r\n");
    assert_eq!(statuses(&mut cores, client), [200]);
    assert_eq!(ends_after(&mut cores, client, 75_000), "");

    let length = format!("Content-Length: {}\r\n", BODY.len());
    let client = browser(&mut cores, 0, "POST /api/rooms/den/messages HTTP/1.1\r\n");
    cores.pass(9_000);
    cores.receive(client, format!("Host: a\r\nX-API-Key: ci\r\n{length}\r\n").as_bytes());
    cores.pass(9_000);
    cores.receive(client, b"{");
    assert_eq!(Answer::of(&ends_after(&mut cores, client, 1_000)).status, 408);
    assert_eq!(silent(&cores), 2);

    let client = browser(&mut cores, 0, &publish(&length, BODY));
    cores.pass(4_000);
    written(&mut cores);
    assert_eq!(statuses(&mut cores, client), [200]);
    assert_eq!(ends_after(&mut cores, client, 75_000), "");
    assert_eq!(silent(&cores), 2);
    let timed_out = ("other", 408, 2);
    assert!(answered(&mut cores).contains(&timed_out));
}

#[test]
fn paths_lead_nowhere_where_the_operator_says_so() {
    use starling::config::{DashboardAccess, MetricsAccess};
    let mut cores = Cores::new(|config| {
        config.web.echo = Some(false);
        config.web.metrics = MetricsAccess::Off;
        config.web.dashboard = DashboardAccess::Off;
    });
    for path in ["/echo", "/metrics", "/dashboard", "/dashboard.js", "/dashboard/live"] {
        let answer = ask(&mut cores, 0, &format!("GET {path}"), "");
        assert_eq!(answer.error(), (404, "not_found".to_owned()), "{path}");
    }
    for path in ["/", "/health"] {
        assert_eq!(ask(&mut cores, 0, &format!("GET {path}"), "").status, 200);
    }
    let mut cores = Cores::new(|_| {});
    let nobody = (503, "unavailable".to_owned());
    assert_eq!(ask(&mut cores, 0, "GET /echo", "").status, 426);
    assert_eq!(ask(&mut cores, 0, "GET /dashboard", "").status, 200);
    for path in ["/metrics", "/dashboard/live"] {
        let answer = ask(&mut cores, 0, &format!("GET {path}"), "");
        assert_eq!(
            (answer.error(), answer.field("Retry-After")),
            (nobody.clone(), None),
            "nobody will count"
        );
    }
}

#[test]
fn a_server_tells_whether_it_keeps_what_is_said_and_whether_it_takes_clients() {
    let text = |cores: &mut Cores, path: &str| {
        let answer = ask(cores, 0, &format!("GET {path}"), "");
        (answer.status, answer.body)
    };
    let said = |status: u16, body: &str| (status, body.to_owned());
    let mut cores = Cores::stored(1, |config| config.drain.delay_ms = 5_000);
    assert_eq!(text(&mut cores, "/health"), said(200, "OK"));
    cores.tell(0, StoreNews::Down(Some("the disk is full".into())));
    assert_eq!(text(&mut cores, "/health"), said(200, "OK store_down"));
    assert_eq!(text(&mut cores, "/ready"), said(200, "ready"));
    cores.tell(0, StoreNews::Down(None));
    assert_eq!(text(&mut cores, "/health"), said(200, "OK"));
    cores.shards[0].drain();
    assert_eq!(text(&mut cores, "/health"), said(200, "OK"));
    assert_eq!(text(&mut cores, "/ready"), said(503, "draining"));
    assert_eq!(ask(&mut cores, 0, "GET /health", "").field("Connection"), None);
    cores.pass(5_000);
    assert_eq!(ask(&mut cores, 0, "GET /health", "").field("Connection"), Some("close"), "the clients go");

    let mut cores = Cores::node(|config| config.cluster.lease_ms = 10_000);
    assert_eq!(text(&mut cores, "/health"), said(200, "OK"));
    cores.mail(0, Mail::Backplane(BackplaneNews::Down(Some("no answer".into()))));
    cores.pass(9_999);
    assert_eq!(text(&mut cores, "/health"), said(200, "OK backplane_down"));
    assert_eq!(text(&mut cores, "/ready"), said(200, "ready"));
    cores.pass(1);
    assert_eq!(text(&mut cores, "/ready"), said(503, "backplane_down"));
    cores.mail(0, Mail::Backplane(BackplaneNews::Down(None)));
    assert_eq!(text(&mut cores, "/health"), said(200, "OK"));
    assert_eq!(text(&mut cores, "/ready"), said(200, "ready"));
}

#[test]
fn who_finds_no_place_is_told_when_to_come_back() {
    let mut cores = Cores::new(|config| config.limits.connections = 1);
    let first = cores.connect(0, ListenKind::Web);
    let second = cores.connect(0, ListenKind::Web);
    let answer = Answer::of(&cores.heard(second));
    assert_eq!(answer.error(), (503, "unavailable".to_owned()));
    assert_eq!(answer.json()["retryable"], true);
    let fields = ["Retry-After", "Connection", "Date", "Content-Type"].map(|name| answer.field(name));
    assert_eq!(fields, [Some("5"), Some("close"), Some(DATE), Some("application/json")]);
    assert!(cores.is_over(second) && !cores.is_over(first));
    assert_eq!(answered(&mut cores), [("other", 503, 1)]);
}

#[test]
fn a_hello_that_is_refused_leaves_a_connection_for_other_requests() {
    let mut cores = Cores::new(|_| {});
    cores.enter(0, "alice", &[]);
    let fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Request-Id: r1\r\n";
    let client = browser(&mut cores, 0, &request("GET /ws?nickname=alice", fields));
    let answer = Answer::of(&cores.heard(client));
    assert_eq!(answer.error(), (409, "nickname_in_use".to_owned()));
    let fields = ["Connection", "Date", "X-Request-Id"].map(|name| answer.field(name));
    assert_eq!(fields, [None, Some(DATE), Some("r1")]);
    cores.receive(client, request("GET /health", "").as_bytes());
    assert_eq!(statuses(&mut cores, client), [200]);
    assert_eq!(answered(&mut cores), [("GET", 200, 1), ("GET", 409, 1)]);
}

#[test]
fn who_asks_too_fast_is_told_how_long_to_wait_and_closed_if_it_does_not() {
    let mut cores = Cores::new(|config| {
        (config.rate.commands_per_second, config.rate.burst) = (1, 1);
        config.limits.rate_ignored_ms = 500;
    });
    let rooms = request("GET /api/rooms", "");
    let client = browser(&mut cores, 0, &rooms);
    cores.heard(client);
    cores.pass(100);
    let refused = |cores: &mut Cores| {
        cores.receive(client, rooms.as_bytes());
        let answer = Answer::of(&cores.heard(client));
        assert_eq!(answer.error(), (429, "rate_limited".to_owned()));
        let error = answer.json();
        let told =
            (error["retry_after_ms"].as_u64().unwrap(), answer.field("Retry-After").unwrap().to_owned());
        (told, answer.field("Connection").map(str::to_owned))
    };
    assert_eq!(refused(&mut cores), ((900, "1".to_owned()), None));
    cores.pass(499);
    assert_eq!(refused(&mut cores), ((401, "1".to_owned()), None));
    cores.receive(client, (rooms.clone() + &request("GET /health", "")).as_bytes());
    assert_eq!(statuses(&mut cores, client), [429, 200], "what costs nothing is answered all the same");
    cores.pass(1);
    cores.receive(client, (rooms.clone() + &request("GET /health", "")).as_bytes());
    let heard = cores.heard(client);
    assert_eq!(Answer::of(&heard).field("Connection"), Some("close"));
    assert_eq!(heard.matches("HTTP/1.1").count(), 1);
    assert!(cores.is_over(client));
    assert_eq!(cores.total(|counters| &counters.rate_limits_ignored), 1);
    assert_eq!(cores.total(|counters| &counters.errors), 4);
    // Another connection has its own time, and says itself that it is the last.
    let last = request("GET /api/rooms", "Connection: close\r\n");
    let other = browser(&mut cores, 0, &(rooms + &last));
    let heard = cores.heard(other);
    let (_, second) = heard.split_at(heard.rfind("HTTP/1.1").expect("two answers"));
    let second = Answer::of(second);
    assert_eq!((second.status, second.field("Connection")), (429, Some("close")));
    assert!(cores.is_over(other));
}
