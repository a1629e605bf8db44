//! Where the data are: the database's file system, and the journals'.

use std::path::{Path, PathBuf};

use super::cgroup::{Mount, mount};
use super::finding::{Found, bytes};
use super::host::Host;
use super::plan::Plan;

/// File systems that are on other machines. SQLite's WAL needs memory that all of its users share, so they must be on
/// one.
const REMOTE: [&str; 14] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "ceph",
    "lustre",
    "afs",
    "gfs2",
    "ocfs2",
    "beegfs",
    "fuse.sshfs",
    "fuse.glusterfs",
];

/// File systems in memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// Free bytes below which there is no time left, and below which it is time to look.
const FREE_LOW: u64 = 256 << 20;
const FREE_MODEST: u64 = 2 << 30;

const SHARED_MEMORY: &str = "/dev/shm";

/// A path as mountinfo writes it.
fn escaped(path: &Path) -> String {
    path.to_string_lossy()
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012")
}

/// What is mounted where the path is: the last of those whose places the path begins with, the longest of them.
fn mount_of<'a>(mounts: &'a str, path: &Path) -> Option<Mount<'a>> {
    let path = escaped(path);
    let is_above = |mount: &Mount<'_>| Path::new(&path).starts_with(mount.point);
    mounts.lines().filter_map(mount).filter(is_above).max_by_key(|mount| mount.point.len())
}

/// The directory as the machine names it, and the nearest above it that is there, below the root and without links.
fn find(host: &Host, directory: &Path) -> Result<(PathBuf, PathBuf), String> {
    let root = host
        .root
        .canonicalize()
        .map_err(|error| format!("cannot look at {}: {error}", host.root.display()))?;
    let from_here =
        std::path::absolute(directory).map_err(|error| format!("there is no place here: {error}"))?;
    for ancestor in from_here.ancestors() {
        if let Ok(real) = host.at(&ancestor.to_string_lossy()).canonicalize() {
            let below = real
                .strip_prefix(&root)
                .map_err(|_| format!("{} leads out of {}", ancestor.display(), host.root.display()))?;
            return Ok((Path::new("/").join(below), real));
        }
    }
    Err(format!("nothing is there above {}", directory.display()))
}

/// The data directory: mountinfo (proc_pid_mountinfo(5)) and statvfs(3); SQLite's "Write-Ahead Logging".
pub(super) fn data(host: &Host, plan: &Plan) -> Result<Found, String> {
    let Some(directory) = plan.store() else {
        return Ok(Found::ok("no database is kept (store.kind = memory, or a cluster)"));
    };
    let (place, real) = find(host, &directory)?;
    let mounts = host.read("/proc/self/mountinfo")?;
    let mount = mount_of(&mounts, &place).ok_or("/proc/self/mountinfo has no mount above it")?;
    let free = (host.calls.space)(&real);
    let mut text = format!("{} is on {} ({})", directory.display(), mount.kind, mount.point);
    match &free {
        Ok(space) => text.push_str(&format!(", {} free of {}", bytes(space.free), bytes(space.total))),
        Err(error) => text.push_str(&format!(", free space not known here: {error}")),
    }
    const ELSEWHERE: &str = "starling serve --data-dir DIR, on a local disk";
    if REMOTE.contains(&mount.kind) {
        return Ok(Found::warning(format!("{text}: a file system of another machine")).run(ELSEWHERE));
    }
    if IN_MEMORY.contains(&mount.kind) {
        return Ok(
            Found::warning(format!("{text}: in memory, gone when the machine restarts")).run(ELSEWHERE)
        );
    }
    if mount.flags.split(',').any(|flag| flag == "ro") {
        let found = Found::warning(format!("{text}: mounted for reading only"));
        return Ok(found.run(format!("mount -o remount,rw {}", mount.point)));
    }
    const MAKE_ROOM: &str = "make room, or keep less: history.count, history.bytes, history.age_s";
    match free {
        Ok(space) if space.free < FREE_LOW => Ok(Found::warning(text).run(MAKE_ROOM)),
        Ok(space) if space.free < FREE_MODEST => Ok(Found::note(text).run(MAKE_ROOM)),
        _ if mount.kind == "overlay" => {
            let found = Found::note(format!("{text}: if that is a container's, it ends with the container"));
            Ok(found.run("a volume for the data directory"))
        }
        _ if mount.kind.starts_with("fuse") => {
            Ok(Found::note(format!("{text}: whether it is local is not known")).run(ELSEWHERE))
        }
        _ => Ok(Found::ok(text)),
    }
}

/// /dev/shm, where the cores' journals are: shm_overview(7), tmpfs(5).
pub(super) fn journals(host: &Host, plan: &Plan) -> Result<Found, String> {
    if plan.store().is_none() {
        return Ok(Found::ok("no database is kept, so there are no journals"));
    }
    let wanted = plan.journal_bytes();
    let journals = format!("{} journals take {} (store.queue_bytes)", plan.cores, bytes(wanted));
    if !host.has("/dev") {
        return Err("there is no /dev".to_owned());
    }
    if !host.has(SHARED_MEMORY) {
        return Ok(Found::warning(format!("there is no {SHARED_MEMORY}; {journals}")).run(format!(
            "mkdir -m 1777 {SHARED_MEMORY} && mount -t tmpfs -o nosuid,nodev tmpfs {SHARED_MEMORY}"
        )));
    }
    let space = (host.calls.space)(&host.at(SHARED_MEMORY))
        .map_err(|error| format!("the room in {SHARED_MEMORY}: {error}"))?;
    let text = format!("{} free of {} in {SHARED_MEMORY}; {journals}", bytes(space.free), bytes(space.total));
    if space.free >= wanted {
        return Ok(Found::ok(text));
    }
    let taken = space.total - space.free.min(space.total);
    let mib = taken.saturating_add(wanted).div_ceil(1 << 20);
    // It is memory: more of it than there is cannot be had.
    let most = host.memory("MemTotal")? / 4 * 3;
    if mib << 20 > most {
        let queue = plan.queue_bytes_of(most.saturating_sub(taken));
        return Ok(Found::warning(text).run(format!("starling serve --set store.queue_bytes={queue}")));
    }
    Ok(Found::warning(text)
        .run(format!("mount -o remount,size={mib}M {SHARED_MEMORY}"))
        .run(format!("of a container: docker run --shm-size={mib}m")))
}
