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
    if let Some((path, settled)) = &log
        && let Some((key, _)) = read(config).find(|(_, file)| files::settle(file) == *settled)
    {
        return Err(format!(
            "log.file: {} is {key}, which lines of the log would spoil: choose another path",
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
    let is_of_store = |settled: &Path| store::FILES.iter().any(|name| settled == data.join(name));
    if let Some((address, _)) = sockets.iter().find(|(_, socket)| is_of_store(socket)) {
        return Err(format!("{address} is a file of the store: choose another path"));
    }
    let Some((path, settled)) = log else { return Ok(()) };
    if is_above(&settled) {
        return Err(format!(
            "log.file: {} is data_dir, or a directory that it is in, and no file: choose another path for one of them",
            path.display()
        ));
    }
    if is_of_store(&settled) {
        return Err(format!("log.file: {} is a file of the store: choose another path", path.display()));
    }
    Ok(())
}

/// The files that are only read, by their keys.
fn read(config: &Config) -> impl Iterator<Item = (&'static str, &Path)> {
    let tls = config.listen.iter().filter_map(|listen| listen.tls.as_ref());
    let of_listeners = tls
        .flat_map(|tls| [("tls.cert", &tls.cert), ("tls.key", &tls.key), ("tls.client_ca", &tls.client_ca)]);
    let auth = &config.auth;
    let others = [
        ("auth.jwt_key_file", &auth.jwt_key_file),
        ("auth.jwks_file", &auth.jwks_file),
        ("cluster.ca", &config.cluster.ca),
    ];
    of_listeners.chain(others).filter_map(|(key, path)| Some((key, path.as_deref()?)))
}

/// What is said of a path that another listener has by another name.
pub(super) fn of_another_listener(address: &Address) -> String {
    format!("{address} is the path of another listener, by another name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_does_not_go_into_a_file_that_is_read_and_no_socket_into_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys.json");
        std::fs::write(&keys, "{}").unwrap();
        let link = directory.path().join("log");
        std::os::unix::fs::symlink(&keys, &link).unwrap();
        let mut config = Config { data_dir: directory.path().join("data"), ..Config::default() };
        config.log.file = Some(link);
        assert_eq!(refuse_shared(&config), Ok(()));
        config.auth.jwks_file = Some(keys);
        assert!(refuse_shared(&config).unwrap_err().contains("is auth.jwks_file"));
        config.log.file = None;
        config.listen[0].address = Address::Unix(directory.path().join("data/starling.db"));
        assert!(refuse_shared(&config).unwrap_err().ends_with("is a file of the store: choose another path"));
        config.listen[0].address = Address::Unix(directory.path().join("data/socket"));
        assert_eq!(refuse_shared(&config), Ok(()));
    }
}
