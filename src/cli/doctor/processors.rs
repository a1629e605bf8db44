//! Processors: which ones the loops get, and what they are like.

use std::collections::{BTreeMap, BTreeSet};

use super::cgroup;
use super::finding::{Found, Setting, Status};
use super::host::{Host, listed};
use super::plan::Plan;

const CPU: &str = "/sys/devices/system/cpu";

/// The processors that the process may run on (sched_setaffinity(2)), against the cores.
pub(super) fn allowed(host: &Host, plan: &Plan) -> Result<Found, String> {
    let allowed = plan.allowed.as_ref().map_err(Clone::clone)?;
    let online = host.processors(&format!("{CPU}/online"));
    let there = match &online {
        Ok(online) => format!(" of {}", online.len()),
        Err(_) => String::new(),
    };
    let text = format!(
        "{} cores, on {}{there} processors that the process may run on ({})",
        plan.cores,
        allowed.len(),
        listed(allowed)
    );
    if plan.cores > allowed.len() {
        let found = Found::warning(format!("{text}: some loops share one"));
        return Ok(found.run(format!("starling serve --cores {}", allowed.len())));
    }
    if !plan.config.pin {
        return Ok(Found::note(format!("{text}; they are not pinned")).run("starling serve without --no-pin"));
    }
    Ok(Found::ok(format!("{text}, pinned to {}", listed(&plan.pinned))))
}

/// cpu.max of the control groups, or cpu.cfs_quota_us of version 1: cgroup-v2 and sched-bwc of the kernel's
/// documentation.
pub(super) fn quota(host: &Host, plan: &Plan) -> Result<Found, String> {
    let Some(bound) = cgroup::processors(host)? else {
        return Ok(Found::ok("no bound on processors' time in the control groups"));
    };
    let text = format!("{} allows {:.2} processors' time, for {} cores", bound.file, bound.value, plan.cores);
    if bound.value >= plan.cores as f64 {
        return Ok(Found::ok(text));
    }
    let fitting = (bound.value as usize).max(1);
    let found = Found::warning(text);
    Ok(found
        .run(format!("systemctl set-property starling.service CPUQuota={}%", plan.cores * 100))
        .run(format!("or as many cores as there is time for: starling serve --cores {fitting}")))
}

/// isolcpus= and nohz_full=: kernel-parameters of the kernel's documentation.
pub(super) fn isolated(host: &Host, plan: &Plan) -> Result<Found, String> {
    let isolated = host.processors(&format!("{CPU}/isolated"))?;
    let tickless = host.processors(&format!("{CPU}/nohz_full")).unwrap_or_default();
    let pinned = plan.pins()?;
    let tick =
        if tickless.is_empty() { String::new() } else { format!("; nohz_full: {}", listed(&tickless)) };
    if isolated.is_empty() {
        return Ok(Found::ok(format!("no processor is isolated{tick}")));
    }
    let apart = pinned.iter().filter(|processor| isolated.contains(processor)).count();
    let text = format!("isolated: {}{tick}; cores would be on {}", listed(&isolated), listed(pinned));
    let allowed = plan.allowed.as_deref().unwrap_or(&[]);
    let online = host.processors(&format!("{CPU}/online")).unwrap_or_default();
    // Cores take the first processors of the mask, the other threads go where the scheduler may move them: one at its
    // end.
    let last = isolated.iter().max().copied().unwrap_or(0);
    let common = online.iter().rev().find(|processor| **processor > last && !isolated.contains(processor));
    let advice = common.map(|common| {
        let mask: Vec<usize> = isolated.iter().copied().chain([*common]).collect();
        format!("taskset -c {} starling serve --cores {}", listed(&mask), isolated.len())
    });
    let advise = |found: Found| match &advice {
        Some(command) => found.run(command).run(format!(
            "or in the unit: CPUAffinity={}",
            listed(&isolated.iter().copied().chain(common.copied()).collect::<Vec<_>>())
        )),
        None => {
            found.run("isolate the first processors (isolcpus=), and leave the last one to everything else")
        }
    };
    if apart == 0 {
        return Ok(advise(Found::note(format!("{text}: none of them is isolated"))));
    }
    if apart < pinned.len() {
        return Ok(advise(Found::note(format!("{text}: some are isolated, and some are not"))));
    }
    if allowed.iter().all(|processor| isolated.contains(processor)) {
        return Ok(advise(Found::warning(format!(
            "{text}: all that the process may run on are, so that nothing moves its other threads from beside a loop"
        ))));
    }
    Ok(Found::ok(format!("{text}: all of them are, and its other threads have others")))
}

/// Nodes of memory: numa(7).
pub(super) fn nodes(host: &Host, plan: &Plan) -> Result<Found, String> {
    const NODES: &str = "/sys/devices/system/node";
    let pinned = plan.pins()?;
    let online = host.processors(&format!("{NODES}/online"))?;
    let mut of_nodes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for node in online {
        of_nodes.insert(node, host.processors(&format!("{NODES}/node{node}/cpulist"))?);
    }
    let used: Vec<usize> = of_nodes
        .iter()
        .filter(|(_, processors)| processors.iter().any(|processor| pinned.contains(processor)))
        .map(|(node, _)| *node)
        .collect();
    let text = format!("nodes of memory: {}; cores on node {}", of_nodes.len(), listed(&used));
    if used.len() <= 1 {
        return Ok(Found::ok(text));
    }
    let allowed = plan.allowed.as_deref().unwrap_or(&[]);
    let fitting = of_nodes.values().find_map(|processors| {
        let processors: Vec<usize> =
            processors.iter().copied().filter(|processor| allowed.contains(processor)).collect();
        (processors.len() >= plan.cores).then_some(processors)
    });
    match fitting {
        Some(processors) => Ok(Found::warning(format!("{text}; one would do for all of them"))
            .run(format!("taskset -c {} starling serve --cores {}", listed(&processors), plan.cores))
            .run(format!("or in the unit: CPUAffinity={}", listed(&processors)))),
        None => Ok(Found::note(text).run("a server a node of memory, as one cluster (docs/cluster.md)")),
    }
}

/// Threads of one physical core: cputopology of the kernel's documentation.
pub(super) fn siblings(host: &Host, plan: &Plan) -> Result<Found, String> {
    let pinned = plan.pins()?;
    let siblings_of =
        |processor: usize| host.processors(&format!("{CPU}/cpu{processor}/topology/thread_siblings_list"));
    let mut shared = BTreeSet::new();
    for processor in pinned {
        let siblings = siblings_of(*processor)?;
        let both: Vec<usize> = siblings.into_iter().filter(|sibling| pinned.contains(sibling)).collect();
        if both.len() > 1 {
            shared.insert(listed(&both));
        }
    }
    if shared.is_empty() {
        return Ok(Found::ok("no two loops share a physical core"));
    }
    let text =
        format!("loops share physical cores: {}", shared.into_iter().collect::<Vec<_>>().join(" and "));
    let mut firsts = Vec::new();
    for processor in plan.allowed.as_deref().unwrap_or(&[]) {
        let siblings = siblings_of(*processor)?;
        if !siblings.iter().any(|sibling| firsts.contains(sibling)) {
            firsts.push(*processor);
        }
    }
    let found = if firsts.len() >= plan.cores {
        Found::warning(format!("{text}, and {} would not", listed(&firsts)))
    } else {
        Found::note(text)
    };
    let cores = plan.cores.min(firsts.len());
    Ok(found.run(format!("taskset -c {} starling serve --cores {cores}", listed(&firsts))))
}

/// scaling_governor and scaling_driver: cpufreq and intel_pstate of the kernel's documentation.
pub(super) fn governor(host: &Host, plan: &Plan) -> Result<Found, String> {
    // Where loops are not pinned they run anywhere.
    let processors = match plan.pins() {
        Ok(pinned) => pinned.to_vec(),
        Err(_) => plan.allowed.clone()?,
    };
    let mut of_governors: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut found = Found::ok("");
    for processor in processors {
        let file = format!("{CPU}/cpu{processor}/cpufreq/scaling_governor");
        let governor = host.read(&file)?;
        let driver = host.read(&format!("{CPU}/cpu{processor}/cpufreq/scaling_driver")).unwrap_or_default();
        // The governor of this name of these drivers goes with the load; any other's stays at the lowest frequency.
        let is_own = driver == "intel_pstate" || driver == "amd-pstate-epp";
        let status = match governor.as_str() {
            "performance" => Status::Ok,
            "powersave" if !is_own => Status::Warning,
            _ => Status::Note,
        };
        if status != Status::Ok {
            found = found.set(Setting::file(file, &governor, "performance"));
        }
        found.status = found.status.max(status);
        let name = if driver.is_empty() { governor } else { format!("{governor} ({driver})") };
        of_governors.entry(name).or_default().push(processor);
    }
    let texts = of_governors.iter().map(|(name, processors)| format!("{name} on {}", listed(processors)));
    found.text = texts.collect::<Vec<_>>().join(", ");
    Ok(found)
}

/// Sources that are read without a system call (vdso(7)), and some that are not; there are others of other machines.
const FAST_SOURCES: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];
const SLOW_SOURCES: [&str; 5] = ["hpet", "acpi_pm", "pit", "jiffies", "refined-jiffies"];

/// The clock source: timekeeping of the kernel's documentation.
pub(super) fn clock(host: &Host, _plan: &Plan) -> Result<Found, String> {
    const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0";
    let current = host.read(&format!("{CLOCK}/current_clocksource"))?;
    let available = host.read(&format!("{CLOCK}/available_clocksource")).unwrap_or_default();
    let text = format!("the clock source is {current} (there are: {available})");
    if FAST_SOURCES.contains(&current.as_str()) {
        return Ok(Found::ok(text));
    }
    if !SLOW_SOURCES.contains(&current.as_str()) {
        return Ok(Found::note(format!("{text}; whether it is read without a system call is not known")));
    }
    match available.split_whitespace().find(|source| FAST_SOURCES.contains(source)) {
        Some(source) => Ok(Found::warning(text)
            .run(format!("echo {source} > {CLOCK}/current_clocksource"))
            .run(format!("for good, on the kernel's command line: clocksource={source}"))),
        None => Ok(Found::warning(format!("{text}; the kernel has no fast one, and its log says why"))
            .run("journalctl -k | grep -i -e tsc -e clocksource")),
    }
}
