//! What is deleted: messages over their rooms' bounds, sessions that have ended, and pages that are no longer used.

use rusqlite::{OptionalExtension as _, params};

use super::{Engine, RoomFacts, Trimmed};
use crate::store::StoreError;

/// Sessions and answers of each kind that are forgotten in one step.
const FORGET_ROWS: usize = 1000;

impl Engine {
    /// How many rooms have got bounds since this was last asked that are narrower than what they keep, and by how many messages.
    pub fn take_narrowed(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.narrowed)
    }

    /// Whether there are messages to be deleted.
    pub fn has_to_trim(&self) -> bool {
        !self.to_trim.is_empty()
    }

    /// Deletes up to `rows_max` messages that are over the bounds of one room, in a transaction of its own, and says what of the room is
    /// left. A small step, so that the writer never stalls. Where messages since `receipts_since_ms` were, is kept, for commands that come
    /// again.
    ///
    /// # Errors
    /// When the database fails.
    pub fn trim(&mut self, rows_max: u64, receipts_since_ms: u64) -> Result<Option<Trimmed>, StoreError> {
        let Some(&room) = self.to_trim.front() else { return Ok(None) };
        let Some(facts) = self.rooms.get(&room).copied() else {
            self.to_trim.pop_front();
            return Ok(None);
        };
        let rows = facts.excess(0).min(rows_max);
        if rows == 0 && !facts.has_ended {
            self.unqueue(room); // what made it too much was taken back
            return Ok(None);
        }
        self.set_syncs(false)?;
        self.begin()?;
        let deleted = self.delete_before(room, facts.first + rows, receipts_since_ms);
        let left = self.finish(deleted)?;
        if left.excess(0) > 0 {
            self.to_trim.rotate_left(1); // rooms take turns
        } else {
            self.unqueue(room);
        }
        if left.has_ended && left.kept() == 0 {
            self.rooms.remove(&room);
        }
        Ok(Some(Trimmed { room, ring: left.ring, first_kept: left.first }))
    }

    fn unqueue(&mut self, room: u64) {
        self.to_trim.pop_front();
        if let Some(facts) = self.rooms.get_mut(&room) {
            facts.is_queued = false;
        }
    }

    /// Deletes the messages of a room that come before one, and the room with the last of them if it has ended.
    fn delete_before(
        &mut self,
        room: u64,
        first: u64,
        receipts_since_ms: u64,
    ) -> Result<RoomFacts, StoreError> {
        let db = &self.connection;
        let place = params![room as i64, first as i64];
        let bytes: i64 = db
            .prepare_cached(
                "SELECT coalesce(sum(octet_length(content)), 0) FROM messages WHERE room = ?1 AND offset < ?2",
            )?
            .query_row(place, |row| row.get(0))?;
        db.prepare_cached(
            "INSERT OR REPLACE INTO places (session, command, sender, room, name, epoch, offset, timestamp)
             SELECT m.session, m.command, m.sender, r.id, r.name, r.epoch, m.offset, m.timestamp
             FROM messages m JOIN rooms r ON r.id = m.room
             WHERE m.room = ?1 AND m.offset < ?2 AND m.command IS NOT NULL AND m.timestamp >= ?3",
        )?
        .execute(params![room as i64, first as i64, receipts_since_ms as i64])?;
        db.prepare_cached("DELETE FROM messages WHERE room = ?1 AND offset < ?2")?.execute(place)?;
        let facts = self.touch(room).expect("the caller has looked at it");
        facts.bytes = facts.bytes.saturating_sub(bytes as u64);
        facts.first = first;
        let left = *facts;
        if left.has_ended && left.kept() == 0 {
            self.connection.prepare_cached("DELETE FROM rooms WHERE id = ?1")?.execute([room as i64])?;
        } else {
            self.write_row(room)?;
        }
        Ok(left)
    }

    /// Looks at up to `rooms_max` rooms for messages that are too old or too many, which are queued for [`Engine::trim`], and says whether
    /// all rooms have been looked at.
    ///
    /// # Errors
    /// When the database fails.
    pub fn sweep(&mut self, now_ms: u64, rooms_max: usize) -> Result<bool, StoreError> {
        if self.to_sweep.is_empty() {
            let may_be_over = |facts: &RoomFacts| facts.retention.age_ms > 0 || facts.excess(0) > 0;
            self.to_sweep = self.rooms.iter().filter(|(_, f)| may_be_over(f)).map(|(id, _)| *id).collect();
        }
        for _ in 0..rooms_max {
            let Some(room) = self.to_sweep.pop() else { break };
            let Some(facts) = self.rooms.get(&room).filter(|facts| facts.kept() > 0) else { continue };
            if facts.excess(0) > 0 {
                self.queue(room);
                continue;
            }
            let cutoff = now_ms.saturating_sub(facts.retention.age_ms);
            // Times in a room never decrease, and offsets have no gaps.
            let first: Option<i64> = self
                .connection
                .prepare_cached(
                    "SELECT offset FROM messages WHERE room = ?1 AND timestamp > ?2 AND offset >= ?3 ORDER BY offset LIMIT 1",
                )?
                .query_row(params![room as i64, cutoff as i64, facts.first as i64], |row| row.get(0))
                .optional()?;
            let first = first.map_or(facts.offset + 1, |offset| offset as u64);
            if first > facts.first {
                self.rooms.get_mut(&room).expect("looked at above").expired_before = first;
                self.queue(room);
            }
        }
        Ok(self.to_sweep.is_empty())
    }

    /// Forgets sessions that have ended, and what commands were answered before `cutoff_ms`: some of each, in one transaction. Says whether
    /// that was all.
    ///
    /// What is left of a session waits for [`Engine::end_pass`]: until then its records may still come from cores where it was before.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget(&mut self, cutoff_ms: u64) -> Result<bool, StoreError> {
        let sessions = self.ended.len().min(FORGET_ROWS);
        self.set_syncs(false)?;
        self.begin()?;
        let forgotten = self.forget_some(sessions, cutoff_ms);
        let answers = self.finish(forgotten)?;
        self.ended.drain(..sessions);
        Ok(self.ended.is_empty() && answers == 0)
    }

    /// A round of what is done once in a while is over: sessions that have ended since the last one can be forgotten in the next.
    pub fn end_pass(&mut self) {
        self.ended.append(&mut self.just_ended);
    }

    /// Deletes what belongs to a session that has ended.
    pub(super) fn forget_of_session(&self, number: u64) -> Result<(), StoreError> {
        for sql in [
            "DELETE FROM inboxes WHERE session = ?1",
            "DELETE FROM inbox WHERE session = ?1",
            "DELETE FROM receipts WHERE session = ?1",
            "DELETE FROM places WHERE session = ?1",
        ] {
            self.connection.prepare_cached(sql)?.execute([number as i64])?;
        }
        Ok(())
    }

    fn forget_some(&self, sessions: usize, cutoff_ms: u64) -> Result<usize, StoreError> {
        let db = &self.connection;
        for number in &self.ended[..sessions] {
            self.forget_of_session(*number)?;
            db.prepare_cached("DELETE FROM sessions WHERE number = ?1 AND body IS NULL")?
                .execute([*number as i64])?;
        }
        let cutoff = params![cutoff_ms as i64, FORGET_ROWS as i64];
        let receipts = db
            .prepare_cached(
                "DELETE FROM receipts WHERE (session, command) IN
                     (SELECT session, command FROM receipts WHERE timestamp < ?1 LIMIT ?2)",
            )?
            .execute(cutoff)?;
        let places = db
            .prepare_cached(
                "DELETE FROM places WHERE (session, command, sender, room) IN
                     (SELECT session, command, sender, room FROM places WHERE timestamp < ?1 LIMIT ?2)",
            )?
            .execute(cutoff)?;
        Ok(receipts + places)
    }

    /// Gives up to `pages` unused pages back to the file system; some are kept, for what comes next.
    ///
    /// # Errors
    /// When the database fails.
    pub fn shrink(&mut self, pages: u32) -> Result<(), StoreError> {
        let db = &self.connection;
        let free: i64 = db.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        let all: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0))?;
        if free > all / 4 && free > 1024 {
            let mut steps = db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
            let mut rows = steps.query([])?;
            while rows.next()?.is_some() {} // each gives back a page
            // The file itself becomes shorter when the log is moved into it.
            db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        }
        Ok(())
    }

    pub(super) fn queue(&mut self, room: u64) {
        if let Some(facts) = self.rooms.get_mut(&room)
            && !std::mem::replace(&mut facts.is_queued, true)
        {
            self.to_trim.push_back(room);
        }
    }
}
