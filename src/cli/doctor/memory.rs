//! Memory: how much there is, how it is promised, and in which pages.

use super::cgroup;
use super::finding::{Found, Setting, Status, bytes};
use super::host::Host;
use super::plan::Plan;

/// What the configuration may take of memory besides connections, in bytes.
fn wanted(plan: &Plan) -> u64 {
    let journals = if plan.store().is_some() { plan.journal_bytes() } else { 0 };
    (plan.config.history.memory_bytes as u64).saturating_add(journals)
}

/// MemTotal (proc_meminfo(5)) and memory.max of the control groups (cgroup-v2 of the kernel's documentation).
pub(super) fn amount(host: &Host, plan: &Plan) -> Result<Found, String> {
    let total = host.memory("MemTotal")?;
    let bound = cgroup::memory(host);
    let (limit, place) = match &bound {
        Ok(Some(bound)) if bound.value < total => (bound.value, format!("{} allows", bound.file)),
        Ok(_) => (total, "the machine has".to_owned()),
        Err(why) => (total, format!("the bound of control groups is not known ({why}); the machine has")),
    };
    let wanted = wanted(plan);
    let text = format!(
        "{place} {}; history.memory_bytes and the journals take up to {}, connections come on top",
        bytes(limit),
        bytes(wanted)
    );
    // A quarter is left to connections, the kernel's buffers and the database.
    let most = limit / 4 * 3;
    if wanted <= most {
        return Ok(Found::ok(text));
    }
    let history = plan.config.history.memory_bytes as u64;
    let journals = wanted - history;
    // Whatever is too large: what the history would have to be without it is no advice.
    let command = match most.checked_sub(journals).filter(|left| *left > 0) {
        Some(left) => format!("starling serve --set history.memory_bytes={left}"),
        None => {
            let queue = plan.queue_bytes_of(most.saturating_sub(history).max(most / 2));
            format!("starling serve --set store.queue_bytes={queue}")
        }
    };
    Ok(Found::warning(text).run(command).run("or in the unit, if it is what bounds: MemoryMax="))
}

/// vm.overcommit_memory: proc_sys_vm(5), overcommit-accounting of the kernel's documentation.
pub(super) fn promises(host: &Host, plan: &Plan) -> Result<Found, String> {
    const KEY: &str = "vm.overcommit_memory";
    let mode = host.number(&host.sysctl(KEY))?;
    if mode != 2 {
        return Ok(Found::ok(format!("{KEY} is {mode}: memory is promised, not counted")));
    }
    let left = host.memory("CommitLimit")?.saturating_sub(host.memory("Committed_AS")?);
    let wanted = wanted(plan);
    let text =
        format!("{KEY} is 2: {} can still be promised, the server may want {}", bytes(left), bytes(wanted));
    match left >= wanted {
        true => Ok(Found::ok(text)),
        false => Ok(Found::warning(text).set(Setting::sysctl(KEY, mode, 0))),
    }
}

/// Above this the kernel is fond of putting programs' memory to the disk.
const SWAPPINESS_MAX: u64 = 10;

/// /proc/swaps and vm.swappiness: proc_swaps(5), proc_sys_vm(5).
pub(super) fn swap(host: &Host, _plan: &Plan) -> Result<Found, String> {
    const KEY: &str = "vm.swappiness";
    let areas = host.read("/proc/swaps")?.lines().skip(1).count();
    if areas == 0 {
        return Ok(Found::ok("nothing to swap to"));
    }
    let swappiness = host.number(&host.sysctl(KEY))?;
    let text = format!("{areas} areas to swap to, and {KEY} is {swappiness}");
    if swappiness <= SWAPPINESS_MAX {
        return Ok(Found::ok(text));
    }
    Ok(Found::note(text).set(Setting::sysctl(KEY, swappiness, SWAPPINESS_MAX)))
}

/// The word that is chosen: `always [madvise] never`, or alone where it was just written.
fn chosen(text: &str) -> Option<&str> {
    let inner = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word);
    inner.or_else(|| Some(text).filter(|text| !text.is_empty() && !text.contains(' ')))
}

/// Transparent huge pages: transhuge of the kernel's documentation.
pub(super) fn huge_pages(host: &Host, _plan: &Plan) -> Result<Found, String> {
    const DIRECTORY: &str = "/sys/kernel/mm/transparent_hugepage";
    let file = format!("{DIRECTORY}/enabled");
    let enabled = host.read(&file)?;
    let enabled = chosen(&enabled).ok_or_else(|| format!("{file} names no choice"))?;
    let defrag = host.read(&format!("{DIRECTORY}/defrag")).unwrap_or_default();
    let defrag = chosen(&defrag);
    let text = match defrag {
        Some(defrag) => format!("transparent huge pages: {enabled}, defrag: {defrag}"),
        None => format!("transparent huge pages: {enabled}"),
    };
    if enabled != "always" {
        return Ok(Found::ok(text));
    }
    let status = if defrag == Some("always") { Status::Warning } else { Status::Note };
    Ok(Found::note(text).with(status).set(Setting::file(file, enabled, "madvise")))
}
