//! The requests of HTTP in the log.

use starling::config::AckLevel;
use starling::shard::mail::ConnectionRef;

use crate::answers::{browser, request};
use crate::cores::{Client, Cores, programs};
use crate::logs;

/// What has been logged of this client's requests since somebody looked, without its name.
fn logged(client: Client) -> Vec<String> {
    let conn = format!(" conn={}", ConnectionRef { core: 0, connection: client.id });
    let lines = logs::logged("access_log");
    assert!(lines.iter().all(|line| line.contains(&conn)), "{lines:?}");
    lines.iter().map(|line| line.replace(&conn, "")).collect()
}

#[test]
fn a_request_is_logged_when_it_has_come_and_when_it_is_answered() {
    logs::logged("access_log");
    let mut cores = Cores::stored(1, |config| {
        config.auth.api_keys = programs(&["ci"]);
        config.store.ack = AckLevel::Stored;
    });
    cores.slow_store(true);
    let client = browser(&mut cores, 0, &request("GET /health?token=secret", "X-Request-Id: r1\r\n"));
    let expected = ["request request=r1 method=GET path=/health", "answered request=r1 status=200 us=0"];
    assert_eq!(logged(client), expected);

    let body = r#"{"content":"x"}"#;
    let fields = format!("X-API-Key: ci\r\nX-Request-Id: r2\r\nContent-Length: {}\r\n", body.len());
    cores.receive(client, (request("POST /api/rooms/den/messages", &fields) + body).as_bytes());
    assert_eq!(logged(client), ["request request=r2 method=POST path=/api/rooms/den/messages"]);
    cores.pass(1_234);
    cores.write();
    cores.settle();
    assert_eq!(logged(client), ["answered request=r2 status=200 us=1234000"]);
    cores.receive(client, b"nonsense\r\n\r\n");
    assert_eq!(logged(client), ["answered status=400 us=0"]);
}
