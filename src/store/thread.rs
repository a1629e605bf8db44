//! The storage threads: one that writes, one that reads, one that moves the write-ahead log into the file, and one that sees when the disk does
//! not answer.
//!
//! The writer takes what the journals hold, all of them together, into one transaction, and tells each core how far its own has got. While it
//! commits, the journals gather the next group: the more there is to do, the larger the groups (group commit), and no core ever waits. When
//! the database fails, the group is tried again, in order, until it succeeds; meanwhile the journals hold what comes, as long as they
//! have place.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::connection::connect;
use super::directory;
use super::engine::{Engine, Part, Trimmed};
use super::hashers::{Hashers, Outcome};
use super::read::Reader;
use super::{StoreError, WAL, accounts, load};
use crate::base::slots::Id;
use crate::chat::name::Nickname;
use crate::reactor::mailbox::Exchange;
use crate::reactor::teller;
use crate::record::{AccountState, Frame};
use crate::shard::accounts::AccountOutcome;
use crate::shard::mail::{Mail, Parcel};
use crate::shard::reading::{StoreNews, StoreRequest};
use crate::sys::bell::Bell;
use crate::sys::complaint::Complaint;
use crate::sys::files;
use crate::sys::ring::Ring;
use crate::sys::waker::{self, Waker};

/// Bytes of all journals that one transaction takes.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Messages that are deleted in one step, beside as many as the group before it has brought.
const TRIM_ROWS: u64 = 512;

/// Rooms whose rows are brought up to date in one step.
const FLUSH_ROOMS: usize = 4096;

/// Rooms that are looked at for old messages in one step.
const SWEEP_ROOMS: usize = 256;

/// Pages given back to the file system in one step.
const SHRINK_PAGES: u32 = 512;

/// How often the chores are done: old messages, forgotten answers, users that somebody else has registered.
const CHORES: Duration = Duration::from_secs(1);

/// How soon a failed group is tried again: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(1);

/// Bytes of the write-ahead log from which on it is moved into the file, by another thread; and from which on the writer waits for that.
const CHECKPOINT_BYTES: u64 = 4 * 1024 * 1024;
const CHECKPOINT_NOW_BYTES: u64 = 128 * 1024 * 1024;
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);

/// What the threads share.
#[derive(Debug, Clone)]
pub struct Links {
    /// The mailboxes of the cores, and behind them that of the reader.
    pub exchange: Arc<Exchange<Parcel>>,
    /// Wakes them.
    pub wakers: Arc<Vec<Waker>>,
    /// The registered users that the cores know of. Whoever tells them of others holds this meanwhile, so that what was told last is what
    /// is so.
    pub users: Arc<Mutex<HashMap<Nickname, AccountState>>>,
    /// What the writer is doing.
    pub watched: Arc<Watched>,
    /// Wakes the writer.
    pub bell: Arc<Bell>,
    /// Set when the cores have ended.
    pub stops: Arc<AtomicBool>,
}

/// What the writer is doing, for somebody who sees that it takes too long: a thread that waits for a disk can say nothing itself.
#[derive(Debug, Default)]
pub struct Watched {
    /// Since when a group is being written, in milliseconds of the clock of the loops; 0: none is.
    busy_since: AtomicU64,
    /// Whether the cores have been told that the disk does not answer.
    is_told: AtomicBool,
    /// How often it has looked for something to do.
    turns: AtomicU64,
}

/// Sees whether the writer looks at what there is for it to do.
///
/// Counted in looks, not by a clock, which goes on while the whole machine stands still.
struct Attention {
    looks_max: u32,
    looks: u32,
    turns: u64,
    held_since: Option<Instant>,
}

impl Attention {
    fn new(deadline_ms: u64) -> Self {
        let looks_max = deadline_ms / WATCH_EVERY.as_millis() as u64;
        Attention { looks_max: looks_max.max(2) as u32, looks: 0, turns: 0, held_since: None }
    }

    /// Says in the log when the writer has let something wait for too long while it was doing nothing, and when it goes on.
    fn look(&mut self, turns: u64, has_to_do: bool) {
        if !has_to_do || std::mem::replace(&mut self.turns, turns) != turns {
            self.looks = 0;
            if let Some(since) = self.held_since.take() {
                log::info!("the storage thread goes on after {} ms", since.elapsed().as_millis());
            }
            return;
        }
        self.looks += 1;
        if self.looks >= self.looks_max && self.held_since.is_none() {
            let waited = WATCH_EVERY * self.looks;
            self.held_since = Some(Instant::now().checked_sub(waited).unwrap_or_else(Instant::now));
            log::warn!(
                "the storage thread has not looked at the journals for {} ms: what is to be stored waits",
                waited.as_millis()
            );
        }
    }
}

/// How often somebody looks whether the disk answers.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// Tells the cores and the log when a group has been written for longer than somebody waits for an acknowledgement; and the log when the
/// writer is held up elsewhere for so long.
pub fn watch(links: &Links, rings: &[Arc<Ring>], deadline_ms: u64) {
    let mut attention = Attention::new(deadline_ms);
    let mut teller = Teller::new(links.clone());
    let mut complaint = Complaint::default();
    while !links.stops.load(Ordering::Acquire) {
        std::thread::park_timeout(WATCH_EVERY);
        teller.deliver();
        let since = links.watched.busy_since.load(Ordering::SeqCst);
        let has_to_do = since == 0 && rings.iter().any(|ring| ring.tail() > ring.head());
        attention.look(links.watched.turns.load(Ordering::SeqCst), has_to_do);
        let waited_ms = crate::sys::monotonic_ms().saturating_sub(since);
        if since == 0 || waited_ms < deadline_ms {
            continue;
        }
        if complaint.is_due() {
            log::error!("the store is down: the disk has not answered for {waited_ms} ms; it is waited for");
        }
        if links.watched.is_told.load(Ordering::SeqCst) {
            continue;
        }
        teller.tell_all(|| StoreNews::Down(Some("the disk does not answer".into())));
        teller.deliver();
        links.watched.is_told.store(true, Ordering::SeqCst);
        // It may have answered meanwhile. Whoever takes the mark back is the one who tells.
        if links.watched.busy_since.load(Ordering::SeqCst) != since
            && links.watched.is_told.swap(false, Ordering::SeqCst)
        {
            teller.tell_all(|| StoreNews::Down(None));
        }
    }
}

/// Tells cores things, and keeps what finds a full mailbox.
struct Teller {
    links: Links,
    cores: teller::Teller,
}

impl Teller {
    fn new(links: Links) -> Self {
        let cores = teller::Teller::new(links.exchange.clone(), links.exchange.cores() - 1);
        Teller { links, cores }
    }

    fn cores(&self) -> usize {
        self.cores.cores()
    }

    fn tell(&mut self, core: usize, news: StoreNews) {
        self.cores.tell(core, Mail::Store(news));
    }

    fn tell_all(&mut self, news: impl Fn() -> StoreNews) {
        self.cores.tell_all(|| Mail::Store(news()));
    }

    /// Delivers what there is, and says whether all of it had place.
    fn deliver(&mut self) -> bool {
        let wakers = &self.links.wakers;
        self.cores.deliver(|core| waker::wake(wakers, core))
    }
}

/// What the writer is started with.
#[derive(Debug)]
pub struct WriterStart {
    /// The database.
    pub engine: Engine,
    /// Its file.
    pub path: PathBuf,
    /// The journals.
    pub rings: Vec<Arc<Ring>>,
    /// Where they lie.
    pub ring_paths: Vec<PathBuf>,
    /// How long what was stored may stay off the disk.
    pub sync_ms: u64,
    /// For how long answers to commands are kept.
    pub receipts_ms: u64,
    /// And of one session how many, at least.
    pub receipts_max: usize,
    /// Who is told.
    pub links: Links,
}

struct Writer {
    engine: Engine,
    path: PathBuf,
    /// Which file that was at the beginning.
    file: Option<(u64, u64)>,
    rings: Vec<Arc<Ring>>,
    ends: Vec<u64>,
    group: Vec<Vec<Vec<u8>>>,
    teller: Teller,
    data_version: i64,
    sync_every: Duration,
    receipts_ms: u64,
    unsynced_since: Option<Instant>,
    down_since: Option<Instant>,
    complaint: Complaint,
    retry: Duration,
    chores_at: Instant,
    /// When messages may be deleted again, after that has failed.
    trim_at: Instant,
    /// Whether all that can be forgotten has been.
    is_forgotten: bool,
    chores_complaint: Complaint,
}

/// Writes until it is told to stop and everything has been written. Says whether that was possible.
#[must_use]
pub fn write(start: WriterStart) -> bool {
    let WriterStart { mut engine, path, rings, ring_paths, sync_ms, receipts_ms, receipts_max, links } =
        start;
    engine.bound_commands(receipts_max);
    let bell = links.bell.clone();
    let stops = links.stops.clone();
    let data_version = data_version(engine.connection()).unwrap_or(0);
    let mut writer = Writer {
        ends: vec![0; rings.len()],
        group: rings.iter().map(|_| Vec::new()).collect(),
        engine,
        file: path.metadata().ok().as_ref().map(files::id),
        path,
        rings,
        teller: Teller::new(links),
        data_version,
        sync_every: Duration::from_millis(sync_ms),
        receipts_ms,
        unsynced_since: None,
        down_since: None,
        complaint: Complaint::default(),
        retry: RETRY_FIRST,
        chores_at: Instant::now() + CHORES,
        trim_at: Instant::now(),
        is_forgotten: true,
        chores_complaint: Complaint::default(),
    };
    loop {
        let is_stopping = stops.load(Ordering::Acquire);
        writer.teller.links.watched.turns.fetch_add(1, Ordering::SeqCst);
        writer.take_group();
        let is_done = writer.write_group();
        let has_told = writer.teller.deliver();
        if !is_done {
            // Cores that have ended cannot be served any more; what is in their journals is found there by the next server.
            if is_stopping && writer.down_since.is_some_and(|since| since.elapsed() > RETRY_LAST * 5) {
                log::error!("the store is still down: what has not been stored stays in the journals");
                return false;
            }
            // Not by the bell: whoever writes rings it, and the disk would be tried again each time.
            std::thread::sleep(writer.retry);
            continue;
        }
        let has_more = writer.has_input();
        if is_stopping && !has_more {
            break;
        }
        let chores = writer.do_chores();
        if has_more || chores {
            continue;
        }
        let timeout = if has_told { writer.next_wake() } else { Duration::from_millis(1) };
        bell.wait(|| writer.has_input() || stops.load(Ordering::Acquire), timeout);
    }
    let closed = directory::close(&mut writer.engine, &ring_paths);
    if let Err(error) = &closed {
        log::error!("the store could not be closed: {error}");
    }
    closed.is_ok()
}

impl Writer {
    /// Whether the file still has the name by which the next server will look for it.
    fn has_its_file(&self) -> bool {
        match self.path.metadata() {
            Ok(facts) => self.file.is_none_or(|file| file == files::id(&facts)),
            // Whatever else the disk says, the commit will hear too.
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }

    fn has_input(&self) -> bool {
        self.rings.iter().zip(&self.ends).any(|(ring, end)| ring.tail() > *end)
    }

    /// Takes what the journals hold, unless a group waits to be tried again.
    fn take_group(&mut self) {
        if self.group.iter().any(|frames| !frames.is_empty()) {
            return;
        }
        let share = GROUP_BYTES / self.rings.len().max(1);
        for (index, ring) in self.rings.iter().enumerate() {
            match ring.read(self.ends[index], share, &mut self.group[index]) {
                Ok(end) => self.ends[index] = end,
                Err(error) => {
                    log::error!("journal {index}: {error}: what is in it is lost");
                    self.ends[index] = ring.tail();
                }
            }
        }
    }

    /// Writes the group, and tells the cores. Says whether there is nothing left of it.
    fn write_group(&mut self) -> bool {
        let has_frames = self.group.iter().any(|frames| !frames.is_empty());
        let is_sync_due = self.unsynced_since.is_some_and(|since| since.elapsed() >= self.sync_every);
        if !has_frames && !is_sync_due && self.down_since.is_none() {
            return true;
        }
        let wants_sync = is_sync_due || self.group.iter().flatten().any(|frame| Frame::wants_sync(frame));
        let parts: Vec<Part> = (0..self.rings.len())
            // Without frames it is the rest that is brought to the disk.
            .filter(|ring| !self.group[*ring].is_empty() || !has_frames)
            .map(|ring| Part { ring, frames: &self.group[ring], end: self.ends[ring] })
            .collect();
        let watched = self.teller.links.watched.clone();
        watched.busy_since.store(crate::sys::monotonic_ms().max(1), Ordering::SeqCst);
        // SQLite would go on with a file that has no name any more, and end with it.
        let applied = match self.has_its_file() {
            true => self.engine.apply(&parts, wants_sync),
            false => Err(StoreError::new(format!(
                "{} has been removed or replaced while the server writes it: put it back where it was",
                self.path.display()
            ))),
        };
        watched.busy_since.store(0, Ordering::SeqCst);
        drop(parts);
        if watched.is_told.swap(false, Ordering::SeqCst) && applied.is_ok() {
            log::info!("the disk answers again");
            self.teller.tell_all(|| StoreNews::Down(None));
        }
        match applied {
            Ok(()) => {
                self.note_written(wants_sync);
                true
            }
            Err(error) => {
                self.note_down(&error);
                false
            }
        }
    }

    fn note_written(&mut self, is_synced: bool) {
        for index in 0..self.rings.len() {
            let end = self.ends[index];
            self.rings[index].release(end);
            let had_frames = !self.group[index].is_empty();
            self.group[index].clear();
            if had_frames || is_synced {
                let synced = if is_synced { end } else { 0 };
                self.teller.tell(index, StoreNews::Progress { stored: end, synced });
            }
        }
        match is_synced {
            true => self.unsynced_since = None,
            false => drop(self.unsynced_since.get_or_insert_with(Instant::now)),
        }
        self.retry = RETRY_FIRST;
        if let Some(since) = self.down_since.take() {
            self.complaint = Complaint::default();
            log::info!("the store is back after {} ms", since.elapsed().as_millis());
            self.teller.tell_all(|| StoreNews::Down(None));
        }
    }

    fn note_down(&mut self, error: &StoreError) {
        self.retry = (self.retry * 2).min(RETRY_LAST);
        // A disk may be full of nothing but the log.
        if error.code == Some(ErrorCode::DiskFull) {
            let _ = self.move_log();
        }
        if self.down_since.is_none() {
            self.down_since = Some(Instant::now());
            let why: Box<str> = error.message.as_str().into();
            self.teller.tell_all(|| StoreNews::Down(Some(why.clone())));
        }
        if self.complaint.is_due() {
            log::error!("the store is down: {error}; it is tried again until it is back");
        }
    }

    /// Small steps of what can wait. Says whether there is more to do at once.
    ///
    /// What fails here is tried again later, and does not make the store one that is down: whether messages can be written, their own
    /// transactions tell.
    fn do_chores(&mut self) -> bool {
        self.try_chores().unwrap_or_else(|error| {
            if self.chores_complaint.is_due() {
                log::error!("the store could not be tidied: {error}; it is tried again");
            }
            self.chores_at = Instant::now() + CHORES;
            self.trim_at = self.chores_at;
            false
        })
    }

    fn try_chores(&mut self) -> Result<bool, StoreError> {
        // Somebody reads what is old, and lets the log grow.
        if file_bytes(&wal_of(&self.path)) > CHECKPOINT_NOW_BYTES {
            self.move_log()?;
        }
        let receipts_since_ms = crate::sys::unix_ms().saturating_sub(self.receipts_ms);
        let mut has_more = false;
        let may_delete = Instant::now() >= self.trim_at;
        if self.engine.has_to_trim() && may_delete {
            for trimmed in self.engine.trim(TRIM_ROWS, receipts_since_ms)? {
                self.tell_trimmed(trimmed);
            }
            has_more = self.engine.has_to_trim();
        }
        let is_due = Instant::now() >= self.chores_at;
        if is_due || (may_delete && (!self.is_forgotten || self.engine.has_noted_many())) {
            self.is_forgotten = self.engine.forget(receipts_since_ms)?;
        }
        if !is_due {
            return Ok(has_more || !self.is_forgotten);
        }
        if let (rooms @ 1.., messages) = self.engine.take_narrowed() {
            log::warn!(
                "{messages} messages are deleted: the bounds of history have become narrower (rooms: {rooms})"
            );
        }
        let is_swept = self.engine.sweep(crate::sys::unix_ms(), SWEEP_ROOMS)?;
        self.engine.flush_rooms(FLUSH_ROOMS)?;
        self.look_for_users()?;
        self.engine.shrink(SHRINK_PAGES)?;
        if is_swept {
            self.chores_at = Instant::now() + CHORES;
            if self.is_forgotten {
                self.engine.end_pass();
            }
        }
        Ok(true)
    }

    /// Moves all of the write-ahead log into the file, and empties it.
    fn move_log(&self) -> Result<(), StoreError> {
        Ok(self.engine.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    fn tell_trimmed(&mut self, trimmed: Trimmed) {
        let Trimmed { room, ring, first_kept } = trimmed;
        match ring {
            Some(core) => self.teller.tell(core, StoreNews::Trimmed { room, first_kept }),
            None => self.teller.tell_all(|| StoreNews::Trimmed { room, first_kept }),
        }
    }

    /// Users that were registered by another connection, or another process.
    fn look_for_users(&mut self) -> Result<(), StoreError> {
        let version = data_version(self.engine.connection())?;
        if std::mem::replace(&mut self.data_version, version) == version {
            return Ok(());
        }
        let users = self.teller.links.users.clone();
        let mut users = users.lock().unwrap_or_else(PoisonError::into_inner);
        let now: HashMap<Nickname, AccountState> =
            load::registered(self.engine.connection())?.into_iter().collect();
        let gone = users.keys().filter(|name| !now.contains_key(*name));
        let mut changes: Vec<(Nickname, Option<AccountState>)> =
            gone.map(|name| (name.clone(), None)).collect();
        let changed = now.iter().filter(|(name, account)| users.get(*name) != Some(account));
        changes.extend(changed.map(|(name, account)| (name.clone(), Some(*account))));
        *users = now;
        if !changes.is_empty() {
            log::debug!("{} accounts have changed", changes.len());
            self.teller.tell_all(|| StoreNews::Users(changes.clone()));
        }
        Ok(())
    }

    fn next_wake(&self) -> Duration {
        let chores = self.chores_at.saturating_duration_since(Instant::now());
        let sync = self.unsynced_since.map(|since| self.sync_every.saturating_sub(since.elapsed()));
        sync.map_or(chores, |sync| sync.min(chores)).max(Duration::from_millis(1))
    }
}

fn data_version(db: &Connection) -> Result<i64, StoreError> {
    Ok(db.pragma_query_value(None, "data_version", |row| row.get(0))?)
}

fn wal_of(path: &Path) -> PathBuf {
    files::beside(path, WAL)
}

fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |facts| facts.len())
}

/// Answers what the cores ask, until it is told to stop. `hashers` are how many threads look at passwords, and how many passwords wait for
/// them. `wait` sleeps until the reader's waker is used, or for a while.
pub fn read(path: PathBuf, links: Links, hashers: (usize, usize), mut wait: impl FnMut(Option<Duration>)) {
    let store = links.exchange.cores() - 1;
    let mailbox = links.exchange.mailbox(store);
    let mut teller = Teller::new(links.clone());
    let (threads, queue) = hashers;
    let hashers = start_hashers(&path, threads, queue, &links)
        .inspect_err(|error| log::error!("store: nobody can log in or register: {error}"))
        .ok();
    let mut answers = Answers { path, reader: None, hashers, complaint: Complaint::default() };
    while !links.stops.load(Ordering::Acquire) {
        while let Some(parcel) = mailbox.pop() {
            for mail in parcel.mail {
                let Mail::StoreRequest { from, request } = mail else { continue };
                if let Some(news) = answers.answer(from, request) {
                    teller.tell(usize::from(from), news);
                }
            }
            teller.deliver();
        }
        if !teller.deliver() {
            wait(Some(Duration::from_millis(1)));
        } else if mailbox.doorbell.park(|| !mailbox.is_empty() || links.stops.load(Ordering::Acquire)) {
            wait(None);
        }
        mailbox.doorbell.unpark();
    }
}

/// What answers are found with.
struct Answers {
    path: PathBuf,
    /// Opened when somebody asks for the first time.
    reader: Option<Reader>,
    hashers: Option<AccountHashers>,
    complaint: Complaint,
}

impl Answers {
    /// The answer to a request; `None`: it comes from the threads that look at passwords.
    fn answer(&mut self, from: u16, request: StoreRequest) -> Option<StoreNews> {
        Some(match request {
            StoreRequest::Page { page, wait } => {
                let entries = self.read(|reader| reader.page(&page));
                StoreNews::Page { wait, entries }
            }
            StoreRequest::Inbox { user, to, offsets, recent } => {
                let inbox = self.read(|reader| reader.inbox(user.folded(), &offsets));
                StoreNews::Inbox { to, inbox, recent }
            }
            StoreRequest::Account { request, wait } => {
                let outcome = match &self.hashers {
                    None => AccountOutcome::Down("the threads for passwords could not be started".into()),
                    Some(hashers) => match hashers.submit(request, (from, wait)) {
                        Ok(()) => return None,
                        Err(_) => AccountOutcome::Busy,
                    },
                };
                StoreNews::Account { wait, outcome }
            }
        })
    }

    /// Reads something, or says in the log why that cannot be done; not each time, as clients may ask again and again.
    fn read<T>(&mut self, read: impl FnOnce(&Reader) -> Result<T, StoreError>) -> Option<T> {
        let opened = match self.reader.take() {
            Some(reader) => Ok(reader),
            None => Reader::open(&self.path),
        };
        let done = opened.and_then(|reader| read(self.reader.insert(reader)));
        match done {
            Ok(value) => Some(value),
            Err(error) => {
                if self.complaint.is_due() {
                    log::error!("the store cannot be read: {error}");
                }
                None
            }
        }
    }
}

/// A job's context: the core that asked, and what it waits for.
type AccountHashers = Hashers<(u16, Id)>;

/// Whether an account is still so: looking at a password takes a while.
fn is_current(path: &Path, name: &Nickname, account: AccountState) -> bool {
    let Ok(db) = accounts::open(path) else { return false };
    let found = accounts::find(&db, name);
    found.is_ok_and(|found| found.is_some_and(|found| found.state == account))
}

/// Starts the threads that look at passwords. They tell the cores themselves.
fn start_hashers(
    path: &Path,
    threads: usize,
    queue: usize,
    links: &Links,
) -> Result<AccountHashers, StoreError> {
    let links = links.clone();
    let file = path.to_owned();
    Hashers::start(path, threads, queue, move |(from, wait), outcome| {
        let mut teller = Teller::new(links.clone());
        let deliver = |teller: &mut Teller| {
            while !teller.deliver() && !links.stops.load(Ordering::Acquire) {
                crate::sys::threads::sleep_ms(1);
            }
        };
        let outcome = match outcome {
            Outcome::Registered { name, account } | Outcome::LoggedIn { name, account } => {
                // Now, and not when the writer finds it: nobody else is to have the name any more, and the token is to be good at once
                // also of somebody who was registered, or got another password, by another process a moment ago.
                let mut users = links.users.lock().unwrap_or_else(PoisonError::into_inner);
                if users.get(&name) != Some(&account) && is_current(&file, &name, account) {
                    users.insert(name.clone(), account);
                    for core in 0..teller.cores() {
                        teller.tell(core, StoreNews::Users(vec![(name.clone(), Some(account))]));
                    }
                    deliver(&mut teller); // before the user can know of it
                }
                drop(users);
                AccountOutcome::Granted { name, since_ms: account.since_ms }
            }
            Outcome::Taken => AccountOutcome::Taken,
            Outcome::BadCredentials | Outcome::Disabled => AccountOutcome::BadCredentials,
            Outcome::Down(error) => AccountOutcome::Down(error.message.into()),
            Outcome::Failed(why) => AccountOutcome::Down(why.into()),
        };
        teller.tell(usize::from(from), StoreNews::Account { wait, outcome });
        deliver(&mut teller);
    })
}

/// Moves the write-ahead log into the file, so that neither it nor the time of a commit grows.
pub fn checkpoint(path: &Path, stops: &AtomicBool) {
    let mut connection = None;
    while !stops.load(Ordering::Acquire) {
        std::thread::park_timeout(CHECKPOINT_EVERY);
        if file_bytes(&wal_of(path)) < CHECKPOINT_BYTES {
            continue;
        }
        if connection.is_none() {
            connection = connect(path, true).ok();
        }
        // What fails here fails for the writer too, who says so.
        if let Some(connection) = &connection {
            let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
    }
}

#[cfg(test)]
mod tests;
