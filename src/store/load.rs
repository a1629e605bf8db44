//! What a server begins with: rooms, sessions, users; and the facts that the store keeps about itself.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::StoreError;
use super::engine::Engine;
use crate::chat::name::{Nickname, RoomName};
use crate::record::{
    AccountState, KeptPrivate, Restored, RestoredInbox, RestoredReceipt, RestoredRoom, RestoredSession,
    RestoredState, RestoredUser, Retention, SessionBody, WaitingPrivate,
};

/// A fact that the store keeps about itself.
///
/// # Errors
/// When the database fails.
pub fn meta(connection: &Connection, key: &str) -> Result<Option<String>, StoreError> {
    let found = connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0));
    Ok(found.optional()?)
}

/// Sets one.
///
/// # Errors
/// When the database fails.
pub fn set_meta(connection: &Connection, key: &str, value: &str) -> Result<(), StoreError> {
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [key, value])?;
    Ok(())
}

/// How far each journal has been applied.
///
/// # Errors
/// When the database fails.
pub fn positions(connection: &Connection) -> Result<HashMap<usize, u64>, StoreError> {
    let mut statement = connection.prepare("SELECT ring, position FROM journals")?;
    let rows =
        statement.query_map([], |row| Ok((row.get::<_, i64>(0)? as usize, row.get::<_, i64>(1)? as u64)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Everything but the messages. `receipts_since_ms`: answers to commands before that are not wanted, nor more than
/// `receipts_max` of one session.
///
/// # Errors
/// When the database fails.
pub fn load(
    engine: &mut Engine,
    receipts_since_ms: u64,
    receipts_max: usize,
) -> Result<Restored, StoreError> {
    engine.flush_rooms(usize::MAX)?;
    read(engine.connection(), receipts_since_ms, receipts_max)
}

/// The same, of any connection: rooms are as far as their rows have been brought up to date.
///
/// # Errors
/// When the database fails.
pub fn read(db: &Connection, receipts_since_ms: u64, receipts_max: usize) -> Result<Restored, StoreError> {
    let mut restored = Restored { rooms: rooms(db)?, users: users(db)?, ..Restored::default() };
    let mut sessions = sessions(db)?;
    let mut receipts = receipts(db, receipts_since_ms)?;
    for session in &mut sessions {
        let mut own = receipts.remove(&session.number).unwrap_or_default();
        own.drain(..own.len().saturating_sub(receipts_max));
        session.receipts = own;
    }
    restored.pushed = receipts.remove(&0).unwrap_or_default();
    restored.sessions = sessions;
    restored.ended_rooms = ended_rooms(db)?;
    Ok(restored)
}

/// Rooms that have ended, of which there are still receipts.
fn ended_rooms(db: &Connection) -> Result<Vec<(u64, RoomName, Arc<str>)>, StoreError> {
    let mut statement = db.prepare(
        "SELECT DISTINCT room, name, epoch FROM places
         WHERE room NOT IN (SELECT id FROM rooms WHERE folded IS NOT NULL)",
    )?;
    let mut rows = statement.query([])?;
    let mut ended = Vec::new();
    while let Some(row) = rows.next()? {
        let Ok(name) = RoomName::parse(&row.get::<_, String>(1)?) else { continue };
        ended.push((row.get::<_, i64>(0)? as u64, name, row.get::<_, String>(2)?.into()));
    }
    Ok(ended)
}

fn rooms(db: &Connection) -> Result<Vec<RestoredRoom>, StoreError> {
    let mut states: HashMap<u64, Vec<RestoredState>> = HashMap::new();
    let mut statement = db.prepare("SELECT room, key, value, version FROM state ORDER BY room, key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let state = RestoredState {
            key: row.get(1)?,
            value: row.get::<_, String>(2)?.into(),
            version: row.get::<_, i64>(3)? as u64,
        };
        states.entry(row.get::<_, i64>(0)? as u64).or_default().push(state);
    }
    let mut statement = db.prepare(
        "SELECT id, name, epoch, offset, timestamp, first, keep_count, keep_bytes, keep_age_ms, rules, state_version
         FROM rooms WHERE folded IS NOT NULL ORDER BY folded",
    )?;
    let mut rows = statement.query([])?;
    let mut rooms = Vec::new();
    while let Some(row) = rows.next()? {
        let number = |column| super::number(row.get(column)?, column);
        let written: String = row.get(1)?;
        let Ok(name) = RoomName::parse(&written) else {
            log::error!(
                "store: room {written:?} has a name that this version does not allow; it is left out"
            );
            continue;
        };
        let id = number(0)?;
        rooms.push(RestoredRoom {
            number: id,
            name,
            epoch: row.get::<_, String>(2)?.into(),
            offset: number(3)?,
            timestamp_ms: number(4)?,
            first_kept: number(5)?,
            retention: Retention { count: number(6)?, bytes: number(7)?, age_ms: number(8)? },
            rules: row.get(9)?,
            state_version: number(10)?,
            state: states.remove(&id).unwrap_or_default(),
        });
    }
    Ok(rooms)
}

fn sessions(db: &Connection) -> Result<Vec<RestoredSession>, StoreError> {
    let mut statement =
        db.prepare("SELECT number, revision, body FROM sessions WHERE body IS NOT NULL ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut sessions = Vec::new();
    while let Some(row) = rows.next()? {
        let number = row.get::<_, i64>(0)? as u64;
        let body: String = row.get(2)?;
        let body: SessionBody = match serde_json::from_str(&body) {
            Ok(body) => body,
            Err(error) => {
                log::error!("store: session {number:016x} cannot be read ({error}); it is left out");
                continue;
            }
        };
        let revision = row.get::<_, i64>(1)? as u64;
        let inbox = RestoredInbox::default();
        sessions.push(RestoredSession { number, revision, body, inbox, receipts: Vec::new() });
    }
    let mut statement = db.prepare("SELECT id, last FROM inboxes WHERE session = ?1")?;
    for session in &mut sessions {
        let found = statement
            .query_row([session.number as i64], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        if let Some((inbox, last)) = found {
            session.inbox = RestoredInbox { last_offset: last as u64, items: items(db, inbox)? };
        }
    }
    Ok(sessions)
}

/// What is in an inbox, in order.
pub(super) fn items(db: &Connection, inbox: i64) -> Result<Vec<KeptPrivate>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT offset, timestamp, sender, target, content FROM inbox WHERE inbox = ?1 ORDER BY offset",
    )?;
    let mut rows = statement.query([inbox])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        let (sender, target): (String, String) = (row.get(2)?, row.get(3)?);
        let (Ok(sender), Ok(target)) = (Nickname::parse(&sender), Nickname::parse(&target)) else { continue };
        items.push(KeptPrivate {
            offset: row.get::<_, i64>(0)? as u64,
            sender,
            target,
            content: Arc::from(row.get::<_, String>(4)?),
            timestamp_ms: row.get::<_, i64>(1)? as u64,
        });
    }
    Ok(items)
}

/// What commands were answered lately, by session.
fn receipts(db: &Connection, since_ms: u64) -> Result<HashMap<u64, Vec<RestoredReceipt>>, StoreError> {
    let mut found: HashMap<u64, Vec<(u64, RestoredReceipt)>> = HashMap::new();
    // Messages lie in the order in which they came: the recent ones are at the end.
    let mut statement = db.prepare(
        "SELECT session, command, sender, room, offset, timestamp FROM messages ORDER BY rowid DESC",
    )?;
    let mut rows = statement.query([])?;
    // Journals of several cores are applied one after the other, so that times are not quite in order.
    let margin_ms = 60_000;
    while let Some(row) = rows.next()? {
        let timestamp_ms = row.get::<_, i64>(5)? as u64;
        if timestamp_ms.saturating_add(margin_ms) < since_ms {
            break;
        }
        let (Some(session), Some(id)) = (row.get::<_, Option<i64>>(0)?, row.get::<_, Option<Box<str>>>(1)?)
        else {
            continue;
        };
        let Ok(sender) = Nickname::parse(&row.get::<_, String>(2)?) else { continue };
        if timestamp_ms >= since_ms {
            let (room, offset) = (row.get::<_, i64>(3)? as u64, row.get::<_, i64>(4)? as u64);
            let receipt = RestoredReceipt::Published { id, sender, room, offset, timestamp_ms };
            found.entry(session as u64).or_default().push((timestamp_ms, receipt));
        }
    }
    let mut statement = db.prepare(
        "SELECT session, command, sender, room, offset, timestamp FROM places WHERE timestamp >= ?1",
    )?;
    let mut rows = statement.query([since_ms as i64])?;
    while let Some(row) = rows.next()? {
        let Ok(sender) = Nickname::parse(&row.get::<_, String>(2)?) else { continue };
        let number = |column| row.get::<_, i64>(column).map(|n| n as u64);
        let (id, room, offset, timestamp_ms) = (row.get(1)?, number(3)?, number(4)?, number(5)?);
        let receipt = RestoredReceipt::Published { id, sender, room, offset, timestamp_ms };
        found.entry(number(0)?).or_default().push((timestamp_ms, receipt));
    }
    let mut statement = db.prepare(
        "SELECT session, command, target, delivered, stored, timestamp FROM receipts WHERE timestamp >= ?1",
    )?;
    let mut rows = statement.query([since_ms as i64])?;
    while let Some(row) = rows.next()? {
        let Ok(target) = Nickname::parse(&row.get::<_, String>(2)?) else { continue };
        let (delivered, timestamp_ms) = (row.get::<_, i64>(3)? as u64, row.get::<_, i64>(5)? as u64);
        let stored = row.get(4)?;
        let receipt = RestoredReceipt::Delivered { id: row.get(1)?, target, delivered, stored, timestamp_ms };
        found.entry(row.get::<_, i64>(0)? as u64).or_default().push((timestamp_ms, receipt));
    }
    let sorted = found.into_iter().map(|(session, mut receipts)| {
        receipts.sort_by_key(|(timestamp_ms, receipt)| {
            (*timestamp_ms, if let RestoredReceipt::Published { offset, .. } = receipt { *offset } else { 0 })
        });
        (session, receipts.into_iter().map(|(_, receipt)| receipt).collect())
    });
    Ok(sorted.collect())
}

/// The registered users, and which of their tokens are good.
///
/// # Errors
/// When the database fails.
pub fn registered(db: &Connection) -> Result<Vec<(Nickname, AccountState)>, StoreError> {
    let mut statement = db.prepare_cached("SELECT name, disabled, since FROM users ORDER BY folded")?;
    let mut rows = statement.query([])?;
    let mut users = Vec::new();
    while let Some(row) = rows.next()? {
        if let Ok(name) = Nickname::parse(&row.get::<_, String>(0)?) {
            users.push((name, account(row.get(1)?, row.get(2)?)));
        }
    }
    Ok(users)
}

fn account(is_disabled: bool, since_ms: i64) -> AccountState {
    AccountState { is_disabled, since_ms: since_ms as u64 }
}

fn users(db: &Connection) -> Result<Vec<RestoredUser>, StoreError> {
    let mut statement = db.prepare(
        "SELECT u.name, u.disabled, coalesce(i.last, 0), i.id, u.since
         FROM users u LEFT JOIN inboxes i ON i.user = u.folded ORDER BY u.folded",
    )?;
    let mut waiting =
        db.prepare("SELECT offset, octet_length(content), coalesce(session, 0) FROM inbox WHERE inbox = ?1 ORDER BY offset")?;
    let mut rows = statement.query([])?;
    let mut users = Vec::new();
    while let Some(row) = rows.next()? {
        let Ok(name) = Nickname::parse(&row.get::<_, String>(0)?) else { continue };
        let waiting = waiting
            .query_map([row.get::<_, Option<i64>>(3)?], |row| {
                let (offset, bytes): (i64, i64) = (row.get(0)?, row.get(1)?);
                let session = row.get::<_, i64>(2)? as u64;
                Ok(WaitingPrivate { offset: offset as u64, bytes: bytes as usize, session })
            })?
            .collect::<Result<_, _>>()?;
        let last_offset = row.get::<_, i64>(2)? as u64;
        let account = account(row.get(1)?, row.get(4)?);
        users.push(RestoredUser { name, account, last_offset, waiting });
    }
    Ok(users)
}
