//! What several want to know of files.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

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

/// How many links the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// For [`std::os::unix::fs::OpenOptionsExt::custom_flags`]: a link at the end of the path is not followed (open(2)).
pub const NO_LINK: i32 = libc::O_NOFOLLOW;

/// Where a path leads, by its one name without links, whether or not something is there already.
pub fn settle(path: &Path) -> PathBuf {
    fn follow(path: &Path, links: usize) -> PathBuf {
        if let Ok(settled) = fs::canonicalize(path) {
            return settled;
        }
        match (fs::read_link(path), path.file_name()) {
            (Ok(target), _) if links > 0 => follow(&directory_of(path).join(target), links - 1),
            (_, Some(name)) => follow(directory_of(path), links).join(name),
            (_, None) => path.to_owned(),
        }
    }
    follow(path, LINKS_MAX)
}

/// Whether nobody but root can change what a path leads to, but for what stands in the file at its end: all directories on the way, and
/// those that links on it lead through, are root's and nobody else's to write.
pub fn is_roots_alone(path: &Path) -> bool {
    fn look(path: &Path, links: usize) -> bool {
        let mut at = PathBuf::from("/");
        let mut components = path.components();
        while let Some(component) = components.next() {
            let next = match component {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => at.clone(),
                Component::ParentDir => directory_of(&at).to_owned(),
                Component::Normal(name) => at.join(name),
            };
            match fs::symlink_metadata(&next) {
                // What is missing is made where all before it is root's.
                Err(error) => return error.kind() == ErrorKind::NotFound,
                Ok(facts) if facts.is_symlink() => {
                    let Ok(target) = fs::read_link(&next) else { return false };
                    let rest: PathBuf = components.collect();
                    return links > 0 && look(&at.join(target).join(rest), links - 1);
                }
                Ok(facts) if facts.is_dir() && (facts.uid() != 0 || facts.mode() & 0o022 != 0) => {
                    return false;
                }
                Ok(_) => at = next,
            }
        }
        true
    }
    std::path::absolute(path).is_ok_and(|path| look(&path, LINKS_MAX))
}

/// The bytes of a file that is no more than a file, and has no more than so many. Nothing is waited for: what is opened may be a pipe
/// that nobody writes to.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for what is no regular file, [`ErrorKind::FileTooLarge`] for one that is longer, and what the system says.
pub fn read_regular(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Looks whether files can be made in a directory.
///
/// # Errors
/// What whoever tries it would be told, or more.
pub fn check_directory(directory: &Path) -> io::Result<()> {
    if !fs::metadata(directory)?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    access(directory, Access::WRITE_OK | Access::EXEC_OK)?;
    match is_of_the_kernel(directory) {
        true => Err(io::Error::other("the kernel's own directories (/proc, /sys) take no files")),
        false => Ok(()),
    }
}

/// Whether a directory only shows what the kernel knows: nobody can make something there, whatever its mode says and root may do.
fn is_of_the_kernel(directory: &Path) -> bool {
    #[cfg(target_os = "linux")]
    return rustix::fs::statfs(directory)
        .is_ok_and(|facts| [rustix::fs::PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&facts.f_type));
    #[cfg(not(target_os = "linux"))]
    return {
        let _ = directory;
        false
    };
}

/// What statfs(2) says of /sys.
#[cfg(target_os = "linux")]
const SYSFS_MAGIC: rustix::fs::FsWord = 0x6265_6572;

/// Looks whether a directory is there or could be made, with those that it is in.
///
/// # Errors
/// As before, with the directory that it is about.
pub fn check_makeable(directory: &Path) -> Result<(), (PathBuf, io::Error)> {
    let mut there = directory;
    loop {
        match check_directory(there) {
            Err(error) if error.kind() == ErrorKind::NotFound && there != Path::new(".") => {
                if let Ok(target) = fs::read_link(there) {
                    let why = format!("it is a link to {}, which is not there", target.display());
                    return Err((there.to_owned(), io::Error::new(ErrorKind::NotFound, why)));
                }
                there = directory_of(there);
            }
            checked => return checked.map_err(|error| (there.to_owned(), error)),
        }
    }
}

/// Opens a file to append to it, and makes it if it is missing: a rotation that truncates it in place does not leave a hole in it then. A
/// FIFO that nobody reads is not waited for, as open(2) does; nor is one that is full, as write(2) does.
///
/// # Errors
/// What the kernel says; of a FIFO that nobody reads ENXIO.
pub fn open_appending(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.file_type().is_fifo() {
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    }
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

/// Whether there is a FIFO at this path.
pub fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|facts| facts.file_type().is_fifo())
}

/// Looks whether a file could be opened to be appended to, which is made if it is missing. It is not opened, as that shows: whoever reads a
/// FIFO would hear its end. So it is not found out whether anybody reads one.
///
/// # Errors
/// What whoever tries it would be told.
pub fn check_appendable(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(facts) if facts.is_dir() => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        Ok(facts) if facts.file_type().is_socket() => Err(io::Error::from_raw_os_error(libc::ENXIO)),
        Ok(_) => Ok(access(path, Access::WRITE_OK)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
                return Err(io::Error::from_raw_os_error(libc::EISDIR));
            }
            // What a link points to would be made.
            check_directory(directory_of(&settle(path)))
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
        assert_eq!(open_appending(&at("fifo")).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        assert!(check_appendable(&at("fifo")).is_ok() && is_fifo(&at("fifo")), "it is not opened");
        fs::remove_file(at("fifo")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for checked in [check_appendable(&at("socket")), open_appending(&at("socket")).map(drop)] {
            assert_eq!(checked.unwrap_err().raw_os_error(), Some(libc::ENXIO));
        }
        drop(socket);
        fs::remove_file(at("socket")).unwrap();
        assert!(check_makeable(&at("deep/down")).is_ok() && check_makeable(Path::new("deep/down")).is_ok());
        assert_eq!(check_makeable(&at("file")).unwrap_err().0, at("file"));
        let (about, error) = check_makeable(&at("file/deep/down")).unwrap_err();
        assert_eq!((about, error.kind()), (at("file/deep/down"), ErrorKind::NotADirectory));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        for path in ["link", "link/deep"] {
            let (about, error) = check_makeable(&at(path)).unwrap_err();
            assert_eq!(about, at("link"));
            assert!(error.to_string().contains("a link to nowhere"), "{error}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn nothing_can_be_made_in_the_directories_of_the_kernel() {
        for directory in ["/proc", "/sys"].map(Path::new) {
            assert!(check_directory(directory).is_err(), "{}", directory.display());
            assert!(check_appendable(&directory.join("starling.log")).is_err());
            assert!(check_makeable(&directory.join("starling-data")).is_err());
        }
        assert!(check_appendable(Path::new("/proc/self/comm")).is_ok(), "it is there");
    }

    #[test]
    fn what_is_the_same_place_has_one_name() {
        let directory = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(directory.path()).unwrap();
        let at = |name: &str| real.join(name);
        fs::create_dir(at("a")).unwrap();
        for (target, link) in [("a", "b"), ("a/new", "c"), ("c", "d"), ("loop", "loop")] {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
        }
        for name in ["a/new", "b/new", "b/../b//./new", "c", "d"] {
            assert_eq!(settle(&at(name)), at("a/new"), "{name}");
        }
        assert_eq!(settle(&at("c/deep")), at("a/new/deep"));
        assert_eq!(settle(&at("loop/x")), at("loop/x"));
        assert_eq!(settle(Path::new("no-such/x")), std::env::current_dir().unwrap().join("no-such/x"));
    }
}
