//! What rooms cost, from one to many, on one core over a kernel in memory: as many as no machine has sockets for.
//!
//!     cargo bench --bench rooms -- ROOMS MESSAGES
//!
//! Makes the rooms, with [`MEMBERS`] members each, and fills their histories. Then messages are said, a turn of the loop
//! each: first all in one room, then in all rooms in turn. Prints one line of JSON, which scripts/scaling reads.
//! Deliveries are counted, and a wrong number ends it.

#[path = "../tests/common/core.rs"]
mod core;
#[path = "../tests/common/memory.rs"]
mod memory;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use starling::base::time::Now;
use starling::config::ListenKind;
use starling::reactor::Reactor;

use memory::Memory;

type Core = Reactor<Memory>;

/// Members of each room.
const MEMBERS: usize = 10;

/// Rooms of each connection: fewer than `limits.rooms_per_session`, and so many that the connections of all rooms fit
/// one core.
const ROOMS_OF_ONE: usize = 125;

/// Messages that a room remembers here (see `core::reactors`).
const HISTORY: usize = 16;

/// Bytes of a message's content.
const CONTENT: usize = 128;

/// Messages a millisecond of the kernel's time, so that timers fire as they would. All of it is over before the first
/// heartbeat.
const MESSAGES_PER_MS: usize = 10;
const MESSAGES_MAX: usize = 100_000;

/// Far apart, so that rooms that were made together are not said something one after the other. A prime, so that all
/// have their turn.
const STRIDE: usize = 611_953;

/// The system's allocator, which counts what is asked for within a turn of the loop: what the server has, and not its
/// clients.
struct Counting;

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

fn count(allocations: u64, bytes: i64) {
    // A thread that ends may free its locals before it has stopped allocating.
    let _ = IS_COUNTED.try_with(|is_counted| {
        if is_counted.get() {
            ALLOCATIONS.set(ALLOCATIONS.get() + allocations);
            BYTES.set(BYTES.get() + bytes);
        }
    });
}

// SAFETY: hands everything on to the system's allocator as it came, which keeps the promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    // cargo says that this is a benchmark.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let numbers: Option<Vec<usize>> = arguments.iter().map(|argument| argument.parse().ok()).collect();
    match numbers.as_deref() {
        // Nothing is asked for when all benchmarks are run.
        Some([]) => measure(1000, 10_000),
        Some([rooms, messages]) if *rooms > 0 && (1..=MESSAGES_MAX).contains(messages) => {
            measure(*rooms, *messages);
        }
        _ => {
            eprintln!("usage: rooms ROOMS MESSAGES (at most {MESSAGES_MAX} messages)");
            std::process::exit(2);
        }
    }
}

fn measure(rooms: usize, messages: usize) {
    let mut core = core::reactors(0, [Memory::new(1)], &[ListenKind::Line], Now::default()).remove(0);
    let connections = rooms.div_ceil(ROOMS_OF_ONE) * MEMBERS;
    for number in 0..connections {
        let client = core.os().connect(0);
        assert_eq!(client, number);
        settle(&mut core);
        core.os().say(number, format!("{{\"type\":\"hello\",\"nickname\":\"member{number}\"}}\n").as_bytes());
        settle(&mut core);
    }
    let bytes_before = BYTES.get();
    for number in 0..connections {
        let first = number / MEMBERS * ROOMS_OF_ONE;
        let join = |room| format!("{{\"type\":\"join\",\"room\":\"room{room}\"}}\n");
        let joins: String = (first..rooms.min(first + ROOMS_OF_ONE)).map(join).collect();
        core.os().say(number, joins.as_bytes());
        settle(&mut core);
    }
    let bytes_empty = BYTES.get();
    // One by one: what a room keeps of a burst would be in its bytes for good. One more than fits, so that a ring that is full
    // has also turned.
    for number in 0..rooms * (HISTORY + 1) {
        let room = number % rooms;
        core.os().say(speaker_of(room), message(room).as_bytes());
        turn(&mut core);
    }
    let bytes_full = BYTES.get();
    let one = measured(messages, || speak_in_one(&mut core, messages));
    let all = measured(messages, || speak_in_all(&mut core, messages, rooms));
    let each = |bytes: i64| bytes as f64 / rooms as f64;
    println!(
        "{{\"rooms\":{rooms},\"connections\":{connections},\"bytes_per_room\":{:.1},\"bytes_per_full_room\":{:.1},\
         \"one\":{one},\"all\":{all}}}",
        each(bytes_empty - bytes_before),
        each(bytes_full - bytes_before),
    );
}

// By these names a profiler tells what is measured from what was made before.

#[inline(never)]
fn speak_in_one(core: &mut Core, messages: usize) {
    speak(core, messages, |_| 0);
}

#[inline(never)]
fn speak_in_all(core: &mut Core, messages: usize, rooms: usize) {
    speak(core, messages, |number| number * STRIDE % rooms);
}

/// Says messages, a turn each.
fn speak(core: &mut Core, messages: usize, room_of: impl Fn(usize) -> usize) {
    core.os().start_counting(0);
    for number in 0..messages {
        let room = room_of(number);
        core.os().say(speaker_of(room), message(room).as_bytes());
        if number % MESSAGES_PER_MS == 0 {
            core.os().pass(1);
        }
        turn(core);
    }
    let writes: usize = core.os().clients().iter().map(|client| client.writes).sum();
    assert_eq!(writes, messages * MEMBERS, "each message is written to each member in its turn");
}

/// What `work` takes for each of its messages, as JSON.
fn measured(messages: usize, work: impl FnOnce()) -> String {
    let (allocations, cpu_ns) = (ALLOCATIONS.get(), cpu_ns());
    work();
    let each = |count: u64| count as f64 / messages as f64;
    let (allocations, cpu_ns) = (each(ALLOCATIONS.get() - allocations), each(self::cpu_ns() - cpu_ns));
    format!("{{\"allocations_per_message\":{allocations:.2},\"cpu_us_per_message\":{:.4}}}", cpu_ns / 1e3)
}

/// Processor time of this thread.
fn cpu_ns() -> u64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux that tells");
    schedstat.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("it begins with the time")
}

/// The first of a room's members.
fn speaker_of(room: usize) -> usize {
    room / ROOMS_OF_ONE * MEMBERS
}

fn message(room: usize) -> String {
    format!("{{\"type\":\"message\",\"room\":\"room{room}\",\"content\":\"{:x<CONTENT$}\"}}\n", "")
}

/// One turn of the loop, in which allocations count.
fn turn(core: &mut Core) {
    IS_COUNTED.set(true);
    core.turn();
    IS_COUNTED.set(false);
}

/// Turns until nothing is left to do.
fn settle(core: &mut Core) {
    loop {
        let received = core.world().counters().events.value();
        turn(core);
        if core.world().counters().events.value() == received && core.is_quiescent() {
            return;
        }
    }
}
