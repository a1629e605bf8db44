//! The link: the thread that asks the backplane what the cores want, and tells them what it says.
//!
//! It takes what is in its mailbox, puts the commands for all of it into one pipeline, waits for the answers and tells them. While it
//! waits, the mailbox gathers the next ones: the more there is to do, the longer the pipelines, and no core ever waits. It also says what has
//! to be said from time to time: that the node lives, that its sessions still have their nicknames.
//!
//! While the backplane does not answer nothing is kept for it: what is asked is answered with `Down` at once, and somebody tries to
//! connect again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::{SmallVec, smallvec};

use super::address::Address;
use super::answer::{number, text};
use super::ask;
use super::hear::BEAT;
use super::job::{Claimed, Job, TakenFrom, Then};
use super::keys::Keys;
use super::periodic::Periodic;
use super::roster::Roster;
use super::secrets::Secrets;
use super::shared::Shared;
use super::wire::{Answer, Command, Trouble, Wire};
use crate::chat::user::{NodeId, SessionRef};
use crate::reactor::teller::Teller;
use crate::shard::backplane::{BackplaneNews, BackplaneRequest};
use crate::shard::mail::Mail;
use crate::sys::complaint::{Complaint, Lasting};
use crate::sys::kernel::Sleeper;
use crate::sys::waker;

/// Commands in a pipeline: enough that the time of a round trip is shared by many, and few enough that the answers come soon.
const PIPELINE: usize = 512;

/// Requests that are taken out of the mailbox before they have their turn. The rest waits in the mailbox, which is bounded.
const WAITING_MAX: usize = 16 * 1024;

/// What is said again in one pipeline, of each kind.
const HOLDS: usize = 256;

/// What is done when the backplane is back. What is more ends by itself, when nobody says any more that it lasts.
const LATER_MAX: usize = 65_536;

/// For how long nothing gets a place after another server has come: longer than it takes any node to find it too.
pub(super) const SETTLE: Duration = Duration::from_millis(1500);

/// How soon it is tried again to connect: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_LAST: Duration = Duration::from_secs(1);

/// How soon it is looked again whether the backplane takes anything, when something has been refused.
const BEAT_AGAIN: Duration = Duration::from_millis(250);

/// How long a core with a full mailbox is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// The part of a millisecond by which the end of a node's lease tells that the node has left, and is not only silent.
pub(super) const LEFT: f64 = 0.5;

/// The part of a lease after which it is said again.
pub(super) const LEASE_PART: u32 = 3;

/// What is decided once.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) node: NodeId,
    pub(super) keys: Keys,
    pub(super) addresses: Vec<Address>,
    pub(super) deadline: Duration,
    pub(super) lease_ms: u64,
    /// For how long sessions and nicknames last after the node has gone.
    pub(super) hold_ms: u64,
    pub(super) look: Duration,
    pub(super) room_ttl_ms: u64,
    pub(super) idempotency_ms: u64,
    /// What all nodes are configured with.
    pub(super) digest: String,
}

impl Settings {
    /// How long a server is connected to while cores wait: what they asked before has a part of its time left then.
    fn connecting(&self) -> Duration {
        self.deadline / 2
    }
}

/// A room that is looked at.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) core: u16,
    /// When its keys are to be told again that they last.
    pub(super) touch_at: Instant,
}

/// What a link does after it has found another server than before, or the same one restarted, and until something gets a place again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settling {
    /// It is to be looked whether what this node wrote last is there.
    Look,
    /// That is asked, or all others are told that it is not.
    Looking,
    /// The others look too.
    Wait,
    /// It is asked what they have found.
    Reading,
    /// All is known that anybody knows.
    Settled,
}

/// Which core hears a message of another node, where that is decided by a nickname.
pub(super) type HomeOf = Box<dyn Fn(&str) -> u16 + Send>;

/// Takes what was signed with a secret.
pub(super) type Accept = Box<dyn Fn([u8; 32]) + Send>;

/// The link.
pub(super) struct Link {
    pub(super) settings: Settings,
    pub(super) shared: Arc<Shared>,
    pub(super) home: HomeOf,
    pub(super) accept: Accept,
    pub(super) secrets: Secrets,
    pub(super) teller: Teller,
    sleeper: Sleeper,
    pub(super) wire: Option<Wire>,
    /// When it is tried again to connect, how long to wait after that, and where.
    retry_at: Instant,
    retry: Duration,
    next_address: usize,
    down_since: Option<Instant>,
    down: Lasting,
    /// Servers of a Redis Cluster that were or are away while others answer, by their names.
    pub(super) away: BTreeMap<String, Lasting>,
    refused_complaint: Complaint,
    /// When something was refused last, until nothing has been for the time of a lease.
    refused_at: Option<Instant>,
    /// Why the backplane does not want to hear that this node lives.
    pub(super) refused_beat: Option<String>,
    /// Requests, with the time until which they want an answer.
    waiting: VecDeque<(Instant, u16, BackplaneRequest)>,
    /// Those of them that wait until it is known whether something is lost.
    wishes: VecDeque<(Instant, u16, BackplaneRequest)>,
    /// What goes before them: what follows from answers, and what is due.
    pub(super) urgent: VecDeque<Job>,
    /// When the mailbox was last seen empty: what is in it has come since.
    drained_at: Instant,
    beat_at: Instant,
    pub(super) wake_at: Instant,
    pub(super) nicknames: Periodic<(Box<str>, SessionRef), Claimed>,
    pub(super) sessions: Periodic<u64, SessionRef>,
    pub(super) rooms: Periodic<Arc<str>, Looked>,
    /// Rooms that are to be heard as soon as the core knows what they are.
    pub(super) to_hear: Vec<(Arc<str>, u16)>,
    pub(super) roster: Roster,
    /// The last message of another node that has been told, and whether the inbox is being read.
    pub(super) inbox_last: String,
    pub(super) is_reading_inbox: bool,
    /// The clock of the backplane, and when that was.
    pub(super) clock: (u64, Instant),
    /// Nicknames of sessions that this node has given up: until when they are theirs, and how they were held.
    pub(super) given_up: HashMap<Box<str>, (Instant, Claimed)>,
    /// Where sessions that were taken have been before, until they have their nicknames, or until then.
    pub(super) taken_from: HashMap<SessionRef, TakenFrom>,
    /// The line that everything on the backplane is of.
    pub(super) line: String,
    /// How many pipelines have given places to something, and which server has answered them.
    pub(super) mark: u64,
    server: String,
    /// Whether something can get a place, and until when every node has looked whether something is lost.
    settling: Settling,
    settled_at: Instant,
    /// What is done when the backplane is back: others would take this node to have what it has no more.
    later: VecDeque<(u16, BackplaneRequest)>,
}

impl Link {
    pub(super) fn new(
        settings: Settings,
        shared: Arc<Shared>,
        sleeper: Sleeper,
        (home, accept): (HomeOf, Accept),
        mut wire: Wire,
        line: String,
        secrets: Secrets,
    ) -> Self {
        let now = Instant::now();
        let hold = Duration::from_millis(settings.lease_ms) / LEASE_PART;
        // While the node started it had all of it.
        wire.set_timeout(settings.connecting());
        Link {
            teller: Teller::new(shared.exchange.clone(), shared.cores),
            nicknames: Periodic::new(hold),
            sessions: Periodic::new(hold),
            rooms: Periodic::new(settings.look),
            settings,
            shared,
            home,
            accept,
            secrets,
            sleeper,
            server: wire.server().to_owned(),
            wire: Some(wire),
            retry_at: now,
            retry: RETRY_FIRST,
            next_address: 0,
            down_since: None,
            down: Lasting::default(),
            away: BTreeMap::new(),
            refused_complaint: Complaint::default(),
            refused_at: None,
            refused_beat: None,
            waiting: VecDeque::new(),
            wishes: VecDeque::new(),
            urgent: VecDeque::new(),
            drained_at: now,
            beat_at: now,
            wake_at: now,
            to_hear: Vec::new(),
            roster: Roster::default(),
            inbox_last: "0-0".to_owned(),
            is_reading_inbox: false,
            clock: (0, now),
            given_up: HashMap::new(),
            taken_from: HashMap::new(),
            line,
            mark: 0,
            settling: Settling::Settled,
            settled_at: now,
            later: VecDeque::new(),
        }
    }

    /// The life of the thread: until it is told to stop, and everything that was asked has been done.
    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let mailbox = shared.exchange.mailbox(shared.cores);
        loop {
            let is_stopping = shared.is_stopping();
            // As long as a core cannot be told anything, nothing is asked that it would be told too.
            if !self.deliver() && !is_stopping {
                self.sleeper.sleep(Some(FULL_PAUSE));
                continue;
            }
            self.hear_what_is_open();
            self.drain();
            if shared.will_look() {
                self.take_heard();
            }
            if self.wire.is_some() {
                self.add_what_is_due();
                self.round();
                // Before anybody is told what it has brought: what is asked because of that comes later than now.
                self.drain();
            } else {
                self.refuse();
                if !is_stopping {
                    self.connect();
                }
            }
            let has_work = !self.waiting.is_empty() || !self.urgent.is_empty();
            if is_stopping && !has_work && self.wishes.is_empty() && mailbox.is_empty() {
                break;
            }
            if has_work || !self.to_hear.is_empty() || !self.deliver() {
                continue;
            }
            let timeout = self.next_wake();
            // Whoever stops waits for what waits.
            let is_over = || shared.is_stopping() && self.wishes.is_empty();
            if timeout > Duration::ZERO
                && mailbox.doorbell.park(|| !mailbox.is_empty() || shared.has_heard() || is_over())
            {
                self.sleeper.sleep(Some(timeout));
                // Whatever is in the mailbox has woken it.
                self.drained_at = Instant::now();
            }
            mailbox.doorbell.unpark();
        }
        self.leave();
    }

    fn deliver(&mut self) -> bool {
        let shared = &self.shared;
        self.teller.deliver(|core| waker::wake(&shared.wakers, core))
    }

    pub(super) fn tell(&mut self, core: u16, news: BackplaneNews) {
        self.teller.tell(usize::from(core), Mail::Backplane(news));
    }

    pub(super) fn tell_all(&mut self, news: impl Fn() -> BackplaneNews) {
        self.teller.tell_all(|| Mail::Backplane(news()));
    }

    /// Until when an answer is worth something that is asked for now.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.settings.deadline
    }

    fn drain(&mut self) {
        let until = self.drained_at + self.settings.deadline;
        let shared = self.shared.clone();
        let mailbox = shared.exchange.mailbox(shared.cores);
        let now = Instant::now();
        while self.waiting.len() + self.wishes.len() < WAITING_MAX {
            let Some(parcel) = mailbox.pop() else {
                self.drained_at = now;
                return;
            };
            for mail in parcel.mail {
                if let Mail::BackplaneRequest { from, request } = mail {
                    self.waiting.push_back((until, from, request));
                }
            }
        }
    }

    /// Looks at rooms that are heard anew, and at what was announced to this node.
    fn take_heard(&mut self) {
        let shared = self.shared.clone();
        let mut state = shared.state();
        let confirmed = std::mem::take(&mut state.confirmed);
        let inbox = std::mem::take(&mut state.inbox);
        let has_missed = std::mem::take(&mut state.has_missed);
        let has_new_nodes = std::mem::take(&mut state.has_new_nodes);
        drop(state);
        for payload in inbox {
            self.hear_inbox(&payload);
        }
        if has_new_nodes {
            self.beat_at = Instant::now();
        }
        if has_missed {
            self.read_inbox();
        }
        for room in confirmed {
            self.look_at(room);
        }
    }

    /// What the backplane is told from time to time.
    fn add_what_is_due(&mut self) {
        let now = Instant::now();
        self.settle(now);
        if now >= self.beat_at {
            self.beat_at = now + Duration::from_millis(self.settings.lease_ms) / LEASE_PART;
            self.beat();
            self.say_secrets();
            self.read_inbox();
        }
        if now >= self.wake_at {
            self.wake_at = now + BEAT;
            let channel = self.settings.keys.wake_channel(self.settings.node);
            let command = Command::anywhere("PUBLISH").arg(channel).arg("");
            self.push_urgent(0, command, Then::Nothing("wake"));
        }
        for _ in 0..HOLDS {
            let Some((number, session)) = self.sessions.pop_due(now) else { break };
            let session = *session;
            let command = self.hold_session(number, session);
            self.push_urgent(0, command, Then::HoldSession { number, session });
        }
        // After all of them: where a session has gone on elsewhere that is what its client is told, and not that its nickname is gone.
        let has_sessions = self.sessions.next_due().is_some_and(|due| due <= now);
        for _ in 0..if has_sessions { 0 } else { HOLDS } {
            let Some((_, claimed)) = self.nicknames.pop_due(now) else { break };
            let claimed = claimed.clone();
            let command = self.claim_again(&claimed);
            self.push_urgent(0, command, Then::HoldNickname(claimed));
        }
        for _ in 0..HOLDS {
            let Some((room, looked)) = self.rooms.pop_due(now) else { break };
            let is_touched = now >= looked.touch_at;
            if is_touched {
                looked.touch_at = now + Duration::from_millis(self.settings.room_ttl_ms) / 4;
            }
            match is_touched {
                true => self.touch(room),
                false => self.look_at(room),
            }
        }
    }

    pub(super) fn push_urgent(&mut self, from: u16, command: Command, then: Then) {
        let until = self.until();
        self.urgent.push_back(Job::one(from, command, then, until));
    }

    /// One pipeline.
    fn round(&mut self) {
        let now = Instant::now();
        let mut jobs = Vec::new();
        let mut count = 0;
        while count < PIPELINE {
            let job = match self.urgent.pop_front() {
                Some(job) => job,
                None => match self.waiting.pop_front() {
                    Some((until, from, request)) if self.has_to_wait(until, &request, now) => {
                        self.wishes.push_back((self.until_settled(until), from, request));
                        continue;
                    }
                    Some((until, from, request)) => match self.job_of(from, request, until) {
                        Some(job) => job,
                        None => continue,
                    },
                    None => break,
                },
            };
            // A connection is not to be given up because something came to its turn late.
            if job.until < now + self.settings.deadline / 4 {
                self.fail(job, &Trouble::Lost("it waited for too long".to_owned()));
                continue;
            }
            count += job.commands.len();
            jobs.push(job);
        }
        let Some(until) = jobs.iter().map(|job| job.until).min() else { return };
        let Some(wire) = &mut self.wire else { return };
        let mut commands = Vec::with_capacity(count);
        let counts: Vec<usize> = jobs
            .iter_mut()
            .map(|job| {
                let before = commands.len();
                commands.extend(job.commands.drain(..));
                commands.len() - before
            })
            .collect();
        let has_writes = jobs.iter().any(|job| job.then.is_write());
        if has_writes {
            // The last of all: where it is found again, all before it is there too.
            let command = Command::keyed("HSET", &self.settings.keys.marks());
            commands.push(command.arg(self.settings.node).arg(self.mark + 1));
        }
        let (answers, lost) = wire.execute(&commands, until);
        if has_writes && matches!(answers.last(), Some(Ok(_))) {
            self.mark += 1;
        }
        let mut answers = answers.into_iter();
        for (job, count) in jobs.into_iter().zip(counts) {
            let of_job: SmallVec<[Answer; 1]> = answers.by_ref().take(count).collect();
            self.finish(job.from, job.then, job.until, &of_job);
        }
        if lost.is_none() {
            self.note_away();
        }
        let refused = self.refused_beat.take();
        if let Some(why) = lost.or_else(|| refused.map(refuses_beat)) {
            self.be_down(&why);
        }
    }

    /// Answers what was not done.
    fn fail(&mut self, job: Job, trouble: &Trouble) {
        let Job { from, then, until, commands } = job;
        let answers: SmallVec<[Answer; 1]> = commands.iter().map(|_| Err(trouble.clone())).collect();
        self.finish(from, then, until, &answers);
    }

    /// Connects anew, if it is time, to the next of the servers.
    fn connect(&mut self) {
        let now = Instant::now();
        if now < self.retry_at || self.settings.addresses.is_empty() {
            return;
        }
        let address = self.settings.addresses[self.next_address % self.settings.addresses.len()].clone();
        self.next_address = self.next_address.wrapping_add(1);
        // Meanwhile requests wait: for no longer than they may.
        match self.reach(&address) {
            Ok((wire, beat)) => {
                self.be_back(wire);
                self.finish(0, Then::Beat, Instant::now(), &[beat]);
            }
            Err(why) => {
                if self.down.goes_on(&why, Instant::now()) {
                    log::error!("the backplane is down: {why}; it is tried again until it is back");
                }
                self.retry_at = Instant::now() + self.retry;
                self.retry = (self.retry * 2).min(RETRY_LAST);
            }
        }
    }

    /// Connects to a server, and says that this node lives: one that refuses to hear that (it is full, or takes back rights) is down, since
    /// the others will take this node for lost.
    fn reach(&mut self, address: &Address) -> Result<(Wire, Answer), String> {
        let mut wire = Wire::connect(address, self.settings.connecting())?;
        let until = Instant::now() + self.settings.connecting();
        let (answers, lost) = wire.execute(&[ask::beat(&self.settings)], until);
        match (answers.into_iter().next(), lost) {
            (_, Some(why)) => Err(why),
            (Some(Err(Trouble::Refused(why))), None) => Err(refuses_beat(why)),
            (Some(Err(Trouble::Lost(why))), None) => {
                // In a Redis Cluster it may be the one server that is away, and it may be that all refuse everything because of that.
                let state = wire.execute(&[Command::anywhere("CLUSTER").arg("INFO")], until).0;
                let is_ok = |state: &Answer| {
                    state.as_ref().ok().and_then(text).is_some_and(|info| info.contains("cluster_state:ok"))
                };
                match state.first().is_some_and(is_ok) {
                    true => Ok((wire, Err(Trouble::Lost(why)))),
                    false => Err(why),
                }
            }
            (answer, None) => {
                Ok((wire, answer.unwrap_or_else(|| Err(Trouble::Lost("no answer".to_owned())))))
            }
        }
    }

    fn be_back(&mut self, wire: Wire) {
        let now = Instant::now();
        self.shared.state().servers = wire.addresses();
        let is_other = wire.server() != self.server;
        self.server = wire.server().to_owned();
        self.wire = Some(wire);
        if is_other {
            self.settling = Settling::Look;
            self.settled_at = now + SETTLE;
        }
        self.retry = RETRY_FIRST;
        self.down = Lasting::default();
        self.shared.set_down(false);
        if let Some(since) = self.down_since.take() {
            log::info!("the backplane is back after {} ms", since.elapsed().as_millis());
        }
        self.beat_at = now;
        self.wake_at = now;
        self.nicknames.hurry(now);
        self.sessions.hurry(now);
        self.rooms.hurry(now);
        self.tell_all(|| BackplaneNews::Down(None));
        for (from, request) in std::mem::take(&mut self.later) {
            self.waiting.push_back((now + self.settings.deadline, from, request));
        }
    }

    /// Another server has come, or the same one again: perhaps without what was written last. Until all nodes have had the time to look, and
    /// this one knows what they have found, nothing gets a place, nobody who wants a session or a nickname is answered, and that it is
    /// another's is not believed. What cannot be asked now is asked again.
    fn settle(&mut self, now: Instant) {
        while self.wishes.front().is_some_and(|(until, _, _)| *until <= now) {
            // It never ends: then its job is too late for its turn, and fails.
            self.waiting.extend(self.wishes.pop_front());
        }
        let keys = &self.settings.keys;
        let line = Command::keyed("GET", &keys.line());
        let (settling, then, commands) = match self.settling {
            Settling::Look => {
                let mark = Command::keyed("HGET", &keys.marks()).arg(self.settings.node);
                (Settling::Looking, Then::Marks, smallvec![mark, line])
            }
            Settling::Wait if now >= self.settled_at => (Settling::Reading, Then::Line, smallvec![line]),
            _ => return,
        };
        self.settling = settling;
        self.urgent.push_front(Job { from: 0, commands, then, until: now + self.settings.deadline });
    }

    /// Whether what this node wrote last is there.
    pub(super) fn told_marks(&mut self, answers: Option<&[Answer]>) {
        let Some([Ok(mark), Ok(line)]) = answers else {
            self.settling = Settling::Look;
            return;
        };
        self.take_line(text(line).unwrap_or(""));
        if number(mark).unwrap_or(0) >= self.mark {
            return self.come_to(Settling::Wait);
        }
        log::warn!(
            "the backplane has lost what was written last: rooms of which nobody knows better begin anew"
        );
        let keys = &self.settings.keys;
        let commands = smallvec![
            ask::begin_line(keys, &self.server),
            Command::keyed("HSET", &keys.marks()).arg(self.settings.node).arg(self.mark),
        ];
        let until = self.until();
        self.urgent.push_front(Job { from: 0, commands, then: Then::NewLine, until });
    }

    /// Whether all others will find that something is lost.
    pub(super) fn told_new_line(&mut self, line: Option<&str>) {
        if let Some(line) = line {
            self.take_line(line);
        }
        self.come_to(if line.is_some() { Settling::Wait } else { Settling::Look });
    }

    /// What the others have found.
    pub(super) fn told_line(&mut self, line: Option<&str>) {
        if let Some(line) = line {
            self.take_line(line);
            // Whoever comes next need not doubt what was seen here.
            if !self.server.is_empty() {
                let command = Command::keyed("SET", &self.settings.keys.run()).arg(&self.server);
                self.push_urgent(0, command, Then::Nothing("vouch for the server"));
            }
        }
        self.come_to(if line.is_some() { Settling::Settled } else { Settling::Wait });
        if self.is_settled() {
            // What was not believed is asked once more.
            let now = Instant::now();
            self.sessions.hurry(now);
            self.nicknames.hurry(now);
        }
    }

    /// What has waited has its turn, if it need not wait for more.
    fn come_to(&mut self, settling: Settling) {
        self.settling = settling;
        self.wishes.append(&mut self.waiting);
        std::mem::swap(&mut self.wishes, &mut self.waiting);
    }

    /// Everything is of this line from now on: rooms that are not are doubtful, and sessions and nicknames are said again.
    pub(super) fn take_line(&mut self, line: &str) {
        if self.line != line {
            self.line = line.to_owned();
            let now = Instant::now();
            self.rooms.hurry(now);
            self.sessions.hurry(now);
            self.nicknames.hurry(now);
        }
    }

    /// The last beat was not heard: the next one comes sooner, so that no lease is over because of a silence too short for patience.
    pub(super) fn beat_soon(&mut self) {
        let soon = BEAT.min(Duration::from_millis(self.settings.lease_ms) / 8);
        self.beat_at = self.beat_at.min(Instant::now() + soon);
    }

    /// Until when an answer is worth something that waits for that: there is time left for it afterwards.
    fn until_settled(&self, until: Instant) -> Instant {
        until.max(self.settled_at + self.settings.deadline)
    }

    /// Whether it is not known yet whose a session or a nickname is. What becomes of one that this node has is known as soon as the line is.
    fn has_to_wait(&self, until: Instant, request: &BackplaneRequest, now: Instant) -> bool {
        let is_of_others = matches!(
            request,
            BackplaneRequest::Claim { .. }
                | BackplaneRequest::TakeSession { .. }
                | BackplaneRequest::LookForSession { .. }
                | BackplaneRequest::ForgetSession { .. }
        );
        let is_own = matches!(request, BackplaneRequest::KeepSession { wait: Some(_), .. });
        let has_to_wait = match self.settling {
            Settling::Settled => false,
            Settling::Look | Settling::Looking => is_of_others || is_own,
            Settling::Wait | Settling::Reading => is_of_others,
        };
        has_to_wait && self.until_settled(until) > now
    }

    /// Whether something can get a place now.
    pub(super) fn is_settled(&self) -> bool {
        self.settling == Settling::Settled
    }

    /// Nothing works any more.
    fn be_down(&mut self, why: &str) {
        self.wire = None;
        self.shared.set_down(true);
        self.retry_at = Instant::now() + self.retry;
        if self.down.goes_on(why, Instant::now()) {
            log::error!("the backplane is down: {why}; it is tried again until it is back");
        }
        if self.down_since.is_none() {
            self.down_since = Some(Instant::now());
            let why: Box<str> = for_clients(why).into();
            self.tell_all(|| BackplaneNews::Down(Some(why.clone())));
        }
    }

    /// Logs that something was refused: not each time. Perhaps everything is refused now, which is soon found out.
    pub(super) fn complain(&mut self, what: &str, trouble: &Trouble) {
        let Trouble::Refused(why) = trouble else { return };
        let now = Instant::now();
        self.refused_at = Some(now);
        if self.clock.1.elapsed() > BEAT_AGAIN {
            self.beat_at = now;
        }
        if self.refused_complaint.is_due() {
            log::error!("the backplane refuses ({what}): {why}");
        }
    }

    /// The backplane takes what it is told: perhaps for so long that nobody need worry any more.
    pub(super) fn note_refusals_over(&mut self) {
        let lease = Duration::from_millis(self.settings.lease_ms);
        if self.refused_at.is_some_and(|at| at.elapsed() > lease) {
            self.refused_at = None;
            self.refused_complaint = Complaint::default();
            log::info!("the backplane has refused nothing for {} ms", lease.as_millis());
        }
    }

    /// Answers everything that waits: it cannot be done.
    fn refuse(&mut self) {
        let trouble = Trouble::Lost("the backplane is down".to_owned());
        while let Some(job) = self.urgent.pop_front() {
            self.fail(job, &trouble);
        }
        let waiting = std::mem::take(&mut self.waiting);
        let waiting = std::mem::take(&mut self.wishes).into_iter().chain(waiting);
        for (until, from, request) in waiting {
            let is_for_later = matches!(
                request,
                BackplaneRequest::Release { .. }
                    | BackplaneRequest::Replace { .. }
                    | BackplaneRequest::ForgetSession { .. }
                    | BackplaneRequest::FreeSession { .. }
            );
            if is_for_later && self.later.len() < LATER_MAX {
                self.later.push_back((from, request));
                continue;
            }
            if let Some(job) = self.job_of(from, request, until) {
                self.fail(job, &trouble);
            }
        }
    }

    fn next_wake(&self) -> Duration {
        let now = Instant::now();
        let next = match self.wire {
            None => self.retry_at,
            Some(_) => [self.nicknames.next_due(), self.sessions.next_due(), self.rooms.next_due()]
                .into_iter()
                .flatten()
                .chain((self.settling == Settling::Wait).then_some(self.settled_at))
                .fold(self.beat_at.min(self.wake_at), Instant::min),
        };
        next.saturating_duration_since(now)
    }

    /// What was opened has been told: from now on it may be heard.
    fn hear_what_is_open(&mut self) {
        if self.to_hear.is_empty() {
            return;
        }
        let mut state = self.shared.state();
        for (room, core) in self.to_hear.drain(..) {
            state.changed.insert(room.clone());
            state.rooms.insert(room, core);
        }
        drop(state);
        self.wake_at = Instant::now();
    }

    /// Says that this node is gone, so that nobody waits until its lease is over.
    fn leave(mut self) {
        let Some(wire) = &mut self.wire else { return };
        let Settings { keys, node, deadline, .. } = &self.settings;
        // As if its lease had been over: its sessions have their time of grace all the same. Nobody need wonder whether it lives.
        let gone = Command::keyed("ZADD", &keys.nodes());
        let gone = gone.arg(self.clock.0.saturating_sub(1) as f64 + LEFT).arg(*node);
        let wake = Command::anywhere("PUBLISH").arg(keys.wake_channel(*node)).arg("");
        let tell = Command::anywhere("PUBLISH").arg(keys.nodes_channel()).arg("");
        let (answers, _) = wire.execute(&[gone, tell, wake], Instant::now() + *deadline);
        if let Some(Err(trouble)) = answers.first() {
            log::warn!("the backplane could not be told that this node is gone: {}", trouble.text());
        }
    }
}

fn refuses_beat(why: String) -> String {
    format!("it refuses to hear that this node lives: {why}")
}

/// Why the backplane is down, for everybody: addresses and errors of its own are for the log.
fn for_clients(why: &str) -> &'static str {
    match why {
        _ if why.contains("READONLY") => "it is a replica now",
        _ if why.contains("LOADING") => "it is still loading its data",
        _ if why.contains("MASTERDOWN") || why.contains("CLUSTERDOWN") => "a part of it is down",
        _ if why.contains("OOM") => "it is full",
        _ if why.contains("it refuses") => "it refuses what it is asked",
        _ if why.contains("in time") => "it does not answer",
        _ => "it cannot be reached",
    }
}
