//! What the control groups of the process allow it: cgroups(7), versions 2 and 1.

use std::path::Path;

use super::host::Host;

/// A controller's directories, from the group of the process up to the top of what is mounted.
struct Groups {
    /// Whether it is version 2.
    is_unified: bool,
    directories: Vec<String>,
}

/// A bound, and the file that it is from.
pub(super) struct Bound<T> {
    pub(super) value: T,
    pub(super) file: String,
}

fn groups(host: &Host, controller: &str) -> Result<Groups, String> {
    let file = host.of_process("cgroup");
    let text = host.read(&file)?;
    let mounts = host.read(&host.of_process("mountinfo"))?;
    // hierarchy:controllers:path
    let mut of_process = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        Some((parts.next()?, parts.next()?, parts.next()?))
    });
    let (is_unified, path) = of_process
        .clone()
        .find(|(_, names, _)| names.split(',').any(|name| name == controller))
        .map(|(_, _, path)| (false, path))
        .or_else(|| of_process.find(|(number, ..)| *number == "0").map(|(.., path)| (true, path)))
        .ok_or_else(|| format!("{file} names no group for {controller}"))?;
    let mount = mounts.lines().filter_map(mount).find(|mount| match is_unified {
        true => mount.kind == "cgroup2",
        false => mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller),
    });
    let mount = mount.ok_or_else(|| format!("no control groups for {controller} are mounted"))?;
    // In a container the path may begin with what is mounted.
    let below = Path::new(path).strip_prefix(mount.root).unwrap_or(Path::new(path));
    let below = below.strip_prefix("/").unwrap_or(below);
    // A path that leads out of what is mounted (`/..`) is of a group that cannot be seen.
    let is_inside = !below.components().any(|part| part.as_os_str() == "..");
    let mut directories = Vec::new();
    for ancestor in below.ancestors().filter(|_| is_inside) {
        directories.push(format!("{}/{}", mount.point.trim_end_matches('/'), ancestor.display()));
    }
    if !is_inside {
        directories.push(mount.point.to_owned());
    }
    let directories: Vec<String> =
        directories.into_iter().map(|path| path.trim_end_matches('/').to_owned()).collect();
    if let Some(missing) = directories.first().filter(|first| !host.has(first)) {
        return Err(format!("there is no {missing}"));
    }
    Ok(Groups { is_unified, directories })
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, Copy)]
pub(super) struct Mount<'a> {
    /// What of the file system is mounted.
    pub(super) root: &'a str,
    /// Where. Blanks in it are written `\040`.
    pub(super) point: &'a str,
    /// Options of the mount: `rw,noatime`.
    pub(super) flags: &'a str,
    /// The type of the file system.
    pub(super) kind: &'a str,
    /// Options of the file system.
    pub(super) options: &'a str,
}

/// Reads such a line.
pub(super) fn mount(line: &str) -> Option<Mount<'_>> {
    let (mounted, system) = line.split_once(" - ")?;
    let mut mounted = mounted.split(' ').skip(3);
    let mut system = system.split(' ');
    Some(Mount {
        root: mounted.next()?,
        point: mounted.next()?,
        flags: mounted.next()?,
        kind: system.next()?,
        options: system.nth(1).unwrap_or(""),
    })
}

/// The tightest bound on processors' time, in processors; `None` where there is no bound.
pub(super) fn processors(host: &Host) -> Result<Option<Bound<f64>>, String> {
    let groups = groups(host, "cpu")?;
    let look = |directory: &String| {
        let (file, quota, period) = if groups.is_unified {
            let file = format!("{directory}/cpu.max");
            let text = host.read(&file).ok()?;
            let (quota, period) = text.split_once(' ')?;
            (file, quota.parse::<f64>().ok()?, period.trim().parse::<f64>().ok()?)
        } else {
            let file = format!("{directory}/cpu.cfs_quota_us");
            let quota = host.read(&file).ok()?.parse::<f64>().ok()?;
            (file, quota, host.number(&format!("{directory}/cpu.cfs_period_us")).ok()? as f64)
        };
        (quota > 0.0 && period > 0.0).then(|| Bound { value: quota / period, file })
    };
    Ok(groups.directories.iter().filter_map(look).min_by(|a, b| a.value.total_cmp(&b.value)))
}

/// The tightest bound on memory, in bytes; `None` where there is no bound.
pub(super) fn memory(host: &Host) -> Result<Option<Bound<u64>>, String> {
    let groups = groups(host, "memory")?;
    let name = if groups.is_unified { "memory.max" } else { "memory.limit_in_bytes" };
    let look = |directory: &String| {
        let file = format!("{directory}/{name}");
        let value = host.number(&file).ok()?;
        Some(Bound { value, file })
    };
    Ok(groups.directories.iter().filter_map(look).min_by_key(|bound| bound.value))
}
