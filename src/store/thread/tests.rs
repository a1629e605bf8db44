//! The writer with a journal, and what it tells the core.

use std::thread::JoinHandle;

use super::*;
use crate::record::{Record, Retention};
use crate::sys::kernel::Sleeper;

const RING_BYTES: usize = 1 << 20;

struct Running {
    ring: Arc<Ring>,
    links: Links,
    writer: JoinHandle<bool>,
    directory: tempfile::TempDir,
}

/// A writer for one core, on a store that has been prepared by this SQL.
fn start(sql: &str) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(crate::store::FILE);
    let engine = Engine::open(&path).unwrap();
    engine.connection().execute_batch(sql).unwrap();
    let ring = Arc::new(Ring::create(None, RING_BYTES, 1).unwrap());
    let wakers = [(); 2].map(|()| Sleeper::new().unwrap().1).into_iter().collect();
    let links = Links {
        exchange: Arc::new(Exchange::new(2, 1024)),
        wakers: Arc::new(wakers),
        users: Arc::default(),
        watched: Arc::default(),
        bell: Arc::default(),
        stops: Arc::default(),
    };
    let start = WriterStart {
        engine,
        path,
        rings: vec![ring.clone()],
        ring_paths: Vec::new(),
        sync_ms: 1000,
        receipts_ms: 1000,
        receipts_max: 1024,
        links: links.clone(),
    };
    let writer = std::thread::spawn(move || write(start));
    Running { ring, links, writer, directory }
}

impl Running {
    /// Writes records down, and returns the position behind them.
    fn write(&self, records: &[Record]) -> u64 {
        let mut frame = Vec::new();
        Frame::begin(&mut frame);
        records.iter().for_each(|record| record.put(&mut frame));
        let began = Instant::now();
        loop {
            if let Some(end) = self.ring.push(&frame) {
                self.links.bell.ring();
                return end;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the store does not get on");
            while self.links.exchange.mailbox(0).pop().is_some() {} // a full mailbox would hold the writer up
            std::thread::yield_now();
        }
    }

    /// Waits until the store has got so far; returns whether it was said to be down meanwhile.
    fn wait_for(&self, end: u64) -> bool {
        let (began, mut was_down) = (Instant::now(), false);
        loop {
            assert!(began.elapsed() < Duration::from_secs(20), "the store does not get on");
            let Some(parcel) = self.links.exchange.mailbox(0).pop() else {
                std::thread::yield_now();
                continue;
            };
            for mail in parcel.mail {
                match mail {
                    Mail::Store(StoreNews::Down(why)) => was_down |= why.is_some(),
                    Mail::Store(StoreNews::Progress { stored, .. }) if stored >= end => return was_down,
                    _ => {}
                }
            }
        }
    }

    fn stop(self) {
        self.links.stops.store(true, Ordering::Release);
        self.links.bell.ring();
        assert!(self.writer.join().unwrap(), "everything is stored");
    }
}

fn message(offset: u64) -> Record<'static> {
    Record::Message {
        room: 1,
        offset,
        timestamp_ms: offset,
        sender: "alice",
        content: "hello",
        command: None,
    }
}

#[test]
fn a_file_that_was_moved_away_is_not_written_to() {
    let store = start("");
    let retention = Retention { count: 10, bytes: 0, age_ms: 0 };
    store.wait_for(store.write(&[Record::Room { room: 1, name: "den", epoch: "e", retention }]));
    let [path, elsewhere] = [crate::store::FILE, "elsewhere"].map(|name| store.directory.path().join(name));
    std::fs::rename(&path, &elsewhere).unwrap();
    let end = store.write(&[message(1)]);
    let is_down = |parcel: Option<Parcel>| {
        parcel.is_some_and(|parcel| {
            let is_told = |mail: &Mail| matches!(mail, Mail::Store(StoreNews::Down(Some(why))) if why.contains("removed"));
            parcel.mail.iter().any(is_told)
        })
    };
    let began = Instant::now();
    while !is_down(store.links.exchange.mailbox(0).pop()) {
        assert!(began.elapsed() < Duration::from_secs(20), "it is not missed");
        std::thread::yield_now();
    }
    std::fs::rename(&elsewhere, &path).unwrap();
    store.wait_for(end);
    store.stop();
}

#[test]
fn a_room_at_rest_keeps_no_more_than_its_bound() {
    let store = start("");
    let retention = Retention { count: 3, bytes: 0, age_ms: 0 };
    let mut records = vec![Record::Room { room: 1, name: "den", epoch: "e", retention }];
    records.extend((1..=10).map(message));
    store.wait_for(store.write(&records));
    let (began, mut first) = (Instant::now(), 0);
    while first != 8 {
        assert!(began.elapsed() < Duration::from_secs(20), "it keeps them from {first} on");
        let Some(parcel) = store.links.exchange.mailbox(0).pop() else {
            std::thread::yield_now();
            continue;
        };
        for mail in parcel.mail {
            if let Mail::Store(StoreNews::Trimmed { first_kept, .. }) = mail {
                first = first_kept;
            }
        }
    }
    store.stop();
}

#[test]
fn however_much_is_written_no_more_is_over_the_bounds_than_one_group() {
    const COUNT: u64 = 100;
    const CONTENT_BYTES: usize = 1000;
    // A room may be 64 over, and a group is at most what the journal holds.
    const MOST: u64 = COUNT + 64 + (RING_BYTES / CONTENT_BYTES) as u64;
    let store = start("");
    let reader = connect(&store.directory.path().join(crate::store::FILE), false).unwrap();
    let retention = Retention { count: COUNT, bytes: 0, age_ms: 0 };
    store.write(&[Record::Room { room: 1, name: "den", epoch: "e", retention }]);
    let content = "x".repeat(CONTENT_BYTES);
    let mut end = 0;
    for turn in 0..200 {
        for offset in turn * 100 + 1..=turn * 100 + 100 {
            let (sender, content) = ("alice", content.as_str());
            let said =
                Record::Message { room: 1, offset, timestamp_ms: offset, sender, content, command: None };
            end = store.write(&[said]);
        }
        let rows: i64 = reader.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap();
        assert!(rows as u64 <= MOST, "{rows} of {} messages are kept", turn * 100 + 100);
    }
    store.wait_for(end);
    store.stop();
}

#[test]
fn what_cannot_be_tidied_does_not_make_the_store_one_that_is_down() {
    let store = start(
        "CREATE TRIGGER no_end BEFORE DELETE ON messages BEGIN SELECT raise(ABORT, 'not to be deleted'); END",
    );
    let retention = Retention { count: 1, bytes: 0, age_ms: 0 };
    let mut end = store.write(&[Record::Room { room: 1, name: "den", epoch: "e", retention }]);
    let mut was_down = store.wait_for(end);
    for turn in 0..50 {
        let messages: Vec<Record> = (1..=10).map(|n| message(turn * 10 + n)).collect();
        end = store.write(&messages);
        was_down |= store.wait_for(end);
    }
    assert!(!was_down, "messages can be written");
    store.stop();
}

#[test]
fn a_writer_that_is_held_up_is_noticed_once_and_not_when_it_has_nothing_to_do() {
    let mut attention = Attention::new(1000);
    for turns in 1..100 {
        attention.look(turns, true); // it works
        attention.look(turns, false); // it has nothing to do
    }
    (0..100).for_each(|_| attention.look(99, false));
    (0..9).for_each(|_| attention.look(99, true));
    assert!(attention.held_since.is_none(), "not for long enough");
    attention.look(99, true);
    let since = attention.held_since;
    assert!(since.is_some_and(|since| since.elapsed() >= Duration::from_secs(1)));
    attention.look(99, true);
    assert_eq!(attention.held_since, since, "once");
    attention.look(100, true);
    assert!(attention.held_since.is_none());
}
