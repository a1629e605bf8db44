//! The server as a whole: it opens the listeners, starts a thread a core, waits for a signal, drains and stops.

mod certificates;
mod check;
mod dashboard;
mod end;
mod listeners;
mod observer;
mod places;
mod reload;
mod supervisor;
mod user;

pub use user::Maker;

use std::fmt;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::auth::Authority;
use crate::auth::account::AccountKey;
use crate::auth::api_key::ApiKeys;
use crate::auth::jwt::{KeySource, Verifier};
use crate::auth::resume::ResumeKey;
use crate::base::attempts::Attempts;
use crate::base::census::Census;
use crate::base::stats::Counters;
use crate::cluster::{self, Joined};
use crate::config::{Address, Config, ListenKind, StoreKind};
use crate::consul::{self, Registration};
use crate::observe::logging::Control;
use crate::reactor::mailbox::Exchange;
use crate::reactor::teller::Teller;
use crate::reactor::{Door, Reactor, Turn};
use crate::record::Restored;
use crate::shard::mail::Parcel;
use crate::shard::restore::{Share, share_out};
use crate::shard::{Flock, Shard};
use crate::store::directory::{self, Opened};
use crate::store::thread::{self, Links, WriterStart};
use crate::sys::bell::Bell;
use crate::sys::kernel::{Journal, Kernel, Sleeper, read_clocks};
use crate::sys::listen::Listener;
use crate::sys::waker::Waker;
use crate::sys::{descriptors, files, inherited, random_u64, signals, terminal, threads};
use certificates::Certificates;
pub use check::{check, check_values};
use end::{News, Order, Ordered};
pub use places::refuse_shared;
pub use reload::Reread;
use reload::{HangUp, Reload};

/// Bytes of a file of keys that tokens are checked with.
const KEYS_BYTES_MAX: u64 = 1_048_576;

/// The part of the open-file limit that is not used for connections: listeners, wakers, logs, and clients that are told
/// that there is no room for them. At least this many, and one in [`RESERVE_PART`].
const RESERVE_MIN: usize = 64;
const RESERVE_PART: usize = 32;

/// Why the server could not run, or had to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeError {
    /// One line for a person.
    pub message: String,
}

impl fmt::Display for ServeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for ServeError {}

/// Everything that one core is started with.
struct Start {
    core: usize,
    sleeper: Sleeper,
    listeners: Vec<(ListenKind, Listener)>,
    doors: Vec<Door>,
    wakers: Arc<Vec<Waker>>,
    exchange: Arc<Exchange<Parcel>>,
    flock: Flock,
    counters: Arc<Counters>,
    order: Arc<Order>,
    ended: Arc<supervisor::Ended>,
    journal: Option<Journal>,
    share: Share,
    processor: Option<usize>,
    started: Instant,
    keep: Vec<RawFd>,
    /// Told once every core has a table of its own: until then the others hold copies of this core's descriptors.
    go: Receiver<()>,
}

/// Serves until a signal asks it to stop. Signals must have been blocked ([`signals::block`]) before any thread was made. `maker` opens paths,
/// and says whom the server becomes when all is open.
///
/// # Errors
/// When a listener cannot be opened, or a core stops without having been asked.
pub fn run(config: Config, maker: Maker, reread: Reread, log: Control) -> Result<(), ServeError> {
    let mut authority = load_authority(&config).map_err(failure)?;
    let certificates = Certificates::load(&config.listen).map_err(failure)?;
    let has_terminal = terminal::is_controlled();
    let config = Arc::new(config);
    let processors = threads::processors();
    let cores = cores(&config, processors.len());
    let files =
        descriptors::raise_limit().map_err(|e| failure(format!("cannot read the open-file limit: {e}")))?;
    refuse_steering(&config, cores, processors.len()).map_err(failure)?;
    let (core_connections, reserve) = room(files);

    let mut passed = inherited::take().map_err(failure)?;
    let mut doors = certificates.doors().to_vec();
    let mut of_cores: Vec<Vec<(ListenKind, Listener)>> = (0..cores).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    let mut socket_files = Vec::new();
    for (index, listen) in config.listen.iter().enumerate() {
        let steered = config.steer.then_some(&processors[..]);
        let opened = match listeners::inherit(listen, cores, &mut passed)? {
            Some(opened) => opened,
            None => {
                let backlog = config.limits.listen_backlog;
                listeners::open(listen, cores, index % cores, backlog, steered, &maker)?
            }
        };
        doors[index].outlives_us = opened.is_inherited;
        addresses.push((listen.kind, opened.address, listen.tls.is_some()));
        socket_files.extend(opened.file);
        for (core, listener) in opened.listeners.into_iter().enumerate() {
            of_cores[core].push((listen.kind, listener));
        }
    }
    listeners::none_left(&passed)?;
    // Before the store is opened and before there are cores: whatever they make is that user's.
    maker.change(&config)?;
    let is_clustered = !config.cluster.redis.0.is_empty();
    warn_of_what_is_left_aside(&config, is_clustered);
    let joined = is_clustered.then(|| join_cluster(&config)).transpose()?;
    let mut store = match config.store.kind {
        // What is to outlive a node of a cluster is where all nodes have it.
        _ if is_clustered => None,
        StoreKind::Memory => None,
        StoreKind::Sqlite => Some(open_store(&config, cores)?),
    };
    if let Some(joined) = &joined {
        authority.resume = ResumeKey::new(joined.resume_secret);
    }
    if let Some(store) = &store {
        authority.resume = ResumeKey::new(store.resume_secret);
        let accounts = AccountKey::new(store.account_secret);
        authority.accounts = Some(accounts.map_err(|error| failure(error.to_string()))?);
    }
    let mut sleepers = Vec::new();
    let mut wakers = Vec::new();
    for _ in 0..cores {
        let (sleeper, waker) =
            Sleeper::new().map_err(|e| failure(format!("cannot make an event poll: {e}")))?;
        sleepers.push(sleeper);
        wakers.push(waker);
    }
    let mut reader_sleeper = None;
    if store.is_some() || is_clustered {
        let (sleeper, waker) =
            Sleeper::new().map_err(|e| failure(format!("cannot make an event poll: {e}")))?;
        reader_sleeper = Some(sleeper);
        wakers.push(waker);
    }
    let wakers = Arc::new(wakers);

    let connections = match config.limits.connections {
        0 => usize::MAX,
        connections => connections,
    };
    let (observer, asked) = observer::line(cores, config.limits.dashboard_watchers);
    let all_counters: Vec<Arc<Counters>> = (0..cores).map(|_| Arc::default()).collect();
    let flock = Flock {
        node: joined.as_ref().map_or(0, |joined| joined.node),
        cores: cores as u16,
        config: config.clone(),
        census: Arc::new(Census::new(connections, config.limits.connections_per_address)),
        // The cores get it, to check tokens with.
        authority: Arc::new(authority),
        observer: Some(observer),
        address_buckets: Arc::default(),
        user_buckets: Arc::default(),
        attempts: Arc::new(Attempts::new(
            config.rate.logins_per_minute,
            config.rate.registrations_per_hour,
            config.limits.login_buckets,
        )),
        core_connections,
        core_reserve: reserve,
        home_seed: random_u64(),
        has_store: store.is_some(),
        has_backplane: is_clustered,
    };
    let exchange = Arc::new(Exchange::new(flock.mailboxes(), config.limits.mailbox_parcels));
    let stops = Arc::new(AtomicBool::new(false));
    let bell = Arc::new(Bell::default());
    let mut rings = store.as_ref().map(|store| store.rings.clone()).unwrap_or_default().into_iter();
    let restored = store.as_mut().map(|store| std::mem::take(&mut store.restored)).unwrap_or_default();
    let users = restored.users.iter().map(|user| (user.name.clone(), user.account)).collect();
    let mut shares = share_out(restored, &flock);
    let journal_bytes = store.iter().flat_map(|store| &store.rings).map(|ring| ring.capacity()).sum();
    if let Some(store) = &mut store {
        for (core, share) in shares.iter().enumerate() {
            share.room_numbers().for_each(|room| store.engine.assign(room, core));
        }
    }
    let order = Arc::new(Order::default());
    let ended = Arc::new(supervisor::Ended::none_of(cores));
    let started = Instant::now();
    let (news, heard) = unbounded();
    let panics = news.clone();
    threads::on_panic(move |thread| drop(panics.send(News::Failed(thread.to_owned()))));
    let (going, go) = unbounded();

    let mut lent: Vec<Vec<RawFd>> = Vec::new();
    for (core, (sleeper, listeners)) in sleepers.into_iter().zip(of_cores).enumerate() {
        let own: Vec<RawFd> =
            listeners.iter().flat_map(|(_, l)| l.descriptors()).chain([sleeper.descriptor()]).collect();
        let start = Start {
            core,
            keep: own.iter().copied().chain(wakers.iter().map(Waker::descriptor)).collect(),
            sleeper,
            listeners,
            doors: doors.clone(),
            wakers: wakers.clone(),
            exchange: exchange.clone(),
            flock: flock.clone(),
            counters: all_counters[core].clone(),
            order: order.clone(),
            ended: ended.clone(),
            journal: rings.next().map(|ring| Journal { ring, bell: bell.clone() }),
            share: std::mem::take(&mut shares[core]),
            processor: processor(&config, core, &processors),
            started,
            go: go.clone(),
        };
        lent.push(own);
        let news = news.clone();
        threads::spawn(format!("core-{core}"), move || run_core(start, &news))
            .map_err(|e| failure(format!("cannot start a thread: {e}")))?;
    }
    begin(&heard, &lent, core_connections, &config)?;
    let watched = all_counters.clone();
    let start = observer::Start {
        asked,
        counters: all_counters,
        exchange: exchange.clone(),
        wakers: wakers.clone(),
        started_ms: crate::sys::unix_ms(),
        node: flock.node,
        journal_bytes,
        log: log.clone(),
    };
    observer::start(start).map_err(|e| failure(format!("cannot start a thread: {e}")))?;
    let links = Links {
        exchange: exchange.clone(),
        wakers: wakers.clone(),
        users: Arc::new(Mutex::new(users)),
        watched: Arc::default(),
        bell: bell.clone(),
        stops: stops.clone(),
    };
    let (mut storage, mut cluster) = (None, None);
    if let Some(sleeper) = reader_sleeper {
        if let Some(store) = store {
            storage = Some(start_storage(store, sleeper, &config, links)?);
        } else if let Some(joined) = joined {
            let home = flock.clone();
            let resume = flock.authority.resume.clone();
            let links = cluster::Links {
                exchange: exchange.clone(),
                wakers: wakers.clone(),
                sleeper,
                stops: stops.clone(),
                home: Box::new(move |folded| home.home_of(folded)),
                accept: Box::new(move |secret| resume.accept(secret)),
                cores,
            };
            let started = cluster::start(joined, links);
            cluster = Some(started.map_err(|e| failure(format!("cannot start a thread: {e}")))?);
        }
    }
    for _ in 0..cores {
        let _ = going.send(());
    }

    announce(&addresses);
    let mut registration = consul::start(&config, &addresses).map_err(failure)?;
    let signal_news = news.clone();
    threads::spawn("signals".into(), move || {
        while let Ok((name, number)) = signals::wait() {
            let _ = signal_news.send(News::Signal(name, number));
        }
    })
    .map_err(|e| failure(format!("cannot start a thread: {e}")))?;
    drop(news);
    let (teller, authority) = (Teller::new(exchange.clone(), cores), flock.authority.clone());
    let current = Arc::new(ArcSwap::from(config.clone()));
    let reload = Reload {
        config,
        current: current.clone(),
        authority,
        teller,
        wakers: wakers.clone(),
        reread,
        log,
        certificates,
    };
    let hang_up = HangUp::new(reload, has_terminal).map_err(failure)?;
    supervisor::watch(watched, ended, wakers.clone())
        .map_err(|e| failure(format!("cannot start a thread: {e}")))?;
    supervisor::tell_ready();
    let on_drain = || {
        supervisor::tell_stopping();
        registration.as_mut().map(Registration::withdraw)
    };
    let ended = end::attend(end::Attended {
        heard: &heard,
        order: &order,
        wakers: &wakers[..cores],
        hang_up: &hang_up,
        socket_files: &mut socket_files,
        current: &current,
        on_drain,
    });
    if let Some(registration) = registration {
        registration.stop();
    }
    if let Some(cluster) = cluster {
        cluster.stop();
    }
    let stored = storage.map_or(Ok(()), Storage::stop);
    ended.and(stored)
}

/// How many cores a server has that may run on so many processors.
pub fn cores(config: &Config, processors: usize) -> usize {
    match config.cores {
        0 => processors.max(1),
        cores => cores,
    }
}

/// The processor that a core is to stay on, if it is to stay on one, of those that the process may run on, in order.
pub fn processor(config: &Config, core: usize, processors: &[usize]) -> Option<usize> {
    (config.pin && !processors.is_empty()).then(|| processors[core % processors.len()])
}

/// How many connections a core has room for whose table holds so many open files; and how many of these are kept back.
pub fn room(files: usize) -> (usize, usize) {
    let reserve = RESERVE_MIN.max(files / RESERVE_PART);
    (files.saturating_sub(reserve).max(1), reserve)
}

/// Says that connections cannot be given to the cores whose processors take in their packets, if that is wanted and cannot be.
fn refuse_steering(config: &Config, cores: usize, processors: usize) -> Result<(), String> {
    if !config.steer || (config.pin && cores <= processors) {
        return Ok(());
    }
    Err(format!(
        "--steer needs a processor for each core, and cores that stay there: there are {processors} processors for {cores} cores{}",
        if config.pin { "" } else { ", and --no-pin" }
    ))
}

/// The storage threads.
struct Storage {
    /// It says whether everything has been stored.
    writer: JoinHandle<bool>,
    others: Vec<JoinHandle<()>>,
    stops: Arc<AtomicBool>,
    bell: Arc<Bell>,
    wakers: Arc<Vec<Waker>>,
    /// Held until the last of them has ended.
    _lock: std::fs::File,
}

impl Storage {
    /// Waits until everything has been stored.
    ///
    /// # Errors
    /// When it could not be.
    fn stop(self) -> Result<(), ServeError> {
        self.stops.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(waker) = self.wakers.last() {
            let _ = waker.wake();
        }
        let started = Instant::now();
        let mut told = false;
        while !self.writer.is_finished() {
            threads::sleep_ms(1);
            if !told && started.elapsed().as_secs() >= 1 {
                told = true;
                log::info!("waiting for the store to write what is left");
            }
        }
        for thread in self.others {
            thread.thread().unpark();
            let _ = thread.join();
        }
        match self.writer.join() {
            Ok(true) => Ok(()),
            Ok(false) => Err(failure(
                "not everything could be stored: what is missing is in the journals, where the next server finds it unless the machine \
                 is started again before"
                    .into(),
            )),
            Err(_) => Err(failure("the storage thread failed; the log says how".into())),
        }
    }
}

/// What all nodes of a cluster must have been configured with alike, because it decides what happens in a room: a line for each.
fn common_ground(config: &Config) -> String {
    let limits = &config.limits;
    let lines = [
        ("cluster protocol", 1),
        ("history.count", config.history.count as u64),
        ("limits.restrictions_per_room", limits.restrictions_per_room as u64),
        ("limits.state_key_bytes", limits.state_key_bytes as u64),
        ("limits.state_keys", limits.state_keys as u64),
        ("limits.state_value_bytes", limits.state_value_bytes as u64),
        ("session.grace_ms", config.session.grace_ms),
    ];
    lines.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join("\n")
}

/// Tells of what is there and will not be used: somebody may count on it.
fn warn_of_what_is_left_aside(config: &Config, is_clustered: bool) {
    if is_clustered && let Ok(store) = crate::store::place::find(&config.data_dir) {
        log::warn!(
            "{}: what is in this store (rooms, accounts, inboxes) is left aside: a node of a cluster keeps what it has in Redis",
            store.display()
        );
    }
}

fn join_cluster(config: &Config) -> Result<Joined, ServeError> {
    let joined = cluster::join(config, &common_ground(config)).map_err(|error| failure(error.message))?;
    log::info!("node {} of the cluster {}", joined.node, config.cluster.prefix.0);
    Ok(joined)
}

fn open_store(config: &Config, cores: usize) -> Result<Opened, ServeError> {
    let now_ms = crate::sys::unix_ms();
    let wanted = directory::Wanted {
        directory: &config.data_dir,
        cores,
        queue_bytes: config.store.queue_bytes,
        receipts_since_ms: now_ms.saturating_sub(config.limits.idempotency_ms),
        receipts_max: config.limits.idempotency_ids,
    };
    let store = directory::open(&wanted).map_err(|error| failure(error.message))?;
    let Restored { rooms, sessions, users, .. } = &store.restored;
    log::info!(
        "store {}: {} rooms, {} sessions, {} users",
        store.path.display(),
        rooms.len(),
        sessions.len(),
        users.len()
    );
    Ok(store)
}

fn start_storage(
    store: Opened,
    mut sleeper: Sleeper,
    config: &Config,
    links: Links,
) -> Result<Storage, ServeError> {
    let failed = |e: io::Error| failure(format!("cannot start a thread: {e}"));
    let Opened { engine, path, rings, ring_paths, lock, .. } = store;
    let (stops, bell, wakers) = (links.stops.clone(), links.bell.clone(), links.wakers.clone());
    let watched_rings = rings.clone();
    let start = WriterStart {
        engine,
        path: path.clone(),
        rings,
        ring_paths,
        sync_ms: config.store.sync_ms,
        receipts_ms: config.limits.idempotency_ms,
        receipts_max: config.limits.idempotency_ids,
        links: links.clone(),
    };
    let writer = threads::spawn("store".into(), move || thread::write(start)).map_err(failed)?;
    let watched_links = links.clone();
    let read_path = path.clone();
    let hashers = (config.limits.password_threads, config.limits.password_queue);
    let reader = threads::spawn("store-reader".into(), move || {
        thread::read(read_path, links, hashers, |timeout| sleeper.sleep(timeout));
    })
    .map_err(failed)?;
    let checkpoint_stops = stops.clone();
    let checkpointer =
        threads::spawn("store-log".into(), move || thread::checkpoint(&path, &checkpoint_stops))
            .map_err(failed)?;
    let deadline_ms = config.store.deadline_ms;
    let watch = move || thread::watch(&watched_links, &watched_rings, deadline_ms);
    let watcher = threads::spawn("store-watch".into(), watch).map_err(failed)?;
    Ok(Storage { writer, others: vec![reader, checkpointer, watcher], stops, bell, wakers, _lock: lock })
}

/// Waits until every core has begun, and closes what they have taken along.
fn begin(
    heard: &Receiver<News>,
    lent: &[Vec<RawFd>],
    core_connections: usize,
    config: &Config,
) -> Result<(), ServeError> {
    let mut pinned = Vec::new();
    let mut shares_table = None;
    for _ in lent {
        match heard.recv() {
            Ok(News::Begun { core, table, processor }) => {
                match table {
                    Ok(()) => descriptors::close_all(&lent[core]),
                    Err(why) => shares_table = Some(why),
                }
                pinned.push((core, processor));
            }
            _ => return Err(failure("a core ended before it began".into())),
        }
    }
    pinned.sort_unstable();
    let placed: Vec<String> = pinned
        .iter()
        .map(|(core, processor)| match processor {
            Some(processor) => format!("core {core} on processor {processor}"),
            None => format!("core {core} not pinned"),
        })
        .collect();
    let spins = if config.spin { ", polling without sleeping" } else { "" };
    let plural = if lent.len() == 1 { "" } else { "s" };
    log::info!("{} core{plural}: {}{spins}", lent.len(), placed.join(", "));
    match shares_table {
        None => log::info!("room for {core_connections} connections a core (open-file limit)"),
        Some(why) => log::warn!(
            "the cores share one table of open files ({why}): its limit holds all of them together"
        ),
    }
    Ok(())
}

/// Tells what listens where, a line each, for people and for programs that started this one.
fn announce(addresses: &[(ListenKind, Address, bool)]) {
    let mut out = io::stdout().lock();
    for (kind, address, is_tls) in addresses {
        let line = format!("listening {} {address}{}", kind.word(), if *is_tls { " tls" } else { "" });
        // Where nobody reads, the server serves all the same.
        if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            log::warn!("standard output cannot be written ({error}): {line}");
        }
    }
}

/// The life of a core's thread.
fn run_core(start: Start, news: &Sender<News>) {
    let core = start.core;
    // A panic unwinds through here, and the news of it ends the program instead of leaving it with a core less.
    struct Ending<'a> {
        core: usize,
        drained: bool,
        cut_off: usize,
        news: &'a Sender<News>,
    }
    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            let Ending { core, drained, cut_off, news } = *self;
            let _ = news.send(News::Ended { core, drained, cut_off });
        }
    }
    let mut ending = Ending { core, drained: false, cut_off: 0, news };
    let processor = start.processor.filter(|processor| threads::pin(*processor));
    let table = descriptors::own_table(&start.keep).map_err(|e| e.to_string());
    let _ = news.send(News::Begun { core, table, processor });
    if start.go.recv().is_err() {
        return;
    }
    let config = start.flock.config.clone();
    let kernel = Kernel::new(
        start.sleeper,
        start.listeners,
        start.wakers,
        start.journal,
        config.limits.events_per_turn,
        start.started,
    );
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(error) => return log::error!("core {core} cannot register its listeners: {error}"),
    };
    let now = read_clocks(start.started);
    let mut shard = Shard::new(core as u16, &start.flock, start.counters, random_u64(), now);
    shard.restore(start.share);
    let mut reactor =
        Reactor::new(core, kernel, shard, &config.limits, config.spin, start.doors, start.exchange);
    loop {
        match start.order.now() {
            Ordered::Serve => {}
            Ordered::Drain => reactor.world().drain(),
            Ordered::Leave => reactor.world().leave(),
        }
        if reactor.turn() == Turn::Over {
            break;
        }
    }
    start.ended.add(core);
    ending.cut_off = reactor.world().cut_off();
    ending.drained = true;
}

/// What tokens and keys are checked with, from the configuration and the files that it names.
///
/// # Errors
/// One line for a person: a file that cannot be read, by its path, or a key that cannot be used.
pub fn load_authority(config: &Config) -> Result<Authority, String> {
    let auth = &config.auth;
    let verifier = |source: KeySource<'_>, place: String| {
        Verifier::new(auth.jwt_algorithm, source, auth.jwt_audience.clone(), auth.jwt_issuer.clone())
            .map_err(|why| format!("{place}: {why}"))
    };
    let read = |key: &str, path: &std::path::Path| {
        let bytes = files::read_regular(path, KEYS_BYTES_MAX);
        let text =
            bytes.and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into()));
        text.map_err(|why| format!("{key}: cannot read {}: {why}", path.display()))
    };
    let verifier = if let Some(secret) = &auth.jwt_secret {
        Some(verifier(KeySource::Secret(&secret.0), "auth.jwt_secret".to_owned())?)
    } else if let Some(path) = &auth.jwt_key_file {
        let pem = read("auth.jwt_key_file", path)?;
        Some(verifier(KeySource::Pem(pem.as_bytes()), format!("auth.jwt_key_file: {}", path.display()))?)
    } else if let Some(path) = &auth.jwks_file {
        let set = read("auth.jwks_file", path)?;
        Some(verifier(KeySource::Jwks(&set), format!("auth.jwks_file: {}", path.display()))?)
    } else {
        None
    };
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|why| format!("no random bytes for resume tokens: {why}"))?;
    let api_keys = ApiKeys::new(&auth.api_keys)?;
    Ok(Authority { verifier, accounts: None, api_keys, resume: ResumeKey::new(secret), reading: 0 })
}

fn failure(message: String) -> ServeError {
    ServeError { message }
}
