//! Whether the store is as it should be: SQLite's own checks, and the rules that the tables cannot hold themselves to.
//!
//! All of it looks at one moment, whatever a server writes meanwhile. Until it is done that moment has to be kept: the write-ahead log of a
//! busy server grows.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _};

use super::connection::connect;
use super::progress::{Progress, Stage};
use super::{StoreError, directory, load, schema};
use crate::chat::name::{Nickname, RoomName, fold};
use crate::record::SessionBody;

/// Findings that are told; a file that is wrong everywhere is told to be so by these.
const FINDINGS_MAX: usize = 1000;

/// Messages between two signs of progress.
const PROGRESS_ROWS: u64 = 10_000;

/// What is wrong, a line each. Empty: nothing.
pub type Findings = Vec<String>;

/// Looks at the store at `path`.
///
/// # Errors
/// When it cannot be opened, or is of another version. What is found wrong in it is no error.
pub fn check(path: &Path, progress: &Progress) -> Result<Findings, StoreError> {
    progress.begin(Stage::Opening, 0);
    let db = connect(path, false)?;
    schema::check(&db)?;
    let db = db.unchecked_transaction()?;
    let mut report = Report::default();
    format(path, &mut report)?;
    let steps: [(&str, Step); 8] = [
        ("the pages", pages),
        ("the tables' columns", columns),
        ("texts", texts),
        ("references between tables", references),
        ("rooms and messages", rooms),
        ("inboxes", inboxes),
        ("users and sessions", people),
        ("what a server begins with", beginning),
    ];
    for (what, step) in steps {
        // A damaged page ends one step, not all of them.
        if let Err(error) = step(&db, progress, &mut report) {
            report.add(format!("{what} cannot be read to the end: {error}"));
        }
    }
    Ok(report.finish())
}

type Step = fn(&Connection, &Progress, &mut Report) -> Result<(), StoreError>;

/// Findings, up to a bound.
#[derive(Default)]
struct Report {
    findings: Findings,
    left_out: u64,
}

impl Report {
    fn add(&mut self, finding: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding.into());
        } else {
            self.left_out += 1;
        }
    }

    fn finish(mut self) -> Findings {
        if self.left_out > 0 {
            self.findings.push(format!("and {} more", self.left_out));
        }
        self.findings
    }
}

/// Where a file says how it is written, and the newest way there is (sqlite.org/fileformat2.html, 1.3.3).
const WRITE_VERSION_AT: u64 = 18;
const WRITE_VERSION_MAX: u8 = 2;

/// Who only looks does not notice that a file says of itself that it may only be looked at: no server can begin with it.
fn format(path: &Path, report: &mut Report) -> Result<(), StoreError> {
    let mut version = [0];
    let failed = |error: std::io::Error| StoreError::new(error.to_string());
    File::open(path).and_then(|file| file.read_exact_at(&mut version, WRITE_VERSION_AT)).map_err(failed)?;
    if version[0] > WRITE_VERSION_MAX {
        report.add(format!(
            "the file says that it is written in a way ({}) that is not known, and may only be read",
            version[0]
        ));
    }
    Ok(())
}

fn pages(db: &Connection, progress: &Progress, report: &mut Report) -> Result<(), StoreError> {
    progress.begin(Stage::Pages, 0);
    let mut statement = db.prepare(&format!("PRAGMA integrity_check({FINDINGS_MAX})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            report.add(line.trim().replace('\n', "; "));
        }
    }
    Ok(())
}

fn references(db: &Connection, _: &Progress, report: &mut Report) -> Result<(), StoreError> {
    let mut statement =
        db.prepare("SELECT \"table\", parent, count(*) FROM pragma_foreign_key_check GROUP BY 1, 2")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (table, parent, count): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        report.add(format!("{count} rows of {table} belong to nothing that is in {parent}"));
    }
    Ok(())
}

/// Each table as this version makes it: a server asks for columns by their names.
fn columns(db: &Connection, _: &Progress, report: &mut Report) -> Result<(), StoreError> {
    let mut made = Connection::open_in_memory()?;
    schema::migrate(&mut made)?;
    let found = columns_of(db)?;
    for (table, expected) in columns_of(&made)? {
        let name = String::from_utf8_lossy(&table);
        match found.get(&table) {
            None => report.add(format!("there is no table {name}")),
            Some(columns) if *columns != expected => {
                report.add(format!("table {name} has other columns than it should have"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// A column: its name, its type, whether it may be null, its default, and its place in the primary key.
type Column = (Vec<u8>, Vec<u8>, bool, Option<Vec<u8>>, i64);

/// The columns of all tables by the tables' names. All of it as bytes: what is damaged may be no text.
fn columns_of(db: &Connection) -> Result<BTreeMap<Vec<u8>, Vec<Column>>, StoreError> {
    let mut statement = db.prepare(
        "SELECT CAST(s.name AS BLOB), CAST(c.name AS BLOB), CAST(c.type AS BLOB), c.\"notnull\", CAST(c.dflt_value AS BLOB), c.pk
         FROM sqlite_schema s, pragma_table_info(s.name) c WHERE s.type = 'table' ORDER BY s.name, c.cid",
    )?;
    let mut rows = statement.query([])?;
    let mut found: BTreeMap<Vec<u8>, Vec<Column>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let column = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?);
        found.entry(row.get(0)?).or_default().push(column);
    }
    Ok(found)
}

/// SQLite does not look whether what it keeps as text is, and who reads it fails. Messages, which are many, are looked at where they are counted.
fn texts(db: &Connection, _: &Progress, report: &mut Report) -> Result<(), StoreError> {
    let mut statement =
        db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('messages')")?;
    let tables = statement.query_map([], |row| row.get::<_, String>(0))?;
    for table in tables.collect::<Result<Vec<_>, _>>()? {
        // As bytes: a damaged one is no text, for which whoever asks a statement for its names would panic.
        let mut names = db.prepare("SELECT CAST(name AS BLOB) FROM pragma_table_info(?1)")?;
        let columns =
            names.query_map([&table], |row| row.get::<_, Vec<u8>>(0))?.collect::<Result<Vec<_>, _>>()?;
        if columns.iter().any(|column| std::str::from_utf8(column).is_err()) {
            report.add(format!("{table} has a column whose name is not UTF-8"));
        }
        let columns: Vec<_> = columns.iter().map(|column| String::from_utf8_lossy(column)).collect();
        let mut statement = db.prepare(&format!("SELECT * FROM \"{}\"", table.replace('"', "\"\"")))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for (at, column) in columns.iter().enumerate() {
                if !is_text(row.get_ref(at)?) {
                    report.add(format!("{column} in a row of {table} is not UTF-8"));
                }
            }
        }
    }
    Ok(())
}

/// Whether a value is text as it should be, or none at all.
fn is_text(value: ValueRef) -> bool {
    !matches!(value, ValueRef::Text(_)) || value.as_str().is_ok()
}

/// What is found of a room among the messages.
#[derive(Default)]
struct Found {
    messages: u64,
    first: u64,
    last: u64,
    last_timestamp_ms: u64,
    /// Of content, up to the offset in the room's row: the row of a busy room is some messages older than the last.
    bytes: u64,
}

fn rooms(db: &Connection, progress: &Progress, report: &mut Report) -> Result<(), StoreError> {
    let mut found = messages(db, progress, report)?;
    progress.begin(Stage::Others, 0);
    let mut statement = db.prepare(
        "SELECT id, name, folded, offset, timestamp, first, bytes, state_version,
             (SELECT coalesce(max(version), 0) FROM state WHERE room = rooms.id) FROM rooms ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let number = |column| row.get::<_, i64>(column).map(|n| n as u64);
        let (name, folded): (String, Option<String>) = (row.get(1)?, row.get(2)?);
        match RoomName::parse(&name) {
            Err(why) => report.add(format!("room {name:?} is no name: {why}")),
            // One that has ended has given its name away.
            Ok(_) if folded.as_deref().is_some_and(|folded| folded != fold(&name)) => {
                report.add(format!("room {name:?} is found under another name, {folded:?}"));
            }
            Ok(_) => {}
        }
        let (written, first) = (number(3)?, number(5)?);
        let found = found.remove(&number(0)?).unwrap_or(Found { first, ..Found::default() });
        let offset = written.max(found.last);
        let kept = offset.saturating_add(1).saturating_sub(first);
        if first == 0 || first > offset.saturating_add(1) {
            report
                .add(format!("room {name:?} keeps messages from offset {first} on, and has given {offset}"));
        }
        if found.messages != kept {
            let missing = match first_missing(db, number(0)?, first, offset)? {
                Some(missing) => format!("; the first that is missing is {missing}"),
                None => String::new(),
            };
            report.add(format!(
                "room {name:?} should have {kept} messages, up to {offset}; it has {}{missing}",
                found.messages
            ));
        } else if kept > 0 && (found.first, found.last) != (first, offset) {
            report.add(format!(
                "room {name:?} should have messages {first} to {offset}; it has {} to {}",
                found.first, found.last
            ));
        }
        if found.bytes != number(6)? {
            report.add(format!("room {name:?} says {} bytes of content; it has {}", number(6)?, found.bytes));
        }
        if found.last == written && kept > 0 && found.last_timestamp_ms != number(4)? {
            report.add(format!("room {name:?} has another time than its last message"));
        }
        if number(8)? > number(7)? {
            report.add(format!(
                "room {name:?} has state of version {}, and counts to {}",
                number(8)?,
                number(7)?
            ));
        }
    }
    for (room, found) in found {
        report.add(format!("{} messages are of room number {room}, which is not there", found.messages));
    }
    Ok(())
}

/// The first offset without a message, of those that should have one.
fn first_missing(db: &Connection, room: u64, first: u64, offset: u64) -> Result<Option<u64>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT ?2 WHERE ?2 <= ?3 AND NOT EXISTS (SELECT 1 FROM messages WHERE room = ?1 AND offset = ?2)
         UNION ALL
         SELECT m.offset + 1 FROM messages m WHERE m.room = ?1 AND m.offset >= ?2 AND m.offset < ?3
             AND NOT EXISTS (SELECT 1 FROM messages n WHERE n.room = m.room AND n.offset = m.offset + 1)
         LIMIT 1",
    )?;
    let place = [room as i64, first as i64, offset as i64];
    Ok(statement.query_row(place, |row| row.get::<_, i64>(0)).optional()?.map(|offset| offset as u64))
}

/// Goes through all messages in the order in which they lie in the file, and sums up the rooms.
fn messages(
    db: &Connection,
    progress: &Progress,
    report: &mut Report,
) -> Result<HashMap<u64, Found>, StoreError> {
    let all: i64 =
        db.query_row("SELECT coalesce(sum(offset + 1 - first), 0) FROM rooms", [], |row| row.get(0))?;
    progress.begin(Stage::Messages, all.max(0) as u64);
    let mut written: HashMap<u64, u64> = HashMap::new();
    let mut statement = db.prepare("SELECT id, offset FROM rooms")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        written.insert(row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64);
    }
    let mut statement = db.prepare(
        "SELECT room, offset, timestamp, sender, octet_length(content), content, command FROM messages NOT INDEXED ORDER BY rowid",
    )?;
    let mut rows = statement.query([])?;
    let (mut found, mut seen): (HashMap<u64, Found>, u64) = (HashMap::new(), 0);
    while let Some(row) = rows.next()? {
        let number = |column| row.get::<_, i64>(column).map(|n| n as u64);
        let (room, offset, timestamp_ms) = (number(0)?, number(1)?, number(2)?);
        let of_room = found.entry(room).or_insert(Found { first: u64::MAX, ..Found::default() });
        if of_room.last.checked_add(1) == Some(offset) && timestamp_ms < of_room.last_timestamp_ms {
            report.add(format!(
                "message {offset} of room number {room} has an earlier time than the one before"
            ));
        }
        if timestamp_ms > i64::MAX as u64 {
            report.add(format!("message {offset} of room number {room} has a time before 1970"));
        }
        let sender = row.get_ref(3)?.as_str().unwrap_or_default();
        if let Err(why) = Nickname::parse(sender) {
            report.add(format!("message {offset} of room number {room} is from {sender:?}: {why}"));
        }
        if !is_text(row.get_ref(5)?) {
            report.add(format!("message {offset} of room number {room} is not UTF-8"));
        }
        if !is_text(row.get_ref(6)?) {
            report
                .add(format!("the id of the command of message {offset} of room number {room} is not UTF-8"));
        }
        of_room.messages += 1;
        if written.get(&room).is_some_and(|written| offset <= *written) {
            of_room.bytes += number(4)?;
        }
        of_room.first = of_room.first.min(offset);
        if offset >= of_room.last {
            (of_room.last, of_room.last_timestamp_ms) = (offset, timestamp_ms);
        }
        seen += 1;
        if seen.is_multiple_of(PROGRESS_ROWS) {
            progress.done(seen);
        }
    }
    Ok(found)
}

fn inboxes(db: &Connection, _: &Progress, report: &mut Report) -> Result<(), StoreError> {
    let mut statement = db.prepare(
        "SELECT i.id, i.session, i.user, i.last, coalesce(max(x.offset), 0), coalesce(min(x.offset), 1),
             s.number IS NOT NULL, u.folded IS NOT NULL, coalesce(min(x.timestamp), 0)
         FROM inboxes i LEFT JOIN inbox x ON x.inbox = i.id LEFT JOIN sessions s ON s.number = i.session
             LEFT JOIN users u ON u.folded = i.user GROUP BY i.id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let (session, user): (Option<i64>, Option<String>) = (row.get(1)?, row.get(2)?);
        let (last, highest, lowest): (i64, i64, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
        let (has_session, has_user): (bool, bool) = (row.get(6)?, row.get(7)?);
        match (session, &user) {
            (Some(session), None) if !has_session => {
                report.add(format!("inbox {id} is of session {:016x}, which is not there", session as u64));
            }
            (None, Some(user)) if !has_user => {
                report.add(format!("inbox {id} is of {user:?}, who is not registered"));
            }
            (Some(_), Some(_)) | (None, None) => report.add(format!("inbox {id} is of nobody in particular")),
            _ => {}
        }
        if highest > last || lowest < 1 {
            report.add(format!("inbox {id} has places {lowest} to {highest}, and has given {last}"));
        }
        if row.get::<_, i64>(8)? < 0 {
            report.add(format!("inbox {id} has a message with a time before 1970"));
        }
    }
    Ok(())
}

fn people(db: &Connection, _: &Progress, report: &mut Report) -> Result<(), StoreError> {
    let mut statement = db.prepare("SELECT folded, name, password FROM users ORDER BY folded")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (folded, name, password): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        match Nickname::parse(&name) {
            Err(why) => report.add(format!("user {name:?} is no nickname: {why}")),
            Ok(name) if name.folded() != folded => {
                report.add(format!("user {:?} is found under another name, {folded:?}", name.as_str()));
            }
            Ok(_) => {}
        }
        if !super::accounts::is_hash(&password) {
            report.add(format!("user {name:?} has no hash for a password: `starling user passwd` gives one"));
        }
    }
    let mut statement =
        db.prepare("SELECT number, body FROM sessions WHERE body IS NOT NULL ORDER BY number")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let body = row.get_ref(1)?.as_str().unwrap_or_default();
        if let Err(why) = serde_json::from_str::<SessionBody>(body) {
            report.add(format!("session {:016x} cannot be read: {why}", row.get::<_, i64>(0)? as u64));
        }
    }
    Ok(())
}

/// What a server asks for first: without it there is none.
fn beginning(db: &Connection, _: &Progress, report: &mut Report) -> Result<(), StoreError> {
    if !report.findings.is_empty() {
        return Ok(()); // which say it better
    }
    // Without the answers to commands, which may be of all messages: those are looked at above.
    load::read(db, i64::MAX as u64, 0)?;
    if let Err(why) = directory::read_rings(db) {
        report.add(why.message);
    }
    for key in directory::SECRETS {
        if let Err(why) = directory::read_secret(db, key) {
            report.add(why.message);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::record::{Owner, Record, Retention};
    use crate::store::accounts;
    use crate::store::engine::{Engine, Part};

    /// A store with two rooms, a session, a user and a private message that waits.
    pub fn filled() -> (tempfile::TempDir, PathBuf, Engine) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(crate::store::FILE);
        let mut engine = Engine::open(&path).unwrap();
        let bob = Nickname::parse("bob").unwrap();
        let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        accounts::add(engine.connection(), &bob, hash, 5).unwrap();
        let retention = Retention { count: 1000, bytes: 0, age_ms: 0 };
        let mut frame = vec![0];
        for (room, name, messages) in [(1, "Lobby", 10), (2, "ops", 2)] {
            Record::Room { room, name, epoch: "e", retention }.put(&mut frame);
            for offset in 1..=messages {
                let (sender, content, timestamp_ms) = ("alice", "hi", 100 + offset / 2);
                Record::Message { room, offset, timestamp_ms, sender, content, command: None }
                    .put(&mut frame);
            }
        }
        Record::State { room: 1, key: "topic", value: Some("1"), version: 3 }.put(&mut frame);
        Record::Session { number: u64::MAX, revision: 1, body: r#"{"nickname":"alice","rooms":[]}"# }
            .put(&mut frame);
        let (owner, sender, target, content) = (Owner::User("bob"), "alice", "bob", "psst");
        Record::Kept { owner, offset: 4, sender, target, content, timestamp_ms: 1 }.put(&mut frame);
        engine.apply(&[Part { ring: 0, frames: &[frame], end: 1 }], true).unwrap();
        engine.flush_rooms(usize::MAX).unwrap();
        assert_eq!(engine.rejected(), 0);
        (directory, path, engine)
    }

    fn found(path: &Path) -> Findings {
        check(path, &Progress::default()).unwrap()
    }

    #[test]
    fn what_the_engine_writes_is_as_it_should_be() {
        let (_directory, path, mut engine) = filled();
        assert_eq!(found(&path), [""; 0]);
        let retention = Retention { count: 3, bytes: 0, age_ms: 0 };
        let mut frame = vec![0];
        Record::Room { room: 1, name: "Lobby", epoch: "e", retention }.put(&mut frame);
        Record::RoomEnded { room: 2 }.put(&mut frame);
        Record::SessionEnded { number: u64::MAX, revision: 2 }.put(&mut frame);
        Record::Room { room: 3, name: "OPS", epoch: "f", retention: Retention { count: 0, ..retention } }
            .put(&mut frame);
        let (sender, content) = ("alice", "not kept");
        Record::Message { room: 3, offset: 1, timestamp_ms: 9, sender, content, command: None }
            .put(&mut frame);
        engine.apply(&[Part { ring: 0, frames: &[frame], end: 2 }], true).unwrap();
        engine.flush_rooms(usize::MAX).unwrap();
        assert_eq!(found(&path), [""; 0]);
        while engine.has_to_trim() {
            engine.trim(1, 0).unwrap();
            assert_eq!(found(&path), [""; 0], "half way through a deletion");
        }
        drop(engine);
        assert_eq!(found(&path), [""; 0], "without a server");
    }

    #[test]
    fn numbers_that_cannot_be_are_damage() {
        for column in ["offset", "first", "bytes", "timestamp", "keep_count"] {
            let (_directory, path, engine) = filled();
            drop(engine);
            let db = Connection::open(&path).unwrap();
            db.execute(&format!("UPDATE rooms SET {column} = -1 WHERE id = 1"), []).unwrap();
            assert!(!found(&path).is_empty(), "{column}");
            let refused = Engine::open(&path).unwrap_err().message;
            assert!(refused.starts_with("the file is damaged"), "{column}: {refused}");
        }
    }

    #[test]
    fn each_rule_that_is_broken_is_named() {
        for (sql, part) in [
            (
                "DELETE FROM messages WHERE room = 1 AND offset IN (5, 7)",
                "has 8; the first that is missing is 5",
            ),
            ("DELETE FROM messages WHERE room = 1 AND offset = 1", "has 9; the first that is missing is 1"),
            ("DELETE FROM messages WHERE room = 2", "\"ops\" should have 2 messages, up to 2; it has 0"),
            (
                "UPDATE messages SET offset = 11 WHERE room = 1 AND offset = 1",
                "up to 11; it has 10; the first that is missing is 1",
            ),
            ("UPDATE rooms SET first = 0 WHERE id = 1", "from offset 0 on"),
            // As numbers without a sign both are at the end of all offsets.
            ("UPDATE messages SET offset = -1 WHERE room = 1 AND offset = 10", "\"Lobby\" should have"),
            ("UPDATE rooms SET offset = -1 WHERE id = 1", "\"Lobby\" should have"),
            ("UPDATE rooms SET bytes = 21 WHERE id = 1", "says 21 bytes of content; it has 20"),
            ("UPDATE messages SET content = 'much more' WHERE room = 2 AND offset = 1", "it has 11"),
            (
                "UPDATE messages SET content = CAST(x'ff41' AS TEXT) WHERE room = 2 AND offset = 1",
                "message 1 of room number 2 is not UTF-8",
            ),
            ("UPDATE state SET key = CAST(x'ff' AS TEXT)", "key in a row of state is not UTF-8"),
            (
                "UPDATE messages SET session = 1, command = CAST(x'ff' AS TEXT) WHERE room = 2 AND offset = 1",
                "the id of the command of message 1 of room number 2 is not UTF-8",
            ),
            (
                "INSERT INTO meta (key, value) VALUES ('account_secret', '')",
                "the store's account_secret cannot be read",
            ),
            (
                "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'password', CAST(x'70ff' AS TEXT)) WHERE name = 'users'",
                "users has a column whose name is not UTF-8",
            ),
            ("ALTER TABLE users RENAME COLUMN since TO sincf", "table users has other columns"),
            ("ALTER TABLE journals RENAME TO journalz", "there is no table journals"),
            ("UPDATE rooms SET timestamp = 1 WHERE id = 1", "another time than its last message"),
            ("UPDATE messages SET timestamp = 1 WHERE room = 1 AND offset = 7", "an earlier time"),
            ("UPDATE messages SET timestamp = -1 WHERE room = 1 AND offset = 7", "a time before 1970"),
            ("UPDATE inbox SET timestamp = -1", "inbox 1 has a message with a time before 1970"),
            ("UPDATE messages SET sender = 'a b' WHERE room = 1 AND offset = 7", "is from \"a b\""),
            ("UPDATE rooms SET state_version = 1 WHERE id = 1", "state of version 3"),
            ("UPDATE rooms SET name = 'Lobby!' WHERE id = 1", "is no name"),
            ("UPDATE rooms SET folded = 'foyer' WHERE id = 1", "under another name"),
            (
                "PRAGMA foreign_keys = OFF; DELETE FROM rooms WHERE id = 2",
                "belong to nothing that is in rooms",
            ),
            ("PRAGMA foreign_keys = OFF; DELETE FROM rooms WHERE id = 2", "2 messages are of room number 2"),
            ("PRAGMA foreign_keys = OFF; DELETE FROM inboxes", "belong to nothing that is in inboxes"),
            ("UPDATE inboxes SET last = 3", "has given 3"),
            ("DELETE FROM users", "\"bob\", who is not registered"),
            ("UPDATE inboxes SET session = 5, user = NULL", "0000000000000005, which is not there"),
            ("UPDATE inboxes SET session = 5", "of nobody in particular"),
            ("UPDATE users SET name = 'b ob'", "is no nickname"),
            ("UPDATE users SET folded = 'rob'", "under another name"),
            ("UPDATE users SET password = 'plain'", "no hash for a password"),
            ("UPDATE sessions SET body = '{}'", "ffffffffffffffff cannot be read"),
        ] {
            let (_directory, path, engine) = filled();
            engine.connection().execute_batch(sql).unwrap();
            let found = found(&path);
            assert!(found.iter().any(|line| line.contains(part)), "{sql}: {found:?}");
            assert!(found.iter().all(|line| !line.contains('\n')), "{found:?}");
        }
    }

    #[test]
    fn a_file_that_no_server_could_write_to_is_found() {
        let (_directory, path, engine) = filled();
        drop(engine);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[18] = 7;
        std::fs::write(&path, bytes).unwrap();
        assert!(found(&path).iter().any(|line| line.contains("may only be read")));
    }

    #[test]
    fn damaged_pages_are_found_and_do_not_end_the_look() {
        let (_directory, path, engine) = filled();
        let root: i64 = engine
            .connection()
            .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'", [], |row| row.get(0))
            .unwrap();
        drop(engine);
        let mut bytes = std::fs::read(&path).unwrap();
        let page = (root as usize - 1) * 4096;
        bytes[page..page + 64].fill(0xee);
        std::fs::write(&path, bytes).unwrap();
        let found = found(&path);
        assert!(found.len() >= 2, "{found:?}");
        assert!(found.iter().any(|line| line.contains("cannot be read to the end")), "{found:?}");
    }

    #[test]
    fn findings_are_bounded() {
        let mut report = Report::default();
        (0..FINDINGS_MAX + 5).for_each(|number| report.add(number.to_string()));
        let findings = report.finish();
        assert_eq!((findings.len(), &*findings[FINDINGS_MAX]), (FINDINGS_MAX + 1, "and 5 more"));
    }
}
