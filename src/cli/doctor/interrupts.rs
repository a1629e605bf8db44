//! Network cards: which processors take in their packets.

use std::collections::BTreeSet;

use super::finding::Found;
use super::host::{Host, list, listed, mask};
use super::plan::Plan;

const NET: &str = "/sys/class/net";

/// An interrupt of a card, and the processors that it comes to.
struct Interrupt {
    number: usize,
    processors: Vec<usize>,
}

/// Cards, not what is only of the kernel: those with a device.
fn cards(host: &Host) -> Result<Vec<String>, String> {
    let names = host.names(NET)?;
    Ok(names.into_iter().filter(|name| host.has(&format!("{NET}/{name}/device"))).collect())
}

fn interrupts(host: &Host, card: &str) -> Result<Vec<Interrupt>, String> {
    // Of a virtio card the device that has them is the one above.
    let numbers = host
        .names(&format!("{NET}/{card}/device/msi_irqs"))
        .or_else(|_| host.names(&format!("{NET}/{card}/device/../msi_irqs")))?;
    let lines = host.read("/proc/interrupts")?;
    let mut interrupts = Vec::new();
    for number in numbers.iter().filter_map(|number| number.parse::<usize>().ok()) {
        if !lines.lines().any(|line| line.trim_start().starts_with(&format!("{number}:"))) {
            continue;
        }
        // Which one it is in fact, of those that it may be; older kernels tell only the latter.
        let effective = host.read(&format!("/proc/irq/{number}/effective_affinity_list"));
        let processors = match effective.ok().filter(|text| !text.is_empty()).and_then(|text| list(&text)) {
            Some(processors) => processors,
            None => host.processors(&format!("/proc/irq/{number}/smp_affinity_list"))?,
        };
        interrupts.push(Interrupt { number, processors });
    }
    Ok(interrupts)
}

/// Whether irqbalance(1) runs, which moves interrupts; as far as /proc shows other processes.
fn has_balancer(host: &Host) -> bool {
    let names = host.names("/proc").unwrap_or_default();
    names
        .iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .any(|name| host.read(&format!("/proc/{name}/comm")).is_ok_and(|comm| comm == "irqbalance"))
}

/// Processors that packets are sent on to (RPS), of all cards: scaling in the kernel's documentation.
fn spread_to(host: &Host, cards: &[String]) -> BTreeSet<usize> {
    let mut processors = BTreeSet::new();
    for card in cards {
        let queues = format!("{NET}/{card}/queues");
        for queue in host.names(&queues).unwrap_or_default().iter().filter(|name| name.starts_with("rx-")) {
            let text = host.read(&format!("{queues}/{queue}/rps_cpus")).ok();
            processors.extend(text.and_then(|text| mask(&text)).unwrap_or_default());
        }
    }
    processors
}

/// /proc/interrupts and /proc/irq (proc_interrupts(5); irq-affinity of the kernel's documentation).
pub(super) fn placement(host: &Host, plan: &Plan) -> Result<Found, String> {
    let pinned = plan.pins()?;
    let cards = cards(host)?;
    if cards.is_empty() {
        return Err(format!("{NET} has no card with a device"));
    }
    let mut at: BTreeSet<usize> = BTreeSet::new();
    let mut near: Vec<usize> = Vec::new();
    let mut count = 0;
    for card in &cards {
        for interrupt in interrupts(host, card)? {
            count += 1;
            if interrupt.processors.iter().any(|processor| pinned.contains(processor)) {
                near.push(interrupt.number);
            }
            at.extend(interrupt.processors);
        }
    }
    if count == 0 {
        return Err(format!("no interrupts are known of {}", cards.join(", ")));
    }
    let at_list = listed(&at.iter().copied().collect::<Vec<_>>());
    let balancer = if has_balancer(host) { "; irqbalance runs, and moves them" } else { "" };
    let text = format!("{count} interrupts of {} come to processors {at_list}{balancer}", cards.join(", "));
    if plan.config.steer {
        let spread = spread_to(host, &cards);
        let idle: Vec<usize> = pinned
            .iter()
            .copied()
            .filter(|processor| !at.contains(processor) && !spread.contains(processor))
            .collect();
        if !idle.is_empty() {
            return Ok(Found::warning(format!(
                "{text}: with --steer the cores on {} get no connections by these cards",
                listed(&idle)
            ))
            .run(format!("echo {} > /proc/irq/NUMBER/smp_affinity_list, for a queue each", listed(&idle)))
            .run("or starling serve without --steer"));
        }
        if !balancer.is_empty() {
            return Ok(Found::warning(format!("{text} from the cores that --steer reckons with"))
                .run("systemctl disable --now irqbalance"));
        }
        return Ok(Found::ok(text));
    }
    let free: Vec<usize> =
        plan.allowed.iter().flatten().copied().filter(|processor| !pinned.contains(processor)).collect();
    if near.is_empty() || free.is_empty() {
        let why = if near.is_empty() { "where no loop is" } else { "and loops are on all processors" };
        return Ok(Found::ok(format!("{text}, {why}")));
    }
    let numbers: Vec<String> = near.iter().map(usize::to_string).collect();
    let mut found = Found::note(format!(
        "{text}; {} of them take time from loops, while {} have none",
        near.len(),
        listed(&free)
    ));
    if !balancer.is_empty() {
        found = found.run("systemctl disable --now irqbalance");
    }
    Ok(found.run(format!(
        "for irq in {}; do echo {} > /proc/irq/$irq/smp_affinity_list; done",
        numbers.join(" "),
        listed(&free)
    )))
}

/// RPS and XPS, as they are set.
pub(super) fn steering(host: &Host, _plan: &Plan) -> Result<Found, String> {
    let cards = cards(host)?;
    if cards.is_empty() {
        return Err(format!("{NET} has no card with a device"));
    }
    let mut texts = Vec::new();
    for card in &cards {
        let directory = format!("{NET}/{card}/queues");
        let queues = host.names(&directory)?;
        let set = |kind: &str, file: &str| {
            let queues: Vec<&String> = queues.iter().filter(|name| name.starts_with(kind)).collect();
            let masks = queues.iter().filter_map(|queue| {
                // XPS has no file that can be read where there is one queue.
                mask(&host.read(&format!("{directory}/{queue}/{file}")).ok()?)
            });
            (queues.len(), masks.filter(|mask| !mask.is_empty()).count())
        };
        let (receive, rps) = set("rx-", "rps_cpus");
        let (send, xps) = set("tx-", "xps_cpus");
        texts.push(format!("{card}: RPS on {rps} of {receive} queues, XPS on {xps} of {send}"));
    }
    Ok(Found::ok(texts.join("; ")))
}
