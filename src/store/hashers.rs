//! Threads that check and hash passwords, because no core may: one password costs as much as thousands of messages.
//!
//! Jobs wait in a bounded queue. Who is told that it is full tries again later; who floods it keeps others from logging in, but from
//! nothing else. Each thread has a connection of its own to the store: it reads accounts beside the storage thread, and writes a
//! registration in a transaction of its own, between two of that thread's. So a registration is on the disk when it is answered.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use rusqlite::Connection;

use super::StoreError;
use super::accounts::{self, AccountError};
use crate::chat::name::Nickname;
use crate::record::AccountState;
use crate::shard::accounts::{AccountAction, AccountRequest, Asked};
use crate::sys::{threads, unix_ms};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The user is registered, on the disk.
    Registered {
        /// The nickname.
        name: Nickname,
        /// Which of the account's tokens are good.
        account: AccountState,
    },
    /// It is the user.
    LoggedIn {
        /// The nickname, as it was registered.
        name: Nickname,
        /// Which of the account's tokens are good.
        account: AccountState,
    },
    /// The name is somebody's already.
    Taken,
    /// There is no such user, or this is not the password: which of them is nobody's business.
    BadCredentials,
    /// It is the user, who may not log in. To the client this is the same; it has been logged.
    Disabled,
    /// The store fails. It may be tried again later.
    Down(StoreError),
    /// Something else did not work, such as having 19 MiB of memory.
    Failed(String),
}

struct Job<T> {
    request: AccountRequest,
    context: T,
}

/// The queue is full: here is the context back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull<T>(pub T);

/// The threads. When this is dropped each does what it is at, and ends: nobody waits for what is in the queue any more.
pub struct Hashers<T> {
    /// `None` once they are to end.
    jobs: Option<Sender<Job<T>>>,
    /// Whether they are to end.
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl<T> fmt::Debug for Hashers<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Hashers({} threads, {} jobs wait)", self.threads.len(), self.waiting())
    }
}

impl<T> Hashers<T> {
    /// How many jobs wait for a thread.
    pub fn waiting(&self) -> usize {
        self.jobs.as_ref().map_or(0, Sender::len)
    }
}

impl<T: Send + 'static> Hashers<T> {
    /// Starts `count` threads for accounts in the store at `path`, with a queue of `queue` jobs. `done` gets what came of each, on
    /// one of the threads.
    ///
    /// # Errors
    /// When the store cannot be opened, or a thread cannot be started.
    pub fn start(
        path: &Path,
        count: usize,
        queue: usize,
        done: impl Fn(T, Outcome) + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let (jobs, to_do) = bounded(queue);
        let ends = Arc::new(AtomicBool::new(false));
        let mut hashers = Hashers { jobs: Some(jobs), ends: ends.clone(), threads: Vec::new() };
        let done = Arc::new(done);
        for index in 0..count.max(1) {
            let connection = accounts::open(path)?;
            let (to_do, done, ends) = (to_do.clone(), done.clone(), ends.clone());
            let body = move || work(&connection, &to_do, &ends, &*done);
            let thread = threads::spawn(format!("hasher-{index}"), body).map_err(no_thread)?;
            hashers.threads.push(thread);
        }
        Ok(hashers)
    }

    /// Asks for something. Does not wait.
    ///
    /// # Errors
    /// When the queue is full, with the context.
    pub fn submit(&self, request: AccountRequest, context: T) -> Result<(), QueueFull<T>> {
        let Some(jobs) = &self.jobs else { return Err(QueueFull(context)) };
        jobs.try_send(Job { request, context }).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => QueueFull(job.context),
        })
    }
}

impl<T> Drop for Hashers<T> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // one that panicked has said so
        }
    }
}

fn no_thread(error: io::Error) -> StoreError {
    StoreError::new(format!("cannot start a thread: {error}"))
}

/// The life of a thread.
fn work<T>(db: &Connection, to_do: &Receiver<Job<T>>, ends: &AtomicBool, done: &impl Fn(T, Outcome)) {
    if let Err(error) = threads::stand_back() {
        log::warn!("passwords are hashed at the priority of the cores: {error}");
    }
    accounts::warm_up();
    for Job { request, context } in to_do {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        done(context, answer(db, request, unix_ms()));
    }
}

/// What comes of a request. Takes a while.
fn answer(db: &Connection, request: AccountRequest, now_ms: u64) -> Outcome {
    let AccountRequest { action, name, password, asked } = &request;
    let answered = match action {
        AccountAction::Register => register(db, name, password, now_ms),
        AccountAction::Login => log_in(db, name, password, asked),
    };
    answered.unwrap_or_else(|error| {
        let Asked { conn, peer, request: id } = asked;
        match id {
            Some(id) => log::error!(conn:%, request = &**id, peer:%; "{request:?}: {error}"),
            None => log::error!(conn:%, peer:%; "{request:?}: {error}"),
        }
        match error {
            AccountError::Taken(_) => Outcome::Taken,
            AccountError::Store(error) => Outcome::Down(error),
            error => Outcome::Failed(error.to_string()),
        }
    })
}

fn register(db: &Connection, name: &Nickname, password: &str, now_ms: u64) -> Result<Outcome, AccountError> {
    // Before anything is hashed in vain.
    if accounts::find(db, name)?.is_some() {
        return Ok(Outcome::Taken);
    }
    let hash = accounts::hash_password(password)?;
    match accounts::add(db, name, &hash, now_ms) {
        Ok(()) => {
            let account = accounts::find(db, name)?.map(|found| found.state);
            let account = account.ok_or_else(|| AccountError::NoSuchUser(name.as_str().to_owned()))?;
            Ok(Outcome::Registered { name: name.clone(), account })
        }
        Err(AccountError::Taken(_)) => Ok(Outcome::Taken), // meanwhile, by somebody else
        Err(error) => Err(error),
    }
}

fn log_in(db: &Connection, name: &Nickname, password: &str, asked: &Asked) -> Result<Outcome, AccountError> {
    let account = accounts::find(db, name)?;
    let is_it = accounts::verify_password(password, account.as_ref().map(|account| &*account.password));
    Ok(match account {
        Some(account) if is_it && account.state.is_disabled => {
            log_disabled(&account.name, asked);
            Outcome::Disabled
        }
        Some(account) if is_it => Outcome::LoggedIn { name: account.name, account: account.state },
        _ => Outcome::BadCredentials,
    })
}

/// Says that whoever has asked knows the password of somebody who may not log in.
fn log_disabled(name: &Nickname, asked: &Asked) {
    const WHAT: &str = "tried to log in with the right password, but is disabled";
    let (Asked { conn, peer, request }, name) = (asked, name.as_str());
    match request {
        Some(request) => log::warn!(conn:%, request = &**request, peer:%; "{name} {WHAT}"),
        None => log::warn!(conn:%, peer:%; "{name} {WHAT}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use crossbeam::channel::unbounded;

    use super::*;
    use crate::base::slots::Id;
    use crate::record::{Record, Retention};
    use crate::shard::mail::ConnectionRef;
    use crate::store::engine::{Engine, Part};

    fn name(written: &str) -> Nickname {
        Nickname::parse(written).unwrap()
    }

    fn register(who: &str) -> AccountRequest {
        let password = format!("the password of {who}");
        AccountRequest { action: AccountAction::Register, name: name(who), password, asked: asked() }
    }

    fn log_in(who: &str, password: &str) -> AccountRequest {
        let password = password.to_owned();
        AccountRequest { action: AccountAction::Login, name: name(who), password, asked: asked() }
    }

    fn asked() -> Asked {
        let connection = Id { index: 0, generation: 0 };
        Asked {
            conn: ConnectionRef { core: 0, connection },
            peer: [127, 0, 0, 1].into(),
            request: Some("r-1".into()),
        }
    }

    fn store() -> (tempfile::TempDir, PathBuf, Engine) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(crate::store::FILE);
        let engine = Engine::open(&path).unwrap();
        (directory, path, engine)
    }

    struct Rig {
        hashers: Hashers<u32>,
        heard: Receiver<(u32, Outcome)>,
    }

    impl Rig {
        fn new(path: &Path, count: usize, queue: usize) -> Self {
            let (told, heard) = unbounded();
            let done = move |context, outcome| told.send((context, outcome)).unwrap();
            Rig { hashers: Hashers::start(path, count, queue, done).unwrap(), heard }
        }

        fn ask(&self, request: AccountRequest) -> Outcome {
            self.hashers.submit(request, 7).unwrap();
            let (context, outcome) = self.heard.recv_timeout(Duration::from_secs(30)).unwrap();
            assert_eq!(context, 7);
            outcome
        }
    }

    #[test]
    fn users_register_once_and_log_in_with_their_password() {
        let (_directory, path, engine) = store();
        let rig = Rig::new(&path, 1, 4);
        let before = unix_ms();
        assert!(matches!(rig.ask(register("Bob")), Outcome::Registered { name: as_registered, account }
                if as_registered == name("Bob") && account.since_ms > before));
        assert_eq!(rig.ask(register("BOB")), Outcome::Taken);
        match rig.ask(log_in("bob", "the password of Bob")) {
            Outcome::LoggedIn { name, .. } => assert_eq!(name.as_str(), "Bob", "as it was registered"),
            other => panic!("{other:?}"),
        }
        for (who, password) in [("bob", "the password of bob"), ("carol", "the password of carol")] {
            assert_eq!(rig.ask(log_in(who, password)), Outcome::BadCredentials);
        }
        accounts::set_disabled(engine.connection(), &name("bob"), true).unwrap();
        assert_eq!(rig.ask(log_in("bob", "the password of Bob")), Outcome::Disabled);
        assert_eq!(rig.ask(log_in("bob", "not his")), Outcome::BadCredentials);
    }

    #[test]
    fn of_several_who_want_a_name_one_gets_it() {
        let (_directory, path, _engine) = store();
        let rig = Rig::new(&path, 4, 16);
        for (context, who) in ["dave", "Dave", "DAVE", "dAve", "daVe", "davE"].into_iter().enumerate() {
            rig.hashers.submit(register(who), context as u32).unwrap();
        }
        let outcomes: Vec<Outcome> = (0..6).map(|_| rig.heard.recv().unwrap().1).collect();
        let registered = |outcome: &&Outcome| matches!(outcome, Outcome::Registered { .. });
        assert_eq!(outcomes.iter().filter(registered).count(), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Taken).count(), 5, "{outcomes:?}");
    }

    #[test]
    fn a_full_queue_gives_the_context_back_and_what_is_in_it_is_done() {
        let (_directory, path, engine) = store();
        let rig = Rig::new(&path, 1, 2);
        // Held by this transaction, the first registration waits, and the others behind it.
        engine.connection().execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut accepted = 0;
        let refused = (0..20).find_map(|index| {
            let asked = rig.hashers.submit(register(&format!("user{index}")), index);
            accepted += u32::from(asked.is_ok());
            asked.err()
        });
        let refused = refused.expect("not everything has place");
        assert!(accepted >= 2 && refused.0 == accepted, "{refused:?} after {accepted}");
        engine.connection().execute_batch("COMMIT").unwrap();
        let done: Vec<_> = rig.heard.iter().take(accepted as usize).collect();
        assert!(done.iter().all(|(_, outcome)| matches!(outcome, Outcome::Registered { .. })), "{done:?}");
    }

    /// A fault: a server that was told to stop hashed what waited for it first, for seconds where others wanted the processors.
    #[test]
    fn whoever_ends_leaves_what_waits_undone() {
        let (_directory, path, engine) = store();
        let rig = Rig::new(&path, 1, 16);
        engine.connection().execute_batch("BEGIN IMMEDIATE").unwrap();
        for index in 0..8 {
            rig.hashers.submit(register(&format!("user{index}")), index).unwrap();
        }
        let Rig { hashers, heard } = rig;
        let ends = hashers.ends.clone();
        let dropping = std::thread::spawn(move || drop(hashers));
        while !ends.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        engine.connection().execute_batch("COMMIT").unwrap();
        dropping.join().unwrap();
        let done = heard.iter().count();
        assert!(done <= 1, "{done} were done, and one at most was begun");
    }

    #[test]
    fn registrations_go_in_between_the_commits_of_the_storage_thread() {
        let (_directory, path, mut engine) = store();
        let rig = Rig::new(&path, 2, 16);
        let retention = Retention { count: 1000, bytes: 0, age_ms: 0 };
        for index in 0..8 {
            rig.hashers.submit(register(&format!("user{index}")), index).unwrap();
        }
        let (mut offset, mut registered) = (0, 0);
        while registered < 8 {
            let mut frame = vec![0];
            if offset == 0 {
                Record::Room { room: 1, name: "lobby", epoch: "e", retention }.put(&mut frame);
            }
            offset += 1;
            let (sender, content) = ("alice", "hi");
            Record::Message { room: 1, offset, timestamp_ms: offset, sender, content, command: None }
                .put(&mut frame);
            engine.apply(&[Part { ring: 0, frames: &[frame], end: offset }], offset % 2 == 0).unwrap();
            for (_, outcome) in rig.heard.try_iter() {
                assert!(matches!(outcome, Outcome::Registered { .. }), "{outcome:?}");
                registered += 1;
            }
        }
        assert_eq!(engine.rejected(), 0);
        assert_eq!(accounts::list(engine.connection(), "", 100).unwrap().len(), 8);
    }

    #[test]
    fn a_store_that_fails_is_said_to() {
        let (_directory, path, engine) = store();
        let rig = Rig::new(&path, 1, 4);
        engine.connection().execute_batch("DROP TABLE users").unwrap();
        assert!(matches!(rig.ask(register("bob")), Outcome::Down(_)));
        assert!(matches!(rig.ask(log_in("bob", "the password of bob")), Outcome::Down(_)));
    }

    #[test]
    fn a_full_disk_is_told_as_one() {
        let (_directory, path, _engine) = store();
        let db = accounts::open(&path).unwrap();
        let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
        let full = (0..10_000)
            .find_map(|index| accounts::add(&db, &name(&format!("user{index}")), &"x".repeat(97), 1).err());
        assert!(matches!(full, Some(AccountError::Store(_))), "{full:?}");
        let outcomes = ["a", "zz"].map(|who| answer(&db, register(who), 1));
        let is_told = |outcome: &Outcome| match outcome {
            Outcome::Down(error) => error.code == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        };
        assert!(outcomes.iter().any(is_told), "{outcomes:?}");
        assert!(db.is_autocommit(), "no transaction is left open");
        assert_eq!(answer(&db, log_in("nobody", "whatever"), 1), Outcome::BadCredentials, "reading goes on");
    }

    #[test]
    fn requests_do_not_tell_passwords() {
        let told = format!("{:?} {:?}", register("bob"), log_in("bob", "hush"));
        assert!(!told.contains("password") && !told.contains("hush"), "{told}");
    }
}
