//! What the kernel knows of this process: proc(5).

use std::fs;
use std::path::Path;

/// Figures of this process, of which the kernel may tell some and not others.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Time on processors, in seconds.
    pub cpu_s: Option<f64>,
    /// Memory in use, in bytes.
    pub resident_bytes: Option<u64>,
    /// Address space, in bytes.
    pub virtual_bytes: Option<u64>,
    /// Open files, in the tables of all threads.
    pub open_files: Option<u64>,
    /// How many a table may have.
    pub files_max: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// Asks the kernel. Takes tens of microseconds, and longer with many open files: not for a loop.
pub fn figures() -> Figures {
    let mut figures = Figures { files_max: super::descriptors::limit(), ..Figures::default() };
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else { return figures };
    // The name, in parentheses, may have spaces and parentheses itself.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
    // Fields are counted from 1; the first of these is the third, the state.
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok());
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    figures.cpu_s = field(14).zip(field(15)).map(|(user, system)| (user + system) as f64 / ticks);
    figures.threads = field(20);
    figures.virtual_bytes = field(23);
    figures.resident_bytes = field(24).map(|pages| pages * rustix::param::page_size() as u64);
    figures.open_files = open_files();
    figures
}

/// Each core has a table of its own (unshare(2)); all other threads share one.
fn open_files() -> Option<u64> {
    let count = |table: &Path| fs::read_dir(table).ok().map(|files| files.count() as u64);
    // Less the directory that is being read.
    let mut open = count(Path::new("/proc/self/fd"))?.saturating_sub(1);
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with("core-") && super::descriptors::has_own_tables() {
            open += count(&task.path().join("fd")).unwrap_or(0);
        }
    }
    Some(open)
}

#[cfg(test)]
mod tests {
    use super::figures;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_tells_all() {
        let figures = figures();
        assert!(figures.cpu_s.is_some_and(|s| s < 1e6));
        assert!(figures.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(figures.virtual_bytes > figures.resident_bytes);
        assert!(
            figures.open_files.is_some_and(|files| files >= 3)
                && figures.files_max.is_some_and(|max| max >= 3)
        );
        assert!(figures.threads.is_some_and(|threads| threads >= 1));
    }
}
