//! Another user than root, which the server becomes once its ports are open.

use super::{ServeError, failure};
use crate::config::{Config, StoreKind};
use crate::store::place;
use crate::sys::path::SocketFile;
use crate::sys::privileges::{self, User};

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

/// Becomes the configured user, to whom is given what has been made as root: the sockets' files, the log, and a data directory that was
/// missing.
///
/// # Errors
/// When that is not possible.
pub(super) fn change(config: &Config, sockets: &[SocketFile]) -> Result<(), ServeError> {
    let Some(user) = find(config).map_err(failure)? else { return Ok(()) };
    let name = config.user.as_deref().unwrap_or_default();
    if user.is_current() {
        return Ok(());
    }
    if !privileges::is_root() {
        return Err(failure(format!(
            "user: only root can become {name}: start the server as root, or as {name}, or leave `user` out"
        )));
    }
    let mut files = Vec::new();
    if config.store.kind == StoreKind::Sqlite
        && config.cluster.redis.0.is_empty()
        && !config.data_dir.exists()
    {
        place::make_directory(&config.data_dir).map_err(|error| failure(error.message))?;
        files.push(config.data_dir.as_path());
    }
    files.extend(config.log.file.as_deref());
    files.extend(sockets.iter().map(SocketFile::path));
    for path in files {
        let given = user.own(path);
        given.map_err(|error| failure(format!("user: cannot give {} to {name}: {error}", path.display())))?;
    }
    user.become_for_good().map_err(|error| failure(format!("user: cannot become {name}: {error}")))?;
    log::info!("the ports are open: this is {name} from here on");
    Ok(())
}
