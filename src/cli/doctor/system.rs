//! The kernel itself, and the clock.

use super::finding::Found;
use super::host::Host;
use super::plan::Plan;

/// The kernel's version: the first two numbers of uname(2)'s release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What the code needs of the kernel: SO_REUSEPORT (3.9), SO_INCOMING_CPU of listeners (4.4, and not from 4.6 to 6.1),
/// close_range (5.9).
pub(super) fn kernel(host: &Host, plan: &Plan) -> Result<Found, String> {
    const RELEASE: &str = "/proc/sys/kernel/osrelease";
    let release = host.read(RELEASE)?;
    let version = version(&release).ok_or_else(|| format!("{RELEASE} has no version: {release:?}"))?;
    let text = format!("Linux {release}");
    if version < (3, 9) {
        return Ok(Found::warning(format!(
            "{text}: without SO_REUSEPORT no port can be opened for several cores"
        ))
        .run("a newer kernel, or starling serve --cores 1"));
    }
    let has_lost_steering = version < (4, 4) || ((4, 6)..(6, 2)).contains(&version);
    if plan.config.steer && plan.cores > 1 && has_lost_steering {
        return Ok(Found::warning(format!(
            "{text}: from 4.6 to 6.1, and before 4.4, listeners that share a port are not chosen by processor (--steer), unless the \
             distribution has mended it"
        ))
        .run("Linux 6.2 or later, or starling serve without --steer"));
    }
    if version < (5, 9) {
        return Ok(Found::note(format!(
            "{text}: without close_range(2), the start closes descriptors one by one"
        )));
    }
    Ok(Found::ok(text))
}

/// Whether the clock is kept right: adjtimex(2), systemd-timesyncd.service(8).
pub(super) fn time(host: &Host, plan: &Plan) -> Result<Found, String> {
    const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
    if host.has(SYNCHRONISED) {
        return Ok(Found::ok("systemd-timesyncd has set the clock since the machine was started"));
    }
    let asked = host.calls.clock.ok_or_else(|| format!("there is no {SYNCHRONISED}"))?;
    let is_synchronised = asked().map_err(|error| format!("the kernel was asked: {error}"))?;
    if is_synchronised {
        return Ok(Found::ok("the kernel says that the clock is kept right"));
    }
    let auth = &plan.config.auth;
    let has_tokens = auth.jwt_secret.is_some() || auth.jwt_key_file.is_some() || auth.jwks_file.is_some();
    let is_clustered = !plan.config.cluster.redis.0.is_empty();
    let found = match (is_clustered, has_tokens) {
        (true, _) => {
            Found::warning("nothing keeps the clock right, and the nodes of the cluster write down times")
        }
        (_, true) => {
            Found::warning("nothing keeps the clock right, and tokens with times in them are checked")
        }
        _ => Found::note("nothing keeps the clock right (a host that does it from outside is not seen)"),
    };
    Ok(found.run("timedatectl set-ntp true"))
}
