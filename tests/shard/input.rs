//! What comes from clients, in any pieces and in any of the languages.

use starling::config::ListenKind;

use crate::carriers::{CARRIERS, Carrier, frame, websocket};
use crate::cores::Cores;

/// What a program says, with the kind that its frames have: in an order in which most has to wait for what is before it.
const TALK: &[(u8, &str)] = &[
    (10, r#"{"id":"0"}"#),
    (1, r#"{"id":"1","nickname":"alice"}"#),
    (2, r#"{"id":"2","room":"den","echo":false}"#),
    (2, r#"{"id":"3","room":"hall","echo":false}"#),
    (5, r#"{"id":"4","room":"den","content":"one"}"#),
    (5, r#"{"id":"5","room":"hall","content":"two"}"#),
    (5, r#"{"id":"6","room":"den","content":"three"}"#),
    (9, r#"{"id":"7","room":"den"}"#),
    (2, r#"{"id":"8","room":"den"}"#),
    (6, r#"{"id":"9","target":"nobody","content":"psst"}"#),
    (11, r#"{"id":"10","room":"den"}"#),
    (3, r#"{"id":"11","room":"hall"}"#),
    (10, r#"{"id":"12"}"#),
    (23, r#"{"id":"13","nickname":"alicia"}"#),
    (21, "{}"),
];

#[test]
fn what_is_said_ahead_is_answered_in_turn_in_every_language() {
    for carrier in CARRIERS {
        let commands: Vec<Vec<u8>> =
            TALK.iter().map(|(kind, fields)| carrier.command(*kind, fields)).collect();
        let all = commands.concat();
        let mut runs = Vec::new();
        for chunks in [
            commands.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            vec![&all[..]],
            all.chunks(1).collect(),
            all.chunks(7).collect(),
            all.chunks(100).collect(),
        ] {
            let mut cores = Cores::of(3, |_| {});
            let client = carrier.connect(&mut cores, 1);
            for chunk in chunks {
                cores.receive(client, chunk);
            }
            assert!(cores.is_over(client), "{carrier:?}");
            assert_eq!(cores.total(|counters| &counters.input_bytes), 0);
            runs.push(cores.bytes(client));
        }
        for run in &runs[1..] {
            assert_eq!(String::from_utf8_lossy(run), String::from_utf8_lossy(&runs[0]), "{carrier:?}");
        }
        let text = String::from_utf8_lossy(&runs[0]);
        for word in ["unauthenticated", "alice", "already_joined", "no_such_user", "three", "quit"] {
            assert!(text.contains(word), "{carrier:?}: {word} in {text}");
        }
    }
}

#[test]
fn what_is_no_command_is_refused_in_the_language_of_whoever_says_it() {
    let mut cores = Cores::of(2, |config| config.limits.inbound_bytes = 1000);
    let line = cores.connect(0, ListenKind::Line);
    cores.receive(line, b"{\"type\":\"hello\"\n{\"type\":\"fly\"}\n\n{\"type\":7}\n");
    let reasons = cores.told(line, "error", "reason");
    assert_eq!(reasons, ["bad_json", "unknown_type", "bad_request"], "an empty line is nothing");
    cores.receive(line, &[b'x'; 1001]);
    cores.receive(line, b"\n");
    assert_eq!(cores.told(line, "error", "reason"), ["too_large"]);
    assert_eq!(cores.total(|counters| &counters.too_large), 1);

    for (encoding, kind, reason) in
        [(0, 99, "unknown_type"), (1, 0, "unknown_type"), (7, 1, "unknown_type"), (0, 1, "bad_json")]
    {
        let client = cores.connect(0, ListenKind::Frame);
        cores.receive(client, &frame(encoding, kind, b"{"));
        let heard = cores.bytes(client);
        let error = 128 + 16;
        // Whoever speaks neither is answered in JSON.
        assert_eq!(
            (&heard[..5], &heard[9..11]),
            (&[0xCA, 0xFE, 0xBA, 0xBE, 1][..], &[encoding & 1 & !(encoding >> 1), error][..])
        );
        assert!(String::from_utf8_lossy(&heard).contains(reason));
    }
    let client = cores.connect(0, ListenKind::Frame);
    cores.receive(client, b"\xCA\xFE\xBA\xBE\x01\0\0\x04\0\0\x01");
    assert!(cores.is_over(client) && cores.heard(client).contains("bad_protocol"));
    assert_eq!(cores.total(|counters| &counters.too_large), 2);
    let client = cores.connect(0, ListenKind::Frame);
    cores.receive(client, b"GET / HTTP/1.1\r\n");
    assert!(cores.is_over(client));
    assert_eq!(cores.total(|counters| &counters.too_large), 2, "it is no frame at all");

    for (carrier, opcode) in [(Carrier::WebSocket, 2), (Carrier::ProtobufWebSocket, 1)] {
        let client = carrier.connect(&mut cores, 0);
        cores.receive(client, &websocket(opcode, b"{}"));
        let heard = cores.heard(client);
        assert!(heard.contains("bad_request") && heard.contains("this subprotocol speaks in"), "{heard}");
        assert!(!cores.is_over(client));
    }
}

#[test]
fn whoever_does_not_read_its_answers_is_not_read() {
    let mut cores = Cores::new(|config| config.limits.output_pause_bytes = 1000);
    for carrier in CARRIERS {
        let client = carrier.connect(&mut cores, 0);
        let ping = carrier.command(20, r#"{"id":"p"}"#);
        cores.receive(client, &ping);
        let one = cores.bytes(client).len();
        cores.stall(client, true);
        let pauses = cores.total(|counters| &counters.output_pauses);
        // So many that they are more than may wait, and not one less.
        let most = 1000 / one;
        for _ in 0..most {
            cores.receive(client, &ping);
        }
        assert_eq!(cores.total(|counters| &counters.output_pauses), pauses, "{carrier:?}");
        cores.receive(client, &ping);
        assert_eq!(cores.total(|counters| &counters.output_pauses), pauses + 1);
        cores.receive(client, &ping.repeat(3));
        assert_eq!(cores.unread(client), 3 * ping.len());
        cores.stall(client, false);
        assert_eq!((cores.unread(client), cores.bytes(client).len()), (0, (most + 4) * one), "{carrier:?}");
    }
}

#[test]
fn what_is_not_complete_is_counted_and_let_go() {
    let mut cores = Cores::new(|_| {});
    let count = |cores: &Cores| cores.total(|counters| &counters.input_bytes);
    let line = cores.connect(0, ListenKind::Line);
    cores.receive(line, b"{\"type\":\"ping\",");
    let of_one = count(&cores);
    assert_eq!(of_one, 15);
    let other = cores.connect(0, ListenKind::Line);
    cores.receive(other, b"{\"type\":\"ping\",");
    assert_eq!(count(&cores), 2 * of_one);
    cores.receive(line, b"\"id\":\"1\"}\n");
    assert_eq!(count(&cores), of_one);
    cores.broken(other);
    assert_eq!(count(&cores), 0);
}

#[test]
fn what_has_been_said_before_the_end_is_done() {
    let mut cores = Cores::of(3, |_| {});
    let bob = cores.enter(0, "bob", &["den"]);
    let (client, last) =
        (cores.connect(1, ListenKind::Line), r#"{"type":"message","room":"den","content":"last"}"#);
    let said = format!(
        "{}\n{}\n{last}",
        r#"{"type":"hello","nickname":"alice"}"#, r#"{"type":"join","room":"den"}"#
    );
    cores.receive(client, said.as_bytes());
    cores.ends(client);
    assert!(cores.is_over(client));
    assert_eq!(cores.told(bob, "message", "content"), ["last"]);
    // Half a frame is nothing.
    let client = cores.connect(1, ListenKind::Frame);
    let hello = frame(0, 1, br#"{"nickname":"carol"}"#);
    cores.receive(client, &hello[..hello.len() - 1]);
    cores.ends(client);
    assert!(cores.is_over(client) && !cores.heard(client).contains("welcome"));
}
