//! Where the store is: one file in the data directory, for nobody's eyes but the server's. It has hashes of passwords and keys in it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::engine::Engine;
use super::{FILE, StoreError};
use crate::sys::files;

/// Who may use a directory and a file that is made here: their owner.
const DIRECTORY_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// The store in a data directory, which must be there.
///
/// # Errors
/// When there is none: one line that says what to do.
pub fn find(directory: &Path) -> Result<PathBuf, StoreError> {
    let path = directory.join(FILE);
    match path.metadata() {
        Ok(facts) if facts.is_file() => Ok(path),
        Ok(_) => Err(StoreError::new(format!("{} is no file: name the server's --data-dir", path.display()))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(StoreError::new(format!(
                "there is no store at {}: name the server's --data-dir, or have one made by `starling serve` or `starling user add`",
                path.display()
            )))
        }
        Err(error) => Err(StoreError::new(format!("cannot look at {}: {error}", path.display()))),
    }
}

/// The store in a data directory. Both are made if they are missing.
///
/// # Errors
/// When they cannot be made.
pub fn find_or_make(directory: &Path) -> Result<PathBuf, StoreError> {
    let path = directory.join(FILE);
    if path.exists() {
        return find(directory);
    }
    make_directory(directory)?;
    let made = make_file(&path)?;
    // Root makes it for whoever the directory is of; nobody else could, nor has to. What SQLite puts beside it follows the file. It is the
    // file that was made that is given, and not what they may have put in its place meanwhile.
    if let (Some(made), Ok(facts)) = (made, directory.metadata()) {
        let _ = fchown(&made, Some(facts.uid()), Some(facts.gid()));
    }
    Engine::open(&path).map_err(|error| StoreError {
        message: format!("cannot make {}: {error}", path.display()),
        code: error.code,
    })?;
    Ok(path)
}

/// Makes a data directory, unless it is there.
///
/// # Errors
/// When it cannot be made.
pub fn make_directory(directory: &Path) -> Result<(), StoreError> {
    make_directory_by(directory, |make| make())
}

/// Makes a data directory, unless it is there, with the rights that `by` has it made with.
///
/// # Errors
/// When it cannot be made.
pub fn make_directory_by(
    directory: &Path,
    by: impl FnOnce(&dyn Fn() -> io::Result<()>) -> io::Result<()>,
) -> Result<(), StoreError> {
    let made = by(&|| DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory));
    // The kernel says that a file exists where a link leads nowhere: looking says more.
    made.or_else(|error| {
        check_directory(directory).and_then(|()| Err(unusable(directory, directory, &error)))
    })
}

/// Looks whether there is a data directory that can be used, or one could be made.
///
/// # Errors
/// As [`make_directory`].
pub fn check_directory(directory: &Path) -> Result<(), StoreError> {
    files::check_makeable(directory).map_err(|(place, error)| unusable(directory, &place, &error))
}

/// Why a data directory cannot be used: what `error` says of a place on the way to it.
fn unusable(directory: &Path, place: &Path, error: &io::Error) -> StoreError {
    let about = if place == directory { String::new() } else { format!("{}: ", place.display()) };
    StoreError::new(format!(
        "cannot use the directory {}: {about}{error}: mend that, or name another directory with --data-dir",
        directory.display()
    ))
}

/// Makes an empty file that is its owner's alone, unless there is one. SQLite would make it as the umask says; the files that it puts
/// beside this one are as this one is. One that is there is not opened: closing it would take SQLite's locks from it, if this process has
/// any (fcntl(2)). Gives the file that was made.
///
/// # Errors
/// When it cannot be made.
pub fn make_file(path: &Path) -> Result<Option<File>, StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path) {
        Ok(made) => Ok(Some(made)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(StoreError::new(format!("cannot make {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_store_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("deep/down");
        let missing = find(&directory).unwrap_err().to_string();
        assert!(missing.contains("--data-dir") && missing.contains("starling.db"), "{missing}");
        let path = find_or_make(&directory).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&path)), (DIRECTORY_MODE, FILE_MODE));
        let engine = Engine::open(&path).unwrap();
        engine.connection().execute_batch("BEGIN IMMEDIATE; DELETE FROM meta; COMMIT").unwrap();
        assert_eq!(mode(&path.with_extension("db-wal")), FILE_MODE);
        assert_eq!(find(&directory), Ok(path.clone()));
        assert_eq!(find_or_make(&directory), Ok(path));
    }

    #[test]
    fn what_is_no_place_is_said_to_be_none() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(find(&file).unwrap_err().to_string().contains("there is no store"));
        assert!(find_or_make(&file).unwrap_err().to_string().contains("cannot use"));
        std::fs::create_dir_all(parent.path().join("odd/starling.db")).unwrap();
        assert!(find(&parent.path().join("odd")).unwrap_err().to_string().contains("is no file"));
    }
}
