//! Open files: every connection is one.

use super::finding::{Found, Setting};
use super::host::Host;
use super::plan::Plan;
use crate::server;

/// The least that is proposed as a limit: as in `packaging/systemd/starling.service`, which must not come to have less
/// by it.
const PROPOSED_MIN: u64 = 1_048_576;

/// What a limit can be at most.
const CEILING: &str = "fs.nr_open";

/// The limit of a process, soft and hard, from the line of /proc/PID/limits (proc(5)).
fn limits(host: &Host) -> Result<(u64, u64), String> {
    let path = host.of_process("limits");
    let text = host.read(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let number = |word: &str| if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() };
    let numbers = line.and_then(|line| {
        let mut words = line.split_whitespace();
        Some((number(words.next()?)?, number(words.next()?)?))
    });
    numbers.ok_or_else(|| format!("{path} has no line for open files"))
}

/// What the limit should be.
fn proposed(wanted: u64) -> u64 {
    wanted.next_power_of_two().max(PROPOSED_MIN)
}

/// RLIMIT_NOFILE: getrlimit(2). The server raises the soft limit to the hard one by itself.
pub(super) fn limit(host: &Host, plan: &Plan) -> Result<Found, String> {
    let (soft, hard) = limits(host)?;
    let wanted = plan.files_of_core();
    let room = server::room(usize::try_from(hard).unwrap_or(usize::MAX)).0;
    let of = if host.process == "self" { "what is started from here" } else { "that process" };
    let text = format!(
        "{of} may have {hard} files open (soft {soft}, which the server raises): room for {room} connections a core; {} on {} cores want {wanted} files a core",
        plan.reckoned(),
        plan.cores
    );
    if hard >= wanted {
        return Ok(Found::ok(text));
    }
    // Where the kernel lets none be so high, and what it lets be is enough, that.
    let ceiling = host.number(&host.sysctl(CEILING)).ok().filter(|ceiling| *ceiling >= wanted);
    let proposed = ceiling.map_or(proposed(wanted), |ceiling| ceiling.min(proposed(wanted)));
    Ok(Found::warning(text).set(Setting::open_files(hard, proposed)))
}

/// fs.nr_open: what a limit can be at most (proc_sys_fs(5)).
pub(super) fn ceiling(host: &Host, plan: &Plan) -> Result<Found, String> {
    let ceiling = host.number(&host.sysctl(CEILING))?;
    let wanted = plan.files_of_core();
    let text = format!("{CEILING} is {ceiling}; a core wants {wanted} files");
    if ceiling >= wanted {
        return Ok(Found::ok(text));
    }
    Ok(Found::warning(text).set(Setting::sysctl(CEILING, ceiling, proposed(wanted))))
}

/// fs.file-max: what all processes together can have (proc_sys_fs(5)).
pub(super) fn all(host: &Host, plan: &Plan) -> Result<Found, String> {
    const KEY: &str = "fs.file-max";
    let max = host.number(&host.sysctl(KEY))?;
    // In use, free, most: file-nr of the same page.
    let used = host.numbers::<3>(&host.sysctl("fs.file-nr")).map_or(0, |[used, ..]| used);
    let wanted = used.saturating_add(plan.connections as u64);
    let text = format!("{KEY} is {max}, {used} are in use; with {} it is {wanted}", plan.reckoned());
    if max >= wanted {
        return Ok(Found::ok(text));
    }
    let setting = Setting::sysctl(KEY, max, proposed(wanted));
    Ok(Found::warning(text).with(plan.shortfall()).set(setting))
}

/// Whether each core can have a table of its own: unshare(2), CLONE_FILES.
pub(super) fn tables(_host: &Host, plan: &Plan) -> Result<Found, String> {
    match &plan.table {
        Some(Ok(())) => Ok(Found::ok("a thread may have a descriptor table of its own (tried)")),
        Some(Err(error)) => {
            let text = format!(
                "a thread may not have a descriptor table of its own ({error}): the open-file limit holds all {} cores together",
                plan.cores
            );
            Ok(Found::warning(text).run(
                "allow unshare(2) with CLONE_FILES: in the container's seccomp profile, or SystemCallFilter= of the unit",
            ))
        }
        None => Err("it can only be tried on the machine itself (no --root)".to_owned()),
    }
}
