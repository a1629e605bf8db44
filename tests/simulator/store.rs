//! The storage threads of a run, played in its one thread by its dice: they take groups of frames from the cores' journals, commit
//! them to a real database in memory with a lag, fail, hang, and answer what is to be read. What they tell is told as the real ones
//! tell it (`store::thread`): through mailboxes that may be full.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use starling::base::rng::Rng;
use starling::config::{AckLevel, Config};
use starling::reactor::mailbox::Exchange;
use starling::record::{Frame, Record};
use starling::shard::mail::{Mail, Parcel};
use starling::shard::reading::{StoreNews, StoreRequest};
use starling::store::engine::{Engine, Part, Trimmed};
use starling::store::read::{read_inbox, read_page};
use starling::sys::ring::Ring;

use crate::faults::{happens, pick};
use crate::kernel::Kernel;
use crate::model::{Model, key_of};

/// How the store of a run behaves. Chances are in a thousand, each time that it could.
#[derive(Debug, Clone, Default)]
pub struct Storage {
    /// Bytes of each journal that go into one group.
    pub group_bytes: usize,
    /// A group is taken, or the one at hand is committed.
    pub write: u64,
    /// Something is read that was asked for.
    pub read: u64,
    /// What was asked for cannot be read.
    pub read_fails: u64,
    /// What is to be told is put into the mailboxes.
    pub tell: u64,
    /// Messages over the bounds are deleted.
    pub trim: u64,
    /// The database begins to fail.
    pub fail: u64,
    /// It begins to hang.
    pub hang: u64,
    /// The process is killed, and the machine fails: in a hundred thousand steps of the run.
    pub kill: u64,
    pub machine: u64,
}

impl Storage {
    /// The store of a run, and what its configuration says of it.
    pub fn draw(rng: &mut Rng, config: &mut Config) -> Storage {
        config.store.queue_bytes = pick(rng, &[32_768, 65_536, 262_144, 1_048_576]);
        config.store.deadline_ms = pick(rng, &[30, 300, 5000]);
        config.store.sync_ms = pick(rng, &[5, 100, 1000]);
        config.store.ack = pick(rng, &[AckLevel::Sequenced, AckLevel::Sequenced, AckLevel::Stored]);
        config.history.count = pick(rng, &[0, 3, 30, 1000, 1000]);
        config.history.memory_count = pick(rng, &[1, 5, 1000]);
        let mut seldom = |most: u64| if rng.chance(50) { 0 } else { rng.below(most) + 1 };
        let (read_fails, fail, hang) = (seldom(200), seldom(20), seldom(10));
        let (kill, machine) = (seldom(60), seldom(30));
        Storage {
            group_bytes: pick(rng, &[1, 1000, 1_000_000]),
            write: pick(rng, &[50, 300, 900]),
            read: pick(rng, &[50, 300, 900]),
            read_fails,
            tell: pick(rng, &[100, 900]),
            trim: pick(rng, &[20, 300]),
            fail,
            hang,
            kill,
            machine,
        }
    }
}

/// How the database fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    ReadOnly,
    /// In the middle of a group, if it needs more place than there is.
    Full,
}

/// The storage threads.
pub struct Store {
    engine: Engine,
    pub rings: Vec<Arc<Ring>>,
    exchange: Arc<Exchange<Parcel>>,
    storage: Storage,
    sync_ms: u64,
    deadline_ms: u64,
    ends: Vec<u64>,
    group: Vec<Vec<Vec<u8>>>,
    /// What was stored without being synced since.
    unsynced_since: Option<u64>,
    failure: Option<Failure>,
    fails_until: u64,
    hangs_until: u64,
    is_down: bool,
    /// What is to be told to each core.
    kept: Vec<Vec<Mail>>,
    requests: VecDeque<(usize, StoreRequest)>,
    /// Whether the reader sleeps until its mailbox's bell rings.
    is_reader_parked: bool,
    /// Since when something is not on the disk, or not known to be.
    behind_since: Option<u64>,
}

/// What clients are to know of the store.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Messages that have been committed, by the keys of their contents, with the number of the commit; and how many commits are on
    /// the disk.
    committed: BTreeMap<String, u64>,
    commits: u64,
    synced_commits: u64,
    /// When somebody may have been told last that the store is down.
    trouble_at: u64,
    is_in_trouble: bool,
    /// When something could not be read last.
    read_failed_at: u64,
    /// When a message last had to wait for place in the journal.
    held_at: u64,
}

impl Ledger {
    /// Whether a message has been committed, and is on the disk if that is the level.
    pub fn has(&self, content: &str, level: AckLevel) -> bool {
        let commit = self.committed.get(key_of(content));
        level == AckLevel::Sequenced
            || commit.is_some_and(|commit| level < AckLevel::Synced || *commit <= self.synced_commits)
    }

    /// Whether somebody who asked for something at `since` may hear that the store is down.
    pub fn may_be_down(&self, since: u64) -> bool {
        self.trouble_at >= since
    }

    /// Whether something could not be read since then.
    pub fn was_unread(&self, since: u64) -> bool {
        self.read_failed_at >= since
    }

    /// Notes that somebody has waited for the store in vain.
    pub fn note_overdue(&mut self, moment: u64) {
        self.read_failed_at = moment;
    }

    /// Notes that a message waits for place in the journal, at whatever level it is to be acknowledged.
    pub fn note_held(&mut self, moment: u64) {
        self.held_at = moment;
    }

    /// Whether a message that was said at `since` may have waited for place.
    pub fn may_be_held(&self, since: u64) -> bool {
        self.held_at >= since
    }

    /// Notes which messages a group has brought.
    fn note_committed(&mut self, group: &[Vec<Vec<u8>>], is_synced: bool) {
        self.commits += 1;
        for frame in group.iter().flatten() {
            for record in Frame::records(frame) {
                if let Record::Message { content, .. } = record.expect("cores write records") {
                    self.committed.insert(key_of(content).to_owned(), self.commits);
                }
            }
        }
        if is_synced {
            self.synced_commits = self.commits;
        }
    }
}

impl Store {
    pub fn new(
        engine: Engine,
        rings: Vec<Arc<Ring>>,
        exchange: Arc<Exchange<Parcel>>,
        storage: Storage,
        config: &Config,
    ) -> Store {
        let cores = rings.len();
        Store {
            engine,
            exchange,
            storage,
            sync_ms: config.store.sync_ms,
            deadline_ms: config.store.deadline_ms,
            ends: vec![0; cores],
            group: vec![Vec::new(); cores],
            unsynced_since: None,
            failure: None,
            fails_until: 0,
            hangs_until: 0,
            is_down: false,
            kept: (0..cores).map(|_| Vec::new()).collect(),
            requests: VecDeque::new(),
            is_reader_parked: false,
            behind_since: None,
            rings,
        }
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether what is committed is all on the disk.
    pub fn is_synced(&self) -> bool {
        self.unsynced_since.is_none()
    }

    /// What is left of the store when its process ends.
    pub fn end(mut self) -> (Engine, Vec<Arc<Ring>>) {
        self.mend();
        (self.engine, self.rings)
    }

    /// A step in which everything may go wrong.
    pub fn step(&mut self, kernel: &mut Kernel, model: &mut Model) {
        let storage = self.storage.clone();
        if happens(&mut kernel.rng, storage.fail) && self.failure.is_none() {
            self.failure = Some(pick(&mut kernel.rng, &[Failure::ReadOnly, Failure::Full]));
            self.fails_until = kernel.clock_ms + kernel.rng.below(200);
            self.begin_to_fail();
        }
        if happens(&mut kernel.rng, storage.hang) {
            self.hangs_until = kernel.clock_ms + kernel.rng.below(2 * self.deadline_ms);
            model.count("store_hangs");
        }
        if self.failure.is_some() && kernel.clock_ms >= self.fails_until {
            self.mend();
        }
        let hangs = self.hangs_until > kernel.clock_ms;
        if !hangs && happens(&mut kernel.rng, storage.write) {
            let most = 1 + kernel.rng.below(storage.group_bytes as u64) as usize;
            let is_due = self.unsynced_since.is_some_and(|since| kernel.clock_ms - since >= self.sync_ms);
            if self.has_group() || self.is_down || is_due {
                self.write_group(kernel, model, false);
            } else {
                self.take_group(most);
            }
        }
        if !hangs && happens(&mut kernel.rng, storage.trim) {
            let rows = 1 + kernel.rng.below(8);
            self.trim(kernel, model, rows);
        }
        if !hangs && happens(&mut kernel.rng, storage.read) {
            let fails = happens(&mut kernel.rng, storage.read_fails);
            self.read_request(kernel, model, fails);
        }
        if happens(&mut kernel.rng, storage.tell) {
            self.deliver(kernel);
        }
        self.listen(kernel);
        self.note_trouble(kernel, model);
    }

    /// Does all that there is to do, without faults. Returns whether there was anything.
    pub fn settle(&mut self, kernel: &mut Kernel, model: &mut Model) -> bool {
        self.mend();
        let before = kernel.trace.count();
        let mut has_moved = false;
        while self.has_input() || self.has_group() || !self.is_synced() || self.is_down {
            if !self.has_group() {
                self.take_group(usize::MAX);
            }
            self.write_group(kernel, model, true);
            has_moved = true;
        }
        while self.engine.has_to_trim() {
            self.trim(kernel, model, 512);
            has_moved = true;
        }
        self.listen(kernel);
        while !self.requests.is_empty() {
            self.read_request(kernel, model, false);
            has_moved = true;
        }
        has_moved |= self.deliver(kernel);
        self.note_trouble(kernel, model);
        has_moved || kernel.trace.count() != before
    }

    /// What must hold when nothing happens any more.
    pub fn check_rest(&self) {
        self.check_written();
        assert!(self.kept.iter().all(Vec::is_empty), "the store has something left to tell");
        assert!(self.requests.is_empty(), "somebody waits to read something");
    }

    /// What must hold when the cores have ended, or have nothing to do.
    pub fn check_written(&self) {
        for (number, ring) in self.rings.iter().enumerate() {
            assert_eq!(ring.tail(), ring.head(), "journal {number} is not empty");
        }
        assert!(!self.has_group() && self.is_synced(), "the store has something left to write");
        assert_eq!(self.engine.rejected(), 0, "a record contradicts what is there");
    }

    /// What must hold when everybody has gone: what is of sessions has gone with them.
    pub fn check_deserted(&mut self) {
        // What came too late for the end of its session goes with a later look.
        for _ in 0..2 {
            while !self.engine.forget(0).expect("it can be written") {}
            self.engine.end_pass();
        }
        for table in ["sessions WHERE body IS NOT NULL", "inboxes", "receipts"] {
            let count: i64 = self
                .engine
                .connection()
                .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
                .expect("a number");
            assert_eq!(count, 0, "the store keeps {table} for nobody");
        }
    }

    /// A reader that sleeps must have nothing that it could do.
    pub fn check_sleep(&self, kernel: &Kernel) {
        let mailbox = self.exchange.mailbox(self.rings.len());
        let is_awake = !self.is_reader_parked || kernel.is_store_woken;
        assert!(is_awake || mailbox.is_empty(), "the store sleeps beside its mail");
    }

    /// Notes what frames that are about to be replayed say.
    pub fn note_replayed(&mut self, model: &mut Model) {
        self.group.iter_mut().for_each(Vec::clear);
        let positions = starling::store::load::positions(self.engine.connection()).expect("it can be read");
        for (number, ring) in self.rings.iter().enumerate() {
            let from = positions.get(&number).copied().unwrap_or(0);
            ring.read(from, usize::MAX, &mut self.group[number]).expect("a sound journal");
        }
        model.store.note_committed(&self.group, true);
    }

    /// How many frames are at hand.
    pub fn frames(&self) -> usize {
        self.group.iter().map(Vec::len).sum()
    }

    fn has_group(&self) -> bool {
        self.group.iter().any(|frames| !frames.is_empty())
    }

    fn has_input(&self) -> bool {
        self.rings.iter().zip(&self.ends).any(|(ring, end)| ring.tail() > *end)
    }

    fn take_group(&mut self, bytes_max: usize) {
        for (number, ring) in self.rings.iter().enumerate() {
            let end = ring.read(self.ends[number], bytes_max, &mut self.group[number]);
            self.ends[number] = end.expect("a sound journal");
        }
    }

    fn write_group(&mut self, kernel: &mut Kernel, model: &mut Model, syncs_anyway: bool) {
        let has_frames = self.has_group();
        let is_due = self.unsynced_since.is_some_and(|since| kernel.clock_ms - since >= self.sync_ms);
        let wants_sync =
            syncs_anyway || is_due || self.group.iter().flatten().any(|frame| Frame::wants_sync(frame));
        let parts: Vec<Part> = (0..self.rings.len())
            .filter(|ring| !self.group[*ring].is_empty() || !has_frames)
            .map(|ring| Part { ring, frames: &self.group[ring], end: self.ends[ring] })
            .collect();
        let applied = self.engine.apply(&parts, wants_sync);
        drop(parts);
        let frames = self.frames() as u64;
        kernel.trace.note(&[50, frames, u64::from(wants_sync), u64::from(applied.is_ok())], || {
            format!("the store commits {frames} frames (syncs: {wants_sync}): {applied:?}")
        });
        match applied {
            Ok(()) => self.note_written(kernel, model, wants_sync),
            Err(error) => {
                model.count("store_failures");
                self.note_down(&error.message);
            }
        }
    }

    fn note_written(&mut self, kernel: &mut Kernel, model: &mut Model, is_synced: bool) {
        model.store.note_committed(&self.group, is_synced);
        for number in 0..self.rings.len() {
            let end = self.ends[number];
            self.rings[number].release(end);
            let had_frames = !self.group[number].is_empty();
            self.group[number].clear();
            if had_frames || is_synced {
                let synced = if is_synced { end } else { 0 };
                self.tell(number, StoreNews::Progress { stored: end, synced });
            }
        }
        match is_synced {
            true => self.unsynced_since = None,
            false => drop(self.unsynced_since.get_or_insert(kernel.clock_ms)),
        }
        if std::mem::take(&mut self.is_down) {
            model.count("store_recoveries");
            self.tell_all(|| StoreNews::Down(None));
        }
    }

    fn note_down(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_down, true) {
            self.tell_all(|| StoreNews::Down(Some(why.into())));
        }
    }

    fn begin_to_fail(&mut self) {
        let db = self.engine.connection();
        match self.failure {
            Some(Failure::ReadOnly) => db.pragma_update(None, "query_only", true).expect("a setting"),
            Some(Failure::Full) => {
                let pages: i64 =
                    db.pragma_query_value(None, "page_count", |row| row.get(0)).expect("a number");
                set_pages_max(db, pages);
            }
            None => {}
        }
    }

    fn mend(&mut self) {
        if self.failure.take().is_some() {
            let db = self.engine.connection();
            db.pragma_update(None, "query_only", false).expect("a setting");
            set_pages_max(db, i64::from(u32::MAX - 1));
        }
        self.hangs_until = 0;
    }

    fn trim(&mut self, kernel: &mut Kernel, model: &mut Model, rows: u64) {
        match self.engine.trim(rows, 0) {
            Ok(trimmed) => {
                for Trimmed { room, ring, first_kept } in trimmed {
                    model.count("store_trims");
                    kernel
                        .trace
                        .note(&[51, first_kept], || format!("the store trims a room to {first_kept}"));
                    match ring {
                        Some(core) => self.tell(core, StoreNews::Trimmed { room, first_kept }),
                        None => self.tell_all(|| StoreNews::Trimmed { room, first_kept }),
                    }
                }
            }
            Err(error) => self.note_down(&error.message),
        }
    }

    /// Takes what the cores have asked for, unless nobody has woken the reader.
    fn listen(&mut self, kernel: &mut Kernel) {
        if self.is_reader_parked && !kernel.is_store_woken {
            return;
        }
        kernel.is_store_woken = false;
        let mailbox = self.exchange.mailbox(self.rings.len());
        if std::mem::take(&mut self.is_reader_parked) {
            mailbox.doorbell.unpark();
        }
        while let Some(parcel) = mailbox.pop() {
            for mail in parcel.mail {
                let Mail::StoreRequest { from, request } = mail else {
                    panic!("not for the store: {mail:?}")
                };
                self.requests.push_back((usize::from(from), request));
            }
        }
        self.is_reader_parked = mailbox.doorbell.park(|| !mailbox.is_empty());
        if !self.is_reader_parked {
            mailbox.doorbell.unpark();
        }
    }

    fn read_request(&mut self, kernel: &mut Kernel, model: &mut Model, fails: bool) {
        let Some((core, request)) = self.requests.pop_front() else { return };
        let db = self.engine.connection();
        model.count(if fails { "reads_failed" } else { "pages_read" });
        if fails {
            model.store.note_overdue(model.moment);
        }
        let news = match request {
            StoreRequest::Page { page, wait } => {
                let entries = (!fails).then(|| read_page(db, &page).expect("a page can be read"));
                kernel.trace.note(&[52, page.after, page.before], || {
                    format!("the store reads {page:?}: {:?}", entries.as_ref().map(Vec::len))
                });
                StoreNews::Page { wait, entries }
            }
            StoreRequest::Inbox { user, to, offsets, recent } => {
                let inbox =
                    (!fails).then(|| read_inbox(db, user.folded(), &offsets).expect("an inbox can be read"));
                StoreNews::Inbox { to, inbox, recent }
            }
            StoreRequest::Account { .. } => unreachable!("its clients do not register"),
        };
        self.tell(core, news);
    }

    fn tell(&mut self, core: usize, news: StoreNews) {
        // A room that ended before may have been at home on a core that is no more.
        if let Some(kept) = self.kept.get_mut(core) {
            kept.push(Mail::Store(news));
        }
    }

    fn tell_all(&mut self, news: impl Fn() -> StoreNews) {
        for core in 0..self.kept.len() {
            self.tell(core, news());
        }
    }

    /// Puts what there is to tell into the mailboxes, as far as they have place. Returns whether any of it had.
    fn deliver(&mut self, kernel: &mut Kernel) -> bool {
        let from = self.kept.len() as u16;
        let mut has_moved = false;
        for (core, kept) in self.kept.iter_mut().enumerate().filter(|(_, kept)| !kept.is_empty()) {
            let mailbox = self.exchange.mailbox(core);
            match mailbox.push(Parcel { from, mail: std::mem::take(kept) }) {
                Ok(()) => {
                    has_moved = true;
                    if mailbox.doorbell.ring() {
                        kernel.wake_core(core);
                    }
                }
                Err(parcel) => *kept = parcel.mail,
            }
        }
        has_moved
    }

    /// Keeps account of whether the cores may say that the store is down: it is, or has not got on for too long, or they cannot
    /// know yet that it is not so any more.
    fn note_trouble(&mut self, kernel: &mut Kernel, model: &mut Model) {
        let is_calm = self.kept.iter().all(Vec::is_empty)
            && (0..self.rings.len()).all(|core| self.exchange.mailbox(core).is_empty());
        let is_behind = self.has_input() || self.has_group() || !self.is_synced() || !is_calm;
        match is_behind {
            true => drop(self.behind_since.get_or_insert(kernel.clock_ms)),
            false => self.behind_since = None,
        }
        let is_late = self.behind_since.is_some_and(|since| kernel.clock_ms - since >= self.deadline_ms);
        if self.is_down || is_late || std::mem::take(&mut kernel.is_journal_tight) {
            model.store.is_in_trouble = true;
        } else if !is_behind {
            model.store.is_in_trouble = false;
        }
        if model.store.is_in_trouble {
            model.store.trouble_at = model.moment;
        }
    }
}

fn set_pages_max(db: &rusqlite::Connection, pages: i64) {
    db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).expect("a setting");
}
