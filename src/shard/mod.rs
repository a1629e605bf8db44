//! One core's world, pure: connections, sessions, the rooms and nicknames at home here, fan-out, send queues.
//!
//! A [`Shard`] has no socket, clock or thread. Its methods are of three kinds:
//!
//! - what the world tells it: [`Shard::tick`], [`Shard::open`], [`Shard::receive`], [`Shard::input_ended`],
//!   [`Shard::broken`], [`Shard::sent`], [`Shard::flushed`], [`Shard::mail`], [`Shard::expire`], [`Shard::drain`];
//! - what one asks of it: [`Shard::wants_input`], [`Shard::gather`], [`Shard::next_deadline`], [`Shard::has_deferred`];
//! - what it wants done: [`Shard::take_touched`] connections flushed, [`Shard::take_resumed`] ones read again,
//!   [`Shard::take_closed`] ones closed, and the mail in its [`Shard::outboxes`] delivered.
//!
//! | file | what |
//! |------|------|
//! | `flock` | what all cores are made with |
//! | `connection`, `session` | the two tables, and the life cycle of what is in them |
//! | `resume` | who says hello, and how a session outlives its connection |
//! | `input` | bytes to commands: which protocol, and when a command has to wait |
//! | `limits`, `commands`, `replies` | what a session asks, and what it hears back |
//! | `grpc` | connections of HTTP/2, and the calls on them |
//! | `lines`, `http`, `upgrade`, `api`, `queries` | what text lines and HTTP requests mean, and what those requests ask of homes |
//! | `observer` | what is asked of whoever sees all cores |
//! | `watch` | dashboards: who may look, and what this core tells of itself |
//! | `ledger`, `remarks` | how long each part of a message's way takes, and what a turn was about that took too long |
//! | `reconfigure` | another configuration, while the server runs |
//! | `accounts`, `registered` | users with passwords: who logs in, and what their nicknames' homes know of them |
//! | `home`, `rooms`, `presence` | the rooms and nicknames that live here, and what rooms are told of their members |
//! | `broadcast` | what is said to many |
//! | `doubt` | what was told to one user, and may not have arrived when the connection broke |
//! | `fanout`, `queue`, `encode` | from a room's events to each member's bytes |
//! | `event_streams` | who hears a room by HTTP |
//! | `deflate` | who has WebSocket messages compressed, and what with |
//! | `backplane`, `shared`, `takeover`, `nodes` | what nodes share: the interface to it, the rooms, sessions that go between them, and everything else |
//! | `journal`, `reading`, `restore` | what is written down, what is read again, and what a server begins with |
//! | `mail` | between cores |
//! | `security` | what encryption changes for a connection |
//! | `closing`, `timers` | the end of a connection, and what happens when nothing does |
//! | `connection_log`, `access_log` | what the log tells of each connection and request |
//! | `inventory`, `footprint` | what is held, counted; what an idle client takes |

mod access_log;
pub mod accounts;
mod api;
pub mod backplane;
mod broadcast;
mod closing;
mod commands;
mod connection;
mod connection_log;
mod deflate;
mod doubt;
mod encode;
mod event_streams;
mod fanout;
mod flock;
pub mod footprint;
mod grpc;
mod home;
mod http;
mod input;
mod inventory;
mod journal;
mod ledger;
mod limits;
mod lines;
pub mod mail;
mod nodes;
pub mod observer;
mod presence;
mod queries;
mod queue;
pub mod reading;
pub mod reconfigure;
mod registered;
mod remarks;
mod replies;
pub mod restore;
mod resume;
mod rooms;
mod security;
mod session;
mod shared;
mod takeover;
mod timers;
mod upgrade;
mod watch;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;

use crate::auth::Authority;
use crate::base::attempts::Attempts;
use crate::base::buckets::SharedBuckets;
use crate::base::census::{Census, Full};
use crate::base::rng::Rng;
use crate::base::slots::{Id, Slots};
use crate::base::stats::Counters;
use crate::base::time::{Now, Tick};
use crate::base::wheel::Wheel;
use crate::chat::refusal::Farewell;
use crate::chat::user::{NodeId, SessionRef};
use crate::config::{Config, Limits, ListenKind, Presence};
use crate::proto::wire::Event;
use crate::proto::{frame, websocket};
use crate::record::AccountState;
use reading::Waits;

use closing::Closing;
use connection::{Connection, Pause, Protocol, Stage};
use encode::{Encoding, Scratch};
use event_streams::EventStreams;
use fanout::LocalRooms;
pub use flock::Flock;
use home::Home;
pub use inventory::Inventory;
use journal::Journal;
use ledger::Ledger;
use limits::Rates;
use mail::{Mail, ReplyTo, Request};
use nodes::Nodes;
use observer::Observer;
use queue::SendPool;
use remarks::Remarks;
use rooms::RoomRules;
use session::Session;
use timers::Timer;
use watch::Watching;

/// How many bytes of room events and answers one turn may gather before they are sent: a burst of publishers must not queue more
/// on a member than it could be written in between, and those who ask for much share the turns with others.
const TURN_FANOUT_BYTES: usize = 256 * 1024;

/// The name that the server gives itself.
pub const SERVER: &str = concat!("starling/", env!("CARGO_PKG_VERSION"));

/// One core's connections, sessions and rooms.
#[derive(Debug)]
pub struct Shard {
    node: NodeId,
    core: u16,
    config: Arc<Config>,
    limits: Limits,
    presence: Presence,
    is_echo_on: bool,
    counters: Arc<Counters>,
    census: Arc<Census>,
    authority: Arc<Authority>,
    observer: Option<Arc<dyn Observer>>,
    address_buckets: Arc<SharedBuckets<IpAddr>>,
    user_buckets: Arc<SharedBuckets<Arc<str>>>,
    attempts: Arc<Attempts>,
    /// The registered users, by folded name: every core checks their tokens.
    accounts: HashMap<Box<str>, AccountState>,
    /// What has been asked of the storage threads.
    waits: Waits,
    rates: Rates,
    room_rules: RoomRules,
    rng: Rng,
    /// Keys the hash that gives each name its home; the same on all cores, unknown to peers.
    home_seed: u64,
    /// How many connections this core can hold, and how many more it can tell that it cannot.
    core_connections: usize,
    core_reserve: usize,
    now: Now,
    drain: Option<Drain>,

    connections: Slots<Connection>,
    sessions: Slots<Session>,
    home: Home,
    /// Where the sessions are that began here, by their numbers.
    directory: HashMap<u64, SessionRef>,
    /// How many sessions are away.
    away: usize,
    local_rooms: LocalRooms,
    event_streams: EventStreams,
    /// What outlives the process.
    journal: Journal,
    /// The other nodes of the cluster.
    nodes: Nodes,
    pool: SendPool,
    wheel: Wheel<Timer>,
    /// Holds events until the length of their frames is known.
    scratch: Scratch,
    /// Reads compressed messages; made with the first.
    inflater: Option<Box<websocket::Inflater>>,
    date_cache: http::DateCache,
    /// Who looks at dashboards here, and what they are told.
    watching: Watching,
    /// The messages whose way is followed.
    ledger: Ledger,
    /// What this turn is about.
    remarks: Remarks,

    /// Mail from this core to itself.
    local: VecDeque<Mail>,
    /// Requests that wait until no mailbox is full.
    deferred: VecDeque<Mail>,
    /// How many cores there are.
    cores: usize,
    /// Mail for each core, to be sent at the end of the turn.
    outboxes: Vec<Vec<Mail>>,
    /// Whether some mailbox was full when mail was last sent.
    is_congested: bool,
    /// Requests under way to each core.
    window: Vec<usize>,
    /// Connections that wait for the window of some core.
    window_waiters: Vec<Id>,

    /// Bytes of answers queued in this turn.
    answered_bytes: usize,
    /// Requests of HTTP that were answered in this turn.
    answered: Vec<http::Answered>,
    /// Connections that have broken with something on its way of which it is not known whether it has arrived.
    doubts: Vec<Id>,
    /// The number of the last connection on which something was told to one user alone.
    next_told: u32,
    /// The calls on each connection of HTTP/2 that has any.
    calls: HashMap<Id, Vec<Id>>,
    /// Calls whose pause is over, and that may be read again.
    resumed_calls: Vec<Id>,
    /// An empty list, for the connections whose calls have been flushed.
    flushed_parents: Vec<Id>,
    /// Connections with something to flush, and how many of them have had it since before this turn.
    touched: Vec<Id>,
    untried: usize,
    /// Connections whose pause is over, and that may have a command or input waiting here.
    resumable: VecDeque<Id>,
    /// Those that have used it up, and may be read from again.
    resumed: Vec<Id>,
    /// Connections to be closed at the end of the turn.
    closed: Vec<Id>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Drain {
    /// When the clients were told to go.
    told_at: Option<Tick>,
    /// Whether those who came since have been told, when the time was over.
    has_told_again: bool,
    /// How many connections were there still after that, and were cut off.
    cut_off: Option<usize>,
    /// Whether the sessions have been given up to the other nodes, if there are any.
    has_given_up: bool,
    /// Whether part of the server has failed: it leaves at once.
    is_hasty: bool,
}

/// How long answers are waited for where the server leaves because part of it has failed, in milliseconds: those that the part owes will
/// never come.
pub const LEAVE_MS: u64 = 500;

impl Shard {
    /// The world of core number `core`, empty. `random_seed` is this core's own.
    pub fn new(core: u16, flock: &Flock, counters: Arc<Counters>, random_seed: u64, now: Now) -> Self {
        let cores = usize::from(flock.cores);
        if core == 0 {
            counters.backplane_up.set(u64::from(flock.has_backplane));
        }
        Shard {
            node: flock.node,
            core,
            limits: flock.config.limits.clone(),
            presence: flock.config.presence.clone(),
            is_echo_on: flock.config.is_echo_on(),
            config: flock.config.clone(),
            counters,
            census: flock.census.clone(),
            authority: flock.authority.clone(),
            observer: flock.observer.clone(),
            address_buckets: flock.address_buckets.clone(),
            user_buckets: flock.user_buckets.clone(),
            attempts: flock.attempts.clone(),
            rates: Rates::new(&flock.config.rate),
            room_rules: RoomRules::new(&flock.config, cores, flock.has_store || flock.has_backplane),
            rng: Rng::new(random_seed),
            home_seed: flock.home_seed,
            core_connections: flock.core_connections,
            core_reserve: flock.core_reserve,
            now,
            drain: None,
            connections: Slots::default(),
            sessions: Slots::default(),
            home: Home::default(),
            accounts: HashMap::new(),
            waits: Waits::default(),
            directory: HashMap::new(),
            away: 0,
            local_rooms: LocalRooms::default(),
            event_streams: EventStreams::default(),
            nodes: Nodes::new(flock.has_backplane),
            journal: Journal::new(flock.has_store, flock.config.store.queue_bytes.next_power_of_two()),
            pool: SendPool::default(),
            wheel: Wheel::new(now.tick),
            scratch: Scratch::new(&flock.config),
            inflater: None,
            date_cache: http::DateCache::default(),
            watching: Watching::default(),
            ledger: Ledger::new(flock.sample_every(), random_seed),
            remarks: Remarks::default(),
            local: VecDeque::new(),
            deferred: VecDeque::new(),
            // One more for the storage threads, or for the link to the backplane.
            outboxes: (0..flock.mailboxes()).map(|_| Vec::new()).collect(),
            cores,
            is_congested: false,
            window: vec![0; flock.mailboxes()],
            window_waiters: Vec::new(),
            answered_bytes: 0,
            answered: Vec::new(),
            doubts: Vec::new(),
            next_told: 0,
            calls: HashMap::new(),
            resumed_calls: Vec::new(),
            flushed_parents: Vec::new(),
            touched: Vec::new(),
            untried: 0,
            resumable: VecDeque::new(),
            resumed: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// Tells the time. Called once at the beginning of a turn.
    pub fn tick(&mut self, now: Now) {
        self.now = now;
        self.remarks = Remarks::default();
        self.untried = self.touched.len();
    }

    /// A peer has connected. It is taken in even where a limit forbids it to stay: then it is told so, and closed.
    pub fn open(&mut self, peer: IpAddr, kind: ListenKind) -> Id {
        let id = self.insert_connection(peer, kind);
        self.log_accepted(id);
        self.let_in(id, peer);
        self.arm(id);
        id
    }

    fn insert_connection(&mut self, peer: IpAddr, kind: ListenKind) -> Id {
        let protocol = match kind {
            ListenKind::Web => Protocol::Http(Box::new(http::Http::new(&self.limits, self.now.tick))),
            ListenKind::Frame => Protocol::Frames(frame::Decoder::new(self.limits.inbound_bytes)),
            ListenKind::Grpc => Protocol::Http2(Box::new(grpc::Http2::new(&self.limits))),
            ListenKind::Line => Protocol::Detect,
        };
        let encoding = match kind {
            ListenKind::Web => Encoding::JsonMessage,
            ListenKind::Frame => Encoding::JsonFrame,
            ListenKind::Grpc => grpc::NO_ENCODING,
            ListenKind::Line => Encoding::Text,
        };
        let id = self.connections.insert(Connection::new(peer, kind, protocol, encoding, self.now.tick));
        self.counters.connections.set(self.connections.len() as u64);
        self.counters.connection_places.set(self.connections.places() as u64);
        self.connections_of(kind).add(1);
        id
    }

    /// Lets a connection stay, or tells it that it may not.
    fn let_in(&mut self, id: Id, peer: IpAddr) {
        let others = self.connections.len() - 1;
        // Those who are being told to go have places in the reserve.
        let has_room = others < self.core_connections;
        let is_crowded = others >= self.core_connections.saturating_add(self.core_reserve / 2);
        let is_full = if has_room { self.census.enter(peer).err() } else { Some(Full::Server) };
        let address_bucket =
            (!self.rates.address.is_unlimited()).then(|| self.address_buckets.get(peer, self.now.tick));
        let connection = &mut self.connections[id];
        connection.is_counted = is_full.is_none();
        connection.address_bucket = address_bucket;
        let kind = connection.kind;
        match is_full {
            None => {
                if self.is_leaving() {
                    match kind {
                        ListenKind::Web => {}
                        ListenKind::Frame => self.close(id, Closing::Bye(Farewell::Draining)),
                        ListenKind::Grpc => self.refuse_http2(id, Farewell::Draining.as_str()),
                        ListenKind::Line => self.connections[id].turned_away = Some(Farewell::Draining),
                    }
                }
            }
            Some(full) => {
                self.counters.refused_connections.add(1);
                match kind {
                    ListenKind::Web => self.refuse_http(id, full),
                    ListenKind::Grpc => self.refuse_http2(id, Farewell::TooManyConnections.as_str()),
                    // Not even time to see which language it speaks.
                    ListenKind::Frame => self.close(id, Closing::Bye(Farewell::TooManyConnections)),
                    ListenKind::Line if is_crowded => {
                        self.close(id, Closing::Bye(Farewell::TooManyConnections))
                    }
                    ListenKind::Line => {
                        self.connections[id].turned_away = Some(Farewell::TooManyConnections);
                    }
                }
            }
        }
    }

    /// Bytes have come from a peer. They are changed in place: WebSocket payloads are unmasked.
    pub fn receive(&mut self, id: Id, input: &mut [u8]) {
        self.receive_unsettled(id, input);
        self.settle();
    }

    /// The same, but what follows from it waits for [`Shard::settle`].
    pub fn receive_unsettled(&mut self, id: Id, input: &mut [u8]) {
        self.counters.received_bytes.add(input.len() as u64);
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.note_sign_of_life(self.now.tick);
        if let Some(life) = &mut connection.life {
            life.received_bytes += input.len() as u64;
        }
        if connection.stage == Stage::Open {
            self.take_in(id, input);
        }
    }

    /// The peer has ended its side: it will say no more, but may still listen.
    pub fn input_ended(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.input_ended = true;
        if connection.stage == Stage::Open {
            self.finish_input(id);
            self.settle();
        } else {
            self.touch(id); // a connection that lingered for this is closed by its next flush
        }
    }

    /// The socket has failed: nothing can be read or written any more.
    pub fn broken(&mut self, id: Id) {
        self.close(id, Closing::Broken);
        self.settle();
    }

    /// Whether the connection's input may be read now.
    pub fn wants_input(&self, id: Id) -> bool {
        self.connections.get(id).is_some_and(|connection| match connection.stage {
            Stage::Open => connection.pause.is_none() && !connection.has_backlog() && !connection.input_ended,
            Stage::Flushing(_) | Stage::Lingering(_) => !connection.input_ended,
            Stage::Closed => false,
        })
    }

    /// Whether as much has been gathered as one turn should send: more input can wait for the next one.
    pub fn has_gathered_enough(&self) -> bool {
        self.home.gathered_bytes + self.answered_bytes >= TURN_FANOUT_BYTES
    }

    /// Fills `slices` with what is to be written on a connection, and returns how many there are.
    pub fn gather<'a>(&'a self, id: Id, slices: &mut [IoSlice<'a>]) -> usize {
        self.connections.get(id).map_or(0, |connection| self.pool.gather(&connection.queue, slices))
    }

    /// So many of the gathered bytes have been written.
    pub fn sent(&mut self, id: Id, bytes: usize) {
        self.counters.writes.add(1);
        self.counters.sent_bytes.add(bytes as u64);
        self.note_sent(id, bytes);
        let now = self.now.tick;
        if let Some(connection) = self.connections.get_mut(id) {
            self.pool.advance(&mut connection.queue, bytes);
            if let Some(life) = &mut connection.life {
                life.sent_bytes += bytes as u64;
            }
            connection.http_bytes =
                connection.http_bytes.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
            if let Some(told) = &mut connection.told {
                told.sent(bytes);
            }
            if connection.pause == Some(Pause::Output) {
                connection.last_seen = now; // it cannot be heard, but takes what it is sent
            }
        }
    }

    /// What could be written has been. Says whether our side is to be ended now; the peer's may go on.
    #[must_use]
    pub fn flushed(&mut self, id: Id) -> bool {
        match self.connections.get(id).map(|connection| connection.stage) {
            None | Some(Stage::Closed) => false,
            Some(Stage::Open) => {
                self.check_output(id);
                false
            }
            Some(Stage::Flushing(_) | Stage::Lingering(_)) => self.ends_our_side(id),
        }
    }

    /// Mail has come from another core.
    pub fn mail(&mut self, mail: Mail) {
        self.handle(mail);
        self.settle();
    }

    /// Handles one timer that is due, and says whether there was one.
    pub fn expire(&mut self) -> bool {
        let Some((_, timer)) = self.wheel.expire(self.now.tick) else { return false };
        self.handle_timer(timer);
        self.settle();
        true
    }

    /// When the next timer wants to be looked at.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.wheel.next_deadline()
    }

    /// Ends the turn for the rooms: what they gathered becomes mail and queued bytes.
    pub fn send_gathered_events(&mut self) {
        self.post_gathered_events();
        self.deliver_gathered_events();
    }

    /// The first half of that: mail, also to this core.
    pub fn post_gathered_events(&mut self) {
        self.answered_bytes = 0;
        self.send_gathered();
    }

    /// The other half: queued bytes.
    pub fn deliver_gathered_events(&mut self) {
        self.settle();
        self.give_up_at_the_end();
        self.count_deflated();
    }

    /// Tells whether a mailbox was full when this core's mail was last sent. While one is, requests wait: they are
    /// the only mail that makes mail for others.
    pub fn set_congested(&mut self, is_congested: bool) {
        self.is_congested = is_congested;
        if !is_congested {
            // What is put off meanwhile is for the next turn.
            for _ in 0..self.deferred.len() {
                let mail = self.deferred.pop_front().expect("counted before");
                self.handle(mail);
            }
            self.settle();
        }
    }

    /// Whether requests wait for a mailbox.
    pub fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// The mail for each core, to be taken by whoever delivers it.
    pub fn outboxes(&mut self) -> &mut [Vec<Mail>] {
        &mut self.outboxes
    }

    /// Swaps the list of connections that have something to flush for an empty one.
    #[inline]
    pub fn take_touched(&mut self, list: &mut Vec<Id>) {
        debug_assert!(list.is_empty());
        std::mem::swap(&mut self.touched, list);
        for id in list.iter() {
            if let Some(connection) = self.connections.get_mut(*id) {
                connection.is_touched = false;
            }
        }
        if !self.calls.is_empty() || !self.resumed_calls.is_empty() {
            self.flush_calls(list);
        }
    }

    /// Whether something waits to be sent: queued bytes, gathered events, or mail.
    pub fn has_unsent(&self) -> bool {
        !self.touched.is_empty()
            || !self.resumed_calls.is_empty()
            || self.home.has_gathered()
            || self.has_to_give_up()
            || self.outboxes.iter().any(|outbox| !outbox.is_empty())
    }

    /// Takes the connections whose input may be read again.
    pub fn take_resumed(&mut self) -> impl Iterator<Item = Id> {
        self.resumed.drain(..)
    }

    /// How many connections were cut off because draining took too long.
    pub fn cut_off(&self) -> usize {
        self.drain.and_then(|drain| drain.cut_off).unwrap_or_default()
    }

    /// How many connections there are.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// The counters of this core.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sends an event to one connection, if it still is one.
    fn say(&mut self, id: Id, event: &Event) {
        if let Some(connection) = self.connections.get(id) {
            self.say_as(id, connection.encoding, event);
        }
    }

    /// Sends an event in an encoding of the connection's protocol.
    fn say_as(&mut self, id: Id, encoding: Encoding, event: &Event) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.stage != Stage::Open {
            return;
        }
        let whom = self.scratch.deflaters.whom(id, connection.encoding);
        self.pool.push_frame(&mut connection.queue, |out| {
            let at = out.len();
            encoding.put(event, &mut self.scratch, out);
            if whom.keeps_context() {
                self.scratch.deflaters.compress_last_for(whom, out, at);
            }
        });
        self.touch(id);
    }

    /// Sends the answer to a command, if its session has a connection.
    fn reply(&mut self, connection: Option<Id>, reply_to: &ReplyTo, event: &Event) {
        let Some(id) = connection else { return };
        let Some(connection) = self.connections.get(id) else { return };
        // A session that has moved may have an answer for a command of another connection.
        let encoding = reply_to.encoding.filter(|encoding| encoding.is_beside(connection.encoding));
        let encoding = encoding.unwrap_or(connection.encoding);
        let before = connection.queue.bytes();
        self.say_as(id, encoding, event);
        if let Some(connection) = self.connections.get(id) {
            self.answered_bytes += connection.queue.bytes() - before;
        }
        if let (Encoding::GrpcResponse, Event::Ack(_)) = (encoding, event) {
            self.complete_call(id);
        }
    }

    /// Sends bytes to one connection, if it still is one.
    fn say_raw(&mut self, id: Id, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.stage == Stage::Open {
            self.pool.push_frame(&mut connection.queue, write);
            self.touch(id);
        }
    }

    /// Puts a connection on the list of those to be flushed in this turn.
    fn touch(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.is_touched
        {
            connection.is_touched = true;
            self.touched.push(id);
        }
    }

    /// The core that a folded name lives on.
    fn home_of(&self, folded: &str) -> u16 {
        home_of(self.home_seed, self.cores, folded)
    }

    fn cores(&self) -> usize {
        self.cores
    }

    /// Handles mail to this core, and lets those go on who waited for it, until nothing is left.
    pub fn settle(&mut self) {
        loop {
            if let Some(mail) = self.local.pop_front() {
                self.handle(mail);
            } else if let Some(id) = self.resumable.pop_front() {
                self.resume(id);
            } else {
                break;
            }
        }
    }

    fn handle(&mut self, mail: Mail) {
        match mail {
            Mail::Request { .. } | Mail::ApiRequest { .. } if self.is_congested => {
                self.counters.deferred_requests.add(1);
                self.deferred.push_back(mail);
            }
            Mail::Request { from, reply_to, request } => self.handle_request(from, reply_to, request),
            Mail::Reply { to, home, reply_to, reply } => self.handle_reply(to, home, reply_to, reply),
            Mail::ApiRequest { from, request } => self.handle_api_request(from, request),
            Mail::ApiReply { to, home, reply } => self.handle_api_reply(to, home, reply),
            Mail::Room(batch) => self.deliver(&batch),
            Mail::Look => self.look(),
            Mail::Snapshot(snapshot) => self.tell_watchers(&snapshot),
            Mail::Store(news) => self.hear_store(news),
            Mail::StoreRequest { .. } | Mail::BackplaneRequest { .. } => {
                unreachable!("those who keep what outlives the process have a mailbox of their own")
            }
            Mail::Backplane(news) => self.hear_backplane(news),
            Mail::Reconfigured(new) => self.reconfigure(&new),
            Mail::Interrupted { room, epoch } => self.interrupt(room, &epoch),
            Mail::HandedOn { nickname, session } => {
                self.home.nicknames.release(&nickname, session);
                self.counters.nicknames.set(self.home.nicknames.len() as u64);
            }
            Mail::PrivateDone { from, reply_to, reply } => {
                self.answer_private(from, reply_to, self.core, *reply);
            }
            Mail::PrivateKnown { key, done } => self.note_private(&key, *done),
            Mail::Silent { node, is_silent } => self.note_silent(node, is_silent),
            Mail::Stays { number, session } => self.note_stays(number, session),
            Mail::HandedOnNumber { number, session } => self.note_parted(number, session),
            Mail::HandedOnIn { room, session, number, is_taken } => {
                self.hand_on_in(room, session, number, is_taken);
            }
            Mail::EventStreamEnded { room, from } => self.hear_stream_ended(room, from),
            Mail::EventStreamExpelled { to, room, is_banned } => {
                self.hear_stream_expelled(to, room, is_banned)
            }
            Mail::Expelled { to, room, name, reason } => self.hear_expelled(to, room, &name, reason),
            Mail::PutIntoInbox { to, number, kept } => self.hear_kept(to, number, *kept),
        }
    }

    /// Sends a request for a client's command to a home core, and counts it as under way.
    fn request(&mut self, session: Id, core: u16, reply_to: ReplyTo, request: Request) {
        self.window[usize::from(core)] += 1;
        self.sessions.get_mut(session).expect("a session asks").under_way += 1;
        let from = SessionRef { node: self.node, core: self.core, session };
        self.post(core, Mail::Request { from, reply_to, request });
    }

    /// Sends a request that a session makes by itself, beside the commands of its client.
    fn ask(&mut self, session: Id, core: u16, request: Request) {
        self.window[usize::from(core)] += 1;
        self.sessions.get_mut(session).expect("a session asks").background += 1;
        let from = SessionRef { node: self.node, core: self.core, session };
        self.post(core, Mail::Request { from, reply_to: ReplyTo::default(), request });
    }
}

/// The core that a folded name lives on.
fn home_of(seed: u64, cores: usize, folded: &str) -> u16 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(seed);
    hasher.write(folded.as_bytes());
    (hasher.finish() % cores as u64) as u16
}
