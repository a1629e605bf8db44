//! Another user than root, which the server becomes once its ports are open. What the server makes and opens by then it makes as that user,
//! who may have been broken into the time before, and have left links where root would look.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use super::{ServeError, failure};
use crate::config::{Config, StoreKind};
use crate::store::place;
use crate::sys::files;
use crate::sys::privileges::{self, User};

/// Who makes the server's files.
#[derive(Debug)]
pub struct Maker(Option<User>);

impl Maker {
    /// The user that the configuration names, if it names one and the server is not that user already.
    ///
    /// # Errors
    /// One line: there is no such user, or the server cannot become them.
    pub fn find(config: &Config) -> Result<Self, String> {
        let Some(user) = find(config)?.filter(|user| !user.is_current()) else { return Ok(Self(None)) };
        let name = user.name();
        if !privileges::is_root() {
            let or_as_them = if name == "root" { String::new() } else { format!(", or as {name}") };
            return Err(format!(
                "user: only root can become {name}: start the server as root{or_as_them}, or leave `user` out"
            ));
        }
        Ok(Self(Some(user)))
    }

    /// Has nothing that the server starts be more than it will be. To be said before there are threads.
    ///
    /// # Errors
    /// One line: the kernel does not know of it.
    pub fn prepare(&self) -> Result<(), String> {
        match self.0 {
            Some(_) => privileges::gain_no_more()
                .map_err(|error| format!("user: cannot give up rights for good: {error}")),
            None => Ok(()),
        }
    }

    /// Opens or makes what is at a path, as the user that the server will be. Where that user may not, root does, if nobody but root can have
    /// prepared what is there, and gives it to them.
    ///
    /// # Errors
    /// What `work` says.
    pub fn make<T>(&self, path: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let Some(user) = &self.0 else { return work() };
        match user.act(&work) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                if !files::is_roots_alone(path) {
                    let name = user.name();
                    let advice = format!(
                        "{error} for {name}: it has to be {name}'s, or nobody but root may write to the directory that it is in and to those above"
                    );
                    return Err(io::Error::new(error.kind(), advice));
                }
                let made = work()?;
                self.give(user, path)?;
                Ok(made)
            }
            done => done,
        }
    }

    fn give(&self, user: &User, path: &Path) -> io::Result<()> {
        let path = fs::canonicalize(path)?;
        let kind = fs::symlink_metadata(&path)?.file_type();
        // A terminal or a pipe stays whose it is: it is open.
        if kind.is_file() || kind.is_dir() || kind.is_socket() { user.own(&path) } else { Ok(()) }
    }

    /// Becomes the user, for whom a data directory is made that is missing.
    ///
    /// # Errors
    /// When that is not possible.
    pub(super) fn change(&self, config: &Config) -> Result<(), ServeError> {
        let Some(user) = &self.0 else { return Ok(()) };
        let name = user.name();
        let has_store = config.store.kind == StoreKind::Sqlite && config.cluster.redis.0.is_empty();
        if has_store && !config.data_dir.exists() {
            // Those above it that are missing too, each for itself, so that each is the user's to enter.
            let missing: Vec<&Path> = config
                .data_dir
                .ancestors()
                .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
                .collect();
            for directory in missing.into_iter().rev() {
                place::make_directory_by(directory, |make| self.make(directory, make))
                    .map_err(|error| failure(error.message))?;
            }
        }
        user.become_for_good().map_err(|error| failure(format!("user: cannot become {name}: {error}")))?;
        log::info!("the ports are open: this is {name} from here on");
        Ok(())
    }
}

/// The user that the configuration names, if it names one.
///
/// # Errors
/// One line: there is no such user.
pub(super) fn find(config: &Config) -> Result<Option<User>, String> {
    let Some(name) = &config.user else { return Ok(None) };
    match privileges::find(name) {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) => Err(format!(
            "user: there is no user {name:?} here: make one (`useradd --system --shell /usr/sbin/nologin {name}`), or name another"
        )),
        Err(error) => Err(format!("user: cannot look for {name:?}: {error}")),
    }
}
