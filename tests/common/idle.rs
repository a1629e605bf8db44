//! What an idle client takes of memory, by how it speaks.

use starling::base::time::Now;
use starling::config::ListenKind;
use starling::reactor::{Reactor, link_bytes};
use starling::shard::footprint;

use super::allocator::BYTES;
use super::core::reactors;
use super::memory::Memory;

/// What an idle client may cost, in bytes: what is asked of the allocator while it comes and says hello, less what is given back. The
/// socket, which is the kernel's, is none of it.
pub const BYTES_MAX: i64 = 1024;

/// Tables double when they are full. So that what they keep free counts in full and but once, as many come as double them.
const CLIENTS: usize = 4096;

/// More turns than a client needs to be let in.
const TURNS_MAX: usize = 1000;

const LISTENERS: [ListenKind; 3] = [ListenKind::Web, ListenKind::Line, ListenKind::Frame];

/// What is measured: the name of the transport, its listener, and what a client says when it comes.
type Transport = (&'static str, usize, fn(usize) -> Vec<u8>);

const TRANSPORTS: [Transport; 5] = [
    ("websocket", 0, |number| {
        format!(
            "GET /ws?nickname=somebody{number} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes()
    }),
    ("json_lines", 1, |number| format!("{}\n", hello(number)).into_bytes()),
    ("frames", 2, |number| {
        let hello = hello(number);
        let header = [0xca, 0xfe, 0xba, 0xbe, 1, 0, 0, 0, hello.len() as u8, 0, 1];
        [&header[..], hello.as_bytes()].concat()
    }),
    ("event_stream", 0, |_| b"GET /api/rooms/den/stream HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
    ("http", 0, |_| b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
];

fn hello(number: usize) -> String {
    format!("{{\"type\":\"hello\",\"nickname\":\"somebody{number}\"}}")
}

/// Of each transport: its name, the bytes that one idle client took of the allocator, and those that the server tells.
pub fn measured() -> Vec<(&'static str, i64, i64)> {
    let told = footprint::idle_bytes(link_bytes::<usize>());
    let measure = |(name, listener, says): Transport| {
        let told = told.iter().find(|(transport, _)| *transport == name).expect("it is told").1;
        (name, bytes_each(listener, says), told as i64)
    };
    TRANSPORTS.into_iter().map(measure).collect()
}

fn bytes_each(listener: usize, says: fn(usize) -> Vec<u8>) -> i64 {
    let kernel = Memory::new(LISTENERS.len());
    let mut core = reactors(0, [kernel], &LISTENERS, Now::default()).remove(0);
    let mut come = |numbers: std::ops::Range<usize>| {
        let mut bytes = 0;
        for number in numbers {
            let client = core.os().connect(listener);
            bytes += settled(&mut core);
            core.os().say(client, &says(number));
            bytes += settled(&mut core);
        }
        bytes
    };
    come(0..CLIENTS);
    let bytes = come(CLIENTS..2 * CLIENTS) / CLIENTS as i64;
    let inventory = core.world().inventory();
    assert_eq!(inventory.connections, 2 * CLIENTS, "all have come");
    bytes
}

/// Turns until nothing is left to do, and says how many bytes more are in use after that.
fn settled(core: &mut Reactor<Memory>) -> i64 {
    let before = BYTES.get();
    for _ in 0..TURNS_MAX {
        core.turn();
        if core.is_quiescent() {
            return BYTES.get() - before;
        }
    }
    panic!("the core does not come to rest");
}
