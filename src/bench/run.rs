//! One run, directed: threads started, phases gone through, the target watched, and everything added up.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cast::Cast;
use super::fingerprint::Fingerprint;
use super::generator::Generator;
use super::plan::{Plan, Profile};
use super::progress::Progress;
use super::shared::{Phase, Shared};
use super::subject::{Subject, Usage};
use super::syscalls::Counting;
use super::tally::Tally;
use super::target::Target;
use crate::config::Config;
use crate::reactor::mailbox::Exchange;
use crate::reactor::{Door, Reactor, Turn};
use crate::sys::kernel::{Kernel, Sleeper};
use crate::sys::{descriptors, random_u64, threads};

const MS: u64 = 1_000_000;

/// How often whoever directs looks how things stand.
const LOOK: Duration = Duration::from_millis(5);

/// How long nothing may change before a phase is given up.
const PATIENCE_NS: u64 = 10_000 * MS;

/// The same once talking is over: what has not come by then is missing.
const SETTLE_NS: u64 = 3_000 * MS;

/// The same when the run was cut short: whoever asks for its end does not want to wait for a backlog.
const CUT_SHORT_NS: u64 = 500 * MS;

/// How long those who did not read are read in the end, to hear whether they were closed.
const SLOW_NS: u64 = 300 * MS;

/// From the last one's being there to the first message.
const PAUSE_NS: u64 = 50 * MS;

/// How long the threads get to end once they are asked to.
const END_NS: u64 = 5_000 * MS;

/// What a run has come to.
#[derive(Debug)]
pub struct Outcome {
    /// The circumstances when it began.
    pub fingerprint: Fingerprint,
    /// The target's version, where it says it.
    pub target_version: Option<String>,
    /// Everything that the threads counted.
    pub tally: Tally,
    /// Nanoseconds that were measured.
    pub measured_ns: u64,
    /// Nanoseconds from the first connection to the last one's being there.
    pub gathering_ns: u64,
    /// The target before there was a connection, and at both ends of the measured time.
    pub usage: Option<[Usage; 3]>,
    /// The target's system calls in the measured time, where they were to be counted.
    pub syscalls: Option<Result<BTreeMap<String, u64>, String>>,
    /// Whether it was cut short.
    pub is_interrupted: bool,
    /// What went wrong that the tally does not say.
    pub problems: Vec<String>,
}

/// Runs a plan. `stop` cuts it short.
///
/// # Errors
/// One line on why it could not be run at all.
pub fn run(
    plan: Plan,
    target: Target,
    subject: Option<&Subject>,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Result<Outcome, String> {
    let fingerprint = Fingerprint::take();
    if !plan.cpus.is_empty() {
        // Whoever directs stays off the server's processors too. Where that is not permitted, it is little work.
        let _ = threads::restrict(&plan.cpus);
    }
    // Names are unique among runs: sessions and rooms of the last one may still be there.
    let tag = format!("b{:05x}", random_u64() & 0xf_ffff);
    let cast = Cast::new(&plan, tag);
    let shared = Arc::new(Shared::new(plan, cast, target));
    let at_start = subject.map(Subject::usage).transpose()?;
    // A storm begins with the threads; everything else is counted from the measured time on.
    let counting =
        if shared.plan.profile == Profile::Storm { begin_counting(&shared.plan, subject) } else { None };
    let handles = start(&shared)?;
    let mut director = Director {
        shared,
        subject,
        stop,
        progress,
        problems: Vec::new(),
        counting,
        syscalls: None,
        is_interrupted: false,
    };
    let directed = director.direct();
    let tally = director.end(handles);
    let (measured_ns, gathering_ns, usage) = directed?;
    Ok(Outcome {
        fingerprint,
        target_version: director.shared.target.protocol.version(),
        tally: tally?,
        measured_ns,
        gathering_ns,
        usage: at_start.zip(usage).map(|(start, (from, to))| [start, from, to]),
        syscalls: director.syscalls,
        is_interrupted: director.is_interrupted,
        problems: director.problems,
    })
}

/// Begins to count system calls, if that is wanted and it is known whose.
fn begin_counting(plan: &Plan, subject: Option<&Subject>) -> Option<Result<Counting, String>> {
    subject.filter(|_| plan.counts_syscalls).map(|subject| Counting::begin(&subject.pids))
}

struct Director<'a> {
    shared: Arc<Shared>,
    subject: Option<&'a Subject>,
    stop: &'a AtomicBool,
    progress: &'a mut Progress,
    problems: Vec<String>,
    /// System calls are being counted.
    counting: Option<Result<Counting, String>>,
    syscalls: Option<Result<BTreeMap<String, u64>, String>>,
    is_interrupted: bool,
}

type Directed = (u64, u64, Option<(Usage, Usage)>);

impl Director<'_> {
    fn direct(&mut self) -> Result<Directed, String> {
        let usage = |subject: Option<&Subject>| subject.map(Subject::usage).transpose();
        let shared = self.shared.clone();
        let plan = &shared.plan;
        let profile = plan.profile;
        let before = if profile == Profile::Storm { usage(self.subject)? } else { None };
        self.gather();
        let gathering_ns = shared.clock.now_ns();
        if profile == Profile::Storm {
            let after = usage(self.subject)?;
            self.end_counting();
            shared.end_ns.store(gathering_ns, Relaxed);
            return Ok((gathering_ns, gathering_ns, before.zip(after)));
        }
        let is_anybody_there = profile == Profile::Churn || shared.sum(|gauges| &gauges.ready) > 0;
        if self.is_interrupted || !is_anybody_there {
            return Ok((0, gathering_ns, None));
        }
        let begin_ns = shared.clock.now_ns() + PAUSE_NS;
        shared.begin_ns.store(begin_ns, Relaxed);
        shared.end_ns.store(plan.end_ns(begin_ns), Relaxed);
        shared.set_phase(Phase::Talking);
        let from_ns = begin_ns + plan.warmup_ns;
        self.wait_until(from_ns, "warming up");
        self.counting = begin_counting(plan, self.subject);
        let from = self.usage_now();
        self.wait_until(plan.end_ns(begin_ns), "measuring");
        let to = self.usage_now();
        self.end_counting();
        let end_ns = shared.clock.now_ns().min(plan.end_ns(begin_ns));
        shared.end_ns.store(end_ns, Relaxed);
        shared.set_phase(Phase::Settling);
        self.settle();
        Ok((end_ns.saturating_sub(from_ns), gathering_ns, from.zip(to)))
    }

    /// What the target has used. If it has ended meanwhile the run has failed, and what was measured is told all the same.
    fn usage_now(&mut self) -> Option<Usage> {
        if self.is_deserted() {
            // A process that has just been killed may still have figures.
            let problem = "the target has ended, or has closed every connection".to_owned();
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
            return None;
        }
        match self.subject.map(Subject::usage)? {
            Ok(usage) => Some(usage),
            Err(why) => {
                self.problems.push(format!("the target has ended: {why}"));
                None
            }
        }
    }

    fn end_counting(&mut self) {
        let counting = self.counting.take();
        self.syscalls = counting.map(|counting| counting.and_then(Counting::end));
    }

    /// Waits until everybody is there.
    fn gather(&mut self) {
        let shared = self.shared.clone();
        let all = match shared.plan.profile {
            Profile::Churn => 0,
            _ => shared.plan.connections as u64,
        };
        let (mut last, mut since_ns) = (0, shared.clock.now_ns());
        loop {
            let (ready, lost) = (shared.sum(|gauges| &gauges.ready), shared.sum(|gauges| &gauges.lost));
            if ready + lost >= all {
                if all > 0 && ready == 0 {
                    self.problems.push("not one connection got to where it should be".into());
                    self.look_who_listens();
                }
                return;
            }
            let now_ns = shared.clock.now_ns();
            if ready + lost != last {
                (last, since_ns) = (ready + lost, now_ns);
            }
            if now_ns > since_ns + PATIENCE_NS {
                self.problems
                    .push(format!("{} of {all} connections never got to where they should be", all - ready));
                return;
            }
            if self.look("connecting") {
                return;
            }
        }
    }

    /// Says so if nobody is there at all: what the connections themselves tell is that they ended.
    fn look_who_listens(&mut self) {
        let address = self.shared.target.address;
        if let Err(why) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            self.problems.push(format!("nobody listens at {address} ({why}): is the target running?"));
        }
    }

    fn wait_until(&mut self, moment_ns: u64, what: &str) {
        // With nobody left there is nothing to wait for, and the run has failed.
        while self.shared.clock.now_ns() < moment_ns && !self.is_interrupted && !self.is_deserted() {
            let left = Duration::from_nanos(moment_ns - self.shared.clock.now_ns());
            if left < LOOK {
                std::thread::sleep(left);
            } else if self.look(what) {
                return;
            }
        }
    }

    /// Whether every connection has broken. Visitors come anew.
    fn is_deserted(&self) -> bool {
        let plan = &self.shared.plan;
        plan.profile != Profile::Churn && self.shared.sum(|gauges| &gauges.lost) >= plan.connections as u64
    }

    /// Waits for what is under way, as long as some of it comes.
    fn settle(&mut self) {
        let began_ns = self.shared.clock.now_ns();
        let (mut last, mut since_ns) = (u64::MAX, began_ns);
        loop {
            let unsettled = self.shared.sum(|gauges| &gauges.unsettled);
            let has_told = self.shared.gauges.iter().all(|gauges| gauges.has_told.load(Relaxed) == 1);
            let is_early =
                self.shared.plan.profile == Profile::Slow && self.shared.clock.now_ns() < began_ns + SLOW_NS;
            if has_told && unsettled == 0 && !is_early {
                return;
            }
            let received = self.shared.sum(|gauges| &gauges.received);
            let now_ns = self.shared.clock.now_ns();
            if received != last {
                (last, since_ns) = (received, now_ns);
            }
            let is_enough = self.is_interrupted && now_ns > began_ns + CUT_SHORT_NS;
            if is_enough || now_ns > since_ns + SETTLE_NS {
                return;
            }
            self.look("settling");
        }
    }

    /// Waits a moment, and says whether to stop.
    fn look(&mut self, what: &str) -> bool {
        self.progress.show(&self.shared, what);
        std::thread::sleep(LOOK);
        if self.stop.load(Relaxed) {
            self.is_interrupted = true;
            self.shared.is_cut_short.store(true, Relaxed);
        }
        self.is_interrupted
    }

    /// Ends the threads, and adds up what they have counted.
    fn end(&mut self, handles: Vec<JoinHandle<Result<Tally, String>>>) -> Result<Tally, String> {
        let shared = &self.shared;
        for gauges in &shared.gauges {
            gauges.open.store(u64::MAX, Relaxed);
        }
        shared.set_phase(Phase::Leaving);
        let since_ns = shared.clock.now_ns();
        while shared.sum(|gauges| &gauges.open) > 0 && shared.clock.now_ns() < since_ns + END_NS {
            self.progress.show(shared, "leaving");
            std::thread::sleep(LOOK);
        }
        shared.set_phase(Phase::Over);
        self.progress.clear();
        let mut tally = Tally::new();
        for handle in handles {
            tally.add(&handle.join().map_err(|_| "a thread of the generator failed".to_owned())??);
        }
        Ok(tally)
    }
}

fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<Result<Tally, String>>>, String> {
    // No files: half of what the system offers may be too few.
    descriptors::raise_limit().map_err(|why| format!("cannot read the open-file limit: {why}"))?;
    (0..shared.plan.threads)
        .map(|thread| {
            let shared = shared.clone();
            threads::spawn(format!("bench-{thread}"), move || live(shared, thread))
                .map_err(|why| format!("cannot start a thread: {why}"))
        })
        .collect()
}

/// The life of a thread.
fn live(shared: Arc<Shared>, thread: usize) -> Result<Tally, String> {
    let plan = &shared.plan;
    if !plan.cpus.is_empty() {
        threads::pin(plan.cpus[thread % plan.cpus.len()]);
    }
    // With a table of its own each thread may have as many connections as the limit says. Where that is not permitted they
    // share one, and whoever wants more is told by the connections that fail.
    let _ = descriptors::own_table(&[]);
    let limits = Config::default().limits;
    let (sleeper, waker) = Sleeper::new().map_err(|why| format!("cannot make an event poll: {why}"))?;
    let kernel =
        Kernel::new(sleeper, Vec::new(), Arc::new(vec![waker]), None, limits.events_per_turn, shared.clock.0)
            .map_err(|why| format!("cannot make an event poll: {why}"))?;
    let tls = shared.target.tls.clone();
    let generator = Generator::new(shared, thread);
    let exchange = Arc::new(Exchange::new(1, 1));
    let mut reactor = Reactor::new(0, kernel, generator, &limits, false, Vec::<Door>::new(), exchange);
    if let Some(tls) = tls {
        reactor.encrypt_connections(tls);
    }
    while reactor.turn() != Turn::Over {}
    Ok(reactor.world().into_tally())
}
