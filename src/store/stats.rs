//! What is in the store, in numbers. Cheap: the sums that the rooms keep are believed, which `check` holds them to.

use std::path::Path;

use rusqlite::Connection;
use serde::Serialize;

use super::connection::connect;
use super::{StoreError, WAL, schema};
use crate::sys::files;

/// The numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The version of the tables.
    pub schema: u32,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of the write-ahead log beside it; 0 if there is none.
    pub wal_bytes: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages.
    pub pages: u64,
    /// Pages of these that nothing is in.
    pub free_pages: u64,
    /// Rooms.
    pub rooms: u64,
    /// Rooms that have ended, whose messages are still being deleted.
    pub ended_rooms: u64,
    /// Messages in rooms.
    pub messages: u64,
    /// Bytes of their content.
    pub message_bytes: u64,
    /// Sessions, all with and without a connection.
    pub sessions: u64,
    /// Registered users.
    pub users: u64,
    /// Those of them who may not log in.
    pub disabled_users: u64,
    /// Inboxes.
    pub inboxes: u64,
    /// Private messages in them.
    pub inbox_messages: u64,
    /// Bytes of their content.
    pub inbox_bytes: u64,
    /// The rooms with the most bytes, largest first.
    pub largest_rooms: Vec<RoomStats>,
}

/// The numbers of a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoomStats {
    /// Its name.
    pub room: String,
    /// The first offset that is kept.
    pub first: u64,
    /// The last one given.
    pub offset: u64,
    /// Messages that are kept.
    pub messages: u64,
    /// Bytes of their content.
    pub bytes: u64,
}

impl Stats {
    /// Reads the numbers of the store at `path`, with up to `rooms_max` of the largest rooms.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path, rooms_max: usize) -> Result<Self, StoreError> {
        let db = connect(path, false)?;
        schema::check(&db)?;
        let bytes_of = |path: &Path| path.metadata().map_or(0, |facts| facts.len());
        let mut stats = Self::of(&db, rooms_max)?;
        (stats.file_bytes, stats.wal_bytes) = (bytes_of(path), bytes_of(&files::beside(path, WAL)));
        Ok(stats)
    }

    /// What the database itself says, of one moment.
    fn of(db: &Connection, rooms_max: usize) -> Result<Self, StoreError> {
        let db = db.unchecked_transaction()?;
        let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(|n| n as u64);
        let number = |sql: &str| db.query_row(sql, [], |row| super::number(row.get(0)?, 0));
        Ok(Stats {
            schema: pragma("user_version")? as u32,
            file_bytes: 0,
            wal_bytes: 0,
            page_bytes: pragma("page_size")?,
            pages: pragma("page_count")?,
            free_pages: pragma("freelist_count")?,
            rooms: number("SELECT count(*) FROM rooms WHERE folded IS NOT NULL")?,
            ended_rooms: number("SELECT count(*) FROM rooms WHERE folded IS NULL")?,
            messages: number("SELECT coalesce(sum(offset + 1 - first), 0) FROM rooms")?,
            message_bytes: number("SELECT coalesce(sum(bytes), 0) FROM rooms")?,
            sessions: number("SELECT count(*) FROM sessions WHERE body IS NOT NULL")?,
            users: number("SELECT count(*) FROM users")?,
            disabled_users: number("SELECT count(*) FROM users WHERE disabled <> 0")?,
            inboxes: number("SELECT count(*) FROM inboxes")?,
            inbox_messages: number("SELECT count(*) FROM inbox")?,
            inbox_bytes: number("SELECT coalesce(sum(octet_length(content)), 0) FROM inbox")?,
            largest_rooms: largest_rooms(&db, rooms_max)?,
        })
    }
}

fn largest_rooms(db: &Connection, rooms_max: usize) -> Result<Vec<RoomStats>, StoreError> {
    let mut statement = db.prepare(
        "SELECT name, first, offset, bytes FROM rooms WHERE folded IS NOT NULL ORDER BY bytes DESC, folded LIMIT ?1",
    )?;
    let rows = statement.query_map([rooms_max as i64], |row| {
        let number = |column| super::number(row.get(column)?, column);
        let (first, offset) = (number(1)?, number(2)?);
        let messages = (offset + 1).saturating_sub(first);
        Ok(RoomStats { room: row.get(0)?, first, offset, messages, bytes: number(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::check::tests::filled;

    #[test]
    fn the_numbers_are_those_of_what_was_put_in() {
        let (_directory, path, engine) = filled();
        let stats = Stats::read(&path, 1).unwrap();
        assert_eq!((stats.rooms, stats.ended_rooms, stats.messages, stats.message_bytes), (2, 0, 12, 24));
        assert_eq!((stats.sessions, stats.users, stats.disabled_users), (1, 1, 0));
        assert_eq!((stats.inboxes, stats.inbox_messages, stats.inbox_bytes), (1, 1, 4));
        assert_eq!(stats.schema, schema::version());
        assert!(stats.file_bytes > 0 && stats.wal_bytes > 0 && stats.pages > 0);
        let lobby = RoomStats { room: "Lobby".to_owned(), first: 1, offset: 10, messages: 10, bytes: 20 };
        assert_eq!(stats.largest_rooms, [lobby]);
        drop(engine);
        assert_eq!(Stats::read(&path, 9).unwrap().largest_rooms.len(), 2, "without a server, too");
    }

    #[test]
    fn numbers_that_nobody_has_written_are_no_numbers() {
        for column in ["offset", "first", "bytes"] {
            let (_directory, path, engine) = filled();
            drop(engine);
            let db = connect(&path, true).unwrap();
            db.execute(&format!("UPDATE rooms SET {column} = -1 WHERE name = 'ops'"), []).unwrap();
            drop(db);
            let error = Stats::read(&path, 9).unwrap_err().to_string();
            assert!(error.contains("starling store check"), "{column}: {error}");
        }
    }
}
