//! Reading while the server runs: pages of history, inboxes. On connections of their own, which see whole transactions only.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::connection::connect;
use super::{StoreError, load};
use crate::chat::history::Entry;
use crate::chat::name::Nickname;
use crate::record::{HistoryPage, KeptPrivate};

/// A reader.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

impl Reader {
    /// Opens a store that a writer has made.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Reader { connection: connect(path, false)? })
    }

    /// A page of messages, in ascending order.
    ///
    /// # Errors
    /// When the database fails.
    pub fn page(&self, page: &HistoryPage) -> Result<Vec<Entry>, StoreError> {
        read_page(&self.connection, page)
    }

    /// What is at these places, which ascend, of the inbox of a user, by the folded name.
    ///
    /// # Errors
    /// When the database fails.
    pub fn inbox(&self, folded: &str, offsets: &[u64]) -> Result<Vec<KeptPrivate>, StoreError> {
        read_inbox(&self.connection, folded, offsets)
    }
}

/// The same, of any connection.
///
/// # Errors
/// When the database fails.
pub fn read_page(db: &Connection, page: &HistoryPage) -> Result<Vec<Entry>, StoreError> {
    let direction = if page.is_ascending { "ASC" } else { "DESC" };
    let mut statement = db.prepare_cached(&format!(
        "SELECT offset, timestamp, sender, content FROM messages
         WHERE room = ?1 AND offset > ?2 AND offset < ?3 ORDER BY offset {direction} LIMIT ?4"
    ))?;
    let most = i64::MAX as u64;
    let mut rows = statement.query(params![
        page.room as i64,
        page.after.min(most) as i64,
        page.before.min(most) as i64,
        page.limit as i64
    ])?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let content: String = row.get(3)?;
        bytes += content.len();
        if bytes > page.bytes_max && !entries.is_empty() {
            break;
        }
        let sender: String = row.get(2)?;
        let sender = Nickname::parse(&sender)
            .map_err(|error| StoreError::new(format!("sender {sender:?} of a message: {error}")))?;
        entries.push(Entry {
            offset: row.get::<_, i64>(0)? as u64,
            timestamp_ms: row.get::<_, i64>(1)? as u64,
            sender,
            content: Arc::from(content),
        });
    }
    if !page.is_ascending {
        entries.reverse();
    }
    Ok(entries)
}

/// The same, of any connection.
///
/// # Errors
/// When the database fails.
pub fn read_inbox(db: &Connection, folded: &str, offsets: &[u64]) -> Result<Vec<KeptPrivate>, StoreError> {
    let found = db
        .prepare_cached("SELECT id FROM inboxes WHERE user = ?1")?
        .query_row([folded], |row| row.get::<_, i64>(0))
        .optional()?;
    let mut items = found.map_or(Ok(Vec::new()), |inbox| load::items(db, inbox))?;
    items.retain(|item| offsets.binary_search(&item.offset).is_ok());
    Ok(items)
}
