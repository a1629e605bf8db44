//! What several want to know of files.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Which file it is, whatever its names: its device, and its number there (inode(7)).
pub fn id(facts: &Metadata) -> (u64, u64) {
    (facts.dev(), facts.ino())
}

/// The directory that a path is in; `.` for a mere name.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path with this at its end.
pub fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
