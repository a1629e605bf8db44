//! Connections to the database, with the settings that all of ours have.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::StoreError;

/// Bytes of the database that are kept in memory.
const CACHE_KIB: i64 = 16 * 1024;

/// Opens a connection with the settings that all of ours have.
pub fn connect(path: &Path, is_writer: bool) -> Result<Connection, StoreError> {
    let flags = match is_writer {
        true => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        false => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    // A path that begins with `file:` would be taken for a URI.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    configure(&connection)?;
    Ok(connection)
}

/// Opens a store for a tool that only reads.
///
/// # Errors
/// When it cannot be opened, or is none of this version's.
pub fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let connection = connect(path, false)?;
    super::schema::check(&connection)?;
    Ok(connection)
}

pub(super) fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.set_prepared_statement_cache_capacity(64);
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // A damaged file is to be noticed where it is read, not to be believed.
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(())
}
