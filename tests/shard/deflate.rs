//! Compressed messages of WebSockets.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use starling::config::{Config, ListenKind};

use crate::carriers::websocket;
use crate::cores::{Client, Cores};

const SHARED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const NARROW: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9";
const KEEPING: &str = "permessage-deflate";

/// What ends each message and is left out of it (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

const TEXT: u8 = 1;
const BINARY: u8 = 2;

/// The bit of a frame's first byte that says that it is compressed, beside the opcode.
const COMPRESSED: u8 = 0x40;

fn cores(set: impl FnOnce(&mut Config)) -> Cores {
    Cores::new(|config| {
        config.web.deflate = true;
        config.web.echo = Some(true);
        config.limits.deflate_min_bytes = 100;
        set(config);
    })
}

/// Somebody has opened a WebSocket, with this offer of compression.
fn open(cores: &mut Cores, path: &str, offer: &str) -> Client {
    let client = cores.connect(0, ListenKind::Web);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n"
    );
    cores.receive(client, request.as_bytes());
    let answer = cores.heard(client);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    client
}

fn compressed(text: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(2 * text.len() + 100);
    let mut stream = Compress::new(Compression::new(9), false);
    stream.compress_vec(text, &mut payload, FlushCompress::Sync).expect("it can be compressed");
    payload.truncate(payload.len() - TAIL.len());
    payload
}

/// What a compressed message says.
fn inflated(payload: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(1 << 16);
    let mut stream = Decompress::new(false);
    let all = [payload, &TAIL].concat();
    stream.decompress_vec(&all, &mut text, FlushDecompress::Sync).expect("it is compressed");
    text
}

/// The frames that have come: how each begins, and its payload.
fn frames(cores: &mut Cores, client: Client) -> Vec<(u8, Vec<u8>)> {
    let bytes = cores.bytes(client);
    let (mut rest, mut frames) = (&bytes[..], Vec::new());
    while let [first, length, ..] = rest {
        let (at, length) = match length {
            126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
            length => (2, usize::from(*length)),
        };
        frames.push((first & 0x7F, rest[at..at + length].to_vec()));
        rest = &rest[at + length..];
    }
    frames
}

/// Letters without any order.
fn noise(count: usize) -> String {
    let mut state = 1u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 33) as u8 % 26)
    };
    (0..count).map(|_| letter()).collect()
}

#[test]
fn an_echo_is_compressed_where_that_is_agreed_and_pays() {
    let text = "so it goes, ".repeat(50);
    for (offer, is_agreed) in [("", false), (SHARED, true), (NARROW, true), (KEEPING, true)] {
        let mut cores = cores(|config| config.limits.deflate_contexts = 1);
        let client = open(&mut cores, "/echo", offer);
        for (opcode, said) in [(TEXT, &text[..]), (BINARY, &text[..]), (TEXT, "short")] {
            cores.receive(client, &websocket(opcode, said.as_bytes()));
            let [(first, payload)] = &frames(&mut cores, client)[..] else { panic!("one echo") };
            let is_compressed = is_agreed && said.len() >= 100;
            assert_eq!(*first, if is_compressed { COMPRESSED | opcode } else { opcode }, "{offer}");
            match is_compressed {
                true => assert!(payload.len() < 100),
                false => assert_eq!(payload, said.as_bytes()),
            }
        }
        assert_eq!(cores.total(|counters| &counters.deflated), if is_agreed { 2 } else { 0 });
    }
}

#[test]
fn what_a_client_compresses_is_heard_as_what_it_is() {
    let mut cores = cores(|config| config.limits.deflate_min_bytes = 10_000);
    let client = open(&mut cores, "/echo", SHARED);
    let text = "so it goes, ".repeat(50);
    for (count, opcode) in [(1, TEXT), (2, BINARY)] {
        cores.receive(client, &websocket(COMPRESSED | opcode, &compressed(text.as_bytes())));
        assert_eq!(frames(&mut cores, client), [(opcode, text.clone().into_bytes())]);
        assert_eq!(cores.total(|counters| &counters.inflated), count);
        assert_eq!(cores.total(|counters| &counters.inflated_bytes), count * text.len() as u64);
    }
}

#[test]
fn of_what_cannot_be_inflated_only_what_is_too_long_is_counted_as_that() {
    let mut cores = cores(|config| config.limits.echo_message_bytes = 1000);
    let too_long = compressed(&[b'x'; 1001]);
    for (payload, code, counted) in
        [(&too_long[..], 1009u16, 1), (b"\xff\xff\xff", 1007, 1), (&too_long, 1009, 2)]
    {
        let client = open(&mut cores, "/echo", SHARED);
        cores.receive(client, &websocket(COMPRESSED | TEXT, payload));
        let [(8, close)] = &frames(&mut cores, client)[..] else { panic!("it is closed, with a code") };
        assert_eq!(close[..2], code.to_be_bytes());
        assert_eq!(cores.total(|counters| &counters.inflated_too_large), counted);
        assert_eq!(cores.total(|counters| &counters.too_large), counted);
    }
}

#[test]
fn a_client_is_sent_nothing_that_refers_further_back_than_it_remembers() {
    let said = |offer: &str, text: &str| {
        let mut cores = cores(|_| {});
        let client = open(&mut cores, "/echo", offer);
        cores.receive(client, &websocket(TEXT, text.as_bytes()));
        let [(first, payload)] = &frames(&mut cores, client)[..] else { panic!("one echo") };
        assert_eq!(*first, COMPRESSED | TEXT);
        assert_eq!(inflated(payload), text.as_bytes());
        let counted = [
            cores.total(|counters| &counters.deflated_bytes_before),
            cores.total(|counters| &counters.deflated_bytes_after),
        ];
        assert_eq!(counted, [text.len() as u64, payload.len() as u64]);
        payload.len()
    };
    // What is said again is further back than 512 bytes: to whoever remembers no more it is new.
    let (once, twice) = (noise(1000), noise(1000).repeat(2));
    for (offer, times) in [(SHARED, 1), (NARROW, 2)] {
        let expected = times * said(offer, &once);
        assert!(said(offer, &twice).abs_diff(expected) < 30, "{offer}");
    }
}

#[test]
fn a_message_is_compressed_once_for_those_who_share_it_whoever_is_there_with_a_context() {
    for contexts in [0, 1] {
        let mut cores = cores(|config| config.limits.deflate_contexts = contexts);
        let keeping = open(&mut cores, "/ws?nickname=alone&room=den", KEEPING);
        let shared: Vec<Client> = (0..3)
            .map(|number| open(&mut cores, &format!("/ws?nickname=user{number}&room=den"), SHARED))
            .collect();
        let speaker = cores.enter(0, "speaker", &["den"]);
        shared.iter().chain([&keeping]).for_each(|client| drop(cores.bytes(*client)));
        let before = cores.total(|counters| &counters.deflated);
        let bytes_before = cores.total(|counters| &counters.deflated_bytes_after);
        cores.speak(speaker, "den", &"so it goes, ".repeat(50));
        assert_eq!(cores.total(|counters| &counters.deflated) - before, 1 + contexts as u64);
        let [heard, again, third, alone] =
            [shared[0], shared[1], shared[2], keeping].map(|client| frames(&mut cores, client));
        assert_eq!((&heard, &heard), (&again, &third));
        let (heard, alone) = (&heard.last().expect("the message").1, &alone.last().expect("the message").1);
        let sent = if contexts > 0 { heard.len() + alone.len() } else { heard.len() };
        assert_eq!(cores.total(|counters| &counters.deflated_bytes_after) - bytes_before, sent as u64);
    }
}

#[test]
fn contexts_are_refused_where_there_are_none_left_and_not_where_there_are_none() {
    for (contexts, refused) in [(0, 0), (1, 1), (2, 0)] {
        let mut cores = cores(|config| config.limits.deflate_contexts = contexts);
        for _ in 0..2 {
            open(&mut cores, "/echo", KEEPING);
        }
        assert_eq!(cores.total(|counters| &counters.deflate_contexts_refused), refused, "{contexts}");
        assert_eq!(cores.total(|counters| &counters.deflate_contexts), contexts as u64);
    }
}
