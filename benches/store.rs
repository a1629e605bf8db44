//! How fast messages are stored, acknowledged and on the disk, beside SQLite's own rate for the same rows.
//!
//! ```text
//! cargo bench --bench store                        three rounds, interleaved, in a directory below target
//! cargo bench --bench store -- 5 200000 /mnt/disk  so many rounds, messages a round, and where
//! ```
//!
//! - *published*: frames of 16 messages go into a journal as a core would put them there; the storage thread stores them, and says how far it
//!   has got; another moves the log into the file, as in a server. So many messages are under way at a time; each wants to be on the disk.
//! - *bare loop*: the same rows into the same tables, by prepared statements and nothing else, in transactions of as many rows as the
//!   storage thread's had on average, each synced. SQLite moves its log into the file whenever that has 1,000 pages, which is its default.
//! - *never moved*: the same, but the log is never moved, and grows without end: what a commit alone costs.
//!
//! What is printed is messages a second, and the first divided by each of the others.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::params;
use starling::reactor::mailbox::Exchange;
use starling::record::{Frame, Record, Retention};
use starling::shard::mail::Mail;
use starling::shard::reading::StoreNews;
use starling::store::engine::Engine;
use starling::store::thread::{Links, WriterStart, checkpoint, write};
use starling::sys::bell::Bell;
use starling::sys::kernel::Sleeper;
use starling::sys::ring::Ring;

/// Rooms that the messages are spread over, bytes of each, and messages of one turn of a core.
const ROOMS: u64 = 100;
const CONTENT_BYTES: usize = 128;
const TURN: u64 = 16;

/// Pages of the log after which SQLite moves it into the file, if nobody says something else (`wal_autocheckpoint`).
const SQLITES_OWN: u32 = 1000;

/// Messages under way at a time.
const WINDOWS: [u64; 3] = [64, 1024, 16_384];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let (rounds, messages) = (number(0, 3), number(1, 200_000));
    let directory = arguments
        .get(2)
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("store-bench"), PathBuf::from);
    println!("{messages} messages of {CONTENT_BYTES} bytes in {ROOMS} rooms, in {}", directory.display());
    println!(
        "{:>9} {:>12} {:>12} {:>12} {:>6} {:>14} {:>6}",
        "under way", "published/s", "rows/commit", "bare loop/s", "ratio", "never moved/s", "ratio"
    );
    for window in WINDOWS {
        // A window of few messages is a wait for the disk each time.
        let messages = messages.min(window * 2000);
        let (mut published, mut bare, mut unmoved, mut groups) = (vec![], vec![], vec![], vec![]);
        for _ in 0..rounds {
            let (rate, group) = publish(&directory, messages, window);
            published.push(rate);
            groups.push(group);
            let group = group.round().max(1.0) as u64;
            bare.push(insert(&directory, messages, group, SQLITES_OWN));
            unmoved.push(insert(&directory, messages, group, 0));
        }
        let (published, bare, unmoved) = (median(published), median(bare), median(unmoved));
        println!(
            "{window:>9} {published:>12.0} {:>12.0} {bare:>12.0} {:>6.2} {unmoved:>14.0} {:>6.2}",
            median(groups),
            published / bare,
            published / unmoved
        );
    }
    let _ = std::fs::remove_dir_all(&directory);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn fresh(directory: &Path) -> PathBuf {
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory).expect("a directory of our own");
    directory.join("starling.db")
}

fn begin_rooms(frame: &mut Vec<u8>) {
    Frame::begin(frame);
    for room in 1..=ROOMS {
        let name = format!("room-{room}");
        let retention = Retention { count: 10_000_000, bytes: 0, age_ms: 0 };
        Record::Room { room, name: &name, epoch: "0", retention }.put(frame);
    }
}

/// Messages a second, and how many one commit had on average.
fn publish(directory: &Path, messages: u64, window: u64) -> (f64, f64) {
    let path = fresh(directory);
    let engine = Engine::open(&path).expect("a new store");
    let ring = Arc::new(Ring::create(None, 16 << 20, 1).expect("memory"));
    let (mut sleeper, waker) = Sleeper::new().expect("a poll");
    let (_reader, reader_waker) = Sleeper::new().expect("a poll");
    let (bell, stops) = (Arc::new(Bell::default()), Arc::new(AtomicBool::new(false)));
    let exchange = Arc::new(Exchange::new(2, 1024));
    let wakers = Arc::new(vec![waker, reader_waker]);
    let (users, watched) = (Arc::default(), Arc::default());
    let links = Links {
        exchange: exchange.clone(),
        wakers,
        users,
        watched,
        bell: bell.clone(),
        stops: stops.clone(),
    };
    let (rings, ring_paths) = (vec![ring.clone()], Vec::new());
    let start = WriterStart {
        engine,
        path: path.clone(),
        rings,
        ring_paths,
        sync_ms: 1000,
        receipts_ms: 1000,
        receipts_max: 1024,
        links,
    };
    let writer = std::thread::Builder::new().name("store".to_owned());
    let writer = writer.spawn(move || write(start)).expect("a thread");
    let mover_stops = stops.clone();
    let mover = std::thread::spawn(move || checkpoint(&path, &mover_stops));
    let mut frame = Vec::new();
    begin_rooms(&mut frame);
    let begun = ring.push(&frame).expect("an empty journal has place");
    bell.ring();

    let content = "x".repeat(CONTENT_BYTES);
    let (mut sent, mut synced, mut commits) = (0, 0, 0u64);
    let mut ends = std::collections::VecDeque::from([(begun, 0)]);
    let started = Instant::now();
    while synced < messages {
        while sent < messages && sent - synced + TURN <= window.max(TURN) {
            Frame::begin(&mut frame);
            Frame::want_sync(&mut frame);
            for message in sent..sent + TURN {
                let (room, offset) = (message % ROOMS + 1, message / ROOMS + 1);
                let timestamp_ms = 1_700_000_000_000 + message;
                Record::Message {
                    room,
                    offset,
                    timestamp_ms,
                    sender: "publisher",
                    content: &content,
                    command: None,
                }
                .put(&mut frame);
            }
            let Some(end) = ring.push(&frame) else { break };
            bell.ring();
            sent += TURN;
            ends.push_back((end, sent));
        }
        let mailbox = exchange.mailbox(0);
        let Some(parcel) = mailbox.pop() else {
            if mailbox.doorbell.park(|| !mailbox.is_empty()) {
                sleeper.sleep(Some(Duration::from_millis(100)));
            }
            mailbox.doorbell.unpark();
            continue;
        };
        for mail in parcel.mail {
            if let Mail::Store(StoreNews::Progress { synced: position, .. }) = mail {
                commits += 1;
                while let Some((end, count)) = ends.front().copied().filter(|(end, _)| *end <= position) {
                    debug_assert!(end <= position);
                    synced = count;
                    ends.pop_front();
                }
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    stops.store(true, Ordering::Release);
    bell.ring();
    mover.thread().unpark();
    mover.join().expect("it ends when it is told to");
    writer.join().expect("the storage thread ends");
    (messages as f64 / seconds, messages as f64 / commits as f64)
}

/// Rows a second.
fn insert(directory: &Path, messages: u64, group: u64, pages_max: u32) -> f64 {
    let path = fresh(directory);
    // The same file with the same settings, by the same program.
    let mut engine = Engine::open(&path).expect("a new store");
    let mut frame = Vec::new();
    begin_rooms(&mut frame);
    let part = starling::store::engine::Part { ring: 0, frames: &[frame], end: 1 };
    engine.apply(&[part], true).expect("rooms");
    let db = engine.connection();
    db.pragma_update(None, "wal_autocheckpoint", pages_max).expect("a setting");
    let content = "x".repeat(CONTENT_BYTES);
    let started = Instant::now();
    let mut message = 0;
    while message < messages {
        db.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
        let mut statement = db
            .prepare_cached(
                "INSERT INTO messages (room, offset, timestamp, sender, content, session, command) VALUES (?1, ?2, ?3, ?4, ?5, NULL, NULL)",
            )
            .expect("a statement");
        for _ in 0..group.min(messages - message) {
            let (room, offset) = (message % ROOMS + 1, message / ROOMS + 1);
            let timestamp = 1_700_000_000_000u64 + message;
            statement
                .execute(params![room as i64, offset as i64, timestamp as i64, "publisher", content])
                .expect("a row");
            message += 1;
        }
        drop(statement);
        db.execute_batch("COMMIT").expect("a commit");
    }
    messages as f64 / started.elapsed().as_secs_f64()
}
