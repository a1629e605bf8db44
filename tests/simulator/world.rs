//! A run: several cores in one thread, their clients, and the order in which everything happens, all from one seed.
//!
//! A core's turn is split where it would block: the world first asks for its plan to sleep, and calls the turn only when
//! the sleep would be over, because something is pending in its kernel or its deadline has come. Between the two, others
//! run. So a wake-up that is lost shows: the core does not run again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use starling::base::census::Census;
use starling::base::histogram::Snapshot;
use starling::base::latency::HOPS;
use starling::base::rng::Rng;
use starling::base::stats::Counters;
use starling::base::time::{Now, Tick};
use starling::config::{Config, ListenKind, Rate};
use starling::reactor::mailbox::Exchange;
use starling::reactor::{Door, Os, Reactor, Turn};
use starling::record::Restored;
use starling::shard::mail::Parcel;
use starling::shard::restore::share_out;
use starling::shard::{Flock, Inventory, Shard};
use starling::store::engine::Engine;
use starling::sys::ring::Ring;

use crate::client::{Client, Kind, Terms};
use crate::comeback::Ghost;
use crate::faults::{Faults, Shape, draw_config, draw_deflate, happens, pick, plain};
use crate::kernel::{Kernel, SimOs};
use crate::listener::Listener;
use crate::model::Model;
use crate::secure;
use crate::store::{Storage, Store};
use crate::stranger::{self, Stranger};
use crate::swarm::{self, Op};
use crate::trace::Trace;

/// The listeners of each core, by number; behind them come the same ones encrypted.
const LISTENERS: [ListenKind; 3] = [ListenKind::Line, ListenKind::Web, ListenKind::Grpc];

/// The number of the listener of binary frames, which is behind all of those.
pub const FRAMES: usize = 2 * LISTENERS.len();

/// Steps of one stretch of a run, between two moments of rest.
const STEPS: u64 = 5000;

/// Rounds after which a world that should come to rest is taken to spin.
const ROUNDS_MAX: usize = 200_000;

/// For how long a world is let to come to rest: longer than every retry and backoff of the server, shorter than a
/// lingering close.
const REST_MS: u64 = 600;

/// What one turn may add to a connection's queue after it was looked at, in bytes.
const TURN_BYTES: usize = 1024 * 1024;

/// What all cores together tell of the messages that they followed.
#[derive(Debug, Default)]
struct Ledger {
    samples: u64,
    lost: u64,
    unfollowed: u64,
    waiting: u64,
    hops: [Snapshot; HOPS.len()],
}

/// One run.
pub struct World {
    pub kernel: Rc<RefCell<Kernel>>,
    pub model: Model,
    pub clients: Vec<Client>,
    /// Those who only listen, by HTTP.
    pub listeners: Vec<Listener>,
    /// Those who do what clients do not.
    pub strangers: Vec<Stranger>,
    /// The connections that clients have left behind.
    pub ghosts: Vec<Ghost>,
    pub shape: Shape,
    pub terms: Terms,
    pub cores: Vec<Core>,
    exchange: Arc<Exchange<Parcel>>,
    census: Arc<Census>,
    pub store: Option<Store>,
    pub config: Arc<Config>,
    /// Until which moment a server that is being replaced may drain.
    pub upgrade: Option<u64>,
}

pub struct Core {
    pub reactor: Reactor<SimOs>,
    state: State,
    /// Until which step it is not scheduled.
    frozen_until: u64,
}

impl Core {
    /// How often somebody has waited for a page for too long, and a message for place in the journal.
    fn waits_for_store(&mut self) -> [u64; 2] {
        let counters = self.reactor.world().counters();
        [&counters.store_overdue, &counters.journal_waits].map(|counter| counter.value())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between two turns.
    Awake,
    /// In its poll, until something comes up or the clock says so.
    Asleep { until_ms: Option<u64> },
    /// It has drained.
    Ended,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, cores: usize, trace: Trace) -> World {
        let mut rng = Rng::new(seed);
        let mut faults = Faults::draw(&mut rng);
        let mut shape = Shape::draw(&mut rng, cores);
        let mut config = draw_config(&mut rng);
        // By the seed itself: what is drawn here would change all that is drawn after it.
        shape.has_grpc = seed % 2 == 1;
        if seed % 4 == 3 {
            config.limits.http2_output_bytes = 16_384;
        }
        // By dice of its own, so that runs without a store are what they were before there was one.
        let mut rng_of_store = Rng::new(seed ^ 0x0005_704E);
        if rng_of_store.chance(50) {
            shape.storage = Some(Storage::draw(&mut rng_of_store, &mut config));
        }
        // So is compression, which has no dice of its own where it is off.
        let mut rng_of_deflate = Rng::new(seed ^ 0x000D_EF1A);
        if rng_of_deflate.chance(50) {
            draw_deflate(&mut rng_of_deflate, &mut config);
        }
        // Nor are those without TLS others.
        let mut rng_of_tls = Rng::new(seed ^ 0x0000_0715);
        if rng_of_tls.chance(40) {
            shape.secure_percent = pick(&mut rng_of_tls, &[10, 50, 100]);
            config.limits.tls_handshakes_per_turn = pick(&mut rng_of_tls, &[1, 8]);
            config.limits.tls_handshake_ms = pick(&mut rng_of_tls, &[200, 10_000]);
        }
        // Who only listens is not in the others' way, but keeps rooms alive.
        let mut rng_of_listeners = Rng::new(seed ^ 0x0000_05E5);
        if rng_of_listeners.chance(30) {
            shape.listeners = 1 + rng_of_listeners.below(4) as usize;
            config.limits.replay_page_bytes = pick(&mut rng_of_listeners, &[1024, 4096, 262_144]);
        }
        // Who is followed is drawn by dice of its own, too, and changes nothing that anybody sees.
        config.observe.latency_sample_every = pick(&mut Rng::new(seed ^ 0x001E_D6E4), &[0, 1, 3, 64]);
        let left_out = swarm::apply(seed, &mut faults, &mut shape, &mut config);
        let world = World::build(rng, faults, shape, config, trace);
        if swarm::is_swarm(seed) {
            world.kernel.borrow_mut().trace.note(&[], || format!("left out: {left_out:?}"));
        }
        world
    }

    /// A world in which nothing goes wrong but what its user does.
    pub fn calm(cores: usize, config: Config) -> World {
        World::build(Rng::new(1), Faults::default(), Shape::roomy(cores), config, Trace::default())
    }

    /// The world of its parts.
    pub fn build(mut rng: Rng, faults: Faults, shape: Shape, config: Config, trace: Trace) -> World {
        let config = Arc::new(config);
        let limits = &config.limits;
        let terms = Terms {
            rooms_per_session: limits.rooms_per_session,
            content_bytes: limits.content_bytes,
            inbound_bytes: limits.inbound_bytes,
            errors_per_window: limits.errors_per_window,
            timeout_ms: config.heartbeat.timeout_ms,
            hello_ms: limits.hello_ms,
            has_connection_limit: limits.connections > 0,
            grace_ms: config.session.grace_ms,
            history_count: config.history.count as u64,
            tells_presence_at_once: config.presence.exact_members > 100,
            has_listeners: shape.listeners > 0,
            has_deflate: config.web.deflate,
            has_rates: config.rate != plain().rate,
            rate_is_own: config.rate
                == Rate {
                    commands_per_second: config.rate.commands_per_second,
                    burst: config.rate.burst,
                    ..plain().rate
                },
            rate_ignored_ms: limits.rate_ignored_ms,
            may_be_refused: faults.moderation > 0
                || shape.mix.as_ref().is_some_and(|mix| mix.has(Op::Moderation))
                || config.rate != plain().rate
                || shape.storage.is_some(),
            has_store: shape.storage.is_some(),
            ack: config.store.ack,
            memory_count: config.history.memory_count,
            has_strangers: shape.strangers > 0,
            has_upgrades: shape.upgrades > 0,
        };
        let home_seed = rng.next_u64();
        let seeds: Vec<u64> = (0..shape.cores).map(|_| rng.next_u64()).collect();
        let mut kernel = Kernel::new(rng, faults, &shape, FRAMES + 1, limits, trace);
        let faults = kernel.faults.clone();
        kernel.trace.note(&[0], || {
            format!(
                "{faults:?}\n{shape:?}\n{limits:?}\n{:?}\n{:?}\n{:?}",
                config.heartbeat, config.store, config.history
            )
        });
        let mut world = World {
            kernel: Rc::new(RefCell::new(kernel)),
            model: Model::default(),
            clients: Vec::new(),
            listeners: Vec::new(),
            strangers: Vec::new(),
            upgrade: None,
            ghosts: Vec::new(),
            cores: Vec::new(),
            exchange: Arc::new(Exchange::new(0, 1)),
            census: Arc::new(Census::new(0, 0)),
            store: None,
            shape,
            terms,
            config,
        };
        let engine = world.shape.storage.is_some().then(Engine::in_memory);
        world.begin_server(home_seed, seeds, Restored::default(), engine);
        world
    }

    /// Starts a server: a core for each seed, with its share of what an earlier one has left.
    pub fn begin_server(
        &mut self,
        home_seed: u64,
        seeds: Vec<u64>,
        restored: Restored,
        engine: Option<Engine>,
    ) {
        let (config, cores) = (&self.config, seeds.len());
        self.census = Arc::new(Census::new(config.limits.connections, 0));
        let quiet = Flock::of_one(config.clone(), self.census.clone());
        let authority =
            if self.shape.strangers > 0 { Arc::new(stranger::authority()) } else { quiet.authority.clone() };
        let flock = Flock {
            node: 0,
            cores: cores as u16,
            core_connections: usize::MAX,
            core_reserve: 64,
            home_seed,
            has_store: engine.is_some(),
            authority,
            ..quiet
        };
        let mailboxes = cores + usize::from(flock.has_store);
        self.exchange = Arc::new(Exchange::new(mailboxes, self.shape.mailbox_parcels));
        let shares = share_out(restored, &flock);
        let mut rings = Vec::new();
        if let (Some(mut engine), Some(storage)) = (engine, &self.shape.storage) {
            for (core, share) in shares.iter().enumerate() {
                share.room_numbers().for_each(|room| engine.assign(room, core));
            }
            let ring = || Arc::new(Ring::create(None, config.store.queue_bytes, 1).expect("memory"));
            rings = (0..cores).map(|_| ring()).collect();
            let store = Store::new(engine, rings.clone(), self.exchange.clone(), storage.clone(), config);
            self.store = Some(store);
        }
        let cores = seeds.into_iter().zip(shares).enumerate().map(|(core, (seed, share))| {
            let mut os = SimOs::new(core, self.kernel.clone(), rings.get(core).cloned());
            let now: Now = os.now();
            let mut shard = Shard::new(core as u16, &flock, Arc::new(Counters::default()), seed, now);
            shard.restore(share);
            let doors = LISTENERS.map(Door::from).into_iter().chain(LISTENERS.map(secure::door));
            let doors = doors.chain((self.shape.strangers > 0).then(|| Door::from(ListenKind::Frame)));
            let reactor = Reactor::new(core, os, shard, &config.limits, false, doors, self.exchange.clone());
            Core { reactor, state: State::Awake, frozen_until: 0 }
        });
        self.cores = cores.collect();
    }

    /// A stretch of the run in which everything may happen.
    pub fn run(&mut self) {
        for _ in 0..STEPS {
            self.step();
        }
    }

    /// One step of it.
    pub fn step(&mut self) {
        self.model.moment += 1;
        let roll = self.kernel.borrow_mut().rng.below(100);
        match roll {
            0..50 => self.run_some_core(),
            50..97 => self.run_some_client(),
            _ => self.pass_time(),
        }
        self.run_some_listener();
        self.run_some_stranger();
        if let Some(store) = &mut self.store {
            store.step(&mut self.kernel.borrow_mut(), &mut self.model);
            self.restart_perhaps();
            self.upgrade_perhaps();
        }
        self.check_sleepers();
    }

    /// Lets everything go through that is under way, without new faults, until nothing happens any more for a while.
    pub fn come_to_rest(&mut self, rest_ms: u64) {
        let faults = std::mem::take(&mut self.kernel.borrow_mut().faults);
        let until_ms = self.kernel.borrow().clock_ms + rest_ms;
        for core in &mut self.cores {
            core.frozen_until = 0;
        }
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "the world does not come to rest: {}", self.what_goes_on());
            self.model.moment += 1;
            let mut has_moved = false;
            for client in &mut self.clients {
                has_moved |= client.pump(&mut self.kernel.borrow_mut(), &mut self.model);
            }
            for listener in &mut self.listeners {
                has_moved |= listener.pump(&mut self.kernel.borrow_mut(), &mut self.model);
            }
            for stranger in &mut self.strangers {
                has_moved |= stranger.pump(&mut self.kernel.borrow_mut(), &mut self.model, &self.terms);
            }
            for ghost in &mut self.ghosts {
                let client = &self.clients[ghost.number];
                // One that hears nothing does not learn that the server has closed its connection, perhaps before it was obeyed.
                let is_over = client.is_deaf && self.kernel.borrow().conns[client.conn].is_closed;
                if client.is_without_session() || is_over {
                    ghost.give_up(&mut self.kernel.borrow_mut());
                }
                has_moved |= ghost.pump(&mut self.kernel.borrow_mut(), &mut self.model, usize::MAX);
            }
            for core in 0..self.cores.len() {
                if self.is_runnable(core) {
                    self.step_core(core);
                    has_moved = true;
                }
            }
            if let Some(store) = &mut self.store {
                has_moved |= store.settle(&mut self.kernel.borrow_mut(), &mut self.model);
            }
            self.check_sleepers();
            if !has_moved {
                // Where much was said and mailboxes are small, what they did not take is put there again a millisecond later, often.
                let is_running = |core: &&mut Core| core.state != State::Ended;
                let has_more =
                    self.cores.iter_mut().filter(is_running).any(|core| !core.reactor.is_quiescent());
                let next = self.next_deadline().filter(|next| *next <= until_ms || has_more);
                let Some(next) = next else { break };
                self.kernel.borrow_mut().clock_ms = next;
            }
        }
        let mut kernel = self.kernel.borrow_mut();
        kernel.clock_ms = until_ms.max(kernel.clock_ms);
        kernel.faults = faults;
    }

    /// Connects a client to a core.
    pub fn connect(&mut self, kind: Kind, core: usize) -> usize {
        let kernel = &mut *self.kernel.borrow_mut();
        let number = self.clients.len();
        let conn = connect(kernel, &self.shape, kind, core);
        kernel.trace.note(&[40, number as u64, core as u64], || {
            format!("client {number} ({kind:?}) connects to core {core} as conn {conn}")
        });
        let mut client = Client::new(number, kind, conn, &self.terms, kernel.clock_ms);
        client.begin(kernel);
        self.clients.push(client);
        number
    }

    /// Lets a client go on with another connection, to a core.
    pub fn come_back(&mut self, number: usize, kind: Kind, core: usize) {
        let kernel = &mut *self.kernel.borrow_mut();
        let conn = connect(kernel, &self.shape, kind, core);
        kernel.trace.note(&[44, number as u64, core as u64], || {
            format!("client {number} ({kind:?}) comes back to core {core} as conn {conn}")
        });
        let ghost = self.clients[number].come_back(kernel, &mut self.model, kind, conn);
        self.clients[number].begin(kernel);
        self.ghosts.push(ghost);
    }

    /// Asks all cores to drain, as a signal does.
    pub fn drain(&mut self) {
        self.model.is_draining = true;
        for core in 0..self.cores.len() {
            self.kernel.borrow_mut().wake_core(core);
        }
    }

    pub fn have_all_cores_ended(&self) -> bool {
        self.cores.iter().all(|core| core.state == State::Ended)
    }

    pub fn inventory(&mut self, core: usize) -> Inventory {
        self.cores[core].reactor.world().inventory()
    }

    /// Sums what the cores have counted into `totals`.
    pub fn add_counts(&mut self, totals: &mut BTreeMap<&'static str, u64>) {
        for core in &mut self.cores {
            for (name, value) in core.reactor.world().counters().values() {
                *totals.entry(name).or_default() += value;
            }
        }
        for (name, value) in &self.model.counts {
            *totals.entry(name).or_default() += value;
        }
    }

    pub fn core_count(&self) -> usize {
        self.cores.len()
    }

    pub fn connected(&self) -> usize {
        self.census.total()
    }

    /// What must be true of every core when nothing happens any more.
    pub fn check_rest(&mut self) {
        let kernel = self.kernel.borrow();
        for ghost in &self.ghosts {
            ghost.check_rest(&kernel, &self.model);
        }
        for listener in &self.listeners {
            listener.check_rest(&self.model);
        }
        for (number, core) in self.cores.iter_mut().enumerate() {
            if core.state == State::Ended {
                continue;
            }
            assert!(core.reactor.is_quiescent(), "core {number} has something left to do");
            assert!(self.exchange.mailbox(number).is_empty(), "core {number} has mail");
            assert_eq!(kernel.waiting_clients(number), 0, "core {number} leaves clients unaccepted");
            for (conn, id, is_readable, _) in kernel.registered(number) {
                assert!(!is_readable, "conn {conn} of core {number} ({id:?}) has bytes unread");
            }
            let due = core.reactor.world().next_deadline();
            assert!(
                due.is_none_or(|due| due > Tick(kernel.clock_ms.saturating_sub(REST_MS))),
                "a timer was forgotten"
            );
            let inventory = core.reactor.world().inventory();
            assert_eq!((inventory.under_way, inventory.deferred), (0, 0), "core {number}: {inventory:?}");
            let Inventory { store_waits, unstored, unwritten, .. } = inventory;
            assert_eq!((store_waits, unstored, unwritten), (0, 0, 0), "core {number}: {inventory:?}");
        }
        if let Some(store) = &self.store {
            store.check_rest();
        }
        drop(kernel);
        if self.cores.iter().all(|core| core.state != State::Ended) {
            self.check_ledger();
        }
    }

    /// Whatever was followed has got to an end that is counted, and its hops add up to its whole way.
    fn check_ledger(&mut self) {
        let mut ledger = Ledger::default();
        for core in &mut self.cores {
            let world = core.reactor.world();
            ledger.waiting += world.inventory().samples_waiting as u64;
            let counters = world.counters();
            ledger.samples += counters.latency_samples.value();
            ledger.lost += counters.latency_lost.value();
            ledger.unfollowed += counters.latency_unfollowed.value();
            for (hop, _) in HOPS {
                counters.hops.of(hop).add_to(&mut ledger.hops[hop as usize]);
            }
        }
        let [parsed, sequenced, received, written, total] = &ledger.hops;
        let counts = [parsed, sequenced, received, written].map(Snapshot::count);
        assert!(counts.is_sorted_by(|before, after| before >= after), "{ledger:?}");
        assert_eq!((counts[0], counts[3]), (ledger.samples, total.count()), "{ledger:?}");
        let ended = total.count() + ledger.lost + ledger.unfollowed;
        assert_eq!(ended + ledger.waiting, ledger.samples, "{ledger:?}");
        let parts_ns = [parsed, sequenced, received, written].iter().map(|hop| hop.sum_ns).sum::<u64>();
        let is_whole = ended == total.count() && ledger.waiting == 0;
        assert!(parts_ns >= total.sum_ns && (!is_whole || parts_ns == total.sum_ns), "{ledger:?}");
        let most_ns = self.kernel.borrow().clock_ms * 1_000_000 * total.count();
        assert!(total.sum_ns <= most_ns, "longer than the run: {ledger:?}");
    }

    fn run_some_core(&mut self) {
        let step = self.model.moment;
        let runnable: Vec<usize> = (0..self.cores.len())
            .filter(|c| self.cores[*c].frozen_until <= step && self.is_runnable(*c))
            .collect();
        if runnable.is_empty() {
            return self.disturb_some_core();
        }
        let core = {
            let kernel = &mut *self.kernel.borrow_mut();
            let core = runnable[kernel.rng.below(runnable.len() as u64) as usize];
            if happens(&mut kernel.rng, kernel.faults.frozen_core) {
                self.cores[core].frozen_until = step + 20 + kernel.rng.below(300);
                return;
            }
            core
        };
        self.step_core(core);
    }

    /// Interrupts the sleep of a core, or reports to it what is not new.
    fn disturb_some_core(&mut self) {
        let kernel = &mut *self.kernel.borrow_mut();
        let core = kernel.rng.below(self.cores.len() as u64) as usize;
        if happens(&mut kernel.rng, kernel.faults.interrupted_poll) {
            kernel.interrupt(core);
        }
        if happens(&mut kernel.rng, kernel.faults.spurious_event) {
            kernel.report_spuriously(core);
        }
        if happens(&mut kernel.rng, kernel.faults.descriptors_run_out) {
            let for_ms = kernel.rng.below(300);
            kernel.exhaust_descriptors(core, for_ms);
        }
    }

    fn run_some_client(&mut self) {
        let there: Vec<usize> = (0..self.clients.len()).filter(|c| !self.clients[*c].is_gone).collect();
        let has_place = there.len() < self.shape.clients;
        let (is_newcomer, nth, kind, core) = {
            let rng = &mut self.kernel.borrow_mut().rng;
            let nth = rng.below(there.len().max(1) as u64) as usize;
            let program = if self.shape.has_grpc { Kind::Grpc } else { Kind::Json };
            let kind = pick(rng, &[Kind::Json, program, Kind::Web, Kind::Text]);
            (has_place && rng.chance(5), nth, kind, rng.below(self.cores.len() as u64) as usize)
        };
        let lost: Vec<usize> = (0..self.clients.len()).filter(|c| self.clients[*c].may_come_back()).collect();
        let comes_back = !lost.is_empty() && has_place && self.kernel.borrow_mut().rng.chance(20);
        let takes_over = {
            let kernel = &mut *self.kernel.borrow_mut();
            there.get(nth).is_some_and(|c| self.clients[*c].may_take_over())
                && happens(&mut kernel.rng, kernel.faults.takeover)
        };
        if comes_back || takes_over {
            let number = if comes_back { lost[nth % lost.len()] } else { there[nth] };
            let kind = match kind {
                Kind::Web if comes_back => Kind::Web,
                Kind::Grpc => Kind::Grpc,
                _ => Kind::Json,
            };
            self.come_back(number, kind, core);
            if takes_over && !comes_back {
                // The connection left behind waits for that.
                self.clients[number].say_resume(&mut self.kernel.borrow_mut(), &mut self.model);
            }
            return;
        }
        if !self.ghosts.is_empty() {
            let kernel = &mut *self.kernel.borrow_mut();
            let ghost = kernel.rng.below(self.ghosts.len() as u64) as usize;
            self.ghosts[ghost].pump(kernel, &mut self.model, 1 + self.shape.chunk_bytes);
        }
        if is_newcomer {
            self.connect(kind, core);
        } else if let Some(client) = there.get(nth) {
            self.clients[*client].act(&mut self.kernel.borrow_mut(), &mut self.model, &self.shape);
        }
    }

    fn run_some_listener(&mut self) {
        if self.shape.listeners == 0 || !self.kernel.borrow_mut().rng.chance(10) {
            return;
        }
        let kernel = &mut *self.kernel.borrow_mut();
        let nth = kernel.rng.below(self.shape.listeners as u64) as usize;
        let core = kernel.rng.below(self.cores.len() as u64) as usize;
        match self.listeners.get_mut(nth) {
            Some(listener) if listener.is_over() => {
                let conn = connect(kernel, &self.shape, Kind::Web, core);
                listener.ask(kernel, conn);
            }
            Some(listener) => listener.act(kernel, &mut self.model, self.shape.chunk_bytes),
            None => {
                let conn = connect(kernel, &self.shape, Kind::Web, core);
                self.listeners.push(Listener::begin(kernel, conn));
            }
        }
    }

    fn run_some_stranger(&mut self) {
        if self.shape.strangers == 0 || !self.kernel.borrow_mut().rng.chance(10) {
            return;
        }
        let kernel = &mut *self.kernel.borrow_mut();
        let nth = kernel.rng.below(self.shape.strangers as u64) as usize;
        let core = kernel.rng.below(self.cores.len() as u64) as usize;
        match self.strangers.get_mut(nth) {
            Some(stranger) if stranger.is_over() => stranger.visit(kernel, core, FRAMES),
            Some(stranger) => stranger.act(kernel, &mut self.model, &self.terms, self.shape.chunk_bytes),
            None => self.strangers.push(Stranger::begin(self.strangers.len(), kernel, core, FRAMES)),
        }
    }

    fn pass_time(&mut self) {
        let kernel = &mut *self.kernel.borrow_mut();
        kernel.clock_ms += kernel.rng.below(20);
        if self.upgrade.is_some() {
            // Nobody waits for the end of a drain step by step.
            kernel.clock_ms += kernel.rng.below(3000);
            kernel.is_hurried = true;
            self.model.has_jumped = true;
        }
        if happens(&mut kernel.rng, kernel.faults.jump) {
            kernel.clock_ms += kernel.rng.below(20_000);
            self.model.has_jumped = true;
            self.model.count("clock_jumps");
        }
        if happens(&mut kernel.rng, kernel.faults.clock_set) {
            kernel.unix_offset_ms = 1_700_000_000_000 + kernel.rng.below(100_000) - 50_000;
            self.model.bench.clock_was_set = true;
            self.model.count("wall_clocks_set");
        }
        let now = kernel.clock_ms;
        kernel.trace.note(&[41, now], || format!("it is {now} ms"));
    }

    fn is_runnable(&self, core: usize) -> bool {
        let kernel = self.kernel.borrow();
        match self.cores[core].state {
            State::Awake => true,
            State::Asleep { until_ms } => {
                kernel.has_pending(core) || until_ms.is_some_and(|until| until <= kernel.clock_ms)
            }
            State::Ended => false,
        }
    }

    /// Half a turn: the plan to sleep, or what comes after the sleep.
    fn step_core(&mut self, number: usize) {
        let core = &mut self.cores[number];
        if core.state == State::Awake {
            if self.model.is_draining {
                core.reactor.world().drain();
            }
            let wait_ms = core.reactor.plan_sleep();
            let kernel = &mut *self.kernel.borrow_mut();
            core.state = State::Asleep { until_ms: wait_ms.map(|wait_ms| kernel.clock_ms + wait_ms) };
            kernel.trace.note(&[42, number as u64, wait_ms.unwrap_or(u64::MAX)], || {
                format!("core {number} plans to sleep for {wait_ms:?}")
            });
            return;
        }
        self.kernel.borrow_mut().trace.note(&[43, number as u64], || format!("core {number} turns"));
        let [overdue, held] = core.waits_for_store();
        core.state = match core.reactor.turn() {
            Turn::Done => State::Awake,
            Turn::Over => State::Ended,
        };
        let [overdue_now, held_now] = core.waits_for_store();
        if overdue_now > overdue {
            self.model.store.note_overdue(self.model.moment); // somebody has waited for a page for too long
        }
        if held_now > held {
            self.model.store.note_held(self.model.moment); // a message waits for place in the journal
        }
        let inventory = core.reactor.world().inventory();
        let queued_max = self.config.limits.send_queue_bytes + TURN_BYTES;
        assert!(inventory.queued_bytes_max <= queued_max, "core {number}: {inventory:?}");
        assert!(self.exchange.mailbox(number).len() <= self.shape.mailbox_parcels);
    }

    /// A core that sleeps with nothing pending must have nothing that it could do.
    fn check_sleepers(&mut self) {
        let kernel = self.kernel.borrow();
        if let Some(store) = &self.store {
            store.check_sleep(&kernel);
        }
        let backoff_ms = self.config.limits.accept_backoff_ms;
        for (number, core) in self.cores.iter_mut().enumerate() {
            let State::Asleep { until_ms } = core.state else { continue };
            if kernel.has_pending(number) || until_ms.is_some_and(|until| until <= kernel.clock_ms) {
                continue;
            }
            assert!(self.exchange.mailbox(number).is_empty(), "core {number} sleeps beside its mail");
            if kernel.waiting_clients(number) > 0 {
                let is_soon = until_ms.is_some_and(|until| until <= kernel.clock_ms + backoff_ms);
                assert!(is_soon, "core {number} sleeps beside clients that nobody accepts");
            }
            for (conn, id, is_readable, is_writable) in kernel.registered(number) {
                let wants_input = core.reactor.world().wants_input(id);
                assert!(!(is_readable && wants_input), "core {number} sleeps beside conn {conn}, unread");
                let mut slices = [std::io::IoSlice::new(&[])];
                let has_output = core.reactor.world().gather(id, &mut slices) > 0;
                let may_speak = core.reactor.may_speak(id);
                assert!(
                    !(is_writable && has_output && may_speak),
                    "core {number} sleeps beside conn {conn}, unwritten"
                );
            }
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        let deadlines = self.cores.iter().filter_map(|core| match core.state {
            State::Asleep { until_ms } => until_ms,
            _ => None,
        });
        deadlines.min()
    }

    fn what_goes_on(&self) -> String {
        let states: Vec<State> = self.cores.iter().map(|core| core.state).collect();
        format!("{states:?}")
    }
}

/// Connects to a listener for clients of this kind, encrypted or not.
fn connect(kernel: &mut Kernel, shape: &Shape, kind: Kind, core: usize) -> usize {
    let listener = kind.listener();
    match shape.secure_percent > 0 && kernel.rng.chance(shape.secure_percent) {
        true => kernel.connect_securely(core, LISTENERS.len() + listener),
        false => kernel.connect(core, listener),
    }
}
