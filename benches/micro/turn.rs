//! Turns of whole cores, over a kernel in memory: everything but what the kernel costs. What the one in memory does in
//! its place, a copy of the input and a few sums a call, is part of the figures.

use std::fmt::Write as _;

use starling::base::time::Now;
use starling::config::ListenKind;
use starling::proto::websocket::Opcode;
use starling::reactor::Reactor;

use crate::codecs::masked;
use crate::cores;
use crate::memory::Memory;
use crate::works::{CONTENT_BYTES, Run, prose, repeat, words};

type Core = Reactor<Memory>;

const LISTENERS: [ListenKind; 2] = [ListenKind::Web, ListenKind::Line];
const WEB: usize = 0;
const LINE: usize = 1;

/// After this time large rooms have been told who has come.
const PRESENCE_MS: u64 = 5000;

/// How a member speaks.
#[derive(Clone, Copy)]
enum Speech {
    WebSocket,
    /// A WebSocket that wants its messages compressed.
    Deflated,
    JsonLines,
    Text,
}

/// One of each, in turns.
const MIXED: &[Speech] = &[Speech::WebSocket, Speech::JsonLines, Speech::Text];

fn cores(count: usize) -> Vec<Core> {
    let kernels: Vec<Memory> = (0..count).map(|_| Memory::new(LISTENERS.len())).collect();
    cores::reactors(0, kernels, &LISTENERS, Now::default())
}

/// Turns until nothing is left to do.
fn settle(cores: &mut [Core]) {
    loop {
        let before = calls(cores);
        for core in &mut *cores {
            core.turn();
        }
        if calls(cores) == before && cores.iter().all(Core::is_quiescent) {
            return;
        }
    }
}

/// How often the kernels were called in earnest.
fn calls(cores: &mut [Core]) -> usize {
    cores.iter_mut().map(|core| core.os().calls).map(|calls| calls.accepts + calls.reads + calls.writes).sum()
}

fn deliveries(cores: &mut [Core]) -> u64 {
    cores.iter_mut().map(|core| core.world().counters().deliveries.value()).sum()
}

/// What a browser offers.
const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

fn get(target: &str, fields: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{fields}\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

fn message(room: &str) -> String {
    format!(r#"{{"type":"message","room":"{room}","content":"{}"}}"#, words(CONTENT_BYTES))
}

/// Has `count` clients come to each core, who say hello and join the lobby; the first of each core speaks the first of
/// `speeches`, and so on.
fn gather(cores: &mut [Core], count: usize, speeches: &[Speech]) {
    let speech = |client: usize| speeches[client % speeches.len()];
    for core in &mut *cores {
        for client in 0..count {
            let is_web = matches!(speech(client), Speech::WebSocket | Speech::Deflated);
            core.os().connect(if is_web { WEB } else { LINE });
        }
    }
    settle(cores);
    for (number, core) in cores.iter_mut().enumerate() {
        for client in 0..count {
            let nickname = format!("member{number}.{client}");
            let hello = match speech(client) {
                Speech::WebSocket => get(&format!("/ws?nickname={nickname}&room=lobby"), ""),
                Speech::Deflated => get(&format!("/ws?nickname={nickname}&room=lobby"), DEFLATE),
                Speech::JsonLines => {
                    let hello = format!(r#"{{"type":"hello","nickname":"{nickname}"}}"#);
                    format!("{hello}\n{{\"type\":\"join\",\"room\":\"lobby\"}}\n").into_bytes()
                }
                Speech::Text => format!("{nickname}\n").into_bytes(),
            };
            core.os().say(client, &hello);
        }
    }
    rest(cores);
}

/// Lets everybody hear what there is to hear of each other's coming.
fn rest(cores: &mut [Core]) {
    settle(cores);
    for core in &mut *cores {
        core.os().pass(PRESENCE_MS);
    }
    settle(cores);
}

/// A core with a lobby of so many, the first of whom is client 0.
fn lobby(members: usize, speeches: &[Speech]) -> Core {
    let mut cores = cores(1);
    gather(&mut cores, members, speeches);
    cores.remove(0)
}

/// A turn without anything to do, with so many connections at rest.
pub fn empty(members: usize) -> Run {
    let mut core = lobby(members, &[Speech::WebSocket]);
    repeat(move || {
        core.turn();
    })
}

/// A turn in which a client says `input`, and something is written to it.
fn answered(mut core: Core, input: Vec<u8>) -> Run {
    repeat(move || {
        let writes = core.os().calls.writes;
        core.os().say(0, &input);
        core.turn();
        assert_eq!(core.os().calls.writes, writes + 1);
    })
}

/// The command `ping`, and its pong.
pub fn ping() -> Run {
    answered(lobby(1, &[Speech::WebSocket]), masked(Opcode::Text, br#"{"type":"ping"}"#))
}

/// A message to `/echo`, and back.
pub fn echo(bytes: usize) -> Run {
    let mut cores = cores(1);
    let client = cores[0].os().connect(WEB);
    settle(&mut cores);
    cores[0].os().say(client, &get("/echo", ""));
    settle(&mut cores);
    answered(cores.remove(0), masked(Opcode::Text, words(bytes).as_bytes()))
}

/// A turn in which a member says something, and each of so many hears it.
pub fn fan_out(members: usize) -> Run {
    published(lobby(members, &[Speech::WebSocket]), members, &message("lobby"))
}

/// The same with a KiB of what people say, compressed once for all of them or not at all.
pub fn fan_out_long(members: usize, is_deflated: bool) -> Run {
    let speech = if is_deflated { Speech::Deflated } else { Speech::WebSocket };
    let message = format!(r#"{{"type":"message","room":"lobby","content":"{}"}}"#, prose(1 << 10));
    published(lobby(members, &[speech]), members, &message)
}

/// The same, to members who speak in three ways.
pub fn fan_out_mixed(members: usize) -> Run {
    published(lobby(members, MIXED), members, &message("lobby"))
}

fn published(mut core: Core, hearers: usize, message: &str) -> Run {
    let input = masked(Opcode::Text, message.as_bytes());
    repeat(move || {
        let writes = core.os().calls.writes;
        core.os().say(0, &input);
        core.turn();
        assert_eq!(core.os().calls.writes, writes + hearers);
    })
}

/// The same with the members on two cores, half of them on each, and whatever mail and turns it takes.
pub fn fan_out_across(members: usize) -> Run {
    let mut cores = cores(2);
    gather(&mut cores, members / 2, &[Speech::WebSocket]);
    let input = masked(Opcode::Text, message("lobby").as_bytes());
    repeat(move || {
        let before = deliveries(&mut cores);
        cores[0].os().say(0, &input);
        settle(&mut cores);
        assert_eq!(deliveries(&mut cores), before + members as u64);
    })
}

/// So many rooms of so many members, one of whom says something in each: as many clients as rooms, each of whom is in
/// as many rooms as a room has members, and speaks in one. Everybody hears all of it in one or two writes.
pub fn fan_out_of_rooms(rooms: usize, members: usize) -> Run {
    let mut cores = cores(1);
    gather(&mut cores, rooms, &[Speech::JsonLines]);
    for client in 0..rooms {
        let mut joins = String::new();
        for room in client..client + members {
            writeln!(joins, r#"{{"type":"join","room":"room{}"}}"#, room % rooms).expect("a string takes it");
        }
        cores[0].os().say(client, joins.as_bytes());
    }
    rest(&mut cores);
    let inputs: Vec<String> = (0..rooms).map(|room| message(&format!("room{room}")) + "\n").collect();
    repeat(move || {
        let before = deliveries(&mut cores);
        for (client, input) in inputs.iter().enumerate() {
            cores[0].os().say(client, input.as_bytes());
        }
        settle(&mut cores);
        assert_eq!(deliveries(&mut cores), before + (rooms * members) as u64);
    })
}
