//! Network cards: which processors take in their packets.

use std::collections::BTreeSet;

use super::finding::Found;
use super::host::{Host, list, listed, mask};
use super::plan::Plan;

const NET: &str = "/sys/class/net";

/// An interrupt of a card, and the processors that it comes to.
struct Interrupt {
    number: usize,
    /// Whether packets are taken in by it, as far as its name tells; others tell of what was sent, or of the card
    /// itself.
    receives: bool,
    processors: Vec<usize>,
}

/// Whether packets are taken in by an interrupt of this name: `virtio2-input.0`, `eth0-TxRx-3`.
fn receives(name: &str) -> bool {
    let name = name.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    has(&["rx", "input"]) || !has(&["tx", "output", "config", "event", "async", "ctrl"])
}

/// Processors as a mask: groups of 32 bits in hexadecimal, the highest first.
fn masked(processors: &[usize]) -> String {
    let last = processors.iter().max().map_or(0, |processor| processor / 32);
    let group = |group: usize| {
        let bits = processors.iter().filter(|processor| *processor / 32 == group);
        bits.fold(0_u32, |mask, processor| mask | 1 << (processor % 32))
    };
    let groups = (0..=last).rev().map(|index| match index == last {
        true => format!("{:x}", group(index)),
        false => format!("{:08x}", group(index)),
    });
    groups.collect::<Vec<_>>().join(",")
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
        let line = lines.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{number}:")));
        let Some(line) = line else { continue };
        let receives = receives(line.split_whitespace().last().unwrap_or_default());
        // Which one it is in fact, of those that it may be; older kernels tell only the latter.
        let effective = host.read(&format!("/proc/irq/{number}/effective_affinity_list"));
        let processors = match effective.ok().filter(|text| !text.is_empty()).and_then(|text| list(&text)) {
            Some(processors) => processors,
            None => host.processors(&format!("/proc/irq/{number}/smp_affinity_list"))?,
        };
        interrupts.push(Interrupt { number, receives, processors });
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
    let mut all = Vec::new();
    for card in &cards {
        all.extend(interrupts(host, card)?);
    }
    if all.is_empty() {
        return Err(format!("no interrupts are known of {}", cards.join(", ")));
    }
    let count = all.len();
    let at: BTreeSet<usize> = all.iter().flat_map(|interrupt| interrupt.processors.iter().copied()).collect();
    let at_list = listed(&at.iter().copied().collect::<Vec<_>>());
    let balancer = if has_balancer(host) { "; irqbalance runs, and moves them" } else { "" };
    let text = format!("{count} interrupts of {} come to processors {at_list}{balancer}", cards.join(", "));
    if plan.config.steer {
        let taking: Vec<&Interrupt> = all.iter().filter(|interrupt| interrupt.receives).collect();
        let mut taken = spread_to(host, &cards);
        taken.extend(taking.iter().flat_map(|interrupt| interrupt.processors.iter().copied()));
        let idle: Vec<usize> =
            pinned.iter().copied().filter(|processor| !taken.contains(processor)).collect();
        if !idle.is_empty() {
            let mut found = Found::warning(format!(
                "{text}: with --steer the cores on {} get no connections by these cards",
                listed(&idle)
            ));
            if taking.len() >= pinned.len() {
                for (interrupt, processor) in taking.iter().zip(pinned.iter().cycle()) {
                    let number = interrupt.number;
                    found = found.run(format!("echo {processor} > /proc/irq/{number}/smp_affinity_list"));
                }
            } else {
                for card in &cards {
                    found = found.run(format!(
                        "for queue in {NET}/{card}/queues/rx-*; do echo {} > $queue/rps_cpus; done",
                        masked(pinned)
                    ));
                }
            }
            return Ok(found);
        }
        if !balancer.is_empty() {
            return Ok(Found::warning(format!("{text} from the cores that --steer reckons with"))
                .run("systemctl disable --now irqbalance"));
        }
        return Ok(Found::ok(text));
    }
    const CPU: &str = "/sys/devices/system/cpu";
    // Interrupts go where they are sent, whatever the process may use; but isolated processors are for other things.
    let there = host.processors(&format!("{CPU}/online"))?;
    let isolated = host.processors(&format!("{CPU}/isolated")).unwrap_or_default();
    let free: Vec<usize> = there
        .into_iter()
        .filter(|processor| !pinned.contains(processor) && !isolated.contains(processor))
        .collect();
    let near: Vec<usize> = all
        .iter()
        .filter(|interrupt| interrupt.processors.iter().any(|processor| pinned.contains(processor)))
        .map(|interrupt| interrupt.number)
        .collect();
    if near.is_empty() || free.is_empty() {
        let why = if near.is_empty() { "where no loop is" } else { "and no processor is free of loops" };
        return Ok(Found::ok(format!("{text}, {why}")));
    }
    let numbers: Vec<String> = near.iter().map(usize::to_string).collect();
    let mut found = Found::note(format!(
        "{text}; {} of them take time from loops, and there is none on {}",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_takes_packets_in() {
        for name in
            ["virtio2-input.0", "virtio3-rx", "eth0-TxRx-3", "ena-mgmnt@pci", "mlx5_comp0@pci", "eth0-rx-1"]
        {
            assert!(receives(name), "{name}");
        }
        for name in ["virtio2-output.0", "virtio3-tx", "virtio3-config", "mlx5_async0@pci", "eth0-tx-1"] {
            assert!(!receives(name), "{name}");
        }
    }

    #[test]
    fn masks_come_back() {
        for processors in [vec![0], vec![0, 1, 3], vec![31, 32], vec![5, 64, 70]] {
            assert_eq!(mask(&masked(&processors)), Some(processors));
        }
        assert_eq!(masked(&[0, 33]), "2,00000001");
    }
}
