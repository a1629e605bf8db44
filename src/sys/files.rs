//! What several want to know of files.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, access, fcntl_getfl, fcntl_setfl};

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

/// Looks whether files can be made in a directory.
///
/// # Errors
/// What whoever tries it would be told.
pub fn check_directory(directory: &Path) -> io::Result<()> {
    if !fs::metadata(directory)?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Looks whether a directory is there or could be made, with those that it is in.
///
/// # Errors
/// As before, with the directory that it is about.
pub fn check_makeable(directory: &Path) -> Result<(), (PathBuf, io::Error)> {
    let mut there = directory;
    loop {
        match check_directory(there) {
            Err(error) if error.kind() == ErrorKind::NotFound && there != Path::new(".") => {
                there = directory_of(there);
            }
            checked => return checked.map_err(|error| (there.to_owned(), error)),
        }
    }
}

/// Opens a file to append to it, and makes it if it is missing: a rotation that truncates it in place does not leave a hole in it then. A
/// FIFO that nobody reads is not waited for, as open(2) does.
///
/// # Errors
/// What the kernel says; of such a FIFO ENXIO.
pub fn open_appending(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Whether what stands in a file that is written at this path has no end of a line at its end. The file is open to be written only, so that
/// it is opened once more to be read.
///
/// # Errors
/// When it cannot be read, keeps nothing, or has that path no longer.
pub fn ends_within_line(file: &File, path: &Path) -> io::Result<bool> {
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(ErrorKind::Unsupported.into());
    }
    if facts.len() == 0 {
        return Ok(false);
    }
    let read = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if id(&read.metadata()?) != id(&facts) {
        return Err(ErrorKind::NotFound.into());
    }
    let mut last = [0];
    read.read_exact_at(&mut last, facts.len() - 1)?;
    Ok(last != *b"\n")
}

/// Looks whether a file could be opened to be appended to, which is made if it is missing.
///
/// # Errors
/// What whoever tries it would be told.
pub fn check_appendable(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(facts) if facts.is_dir() => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        // There is no other way to find out whether there is somebody at the other end.
        Ok(facts) if facts.file_type().is_fifo() || facts.file_type().is_socket() => {
            open_appending(path).map(drop)
        }
        Ok(_) => Ok(access(path, Access::WRITE_OK)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
                return Err(io::Error::from_raw_os_error(libc::EISDIR));
            }
            // What a link points to would be made.
            match fs::read_link(path) {
                Ok(target) => check_directory(directory_of(&directory_of(path).join(target))),
                Err(_) => check_directory(directory_of(path)),
            }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_says_what_trying_would_and_makes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "").unwrap();
        let kind = |checked: io::Result<()>| checked.err().map(|error| error.kind());
        assert_eq!(kind(check_appendable(&at("file"))), None);
        assert_eq!(kind(check_appendable(&at("new"))), None);
        assert_eq!(kind(check_appendable(&at("gone/new"))), Some(ErrorKind::NotFound));
        assert_eq!(kind(check_appendable(&at("file/new"))), Some(ErrorKind::NotADirectory));
        assert_eq!(kind(check_appendable(directory.path())), Some(ErrorKind::IsADirectory));
        assert_eq!(kind(check_appendable(&at("new/"))), Some(ErrorKind::IsADirectory));
        std::os::unix::fs::symlink(at("gone/new"), at("link")).unwrap();
        assert_eq!(kind(check_appendable(&at("link"))), Some(ErrorKind::NotFound));
        fs::remove_file(at("link")).unwrap();
        // Nobody reads: it is said, and not waited for.
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        for checked in [check_appendable(&at("fifo")), open_appending(&at("fifo")).map(drop)] {
            assert_eq!(checked.unwrap_err().raw_os_error(), Some(libc::ENXIO));
        }
        fs::remove_file(at("fifo")).unwrap();
        assert!(check_makeable(&at("deep/down")).is_ok() && check_makeable(Path::new("deep/down")).is_ok());
        assert_eq!(check_makeable(&at("file")).unwrap_err().0, at("file"));
        let (about, error) = check_makeable(&at("file/deep/down")).unwrap_err();
        assert_eq!((about, error.kind()), (at("file/deep/down"), ErrorKind::NotADirectory));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
