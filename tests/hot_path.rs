//! What a delivery costs, in counts: allocations, and calls to the kernel. Counts do not depend on the machine, nor on
//! what else it does.

#[path = "common/allocator.rs"]
mod allocator;
#[path = "common/core.rs"]
mod core;
#[path = "common/idle.rs"]
mod idle;
#[path = "common/memory.rs"]
mod memory;

mod common;

use std::fmt::Write as _;

use starling::base::histogram::Snapshot;
use starling::base::latency::{HOPS, Hop};
use starling::base::time::Now;
use starling::config::ListenKind;
use starling::proto::wire::Event;
use starling::proto::{json, protobuf};
use starling::reactor::Reactor;

use allocator::ALLOCATIONS;
use memory::Memory;

/// How often this thread asks for memory while `work` runs.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// The listeners of the cores here, by number.
const LISTENERS: [ListenKind; 2] = [ListenKind::Web, ListenKind::Line];
const WEB: usize = 0;
const LINE: usize = 1;

/// How members speak.
#[derive(Clone, Copy)]
enum Speech {
    WebSocket,
    JsonLines,
    Text,
    /// Not at all: it hears the lobby by HTTP.
    EventStream,
}

const ALL: [Speech; 3] = [Speech::WebSocket, Speech::JsonLines, Speech::Text];

/// More turns than anything here needs to come to rest.
const TURNS_MAX: usize = 1000;

type Core = Reactor<Memory>;

fn cores(count: usize) -> Vec<Core> {
    cores_following(0, count)
}

/// The same, where one message in so many is followed.
fn cores_following(every: u64, count: usize) -> Vec<Core> {
    let kernels: Vec<Memory> = (0..count).map(|_| Memory::new(LISTENERS.len())).collect();
    let mut cores = core::reactors(every, kernels, &LISTENERS, Now::default());
    settle(&mut cores);
    cores
}

/// Turns until nothing is left to do.
fn settle(cores: &mut [Core]) {
    for _ in 0..TURNS_MAX {
        let before: Vec<u64> = work_done(cores);
        cores.iter_mut().for_each(|core| {
            core.turn();
        });
        if before == work_done(cores) && cores.iter().all(Core::is_quiescent) {
            return;
        }
    }
    panic!("the cores do not come to rest");
}

/// What changes as long as a core does something.
fn work_done(cores: &mut [Core]) -> Vec<u64> {
    let counters = cores.iter_mut().map(|core| core.world().counters());
    counters
        .map(|c| {
            c.events.value()
                + c.accepted.value()
                + c.received_bytes.value()
                + c.writes.value()
                + c.parcels.value()
        })
        .collect()
}

/// A member of the lobby, and of each of `rooms`.
fn join(cores: &mut [Core], core: usize, speech: Speech, nickname: &str, rooms: &[&str]) -> usize {
    let listener = if matches!(speech, Speech::WebSocket | Speech::EventStream) { WEB } else { LINE };
    let client = cores[core].os().connect(listener);
    settle(cores);
    let mut hello = String::new();
    match speech {
        Speech::WebSocket => {
            assert!(rooms.is_empty(), "the request names one room");
            write!(
                hello,
                "GET /ws?nickname={nickname}&room=lobby HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
        }
        Speech::JsonLines => {
            let joins =
                rooms.iter().chain(&["lobby"]).map(|room| format!(r#"{{"type":"join","room":"{room}"}}"#));
            let joins: Vec<String> = joins.collect();
            writeln!(hello, "{{\"type\":\"hello\",\"nickname\":\"{nickname}\"}}\n{}", joins.join("\n"))
        }
        Speech::Text => writeln!(hello, "{nickname}"),
        Speech::EventStream => write!(hello, "GET /api/rooms/lobby/stream HTTP/1.1\r\nHost: a\r\n\r\n"),
    }
    .unwrap();
    cores[core].os().say(client, hello.as_bytes());
    settle(cores);
    client
}

/// Two of the members of every room here: one that speaks JSON lines, and hears what it says; and one that types, and
/// does not.
const PROGRAM: usize = 0;
const PERSON: usize = 2;

/// A core with a room of `members`, who speak in all ways, and who have nothing more to hear of each other's coming.
fn room(members: usize) -> Core {
    let mut cores = cores(1);
    join(&mut cores, 0, Speech::JsonLines, "publisher", &[]);
    for member in 1..members {
        join(&mut cores, 0, ALL[member % ALL.len()], &format!("member{member}"), &[]);
    }
    // Large rooms are told once in a while who has come.
    const PRESENCE_MS: u64 = 5000;
    cores[0].os().pass(PRESENCE_MS);
    settle(&mut cores);
    cores.remove(0)
}

/// So many messages to a room, as one pipelined input.
fn messages(room: &str, count: usize) -> Vec<u8> {
    let line =
        |n| format!("{{\"type\":\"message\",\"room\":\"{room}\",\"content\":\"message number {n:04}\"}}\n");
    (0..count).map(line).collect::<String>().into_bytes()
}

/// One turn in which a client has said `input`. Returns its allocations.
fn publish(core: &mut Core, client: usize, input: &[u8]) -> u64 {
    core.os().say(client, input);
    allocations(|| {
        core.turn();
    })
}

/// Enough turns for every buffer to have reached its size.
const WARM_UP: usize = 5;

/// How many allocations it takes to publish `input`, which is `count` messages, in a room of so many. `hearers` of them
/// hear it.
fn allocations_of(members: usize, hearers: usize, client: usize, count: usize, input: &[u8]) -> u64 {
    let mut core = room(members);
    for _ in 0..WARM_UP {
        publish(&mut core, client, input);
    }
    core.os().start_counting(0);
    let deliveries = core.world().counters().deliveries.value();
    let allocations = publish(&mut core, client, input);
    assert_eq!(core.world().counters().deliveries.value() - deliveries, (hearers * count) as u64);
    assert_eq!(core.os().calls.writes, hearers, "all of it is written in the same turn");
    allocations
}

#[test]
fn a_delivery_allocates_nothing() {
    let of_count = [1, 2, 50].map(|count| {
        let input = messages("lobby", count);
        let [few, many] = [10, 1000].map(|members| allocations_of(members, members, PROGRAM, count, &input));
        println!("{count} messages: {few} allocations for 10 members, {many} for 1,000");
        assert_eq!(few, many, "{count} messages");
        few
    });
    let a_message = of_count[1] - of_count[0];
    let a_batch = of_count[0] - a_message;
    println!("a batch: {a_batch} allocations, and each of its messages: {a_message}");
    assert_eq!(of_count[2], a_batch + 50 * a_message, "a message costs as much in company");
    assert!(a_message <= MESSAGE_ALLOCATIONS_MAX, "{a_message} allocations a message");
    assert!(a_batch <= BATCH_ALLOCATIONS_MAX, "{a_batch} allocations a batch");
}

/// What a message allocates on its way in: its content.
const MESSAGE_ALLOCATIONS_MAX: u64 = 1;

/// What a batch allocates: its bytes and where its frames end, in three encodings, itself, and the list of cores.
const BATCH_ALLOCATIONS_MAX: u64 = 2 * 3 + 2;

#[test]
fn a_delivery_to_event_streams_allocates_nothing() {
    let input = messages("lobby", 50);
    let allocations = [10, 1000].map(|streams| {
        let mut cores = cores(1);
        let publisher = join(&mut cores, 0, Speech::JsonLines, "publisher", &[]);
        for _ in 0..streams {
            join(&mut cores, 0, Speech::EventStream, "", &[]);
        }
        for _ in 0..WARM_UP {
            publish(&mut cores[0], publisher, &input);
        }
        cores[0].os().start_counting(0);
        let allocations = publish(&mut cores[0], publisher, &input);
        assert_eq!(cores[0].os().calls.writes, streams + 1, "all of it is written in the same turn");
        allocations
    });
    assert_eq!(allocations[0], allocations[1], "for 10 and 1,000 streams");
}

#[test]
fn an_idle_client_costs_what_is_told_and_less_than_a_kibibyte() {
    for (transport, bytes, told) in idle::measured() {
        println!("{transport}: {bytes} bytes of the allocator; by the sizes of what is kept for it, {told}");
        assert!(bytes <= idle::BYTES_MAX, "{transport}: {bytes} bytes");
        // What the server tells of it counts full tables; here the hash tables are as empty as they get.
        assert!((told..=told * 5 / 4).contains(&bytes), "{transport}: {bytes} bytes, where {told} are told");
    }
}

#[test]
fn a_delivery_to_all_but_the_sender_allocates_nothing() {
    for count in [1, 50] {
        let input = "said by a person\n".repeat(count);
        let allocations =
            [10, 1000].map(|members| allocations_of(members, members - 1, PERSON, count, input.as_bytes()));
        assert_eq!(allocations[0], allocations[1], "{count} lines");
    }
}

/// How often each hop was counted on all of these cores, and how long it took in all.
fn hops(cores: &mut [Core]) -> Vec<(u64, u64)> {
    let of_hop = |(hop, _): (Hop, &str)| {
        let mut snapshot = Snapshot::default();
        cores.iter_mut().for_each(|core| core.world().counters().hops.of(hop).add_to(&mut snapshot));
        (snapshot.count(), snapshot.sum_ns)
    };
    HOPS.into_iter().map(of_hop).collect()
}

#[test]
fn the_clock_is_read_once_more_for_each_moment_of_a_message_that_is_followed() {
    let readings = |every| {
        let mut cores = cores_following(every, 1);
        join(&mut cores, 0, Speech::JsonLines, "publisher", &[]);
        let core = &mut cores[0];
        for _ in 0..WARM_UP {
            publish(core, PROGRAM, &messages("lobby", 1));
        }
        core.os().readings = 0;
        publish(core, PROGRAM, &messages("lobby", 1));
        core.os().readings
    };
    // Between input and output, whose steps are told apart, and at the end of the turn; before that for the time to sleep.
    let unfollowed = readings(0);
    assert!(unfollowed <= 3, "{unfollowed}");
    assert_eq!(readings(1), unfollowed + 4, "parsed, sequenced, received, written");
}

#[test]
fn hops_add_up_to_the_way_on_one_core_and_on_two() {
    const MESSAGES: u64 = 20;
    for count in [1, 2] {
        let mut cores = cores_following(1, count);
        for core in 0..count {
            for n in 0..4 {
                join(&mut cores, core, ALL[n % ALL.len()], &format!("member{core}.{n}"), &[]);
            }
        }
        cores.iter_mut().for_each(|core| core.os().ns_a_reading = 1000);
        let before = hops(&mut cores);
        for _ in 0..MESSAGES {
            cores[0].os().say(PERSON, b"hi\n");
            settle(&mut cores);
        }
        let grown: Vec<(u64, u64)> = hops(&mut cores)
            .into_iter()
            .zip(before)
            .map(|(after, before)| (after.0 - before.0, after.1 - before.1))
            .collect();
        assert!(grown.iter().all(|(times, _)| *times == MESSAGES), "{count} cores: {grown:?}");
        let parts_ns: u64 = grown[..4].iter().map(|(_, ns)| ns).sum();
        assert_eq!(parts_ns, grown[4].1, "{count} cores: {grown:?}");
        assert!(grown[4].1 > 0);
    }
}

#[test]
fn a_turn_without_work_is_one_poll_and_no_allocation() {
    let mut core = room(100);
    core.os().start_counting(0);
    let allocations = allocations(|| {
        core.turn();
    });
    assert_eq!(allocations, 0);
    assert_eq!(core.os().calls, memory::Calls { polls: 1, ..Default::default() });
}

#[test]
fn a_message_is_encoded_in_the_room_that_is_there() {
    let content = "x".repeat(300);
    let message =
        Event::Message { room: "lobby", sender: "alice", content: &content, offset: 7, timestamp: 1 << 40 };
    for write in [protobuf::write, protobuf::write_as, json::write] {
        let mut out = Vec::with_capacity(1024);
        assert_eq!(allocations(|| write(&message, &mut out)), 0);
        assert!(out.len() > content.len());
    }
}

#[test]
fn a_turn_writes_to_each_member_once() {
    const MEMBERS: usize = 100;
    let mut core = room(MEMBERS);
    for count in [1, 50, 500] {
        let input = messages("lobby", count);
        assert!(input.len() < 65_536, "one read takes it");
        core.os().start_counting(200 * count);
        publish(&mut core, PROGRAM, &input);
        let calls = core.os().calls;
        // The read came back short, so that there is no second one to be told that nothing is left.
        assert_eq!(calls, memory::Calls { polls: 1, accepts: 0, reads: 1, writes: MEMBERS }, "{count}");
        for client in core.os().clients() {
            assert_eq!(client.writes, 1);
            let text = String::from_utf8_lossy(&client.output);
            assert_eq!(text.matches("message number ").count(), count);
        }
    }
}

#[test]
fn a_member_of_several_rooms_is_written_to_once() {
    let mut cores = cores(1);
    let rooms = ["a", "b", "c", "d"];
    for n in 0..10 {
        join(&mut cores, 0, Speech::JsonLines, &format!("member{n}"), &rooms);
    }
    let core = &mut cores[0];
    core.os().start_counting(0);
    let input: Vec<u8> = rooms.iter().flat_map(|room| messages(room, 5)).collect();
    publish(core, PROGRAM, &input);
    assert_eq!(core.os().calls, memory::Calls { polls: 1, accepts: 0, reads: 1, writes: 10 });
}

#[test]
fn a_read_that_filled_the_buffer_is_followed_by_another() {
    let mut core = room(2);
    let input = messages("lobby", 1000);
    assert!((65_536..2 * 65_536).contains(&input.len()));
    core.os().start_counting(0);
    publish(&mut core, PROGRAM, &input);
    assert_eq!(core.os().calls.reads, 2);
}

#[test]
fn a_turn_sends_one_parcel_to_another_core() {
    const MESSAGES: usize = 50;
    let mut cores = cores(2);
    // Whichever core a room lives on, one of the two publishers is elsewhere.
    for core in 0..2 {
        join(&mut cores, core, Speech::JsonLines, &format!("publisher{core}"), &[]);
        for n in 0..9 {
            join(&mut cores, core, ALL[n % ALL.len()], &format!("member{core}.{n}"), &[]);
        }
    }
    for publisher in 0..2 {
        let parcels = |cores: &mut [Core]| -> Vec<u64> {
            cores.iter_mut().map(|core| core.world().counters().parcels.value()).collect()
        };
        let before = parcels(&mut cores);
        cores.iter_mut().for_each(|core| core.os().start_counting(0));
        cores[publisher].os().say(PROGRAM, &messages("lobby", MESSAGES));
        settle(&mut cores);
        let sent: Vec<u64> =
            parcels(&mut cores).iter().zip(before).map(|(after, before)| after - before).collect();
        assert!(sent.iter().all(|parcels| *parcels <= 1), "{sent:?} parcels for {MESSAGES} messages");
        for core in &mut cores {
            assert!(core.os().clients().iter().all(|client| client.writes == 1));
        }
    }
}

/// The same counts of the real server, by whoever sees all of its system calls.
#[cfg(target_os = "linux")]
#[test]
fn the_kernel_is_called_as_often_as_the_loop_says() {
    use common::{Client, Server};
    const MEMBERS: usize = 20;
    const BATCHES: usize = 30;
    const MESSAGES: usize = 25;
    let server = Server::start(&["--cores", "1"]);
    let mut members: Vec<Client> =
        (0..MEMBERS).map(|n| Client::program(server.line, &format!("member{n}"), "busy")).collect();
    for joined in (1..MEMBERS).rev() {
        for member in &mut members[..joined] {
            member.expect("\"event\":\"join\"");
        }
    }
    let Some(trace) = trace::Trace::attach(server.pid()) else { return };
    for _ in 0..BATCHES {
        members[0].send(&messages("busy", MESSAGES));
        for member in &mut members {
            member.expect(&format!("message number {:04}", MESSAGES - 1));
        }
    }
    let calls = trace.finish();
    println!("{BATCHES} times {MESSAGES} messages to {MEMBERS} members: {calls:?}");
    let count = |name| calls.get(name).copied().unwrap_or(0);
    // What a member is told in a turn is one range, and goes by send(2), but the sender's acknowledgement.
    assert_eq!(count("sendto") + count("writev"), BATCHES * MEMBERS, "{calls:?}");
    assert!(count("writev") <= BATCHES, "{calls:?}");
    assert_eq!(count("recvfrom"), BATCHES, "{calls:?}");
    // A turn for each input, and now and then one for a timer. The first poll may have begun unseen.
    assert!((BATCHES - 1..=2 * BATCHES).contains(&count("epoll_wait")), "{calls:?}");
    let known = ["sendto", "writev", "recvfrom", "epoll_wait"];
    let others = calls.iter().filter(|(name, _)| !known.contains(&name.as_str())).map(|(_, count)| count);
    assert!(others.sum::<usize>() < BATCHES, "something else is called for each input: {calls:?}");
}

#[cfg(target_os = "linux")]
mod trace {
    //! strace(1), where it is installed and permitted.

    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    pub struct Trace {
        child: Child,
        table: tempfile::NamedTempFile,
    }

    impl Trace {
        /// Begins to count the system calls of a process, or says why that is not possible.
        pub fn attach(pid: u32) -> Option<Self> {
            let table = tempfile::NamedTempFile::new().unwrap();
            let mut command = Command::new("strace");
            command.args(["-c", "-f", "-U", "name,calls", "-p", &pid.to_string(), "-o"]).arg(table.path());
            let mut child = match command.stderr(Stdio::piped()).spawn() {
                Ok(child) => child,
                Err(error) => {
                    println!("not tested: strace cannot be run: {error}");
                    return None;
                }
            };
            let mut line = String::new();
            BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
            if !line.contains("attached") {
                println!("not tested: strace may not look: {}", line.trim());
                let _ = child.wait();
                return None;
            }
            Some(Trace { child, table })
        }

        /// How often each system call was made.
        pub fn finish(mut self) -> BTreeMap<String, usize> {
            let pid = self.child.id().to_string();
            assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
            self.child.wait().unwrap();
            let table = std::fs::read_to_string(self.table.path()).unwrap();
            let row = |line: &str| {
                let (name, calls) = line.trim().split_once(char::is_whitespace)?;
                (name != "total").then_some((name.to_owned(), calls.trim().parse().ok()?))
            };
            table.lines().filter_map(row).collect()
        }
    }
}
