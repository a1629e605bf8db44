//! Who listens on a port: for the error message when it is taken. Linux only, from /proc (proc(5)).

use std::fs;
use std::net::SocketAddr;

/// The process that listens on `address`, as `name (pid)`, if it can be found out.
pub fn of_port(address: SocketAddr) -> Option<String> {
    let pid = process_of_port(address)?;
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (process {pid})", command.trim()))
}

/// A process by its number, as `name (process n)`.
pub fn describe(pid: &str) -> String {
    let is_number = pid.bytes().all(|b| b.is_ascii_digit());
    let command = is_number.then(|| fs::read_to_string(format!("/proc/{pid}/comm")).ok()).flatten();
    match command {
        Some(command) => format!("{} (process {pid})", command.trim()),
        None => format!("process {pid}"),
    }
}

/// The process that listens on `address`, if it can be found out.
pub fn process_of_port(address: SocketAddr) -> Option<u32> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| {
            table
                .lines()
                .skip(1)
                .filter_map(|line| {
                    listening_inode(line, address.port()).map(|inode| format!("socket:[{inode}]"))
                })
                .collect::<Vec<_>>()
        })
        .collect();
    if inodes.is_empty() {
        return None;
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else {
            continue;
        };
        let Ok(tasks) = fs::read_dir(process.path().join("task")) else { continue };
        // Threads may have descriptor tables of their own: this server's do.
        let holds_it =
            tasks.flatten().filter_map(|task| fs::read_dir(task.path().join("fd")).ok()).any(|fds| {
                fds.flatten()
                    .filter_map(|fd| fs::read_link(fd.path()).ok())
                    .any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()))
            });
        if holds_it {
            return pid.parse().ok();
        }
    }
    None
}

/// The inode of a line of the table, if it is a socket that listens on `port`.
fn listening_inode(line: &str, port: u16) -> Option<&str> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let is_it = *fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
    is_it.then_some(*fields.get(9)?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn finds_this_very_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = super::of_port(listener.local_addr().unwrap()).unwrap();
        assert!(owner.ends_with(&format!("(process {})", std::process::id())), "{owner}");
    }
}
