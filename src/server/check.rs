//! Whether a server would start with a configuration, found out by looking alone: nothing is made, opened for good, or taken from a server
//! that runs.

use crate::auth::api_key::ApiKeys;
use crate::config::{Address, Config, Listen, ListenKind, StoreKind};
use crate::server::certificates::Certificates;
use crate::server::{cores, listeners, load_authority, places, refuse_steering, user};
use crate::store::directory;
use crate::sys::{files, threads};
use crate::{cluster, consul};

/// Looks for whatever would end a server at its start: keys and certificates that cannot be used, and places where it could not write what it
/// has to. What it makes by itself need not be there. It is looked with the rights of whoever asks. Gives what cannot be found out by
/// looking, a line each.
///
/// # Errors
/// One line: what it would say.
pub fn check(config: &Config) -> Result<Vec<String>, String> {
    check_values(config)?;
    let mut notices = Vec::new();
    places::refuse_shared(config)?;
    user::find(config)?;
    load_authority(config)?;
    Certificates::load(&config.listen)?;
    if let Some(path) = &config.log.file {
        files::check_appendable(path)
            .map_err(|error| format!("cannot open the log file {}: {error}", path.display()))?;
        if files::is_fifo(path) {
            notices.push(format!(
                "log.file: {} is a FIFO: a server does not start unless somebody reads it by then",
                path.display()
            ));
        }
    }
    let processors = threads::processors().len();
    refuse_steering(config, cores(config, processors), processors)?;
    for (index, listen) in config.listen.iter().enumerate() {
        listeners::check(listen, &config.listen[..index])?;
    }
    if !config.cluster.redis.0.is_empty() {
        cluster::check(&config.cluster).map_err(|error| error.message)?;
    } else if config.store.kind == StoreKind::Sqlite {
        directory::look(&config.data_dir).map_err(|error| error.message)?;
    }
    let addresses: Vec<_> = config.listen.iter().map(told).collect();
    consul::check(config, &addresses)?;
    Ok(notices)
}

/// Looks for values with which no server can start on any machine, as far as that is for those to say who use them.
///
/// # Errors
/// As [`check`].
pub fn check_values(config: &Config) -> Result<(), String> {
    ApiKeys::new(&config.auth.api_keys)?;
    cluster::check_urls(&config.cluster).map_err(|error| error.message)?;
    config.listen.iter().try_for_each(listeners::check_value)
}

/// A listener as the others are told of it.
fn told(listen: &Listen) -> (ListenKind, Address, bool) {
    (listen.kind, listen.address.clone(), listen.tls.is_some())
}
