//! The data directory: who holds it, what an earlier server left in it and in its journals, and what this one begins with.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rusqlite::{Connection, params};

use super::backup::COPIED;
use super::engine::{Engine, Part};
use super::{FILE, StoreError, WAL, load, place};
use crate::record::Restored;
use crate::sys::files;
use crate::sys::ring::Ring;

/// Held by the server that uses the directory.
pub(super) const LOCK: &str = "starling.lock";

/// The bytes that every database begins with (<https://www.sqlite.org/fileformat.html>, 1.3).
const HEADER_BYTES: u64 = 100;

/// Where journals lie: in memory, and beyond the process. See shm_overview(7).
const SHARED_MEMORY: &str = "/dev/shm";

/// Bytes of a journal that are applied in one transaction when a server begins.
const REPLAY_BYTES: usize = 4 * 1024 * 1024;

/// An opened store, before its threads are started.
#[derive(Debug)]
pub struct Opened {
    /// The database.
    pub engine: Engine,
    /// Its file.
    pub path: PathBuf,
    /// A journal a core, empty.
    pub rings: Vec<Arc<Ring>>,
    /// Where the journals lie, if they outlive the process.
    pub ring_paths: Vec<PathBuf>,
    /// What the server begins with.
    pub restored: Restored,
    /// What resume tokens are signed with.
    pub resume_secret: [u8; 32],
    /// What the tokens of accounts are signed with.
    pub account_secret: [u8; 32],
    /// Held as long as the server runs.
    pub lock: File,
}

/// What is needed to open a store.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The data directory, which is made if it is missing.
    pub directory: &'a Path,
    /// How many cores there will be.
    pub cores: usize,
    /// Bytes of each core's journal.
    pub queue_bytes: usize,
    /// Answers to commands before this time are forgotten, and those over this number a session.
    pub receipts_since_ms: u64,
    /// See above.
    pub receipts_max: usize,
}

/// Opens a store: takes the directory, brings the database up to date with what its last server had in its journals, and makes new ones.
///
/// # Errors
/// When another server holds the directory, or something in it cannot be read or written; the message names it.
pub fn open(wanted: &Wanted) -> Result<Opened, StoreError> {
    place::make_directory(wanted.directory)?;
    let (lock, last_runs) = take_lock(wanted.directory)?;
    let path = wanted.directory.join(FILE);
    refuse_what_is_no_store(&path)?;
    if !last_runs.is_empty() {
        check_presence(&path)?;
    }
    open_file(wanted, lock, &last_runs, &path)
        .map_err(|error| StoreError { message: format!("{}: {}", path.display(), error.message), ..error })
}

/// Looks whether a store could be opened, or made, if no server has it. What is in it is not looked at.
///
/// # Errors
/// As [`open`].
pub fn look(directory: &Path) -> Result<(), StoreError> {
    place::check_directory(directory)?;
    let path = directory.join(FILE);
    refuse_what_is_no_store(&path)?;
    for path in [&path, &directory.join(LOCK)] {
        files::check_appendable(path)
            .or_else(|error| if directory.is_dir() { Err(error) } else { Ok(()) })
            .map_err(|error| StoreError::new(format!("cannot open {}: {error}", path.display())))?;
    }
    let held = fs::read_to_string(directory.join(LOCK)).unwrap_or_default();
    if held.split_whitespace().nth(1).is_some() {
        check_presence(&path)?;
    }
    Ok(())
}

/// Only a file can be a store. Another name for it would be a way around the lock.
fn refuse_what_is_no_store(path: &Path) -> Result<(), StoreError> {
    match path.symlink_metadata() {
        Ok(facts) if !facts.is_file() && !facts.is_symlink() => Err(StoreError::new(format!(
            "{} is {}, and the store is a file of that name: move it away, or name another directory with --data-dir",
            path.display(),
            if facts.is_dir() { "a directory" } else { "no file" }
        ))),
        Ok(facts) if facts.is_symlink() || facts.nlink() > 1 => Err(StoreError::new(format!(
            "{} is a link, and a server may be running on the file by its other name: name the directory of that with --data-dir",
            path.display()
        ))),
        // SQLite takes a file of one byte for an empty one, and others for none of its own.
        Ok(facts) if (1..HEADER_BYTES).contains(&facts.len()) => Err(StoreError::new(format!(
            "{} is no store: it has {} bytes, of which the first {HEADER_BYTES} alone are a header: put a backup in its place, or remove it \
             to begin with nothing",
            path.display(),
            facts.len()
        ))),
        _ => Ok(()),
    }
}

/// What is written here by root may lie in a directory of somebody else, who may have put another name for a file of root's there.
fn refuse_link(path: &Path) -> Result<(), StoreError> {
    match path.symlink_metadata() {
        Ok(facts) if !facts.is_file() || facts.nlink() > 1 => Err(StoreError::new(format!(
            "{} is a link, or no file: remove it, the server makes its own",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Where a server has been before, its store is missed if it is not there.
fn check_presence(path: &Path) -> Result<(), StoreError> {
    let has_log = files::beside(path, WAL).metadata().is_ok_and(|facts| facts.len() > 0);
    match path.metadata() {
        Ok(facts) if facts.len() == 0 && !has_log => Err(StoreError::new(format!(
            "{} is empty, and a server has kept its rooms there: put a backup in its place, or remove it to begin with nothing",
            path.display()
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            log::warn!(
                "{} is not there, and a server has kept its rooms in it: beginning with nothing. If it was lost, stop this server and put a \
                 backup there",
                path.display()
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// `last_runs` is what the directory says of the run that used it last, if it says so, and of one that may have begun after it.
fn open_file(wanted: &Wanted, mut lock: File, last_runs: &[u64], path: &Path) -> Result<Opened, StoreError> {
    let mut engine = Engine::open(path)?;
    let is_clean = load::meta(engine.connection(), "clean")?.as_deref() != Some("0");
    let is_copy = load::meta(engine.connection(), COPIED)?.is_some();
    if !is_clean {
        check(engine.connection())?;
    }
    let identity = match load::meta(engine.connection(), "id")? {
        Some(id) => id,
        None => {
            let id = format!("{:016x}", crate::sys::random_u64());
            load::set_meta(engine.connection(), "id", &id)?;
            id
        }
    };
    // A file that was put back, from a copy that was made by hand: what came after it is lost.
    let its_run = load::meta(engine.connection(), "run").ok().flatten();
    let its_run = its_run.and_then(|run| u64::from_str_radix(&run, 16).ok());
    let last_run = last_runs.iter().find(|run| Some(**run) == its_run).or(last_runs.first()).copied();
    let is_older = last_run.is_some() && last_run != its_run;
    let (is_whole, left_behind) = if is_copy { (true, Vec::new()) } else { replay(&mut engine, &identity)? };
    let mut restored = load::load(&mut engine, wanted.receipts_since_ms, wanted.receipts_max)?;
    if is_copy || is_older || (!is_clean && !is_whole) {
        restored.renew_epochs(crate::sys::random_u64);
        if is_copy {
            log::info!(
                "this is a backup: rooms get new epochs, because messages may have been announced after it was made"
            );
        } else if is_older && !restored.rooms.is_empty() {
            log::warn!(
                "this is not the file that the last server here had: rooms get new epochs, because messages may have been announced since. \
                 `starling store backup` makes copies that know what they are"
            );
        } else if !is_older && !restored.rooms.is_empty() {
            log::warn!(
                "the last server did not stop by itself, and its journals are gone or damaged: rooms get new epochs, because messages may be lost \
                 that were announced, but not stored"
            );
        }
    }
    let [resume_secret, account_secret] = SECRETS.map(|key| secret(engine.connection(), key));
    let (resume_secret, account_secret) = (resume_secret?, account_secret?);
    let run = crate::sys::random_u64();
    // The new journals are there before the store names them, and the old ones until then: a server that is killed in between leaves one
    // or the other.
    let (rings, ring_paths) = make_rings(wanted, &identity, run)?;
    let db = engine.connection();
    let cannot_write = |error| StoreError::new(format!("cannot write {LOCK}: {error}"));
    // A start may fail after the store has this run, and before the directory has: the disk is full, say.
    if let Some(last_run) = last_run {
        write_lock(&mut lock, &[last_run, run]).map_err(cannot_write)?;
    }
    db.execute_batch("BEGIN IMMEDIATE")?;
    load::set_meta(db, "run", &format!("{run:016x}"))?;
    load::set_meta(db, "rings", &wanted.cores.to_string())?;
    load::set_meta(db, "clean", "0")?;
    settle_last_run(db, &restored)?;
    db.execute_batch("DELETE FROM meta WHERE key = 'copied'; COMMIT")?;
    // In the file itself: a log that somebody removes must not take along that it was there.
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    write_lock(&mut lock, &[run]).map_err(cannot_write)?;
    for path in left_behind {
        let _ = fs::remove_file(path);
    }
    let path = path.to_owned();
    Ok(Opened { engine, path, rings, ring_paths, restored, resume_secret, account_secret, lock })
}

/// A journal a core, and where those lie that outlive the process.
fn make_rings(
    wanted: &Wanted,
    identity: &str,
    run: u64,
) -> Result<(Vec<Arc<Ring>>, Vec<PathBuf>), StoreError> {
    let (mut rings, mut paths) = (Vec::new(), Vec::new());
    for core in 0..wanted.cores {
        let path = ring_path(identity, run, core);
        let ring = match Ring::create(Some(&path), wanted.queue_bytes, run) {
            Ok(ring) => {
                paths.push(path);
                ring
            }
            Err(error) => {
                log::warn!(
                    "no journal in {SHARED_MEMORY} ({error}): what has not been stored yet ends with the process, and after a kill rooms \
                     get new epochs"
                );
                Ring::create(None, wanted.queue_bytes, run)
                    .map_err(|error| StoreError::new(format!("no memory for a journal: {error}")))?
            }
        };
        rings.push(Arc::new(ring));
    }
    Ok((rings, paths))
}

/// Forgets what only the journals of the last run had a use for, and what is of sessions that were lost with a machine; and notes new
/// epochs: from now on the journals of this run say what is lost, and whoever ends it at once must not bring the old epochs back.
///
/// # Errors
/// When the database fails.
pub fn settle_last_run(db: &Connection, restored: &Restored) -> Result<(), StoreError> {
    if restored.is_lossy {
        let mut statement = db.prepare("UPDATE rooms SET epoch = ?2 WHERE id = ?1")?;
        for room in &restored.rooms {
            statement.execute(params![room.number as i64, &*room.epoch])?;
        }
    }
    db.execute_batch(
        "DELETE FROM journals;
         DELETE FROM sessions WHERE body IS NULL;
         DELETE FROM inboxes WHERE session IS NOT NULL AND session NOT IN (SELECT number FROM sessions);
         DELETE FROM receipts WHERE session <> 0 AND session NOT IN (SELECT number FROM sessions) -- 0: those of programs",
    )?;
    Ok(())
}

/// Notes that everything has been stored: the next server need not look for journals.
///
/// # Errors
/// When the database fails.
pub fn close(engine: &mut Engine, ring_paths: &[PathBuf]) -> Result<(), StoreError> {
    engine.flush_rooms(usize::MAX)?;
    load::set_meta(engine.connection(), "clean", "1")?;
    for path in ring_paths {
        let _ = fs::remove_file(path); // one that stays is not looked at
    }
    engine.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

fn ring_path(identity: &str, run: u64, core: usize) -> PathBuf {
    Path::new(SHARED_MEMORY).join(format!("starling-{identity}-{run:016x}-{core}"))
}

/// Writes down who holds the directory, and the run that uses it from now on, or those that may have been the last one.
fn write_lock(lock: &mut File, runs: &[u64]) -> std::io::Result<()> {
    let mut text = std::process::id().to_string();
    runs.iter().for_each(|run| text += &format!(" {run:016x}"));
    // Over what is there: a disk that is full has place for that.
    lock.rewind()?;
    lock.write_all(text.as_bytes())?;
    lock.set_len(text.len() as u64)
}

/// Takes the directory, and says which runs may have had it last.
fn take_lock(directory: &Path) -> Result<(File, Vec<u64>), StoreError> {
    let path = directory.join(LOCK);
    refuse_link(&path)?;
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(place::FILE_MODE)
        .custom_flags(files::NO_LINK)
        .open(&path);
    let mut lock =
        opened.map_err(|error| StoreError::new(format!("cannot open {}: {error}", path.display())))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let holder = match holder.split_whitespace().next() {
                None => "another process".to_owned(),
                Some(pid) => crate::sys::owner::describe(pid),
            };
            return Err(StoreError::new(format!(
                "{} is in use by {holder}: stop it, or choose another directory with --data-dir",
                directory.display()
            )));
        }
        Err(fs::TryLockError::Error(error)) => {
            return Err(StoreError::new(format!("cannot lock {}: {error}", path.display())));
        }
    }
    let mut held = String::new();
    let _ = lock.read_to_string(&mut held);
    let runs = held.split_whitespace().skip(1).filter_map(|run| u64::from_str_radix(run, 16).ok());
    let last_runs: Vec<u64> = runs.take(2).collect();
    // The run stays until there is another, or a start that fails would take it along.
    write_lock(&mut lock, &last_runs)
        .map_err(|error| StoreError::new(format!("cannot write {}: {error}", path.display())))?;
    Ok((lock, last_runs))
}

/// Looks whether the file is whole, after a server that did not stop by itself.
fn check(db: &Connection) -> Result<(), StoreError> {
    let started = Instant::now();
    log::info!("the last server did not stop by itself: checking the store");
    let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(StoreError::new(format!(
            "the file is damaged ({found}): restore a backup, or see what `starling store check` finds"
        )));
    }
    log::info!("the store is whole (checked in {} ms)", started.elapsed().as_millis());
    Ok(())
}

/// How many journals the last run had.
///
/// # Errors
/// When that cannot be read, or is more than any server has.
pub(super) fn read_rings(db: &Connection) -> Result<usize, StoreError> {
    let Some(text) = load::meta(db, "rings")? else { return Ok(0) };
    text.parse::<u16>().map(usize::from).map_err(|_| {
        StoreError::new(
            "the file is damaged: what it says of the number of the last server's journals is none: restore a backup",
        )
    })
}

/// Applies what the journals of the last run have beyond what was stored. Says whether all of them were there, and which may be
/// removed when there are new ones: those that nobody else uses.
fn replay(engine: &mut Engine, identity: &str) -> Result<(bool, Vec<PathBuf>), StoreError> {
    let db = engine.connection();
    let Some(run) = load::meta(db, "run")?.and_then(|run| u64::from_str_radix(&run, 16).ok()) else {
        return Ok((true, Vec::new()));
    };
    let rings = read_rings(db)?;
    let mut is_whole = true;
    let mut applied = 0;
    let mut found = Vec::new();
    for index in 0..rings {
        let path = ring_path(identity, run, index);
        let ring = match Ring::find(&path, run) {
            Ok(Some(ring)) => ring,
            // There is none, or what lies there is of no use to anybody.
            Ok(None) => {
                is_whole = false;
                found.push(path);
                continue;
            }
            // What is in it was acknowledged, and whoever may read it can still have it.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let is_ours = path
                    .symlink_metadata()
                    .is_ok_and(|facts| facts.uid() == rustix::process::geteuid().as_raw());
                let remedy = match is_ours {
                    true => "let nobody else use it (chmod 600) if you trust what is in it",
                    false => "start as the user that it belongs to, give it to this one (chown)",
                };
                return Err(StoreError::new(format!(
                    "the journal {} of the last server cannot be read ({error}): {remedy}, or remove it, which loses what had not been stored \
                     yet",
                    path.display()
                )));
            }
            Err(error) => {
                log::warn!("{}: {error}", path.display());
                is_whole = false;
                continue;
            }
        };
        found.push(path.clone());
        let (frames, is_sound) = replay_ring(engine, index, &ring)?;
        applied += frames;
        is_whole &= is_sound;
    }
    if applied > 0 {
        log::info!("{applied} frames of the last server's journals had not been stored, and are now");
    }
    Ok((is_whole, found))
}

/// Applies what one journal has beyond what was stored. Says how many frames those were, and whether they are all of them.
///
/// # Errors
/// When the database fails.
pub fn replay_ring(engine: &mut Engine, index: usize, ring: &Ring) -> Result<(usize, bool), StoreError> {
    let mut at = load::positions(engine.connection())?.get(&index).copied().unwrap_or(0);
    let mut applied = 0;
    while at < ring.tail() {
        let mut frames = Vec::new();
        let end = match ring.read(at, REPLAY_BYTES, &mut frames) {
            Ok(end) => end,
            Err(error) => {
                log::error!("journal {index}: {error}; what follows is lost");
                return Ok((applied, false));
            }
        };
        engine.apply(&[Part { ring: index, frames: &frames, end }], true)?;
        (applied, at) = (applied + frames.len(), end);
    }
    // Its core had to go on without having written everything down.
    Ok((applied, !ring.is_behind()))
}

/// A secret of 32 bytes, as the first versions wrote it: nothing else here has so many.
const HEX_DIGITS: usize = 64;

/// The secrets that a store keeps, by their keys.
pub(super) const SECRETS: [&str; 2] = ["resume_secret", "account_secret"];

/// A secret that the store keeps, if there is one.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read_secret(db: &Connection, key: &str) -> Result<Option<[u8; 32]>, StoreError> {
    let Some(text) = load::meta(db, key)? else { return Ok(None) };
    let bytes = match text.len() {
        HEX_DIGITS => db.query_row("SELECT unhex(?1)", [&text], |row| row.get(0))?, // as versions before wrote it
        _ => BASE64_STANDARD.decode(text).ok(),
    };
    // Another one in its place would make tokens void without anybody knowing why.
    bytes.and_then(|bytes: Vec<u8>| bytes.try_into().ok()).map(Some).ok_or_else(|| {
        StoreError::new(format!(
            "the store's {key} cannot be read: restore a backup, or delete it from the table meta, which makes all tokens void"
        ))
    })
}

/// A secret that the store keeps, made when it is asked for first.
fn secret(db: &Connection, key: &str) -> Result<[u8; 32], StoreError> {
    if let Some(secret) = read_secret(db, key)? {
        return Ok(secret);
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|why| StoreError::new(format!("no random bytes: {why}")))?;
    load::set_meta(db, key, &BASE64_STANDARD.encode(secret))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_lost_sessions_goes_with_them() {
        let mut engine = Engine::in_memory();
        engine
            .connection()
            .execute_batch(
                "INSERT INTO sessions (number, revision, body) VALUES (1, 1, '{}'), (2, 1, NULL);
                 INSERT INTO inboxes (session) VALUES (1), (2), (3);
                 INSERT INTO inboxes (user) VALUES ('ann');
                 INSERT INTO receipts (session, command, timestamp, target, delivered, stored)
                     VALUES (0, 'a', 1, 'ann', 1, 0), (1, 'b', 1, 'ann', 1, 0), (2, 'c', 1, 'ann', 1, 0), (3, 'd', 1, 'ann', 1, 0);",
            )
            .unwrap();
        let restored = load::load(&mut engine, 0, usize::MAX).unwrap();
        let db = engine.connection();
        settle_last_run(db, &restored).unwrap();
        let owners = |table: &str| -> Vec<Option<i64>> {
            let mut statement = db.prepare(&format!("SELECT session FROM {table} ORDER BY session")).unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        };
        assert_eq!(owners("inboxes"), [None, Some(1)]);
        assert_eq!(owners("receipts"), [Some(0), Some(1)]);
    }

    fn opened(directory: &Path) -> Result<Opened, StoreError> {
        open(&Wanted { directory, cores: 1, queue_bytes: 1 << 16, receipts_since_ms: 0, receipts_max: 9 })
    }

    fn end(mut opened: Opened) {
        close(&mut opened.engine, &opened.ring_paths).unwrap();
    }

    #[test]
    fn what_is_too_short_for_a_header_is_no_store_that_is_empty() {
        for bytes in [1, 2, 50, 99] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(FILE);
            for has_been_there in [false, true] {
                if has_been_there {
                    fs::remove_file(&path).unwrap();
                    end(opened(directory.path()).unwrap());
                }
                fs::write(&path, vec![0; bytes]).unwrap();
                let why = opened(directory.path()).unwrap_err().message;
                assert!(why.contains(&format!("has {bytes} bytes")) && why.contains("backup"), "{why}");
                assert_eq!(look(directory.path()).unwrap_err().message, why);
                assert_eq!(fs::read(&path).unwrap(), vec![0; bytes], "nobody has written there");
            }
        }
    }

    #[test]
    fn whatever_is_damaged_a_backup_is_named() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 5] = [
            ("a header", |path| write_at(path, 0, b"X")),
            ("all of it", |path| fs::write(path, vec![0; 8192]).unwrap()),
            ("what is in it", |path| fs::write(path, "this is no store ".repeat(1000)).unwrap()),
            ("a table", |path| change(path, "DROP TABLE receipts")),
            ("a column", |path| change(path, "ALTER TABLE rooms RENAME COLUMN epoch TO other")),
        ];
        for (damaged, damage) in damages {
            let directory = tempfile::tempdir().unwrap();
            end(opened(directory.path()).unwrap());
            damage(&directory.path().join(FILE));
            let why = opened(directory.path()).unwrap_err().message;
            assert!(why.contains("backup"), "{damaged}: {why}");
        }
    }

    fn write_at(path: &Path, place: u64, bytes: &[u8]) {
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.seek(std::io::SeekFrom::Start(place)).unwrap();
        file.write_all(bytes).unwrap();
    }

    fn change(path: &Path, statement: &str) {
        Connection::open(path).unwrap().execute_batch(statement).unwrap();
    }

    #[test]
    fn the_lock_is_no_other_name_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let (lock, other) = (directory.path().join(LOCK), directory.path().join("other"));
        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &lock).unwrap();
        assert!(opened(directory.path()).unwrap_err().message.contains("is a link"));
        fs::remove_file(&lock).unwrap();
        fs::hard_link(&other, &lock).unwrap();
        assert!(opened(directory.path()).unwrap_err().message.contains("is a link"));
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        fs::remove_file(&lock).unwrap();
        end(opened(directory.path()).unwrap());
    }

    #[test]
    fn more_journals_than_any_server_has_are_not_looked_for() {
        for rings in ["99999999999", "65536", "-1", "", "many"] {
            let directory = tempfile::tempdir().unwrap();
            let first = opened(directory.path()).unwrap();
            load::set_meta(first.engine.connection(), "rings", rings).unwrap();
            drop(first);
            assert!(opened(directory.path()).unwrap_err().message.contains("damaged"), "{rings}");
        }
    }

    #[test]
    fn a_damaged_journal_goes_with_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let first = opened(directory.path()).unwrap();
        let journal = first.ring_paths[0].clone();
        drop(first);
        fs::write(&journal, "no journal").unwrap();
        let second = opened(directory.path()).unwrap();
        assert!(!journal.exists() && second.ring_paths[0].exists());
        end(second);
    }

    /// A fault: a start that failed when the store had its run, and the directory had not, for want of room, made the file that of another
    /// server to the next start, and rooms got new epochs.
    #[test]
    fn a_start_that_fails_does_not_make_the_file_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let lock = directory.path().join(LOCK);
        let runs = || -> Vec<String> {
            let text = fs::read_to_string(&lock).unwrap();
            text.split(' ').skip(1).map(str::to_owned).collect()
        };
        let epoch = |opened: &Opened| opened.restored.rooms[0].epoch.clone();
        let first = opened(directory.path()).unwrap();
        let db = first.engine.connection();
        db.execute_batch("INSERT INTO rooms (id, name, folded, epoch, keep_count, keep_bytes, keep_age_ms) VALUES (1, 'den', 'den', 'e', 9, 9999, 0)").unwrap();
        assert_eq!(runs().len(), 1);
        drop(first);
        // What the directory says, what the file says, and whether that is the one that was there.
        for (said, has, is_it) in [
            (vec!["000000000000000a", "000000000000000b"], "000000000000000b", true),
            (vec!["000000000000000a", "000000000000000b"], "000000000000000a", true),
            (vec!["000000000000000a", "000000000000000b"], "000000000000000c", false),
            (vec!["000000000000000a"], "000000000000000b", false),
            (vec![], "000000000000000b", true),
        ] {
            let as_before = format!(
                "UPDATE rooms SET epoch = 'e';
                 UPDATE meta SET value = '1' WHERE key = 'clean';
                 UPDATE meta SET value = '{has}' WHERE key = 'run'"
            );
            change(&directory.path().join(FILE), &as_before);
            fs::write(&lock, format!("1 {}", said.join(" "))).unwrap();
            let next = opened(directory.path()).unwrap();
            assert_eq!(&*epoch(&next) == "e", is_it, "{said:?} {has}");
            assert_eq!(runs().len(), 1, "there is one now");
            drop(next);
        }
    }

    #[test]
    fn a_secret_stays_what_it_is_and_is_not_replaced() {
        let engine = Engine::in_memory();
        let db = engine.connection();
        let made = secret(db, "a").unwrap();
        assert_eq!(secret(db, "a").unwrap(), made);
        load::set_meta(db, "b", &"0a".repeat(32)).unwrap();
        assert_eq!(secret(db, "b").unwrap(), [10; 32], "of a version before");
        for damaged in ["", "AAAA", &"x".repeat(64), &"0a".repeat(31)] {
            load::set_meta(db, "c", damaged).unwrap();
            assert!(secret(db, "c").unwrap_err().message.contains("cannot be read"), "{damaged}");
        }
    }
}
