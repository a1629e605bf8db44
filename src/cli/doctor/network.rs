//! TCP: queues of listeners, ports, buffers, and the table of the packet filter.

use super::finding::{Found, Setting, Status, bytes};
use super::host::{Host, list, listed};
use super::plan::Plan;

/// Bytes in the kernel that are reckoned with for a connection that is in use: a page each way.
const BYTES_OF_CONNECTION: u64 = 8192;

/// Buffers of a connection, in bytes: least, at the beginning, most. Proposed where those that are set are too small.
const RECEIVE_PROPOSED: &str = "4096 131072 6291456";
const SEND_PROPOSED: &str = "4096 16384 4194304";

/// The largest buffer under which every client far away is slow; and one under which only fast ones are.
const BUFFER_LOW: u64 = 65_536;
const BUFFER_MODEST: u64 = 1_048_576;

/// Ports for connections outwards: as many as the kernel has by default (32768 to 60999).
const PORTS_DEFAULT: u64 = 28_232;
const PORTS_PROPOSED: &str = "10240 60999";

/// The least that is proposed for the table of the packet filter.
const TRACKED_PROPOSED_MIN: u64 = 262_144;

/// net.core.somaxconn: listen(2) lowers a larger backlog to it.
pub(super) fn backlog(host: &Host, plan: &Plan) -> Result<Found, String> {
    const KEY: &str = "net.core.somaxconn";
    let max = host.number(&host.sysctl(KEY))?;
    let wanted = plan.config.limits.listen_backlog as u64;
    let text = format!("{KEY} is {max}, limits.listen_backlog {wanted}");
    if max >= wanted {
        return Ok(Found::ok(text));
    }
    Ok(Found::warning(text).set(Setting::sysctl(KEY, max, wanted)))
}

/// net.ipv4.tcp_max_syn_backlog, which the kernel looks at while net.ipv4.tcp_syncookies is 0 (tcp(7)).
pub(super) fn half_open(host: &Host, plan: &Plan) -> Result<Found, String> {
    const KEY: &str = "net.ipv4.tcp_max_syn_backlog";
    let max = host.number(&host.sysctl(KEY))?;
    let wanted = plan.config.limits.listen_backlog as u64;
    let cookies = host.number(&host.sysctl("net.ipv4.tcp_syncookies"));
    let text = match &cookies {
        Ok(cookies) => format!("{KEY} is {max}, net.ipv4.tcp_syncookies {cookies}"),
        Err(why) => format!("{KEY} is {max}; whether SYN cookies are on is not known: {why}"),
    };
    let setting = || Setting::sysctl(KEY, max, wanted);
    match cookies {
        _ if max >= wanted => Ok(Found::ok(text)),
        Ok(1..) => Ok(Found::ok(format!("{text}: the bound does not count while cookies are on"))),
        Ok(0) => Ok(Found::warning(format!("{text}, limits.listen_backlog {wanted}")).set(setting())),
        Err(_) => Ok(Found::note(text).set(setting())),
    }
}

/// net.ipv4.ip_local_port_range: ip(7).
pub(super) fn ports(host: &Host, _plan: &Plan) -> Result<Found, String> {
    const KEY: &str = "net.ipv4.ip_local_port_range";
    let [first, last] = host.numbers::<2>(&host.sysctl(KEY))?;
    let count = (last + 1).saturating_sub(first);
    let text = format!("{count} ports ({first} to {last}) for connections from here to one address");
    if count >= PORTS_DEFAULT {
        return Ok(Found::ok(text));
    }
    Ok(Found::note(text).set(Setting::sysctl(KEY, format!("{first} {last}"), PORTS_PROPOSED)))
}

/// Ports of listeners that the kernel may give to a connection outwards (net.ipv4.ip_local_reserved_ports).
pub(super) fn taken(host: &Host, plan: &Plan) -> Result<Found, String> {
    const KEY: &str = "net.ipv4.ip_local_reserved_ports";
    let [first, last] = host.numbers::<2>(&host.sysctl("net.ipv4.ip_local_port_range"))?;
    let text = host.read(&host.sysctl(KEY))?;
    let mut reserved = list(&text).ok_or_else(|| format!("{KEY} is no list of ports"))?;
    let loose: Vec<usize> = plan
        .ports()
        .into_iter()
        .filter(|port| (first..=last).contains(&u64::from(*port)))
        .map(usize::from)
        .filter(|port| !reserved.contains(port))
        .collect();
    if loose.is_empty() {
        return Ok(Found::ok(format!(
            "no listener's port is among those for connections outwards ({first} to {last}), or it is reserved"
        )));
    }
    let found = format!(
        "port {} of a listener is among those that connections outwards get ({first} to {last}), and is not reserved",
        listed(&loose)
    );
    reserved.extend(&loose);
    reserved.sort_unstable();
    Ok(Found::note(found).set(Setting::sysctl(KEY, text, listed(&reserved))))
}

/// net.core.rmem_max and wmem_max: bounds of SO_RCVBUF and SO_SNDBUF (socket(7)), which the server never sets.
pub(super) fn socket_buffers(host: &Host, _plan: &Plan) -> Result<Found, String> {
    let receive = host.number(&host.sysctl("net.core.rmem_max"))?;
    let send = host.number(&host.sysctl("net.core.wmem_max"))?;
    Ok(Found::ok(format!(
        "net.core.rmem_max is {receive}, wmem_max {send}; the server sets no buffer sizes, so tcp_rmem and tcp_wmem count instead"
    )))
}

/// net.ipv4.tcp_rmem and tcp_wmem: tcp(7).
pub(super) fn tcp_buffers(host: &Host, plan: &Plan) -> Result<Found, String> {
    let mut found = Found::ok("");
    let mut texts = Vec::new();
    for (key, proposed) in [("net.ipv4.tcp_rmem", RECEIVE_PROPOSED), ("net.ipv4.tcp_wmem", SEND_PROPOSED)] {
        let [least, first, most] = host.numbers::<3>(&host.sysctl(key))?;
        texts.push(format!("{key} is {least} {first} {most}"));
        let status = match most {
            _ if least > first || first > most => Status::Warning,
            ..BUFFER_LOW => Status::Warning,
            BUFFER_LOW..BUFFER_MODEST => Status::Note,
            BUFFER_MODEST.. => continue,
        };
        found = found.set(Setting::sysctl(key, format!("{least} {first} {most}"), proposed));
        found.status = found.status.max(status);
    }
    let queue = plan.config.limits.send_queue_bytes as u64;
    found.text = format!("{}; limits.send_queue_bytes ({}) comes on top", texts.join(", "), bytes(queue));
    Ok(found)
}

/// net.ipv4.tcp_mem, in pages: tcp(7).
pub(super) fn tcp_memory(host: &Host, plan: &Plan) -> Result<Found, String> {
    const KEY: &str = "net.ipv4.tcp_mem";
    let [low, pressure, high] = host.numbers::<3>(&host.sysctl(KEY))?;
    let page = host.calls.page_bytes.max(1);
    let memory = host.memory("MemTotal")?;
    let most = high.saturating_mul(page);
    let needed = plan.connections as u64 * BYTES_OF_CONNECTION;
    let text = format!(
        "{KEY} is {low} {pressure} {high}: at most {} of {} for all TCP; {} with a page waiting each way are {}",
        bytes(most),
        bytes(memory),
        plan.reckoned(),
        bytes(needed)
    );
    let half = memory / 2;
    let setting = |bytes: u64| {
        let pages = (bytes / page).max(4);
        let wanted = format!("{} {} {pages}", pages / 8 * 3, pages / 2);
        Setting::sysctl(KEY, format!("{low} {pressure} {high}"), wanted)
    };
    // As the kernel reckons by default: a sixteenth of the memory is pressure, half more than that the end.
    let default = memory / 32 * 3;
    if low > pressure || pressure > high {
        return Ok(Found::warning(format!("{text}; they must not become less from one to the next"))
            .set(setting(default.max(needed.min(half)))));
    }
    if most > half {
        return Ok(Found::warning(format!("{text}; that is more than half of the memory"))
            .set(setting(default.max(needed.min(half)))));
    }
    if most < needed && needed <= half {
        return Ok(Found::warning(text).with(plan.shortfall()).set(setting(default.max(needed))));
    }
    if most < needed {
        let found =
            Found::warning(format!("{text}; the machine is too small for them")).with(plan.shortfall());
        return Ok(found.run("more memory, or a lower limits.connections"));
    }
    Ok(Found::ok(text))
}

/// net.netfilter.nf_conntrack_max: nf_conntrack-sysctl of the kernel's documentation.
pub(super) fn tracked(host: &Host, plan: &Plan) -> Result<Found, String> {
    const KEY: &str = "net.netfilter.nf_conntrack_max";
    let path = host.sysctl(KEY);
    if !host.has(&path) && host.has("/sys/module") && !host.has("/sys/module/nf_conntrack") {
        return Ok(Found::ok("connections are not tracked: nf_conntrack is not loaded"));
    }
    let max = host.number(&path)?;
    let count = host.number(&host.sysctl("net.netfilter.nf_conntrack_count"))?;
    let needed = count.saturating_add(plan.connections as u64);
    let text = format!("{KEY} is {max}, {count} are tracked; with {} it is {needed}", plan.reckoned());
    if max >= needed {
        return Ok(Found::ok(text));
    }
    let wanted = needed.saturating_add(needed / 4).next_power_of_two().max(TRACKED_PROPOSED_MIN);
    // With none at all it may be that no rule asks for it, and the bound is of nothing.
    let status = if count == 0 { Status::Note } else { plan.shortfall() };
    Ok(Found::warning(text).with(status).set(Setting::sysctl(KEY, max, wanted)))
}
