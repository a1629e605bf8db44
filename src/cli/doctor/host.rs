//! The machine as the checks see it: files below a root, and the few calls that no file stands for. Tests make up both.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::sys::host::Space;

/// Bytes of a file that are looked at: /proc/interrupts of a machine with many processors is the longest.
const FILE_BYTES_MAX: u64 = 4_194_304;

/// Processors that a list may name; the kernel itself has room for fewer.
const PROCESSORS_MAX: usize = 65_536;

/// Calls that tell what no file does.
pub(super) struct Calls {
    /// The room where a path is.
    pub(super) space: fn(&Path) -> io::Result<Space>,
    /// Whether the clock is kept right. `None`: it is not the clock of this machine that is asked for.
    pub(super) clock: Option<fn() -> io::Result<bool>>,
    /// Whether a thread may have a descriptor table of its own; as above.
    pub(super) table: Option<fn() -> io::Result<()>>,
    /// Bytes of a page.
    pub(super) page_bytes: u64,
}

/// A machine.
pub(super) struct Host {
    /// Where its files are.
    pub(super) root: PathBuf,
    /// The process that limits are looked up of: its number, or `self`.
    pub(super) process: String,
    /// What is asked besides.
    pub(super) calls: Calls,
}

impl Host {
    /// Where a path of the machine is.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether there is something at the path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// The text of a file, without blanks around it; or why it is not known.
    pub(super) fn read(&self, path: &str) -> Result<String, String> {
        let mut bytes = Vec::new();
        fs::File::open(self.at(path))
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
            .map_err(|error| unread(path, &error))?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The only number in a file.
    pub(super) fn number(&self, path: &str) -> Result<u64, String> {
        let text = self.read(path)?;
        text.parse().map_err(|_| format!("{path} has no number: {}", shortened(&text)))
    }

    /// The numbers in a file, of which there must be so many.
    pub(super) fn numbers<const N: usize>(&self, path: &str) -> Result<[u64; N], String> {
        let text = self.read(path)?;
        let numbers: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
        let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
        numbers.ok_or_else(|| format!("{path} has not {N} numbers: {}", shortened(&text)))
    }

    /// The file of a key of sysctl(8).
    pub(super) fn sysctl(&self, key: &str) -> String {
        format!("/proc/sys/{}", key.replace('.', "/"))
    }

    /// The processors that a file names (cpuset(7), list format).
    pub(super) fn processors(&self, path: &str) -> Result<Vec<usize>, String> {
        let text = self.read(path)?;
        list(&text).ok_or_else(|| format!("{path} has no list of processors: {}", shortened(&text)))
    }

    /// The names in a directory, in order.
    pub(super) fn names(&self, path: &str) -> Result<Vec<String>, String> {
        let entries = fs::read_dir(self.at(path)).map_err(|error| unread(path, &error))?;
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// A file of the process: `limits` is /proc/self/limits.
    pub(super) fn of_process(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.process)
    }

    /// The processors that the process may run on, and that are there. The mask alone may name some that are not.
    pub(super) fn allowed(&self) -> Result<Vec<usize>, String> {
        let path = self.of_process("status");
        let status = self.read(&path)?;
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed = line
            .and_then(|text| list(text.trim()))
            .ok_or_else(|| format!("{path} has no Cpus_allowed_list"))?;
        match self.processors("/sys/devices/system/cpu/online") {
            Ok(online) => Ok(allowed.into_iter().filter(|number| online.contains(number)).collect()),
            Err(_) => Ok(allowed),
        }
    }

    /// A figure of /proc/meminfo, in bytes.
    pub(super) fn memory(&self, name: &str) -> Result<u64, String> {
        let text = self.read("/proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib.saturating_mul(1024)).ok_or_else(|| format!("/proc/meminfo has no {name}"))
    }
}

/// Why a file is not known.
fn unread(path: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!("there is no {path}"),
        ErrorKind::PermissionDenied => format!("{path} may not be read"),
        _ => format!("cannot read {path}: {error}"),
    }
}

/// The beginning of a text that is not what it should be, on one line.
fn shortened(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

/// A list of numbers as the kernel writes it: `0-3,8`. Where there are none it may say `(null)`.
pub(super) fn list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    if matches!(text, "" | "(null)") {
        return Some(numbers);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        if first > last || last >= PROCESSORS_MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

/// Numbers as such a list, which taskset(1) takes too.
pub(super) fn listed(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let part = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

/// A mask of processors as the kernel writes it: groups of 32 bits in hexadecimal, the highest first.
pub(super) fn mask(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for (group, digits) in text.split(',').rev().enumerate() {
        let bits = u32::from_str_radix(digits.trim(), 16).ok()?;
        numbers.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| group * 32 + bit));
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back() {
        for text in ["", "0", "0-3", "0-3,8", "1,3,5-6"] {
            assert_eq!(listed(&list(text).unwrap()), text);
        }
        assert_eq!(list("(null)"), Some(vec![]));
        assert_eq!(list("3,1-2"), Some(vec![1, 2, 3]));
        for wrong in ["a", "3-1", "0-99999999", "1,,2", "-"] {
            assert_eq!(list(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn masks_are_read() {
        assert_eq!(mask("3"), Some(vec![0, 1]));
        assert_eq!(mask("00000001,80000000"), Some(vec![31, 32]));
        assert_eq!(mask("0"), Some(vec![]));
        assert_eq!(mask("x"), None);
    }
}
