//! The embedded store: one SQLite file, one thread that writes it, and threads that read it.
//!
//! | file | what |
//! |---|---|
//! | `schema` | the tables, and how older files become ones of this version |
//! | `directory` | who holds the data directory, and what an earlier server left |
//! | `thread` | the threads: group commit, reading, checkpoints, a watch on the disk |
//! | `connection` | what all connections have in common |
//! | `engine` | frames of records to rows, each whole or not at all; deletion in small steps |
//! | `load` | rows to what a server begins with |
//! | `read` | pages of history, inboxes |
//! | `accounts` | the registered users, and the hashes of their passwords |
//! | `place` | where the file is, and who may read it |
//! | `hashers` | threads that check and hash passwords |
//! | `stats`, `check`, `backup`, `progress` | for the command line: what is in the file, whether it is whole, a copy of it |

pub mod accounts;
pub mod backup;
pub mod check;
pub mod connection;
pub mod directory;
pub mod engine;
pub mod hashers;
pub mod load;
pub mod place;
pub mod progress;
pub mod read;
mod schema;
pub mod stats;
pub mod thread;

use rusqlite::ErrorCode;

/// What the file is called, in the data directory.
pub const FILE: &str = "starling.db";

/// What the name of its write-ahead log has at the end besides.
const WAL: &str = "-wal";

/// All files that a server may have in the data directory.
pub const FILES: [&str; 5] =
    [FILE, "starling.db-wal", "starling.db-shm", "starling.db-journal", directory::LOCK];

/// Why the store could not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    /// One line for a person.
    pub message: String,
    /// SQLite's word for it, if it came from there.
    pub code: Option<ErrorCode>,
}

impl StoreError {
    /// One that is not SQLite's.
    pub fn new(message: impl Into<String>) -> Self {
        StoreError { message: message.into(), code: None }
    }
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        let message = match code {
            Some(ErrorCode::DiskFull) => "the disk is full".to_owned(),
            Some(ErrorCode::ReadOnly) => "the file or its disk is read-only".to_owned(),
            Some(ErrorCode::SystemIoFailure) => format!("the disk fails ({error})"),
            // For SQLite a read that fails with EIO is damage too.
            Some(ErrorCode::DatabaseCorrupt) => format!(
                "the file is damaged, or the disk cannot read it ({error}): see what `starling store check` finds, and restore a backup if \
                 it is the file"
            ),
            Some(ErrorCode::NotADatabase) => {
                format!("the file is damaged, or is no store ({error}): put a backup in its place")
            }
            Some(ErrorCode::DatabaseBusy) => "another process holds the file".to_owned(),
            // What is asked here is written here: a table or a column is not as it was made.
            Some(ErrorCode::Unknown) => damaged(&error),
            None if is_of_content(&error) || matches!(error, rusqlite::Error::SqlInputError { .. }) => {
                damaged(&error)
            }
            _ => error.to_string(),
        };
        StoreError { message, code }
    }
}

fn damaged(error: &rusqlite::Error) -> String {
    format!("the file is damaged ({error}): see what `starling store check` finds, and restore a backup")
}

/// A number that is never below 0: one that is has not been written here.
fn number(found: i64, column: usize) -> rusqlite::Result<u64> {
    u64::try_from(found).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, found))
}

/// Whether it is about a value that nobody here has written: a text that is none, a number that cannot be, or
/// another type than that of its column.
fn is_of_content(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)
    )
}
