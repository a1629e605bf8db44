//! `starling doctor`: what of this machine is not as the server wants it, why that matters, and the commands that
//! change it.
//!
//! A check reads files below a root and says what it has read; what it cannot read it says it does not know. It changes
//! nothing.
//! `docs/host.md` says what each check is about, and where that is from.

mod cgroup;
mod disk;
mod files;
mod finding;
mod host;
mod interrupts;
mod memory;
mod network;
mod plan;
mod processors;
mod system;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{EXIT_FAILURE, EXIT_USAGE, Flags, fail, write};
use crate::sys::host as system_calls;
use finding::{Finding, Found, Status};
use host::{Calls, Host};
use plan::Plan;

pub(super) const EXAMPLES: &str = "\
Examples:
  starling doctor                                    this machine, with the defaults
  starling doctor --config starling.toml -v          with the reasons of what is well, too
  starling doctor --cores 8 --max-connections 500000
  starling doctor --pid \"$(pidof starling)\"          the limits of a server that runs
  starling doctor --json | jq '.[] | select(.status == \"warning\")'
  scripts/tune-host                                  what it would change; --apply does it

The flags are those of `serve`: they say what is to run here. Nothing is changed.
Each line is ok, a note (worth knowing, or not known here) or a warning.
docs/host.md has more on each check.

Exit codes: 0 no warning, 1 at least one, 2 wrong arguments or configuration.";

/// What is looked at, and how it is told.
#[derive(Args, Debug)]
pub struct DoctorFlags {
    #[command(flatten)]
    flags: Flags,
    /// Print an array of objects: check, status, found, why, fix
    #[arg(long)]
    json: bool,
    /// Print the settings that should change, one a line: status, kind, name, now, wanted, with tabs between; exit code
    /// 0
    #[arg(long, conflicts_with = "json")]
    settings: bool,
    /// Say why of what is ok, too
    #[arg(long, short)]
    verbose: bool,
    /// Look at the limits of this process, not at those of what is started from here
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Look at the files below this directory: /proc and /sys of another machine, copied
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// A check: what it is called, why it matters, and how it looks.
struct Check {
    name: &'static str,
    why: &'static str,
    look: fn(&Host, &Plan) -> Result<Found, String>,
}

const fn check(
    name: &'static str,
    why: &'static str,
    look: fn(&Host, &Plan) -> Result<Found, String>,
) -> Check {
    Check { name, why, look }
}

/// All of them, in the order in which they are told.
const CHECKS: &[Check] = &[
    check(
        "kernel",
        "the server uses SO_REUSEPORT, with --steer SO_INCOMING_CPU, and unshare(2)",
        system::kernel,
    ),
    check(
        "open-files",
        "each connection is an open file, and a core has a table of its own; past the limit clients are told that there is no room",
        files::limit,
    ),
    check("nr-open", "no open-file limit can be higher", files::ceiling),
    check("file-max", "the open files of all processes together; past it accept(2) fails", files::all),
    check(
        "descriptor-tables",
        "with one table for all cores accept and close take turns, and the open-file limit holds them together",
        files::tables,
    ),
    check(
        "somaxconn",
        "the kernel lowers a listener's queue to it; when clients come back all at once, those past it wait for their next try, a second or more",
        network::backlog,
    ),
    check(
        "syn-backlog",
        "handshakes that are under way; without SYN cookies the kernel begins to drop new ones when few places are left",
        network::half_open,
    ),
    check(
        "port-range",
        "only for who connects from here: a load generator, a proxy before the server, the connections to Redis and Consul; a server alone needs none",
        network::ports,
    ),
    check(
        "reserved-ports",
        "a connection outwards may be given a listener's port, and the server cannot start until it has ended",
        network::taken,
    ),
    check("socket-buffers", "bounds of buffers that a program sets itself", network::socket_buffers),
    check(
        "tcp-buffers",
        "the kernel sizes buffers within them: small ones make clients far away slow, large ones hold more for clients that do not read",
        network::tcp_buffers,
    ),
    check(
        "tcp-mem",
        "past it the kernel drops packets of all connections; without a sensible end a flood takes the memory",
        network::tcp_memory,
    ),
    check(
        "conntrack",
        "where a rule of the packet filter has connections tracked, new ones are dropped when the table is full",
        network::tracked,
    ),
    check(
        "processors",
        "each core is a loop with a processor of its own; loops that share one wait for each other",
        processors::allowed,
    ),
    check(
        "cpu-quota",
        "a group that has used its time up stands still until the next period: all loops, and all clients",
        processors::quota,
    ),
    check(
        "isolated",
        "an isolated processor runs what is pinned there and nothing else, but the scheduler moves no thread from one to another",
        processors::isolated,
    ),
    check(
        "numa",
        "cores share memory for mail and messages, which is slower from another node",
        processors::nodes,
    ),
    check(
        "smt",
        "two threads of one physical core share its power, and loops that are busy slow each other",
        processors::siblings,
    ),
    check(
        "governor",
        "loops sleep between messages; a processor that has slowed down meanwhile answers later",
        processors::governor,
    ),
    check(
        "clock-source",
        "each turn of a loop reads the clock; with a slow source that is a system call",
        processors::clock,
    ),
    check(
        "interrupts",
        "what takes packets in takes time from the loop on that processor; --steer depends on where it is",
        interrupts::placement,
    ),
    check(
        "packet-steering",
        "the kernel can send packets on to other processors (RPS) and choose queues (XPS)",
        interrupts::steering,
    ),
    check("memory", "past the bound the kernel ends the process", memory::amount),
    check(
        "overcommit",
        "where promises are counted, memory can be refused, and the process ends",
        memory::promises,
    ),
    check(
        "swap",
        "a loop that touches memory on the disk waits for it, with all of its clients",
        memory::swap,
    ),
    check(
        "huge-pages",
        "where all memory gets them, finding them can stop a loop while it takes memory, and the process holds more than it uses",
        memory::huge_pages,
    ),
    check("data-dir", "SQLite's log needs a local disk; a full one stops storing", disk::data),
    check(
        "journals",
        "a core's journal is in shared memory; without room there, what is not stored yet ends with the process",
        disk::journals,
    ),
    check(
        "time",
        "timestamps, the ends of tokens and the age of messages are by the wall clock",
        system::time,
    ),
];

/// Looks, and tells.
pub fn run(flags: &DoctorFlags) -> ExitCode {
    let config = match flags.flags.resolve() {
        Ok(config) => config,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    if !flags.root.is_dir() {
        return fail(EXIT_USAGE, format_args!("--root: {} is no directory", flags.root.display()));
    }
    let is_here = flags.root == Path::new("/");
    if is_here && !cfg!(target_os = "linux") {
        return fail(EXIT_FAILURE, "the doctor knows Linux only");
    }
    let host = Host {
        root: flags.root.clone(),
        process: flags.pid.map_or("self".to_owned(), |pid| pid.to_string()),
        calls: Calls {
            space: system_calls::space,
            clock: is_here.then_some(system_calls::is_clock_synchronised),
            table: is_here.then_some(system_calls::try_own_table),
            page_bytes: system_calls::page_bytes(),
        },
    };
    if flags.pid.is_some() && !host.has(&host.of_process("limits")) {
        return fail(EXIT_USAGE, format_args!("--pid: there is no process {}", host.process));
    }
    let plan = Plan::new(config, &host);
    let findings = look(&host, &plan);
    let told = if flags.json {
        json(&findings)
    } else if flags.settings {
        settings(&findings)
    } else {
        text(&findings, &plan, flags.verbose, is_coloured())
    };
    match write(told.as_bytes()) {
        Err(why) => fail(EXIT_FAILURE, why),
        Ok(_)
            if !flags.settings && findings.iter().any(|finding| finding.found.status == Status::Warning) =>
        {
            ExitCode::from(EXIT_FAILURE)
        }
        Ok(_) => ExitCode::SUCCESS,
    }
}

/// What all checks say.
fn look(host: &Host, plan: &Plan) -> Vec<Finding> {
    CHECKS.iter().map(|check| Finding::new(check.name, check.why, (check.look)(host, plan))).collect()
}

/// Whether standard output is a terminal whose user has nothing against colours (no-color.org).
fn is_coloured() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn json(findings: &[Finding]) -> String {
    let told: Vec<_> = findings.iter().map(Finding::told).collect();
    let text = serde_json::to_string_pretty(&told).expect("texts and nothing else");
    format!("{text}\n")
}

fn settings(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        for setting in &finding.found.settings {
            let _ = writeln!(out, "{}\t{}", finding.found.status.word(), setting.line());
        }
    }
    out
}

fn text(findings: &[Finding], plan: &Plan, is_verbose: bool, is_coloured: bool) -> String {
    let mut out = String::new();
    for finding in findings {
        let status = finding.found.status;
        let colour = match status {
            Status::Ok => "\x1b[32m",
            Status::Note => "\x1b[36m",
            Status::Warning => "\x1b[33m",
        };
        let (on, off) = if is_coloured { (colour, "\x1b[0m") } else { ("", "") };
        let word = status.word();
        let _ = writeln!(out, "{on}{word:<8}{off} {:<17} {}", finding.check, printable(&finding.found.text));
        let is_long = is_verbose || status != Status::Ok && finding.is_known;
        if is_long {
            let _ = writeln!(out, "{:9}why:  {}", "", finding.why);
        }
        for (name, commands) in [("fix: ", finding.fixes()), ("keep:", finding.keeps())] {
            for command in commands {
                let _ = writeln!(out, "{:9}{name} {}", "", printable(&command));
            }
        }
    }
    let count =
        |status| findings.iter().filter(|finding| finding.is_known && finding.found.status == status).count();
    let unknown = findings.iter().filter(|finding| !finding.is_known).count();
    let _ = writeln!(
        out,
        "{} checks: warnings {}, notes {}, not known here {unknown}, ok {}",
        findings.len(),
        count(Status::Warning),
        count(Status::Note),
        count(Status::Ok)
    );
    if !plan.is_configured {
        let _ = writeln!(
            out,
            "The configuration has no number of connections: {} are reckoned with; --max-connections names another",
            plan.connections
        );
    }
    out
}

/// Names of files and mounts may have anything in them; a terminal is to be steered by none of it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
