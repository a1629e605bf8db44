//! What goes wrong in a run, and how tight its bounds are. Each run draws its own mix, with many faults left out
//! altogether (swarm testing): a fault that always happens hides what only its absence shows.

use starling::base::rng::Rng;
use starling::config::{Config, Limits};

use crate::comeback::LONG_GRACE_MS;
use crate::store::Storage;
use crate::swarm::Mix;

/// Chances are in a thousand. Some are not of faults, but of things that are seldom done so often.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// A poll is interrupted by a signal.
    pub interrupted_poll: u64,
    /// A read, write or accept is.
    pub interrupted_io: u64,
    /// A poll reports a connection of which nothing is new.
    pub spurious_event: u64,
    /// Bytes that are on their way arrive in the middle of a turn, just before or after a read.
    pub late_arrival: u64,
    /// A client is gone when it is accepted.
    pub aborted_accept: u64,
    /// Descriptors run out for a while.
    pub descriptors_run_out: u64,
    /// The network resets a connection.
    pub network_reset: u64,
    /// A reset destroys what the other side has not read.
    pub reset_discards: u64,
    /// A core is not scheduled for a while.
    pub frozen_core: u64,
    /// Both clocks jump forward.
    pub jump: u64,
    /// The wall clock is set, perhaps backwards.
    pub clock_set: u64,
    /// A client stops reading for a while, or until the others have come to rest.
    pub stall: u64,
    /// A client ends its side after its commands.
    pub half_close: u64,
    /// A client resets its connection.
    pub abrupt_reset: u64,
    /// A client sends what is no command.
    pub garbage: u64,
    /// A client changes its nickname.
    pub nick: u64,
    /// A client joins a room.
    pub join: u64,
    /// A client does something that hosts do.
    pub moderation: u64,
    /// A client changes the state of a room.
    pub state: u64,
    /// A client goes on with another connection while it has one.
    pub takeover: u64,
    /// A client quits.
    pub quit: u64,
    /// A client pings, at random and needlessly; on WebSocket also as a frame of its own.
    pub ping: u64,
}

/// The kernel and the network of a run.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many cores there are.
    pub cores: usize,
    /// How many clients there are at a time.
    pub clients: usize,
    /// Parcels in a mailbox.
    pub mailbox_parcels: usize,
    /// Bytes that the kernel holds for a connection, to be read by the server.
    pub receive_buffer_bytes: usize,
    /// Bytes that the kernel and the network hold, to be read by the client.
    pub send_buffer_bytes: usize,
    /// The most bytes that arrive at a time.
    pub chunk_bytes: usize,
    /// The most commands that a client sends without waiting.
    pub burst: u64,
    /// Bytes of the longest ordinary content.
    pub content_bytes: usize,
    /// Whether an event reports all that a connection is ready for, as epoll(7) does, or only what has changed, as
    /// kqueue(2) does.
    pub reports_levels: bool,
    /// Whether some of the programs speak gRPC.
    pub has_grpc: bool,
    /// How many only listen, by HTTP.
    pub listeners: usize,
    /// Whether the run ends with a drain instead of the clients' leaving.
    pub ends_by_drain: bool,
    /// How the store behaves, if there is one.
    pub storage: Option<Storage>,
    /// How many of a hundred connections are encrypted.
    pub secure_percent: u64,
    /// How often clients do what, where a swarm says so.
    pub mix: Option<Mix>,
    /// How many strangers there are.
    pub strangers: usize,
    /// How often the server is replaced by another in order.
    pub upgrades: u64,
}

impl Faults {
    /// The mix that belongs to a run.
    pub fn draw(rng: &mut Rng) -> Faults {
        let mut up_to = |most: u64| if rng.chance(50) { 0 } else { rng.below(most) + 1 };
        Faults {
            interrupted_poll: up_to(100),
            interrupted_io: up_to(100),
            spurious_event: up_to(50),
            late_arrival: up_to(500),
            aborted_accept: up_to(200),
            descriptors_run_out: up_to(100),
            network_reset: up_to(3),
            reset_discards: up_to(1000),
            frozen_core: up_to(40),
            jump: up_to(20),
            clock_set: up_to(20),
            stall: up_to(20),
            half_close: up_to(15),
            abrupt_reset: up_to(10),
            garbage: up_to(40),
            nick: up_to(200),
            join: up_to(200),
            moderation: up_to(100),
            state: up_to(60),
            takeover: up_to(8),
            quit: up_to(20),
            ping: up_to(100),
        }
    }
}

impl Shape {
    /// A shape in which nothing is tight.
    pub fn roomy(cores: usize) -> Shape {
        Shape {
            cores,
            clients: 0,
            mailbox_parcels: 64,
            receive_buffer_bytes: 65_536,
            send_buffer_bytes: 65_536,
            chunk_bytes: 65_536,
            burst: 1,
            content_bytes: 20,
            reports_levels: true,
            has_grpc: false,
            listeners: 0,
            ends_by_drain: false,
            storage: None,
            secure_percent: 0,
            mix: None,
            strangers: 0,
            upgrades: 0,
        }
    }

    /// The shape of a run on so many cores.
    pub fn draw(rng: &mut Rng, cores: usize) -> Shape {
        Shape {
            cores,
            clients: 2 + rng.below(14) as usize,
            mailbox_parcels: if rng.chance(60) { 1 + rng.below(4) as usize } else { 64 },
            receive_buffer_bytes: pick(rng, &[64, 512, 4096, 65_536]),
            send_buffer_bytes: pick(rng, &[128, 1024, 8192, 65_536]),
            chunk_bytes: pick(rng, &[1, 7, 100, 65_536]),
            burst: pick(rng, &[1, 3, 12, 40]),
            content_bytes: pick(rng, &[20, 200, 900]),
            reports_levels: rng.chance(70),
            has_grpc: false,
            listeners: 0,
            ends_by_drain: rng.chance(40),
            storage: None,
            secure_percent: 0,
            mix: None,
            strangers: 0,
            upgrades: 0,
        }
    }
}

/// The configuration of a run: bounds small enough to be reached, as often as not.
pub fn draw_config(rng: &mut Rng) -> Config {
    let d = Limits::default();
    let d_page = d.replay_page_bytes;
    let limits = Limits {
        private_kept: pick(rng, &[3, 20, d.private_kept]),
        output_pause_bytes: pick(rng, &[1000, d.output_pause_bytes]),
        content_bytes: 1000,
        inbound_bytes: 8192,
        send_queue_bytes: pick(rng, &[1500, 6000, 100_000, d.send_queue_bytes]),
        rooms_per_session: pick(rng, &[2, d.rooms_per_session]),
        // The kernel checks that nobody is closed before its time, without knowing who was refused.
        refused_linger_ms: d.linger_ms,
        commands_in_flight: pick(rng, &[1, 2, 5, d.commands_in_flight]),
        peer_window: pick(rng, &[1, 3, 12, d.peer_window]),
        accepts_per_turn: pick(rng, &[1, d.accepts_per_turn]),
        read_bytes_per_turn: pick(rng, &[50, d.read_bytes_per_turn]),
        read_buffer_bytes: pick(rng, &[16, 300, d.read_buffer_bytes]),
        events_per_turn: pick(rng, &[1, 3, d.events_per_turn]),
        timers_per_turn: pick(rng, &[1, d.timers_per_turn]),
        parcels_per_turn: pick(rng, &[1, 2, d.parcels_per_turn]),
        connections: pick(rng, &[0, 0, 0, 6]),
        // A repetition may come after the clocks have jumped.
        idempotency_ms: 86_400_000,
        ..d
    };
    // No dice of its own: what a seed means must not change.
    let limits = Limits { closes_per_turn: limits.accepts_per_turn, ..limits };
    let mut config = Config { limits, ..plain() };
    config.presence.exact_members = pick(rng, &[config.presence.exact_members, 2]);
    config.presence.batch_ms = 50;
    (config.heartbeat.probe_ms, config.heartbeat.timeout_ms) = pick(rng, &[(30_000, 90_000), (300, 1500)]);
    config.drain.delay_ms = pick(rng, &[0, 300]);
    if rng.chance(65) {
        config.session.grace_ms = pick(rng, &[200, 700, 2000, LONG_GRACE_MS, LONG_GRACE_MS]);
    }
    config.history.count = pick(rng, &[0, 0, 3, 1000]);
    draw_rates(rng, &mut config);
    config.limits.replay_page_bytes = pick(rng, &[100, 700, d_page]);
    config
}

/// Compression: which messages, how much, and how many connections may keep their context.
pub fn draw_deflate(rng: &mut Rng, config: &mut Config) {
    config.web.deflate = true;
    config.web.deflate_level = pick(rng, &[1, 6, 9]);
    config.limits.deflate_min_bytes = pick(rng, &[0, 60, config.limits.deflate_min_bytes]);
    config.limits.deflate_contexts = pick(rng, &[0, 2, 100]);
}

/// How fast commands may come: in most runs as fast as they like.
fn draw_rates(rng: &mut Rng, config: &mut Config) {
    config.limits.rate_ignored_ms = pick(rng, &[300, config.limits.rate_ignored_ms]);
    let rate = &mut config.rate;
    if rng.chance(20) {
        (rate.commands_per_second, rate.burst) = (pick(rng, &[20, 200]), pick(rng, &[5, 40]));
    }
    if rng.chance(90) {
        return;
    }
    for (per_second, burst) in [
        (&mut rate.bytes_per_second, &mut rate.bytes_burst),
        (&mut rate.joins_per_second, &mut rate.joins_burst),
        (&mut rate.user_commands_per_second, &mut rate.user_burst),
        (&mut rate.address_commands_per_second, &mut rate.address_burst),
        (&mut rate.room_messages_per_second, &mut rate.room_burst),
    ] {
        if rng.chance(40) {
            (*per_second, *burst) = (pick(rng, &[20, 200]), pick(rng, &[5, 40]));
        }
    }
    // In bytes, not commands.
    (rate.bytes_per_second, rate.bytes_burst) = (rate.bytes_per_second * 100, rate.bytes_burst * 100);
}

/// One of several, each as likely.
pub fn pick<T: Clone>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize].clone()
}

/// True so many times in a thousand. A chance of 0 draws nothing.
pub fn happens(rng: &mut Rng, in_a_thousand: u64) -> bool {
    in_a_thousand > 0 && rng.below(1000) < in_a_thousand
}

/// A server without what the model does not know.
pub fn plain() -> Config {
    let mut config = Config::default();
    config.session.grace_ms = 0;
    config.history.count = 0;
    config.rate.commands_per_second = 0;
    config
}
