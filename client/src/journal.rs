//! The queue of messages on disk: what a program had sent and nobody had answered when it ended, however it ended.
//!
//! An append-only file: [`HEADER`], then records, each `mark (32) | length (32) | CRC32 (32) | JSON`, little-endian. A tail that
//! is a part of a record is what a crash leaves, and is cut. What else cannot be read is damage: reading goes on at the next
//! mark, the file as it was found is kept beside it, and the user is told. When most of it is of the past, the file is written anew
//! beside the old one and renamed.
//!
//! The file itself is locked, not one beside it, which would stay behind or could be another's. The file that takes its place is
//! locked before it does.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::machine::{Record, Saved};
use crate::wire::Level;

/// What a journal begins with: what does not is none, and is not touched. The number is the version of the format.
const HEADER: &[u8] = b"starling journal 1\n";

/// What a journal of another version begins with.
const HEADER_OF_ANY: &[u8] = b"starling journal ";

/// What a record begins with: bytes that are in no UTF-8, and so in no JSON.
const MARK: [u8; 4] = [0xF5, b's', b'j', 0xFF];

const RECORD_HEADER_BYTES: usize = 12;

/// Longer than any record: a longer length is none.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// Longer than any journal: a longer file is not read, and a journal does not become longer. The largest that a queue of the default bounds
/// makes, with every letter escaped, is a fifth of it.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The file may have this much of the past, and as much as four times what counts.
const PAST_BYTES_MAX: u64 = 256 << 10;

/// How many damaged files are kept beside a journal. With more, somebody has to look first.
const DAMAGED_MAX: usize = 100;

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
    /// What could not be read.
    pub(crate) damage: Option<Damage>,
}

/// A part of the file that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) bytes: u64,
    /// Where the file is as it was found.
    pub(crate) copy: PathBuf,
}

/// The file, and what in it still counts.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// Its lock keeps other clients out, until it is dropped.
    file: File,
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
    /// Opens the file, or makes it, and takes out what an earlier run has left. What is no journal is refused, and left as it is.
    pub(crate) fn open(path: &Path) -> io::Result<(Journal, Left)> {
        let named = |error: io::Error| match error.get_ref() {
            // It has the name in it.
            Some(_) => error,
            None => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
        };
        let file = locked(path).map_err(named)?;
        Self::read(path, file).map_err(named)
    }

    fn read(path: &Path, mut file: File) -> io::Result<(Journal, Left)> {
        // Before anything is written: what would be in the way of writing it anew is told now.
        check_new(path)?;
        let mut bytes = Vec::new();
        if file.metadata()?.len() <= FILE_BYTES_MAX {
            (&mut file).take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        }
        if bytes.len() as u64 > FILE_BYTES_MAX || file.metadata()?.len() > FILE_BYTES_MAX {
            let mib = FILE_BYTES_MAX >> 20;
            return refuse(path, &format!("is longer than a journal can be ({mib} MiB): name another file"));
        }
        if bytes.is_empty() {
            if let Err(error) = file.write_all(HEADER) {
                file.set_len(0)?;
                return Err(error);
            }
            bytes.extend_from_slice(HEADER);
        }
        if !bytes.starts_with(HEADER) {
            return refuse(
                path,
                if bytes.starts_with(HEADER_OF_ANY) {
                    "is a journal of another version of starling: read it with that one, or name another file"
                } else {
                    "is not a journal of starling: name another file"
                },
            );
        }
        let mut journal = Journal {
            path: path.to_owned(),
            file,
            bytes: HEADER.len() as u64,
            resume: String::new(),
            lines: BTreeMap::new(),
            places: HashMap::new(),
            last_place: 0,
            live_bytes: 0,
            is_broken: false,
        };
        let mut rest = &bytes[HEADER.len()..];
        let mut lost = 0;
        while !rest.is_empty() {
            if let Some((entry, length)) = first(rest) {
                journal.apply(entry);
                journal.bytes += length as u64;
                rest = &rest[length..];
                continue;
            }
            let next = next_record(rest);
            if next.is_none() && is_torn(rest) {
                break;
            }
            let skipped = next.unwrap_or(rest.len());
            lost += skipped as u64;
            rest = &rest[skipped..];
        }
        let mut left = journal.left();
        if lost > 0 {
            left.damage = Some(Damage { bytes: lost, copy: keep_damaged(path, &bytes)? });
            journal.compact()?;
        } else {
            if !rest.is_empty() {
                journal.file.set_len(journal.bytes)?;
            }
            journal.file.seek(SeekFrom::Start(journal.bytes))?;
        }
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
        Left {
            resume: (!self.resume.is_empty()).then(|| self.resume.clone()),
            saved: saved.collect(),
            damage: None,
        }
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
        if self.bytes + bytes.len() as u64 > FILE_BYTES_MAX {
            self.compact()?;
        }
        if self.bytes + bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("{} is as long as it may be", self.path.display())));
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
        let mut bytes = HEADER.to_vec();
        put(&mut bytes, &Entry::Session(self.resume.clone()))?;
        for line in self.lines.values() {
            put(&mut bytes, &Entry::Queued(Box::new(line.clone())))?;
        }
        check_new(&self.path)?;
        let beside = beside(&self.path, "new");
        let mut file = private_file(&beside)?;
        // Nobody else writes one: who has it open holds the lock of the old one.
        file.try_lock()?;
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
    (RECORD_HEADER_BYTES + line.id.len() + line.to.len() + line.content.len() + 80) as u64
}

fn put(bytes: &mut Vec<u8>, entry: &Entry) -> io::Result<()> {
    let json = serde_json::to_vec(entry)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    bytes.extend_from_slice(&MARK);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&json).to_le_bytes());
    bytes.extend_from_slice(&json);
    Ok(())
}

/// A number of a record's header.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The first record, if it is whole, and its length.
fn first(bytes: &[u8]) -> Option<(Entry, usize)> {
    if !bytes.starts_with(&MARK) {
        return None;
    }
    let (length, crc) = (number(bytes, 4)? as usize, number(bytes, 8)?);
    if length > RECORD_BYTES_MAX {
        return None;
    }
    let json = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length)?;
    if crc32fast::hash(json) != crc {
        return None;
    }
    Some((serde_json::from_slice(json).ok()?, RECORD_HEADER_BYTES + length))
}

/// Where the next record that is whole begins, behind something that is none.
fn next_record(bytes: &[u8]) -> Option<usize> {
    let marks = bytes.windows(MARK.len()).enumerate().skip(1).filter(|(_, window)| *window == MARK);
    marks.map(|(at, _)| at).find(|at| first(&bytes[*at..]).is_some())
}

/// Whether this is the beginning of a record whose end was not written, and not one that has been changed.
fn is_torn(bytes: &[u8]) -> bool {
    let mark = &bytes[..bytes.len().min(MARK.len())];
    let (Some(length), Some(crc)) = (number(bytes, 4), number(bytes, 8)) else {
        return MARK.starts_with(mark);
    };
    let json = &bytes[RECORD_HEADER_BYTES..];
    let length = length as usize;
    // If all of it is there after all, it is its length that has been changed.
    mark == MARK && length <= RECORD_BYTES_MAX && length > json.len() && crc32fast::hash(json) != crc
}

fn refuse<T>(path: &Path, why: &str) -> io::Result<T> {
    Err(io::Error::new(ErrorKind::InvalidInput, format!("{} {why}", path.display())))
}

/// Opens a journal, or makes it, for this client alone.
fn locked(path: &Path) -> io::Result<File> {
    loop {
        // A device may do things when it is opened, and a FIFO waits.
        match std::fs::metadata(path) {
            Ok(found) if !found.is_file() => {
                return refuse(path, "is no regular file, and so no journal: name another file");
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = private_file(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = format!("{}: another client has it open", path.display());
                return Err(io::Error::new(ErrorKind::WouldBlock, why));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if is_at(&file, path)? {
            return Ok(file);
        }
        // Another client has written it anew meanwhile, and has it or has ended.
    }
}

/// Whether this file is still the one of this name.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Files have no identity here that the standard library tells.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Whether the name is free that the file gets before it takes the place of the old one: what a crash has left there may be written over,
/// and nothing else.
fn check_new(path: &Path) -> io::Result<()> {
    let new = beside(path, "new");
    let found = match std::fs::symlink_metadata(&new) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut begins = Vec::new();
    if found.is_file() {
        File::open(&new)?.take(HEADER.len() as u64).read_to_end(&mut begins)?;
    }
    if !found.is_file() || !HEADER.starts_with(&begins) {
        return refuse(&new, "is in the way: it is no part of a journal. Name another file");
    }
    Ok(())
}

/// Keeps a damaged file under a name that is free.
fn keep_damaged(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    for number in 0..DAMAGED_MAX {
        let name = match number {
            0 => "damaged".to_owned(),
            number => format!("damaged.{number}"),
        };
        let copy = beside(path, &name);
        let mut file = match private(OpenOptions::new().write(true).create_new(true)).open(&copy) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        file.write_all(bytes)?;
        file.sync_all()?;
        return Ok(copy);
    }
    refuse(path, &format!("is damaged, and {DAMAGED_MAX} copies are beside it already: look at them first"))
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// A file that only its owner reads: it has the session's token in it.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn private_file(path: &Path) -> io::Result<File> {
    private(OpenOptions::new().read(true).write(true).create(true).truncate(false)).open(path)
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

    /// A journal with these messages, and where each record ends.
    fn written(path: &Path, ids: &[&str]) -> Vec<usize> {
        let (mut journal, _) = Journal::open(path).unwrap();
        let mut ends = vec![HEADER.len()];
        for id in ids {
            journal.append(vec![Record::Queued(saved(id, id))]).unwrap();
            ends.push(usize::try_from(journal.bytes).unwrap());
        }
        ends
    }

    #[test]
    fn what_is_no_journal_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("letter.txt");
        for text in ["Dear Bob,\n", "s", "starling journal", "\0\0\0\0\0\0\0\0"] {
            std::fs::write(&path, text).unwrap();
            let error = Journal::open(&path).unwrap_err().to_string();
            let why = format!("{} is not a journal of starling: name another file", path.display());
            assert_eq!(error, why);
            assert_eq!(std::fs::read(&path).unwrap(), text.as_bytes());
        }
        std::fs::write(&path, "starling journal 2\nsomething").unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("another version"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"starling journal 2\nsomething");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn an_empty_file_becomes_a_journal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        std::fs::write(&path, "").unwrap();
        written(&path, &["a"]);
        assert!(std::fs::read(&path).unwrap().starts_with(HEADER));
        assert_eq!(contents(&Journal::open(&path).unwrap().1), [("a", false)]);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_unread() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        for path in [directory.path(), &fifo] {
            let error = Journal::open(path).unwrap_err().to_string();
            assert!(error.contains("is no regular file"), "{error}");
        }
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_unread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        written(&path, &["a"]);
        // A hole: it takes no place on the disk.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("longer than a journal can be (256 MiB)"), "{error}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), FILE_BYTES_MAX + 1);
    }

    #[test]
    fn files_of_others_beside_it_are_left_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        let others = ["new", "lock", "damaged"].map(|extension| beside(&path, extension));
        std::fs::write(&others[0], "mine").unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("queue.new is in the way"), "{error}");
        std::fs::write(&others[0], &HEADER[..7]).unwrap();
        std::fs::write(&others[1], "mine").unwrap();
        std::fs::write(&others[2], "mine").unwrap();
        let ends = written(&path, &["a", "b"]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[ends[1] - 3] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let damage = Journal::open(&path).unwrap().1.damage.unwrap();
        assert_eq!(damage.copy, beside(&path, "damaged.1"));
        assert_eq!(std::fs::read(&damage.copy).unwrap(), bytes);
        for other in &others[1..] {
            assert_eq!(std::fs::read(other).unwrap(), b"mine");
        }
    }

    #[test]
    fn nothing_stays_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(vec![Record::Queued(saved("a", "a"))]).unwrap();
        journal.compact().unwrap();
        // The lock is on the new file, too.
        assert!(Journal::open(&path).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        drop(journal);
        assert_eq!(contents(&Journal::open(&path).unwrap().1), [("a", false)]);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    }

    proptest! {
        /// Wherever the file is cut, and whatever is found behind the cut, what was whole before it is there, and what is
        /// written next is found as well.
        #[test]
        fn a_torn_tail_is_cut(keep in HEADER.len()..500, garbage in proptest::collection::vec(any::<u8>(), 0..40)) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("queue");
            let (mut journal, _) = Journal::open(&path).unwrap();
            let mut ends = vec![HEADER.len()];
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

        /// Whatever bit is flipped, the record that it is in is told as lost, and all others are there, now and the next time.
        #[test]
        fn a_damaged_record_costs_no_other(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("queue");
            let ids = ["a", "b", "c", "d"];
            let ends = written(&path, &ids);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = HEADER.len() + at.index(bytes.len() - HEADER.len());
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).unwrap();
            let struck = ends.iter().filter(|end| **end <= at).count() - 1;

            let (mut journal, left) = Journal::open(&path).unwrap();
            let others: Vec<&str> = ids.into_iter().filter(|id| *id != ids[struck]).collect();
            prop_assert!(left.saved.iter().map(|saved| &*saved.id).eq(others.iter().copied()));
            let damage = left.damage.unwrap();
            prop_assert_eq!(damage.bytes, (ends[struck + 1] - ends[struck]) as u64);
            prop_assert_eq!(std::fs::read(&damage.copy).unwrap(), bytes);
            journal.append(vec![Record::Queued(saved("next", "next"))]).unwrap();
            drop(journal);
            let (_, left) = Journal::open(&path).unwrap();
            prop_assert_eq!(left.saved.len(), 4);
            prop_assert_eq!(left.damage, None);
        }
    }
}
