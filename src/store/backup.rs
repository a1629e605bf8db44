//! A copy of the store as it is at one moment, also while a server writes it (<https://sqlite.org/backup.html>).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};

use super::connection::connect;
use super::progress::{Progress, Stage};
use super::{StoreError, WAL, load, place, schema};
use crate::sys::files::{self, beside};
use crate::sys::unix_ms;

/// What the copy, and no other store, knows about itself: when it was made, in milliseconds since the Unix epoch. Offsets that were given after
/// that are unknown to it, so whoever goes on from it must begin new epochs, or an offset would mean another message than before.
pub const COPIED: &str = "copied";

/// Pages copied in a step, between two signs of progress.
const STEP_PAGES: i32 = 1024;

/// Copies the store at `from` to a new file `to`, which is complete and on the disk when this returns, or not there. With `replaces` it
/// takes the place of a file.
///
/// # Errors
/// When the store cannot be read, or the copy cannot be written.
pub fn backup(from: &Path, to: &Path, replaces: bool, progress: &Progress) -> Result<(), StoreError> {
    progress.begin(Stage::Opening, 0);
    let source = connect(from, false)?;
    schema::check(&source)?;
    check_target(from, to, replaces)?;
    let _lock = Lock::take(to)?;
    // Made beside its place, so that what is there is whole, also after a power cut.
    let partial = beside(to, ".partial");
    remove_partial(&partial); // of a backup that was interrupted
    place::make_file(&partial)?;
    let copied = copy(source, &partial, progress).and_then(|()| put_in_place(&partial, to));
    if copied.is_err() {
        remove_partial(&partial);
    }
    copied
}

/// Removes a copy that is not whole, with what SQLite had beside it.
fn remove_partial(partial: &Path) {
    for end in ["", WAL, "-shm", "-journal"] {
        let _ = fs::remove_file(beside(partial, end));
    }
}

/// That no other backup to the same file is under way: each would take the other's copy for what was left of an earlier one. It ends with
/// the process, whatever becomes of that (flock(2)).
struct Lock {
    _file: File,
    path: PathBuf,
}

impl Lock {
    fn take(to: &Path) -> Result<Lock, StoreError> {
        // Not `.lock`: a copy called `starling` in the server's directory would take the server's.
        let path = beside(to, ".partial-lock");
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(place::FILE_MODE)
                .open(&path);
            let file = file.map_err(|error| cannot("make", &path, &error))?;
            match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(StoreError::new(format!(
                        "another backup to {} is under way: let it end, or name another file",
                        to.display()
                    )));
                }
                Err(fs::TryLockError::Error(error)) => return Err(cannot("lock", &path, &error)),
                Ok(()) => {}
            }
            // Whoever had it may have removed its name meanwhile, so that others do not find this one.
            let facts = file.metadata().map_err(|error| cannot("look at", &path, &error))?;
            if path.metadata().is_ok_and(|named| files::id(&named) == files::id(&facts)) {
                return Ok(Lock { _file: file, path });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn check_target(from: &Path, to: &Path, replaces: bool) -> Result<(), StoreError> {
    let place = to.display();
    if is_beside(from, to) {
        return Err(StoreError::new(format!(
            "{place} belongs to the store itself: name a file in another directory"
        )));
    }
    // SQLite would take what is in them for a part of the new file.
    for log in [WAL, "-journal"].map(|end| beside(to, end)) {
        if log.exists() && !is_same(from, to)? {
            return Err(StoreError::new(format!(
                "{} is there: something has {place} open, or did not close it; name another file",
                log.display()
            )));
        }
    }
    match to.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(cannot("look at", to, &error)),
        Ok(_) if is_same(from, to)? => {
            Err(StoreError::new(format!("{place} is the store itself: name another file")))
        }
        Ok(facts) if !facts.is_file() => {
            Err(StoreError::new(format!("{place} is no file: name one for the copy")))
        }
        Ok(_) if !replaces => Err(StoreError::new(format!(
            "{place} is there already: name another file, or replace it with --force"
        ))),
        Ok(_) => Ok(()),
    }
}

/// Whether it is one of the files that a server has beside its store, by whatever way to the directory.
fn is_beside(from: &Path, to: &Path) -> bool {
    let directory = |path: &Path| files::directory_of(path).canonicalize().ok();
    let name = to.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_ours = name != super::FILE && name.starts_with(super::FILE) || name == super::directory::LOCK;
    is_ours && directory(from).is_some_and(|place| directory(to) == Some(place))
}

/// Whether both are one file, by whatever names.
fn is_same(from: &Path, to: &Path) -> Result<bool, StoreError> {
    let source = from.metadata().map_err(|error| cannot("look at", from, &error))?;
    Ok(to.metadata().is_ok_and(|facts| files::id(&facts) == files::id(&source)))
}

fn copy(source: rusqlite::Connection, partial: &Path, progress: &Progress) -> Result<(), StoreError> {
    let mut target = connect(partial, true)?;
    // The copy is flushed once, at the end.
    target.pragma_update(None, "synchronous", "OFF")?;
    // One transaction around all steps: without it the copy would begin anew whenever the server has written something.
    let source = source.unchecked_transaction()?;
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    {
        let backup = Backup::new(&source, &mut target)?;
        loop {
            let step = backup.step(STEP_PAGES)?;
            let pages = backup.progress();
            let (all, left) = (pages.pagecount.max(0) as u64, pages.remaining.max(0) as u64);
            progress.begin(Stage::Copying, all);
            progress.done(all.saturating_sub(left));
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                // Nobody else knows of the copy, and the transaction above keeps the source as it is.
                other => return Err(StoreError::new(format!("the copy is held by somebody ({other:?})"))),
            }
        }
    }
    let found: String = target.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(StoreError::new(format!(
            "the store is damaged, and so would the copy be ({}): see what `starling store check` finds",
            found.split_whitespace().collect::<Vec<_>>().join(" ")
        )));
    }
    load::set_meta(&target, COPIED, &unix_ms().to_string())?;
    // One file without a log beside it: so it can be moved, and read from where nothing can be written. A server turns it back.
    let mode: String = target.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))?;
    if mode != "delete" {
        return Err(StoreError::new(format!("the copy keeps a log ({mode})")));
    }
    target.close().map_err(|(_, error)| StoreError::from(error))
}

/// Flushes the copy, and gives it its name.
fn put_in_place(partial: &Path, to: &Path) -> Result<(), StoreError> {
    File::open(partial).and_then(|file| file.sync_all()).map_err(|error| cannot("write", partial, &error))?;
    fs::rename(partial, to).map_err(|error| cannot("make", to, &error))?;
    // The name is in the directory, which is flushed by itself.
    let directory = files::directory_of(to);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| cannot("write", directory, &error))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::new(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::record::{Record, Retention};
    use crate::store::check::check;
    use crate::store::check::tests::filled;
    use crate::store::engine::{Engine, Part};
    use crate::store::stats::Stats;

    fn to(path: &Path, to: &Path, replaces: bool) -> Result<(), StoreError> {
        backup(path, to, replaces, &Progress::default())
    }

    #[test]
    fn a_copy_is_whole_and_its_owners_alone() {
        let (directory, path, engine) = filled();
        let copy = directory.path().join("copy.db");
        to(&path, &copy, false).unwrap();
        assert_eq!(check(&copy, &Progress::default()).unwrap(), [""; 0]);
        let numbers = |path: &Path| {
            let stats = Stats::read(path, 9).unwrap();
            (stats.messages, stats.message_bytes, stats.users, stats.inbox_messages, stats.largest_rooms)
        };
        assert_eq!(numbers(&copy), numbers(&path));
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let names =
            |directory: &Path| fs::read_dir(directory).unwrap().flatten().map(|entry| entry.file_name());
        let rest: Vec<_> =
            names(directory.path()).filter(|name| name.to_string_lossy().starts_with("copy.db.")).collect();
        assert!(rest.is_empty(), "{rest:?}");
        drop(engine);
        let again = Engine::open(&copy).unwrap();
        assert_eq!(again.room_numbers().len(), 2, "a server can go on from it");
        assert!(load::meta(again.connection(), COPIED).unwrap().is_some(), "and knows that it is a copy");
        let original = Engine::open(&path).unwrap();
        assert_eq!(load::meta(original.connection(), COPIED).unwrap(), None);
    }

    #[test]
    fn one_backup_to_a_file_at_a_time() {
        let (directory, path, _engine) = filled();
        let copy = directory.path().join("copy.db");
        to(&path, &copy, false).unwrap();
        let whole = fs::read(&copy).unwrap();
        let lock = Lock::take(&copy).unwrap();
        let why = to(&path, &copy, true).unwrap_err();
        assert!(why.message.contains("another backup"), "{}", why.message);
        assert_eq!(fs::read(&copy).unwrap(), whole);
        drop(lock);
        to(&path, &copy, true).unwrap();
        // Of those that begin at one moment, each makes a whole copy or says that another is under way.
        std::thread::scope(|scope| {
            let backups: Vec<_> = (0..4).map(|_| scope.spawn(|| to(&path, &copy, true))).collect();
            let ended: Vec<_> = backups.into_iter().map(|backup| backup.join().unwrap()).collect();
            assert!(ended.iter().any(Result::is_ok), "{ended:?}");
            let told = ended.iter().filter_map(|ended| ended.as_ref().err());
            told.for_each(|why| assert!(why.message.contains("another backup"), "{}", why.message));
        });
        assert_eq!(check(&copy, &Progress::default()).unwrap(), [""; 0]);
        // In the server's own directory, by a name that its lock begins with.
        let server_lock = directory.path().join(super::super::directory::LOCK);
        fs::write(&server_lock, "1").unwrap();
        to(&path, &directory.path().join("starling"), false).unwrap();
        assert!(server_lock.exists(), "it is the server's");
        assert_eq!(
            fs::read_dir(directory.path())
                .unwrap()
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("copy.db."))
                .count(),
            0
        );
    }

    #[test]
    fn what_is_there_is_not_replaced_unasked() {
        let (directory, path, _engine) = filled();
        let copy = directory.path().join("copy.db");
        fs::write(&copy, "precious").unwrap();
        assert!(to(&path, &copy, false).unwrap_err().to_string().contains("--force"));
        assert_eq!(fs::read(&copy).unwrap(), b"precious");
        fs::write(beside(&copy, WAL), "x").unwrap();
        assert!(to(&path, &copy, true).unwrap_err().to_string().contains("copy.db-wal is there"));
        fs::remove_file(beside(&copy, WAL)).unwrap();
        to(&path, &copy, true).unwrap();
        assert_eq!(check(&copy, &Progress::default()).unwrap(), [""; 0]);
        for replaces in [false, true] {
            assert!(to(&path, &path, replaces).unwrap_err().to_string().contains("the store itself"));
            let link = directory.path().join("link.db");
            let _ = std::os::unix::fs::symlink(&path, &link);
            assert!(to(&path, &link, replaces).unwrap_err().to_string().contains("the store itself"));
            assert!(to(&path, directory.path(), replaces).unwrap_err().to_string().contains("is no file"));
        }
        let nowhere = directory.path().join("no/where.db");
        assert!(to(&path, &nowhere, false).unwrap_err().to_string().contains("cannot make"));
    }

    #[test]
    fn a_server_that_writes_all_the_time_is_copied_as_of_one_moment() {
        let (directory, path, mut engine) = filled();
        let copy = directory.path().join("copy.db");
        let retention = Retention { count: 1_000_000, bytes: 0, age_ms: 0 };
        let content = "x".repeat(3000);
        let mut offset = 0;
        let mut write = |engine: &mut Engine, count: u64| {
            let mut frame = vec![0];
            Record::Room { room: 9, name: "busy", epoch: "e", retention }.put(&mut frame);
            for _ in 0..count {
                offset += 1;
                let (sender, content) = ("alice", content.as_str());
                Record::Message { room: 9, offset, timestamp_ms: offset, sender, content, command: None }
                    .put(&mut frame);
            }
            engine.apply(&[Part { ring: 0, frames: &[frame], end: offset }], false).unwrap();
            engine.flush_rooms(usize::MAX).unwrap();
        };
        write(&mut engine, 10_000);
        std::thread::scope(|scope| {
            let copying = scope.spawn(|| to(&path, &copy, false));
            let mut commits = 0;
            while !copying.is_finished() {
                write(&mut engine, 10);
                commits += 1;
            }
            copying.join().unwrap().unwrap();
            assert!(commits > 1, "nothing was written meanwhile");
        });
        assert_eq!(check(&copy, &Progress::default()).unwrap(), [""; 0]);
        let copied = &Stats::read(&copy, 1).unwrap().largest_rooms[0];
        assert!(copied.messages >= 10_000 && copied.messages <= offset, "{copied:?} of {offset}");
    }
}
