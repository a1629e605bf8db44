//! From flags to a plan: what is left out is filled in, and what makes no sense is refused.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};

use super::values;
use super::{BenchFlags, What};
use crate::bench::cast::Cast;
use crate::bench::marker::{MARKER_BYTES, PUBLISHERS_MAX};
use crate::bench::plan::{Load, Plan, Profile};
use crate::bench::search::parse_time_ns;
use crate::bench::target::{Roots, Target, Traits};
use crate::config::Limits;
use crate::sys::{descriptors, threads};

/// Messages a second that may be due: several times what one machine sends. What is due and cannot be sent waits in memory.
const RATE_MAX: f64 = 5_000_000.0;

/// Moves between rooms a second.
const MOVES_MAX: f64 = 100_000.0;

/// Streams that one thread keeps the next number of: 4 bytes each.
const STREAMS_MAX: usize = 256 << 20;

/// Threads, which take about 1.5 MB each; bytes of a message, which no server of ours may be told to take more of; and bytes that may be
/// under way.
const THREADS_MAX: usize = 1024;
const BYTES_MAX: usize = 16 << 20;
const UNDER_WAY_MAX: usize = 1 << 30;

/// What a message has around its content, and what the server takes without being told.
const ENVELOPE_BYTES: usize = 4096;
const SERVER_CONTENT_BYTES: usize = 65_536;

/// Ports of one address for connections to one other: Linux's default, see `net.ipv4.ip_local_port_range`.
const PORTS: usize = 28_000;

/// Files of a thread that are not connections.
const FILES_KEPT: usize = 64;

/// What stands behind the scheme of an encrypted transport.
pub const TLS: &str = "+tls";

/// The transport whose messages are compressed.
const DEFLATE: &str = "ws+deflate";

/// Where the started server runs, and how it is spoken to.
pub struct Placement {
    /// Its processors.
    pub server_cpus: Vec<usize>,
    /// Its flags.
    pub server_flags: Vec<String>,
    /// The scheme, or `ws-echo`.
    pub transport: String,
}

/// The URL of a started server.
pub fn url_of(transport: &str, addresses: &BTreeMap<String, SocketAddr>) -> String {
    let (transport, tls) = match transport.strip_suffix(TLS) {
        Some(transport) => (transport, TLS),
        None => (transport, ""),
    };
    let (scheme, kind, path) = match transport {
        "ws-echo" => ("ws", "web", "/echo"),
        "ws" | "ws+proto" | DEFLATE => (transport, "web", "/ws"),
        "lines" | "text" => (transport, "line", ""),
        "grpc" => (transport, "grpc", ""),
        _ => (transport, "frame", ""),
    };
    format!("{scheme}{tls}://{}{path}", addresses[kind])
}

/// The plan, or one line on what is wrong with the flags.
pub fn plan(flags: &BenchFlags, profile: Profile) -> Result<(Plan, Placement), String> {
    let default_transport = if profile == Profile::Echo { "ws-echo" } else { "ws" };
    let transport = flags.transport.clone().unwrap_or_else(|| default_transport.into());
    const TRANSPORTS: [&str; 9] =
        ["ws", "ws+proto", DEFLATE, "lines", "frames", "frames+proto", "grpc", "text", "ws-echo"];
    if !TRANSPORTS.contains(&transport.strip_suffix(TLS).unwrap_or(&transport)) {
        let known = TRANSPORTS.join(", ");
        return Err(format!("--transport: {transport:?} is none of {known}, or one of them with +tls"));
    }
    let url = flags.target.clone().unwrap_or_else(|| {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 1));
        url_of(&transport, &["web", "line", "frame", "grpc"].map(|kind| (kind.to_owned(), anywhere)).into())
    });
    let mut options = flags.options()?;
    if flags.target.is_none() {
        options.roots = Roots::Any; // those of a server of one's own are known when it is there
    }
    let target = Target::parse(&url, &options)?;
    let traits = target.traits();
    let all = threads::processors();
    let server_cpus = match &flags.server_cpus {
        Some(text) => values::cpus("--server-cpus", text)?,
        None if flags.target.is_none() => all.iter().copied().take(flags.server_cores.max(1)).collect(),
        None => Vec::new(),
    };
    let cpus = match &flags.cpus {
        Some(text) => values::cpus("--cpus", text)?,
        None if flags.target.is_none() => {
            all.iter().copied().filter(|cpu| !server_cpus.contains(cpu)).collect()
        }
        None => Vec::new(),
    };
    for (flag, list) in [("--server-cpus", &server_cpus), ("--cpus", &cpus)] {
        if let Some(cpu) = list.iter().find(|cpu| !all.contains(cpu)) {
            return Err(format!("{flag}: this process may not use processor {cpu}; it may use {all:?}"));
        }
    }
    let shape = Shape::of(profile, flags);
    let plan = Plan {
        profile,
        connections: shape.connections,
        rooms: shape.rooms,
        publishers: shape.publishers,
        load: load(flags, profile)?,
        bytes: flags.size,
        warmup_ns: span("--warmup", &flags.warmup)?,
        duration_ns: span("--duration", &flags.duration)?,
        threads: flags.threads.unwrap_or(cpus.len().min(shape.connections)).max(1),
        cpus,
        sources: flags.sources.as_deref().map(values::sources).transpose()?.unwrap_or_default(),
        seed: flags.seed,
        handshakes: flags.handshakes,
        moves: if profile == Profile::Mix { flags.moves.unwrap_or(100.0) } else { 0.0 },
        slow: if profile == Profile::Slow { flags.slow.unwrap_or(shape.connections / 10) } else { 0 },
        // Without a search there is a run for each level.
        ack: (profile == Profile::Acks).then(|| "sequenced".to_owned()),
        counts_syscalls: flags.count_syscalls,
    };
    refuse_nonsense(flags, &plan, &traits)?;
    refuse_sources(&plan, &target)?;
    let mut server_flags = flags.server_flag.clone();
    if plan.bytes > SERVER_CONTENT_BYTES {
        // It is there to take them.
        let room = plan.bytes * 2 + ENVELOPE_BYTES;
        let limits = [
            format!("limits.content_bytes={}", plan.bytes),
            format!("limits.inbound_bytes={room}"),
            format!("limits.send_queue_bytes={}", room.max(1 << 20)),
            format!("store.queue_bytes={}", (room * 2).max(8 << 20)),
        ];
        server_flags.splice(0..0, limits.into_iter().flat_map(|limit| ["--set".to_owned(), limit]));
    }
    if flags.target.is_none() && transport.strip_suffix(TLS).unwrap_or(&transport) == DEFLATE {
        let bytes_min = Limits::default().deflate_min_bytes;
        if plan.bytes < bytes_min {
            return Err(format!(
                "--transport {transport}: the server compresses no message below {bytes_min} bytes \
                 (limits.deflate_min_bytes): name a larger --size"
            ));
        }
        server_flags.splice(0..0, ["--set".to_owned(), "web.deflate=true".to_owned()]);
    }
    if profile == Profile::Resume {
        // All that is said while everybody is away has to be there when they are back.
        server_flags.splice(0..0, ["--set".to_owned(), "history.count=1000000".to_owned()]);
    }
    Ok((plan, Placement { server_cpus, server_flags, transport }))
}

/// How many of everything.
struct Shape {
    connections: usize,
    rooms: usize,
    publishers: usize,
}

impl Shape {
    fn of(profile: Profile, flags: &BenchFlags) -> Shape {
        let connections = flags.connections.unwrap_or(match profile {
            Profile::Echo => 64,
            Profile::Fanout | Profile::Rooms | Profile::Mix | Profile::Churn | Profile::Resume => 1000,
            Profile::Storm => 5000,
            Profile::Idle => 10_000,
            Profile::Slow => 200,
            Profile::Acks => 10,
        });
        let rooms = flags.rooms.unwrap_or(match profile {
            Profile::Echo | Profile::Churn => connections,
            Profile::Rooms | Profile::Mix | Profile::Storm => connections.div_ceil(10),
            Profile::Idle => 0,
            _ => 1,
        });
        let publishers = flags.publishers.unwrap_or(match profile {
            Profile::Echo | Profile::Churn => connections,
            Profile::Rooms | Profile::Mix => rooms,
            Profile::Storm | Profile::Idle => 0,
            _ => 1,
        });
        Shape { connections, rooms, publishers }
    }
}

fn load(flags: &BenchFlags, profile: Profile) -> Result<Load, String> {
    if let Some(rate) = flags.rate {
        if !(rate.is_finite() && rate > 0.0) {
            return Err(format!("--rate: {rate} is no rate: a number of messages a second, over 0"));
        }
        if rate > RATE_MAX {
            return Err(format!(
                "--rate: {rate} is more than anything sends: at most {RATE_MAX:.0} a second"
            ));
        }
        return Ok(Load::Rate(rate));
    }
    match flags.in_flight {
        Some(0) => Err("--in-flight: nothing would ever be sent with 0".into()),
        Some(count) => Ok(Load::InFlight(count)),
        None if flags.find_max => Ok(Load::Rate(1000.0)),
        None => Ok(match profile {
            Profile::Churn => Load::Rate(500.0),
            Profile::Resume => Load::Rate(100.0),
            Profile::Slow | Profile::Mix => Load::Rate(1000.0),
            _ => Load::InFlight(1),
        }),
    }
}

fn span(flag: &str, text: &str) -> Result<u64, String> {
    parse_time_ns(text).ok_or_else(|| format!("{flag}: {text:?} is no time: write 500ms, 10s or 2m"))
}

/// One line on what would not work, and what to do instead.
fn refuse_nonsense(flags: &BenchFlags, plan: &Plan, traits: &Traits) -> Result<(), String> {
    let profile = plan.profile;
    let word = profile.word();
    let wrong = |is_wrong: bool, why: &dyn Fn() -> String| if is_wrong { Err(why()) } else { Ok(()) };
    wrong(plan.connections == 0, &|| "--connections: 0 connections measure nothing".into())?;
    wrong(flags.threads == Some(0), &|| "--threads: nobody would do anything with 0".into())?;
    wrong(plan.threads > THREADS_MAX.min(plan.connections), &|| {
        let (threads, connections) = (plan.threads, plan.connections);
        format!("--threads: {threads} for {connections} connections: at most one each, and {THREADS_MAX}")
    })?;
    wrong(plan.bytes > BYTES_MAX, &|| format!("--size: a message has at most {BYTES_MAX} bytes"))?;
    let under_way = match plan.load {
        Load::InFlight(count) => (count as usize).saturating_mul(plan.publishers).saturating_mul(plan.bytes),
        Load::Rate(_) => 0,
    };
    wrong(under_way > UNDER_WAY_MAX, &|| {
        format!(
            "--in-flight: {under_way} bytes would be under way: at most {UNDER_WAY_MAX}, over all publishers"
        )
    })?;
    wrong(plan.handshakes == 0, &|| "--handshakes: nobody would ever connect with 0".into())?;
    wrong(plan.duration_ns == 0, &|| "--duration: nothing can be measured in no time".into())?;
    wrong(plan.publishers > plan.connections, &|| {
        format!(
            "--publishers: {} cannot speak with {} connections: give more --connections",
            plan.publishers, plan.connections
        )
    })?;
    wrong(profile == Profile::Resume && plan.publishers >= plan.connections, &|| {
        "resume: those who speak keep their connections, so somebody else is needed to come back: give more --connections".into()
    })?;
    wrong(plan.publishers > PUBLISHERS_MAX, &|| {
        format!("--publishers: at most {PUBLISHERS_MAX} can be told apart")
    })?;
    wrong(plan.rooms > plan.connections, &|| {
        format!("--rooms: {} rooms for {} connections: some would be empty", plan.rooms, plan.connections)
    })?;
    wrong(plan.bytes < MARKER_BYTES, &|| {
        format!("--size: a message says in {MARKER_BYTES} bytes what it is: give at least that")
    })?;
    let is_silent = matches!(profile, Profile::Idle | Profile::Storm);
    wrong(
        is_silent && (flags.rate.is_some() || flags.in_flight.is_some() || flags.publishers.is_some()),
        &|| format!("{word} sends no messages: leave --rate, --in-flight and --publishers out"),
    )?;
    wrong(!(0.0..=MOVES_MAX).contains(&plan.moves), &|| {
        format!("--moves: from 0 to {MOVES_MAX:.0} a second")
    })?;
    wrong(flags.moves.is_some() && profile != Profile::Mix, &|| "--moves is for mix".into())?;
    wrong(flags.slow.is_some() && profile != Profile::Slow, &|| "--slow is for the profile slow".into())?;
    wrong(!is_silent && (plan.publishers == 0 || plan.rooms == 0), &|| {
        format!("{word} needs at least one room and one publisher")
    })?;
    wrong(plan.slow + plan.publishers > plan.connections, &|| {
        format!("--slow: {} who do not read and {} who speak are more than all", plan.slow, plan.publishers)
    })?;
    wrong(matches!(profile, Profile::Fanout | Profile::Slow | Profile::Resume) && plan.rooms != 1, &|| {
        format!("{word} is about one room: for several there is the profile rooms")
    })?;
    let is_alone = matches!(profile, Profile::Echo | Profile::Churn);
    wrong(is_alone && (plan.rooms, plan.publishers) != (plan.connections, plan.connections), &|| {
        format!("{word} has everybody in a room of one's own: leave --rooms and --publishers out")
    })?;
    wrong(profile == Profile::Churn && flags.in_flight.is_some(), &|| {
        "churn has a rate of visits: give --rate".into()
    })?;
    let is_closed = matches!(plan.load, Load::InFlight(_));
    wrong(flags.find_max && (flags.in_flight.is_some() || is_silent), &|| {
        "--find-max looks for a --rate of messages: leave --in-flight out, and choose a profile that sends"
            .into()
    })?;
    refuse_for_target(flags, plan, traits)?;
    refuse_what_is_too_many(flags, plan)?;
    let speakers = if plan.rooms == 0 { 0 } else { plan.publishers.div_ceil(plan.rooms) };
    wrong(speakers.saturating_mul(plan.connections) > STREAMS_MAX, &|| {
        "so many publishers for so many members cannot be audited: take fewer --publishers, or more --rooms"
            .into()
    })?;
    // Only the roles are of interest here, not the names.
    let cast = Cast::new(plan, String::new());
    let is_unheard = |publisher: u32| cast.witness_of(publisher, traits, is_alone).is_none();
    wrong(
        is_closed && !is_silent && !traits.hears_itself && (0..plan.publishers as u32).any(is_unheard),
        &|| {
            "a publisher who does not hear itself needs another member in its room, on its thread, to know what has \
         arrived: give more --connections, or --threads 1, or a --rate"
            .into()
        },
    )
}

/// Addresses that nobody can come from, which each connection would fail at without a reason.
fn refuse_sources(plan: &Plan, target: &Target) -> Result<(), String> {
    for source in &plan.sources {
        if source.is_ipv4() != target.address.is_ipv4() {
            return Err(format!("--sources: from {source} there is no way to {}", target.address));
        }
        // A socket of another kind, which takes none of the ports that the connections need.
        UdpSocket::bind((*source, 0))
            .map_err(|why| format!("--sources: {source} is no address of this machine ({why})"))?;
    }
    Ok(())
}

/// Connections that the system would refuse, one by one and without a reason.
fn refuse_what_is_too_many(flags: &BenchFlags, plan: &Plan) -> Result<(), String> {
    let connections = plan.connections;
    let addresses = plan.sources.len().max(1);
    if connections > addresses * PORTS {
        return Err(format!(
            "--connections: from {addresses} address{} there are ports for {}: give more --sources, as 127.0.0.2-127.0.0.{}",
            if addresses == 1 { "" } else { "es" },
            addresses * PORTS,
            2 + connections / PORTS
        ));
    }
    // Where it cannot be told, the connections themselves will.
    let Ok(files) = descriptors::raise_limit() else { return Ok(()) };
    let thread_max = files.saturating_sub(FILES_KEPT).max(1);
    let needed = connections.div_ceil(thread_max);
    if needed > plan.threads {
        return Err(format!(
            "--connections: a thread may have {thread_max} of them (ulimit -Hn): give --threads {needed}"
        ));
    }
    let core_max = (files - files / 32).saturating_sub(FILES_KEPT).max(1);
    let needed = connections.div_ceil(core_max);
    if flags.target.is_none() && needed > flags.server_cores {
        return Err(format!(
            "--connections: a core of the server may have {core_max} of them (ulimit -Hn): give --server-cores {needed}, or one more, as they are spread by chance"
        ));
    }
    Ok(())
}

fn refuse_for_target(flags: &BenchFlags, plan: &Plan, traits: &Traits) -> Result<(), String> {
    let profile = plan.profile;
    let word = profile.word();
    let refused = if traits.is_echo && profile != Profile::Echo && profile != Profile::Idle {
        Some("an echo is for the profile echo".into())
    } else if profile == Profile::Resume && !traits.can_resume {
        Some("this target has no sessions to come back to".into())
    } else if profile == Profile::Acks && !traits.can_acknowledge {
        Some("this target acknowledges nothing".into())
    } else if profile == Profile::Mix && plan.moves > 0.0 && !traits.can_move {
        Some("members cannot change rooms on this target: give --moves 0".into())
    } else if !traits.has_rooms && !traits.is_echo && plan.rooms > 1 {
        Some(format!("this target has no rooms: {word} needs them; try fanout"))
    } else if traits.is_split && plan.publishers >= plan.connections {
        Some("on this target publishers hear nothing: give more --connections than --publishers".into())
    } else if traits.content_max.is_some_and(|most| plan.bytes > most) {
        let most = traits.content_max.unwrap_or_default();
        Some(format!("--size: a line of this target has no room for more than {most} bytes"))
    } else if flags.what == What::Storm && traits.is_echo {
        Some("nobody joins an echo".into())
    } else {
        None
    };
    refused.map_or(Ok(()), Err)
}
