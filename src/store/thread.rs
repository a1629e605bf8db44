//! The storage threads: one that writes, one that reads, one that moves the write-ahead log into the file.
//!
//! The writer takes what the journals hold, all of them together, into one transaction, and tells each core how far its own has got. While it
//! commits, the journals gather the next group: the more there is to do, the larger the groups (group commit), and no core ever waits. When
//! the database fails, the group is tried again, in order, until it succeeds; meanwhile the journals hold what comes, as long as they
//! have place.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::directory;
use super::engine::{Engine, Part, Trimmed, connect};
use super::hashers::{Hashers, Outcome, Request};
use super::read::Reader;
use super::{StoreError, load};
use crate::chat::name::Nickname;
use crate::reactor::mailbox::Exchange;
use crate::record::Frame;
use crate::shard::accounts::{AccountAction, AccountOutcome, AccountRequest};
use crate::shard::mail::{ConnectionRef, Mail, Parcel};
use crate::shard::reading::{StoreNews, StoreRequest};
use crate::sys::bell::Bell;
use crate::sys::ring::Ring;
use crate::sys::waker::Waker;

/// Bytes of all journals that one transaction takes.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Messages that are deleted in one step.
const TRIM_ROWS: u64 = 512;

/// Rooms whose rows are brought up to date in one step.
const FLUSH_ROOMS: usize = 4096;

/// Rooms that are looked at for old messages in one step.
const SWEEP_ROOMS: usize = 256;

/// Pages given back to the file system in one step.
const SHRINK_PAGES: u32 = 64;

/// How often the chores are done: old messages, forgotten answers, users that somebody else has registered.
const CHORES: Duration = Duration::from_secs(1);

/// How soon a failed group is tried again: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(1);

/// How often a store that goes on failing is logged.
const LOG_AGAIN: Duration = Duration::from_secs(10);

/// Bytes of the write-ahead log from which on it is moved into the file, by another thread; and from which on the writer waits for that.
const CHECKPOINT_BYTES: u64 = 4 * 1024 * 1024;
const CHECKPOINT_NOW_BYTES: u64 = 32 * 1024 * 1024;
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);

/// What the threads share.
#[derive(Debug, Clone)]
pub struct Links {
    /// The mailboxes of the cores, and behind them that of the reader.
    pub exchange: Arc<Exchange<Parcel>>,
    /// Wakes them.
    pub wakers: Arc<Vec<Waker>>,
    /// Wakes the writer.
    pub bell: Arc<Bell>,
    /// Set when the cores have ended.
    pub stops: Arc<AtomicBool>,
}

/// Tells cores things, and keeps what finds a full mailbox.
struct Teller {
    links: Links,
    kept: Vec<Vec<Mail>>,
}

impl Teller {
    fn new(links: Links) -> Self {
        let cores = links.exchange.cores() - 1;
        Teller { links, kept: (0..cores).map(|_| Vec::new()).collect() }
    }

    fn cores(&self) -> usize {
        self.kept.len()
    }

    fn tell(&mut self, core: usize, news: StoreNews) {
        if let Some(kept) = self.kept.get_mut(core) {
            kept.push(Mail::Store(news));
        }
    }

    /// Delivers what there is, and says whether all of it had place.
    fn deliver(&mut self) -> bool {
        let mut is_all = true;
        for core in 0..self.kept.len() {
            if self.kept[core].is_empty() {
                continue;
            }
            let mailbox = self.links.exchange.mailbox(core);
            let parcel = Parcel { from: self.kept.len() as u16, mail: std::mem::take(&mut self.kept[core]) };
            match mailbox.push(parcel) {
                Ok(()) => {
                    if mailbox.doorbell.ring()
                        && let Err(error) = self.links.wakers[core].wake()
                    {
                        log::error!("core {core} could not be woken: {error}");
                    }
                }
                Err(parcel) => {
                    self.kept[core] = parcel.mail;
                    is_all = false;
                }
            }
        }
        is_all
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
    /// The users that the cores know.
    pub users: Vec<(Nickname, bool)>,
    /// How long what was stored may stay off the disk.
    pub sync_ms: u64,
    /// For how long answers to commands are kept.
    pub receipts_ms: u64,
    /// Who is told.
    pub links: Links,
}

struct Writer {
    engine: Engine,
    path: PathBuf,
    rings: Vec<Arc<Ring>>,
    ends: Vec<u64>,
    group: Vec<Vec<Vec<u8>>>,
    teller: Teller,
    users: Vec<(Nickname, bool)>,
    data_version: i64,
    sync_every: Duration,
    receipts_ms: u64,
    unsynced_since: Option<Instant>,
    down_since: Option<Instant>,
    logged_at: Option<Instant>,
    retry: Duration,
    chores_at: Instant,
}

/// Writes until it is told to stop and everything has been written.
pub fn write(start: WriterStart) {
    let WriterStart { engine, path, rings, ring_paths, users, sync_ms, receipts_ms, links } = start;
    let bell = links.bell.clone();
    let stops = links.stops.clone();
    let data_version = data_version(engine.connection()).unwrap_or(0);
    let mut writer = Writer {
        ends: vec![0; rings.len()],
        group: rings.iter().map(|_| Vec::new()).collect(),
        engine,
        path,
        rings,
        teller: Teller::new(links),
        users,
        data_version,
        sync_every: Duration::from_millis(sync_ms),
        receipts_ms,
        unsynced_since: None,
        down_since: None,
        logged_at: None,
        retry: RETRY_FIRST,
        chores_at: Instant::now() + CHORES,
    };
    loop {
        let is_stopping = stops.load(Ordering::Acquire);
        writer.take_group();
        let is_done = writer.write_group();
        let has_told = writer.teller.deliver();
        if !is_done {
            // Cores that have ended cannot be served any more; what is in their journals is found there by the next server.
            if is_stopping && writer.down_since.is_some_and(|since| since.elapsed() > RETRY_LAST * 5) {
                return log::error!(
                    "the store is still down: what has not been stored stays in the journals"
                );
            }
            bell.wait(|| false, writer.retry);
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
    if let Err(error) = directory::close(&mut writer.engine, &ring_paths) {
        log::error!("the store could not be closed: {error}");
    }
}

impl Writer {
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
            // Without frames the write of the position alone brings the rest to the disk.
            .filter(|ring| !self.group[*ring].is_empty() || !has_frames)
            .map(|ring| Part { ring, frames: &self.group[ring], end: self.ends[ring] })
            .collect();
        let applied = self.engine.apply(&parts, wants_sync);
        drop(parts);
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
            self.logged_at = None;
            log::info!("the store is back after {} ms", since.elapsed().as_millis());
            self.tell_all(|| StoreNews::Down(None));
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
            self.tell_all(|| StoreNews::Down(Some(why.clone())));
        }
        if self.logged_at.is_none_or(|at| at.elapsed() >= LOG_AGAIN) {
            self.logged_at = Some(Instant::now());
            log::error!("the store is down: {error}; it is tried again until it is back");
        }
    }

    fn tell_all(&mut self, news: impl Fn() -> StoreNews) {
        for core in 0..self.teller.cores() {
            self.teller.tell(core, news());
        }
    }

    /// Small steps of what can wait. Says whether there is more to do at once.
    fn do_chores(&mut self) -> bool {
        let done = self.try_chores();
        match done {
            Ok(has_more) => has_more,
            Err(error) => {
                self.note_down(&error);
                false
            }
        }
    }

    fn try_chores(&mut self) -> Result<bool, StoreError> {
        let mut has_more = false;
        // The other thread does not get to the end of a log that is always written to.
        if file_bytes(&wal_of(&self.path)) > CHECKPOINT_NOW_BYTES {
            self.move_log()?;
        }
        if self.engine.has_to_trim() {
            if let Some(trimmed) = self.engine.trim(TRIM_ROWS, self.receipts_since_ms())? {
                self.tell_trimmed(trimmed);
            }
            has_more = self.engine.has_to_trim();
        }
        if Instant::now() < self.chores_at {
            return Ok(has_more);
        }
        let now_ms = crate::sys::unix_ms();
        let (is_swept, trimmed) = self.engine.sweep(now_ms, SWEEP_ROOMS, self.receipts_since_ms())?;
        trimmed.into_iter().for_each(|trimmed| self.tell_trimmed(trimmed));
        self.engine.flush_rooms(FLUSH_ROOMS)?;
        self.look_for_users()?;
        let forgotten = self.engine.forget_receipts(self.receipts_since_ms())?;
        self.engine.shrink(SHRINK_PAGES)?;
        if is_swept && forgotten == 0 {
            self.chores_at = Instant::now() + CHORES;
        }
        Ok(true)
    }

    /// Answers to commands before this time are not needed any more.
    fn receipts_since_ms(&self) -> u64 {
        crate::sys::unix_ms().saturating_sub(self.receipts_ms)
    }

    /// Moves all of the write-ahead log into the file, and empties it.
    fn move_log(&self) -> Result<(), StoreError> {
        Ok(self.engine.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    fn tell_trimmed(&mut self, trimmed: Trimmed) {
        let Trimmed { room, ring, first_kept, .. } = trimmed;
        match ring {
            Some(core) => self.teller.tell(core, StoreNews::Trimmed { room, first_kept }),
            None => self.tell_all(|| StoreNews::Trimmed { room, first_kept }),
        }
    }

    /// Users that were registered by another connection, or another process.
    fn look_for_users(&mut self) -> Result<(), StoreError> {
        let version = data_version(self.engine.connection())?;
        if std::mem::replace(&mut self.data_version, version) == version {
            return Ok(());
        }
        let now = load::registered(self.engine.connection())?;
        let gone = self.users.iter().filter(|(name, _)| !now.iter().any(|(other, _)| other == name));
        let mut changes: Vec<(Nickname, Option<bool>)> = gone.map(|(name, _)| (name.clone(), None)).collect();
        let known: std::collections::HashMap<&Nickname, bool> =
            self.users.iter().map(|(name, off)| (name, *off)).collect();
        let changed = now.iter().filter(|(name, off)| known.get(name) != Some(off));
        changes.extend(changed.map(|(name, off)| (name.clone(), Some(*off))));
        self.users = now;
        if !changes.is_empty() {
            log::info!("{} accounts were changed by another program", changes.len());
            self.tell_all(|| StoreNews::Users(changes.clone()));
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

fn wal_of(path: &std::path::Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn file_bytes(path: &std::path::Path) -> u64 {
    std::fs::metadata(path).map_or(0, |facts| facts.len())
}

/// Answers what the cores ask, until it is told to stop. `wait` sleeps until the reader's waker is used, or for a while.
pub fn read(path: PathBuf, links: Links, hashers: (usize, usize), mut wait: impl FnMut(Option<Duration>)) {
    let store = links.exchange.cores() - 1;
    let mut reader: Option<Reader> = None;
    let mut teller = Teller::new(links.clone());
    let (threads, queue) = hashers;
    let hashers = start_hashers(&path, threads, queue, &links).inspect_err(|error| {
        log::error!("store: nobody can log in or register: {error}");
    });
    while !links.stops.load(Ordering::Acquire) {
        let mailbox = links.exchange.mailbox(store);
        while let Some(parcel) = mailbox.pop() {
            for mail in parcel.mail {
                let Mail::StoreRequest { from, request } = mail else { continue };
                if reader.is_none() {
                    reader = Reader::open(&path).inspect_err(|error| log::error!("store: {error}")).ok();
                }
                let core = usize::from(from);
                let news = match request {
                    StoreRequest::Account { request, to } => {
                        match ask_hashers(hashers.as_ref().ok(), request, to) {
                            Some(news) => news,
                            None => continue, // when they have looked at the password
                        }
                    }
                    request => answer(reader.as_ref(), request),
                };
                teller.tell(core, news);
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

type AccountHashers = Hashers<ConnectionRef>;

/// Starts the threads that look at passwords. They tell the cores themselves.
fn start_hashers(
    path: &std::path::Path,
    threads: usize,
    queue: usize,
    links: &Links,
) -> Result<AccountHashers, StoreError> {
    let links = links.clone();
    Hashers::start(path, threads, queue, move |to: ConnectionRef, outcome| {
        let mut teller = Teller::new(links.clone());
        let deliver = |teller: &mut Teller| {
            while !teller.deliver() && !links.stops.load(Ordering::Acquire) {
                crate::sys::threads::sleep_ms(1);
            }
        };
        let outcome = match outcome {
            Outcome::Registered { name } => {
                // Now, and not when the writer finds it: nobody else is to have the name any more.
                for core in 0..teller.cores() {
                    teller.tell(core, StoreNews::Users(vec![(name.clone(), Some(false))]));
                }
                deliver(&mut teller); // before the user can know of it
                AccountOutcome::Granted(name)
            }
            Outcome::LoggedIn { name } => AccountOutcome::Granted(name),
            Outcome::Taken => AccountOutcome::Taken,
            Outcome::BadCredentials | Outcome::Disabled => AccountOutcome::BadCredentials,
            Outcome::Down(error) => AccountOutcome::Down(error.message.into()),
            Outcome::Failed(why) => AccountOutcome::Down(why.into()),
        };
        teller.tell(usize::from(to.core), StoreNews::Account { to, outcome });
        deliver(&mut teller);
    })
}

/// Has a password looked at; the answer is there at once if that cannot be.
fn ask_hashers(
    hashers: Option<&AccountHashers>,
    request: AccountRequest,
    to: ConnectionRef,
) -> Option<StoreNews> {
    let AccountRequest { action, name, password } = request;
    let request = match action {
        AccountAction::Register => Request::Register { name, password },
        AccountAction::Login => Request::Login { name, password },
    };
    let outcome = match hashers {
        None => AccountOutcome::Down("the threads for passwords could not be started".into()),
        Some(hashers) => match hashers.submit(request, to) {
            Ok(()) => return None,
            Err(_) => AccountOutcome::Busy,
        },
    };
    Some(StoreNews::Account { to, outcome })
}

/// What a reader answers to a request.
pub fn answer(reader: Option<&Reader>, request: StoreRequest) -> StoreNews {
    let log = |error: &StoreError| log::error!("store: cannot be read: {error}");
    match request {
        StoreRequest::Page(page, then) => {
            let entries = reader.and_then(|reader| reader.page(&page).inspect_err(log).ok());
            StoreNews::Page(then, entries)
        }
        StoreRequest::Inbox { user, to, recent } => {
            let inbox = reader.and_then(|reader| reader.inbox(user.folded()).inspect_err(log).ok());
            StoreNews::Inbox { to, inbox, recent }
        }
        StoreRequest::Account { to, .. } => StoreNews::Account { to, outcome: AccountOutcome::Busy },
    }
}

/// Moves the write-ahead log into the file, so that neither it nor the time of a commit grows.
pub fn checkpoint(path: &std::path::Path, stops: &AtomicBool) {
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
