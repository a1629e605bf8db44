//! What is deleted: messages over their rooms' bounds, sessions that have ended, and pages that are no longer used.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, params};

use super::{Counted, Engine, RoomFacts, Trimmed};
use crate::store::StoreError;

/// Messages of one room that are deleted before it is the next one's turn.
const TURN_ROWS: u64 = 512;

/// Sessions and answers of each kind that are forgotten in one step; of answers, as many more as have been noted since the last one.
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

    /// Deletes messages that are over the bounds of their rooms, in one transaction: up to `rows_max`, and as many more as make up for what
    /// has been put in. So what is over does not grow, however much is written. Says what is left of each of these
    /// rooms. Where messages since `receipts_since_ms` were, is kept, for commands that come again.
    ///
    /// # Errors
    /// When the database fails. Nothing has been deleted then; the room that could not be read is the last to be tried again.
    pub fn trim(&mut self, rows_max: u64, receipts_since_ms: u64) -> Result<Vec<Trimmed>, StoreError> {
        let mut left = rows_max.saturating_add(self.put_in);
        let mut trimmed = BTreeMap::new(); // the same order each time: the simulator is to see the same
        let mut emptied = Vec::new();
        let noted_before = self.noted;
        self.set_syncs(false)?;
        self.begin()?;
        let deleted = self.trim_queued(&mut left, receipts_since_ms, &mut trimmed, &mut emptied);
        if deleted.is_err() && !self.to_trim.is_empty() {
            self.to_trim.rotate_left(1);
        }
        if let Err(error) = self.finish(deleted) {
            self.to_trim.extend(emptied);
            self.noted = noted_before;
            self.turns_max = 1;
            return Err(error);
        }
        self.turns_max = self.turns_max.saturating_mul(2);
        self.put_in = if self.to_trim.is_empty() { 0 } else { left.saturating_sub(rows_max) };
        for room in &emptied {
            match self.rooms.get_mut(room) {
                Some(facts) if facts.has_ended && facts.kept() == 0 => drop(self.rooms.remove(room)),
                Some(facts) => facts.is_queued = false,
                None => {}
            }
        }
        Ok(trimmed.into_values().collect())
    }

    /// The rooms take turns until nothing or nobody is left.
    fn trim_queued(
        &mut self,
        left: &mut u64,
        receipts_since_ms: u64,
        trimmed: &mut BTreeMap<u64, Trimmed>,
        emptied: &mut Vec<u64>,
    ) -> Result<(), StoreError> {
        for _ in 0..self.turns_max {
            let Some(&room) = self.to_trim.front().filter(|_| *left > 0) else { break };
            let facts = self.rooms.get(&room).copied();
            let rows = facts.map_or(0, |facts| facts.excess(0)).min(TURN_ROWS).min(*left);
            let has_ended = facts.is_some_and(|facts| facts.has_ended);
            if let Some(facts) = facts.filter(|_| rows > 0 || has_ended) {
                let after = self.delete_before(room, facts.first + rows, receipts_since_ms)?;
                *left -= rows;
                trimmed.insert(room, Trimmed { room, ring: after.ring, first_kept: after.first });
                if after.excess(0) > 0 {
                    self.to_trim.rotate_left(1);
                    continue;
                }
            }
            // It has been trimmed, or what made it too much was taken back.
            self.to_trim.pop_front();
            emptied.push(room);
        }
        Ok(())
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
        let noted = db.prepare_cached(
            "INSERT OR REPLACE INTO places (session, command, sender, room, name, epoch, offset, timestamp)
             SELECT m.session, m.command, m.sender, r.id, r.name, r.epoch, m.offset, m.timestamp
             FROM messages m JOIN rooms r ON r.id = m.room
             WHERE m.room = ?1 AND m.offset < ?2 AND m.command IS NOT NULL AND m.timestamp >= ?3",
        )?
        .execute(params![room as i64, first as i64, receipts_since_ms as i64])?;
        self.noted += noted;
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

    /// Counts the commands of a transaction that has been committed. What programs push belongs to no session (0): it is bounded by time alone.
    pub(super) fn count_commands(&mut self) {
        for (session, at_ms) in self.commands.drain(..).filter(|(session, _)| *session != 0) {
            let first = Counted { since_ms: at_ms, commands: 0 };
            let counted = self.counted.entry(session).or_insert(first);
            counted.commands += 1;
            if counted.commands > self.commands_max {
                self.superseded.push((session, counted.since_ms));
                *counted = first;
            }
        }
    }

    /// Whether so many answers have been noted that some should be forgotten at once, so that they do not become more and more.
    pub fn has_noted_many(&self) -> bool {
        self.noted >= FORGET_ROWS
    }

    /// Forgets sessions that have ended, and what commands were answered before `cutoff_ms`: some of each, and at least as many answers as
    /// have been noted since the last time, in one transaction. Says whether that was all.
    ///
    /// What is left of a session waits for [`Engine::end_pass`]: until then its records may still come from cores where it was before.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget(&mut self, cutoff_ms: u64) -> Result<bool, StoreError> {
        let sessions = self.ended.len().min(FORGET_ROWS);
        let answers_max = FORGET_ROWS + self.noted;
        self.set_syncs(false)?;
        self.begin()?;
        let forgotten = self.forget_some(sessions, answers_max, cutoff_ms);
        let has_more = self.finish(forgotten)?;
        self.noted = 0;
        self.superseded.clear();
        for number in self.ended.drain(..sessions) {
            self.counted.remove(&number);
        }
        Ok(self.ended.is_empty() && !has_more)
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

    /// Says whether there may be more answers to be forgotten.
    fn forget_some(&self, sessions: usize, answers_max: usize, cutoff_ms: u64) -> Result<bool, StoreError> {
        let db = &self.connection;
        for number in &self.ended[..sessions] {
            self.forget_of_session(*number)?;
            db.prepare_cached("DELETE FROM sessions WHERE number = ?1 AND body IS NULL")?
                .execute([*number as i64])?;
        }
        for (session, before_ms) in &self.superseded {
            for sql in [
                "DELETE FROM receipts WHERE session = ?1 AND +timestamp < ?2",
                "DELETE FROM places WHERE session = ?1 AND +timestamp < ?2",
            ] {
                db.prepare_cached(sql)?.execute([*session as i64, *before_ms as i64])?;
            }
        }
        let cutoff = params![cutoff_ms as i64, answers_max as i64];
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
        Ok(receipts.max(places) == answers_max)
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
