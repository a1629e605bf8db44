//! The store's file with any bytes of it changed: what a server begins with, and what `starling store` looks at.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use starling::chat::name::Nickname;
use starling::record::{HistoryPage, Owner, Record, Retention};
use starling::store::engine::{Engine, Part};
use starling::store::load::load;
use starling::store::progress::Progress;
use starling::store::read::read_page;
use starling::store::stats::Stats;
use starling::store::{FILE, accounts, backup, check};

/// More than `check` tells.
const FINDINGS_MAX: usize = 1001;

/// Changes to the file: four bytes each, where (24 bits, little-endian) and what.
///
/// Nothing panics; what is found wrong is bounded; and with a store in which `check` finds nothing a server begins, and reads all its messages.
pub fn run(input: &[u8]) {
    let mut file = sound().to_vec();
    for change in input.chunks_exact(4).take(256) {
        let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % file.len();
        file[at] = change[3];
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(FILE);
    std::fs::write(&path, &file).expect("a file");
    let stats = Stats::read(&path, 10);
    let findings = check::check(&path, &Progress::default());
    if let Ok(findings) = &findings {
        assert!(findings.len() <= FINDINGS_MAX);
    }
    let begun = begin(&path);
    if findings.is_ok_and(|findings| findings.is_empty()) {
        begun.expect("a server begins with a store that is as it should be");
        stats.expect("its numbers can be read");
    }
}

/// Begins as a server does, and reads everything.
fn begin(path: &Path) -> Result<(), String> {
    let mut engine = Engine::open(path).map_err(|error| error.to_string())?;
    let restored = load(&mut engine, 0, usize::MAX).map_err(|error| error.to_string())?;
    for room in &restored.rooms {
        let page = HistoryPage {
            room: room.number,
            after: 0,
            before: u64::MAX,
            is_ascending: true,
            limit: 1000,
            bytes_max: 1 << 20,
        };
        read_page(engine.connection(), &page).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A store in which nothing is wrong.
fn sound() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let path: PathBuf = directory.path().join(starling::store::FILE);
        let mut engine = Engine::open(&path).expect("a store");
        let bob = Nickname::parse("bob").expect("a name");
        let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        accounts::add(engine.connection(), &bob, hash, 5).expect("an account");
        let retention = Retention { count: 1000, bytes: 0, age_ms: 0 };
        let mut frame = vec![0];
        for (room, name, messages) in [(1, "Lobby", 10), (2, "ops", 2)] {
            Record::Room { room, name, epoch: "e", retention }.put(&mut frame);
            for offset in 1..=messages {
                let (sender, content, timestamp_ms) = ("alice", "hi", 100 + offset / 2);
                Record::Message { room, offset, timestamp_ms, sender, content, command: None }.put(&mut frame);
            }
        }
        Record::State { room: 1, key: "topic", value: Some("1"), version: 3 }.put(&mut frame);
        Record::Session { number: 9, revision: 1, body: r#"{"nickname":"alice","rooms":[]}"# }.put(&mut frame);
        let (owner, sender, target, content) = (Owner::User("bob"), "alice", "bob", "psst");
        Record::Kept { owner, offset: 4, sender, target, content, timestamp_ms: 1 }.put(&mut frame);
        engine.apply(&[Part { ring: 0, frames: &[frame], end: 1 }], true).expect("records of our own");
        engine.flush_rooms(usize::MAX).expect("a database");
        let copy = directory.path().join("copy.db");
        backup::backup(&path, &copy, false, &Progress::default()).expect("a copy");
        std::fs::read(copy).expect("a file")
    })
}
