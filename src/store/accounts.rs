//! Accounts: the registered users, in the table `users`. Their nicknames are nobody else's, in whatever case they are written.
//!
//! Passwords are kept as hashes by argon2id (RFC 9106), which take 19 MiB and some hundredths of a second each: that is their point.
//! So nothing here that hashes is for a core; `hashers` has threads for it.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};

use super::connection::connect;
use super::{StoreError, schema};
use crate::chat::name::{NameError, Nickname};
use crate::record::AccountState;

/// Why something cannot be done with an account. Its `Display` is a sentence for whoever asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountError {
    /// Somebody has that name already, spelled like this.
    Taken(String),
    /// Nobody has that name.
    NoSuchUser(String),
    /// It is no nickname at all.
    BadName(NameError),
    /// It could not be hashed.
    Hash(String),
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for AccountError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(name) => write!(out, "the nickname {name} is registered already"),
            Self::NoSuchUser(name) => write!(out, "nobody is registered as {name}"),
            Self::BadName(why) => why.fmt(out),
            Self::Hash(why) => write!(out, "the password cannot be hashed: {why}"),
            Self::Store(why) => why.fmt(out),
        }
    }
}

impl std::error::Error for AccountError {}

impl From<NameError> for AccountError {
    fn from(error: NameError) -> Self {
        AccountError::BadName(error)
    }
}

impl From<StoreError> for AccountError {
    fn from(error: StoreError) -> Self {
        AccountError::Store(error)
    }
}

impl From<rusqlite::Error> for AccountError {
    fn from(error: rusqlite::Error) -> Self {
        AccountError::Store(error.into())
    }
}

/// What is needed to let somebody in.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The nickname, as it was registered.
    pub name: Nickname,
    /// The hash of the password (a PHC string).
    pub password: String,
    /// Which of its tokens are good.
    pub state: AccountState,
}

impl fmt::Debug for Account {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hash is a secret too: it can be guessed at without asking anybody.
        write!(out, "Account({}, disabled: {})", self.name.as_str(), self.state.is_disabled)
    }
}

/// What lists tell of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The nickname, as it was registered.
    pub name: Nickname,
    /// Whether the user may not log in.
    pub is_disabled: bool,
    /// When it was registered, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// How many private messages wait for the user.
    pub waiting: u64,
}

/// Opens a store that is there, for changing accounts beside whatever server runs on it: each change is on the disk when it returns.
///
/// # Errors
/// When it cannot be opened, or is of another version.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = connect(path, true)?;
    schema::check(&connection)?;
    connection.busy_handler(Some(wait_for_writer))?;
    // As the server does: its storage thread makes the checkpoints.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// How often the lock of writers is tried, and how many times.
const LOCK_RETRY: Duration = Duration::from_micros(250);
const LOCK_TRIES_MAX: i32 = 20_000;

/// Waits for the lock of writers, for 5 s or a little more. SQLite's own way of waiting is to look less and less often, up to every
/// 100 ms: beside a storage thread that is busy, whose pauses between two commits are short, it would wait in vain.
fn wait_for_writer(tries: i32) -> bool {
    std::thread::sleep(LOCK_RETRY);
    tries < LOCK_TRIES_MAX
}

/// The hash of a password with a salt of its own, as a PHC string: argon2id with 19 MiB, 2 passes and 1 lane, as OWASP advises.
/// Takes a while.
///
/// # Errors
/// When there is no memory or randomness for it.
pub fn hash_password(password: &str) -> Result<String, AccountError> {
    let hash: PasswordHash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|error| AccountError::Hash(error.to_string()))?;
    Ok(hash.to_string())
}

/// Whether a password is the one of a hash. Without a hash it is not, and that takes as long to find out: how long a login takes must not
/// tell whether there is such a user. Takes a while.
pub fn verify_password(password: &str, hash: Option<&str>) -> bool {
    let known = hash.and_then(|hash| PasswordHash::new(hash).ok());
    let is_known = known.is_some();
    let Some(hash) = known.or_else(stand_in) else { return false };
    let is_it = Argon2::default().verify_password(password.as_bytes(), &hash).is_ok();
    is_it && is_known
}

/// Whether this is a hash of ours.
pub(super) fn is_hash(hash: &str) -> bool {
    hash.starts_with("$argon2id$") && PasswordHash::new(hash).is_ok()
}

/// Has ready what the first login would otherwise wait for.
pub(super) fn warm_up() {
    stand_in();
}

/// The hash of no password in particular.
fn stand_in() -> Option<PasswordHash> {
    static STAND_IN: OnceLock<Option<PasswordHash>> = OnceLock::new();
    STAND_IN.get_or_init(|| Argon2::default().hash_password(b"of nobody").ok()).clone()
}

/// Registers a user, with the hash of a password. Tokens of somebody who had the name before are void.
///
/// # Errors
/// When the name is taken, or the store fails.
pub fn add(db: &Connection, name: &Nickname, hash: &str, now_ms: u64) -> Result<(), AccountError> {
    let added = db
        .prepare_cached(
            "INSERT INTO users (folded, name, password, created, since) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![name.folded(), name.as_str(), hash, now_ms as i64, now_ms as i64 + 1]);
    match added {
        Ok(_) => Ok(()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            let spelled = find(db, name)?.map_or(name.clone(), |account| account.name);
            Err(AccountError::Taken(spelled.as_str().to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives a user another password, by its hash. All tokens so far are void.
///
/// # Errors
/// When there is no such user, or the store fails.
pub fn set_password(db: &Connection, name: &Nickname, hash: &str, now_ms: u64) -> Result<(), AccountError> {
    // Later than any token so far, also if the clock was set back.
    let mut statement =
        db.prepare_cached("UPDATE users SET password = ?2, since = max(?3, since) + 1 WHERE folded = ?1")?;
    found(name, statement.execute(params![name.folded(), hash, now_ms as i64])?)
}

/// Says whether a user may log in.
///
/// # Errors
/// When there is no such user, or the store fails.
pub fn set_disabled(db: &Connection, name: &Nickname, is_disabled: bool) -> Result<(), AccountError> {
    let mut statement = db.prepare_cached("UPDATE users SET disabled = ?2 WHERE folded = ?1")?;
    found(name, statement.execute(params![name.folded(), is_disabled])?)
}

/// Takes a user away, with the private messages that wait: whoever registers under the name next must not get them.
///
/// # Errors
/// When there is no such user, or the store fails.
pub fn remove(db: &Connection, name: &Nickname) -> Result<(), AccountError> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    let removed = remove_both(db, name).and_then(|()| Ok(db.execute_batch("COMMIT")?));
    if removed.is_err() && !db.is_autocommit() {
        let _ = db.execute_batch("ROLLBACK"); // what failed may have rolled it back already
    }
    removed
}

fn remove_both(db: &Connection, name: &Nickname) -> Result<(), AccountError> {
    let removed = db.prepare_cached("DELETE FROM users WHERE folded = ?1")?.execute([name.folded()])?;
    db.prepare_cached("DELETE FROM inboxes WHERE user = ?1")?.execute([name.folded()])?;
    found(name, removed)
}

fn found(name: &Nickname, rows: usize) -> Result<(), AccountError> {
    if rows == 0 { Err(AccountError::NoSuchUser(name.as_str().to_owned())) } else { Ok(()) }
}

/// The account of a user, if there is one.
///
/// # Errors
/// When the store fails.
pub fn find(db: &Connection, name: &Nickname) -> Result<Option<Account>, AccountError> {
    let mut statement =
        db.prepare_cached("SELECT name, password, disabled, since FROM users WHERE folded = ?1")?;
    let row = statement
        .query_row([name.folded()], |row| {
            let state = AccountState { is_disabled: row.get(2)?, since_ms: row.get::<_, i64>(3)? as u64 };
            Ok((row.get::<_, String>(0)?, row.get(1)?, state))
        })
        .optional()?;
    let account = row
        .map(|(name, password, state)| Nickname::parse(&name).map(|name| Account { name, password, state }));
    Ok(account.transpose()?)
}

/// Up to `limit` users after the one with this folded name, in the order of folded names. Pages, so that nothing is held while somebody
/// reads them.
///
/// # Errors
/// When the store fails.
pub fn list(db: &Connection, after: &str, limit: usize) -> Result<Vec<Listed>, AccountError> {
    let mut statement = db.prepare_cached(
        "SELECT u.name, u.disabled, u.created, (SELECT count(*) FROM inbox WHERE inbox = i.id AND session IS NULL)
         FROM users u LEFT JOIN inboxes i ON i.user = u.folded WHERE u.folded > ?1 ORDER BY u.folded LIMIT ?2",
    )?;
    let mut rows = statement.query(params![after, limit as i64])?;
    let mut listed = Vec::new();
    while let Some(row) = rows.next()? {
        listed.push(Listed {
            name: Nickname::parse(&row.get::<_, String>(0)?)?,
            is_disabled: row.get(1)?,
            created_ms: row.get::<_, i64>(2)? as u64,
            waiting: row.get::<_, i64>(3)? as u64,
        });
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::engine::Engine;

    fn name(written: &str) -> Nickname {
        Nickname::parse(written).unwrap()
    }

    fn taken(spelled: &str) -> AccountError {
        AccountError::Taken(spelled.to_owned())
    }

    #[test]
    fn a_name_is_taken_in_every_case() {
        let engine = Engine::in_memory();
        let db = engine.connection();
        add(db, &name("Zoë"), "hash", 7).unwrap();
        assert_eq!(add(db, &name("ZOË"), "other", 8), Err(taken("Zoë")));
        let found = find(db, &name("zoë")).unwrap().unwrap();
        let state = AccountState { is_disabled: false, since_ms: 8 };
        assert_eq!((found.name.as_str(), &*found.password, found.state), ("Zoë", "hash", state));
        assert_eq!(find(db, &name("zoe")).unwrap(), None);
        assert!(!format!("{found:?}").contains("hash"));
    }

    #[test]
    fn accounts_change_and_go() {
        let engine = Engine::in_memory();
        let db = engine.connection();
        add(db, &name("bob"), "one", 7).unwrap();
        set_password(db, &name("BOB"), "two", 3000).unwrap();
        set_disabled(db, &name("Bob"), true).unwrap();
        let found = find(db, &name("bob")).unwrap().unwrap();
        let state = AccountState { is_disabled: true, since_ms: 3001 };
        assert_eq!((&*found.password, found.state), ("two", state));
        set_disabled(db, &name("bob"), false).unwrap();
        assert!(!find(db, &name("bob")).unwrap().unwrap().state.is_disabled);
        remove(db, &name("bOb")).unwrap();
        assert_eq!(find(db, &name("bob")).unwrap(), None);
        let missing = Err(AccountError::NoSuchUser("Bob".to_owned()));
        assert_eq!(set_password(db, &name("Bob"), "three", 9), missing);
        assert_eq!(set_disabled(db, &name("Bob"), true), missing);
        assert_eq!(remove(db, &name("Bob")), missing);
        assert!(db.is_autocommit(), "no transaction is left open");
    }

    #[test]
    fn the_next_of_a_name_does_not_get_the_mail_of_the_last() {
        let engine = Engine::in_memory();
        let db = engine.connection();
        add(db, &name("bob"), "hash", 7).unwrap();
        db.execute_batch(
            "INSERT INTO inboxes (id, user, last) VALUES (1, 'bob', 2);
             INSERT INTO inbox (inbox, offset, timestamp, sender, target, content)
             VALUES (1, 1, 5, 'alice', 'bob', 'psst'), (1, 2, 5, 'alice', 'bob', 'psst')",
        )
        .unwrap();
        assert_eq!(list(db, "", 9).unwrap()[0].waiting, 2);
        remove(db, &name("bob")).unwrap();
        let left: i64 = db.query_row("SELECT count(*) FROM inbox", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn lists_come_in_pages() {
        let engine = Engine::in_memory();
        let db = engine.connection();
        for (written, at) in [("carol", 3), ("Alice", 1), ("bob", 2)] {
            add(db, &name(written), "hash", at).unwrap();
        }
        let names = |after: &str, limit| -> Vec<String> {
            list(db, after, limit).unwrap().iter().map(|user| user.name.as_str().to_owned()).collect()
        };
        assert_eq!(names("", 2), ["Alice", "bob"]);
        assert_eq!(names("bob", 2), ["carol"]);
        assert_eq!(names("carol", 2), [""; 0]);
    }

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let hash = hash_password("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, hash_password("correct horse").unwrap(), "the salts differ");
        assert!(verify_password("correct horse", Some(&hash)));
        for wrong in ["", "correct hors", "Correct horse", "correct horse "] {
            assert!(!verify_password(wrong, Some(&hash)), "{wrong}");
        }
    }

    #[test]
    fn nobody_has_no_password_and_that_takes_as_long() {
        assert!(!verify_password("of nobody", None));
        assert!(!verify_password("of nobody", Some("no hash")));
        let hash = hash_password("correct horse").unwrap();
        // The fastest of as many as it takes, in turn: whatever runs beside this can only make it slower.
        let timed = |hash: Option<&str>| {
            let began = std::time::Instant::now();
            verify_password("wrong horse", hash);
            began.elapsed()
        };
        let (mut known, mut unknown) = (timed(Some(&hash)), timed(None));
        for _ in 0..100 {
            if unknown * 2 > known && known * 2 > unknown {
                return;
            }
            (known, unknown) = (known.min(timed(Some(&hash))), unknown.min(timed(None)));
        }
        panic!("{known:?} and {unknown:?}");
    }

    #[test]
    fn a_store_is_opened_only_if_it_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        assert!(open(&path).is_err(), "an empty file is none");
        std::fs::remove_file(&path).unwrap();
        drop(Engine::open(&path).unwrap());
        let db = open(&path).unwrap();
        add(&db, &name("bob"), "hash", 1).unwrap();
        assert!(find(Engine::open(&path).unwrap().connection(), &name("bob")).unwrap().is_some());
    }
}
