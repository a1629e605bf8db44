//! The queue of messages on disk: what a program had sent and nobody had answered when it ended, however it ended.
//!
//! An append-only file of records, each `length (32) | CRC32 (32) | JSON`, little-endian. A record is complete or it is not there: a torn
//! tail is cut when the file is opened. When most of it is of the past, the file is written anew beside the old one and renamed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::machine::{Record, Saved};
use crate::wire::Level;

const HEADER_BYTES: usize = 8;

/// Longer than any record: a longer length is none.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// The file may have this much of the past, and as much as four times what counts.
const PAST_BYTES_MAX: u64 = 256 << 10;

/// A record as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Session(String),
    Queued(Box<Line>),
    /// When it was written first, in milliseconds since the Unix epoch.
    Written(String, u64),
    Done(String),
}

/// A message that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    id: String,
    to: String,
    private: bool,
    content: String,
    level: Option<Level>,
    written: Option<u64>,
}

/// What an earlier run has left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// What resumes its session.
    pub(crate) resume: Option<String>,
    /// Its messages, in the order they were sent.
    pub(crate) saved: Vec<Saved>,
}

/// The file, and what in it still counts.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Keeps other clients out, until it is dropped.
    _lock: File,
    bytes: u64,
    resume: String,
    /// By the order in which they came.
    lines: BTreeMap<u64, Line>,
    places: HashMap<String, u64>,
    last_place: u64,
    live_bytes: u64,
    /// Something could not be written down: what comes after it must not be either.
    is_broken: bool,
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Journal {
    /// Opens the file, or makes it, and takes out what an earlier run has left.
    pub(crate) fn open(path: &Path) -> io::Result<(Journal, Left)> {
        let lock = private_file(&beside(path, "lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(ErrorKind::WouldBlock, "another client has it open"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut file = private_file(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut journal = Journal {
            path: path.to_owned(),
            file,
            _lock: lock,
            bytes: 0,
            resume: String::new(),
            lines: BTreeMap::new(),
            places: HashMap::new(),
            last_place: 0,
            live_bytes: 0,
            is_broken: false,
        };
        let mut rest = &bytes[..];
        while let Some((entry, length)) = first(rest) {
            journal.apply(entry);
            journal.bytes += length as u64;
            rest = &rest[length..];
        }
        if !rest.is_empty() {
            journal.file.set_len(journal.bytes)?;
        }
        journal.file.seek(SeekFrom::Start(journal.bytes))?;
        let left = journal.left();
        Ok((journal, left))
    }

    fn left(&self) -> Left {
        let now = unix_ms();
        let saved = self.lines.values().map(|line| Saved {
            id: line.id.clone(),
            to: line.to.clone(),
            private: line.private,
            content: line.content.clone(),
            level: line.level,
            // If the clock has been set back, nobody knows how long ago it was: too long.
            written: line.written.map(|at| now.checked_sub(at).map_or(Duration::MAX, Duration::from_millis)),
        });
        Left { resume: (!self.resume.is_empty()).then(|| self.resume.clone()), saved: saved.collect() }
    }

    /// Writes these down. They survive the end of the process when this has returned.
    pub(crate) fn append(&mut self, records: Vec<Record>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if self.is_broken {
            return Err(io::Error::other("it could not be written before, and does not have everything"));
        }
        let written = self.write(records);
        self.is_broken = written.is_err();
        written
    }

    fn write(&mut self, records: Vec<Record>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let entries: Vec<Entry> = records.into_iter().map(entry).collect();
        for entry in &entries {
            put(&mut bytes, entry)?;
        }
        if let Err(error) = self.file.write_all(&bytes) {
            // What follows half a record would not be found again.
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            return Err(error);
        }
        self.bytes += bytes.len() as u64;
        for entry in entries {
            self.apply(entry);
        }
        if self.bytes > PAST_BYTES_MAX + 4 * self.live_bytes {
            self.compact()?;
        }
        Ok(())
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Session(resume) => self.resume = resume,
            Entry::Queued(line) => {
                self.last_place += 1;
                self.live_bytes += cost(&line);
                self.places.insert(line.id.clone(), self.last_place);
                self.lines.insert(self.last_place, *line);
            }
            Entry::Written(id, at) => {
                if let Some(line) = self.places.get(&id).and_then(|place| self.lines.get_mut(place)) {
                    line.written = Some(at);
                }
            }
            Entry::Done(id) => {
                if let Some(line) = self.places.remove(&id).and_then(|place| self.lines.remove(&place)) {
                    self.live_bytes -= cost(&line);
                }
            }
        }
    }

    /// Writes what counts into a new file, which takes the place of the old one when it is on the disk.
    fn compact(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        put(&mut bytes, &Entry::Session(self.resume.clone()))?;
        for line in self.lines.values() {
            put(&mut bytes, &Entry::Queued(Box::new(line.clone())))?;
        }
        let beside = beside(&self.path, "new");
        let mut file = private_file(&beside)?;
        file.set_len(0)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        self.file = file;
        self.bytes = bytes.len() as u64;
        Ok(())
    }
}

fn entry(record: Record) -> Entry {
    match record {
        Record::Session { resume } => Entry::Session(resume),
        Record::Queued(Saved { id, to, private, content, level, .. }) => {
            Entry::Queued(Box::new(Line { id, to, private, content, level, written: None }))
        }
        Record::Written { id } => Entry::Written(id, unix_ms()),
        Record::Done { id } => Entry::Done(id),
    }
}

/// About what a message takes in the file.
fn cost(line: &Line) -> u64 {
    (HEADER_BYTES + line.id.len() + line.to.len() + line.content.len() + 80) as u64
}

fn put(bytes: &mut Vec<u8>, entry: &Entry) -> io::Result<()> {
    let json = serde_json::to_vec(entry)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&json).to_le_bytes());
    bytes.extend_from_slice(&json);
    Ok(())
}

/// The first record, if it is whole, and its length.
fn first(bytes: &[u8]) -> Option<(Entry, usize)> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(bytes.get(4..HEADER_BYTES)?.try_into().ok()?);
    if length > RECORD_BYTES_MAX {
        return None;
    }
    let json = bytes.get(HEADER_BYTES..HEADER_BYTES + length)?;
    if crc32fast::hash(json) != crc {
        return None;
    }
    Some((serde_json::from_slice(json).ok()?, HEADER_BYTES + length))
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// A file that only its owner reads: it has the session's token in it.
fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn saved(id: &str, content: &str) -> Saved {
        Saved {
            id: id.to_owned(),
            to: "den".to_owned(),
            private: false,
            content: content.to_owned(),
            level: Some(Level::Stored),
            written: None,
        }
    }

    fn contents(left: &Left) -> Vec<(&str, bool)> {
        left.saved.iter().map(|saved| (&*saved.content, saved.written.is_some())).collect()
    }

    #[test]
    fn what_was_not_answered_is_found_again_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        let (mut journal, left) = Journal::open(&path).unwrap();
        assert!(left.resume.is_none() && left.saved.is_empty());
        journal.append(vec![Record::Session { resume: "first".to_owned() }]).unwrap();
        for id in ["b", "a", "c"] {
            journal.append(vec![Record::Queued(saved(id, id))]).unwrap();
        }
        journal
            .append(vec![Record::Written { id: "b".to_owned() }, Record::Done { id: "b".to_owned() }])
            .unwrap();
        journal.append(vec![Record::Written { id: "a".to_owned() }]).unwrap();
        journal.append(vec![Record::Session { resume: "second".to_owned() }]).unwrap();
        assert!(Journal::open(&path).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        drop(journal);
        let (_, left) = Journal::open(&path).unwrap();
        assert_eq!(left.resume.as_deref(), Some("second"));
        assert_eq!(contents(&left), [("a", true), ("c", false)]);
        assert!(left.saved[0].written < Some(Duration::from_secs(60)));
        assert_eq!(left.saved[1], saved("c", "c"));
    }

    #[test]
    fn the_file_stays_small_however_much_goes_through_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(vec![Record::Session { resume: "token".to_owned() }]).unwrap();
        journal.append(vec![Record::Queued(saved("kept", "kept"))]).unwrap();
        for number in 0..5000 {
            let id = number.to_string();
            journal.append(vec![Record::Queued(saved(&id, &"x".repeat(1000)))]).unwrap();
            journal.append(vec![Record::Done { id }]).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() < 2 * PAST_BYTES_MAX);
        drop(journal);
        let (_, left) = Journal::open(&path).unwrap();
        assert_eq!(left.resume.as_deref(), Some("token"));
        assert_eq!(contents(&left), [("kept", false)]);
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        Journal::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    proptest! {
        /// Wherever the file is cut, and whatever is found behind the cut, what was whole before it is there, and what is
        /// written next is found as well.
        #[test]
        fn a_torn_tail_is_cut(keep in 0_usize..400, garbage in proptest::collection::vec(any::<u8>(), 0..40)) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("queue");
            let (mut journal, _) = Journal::open(&path).unwrap();
            let mut ends = vec![0];
            for id in ["a", "b", "c"] {
                journal.append(vec![Record::Queued(saved(id, id))]).unwrap();
                ends.push(usize::try_from(journal.bytes).unwrap());
            }
            drop(journal);
            let mut bytes = std::fs::read(&path).unwrap();
            let keep = keep.min(bytes.len());
            bytes.truncate(keep);
            bytes.extend_from_slice(&garbage);
            std::fs::write(&path, &bytes).unwrap();

            let (mut journal, left) = Journal::open(&path).unwrap();
            let whole = ends.iter().filter(|end| **end <= keep).count() - 1;
            // Garbage may, by chance, complete the record that was cut.
            prop_assert!(left.saved.len() == whole || left.saved.len() == whole + 1);
            prop_assert!(left.saved.iter().map(|saved| &*saved.id).eq(["a", "b", "c"].into_iter().take(left.saved.len())));
            let found = left.saved.len();
            journal.append(vec![Record::Queued(saved("next", "next"))]).unwrap();
            drop(journal);
            let (_, left) = Journal::open(&path).unwrap();
            prop_assert_eq!(left.saved.len(), found + 1);
            prop_assert_eq!(&*left.saved.last().unwrap().id, "next");
        }
    }
}
