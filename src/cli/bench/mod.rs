//! `starling bench`: the load generator's flags, and what is told at the end.

mod plan;
mod values;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use clap::{Args, ValueEnum};

use super::{EXIT_FAILURE, EXIT_USAGE, cert, fail};
use crate::bench::child::Server;
use crate::bench::plan::{Load, Plan, Profile};
use crate::bench::progress::Progress;
use crate::bench::report::{Report, Verdict};
use crate::bench::search::{self, Objective, Search, Try};
use crate::bench::subject::Subject;
use crate::bench::target::{Options, Roots, Target};
use crate::bench::{plot, run, table};
use crate::sys::{signals, threads, unix_ms};

/// The exit code after Ctrl-C, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

/// How long a try of a search may become, so that it has enough samples.
const TRY_MAX_NS: u64 = 60_000_000_000;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Round trips: at /echo, or to oneself in a room of one
    Echo,
    /// One room: all hear what some say
    Fanout,
    /// Many rooms of the same size
    Rooms,
    /// Rooms of Zipf's sizes, and members who move between them
    Mix,
    /// All connect at once: how many a second, how long each takes
    Storm,
    /// All are there and say nothing: memory and CPU of a connection
    Idle,
    /// One room in which some do not read: what the others notice
    Slow,
    /// Visitors at a steady rate: connect, say one thing, hear it, leave
    Churn,
    /// All connections are cut at once, and come back to what they missed
    Resume,
    /// Messages with each level of acknowledgement that the target gives
    Acks,
    /// Draw a picture of earlier runs (their --json files)
    Plot,
}

/// The flags of `starling bench`.
#[derive(Args, Debug)]
pub struct BenchFlags {
    /// The shape of the load, or `plot`
    what: What,
    /// The runs to draw (`plot`)
    files: Vec<PathBuf>,
    /// What to measure, as SCHEME://HOST:PORT; without it: a server of this program's, started and ended with the run.
    /// Schemes: ws, ws+proto, ws+deflate (compressed), lines, frames, frames+proto, grpc, text (starling's); ws-any, redis,
    /// nats, mqtt, irc, http, tcp (others'); with +tls behind it, or wss and https, over TLS
    #[arg(long, value_name = "URL", help_heading = "Target")]
    target: Option<String>,
    /// How to speak to the started server: ws, ws+proto, ws+deflate, lines, frames, frames+proto, grpc, text or ws-echo;
    /// with +tls behind it, over TLS
    #[arg(long, value_name = "SCHEME", conflicts_with = "target", help_heading = "Target")]
    transport: Option<String>,
    /// The roots of the target's certificate (PEM), where it is encrypted
    #[arg(long, value_name = "FILE", requires = "target", help_heading = "Target")]
    ca: Option<PathBuf>,
    /// Take any certificate of the target
    #[arg(long, requires = "target", conflicts_with = "ca", help_heading = "Target")]
    insecure: bool,
    /// The target's process, to watch what it uses; may be repeated; found by itself on loopback
    #[arg(long, value_name = "PID", help_heading = "Target")]
    pid: Vec<u32>,
    /// Count the target's system calls with strace, which slows it down: no other figure of such a run is to be used
    #[arg(long, help_heading = "Target")]
    count_syscalls: bool,
    /// Cores of the started server
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "target", help_heading = "Target")]
    server_cores: usize,
    /// Processors of the started server: 0 or 0,2-3; without it: the first ones
    #[arg(long, value_name = "LIST", conflicts_with = "target", help_heading = "Target")]
    server_cpus: Option<String>,
    /// A flag for the started server, as in --server-flag=--spin; may be repeated
    #[arg(
        long,
        value_name = "FLAG",
        allow_hyphen_values = true,
        conflicts_with = "target",
        help_heading = "Target"
    )]
    server_flag: Vec<String>,
    /// What to say first to a ws-any:// target; {room}, {nickname} and {number} are filled in
    #[arg(long, value_name = "TEMPLATE", requires = "target", help_heading = "Target")]
    hello: Option<String>,
    /// How to publish to a ws-any:// target; {content} is filled in too
    #[arg(long, value_name = "TEMPLATE", requires = "target", help_heading = "Target")]
    publish: Option<String>,
    /// The ws-any:// target does not send a message back to whoever sent it
    #[arg(long, requires = "target", help_heading = "Target")]
    no_echo: bool,

    /// Connections, publishers included
    #[arg(short, long, value_name = "N", help_heading = "Load")]
    connections: Option<usize>,
    /// Rooms that they are spread over
    #[arg(long, value_name = "N", help_heading = "Load")]
    rooms: Option<usize>,
    /// Connections that speak
    #[arg(short, long, value_name = "N", help_heading = "Load")]
    publishers: Option<usize>,
    /// Open loop: messages a second (visits for `churn`), all together, whatever the target does
    #[arg(short, long, value_name = "R", help_heading = "Load")]
    rate: Option<f64>,
    /// Closed loop: messages that each publisher has under way [default: 1]
    #[arg(
        short,
        long,
        visible_alias = "pipeline",
        value_name = "K",
        conflicts_with = "rate",
        help_heading = "Load"
    )]
    in_flight: Option<u32>,
    /// Bytes of a message's content
    #[arg(short, long, value_name = "BYTES", default_value_t = 128, help_heading = "Load")]
    size: usize,
    /// How long to measure
    #[arg(short, long, value_name = "TIME", default_value = "10s", help_heading = "Load")]
    duration: String,
    /// How long to go on before that
    #[arg(short, long, value_name = "TIME", default_value = "2s", help_heading = "Load")]
    warmup: String,
    /// Moves between rooms a second (`mix`) [default: 100]
    #[arg(long, value_name = "R", help_heading = "Load")]
    moves: Option<f64>,
    /// Members who do not read (`slow`) [default: a tenth]
    #[arg(long, value_name = "N", help_heading = "Load")]
    slow: Option<usize>,
    /// Search the highest rate at which all is well and the objective holds; --rate is where it begins
    #[arg(long, requires = "slo", help_heading = "Load")]
    find_max: bool,
    /// The objective: p99=5ms, or several: p50=1ms,p99.9=20ms
    #[arg(long, value_name = "OBJECTIVE", requires = "find_max", help_heading = "Load")]
    slo: Option<String>,

    /// Threads of the generator; without it: one a processor in --cpus
    #[arg(short, long, value_name = "N", help_heading = "Generator")]
    threads: Option<usize>,
    /// Processors of the generator: 1 or 1,4-7; without it: those that the started server does not have
    #[arg(long, value_name = "LIST", help_heading = "Generator")]
    cpus: Option<String>,
    /// Addresses to come from: 127.0.0.2-127.0.0.20; each has about 28,000 ports to one target
    #[arg(long, value_name = "ADDRESSES", help_heading = "Generator")]
    sources: Option<String>,
    /// Connections that each thread has under construction at a time
    #[arg(long, value_name = "N", default_value_t = 128, help_heading = "Generator")]
    handshakes: usize,
    /// What random choices begin with
    #[arg(long, value_name = "S", default_value_t = 1, help_heading = "Generator")]
    seed: u64,

    /// Write the result as JSON; - is standard output, without the table
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    json: Option<PathBuf>,
    /// Draw a picture: latency by percentile, as one HTML file
    #[arg(long, short = 'o', alias = "output", value_name = "FILE.html", help_heading = "Result")]
    plot: Option<PathBuf>,
    /// What the run is called in pictures
    #[arg(long, value_name = "NAME", help_heading = "Result")]
    label: Option<String>,
    /// Say nothing while the run goes on
    #[arg(short, long, help_heading = "Result")]
    quiet: bool,
}

/// Measures, or draws.
pub fn run(flags: &BenchFlags) -> ExitCode {
    if let Some(profile) = flags.profile() {
        return measure(flags, profile);
    }
    match draw(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(EXIT_USAGE, why),
    }
}

impl BenchFlags {
    fn profile(&self) -> Option<Profile> {
        Some(match self.what {
            What::Echo => Profile::Echo,
            What::Fanout => Profile::Fanout,
            What::Rooms => Profile::Rooms,
            What::Mix => Profile::Mix,
            What::Storm => Profile::Storm,
            What::Idle => Profile::Idle,
            What::Slow => Profile::Slow,
            What::Churn => Profile::Churn,
            What::Resume => Profile::Resume,
            What::Acks => Profile::Acks,
            What::Plot => return None,
        })
    }

    fn options(&self) -> Result<Options, String> {
        let roots = match &self.ca {
            Some(path) => Roots::Pem(
                fs::read(path).map_err(|why| format!("--ca: cannot read {}: {why}", path.display()))?,
            ),
            None if self.insecure => Roots::Any,
            None => Roots::Unknown,
        };
        Ok(Options {
            roots,
            hello: self.hello.clone(),
            publish: self.publish.clone(),
            is_silent_to_sender: self.no_echo,
            is_echo: self.what == What::Echo,
        })
    }
}

fn draw(flags: &BenchFlags) -> Result<(), String> {
    let Some(path) = &flags.plot else {
        return Err("plot: name the picture: starling bench plot A.json B.json -o FILE.html".into());
    };
    if flags.files.is_empty() {
        return Err("plot: name the runs to draw, which --json has written".into());
    }
    if let Some(file) = flags.files.iter().find(|file| is_same(file, path)) {
        return Err(format!(
            "plot: {} is a run to be drawn: name another file for the picture",
            file.display()
        ));
    }
    let mut reports = Vec::new();
    for file in &flags.files {
        let told = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
        let text = fs::read_to_string(file).map_err(|why| told(&why))?;
        // A file has one run, or several.
        let several = serde_json::from_str::<Vec<Report>>(&text);
        let found = several.or_else(|_| serde_json::from_str::<Report>(&text).map(|report| vec![report]));
        reports.extend(found.map_err(|why| told(&format_args!("no result of starling bench: {why}")))?);
    }
    write(path, &plot::page(&reports))
}

/// Whether both are one file, by whatever names.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Everything that runs need besides their plan.
struct Bench<'a> {
    flags: &'a BenchFlags,
    url: String,
    options: Options,
    subject: Option<Subject>,
    stop: Arc<AtomicBool>,
    progress: Progress,
}

fn measure(flags: &BenchFlags, profile: Profile) -> ExitCode {
    if !flags.files.is_empty() {
        return fail(EXIT_USAGE, "files are for `plot`; a run is written with --json FILE");
    }
    let (plan, placement) = match plan::plan(flags, profile) {
        Ok(plan) => plan,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    let objective = match flags.slo.as_deref().map(Objective::parse).transpose() {
        Ok(objective) => objective,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    match (&flags.json, &flags.plot) {
        (_, Some(plot)) if plot == Path::new("-") => {
            return fail(EXIT_USAGE, "--plot: a picture is a file: name one, as in --plot run.html");
        }
        (Some(json), Some(plot)) if is_same(json, plot) => {
            return fail(EXIT_USAGE, "--json and --plot are the same file: name two");
        }
        _ => {}
    }
    // Noticed now rather than when there is something to write.
    for path in
        [&flags.json, &flags.plot].into_iter().flatten().filter(|path| path.as_path() != Path::new("-"))
    {
        if let Err(why) = try_to_write(path) {
            return fail(EXIT_USAGE, format!("cannot write {}: {why}", path.display()));
        }
    }
    if let Err(why) = signals::block() {
        return fail(EXIT_FAILURE, format!("cannot take signals: {why}"));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stops = stop.clone();
    let listens = threads::spawn("signals".into(), move || {
        while signals::wait().is_ok() {
            stops.store(true, Relaxed);
        }
    });
    if let Err(why) = listens {
        return fail(EXIT_FAILURE, format!("cannot start a thread: {why}"));
    }
    match attempt(flags, plan, &placement, objective.as_ref(), stop) {
        Ok(reports) => conclude(flags, &reports),
        Err(why) => fail(EXIT_FAILURE, why),
    }
}

/// Whether a file can be written. One that is not there yet is left so: there may be nothing to write.
fn try_to_write(path: &Path) -> io::Result<()> {
    let is_new = !path.exists();
    fs::OpenOptions::new().append(true).create(true).open(path)?;
    if is_new { fs::remove_file(path) } else { Ok(()) }
}

fn attempt(
    flags: &BenchFlags,
    plan: Plan,
    placement: &plan::Placement,
    objective: Option<&Objective>,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Report>, String> {
    let mut progress = Progress::new(flags.quiet);
    let mut options = flags.options()?;
    let server = match &flags.target {
        Some(_) => None,
        None if placement.transport.ends_with(plan::TLS) => {
            let (server, cert) = start_with_certificate(flags.server_cores, placement)?;
            options.roots = Roots::Pem(cert);
            Some(server)
        }
        None => Some(Server::start(flags.server_cores, &placement.server_cpus, &placement.server_flags)?),
    };
    let url = match (&flags.target, &server) {
        (Some(url), _) => url.clone(),
        (None, Some(server)) => plan::url_of(&placement.transport, &server.addresses),
        (None, None) => unreachable!("one of them is there"),
    };
    let target = Target::parse(&url, &options)?;
    let subject = match (&server, flags.pid.is_empty()) {
        (Some(server), _) => Some(Subject::new(vec![server.pid()])?),
        (None, false) => Some(Subject::new(flags.pid.clone())?),
        (None, true) => Subject::of_target(&target),
    };
    if let Some(server) = &server {
        let also = if placement.server_flags.is_empty() { "" } else { " and what --server-flag says" };
        progress.say(&format!("started starling {}{also}", server.arguments.join(" ")));
    }
    let mut bench = Bench { flags, url, options, subject, stop, progress };
    match objective {
        Some(objective) => bench.find_max(plan, objective).map(|report| vec![report]),
        None if plan.profile == Profile::Acks => bench.acks(&plan),
        None => bench.once(&plan).map(|report| vec![report]),
    }
}

/// Starts a server with a certificate of its own, and returns that.
fn start_with_certificate(cores: usize, placement: &plan::Placement) -> Result<(Server, Vec<u8>), String> {
    /// It is for this run.
    const DAYS: u64 = 2;
    let directory = std::env::temp_dir().join(format!("starling-bench-{}-tls", std::process::id()));
    let (cert, key) = cert::make(&["127.0.0.1".to_owned()], unix_ms() / cert::DAY_MS, DAYS)?;
    let (cert_path, key_path) = (directory.join("cert.pem"), directory.join("key.pem"));
    cert::put_both(&directory, true, (&cert_path, &cert), (&key_path, &key))?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut flags = vec!["--tls-cert".to_owned(), path(&cert_path), "--tls-key".to_owned(), path(&key_path)];
    flags.extend_from_slice(&placement.server_flags);
    let server = Server::start(cores, &placement.server_cpus, &flags);
    let _ = fs::remove_dir_all(&directory); // it has read them
    Ok((server?, cert.into_bytes()))
}

impl Bench<'_> {
    fn once(&mut self, plan: &Plan) -> Result<Report, String> {
        let target = Target::parse(&self.url, &self.options)?;
        let shown = target.url.clone();
        let outcome = run::run(plan.clone(), target, self.subject.as_ref(), &self.stop, &mut self.progress)?;
        let pids = self.subject.as_ref().map_or(&[][..], |subject| &subject.pids);
        let label = self.flags.label.clone().unwrap_or_else(|| {
            let level = plan.ack.as_ref().map(|level| format!(" {level}")).unwrap_or_default();
            format!("{}{level} {shown}", plan.profile.word())
        });
        Ok(Report::new(plan, &shown, label, outcome, pids))
    }

    /// A run for each level of acknowledgement that the target gives.
    fn acks(&mut self, plan: &Plan) -> Result<Vec<Report>, String> {
        let mut reports = Vec::new();
        for level in ["sequenced", "stored", "synced"] {
            let plan = Plan { ack: Some(level.into()), ..plan.clone() };
            // One message tells whether there is such a level.
            let probe = Plan {
                load: Load::InFlight(1),
                publishers: 1,
                connections: 1,
                rooms: 1,
                threads: 1,
                warmup_ns: 0,
                duration_ns: 200_000_000,
                ..plan.clone()
            };
            let probed = self.once(&probe)?;
            if probed.refused.keys().any(|why| why.contains("ack_unavailable")) {
                self.progress.say(&format!("ack {level}: the target does not give it"));
                continue;
            }
            reports.push(self.once(&plan)?);
            if self.stop.load(Relaxed) {
                break;
            }
        }
        Ok(reports)
    }

    /// Runs at one rate after the other. The report is that of the highest that held, or of the last one tried.
    fn find_max(&mut self, plan: Plan, objective: &Objective) -> Result<Report, String> {
        let Load::Rate(first) = plan.load else { return Err("--find-max needs an open loop".into()) };
        let mut search = Search::new(first);
        let mut tries = Vec::new();
        let (mut best, mut last) = (None, None);
        let (mut is_interrupted, mut gone, mut is_bound_by_generator) = (false, None, false);
        while let Some(rate) = search.next() {
            let report = match self.long_enough(&Plan { load: Load::Rate(rate), ..plan.clone() }, objective) {
                Err(why) if best.is_some() || last.is_some() => {
                    gone = Some(why);
                    break;
                }
                report => report?,
            };
            let tried = Try::of(rate, &report, objective);
            let has_held = tried.has_held;
            self.progress.say(&table::tried(&tried));
            tries.push(tried);
            search.tell(rate, has_held);
            if report.verdict == Verdict::Interrupted {
                is_interrupted = true;
                last = Some(report);
                break;
            }
            if self.is_target_gone() {
                gone = report.reasons.first().cloned().or_else(|| Some("its process has ended".into()));
                last = Some(report);
                break;
            }
            is_bound_by_generator = !has_held && report.generator.is_bottleneck;
            if has_held { best = Some(report) } else { last = Some(report) }
        }
        let mut report = best.or(last).ok_or("no rate was tried: begin with --rate 1 or more")?;
        report.highest_rate = search.held;
        report.tries = tries;
        if let Some(why) = gone {
            report.verdict = Verdict::Failed;
            report.reasons.push(format!("the target was gone before the search had ended: {why}"));
        } else if is_interrupted {
            report.verdict = Verdict::Interrupted;
        } else if let Some(rate) = search.held {
            self.progress.say(&format!("the highest rate that holds: {rate:.0} messages/s"));
            if is_bound_by_generator {
                report.warnings.push(
                    "the generator was the bottleneck at the rates that did not hold: the target may do more"
                        .into(),
                );
            }
        } else {
            report.verdict = Verdict::Failed;
            report.reasons.push("no rate held".into());
        }
        Ok(report)
    }

    /// A run, and if it has too few times to judge the objective by, another one that is as long as it takes.
    fn long_enough(&mut self, plan: &Plan, objective: &Objective) -> Result<Report, String> {
        let report = self.once(plan)?;
        let Some(factor) = search::longer_by(&report, objective) else { return Ok(report) };
        let duration_ns = (plan.duration_ns as f64 * factor) as u64;
        if duration_ns > TRY_MAX_NS {
            return Ok(report);
        }
        self.progress.say(&format!(
            "{} samples, of which the objective needs {}: once more, for {:.1} s",
            report.main_times().1.count,
            objective.samples_needed(),
            duration_ns as f64 / 1e9
        ));
        self.once(&Plan { duration_ns, ..plan.clone() })
    }

    /// Whether the processes that are watched have ended.
    fn is_target_gone(&self) -> bool {
        self.subject.as_ref().is_some_and(|subject| subject.usage().is_err())
    }
}

/// Tells, writes and draws, and gives the exit code.
fn conclude(flags: &BenchFlags, reports: &[Report]) -> ExitCode {
    let is_json_only = flags.json.as_deref() == Some(Path::new("-"));
    let json = match reports {
        [report] => serde_json::to_string_pretty(report),
        several => serde_json::to_string_pretty(several),
    };
    let json = json.expect("reports have no keys but names") + "\n";
    let tables: Vec<String> = reports.iter().map(table::print).collect();
    let text = if is_json_only { json.clone() } else { tables.join("\n") };
    if let Err(why) = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush())
        && why.kind() != io::ErrorKind::BrokenPipe
    {
        return fail(EXIT_FAILURE, format_args!("cannot write to standard output: {why}"));
    }
    let json_file = flags.json.as_ref().filter(|_| !is_json_only);
    let written = json_file.map_or(Ok(()), |path| write(path, &json));
    let drawn = flags.plot.as_ref().map_or(Ok(()), |path| write(path, &plot::page(reports)));
    if let Err(why) = written.and(drawn) {
        return fail(EXIT_FAILURE, why);
    }
    let has = |verdict| reports.iter().any(|report| report.verdict == verdict);
    if has(Verdict::Failed) || reports.is_empty() {
        ExitCode::from(EXIT_FAILURE)
    } else if has(Verdict::Interrupted) {
        ExitCode::from(EXIT_INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|why| format!("cannot write {}: {why}", path.display()))
}
