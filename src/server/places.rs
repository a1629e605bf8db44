//! Places that two keys of a configuration name, whatever the names: what one of them makes there would be in the other's way.

use std::path::Path;

use crate::config::{Address, Config, StoreKind};
use crate::store;
use crate::sys::files;

/// Looks for places that are named twice. A server looks before it makes anything: a log that is opened is there already.
///
/// # Errors
/// One line: which place, and by whom it is named.
pub fn refuse_shared(config: &Config) -> Result<(), String> {
    let mut sockets = Vec::new();
    for listen in &config.listen {
        let Address::Unix(path) = &listen.address else { continue };
        // A socket is made under its name, also where that is a link.
        let settled = files::settle(files::directory_of(path)).join(path.file_name().unwrap_or_default());
        if sockets.iter().any(|(_, earlier)| *earlier == settled) {
            return Err(of_another_listener(&listen.address));
        }
        sockets.push((&listen.address, settled));
    }
    let log = config.log.file.as_ref().map(|path| (path, files::settle(path)));
    if let Some((path, settled)) = &log
        && let Some((address, _)) = sockets.iter().find(|(_, socket)| socket == settled)
    {
        return Err(format!(
            "log.file: {} is where a listener is ({address}): choose another path for one of them",
            path.display()
        ));
    }
    if config.store.kind != StoreKind::Sqlite || !config.cluster.redis.0.is_empty() {
        return Ok(());
    }
    let data = files::settle(&config.data_dir);
    let is_above = |settled: &Path| data.starts_with(settled);
    if let Some((address, _)) = sockets.iter().find(|(_, socket)| is_above(socket)) {
        return Err(format!(
            "data_dir: {} is where a listener is ({address}), or in it: choose another directory",
            config.data_dir.display()
        ));
    }
    let Some((path, settled)) = log else { return Ok(()) };
    if is_above(&settled) {
        return Err(format!(
            "log.file: {} is data_dir, or a directory that it is in, and no file: choose another path for one of them",
            path.display()
        ));
    }
    if store::FILES.iter().any(|name| settled == data.join(name)) {
        return Err(format!("log.file: {} is a file of the store: choose another path", path.display()));
    }
    Ok(())
}

/// What is said of a path that another listener has by another name.
pub(super) fn of_another_listener(address: &Address) -> String {
    format!("{address} is the path of another listener, by another name")
}
