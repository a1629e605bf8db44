//! One thread's share of the load: a world for the loop to drive, as the server's shard is another.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | who there is, and what the loop asks |
//! | `hear.rs` | what comes: decoded, timed, audited |
//! | `speak.rs` | what goes: on schedule, or when something has come |
//! | `acks.rs` | acknowledgements, matched with messages |
//! | `phases.rs` | from gathering to the end |

mod acks;
mod hear;
mod phases;
mod speak;

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use self::acks::Ledger;
use super::audit::{Audit, UNKNOWN};
use super::cast::NONE;
use super::marker::{MARKER_BYTES, name_hash};
use super::plan::{Load, Profile};
use super::schedule::Schedule;
use super::shared::{Phase, Shared};
use super::tally::Tally;
use super::target::{Comeback, Heard, Level, Persona, Stage};
use crate::base::rng::Rng;
use crate::base::slots::{Id, Slots};
use crate::base::stats::Counters;
use crate::base::time::{Now, Tick};
use crate::config::ListenKind;
use crate::reactor::{Connect, World};

const MS: u64 = 1_000_000;

/// What is due within this is waited for without sleeping: the loop sleeps in whole milliseconds.
const SPIN_NS: u64 = MS;

/// How often the thread looks whether the run has gone on to another phase.
const CHORES_NS: u64 = 10 * MS;

/// How often a turn reads at least, whatever is due to be sent.
const READS_MIN: u32 = 16;

/// The number of a message that is not known yet, in 32 bits: see [`UNKNOWN`].
const UNSEEN: u32 = u32::MAX;

/// One thread's connections and what they are for.
pub struct Generator {
    shared: Arc<Shared>,
    thread: usize,
    counters: Counters,
    outboxes: Vec<Vec<()>>,
    tally: Tally,
    rng: Rng,
    /// The connections there are.
    peers: Slots<Peer>,
    /// Those who have, had or will have one.
    members: Vec<Member>,
    /// Those of them who speak.
    publishers: Vec<Publisher>,
    /// For each publisher of the run: its index above.
    place_of: Vec<u32>,
    /// Members for whom a connection is to be made.
    to_connect: VecDeque<u32>,
    /// Connections that are being made.
    handshakes: usize,
    /// Members whose visit is over (`churn`), and visits that are due.
    free: Vec<u32>,
    late_visits: VecDeque<u64>,
    touched: Vec<Id>,
    resumed: Vec<Id>,
    to_close: Vec<(Id, bool)>,
    farewells: HashMap<Id, Box<str>>,
    heard: Vec<Heard>,
    /// Publishers who may say one more.
    completed: Vec<u32>,
    by_offset: Audit,
    by_sequence: Audit,
    /// How long each content is to be.
    content_bytes: u32,
    /// For each publisher of the run: the hash of the name that its messages are to come under. Visitors (`churn`) have
    /// another at each visit.
    names: Vec<u64>,
    /// The level of acknowledgement that is asked for; none: none is.
    level: Option<Level>,

    phase: Phase,
    has_begun: bool,
    has_cut: bool,
    has_told: bool,
    /// The measured time.
    from_ns: u64,
    end_ns: u64,
    schedule: Option<Schedule>,
    visits: Option<Schedule>,
    moves: Option<Schedule>,
    cut_ns: u64,
    leave_ns: u64,
    /// When this turn began, and the clock that the loop knows then.
    now_ns: u64,
    tick: Tick,
    chores_ns: u64,
    next_source: usize,
    ready: u64,
    lost: u64,
    /// When the loop planned to wait for something to do; 0: not at all.
    planned_ns: Cell<u64>,
    has_worked: bool,
    /// Reads in this turn, and when the last one was.
    reads: u32,
    read_ns: u64,
    cpu_at_from_ns: Option<u64>,
    has_read_cpu: bool,
}

/// A connection.
struct Peer {
    member: u32,
    stage: Stage,
    state: State,
    is_touched: bool,
    /// Whether anything has come on it.
    has_heard: bool,
    /// Whether its end has been noted.
    is_lost: bool,
    out_at: u32,
    out: Vec<u8>,
    /// The beginning of a message whose end has not come; at rest it owns nothing.
    carry: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The socket is not there yet, or the protocol's own handshake is under way.
    Opening,
    /// Nothing will tell that one is in, but that the socket is there.
    Silent,
    /// Hello and join are under way.
    Entering,
    /// It is where it should be.
    In,
    /// Our side ends when what is to be said has been.
    Quitting,
}

/// Somebody, whether connected or not.
struct Member {
    number: u32,
    room: u32,
    /// The room it is on its way to.
    moving_to: u32,
    /// Its index among the publishers.
    publisher: u32,
    connection: Option<Id>,
    /// When the connection, visit or comeback under way was due.
    due_ns: u64,
    visit: u32,
    is_in: bool,
    is_witness: bool,
    is_slow: bool,
    /// The next offset.
    next_offset: u64,
    /// The next sequence of each of the room's publishers.
    tracks: Box<[u32]>,
    session: Option<Box<Session>>,
}

/// What it takes to come back.
#[derive(Default)]
struct Session {
    token: Box<str>,
    epoch: Box<str>,
}

struct Publisher {
    number: u32,
    member: u32,
    nickname: String,
    next_sequence: u32,
    /// When those were due that are not answered yet, where answers do not say what they answer.
    unanswered: VecDeque<u64>,
    /// The member whose hearing of a message tells that it has arrived.
    witness: u32,
    /// What became of its acknowledgements.
    ledger: Ledger,
}

impl Generator {
    /// The share of a thread.
    pub fn new(shared: Arc<Shared>, thread: usize) -> Generator {
        let plan = &shared.plan;
        let traits = shared.target.traits();
        let is_alone = plan.rooms == plan.connections;
        let mut members = Vec::new();
        let mut publishers = Vec::new();
        let mut place_of = vec![NONE; plan.publishers];
        let numbers: Vec<u32> = shared.cast.of_thread(thread).collect();
        for number in &numbers {
            let mut publisher = NONE;
            if (*number as usize) < plan.publishers {
                publisher = publishers.len() as u32;
                place_of[*number as usize] = publisher;
                publishers.push(Publisher {
                    number: *number,
                    member: members.len() as u32,
                    nickname: shared.cast.nickname(*number, 0),
                    next_sequence: 0,
                    unanswered: VecDeque::new(),
                    witness: NONE,
                    ledger: Ledger::default(),
                });
            }
            members.push(Member {
                number: *number,
                room: shared.cast.room_of[*number as usize],
                moving_to: NONE,
                publisher,
                connection: None,
                due_ns: 0,
                visit: 0,
                is_in: false,
                is_witness: false,
                is_slow: *number as usize >= plan.connections - plan.slow,
                next_offset: UNKNOWN,
                tracks: Box::default(),
                session: None,
            });
        }
        for publisher in &mut publishers {
            let witness = shared.cast.witness_of(publisher.number, &traits, is_alone);
            if let Some(local) = witness.and_then(|witness| numbers.binary_search(&witness).ok()) {
                members[local].is_witness = true;
                publisher.witness = local as u32;
            }
        }
        let count = members.len() as u32;
        let visits_only = plan.profile == Profile::Churn;
        Generator {
            thread,
            counters: Counters::default(),
            outboxes: vec![Vec::new()],
            tally: Tally::new(),
            rng: Rng::new(plan.seed ^ (thread as u64) << 32),
            peers: Slots::with_capacity(members.len()),
            to_connect: if visits_only { VecDeque::new() } else { (0..count).collect() },
            free: if visits_only { (0..count).rev().collect() } else { Vec::new() },
            members,
            publishers,
            place_of,
            handshakes: 0,
            late_visits: VecDeque::new(),
            touched: Vec::new(),
            resumed: Vec::new(),
            to_close: Vec::new(),
            farewells: HashMap::new(),
            heard: Vec::new(),
            completed: Vec::new(),
            by_offset: Audit::default(),
            by_sequence: Audit::default(),
            content_bytes: plan.bytes.max(MARKER_BYTES) as u32,
            names: (0..plan.publishers as u32)
                .map(|number| name_hash(shared.cast.nickname(number, 0).as_bytes()))
                .collect(),
            level: plan.ack.as_deref().map(Level::of),
            phase: Phase::Gathering,
            has_begun: false,
            has_cut: false,
            has_told: false,
            from_ns: if shared.plan.profile == Profile::Storm { 0 } else { u64::MAX },
            end_ns: u64::MAX,
            schedule: None,
            visits: None,
            moves: None,
            cut_ns: u64::MAX,
            leave_ns: 0,
            now_ns: 0,
            tick: Tick::default(),
            chores_ns: 0,
            next_source: 0,
            ready: 0,
            lost: 0,
            planned_ns: Cell::new(0),
            has_worked: false,
            reads: 0,
            read_ns: 0,
            cpu_at_from_ns: None,
            has_read_cpu: false,
            shared,
        }
    }

    /// What has been counted. To be asked at the end.
    pub fn into_tally(&mut self) -> Tally {
        self.finish();
        std::mem::take(&mut self.tally)
    }

    /// When there is something to send next.
    fn next_due_ns(&self) -> u64 {
        let scheduled =
            |schedule: &Option<Schedule>| schedule.as_ref().and_then(Schedule::next_ns).unwrap_or(u64::MAX);
        let mut due_ns = scheduled(&self.schedule).min(scheduled(&self.visits)).min(scheduled(&self.moves));
        if !self.has_begun {
            due_ns = due_ns.min(self.shared.begin_ns.load(Relaxed));
        }
        if !self.has_cut {
            due_ns = due_ns.min(self.cut_ns);
        }
        due_ns
    }

    fn may_connect(&self) -> bool {
        !self.to_connect.is_empty()
            && self.handshakes < self.shared.plan.handshakes
            && self.phase < Phase::Leaving
    }

    fn touch(&mut self, id: Id) {
        if let Some(peer) = self.peers.get_mut(id)
            && !std::mem::replace(&mut peer.is_touched, true)
        {
            self.touched.push(id);
        }
    }

    /// The connection is to be closed; `is_cut_off`: at once, without regard to what is under way.
    fn close(&mut self, id: Id, is_cut_off: bool) {
        self.to_close.push((id, is_cut_off));
    }

    /// A connection has ended that should not have.
    fn lose(&mut self, id: Id, why: &str) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if std::mem::replace(&mut peer.is_lost, true) {
            return;
        }
        let (state, has_heard, local) = (peer.state, peer.has_heard, peer.member as usize);
        let is_expected = state == State::Quitting
            || self.phase >= Phase::Leaving
            || self.members[local].is_slow
            || self.members[local].connection != Some(id);
        if self.members[local].is_slow
            && self.members[local].connection == Some(id)
            && self.phase < Phase::Leaving
        {
            self.tally.slow_closed += 1;
        }
        if !is_expected {
            let why = match self.farewells.remove(&id) {
                Some(said) => said.into_string(),
                None if !has_heard => "refused, or ended before a word was heard".into(),
                None => why.to_owned(),
            };
            self.lost += 1;
            *self.tally.lost.entry(why).or_default() += 1;
        }
        self.close(id, false);
    }
}

/// Everything that a protocol needs to know of a member.
fn persona<'a>(
    shared: &'a Shared,
    number: u32,
    nickname: &'a str,
    room: u32,
    comeback: Option<Comeback<'a>>,
) -> Persona<'a> {
    Persona {
        number,
        nickname,
        room: shared.cast.room(room),
        is_alone: shared.plan.rooms == shared.plan.connections,
        comeback,
    }
}

impl World for Generator {
    type Mail = ();

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn tick(&mut self, now: Now) {
        let now_ns = self.shared.clock.now_ns();
        let planned_ns = self.planned_ns.replace(0);
        // A turn that found nothing to do was waiting, however busily.
        if self.has_worked && self.now_ns >= self.from_ns && now_ns <= self.end_ns {
            let until_ns = if planned_ns == 0 { now_ns } else { planned_ns };
            self.tally.busy_ns += until_ns.saturating_sub(self.now_ns);
        }
        self.has_worked = false;
        self.reads = 0;
        self.now_ns = now_ns;
        self.tick = now.tick;
        self.completed.clear();
    }

    fn open(&mut self, _peer: IpAddr, _kind: ListenKind) -> Id {
        unreachable!("a generator has no listener")
    }

    fn next_connect(&mut self) -> Option<Connect> {
        if !self.may_connect() {
            return None;
        }
        let member = self.to_connect.pop_front()?;
        Some(self.connect(member))
    }

    fn receive(&mut self, id: Id, input: &mut [u8]) {
        self.take_input(id, input);
    }

    fn input_ended(&mut self, id: Id) {
        self.lose(id, "closed by the target without a word");
    }

    fn broken(&mut self, id: Id) {
        self.lose(id, "reset by the target");
    }

    fn wants_input(&self, id: Id) -> bool {
        self.peers.get(id).is_some_and(|peer| {
            let member = &self.members[peer.member as usize];
            !(member.is_slow && member.is_in && self.has_begun && self.phase < Phase::Settling)
        })
    }

    fn has_gathered_enough(&self) -> bool {
        // What is due is not to wait for much reading, nor reading for ever for what is due.
        self.reads >= READS_MIN && self.read_ns >= self.next_due_ns()
    }

    fn take_resumed(&mut self) -> impl Iterator<Item = Id> {
        // Who did not read is read at the end: to hear whether it was closed.
        std::mem::take(&mut self.resumed).into_iter()
    }

    fn take_touched(&mut self, list: &mut Vec<Id>) {
        std::mem::swap(&mut self.touched, list);
        for id in list {
            if let Some(peer) = self.peers.get_mut(*id) {
                peer.is_touched = false;
            }
        }
    }

    fn gather<'a>(&'a self, id: Id, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(peer) = self.peers.get(id) else { return 0 };
        let rest = &peer.out[peer.out_at as usize..];
        if rest.is_empty() {
            return 0;
        }
        slices[0] = IoSlice::new(rest);
        1
    }

    fn sent(&mut self, id: Id, bytes: usize) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.out_at += bytes as u32;
        if peer.out_at as usize == peer.out.len() {
            peer.out_at = 0;
            // Who speaks will need it again; of the others there may be a million.
            if self.members[peer.member as usize].publisher == NONE {
                peer.out = Vec::new();
            } else {
                peer.out.clear();
            }
        }
    }

    fn has_said_all(&self, id: Id) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.out.is_empty() && matches!(peer.state, State::Quitting))
    }

    fn flushed(&mut self, id: Id) -> bool {
        let Some(peer) = self.peers.get(id) else { return false };
        if !peer.out.is_empty() {
            return false;
        }
        match peer.state {
            State::Silent => {
                self.arrive(id, None);
                false
            }
            State::Quitting => true,
            _ => false,
        }
    }

    fn has_unsent(&self) -> bool {
        let now_ns = self.shared.clock.now_ns();
        let has_unsent =
            !self.touched.is_empty() || self.may_connect() || self.next_due_ns() <= now_ns + SPIN_NS;
        self.planned_ns.set(now_ns);
        has_unsent
    }

    fn take_closed(&mut self, mut close: impl FnMut(Id, bool)) {
        for (id, is_cut_off) in std::mem::take(&mut self.to_close) {
            if let Some(peer) = self.peers.remove(id) {
                self.farewells.remove(&id);
                self.part(id, &peer);
                close(id, is_cut_off);
            }
        }
    }

    fn expire(&mut self) -> bool {
        if self.now_ns >= self.chores_ns {
            self.chores_ns = self.now_ns + CHORES_NS;
            self.do_chores();
        }
        self.speak();
        let gauges = &self.shared.gauges[self.thread];
        gauges.ready.store(self.ready, Relaxed);
        gauges.lost.store(self.lost, Relaxed);
        gauges.sent.store(self.tally.sent_in_all, Relaxed);
        gauges.received.store(self.tally.received_in_all, Relaxed);
        false
    }

    fn next_deadline(&self) -> Option<Tick> {
        let at_ns = self.chores_ns.min(self.next_due_ns());
        Some(self.tick + at_ns.saturating_sub(self.now_ns) / MS)
    }

    fn mail(&mut self, (): ()) {}

    fn outboxes(&mut self) -> &mut [Vec<()>] {
        &mut self.outboxes
    }

    fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }
}

impl Generator {
    /// Whether publishers wait for what they said to arrive.
    fn is_closed_loop(&self) -> bool {
        matches!(self.shared.plan.load, Load::InFlight(_))
    }
}
