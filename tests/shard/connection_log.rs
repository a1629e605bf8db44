//! The life of a connection, as the log tells it.

use starling::config::ListenKind;

use crate::cores::Cores;
use crate::logs;

/// What has been logged since somebody looked, without the names of connections and sessions.
fn logged() -> Vec<String> {
    let is_kept = |word: &&str| !word.starts_with("conn=") && !word.starts_with("session=");
    let lines = logs::logged("connection_log").into_iter();
    lines.map(|line| line.split(' ').filter(is_kept).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn who_came_what_it_spoke_who_it_was_and_why_it_ended() {
    logged();
    let mut cores = Cores::new(|_| {});
    let line = cores.connect_from(0, ListenKind::Line, [10, 1, 2, 3]);
    let (hello, join) = (r#"{"type":"hello","nickname":"alice"}"#, r#"{"type":"join","room":"no room"}"#);
    let quit = r#"{"type":"quit"}"#;
    let received = hello.len() + join.len() + quit.len() + 3;
    cores.say(line, hello);
    cores.say(line, join);
    let sent = cores.heard(line).len();
    assert_eq!(
        logged(),
        [
            "accepted peer=10.1.2.3 listener=line",
            "speaks protocol=json_lines",
            "welcomed nickname=alice resumed=false",
            "refused code=400 reason=bad_name",
        ]
    );
    cores.pass(1500);
    cores.say(line, quit);
    let sent = sent + cores.heard(line).len();
    assert_eq!(
        logged(),
        [
            "closing reason=quit".to_owned(),
            format!(
                "closed reason=quit cut_off=false received_bytes={received} sent_bytes={sent} lived_ms=1500"
            ),
        ]
    );

    let frames = cores.connect(0, ListenKind::Frame);
    cores.receive(frames, b"GET / HTTP/1.1\r\n\r\n");
    let told = logged();
    assert_eq!(told[0], "accepted peer=127.0.0.1 listener=frame");
    assert!(told[1].starts_with("not understood why="), "{told:?}");
    assert_eq!(told[2], "closing reason=bad_protocol");
    assert!(told[3].starts_with("closed reason=bad_protocol cut_off=false received_bytes=18 "));

    let web = cores.connect(0, ListenKind::Web);
    cores.receive(web, b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n");
    cores.receive(web, b"\x88\x82\0\0\0\0\x03\xe9");
    let told = logged();
    assert!(told.contains(&"speaks protocol=websocket".to_owned()), "{told:?}");
    assert!(told.contains(&"closing reason=peer_closed code=1001".to_owned()), "{told:?}");

    let broken = cores.connect(0, ListenKind::Line);
    cores.stall(broken, true);
    cores.pass(500);
    assert_eq!(logged(), ["accepted peer=127.0.0.1 listener=line", "speaks protocol=text_lines"]);
    cores.broken(broken);
    assert_eq!(
        logged(),
        [
            "closing reason=broken",
            "closed reason=broken cut_off=true received_bytes=0 sent_bytes=0 lived_ms=500"
        ]
    );
}

#[test]
fn for_whom_a_proxy_comes_what_is_encrypted_and_what_breaks_the_rules() {
    logged();
    let mut cores = Cores::new(|_| {});
    let id = cores.shards[0].open_for_another([10, 0, 0, 1].into(), ListenKind::Web);
    let client = cores.connected(0, id);
    cores.shards[0].introduced(id, [10, 0, 0, 2].into());
    cores.shards[0].securing(id);
    cores.shards[0].secured(id);
    let request = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    cores.receive(client, request);
    cores.receive(client, b"\x83\x80\0\0\0\0");
    let told = logged();
    let expected = [
        "accepted peer=10.0.0.1 listener=web",
        "introduced peer=10.0.0.2",
        "encrypted",
        "speaks protocol=websocket",
        "closing reason=violation code=1002 why=the opcode is reserved",
    ];
    assert_eq!(told[..5], expected);
    assert!(told[5].starts_with("closed reason=violation cut_off=false "), "{told:?}");
}
