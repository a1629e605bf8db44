//! The database: applies frames, and gives back what they said. Knows no thread, queue or core; the storage thread and the simulator
//! drive it.

mod deleting;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};

use super::connection::{configure, connect};
use super::{StoreError, place, schema};
use crate::chat::history::ENTRY_BYTES;
use crate::record::{CommandKey, Frame, Owner, Record, Retention};

/// Pages of the write-ahead log after which a commit moves what is left of it into the file, so that it begins anew; and bytes of it that
/// stay then. A log that is written over has its blocks already: to sync it costs the file system less.
const LOG_PAGES: u32 = 8000;
const LOG_BYTES_KEPT: i64 = 48 * 1024 * 1024;

/// How far over its bound a room that is being spoken in may grow before messages are deleted, in messages: one statement for many, not
/// one each. The rest goes with the next sweep.
const TRIM_SLACK: u64 = 64;

/// How many messages may be deleted for one that has been put in, at least: with one, rooms that have come to be over their bounds together
/// would stay so. For a long one as many as may have to go for it: none costs less than `ENTRY_BYTES`.
const PUT_IN_MIN: u64 = 2;

/// What one journal has for a transaction: whole frames, in order.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Which journal.
    pub ring: usize,
    /// The frames.
    pub frames: &'a [Vec<u8>],
    /// The position behind the last of them.
    pub end: u64,
}

/// Messages of a room that are no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trimmed {
    /// The room.
    pub room: u64,
    /// The journal that its records come by, if any have come.
    pub ring: Option<usize>,
    /// The first offset that is kept.
    pub first_kept: u64,
}

/// What is known of a room without asking the database.
#[derive(Debug, Clone, Copy)]
struct RoomFacts {
    offset: u64,
    timestamp_ms: u64,
    first: u64,
    bytes: u64,
    retention: Retention,
    ring: Option<usize>,
    /// Messages before this offset are too old.
    expired_before: u64,
    /// Whether its row is older than these facts.
    is_dirty: bool,
    /// Whether the transaction under way has changed them.
    is_touched: bool,
    is_queued: bool,
    has_ended: bool,
}

impl RoomFacts {
    fn new(retention: Retention) -> Self {
        RoomFacts {
            offset: 0,
            timestamp_ms: 0,
            first: 1,
            bytes: 0,
            retention,
            ring: None,
            expired_before: 0,
            is_dirty: false,
            is_touched: false,
            is_queued: false,
            has_ended: false,
        }
    }

    fn kept(&self) -> u64 {
        (self.offset + 1).saturating_sub(self.first)
    }

    /// What the messages cost, as histories in memory count it.
    fn cost(&self) -> u64 {
        self.bytes.saturating_add(self.kept().saturating_mul(ENTRY_BYTES as u64))
    }

    /// How many of the oldest messages are over the bounds, as far as can be told from the sums. Bytes are told by the average, which the
    /// next look corrects; age by the last sweep.
    fn excess(&self, slack: u64) -> u64 {
        let kept = self.kept();
        if self.has_ended {
            return kept;
        }
        let by_count = kept.saturating_sub(self.retention.count + slack);
        let over = match self.retention.bytes {
            0 => 0,
            most => self.cost().saturating_sub(most),
        };
        let by_bytes =
            if over > 0 && kept > 1 { (over.saturating_mul(kept) / self.cost().max(1)).max(1) } else { 0 };
        let by_age = self.expired_before.saturating_sub(self.first);
        by_count.max(by_bytes).max(by_age).min(kept)
    }
}

/// Commands of a session.
#[derive(Debug, Clone, Copy)]
struct Counted {
    since_ms: u64,
    commands: usize,
}

/// An open store, for its one writer.
#[derive(Debug)]
pub struct Engine {
    connection: Connection,
    rooms: HashMap<u64, RoomFacts>,
    /// Rooms whose rows are older than what is known of them. A row a room and commit would cost as much as the messages themselves, so
    /// it is written now and then; what is missing is found again from the messages.
    dirty: Vec<u64>,
    /// Facts as they were before the transaction under way.
    undo: Vec<(u64, Option<RoomFacts>)>,
    /// Rooms with messages to be deleted.
    to_trim: VecDeque<u64>,
    /// What has been put into rooms since they were trimmed, or by one group if there was nothing to trim, in rows to be deleted for it.
    put_in: u64,
    /// How many turns rooms have in one transaction: few after one has failed, so that a damaged room does not undo the work on all others
    /// again and again.
    turns_max: usize,
    /// Answers to commands that have been noted since some were forgotten.
    noted: usize,
    /// How many ids one session's commands are known by when the store is loaded: the newest.
    commands_max: usize,
    /// Commands of the transaction under way: the session and the time.
    commands: Vec<(u64, u64)>,
    /// How many commands each session has given since when.
    counted: HashMap<u64, Counted>,
    /// Sessions of which the answers from before a time are not needed any more.
    superseded: Vec<(u64, u64)>,
    /// Sessions that have ended, of which something is left: not long ago, and before.
    just_ended: Vec<u64>,
    ended: Vec<u64>,
    /// Rooms whose bounds have become narrower than what they keep, and by how many messages.
    narrowed: (u64, u64),
    /// The rooms that the sweep for old messages has not come to.
    to_sweep: Vec<u64>,
    syncs: bool,
    rejected: u64,
}

impl Engine {
    /// Opens a store for writing, makes it if it is missing, and brings it to this version.
    ///
    /// # Errors
    /// When it cannot be opened, or is none of ours.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        place::make_file(path)?;
        let connection = connect(path, true)?;
        Self::prepare(connection, true)
    }

    /// A store in memory, for the simulator and tests.
    pub fn in_memory() -> Self {
        let connection = Connection::open_in_memory().expect("a database in memory");
        configure(&connection).expect("settings of a database in memory");
        Self::prepare(connection, false).expect("a fresh database in memory")
    }

    /// The same store after the end of its process: only what was committed is known. For the simulator and tests.
    ///
    /// # Errors
    /// When the database fails.
    pub fn restarted(self) -> Result<Self, StoreError> {
        Self::prepare(self.connection, false)
    }

    fn prepare(mut connection: Connection, is_file: bool) -> Result<Self, StoreError> {
        schema::migrate(&mut connection)?;
        if is_file {
            let mode: String =
                connection.pragma_update_and_check(None, "journal_mode", "WAL", |r| r.get(0))?;
            if mode != "wal" {
                return Err(StoreError::new(format!("this file system allows no write-ahead log ({mode})")));
            }
            // Most is moved by another connection; but that does not get to the end of a log that is always written to.
            connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
            // When it begins anew it is cut, or it would stay as large as it ever was.
            connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
        }
        let mut engine = Engine {
            connection,
            rooms: HashMap::new(),
            dirty: Vec::new(),
            undo: Vec::new(),
            to_trim: VecDeque::new(),
            put_in: 0,
            turns_max: usize::MAX,
            noted: 0,
            commands_max: usize::MAX,
            commands: Vec::new(),
            counted: HashMap::new(),
            superseded: Vec::new(),
            just_ended: Vec::new(),
            narrowed: (0, 0),
            ended: Vec::new(),
            to_sweep: Vec::new(),
            syncs: true,
            rejected: 0,
        };
        engine.read_rooms()?;
        Ok(engine)
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// How many records could not be applied, because they contradict what is there: a fault of the program, which is logged.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Says how many ids of one session's commands have to be known: of a session that gives more, the oldest answers are forgotten.
    pub fn bound_commands(&mut self, commands_max: usize) {
        self.commands_max = commands_max;
    }

    /// Which journal the records of a room come by.
    pub fn assign(&mut self, room: u64, ring: usize) {
        if let Some(facts) = self.rooms.get_mut(&room) {
            facts.ring = Some(ring);
        }
    }

    /// Applies frames in one transaction, which also notes how far each journal has been applied: all of it holds, or nothing.
    /// With `syncs` it is on the disk when this returns, and all that was applied before.
    ///
    /// # Errors
    /// When the database fails. Nothing has been applied then, and the same frames may be tried again.
    pub fn apply(&mut self, parts: &[Part], syncs: bool) -> Result<(), StoreError> {
        if self.to_trim.is_empty() {
            self.put_in = 0;
        }
        self.set_syncs(syncs)?;
        self.begin()?;
        let applied = self.apply_all(parts).and_then(|()| {
            match syncs && parts.iter().all(|part| part.frames.is_empty()) {
                true => self.note_sync(),
                false => Ok(()),
            }
        });
        self.finish(applied)?;
        self.count_commands();
        Ok(())
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        debug_assert!(self.undo.is_empty());
        self.commands.clear(); // of one that has failed
        Ok(self.connection.execute_batch("BEGIN IMMEDIATE")?)
    }

    /// Commits, or takes everything back.
    fn finish<T>(&mut self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        let done = done.and_then(|value| Ok(self.connection.execute_batch("COMMIT").map(|()| value)?));
        if done.is_err() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK"); // what failed may have rolled it back already
        }
        for (room, before) in self.undo.drain(..).rev() {
            match (before, done.is_err()) {
                (Some(facts), true) => drop(self.rooms.insert(room, facts)),
                (None, true) => drop(self.rooms.remove(&room)),
                (_, false) => {
                    if let Some(facts) = self.rooms.get_mut(&room) {
                        facts.is_touched = false;
                    }
                }
            }
        }
        done
    }

    /// What is known of a room, to be changed in the transaction under way.
    fn touch(&mut self, room: u64) -> Option<&mut RoomFacts> {
        let facts = self.rooms.get_mut(&room)?;
        if !facts.is_touched {
            self.undo.push((room, Some(*facts)));
            facts.is_touched = true;
        }
        Some(facts)
    }

    fn set_syncs(&mut self, syncs: bool) -> Result<(), StoreError> {
        if self.syncs != syncs {
            self.connection.pragma_update(None, "synchronous", if syncs { "FULL" } else { "NORMAL" })?;
            self.syncs = syncs;
        }
        Ok(())
    }

    fn apply_all(&mut self, parts: &[Part]) -> Result<(), StoreError> {
        for part in parts {
            for frame in part.frames {
                for record in Frame::records(frame) {
                    match record {
                        Ok(record) => self.apply_one(part.ring, &record)?,
                        Err(error) => {
                            self.rejected += 1;
                            log::error!("store: journal {}: {error}", part.ring);
                        }
                    }
                }
            }
            let mut statement = self.connection.prepare_cached(
                "INSERT INTO journals (ring, position) VALUES (?1, ?2)
                 ON CONFLICT (ring) DO UPDATE SET position = excluded.position",
            )?;
            statement.execute(params![part.ring as i64, part.end as i64])?;
        }
        Ok(())
    }

    /// Changes something: SQLite neither writes nor syncs where a row comes to what it was.
    fn note_sync(&mut self) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO meta (key, value) VALUES ('syncs', '1')
             ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
        )?;
        statement.execute([])?;
        Ok(())
    }

    fn apply_one(&mut self, ring: usize, record: &Record) -> Result<(), StoreError> {
        match self.apply_record(ring, record) {
            Err(StoreError { code: Some(ErrorCode::ConstraintViolation), message }) => {
                self.rejected += 1;
                // Not the record itself: it may have what somebody has said, or a password's hash.
                log::error!("store: a record ({}) contradicts what is there: {message}", record.kind());
                Ok(())
            }
            other => other,
        }
    }

    fn apply_record(&mut self, ring: usize, record: &Record) -> Result<(), StoreError> {
        let db = &self.connection;
        match *record {
            Record::Room { room, name, epoch, retention } => {
                self.put_room(ring, room, name, epoch, retention)?
            }
            Record::RoomEnded { room } => {
                db.prepare_cached("UPDATE rooms SET folded = NULL WHERE id = ?1")?.execute([room as i64])?;
                if let Some(facts) = self.touch(room) {
                    facts.has_ended = true;
                    self.queue(room);
                }
            }
            Record::Message { room, offset, timestamp_ms, sender, content, command } => {
                self.put_message(ring, room, offset, timestamp_ms, sender, content, command)?;
            }
            Record::State { room, key, value: Some(value), version } => {
                db.prepare_cached(
                    "INSERT INTO state (room, key, value, version) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (room, key) DO UPDATE SET value = excluded.value, version = excluded.version",
                )?
                .execute(params![room as i64, key, value, version as i64])?;
                self.note_version(room, version)?;
            }
            Record::State { room, key, value: None, version } => {
                db.prepare_cached("DELETE FROM state WHERE room = ?1 AND key = ?2")?
                    .execute(params![room as i64, key])?;
                self.note_version(room, version)?;
            }
            Record::Rules { room, rules } => {
                db.prepare_cached("UPDATE rooms SET rules = ?2 WHERE id = ?1")?
                    .execute(params![room as i64, rules])?;
            }
            Record::Session { number, revision, body } => {
                db.prepare_cached(
                    "INSERT INTO sessions (number, revision, body) VALUES (?1, ?2, ?3)
                     ON CONFLICT (number) DO UPDATE SET revision = excluded.revision, body = excluded.body
                     WHERE excluded.revision > revision",
                )?
                .execute(params![number as i64, revision as i64, body])?;
            }
            Record::SessionEnded { number, revision } => {
                db.prepare_cached(
                    "INSERT INTO sessions (number, revision, body) VALUES (?1, ?2, NULL)
                     ON CONFLICT (number) DO UPDATE SET revision = excluded.revision, body = NULL
                     WHERE excluded.revision > revision",
                )?
                .execute(params![number as i64, revision as i64])?;
                self.forget_of_session(number)?;
                self.just_ended.push(number);
            }
            Record::Receipt { session, id, timestamp_ms, target, delivered, stored } => {
                db.prepare_cached(
                    "INSERT INTO receipts (session, command, timestamp, target, delivered, stored)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (session, command) DO UPDATE SET timestamp = excluded.timestamp,
                         target = excluded.target, delivered = excluded.delivered, stored = excluded.stored",
                )?
                .execute(params![
                    session as i64,
                    id,
                    timestamp_ms as i64,
                    target,
                    delivered as i64,
                    stored
                ])?;
                self.noted += 1;
                self.commands.push((session, timestamp_ms));
            }
            Record::Kept { owner, offset, sender, target, content, timestamp_ms } => {
                let inbox = self.inbox(owner, offset)?;
                let session = owner.one_session();
                // What a session kept on one core may come after what it received on the next. A user's inbox has one core.
                db.prepare_cached(
                    "INSERT OR REPLACE INTO inbox (inbox, offset, timestamp, sender, target, content, session)
                     SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 FROM inboxes WHERE id = ?1 AND received < ?2",
                )?
                .execute(params![
                    inbox,
                    offset as i64,
                    timestamp_ms as i64,
                    sender,
                    target,
                    content,
                    session
                ])?;
            }
            Record::Received { owner, through } => {
                let inbox = self.inbox(owner, 0)?;
                let place = params![inbox, through.min(i64::MAX as u64) as i64, owner.one_session()];
                db.prepare_cached(
                    "UPDATE inboxes SET received = max(received, ?2) WHERE id = ?1 AND ?3 IS NULL",
                )?
                .execute(place)?;
                db.prepare_cached(
                    "DELETE FROM inbox WHERE inbox = ?1 AND offset <= ?2 AND (session IS NULL OR session IS ?3)",
                )?
                .execute(place)?;
            }
        }
        Ok(())
    }

    fn put_room(
        &mut self,
        ring: usize,
        room: u64,
        name: &str,
        epoch: &str,
        retention: Retention,
    ) -> Result<(), StoreError> {
        let folded = crate::chat::name::fold(name);
        self.connection
            .prepare_cached(
                "INSERT INTO rooms (id, name, folded, epoch, keep_count, keep_bytes, keep_age_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, keep_count = excluded.keep_count,
                     keep_bytes = excluded.keep_bytes, keep_age_ms = excluded.keep_age_ms",
            )?
            .execute(params![
                room as i64,
                name,
                &*folded,
                epoch,
                retention.count as i64,
                retention.bytes as i64,
                retention.age_ms as i64
            ])?;
        if !self.rooms.contains_key(&room) {
            self.undo.push((room, None));
            self.rooms.insert(room, RoomFacts::new(retention));
        }
        let facts = self.touch(room).expect("put in above");
        let before = facts.excess(0);
        (facts.retention, facts.ring) = (retention, Some(ring));
        let (over, is_much) = (facts.excess(0), facts.excess(TRIM_SLACK) > 0);
        if over > before {
            self.narrowed.0 += 1;
            self.narrowed.1 += over - before;
        }
        if is_much {
            self.queue(room);
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn put_message(
        &mut self,
        ring: usize,
        room: u64,
        offset: u64,
        timestamp_ms: u64,
        sender: &str,
        content: &str,
        command: Option<CommandKey>,
    ) -> Result<(), StoreError> {
        let is_kept = self.rooms.get(&room).is_none_or(|facts| facts.retention.count > 0);
        if is_kept {
            self.connection
                .prepare_cached(
                    "INSERT INTO messages (room, offset, timestamp, sender, content, session, command)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    room as i64,
                    offset as i64,
                    timestamp_ms as i64,
                    sender,
                    content,
                    command.map(|c| c.session as i64),
                    command.map(|c| c.id)
                ])?;
        }
        if let (false, Some(CommandKey { session, id })) = (is_kept, command) {
            self.connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO places (session, command, sender, room, name, epoch, offset, timestamp)
                     SELECT ?1, ?2, ?3, id, name, epoch, ?5, ?6 FROM rooms WHERE id = ?4",
                )?
                .execute(params![
                    session as i64,
                    id,
                    sender,
                    room as i64,
                    offset as i64,
                    timestamp_ms as i64
                ])?;
            self.noted += 1;
        }
        self.commands.extend(command.map(|command| (command.session, timestamp_ms)));
        let Some(facts) = self.touch(room) else { return Ok(()) };
        (facts.offset, facts.timestamp_ms, facts.ring) = (offset, timestamp_ms, Some(ring));
        if is_kept {
            facts.bytes += content.len() as u64;
        } else {
            facts.first = offset + 1;
        }
        let (is_over, was_dirty) =
            (facts.excess(TRIM_SLACK) > 0, std::mem::replace(&mut facts.is_dirty, true));
        if is_over {
            self.queue(room);
        }
        if is_kept {
            self.put_in += PUT_IN_MIN.max((ENTRY_BYTES + content.len()).div_ceil(ENTRY_BYTES) as u64);
        } else {
            return self.write_row(room); // no message tells where the room was
        }
        if !was_dirty {
            self.dirty.push(room);
        }
        Ok(())
    }

    fn note_version(&self, room: u64, version: u64) -> Result<(), StoreError> {
        self.connection
            .prepare_cached("UPDATE rooms SET state_version = ?2 WHERE id = ?1")?
            .execute(params![room as i64, version as i64])?;
        Ok(())
    }

    /// The key of somebody's inbox, which is made if it is missing; its last place is at least `offset`. None of a user who has been removed:
    /// whoever registers under the name next must not get it.
    fn inbox(&self, owner: Owner, offset: u64) -> Result<Option<i64>, StoreError> {
        let (session, user, sql) = match owner {
            Owner::Session(number) => (
                Some(number as i64),
                None,
                "INSERT INTO inboxes (session, user, last) VALUES (?1, ?2, ?3)
                 ON CONFLICT (session) DO UPDATE SET last = max(last, excluded.last) RETURNING id",
            ),
            Owner::User(folded) | Owner::SessionOf { user: folded, .. } => (
                None,
                Some(folded),
                "INSERT INTO inboxes (session, user, last) SELECT ?1, folded, ?3 FROM users WHERE folded = ?2
                 ON CONFLICT (user) DO UPDATE SET last = max(last, excluded.last) RETURNING id",
            ),
        };
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row(params![session, user, offset as i64], |row| row.get(0)).optional()?)
    }

    /// Brings the rows of up to `rooms_max` rooms up to date.
    ///
    /// # Errors
    /// When the database fails.
    pub fn flush_rooms(&mut self, rooms_max: usize) -> Result<(), StoreError> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let dirty = self.dirty.split_off(self.dirty.len().saturating_sub(rooms_max));
        let written = dirty.iter().try_for_each(|room| self.write_row(*room));
        let finished = self.finish(written);
        if finished.is_err() {
            self.dirty.extend(dirty);
        }
        finished
    }

    /// Writes what is known of a room into its row.
    fn write_row(&mut self, room: u64) -> Result<(), StoreError> {
        let Some(facts) = self.touch(room) else { return Ok(()) };
        facts.is_dirty = false;
        let facts = *facts;
        self.connection
            .prepare_cached(
                "UPDATE rooms SET offset = ?2, timestamp = ?3, first = ?4, bytes = ?5 WHERE id = ?1",
            )?
            .execute(params![
                room as i64,
                facts.offset as i64,
                facts.timestamp_ms as i64,
                facts.first as i64,
                facts.bytes as i64
            ])?;
        Ok(())
    }

    /// Reads what is known of rooms: their rows, and what messages have come since these were written.
    fn read_rooms(&mut self) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT id, offset, timestamp, first, bytes, keep_count, keep_bytes, keep_age_ms, folded IS NULL FROM rooms",
        )?;
        let mut later = self.connection.prepare(
            "SELECT max(offset), max(timestamp), sum(octet_length(content)) FROM messages WHERE room = ?1 AND offset > ?2",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let number = |column| super::number(row.get(column)?, column);
            let retention = Retention { count: number(5)?, bytes: number(6)?, age_ms: number(7)? };
            let mut facts = RoomFacts {
                offset: number(1)?,
                timestamp_ms: number(2)?,
                first: number(3)?,
                bytes: number(4)?,
                has_ended: row.get(8)?,
                ..RoomFacts::new(retention)
            };
            let room = number(0)?;
            let found = later.query_row(params![room as i64, facts.offset as i64], |row| {
                let number =
                    |column| row.get::<_, Option<i64>>(column)?.map(|n| super::number(n, column)).transpose();
                Ok((number(0)?, number(1)?, number(2)?))
            })?;
            if let (Some(offset), Some(timestamp_ms), Some(bytes)) = found {
                (facts.offset, facts.timestamp_ms) = (offset, timestamp_ms);
                facts.bytes += bytes;
                facts.is_dirty = true;
                self.dirty.push(room);
            }
            if facts.has_ended || facts.excess(TRIM_SLACK) > 0 {
                facts.is_queued = true;
                self.to_trim.push_back(room);
            }
            self.rooms.insert(room, facts);
        }
        drop(rows);
        drop((statement, later));
        self.flush_rooms(usize::MAX)
    }

    /// The numbers of rooms that it knows.
    pub fn room_numbers(&self) -> HashSet<u64> {
        self.rooms.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests;
