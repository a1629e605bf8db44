//! The tables, and how files of older versions become ones of this.

use rusqlite::Connection;

use super::StoreError;

/// What `PRAGMA application_id` says of a file that is ours: "STRL".
const APPLICATION_ID: i32 = 0x5354_524c;

/// The steps from each version of the schema to the next; `PRAGMA user_version` counts those that have been taken.
///
/// Messages lie in the order in which they came, in a rowid table with an index beside it: a table keyed by room and offset would spread
/// each commit over as many pages as there are rooms.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE journals (ring INTEGER PRIMARY KEY, position INTEGER NOT NULL) STRICT;
    CREATE TABLE rooms (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        folded TEXT UNIQUE,                          -- NULL: the room has ended, and its messages are being deleted
        epoch TEXT NOT NULL,
        offset INTEGER NOT NULL DEFAULT 0,           -- the last one given
        timestamp INTEGER NOT NULL DEFAULT 0,
        first INTEGER NOT NULL DEFAULT 1,            -- the first offset that is kept
        bytes INTEGER NOT NULL DEFAULT 0,            -- of the content that is kept
        keep_count INTEGER NOT NULL,
        keep_bytes INTEGER NOT NULL,
        keep_age_ms INTEGER NOT NULL,
        rules TEXT,
        state_version INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE messages (
        room INTEGER NOT NULL REFERENCES rooms (id),
        offset INTEGER NOT NULL,
        timestamp INTEGER NOT NULL,
        sender TEXT NOT NULL,
        content TEXT NOT NULL,
        session INTEGER,                             -- with command: what the publisher called it
        command TEXT
    ) STRICT;
    CREATE UNIQUE INDEX messages_place ON messages (room, offset);
    CREATE TABLE state (
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        version INTEGER NOT NULL,
        PRIMARY KEY (room, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sessions (
        number INTEGER PRIMARY KEY,
        revision INTEGER NOT NULL,
        body TEXT                                    -- NULL: it has ended, and a late record must not bring it back
    ) STRICT;
    CREATE TABLE receipts (
        session INTEGER NOT NULL,
        command TEXT NOT NULL,
        timestamp INTEGER NOT NULL,
        target TEXT NOT NULL,
        delivered INTEGER NOT NULL,
        stored INTEGER NOT NULL,
        PRIMARY KEY (session, command)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX receipts_time ON receipts (timestamp);
    CREATE TABLE inboxes (
        id INTEGER PRIMARY KEY,
        session INTEGER UNIQUE,                      -- whose: a session's,
        user TEXT UNIQUE,                            -- or a user's
        last INTEGER NOT NULL DEFAULT 0              -- the last place given
    ) STRICT;
    CREATE TABLE inbox (
        inbox INTEGER NOT NULL REFERENCES inboxes (id) ON DELETE CASCADE,
        offset INTEGER NOT NULL,
        timestamp INTEGER NOT NULL,
        sender TEXT NOT NULL,
        target TEXT NOT NULL,
        content TEXT NOT NULL,
        PRIMARY KEY (inbox, offset)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE users (
        folded TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        password TEXT NOT NULL,                      -- a PHC string of argon2id
        disabled INTEGER NOT NULL DEFAULT 0,
        created INTEGER NOT NULL                     -- milliseconds since the Unix epoch
    ) STRICT, WITHOUT ROWID;
", "
    CREATE TABLE places (                            -- of messages that are not kept, for commands that come again
        session INTEGER NOT NULL,
        command TEXT NOT NULL,
        sender TEXT NOT NULL,
        room INTEGER NOT NULL,
        name TEXT NOT NULL,                          -- of the room, which may have ended
        epoch TEXT NOT NULL,
        offset INTEGER NOT NULL,
        timestamp INTEGER NOT NULL,
        PRIMARY KEY (session, command, sender, room)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX places_time ON places (timestamp);
    ALTER TABLE inboxes ADD COLUMN received INTEGER NOT NULL DEFAULT 0; -- up to this place
", "
    ALTER TABLE inbox ADD COLUMN session INTEGER;    -- in a user's inbox: the one session that it is for, if it is not for all
    CREATE INDEX inbox_session ON inbox (session) WHERE session IS NOT NULL;
    ALTER TABLE users ADD COLUMN since INTEGER NOT NULL DEFAULT 0;      -- tokens from before are void; milliseconds since the Unix epoch
"];

/// The version that this program reads and writes.
pub fn version() -> u32 {
    MIGRATIONS.len() as u32
}

/// Makes an empty file one of ours, or an older one of ours one of this version.
///
/// # Errors
/// When the file is another program's, or of a newer version.
pub fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (id != APPLICATION_ID && (tables > 0 || found > 0)) || (id == APPLICATION_ID && found == 0) {
        return Err(StoreError::new("this is another program's database; choose another --data-dir"));
    }
    if found > version() {
        let message = format!(
            "the store is of version {found}, and this server knows versions up to {}: run a newer one",
            version()
        );
        return Err(StoreError::new(message));
    }
    if found == version() {
        return Ok(());
    }
    if found == 0 {
        // Only heeded before the first table is made.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    let transaction = connection.transaction()?;
    for step in &MIGRATIONS[found as usize..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", version())?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(transaction.commit()?)
}

/// Whether a file is one of ours, and of this version: for tools, which change nothing.
///
/// # Errors
/// When it is another program's, or of another version.
pub fn check(connection: &Connection) -> Result<(), StoreError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id != APPLICATION_ID {
        return Err(StoreError::new("this is no store of starling"));
    }
    match found.cmp(&version()) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(StoreError::new(format!(
            "the store is of version {found}, and this program is for version {}: start its server once, which brings it up to date",
            version()
        ))),
        std::cmp::Ordering::Greater => Err(StoreError::new(format!(
            "the store is of version {found}, and this program knows versions up to {}: use a newer one",
            version()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_becomes_ours_and_stays_so() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(found, version());
    }

    #[test]
    fn files_of_older_versions_keep_what_is_in_them() {
        for found in 1..version() {
            let mut connection = Connection::open_in_memory().unwrap();
            MIGRATIONS[..found as usize].iter().for_each(|step| connection.execute_batch(step).unwrap());
            connection.pragma_update(None, "user_version", found).unwrap();
            connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
            let rows = "INSERT INTO rooms (id, name, folded, epoch, offset, keep_count, keep_bytes, keep_age_ms)
                            VALUES (1, 'Den', 'den', 'e', 7, 10, 0, 0);
                        INSERT INTO messages (room, offset, timestamp, sender, content) VALUES (1, 7, 9, 'ann', 'hello');
                        INSERT INTO sessions (number, revision, body) VALUES (5, 1, '{}');
                        INSERT INTO inboxes (id, session, last) VALUES (1, 5, 3);
                        INSERT INTO inbox (inbox, offset, timestamp, sender, target, content)
                            VALUES (1, 3, 9, 'ann', 'bob', 'psst');
                        INSERT INTO users (folded, name, password, created) VALUES ('ann', 'Ann', 'x', 9);";
            connection.execute_batch(rows).unwrap();
            assert!(check(&connection).unwrap_err().to_string().contains("start its server once"));
            migrate(&mut connection).unwrap();
            assert_eq!(check(&connection), Ok(()), "of version {found}");
            let content: String = connection
                .query_row("SELECT content FROM messages WHERE room = 1 AND offset = 7", [], |row| row.get(0))
                .unwrap();
            let kept = "SELECT count(*) FROM inbox JOIN inboxes ON inboxes.id = inbox.inbox WHERE inboxes.session = 5
                        AND inbox.session IS NULL AND received = 0 AND content = 'psst'";
            let kept: i64 = connection.query_row(kept, [], |row| row.get(0)).unwrap();
            let since: i64 = connection
                .query_row("SELECT since FROM users WHERE folded = 'ann'", [], |row| row.get(0))
                .unwrap();
            assert_eq!((content.as_str(), kept, since), ("hello", 1, 0), "of version {found}");
        }
    }

    #[test]
    fn files_of_others_and_of_the_future_are_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE theirs (a)").unwrap();
        assert!(migrate(&mut connection).unwrap_err().to_string().contains("another program's"));
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        assert_eq!(check(&connection), Ok(()));
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(migrate(&mut connection).unwrap_err().to_string().contains("newer"));
        assert!(check(&connection).unwrap_err().to_string().contains("newer"));
        connection.pragma_update(None, "user_version", 0).unwrap();
        assert!(check(&connection).unwrap_err().to_string().contains("start its server once"));
        connection.pragma_update(None, "application_id", 1).unwrap();
        assert!(check(&connection).unwrap_err().to_string().contains("no store"));
    }
}
