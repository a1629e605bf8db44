//! What a server that runs reads again: its log file, its certificates, and of its configuration what can change without dropping anyone.

use std::sync::Arc;

use crossbeam::channel::{Sender, bounded};

use super::certificates::Certificates;
use super::supervisor;
use crate::config::Config;
use crate::observe::logging::Control;
use crate::sys::{terminal, threads};

/// Reads the configuration again from where it came from. The error is one line for a person.
pub type Reread = Box<dyn Fn() -> Result<Config, String> + Send>;

/// The keys that take effect at once.
const AT_ONCE: [&str; 1] = ["log.level"];

/// What is read again, and what it is now.
pub struct Reload {
    pub config: Arc<Config>,
    pub reread: Reread,
    pub log: Control,
    pub certificates: Certificates,
}

/// What SIGHUP and SIGUSR1 are about.
pub struct HangUp {
    /// Asks a thread for it to read everything again; once more at the most while it does.
    asking: Sender<()>,
    log: Control,
    /// Whether the server was started at a terminal.
    has_terminal: bool,
}

impl HangUp {
    /// Files have a thread of their own: a disk that does not answer must not keep other signals waiting.
    ///
    /// # Errors
    /// One line: the thread cannot be started.
    pub fn new(mut reload: Reload, has_terminal: bool) -> Result<Self, String> {
        let (asking, asked) = bounded(1);
        let log = reload.log.clone();
        threads::spawn("reload".into(), move || {
            while asked.recv().is_ok() {
                supervisor::tell_reloading();
                reload.again();
                supervisor::tell_ready();
            }
        })
        .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(HangUp { asking, log, has_terminal })
    }

    /// Has everything read again. Returns whether the signal means something else: the terminal at which the server was started is
    /// gone, and so is whoever could stop it there.
    pub fn hear(&self) -> bool {
        if self.has_terminal && !terminal::is_controlled() {
            return true;
        }
        self.log.reopen();
        log::info!("SIGHUP: reading the configuration and certificates again");
        let _ = self.asking.try_send(()); // where it has been asked already, that will do
        false
    }

    /// Has the log go on in the file that now has its name.
    pub fn reopen_log(&self) {
        match self.log.reopen() {
            true => log::info!("SIGUSR1: the log goes on in a file that was opened anew"),
            false => log::info!("SIGUSR1: there is no log file to open again"),
        }
    }
}

impl Reload {
    fn again(&mut self) {
        self.certificates.reload();
        match (self.reread)() {
            Ok(config) => self.take(config),
            Err(why) => log::error!("the configuration stays as it was: {why}"),
        }
    }

    /// Does what can be done at once, and says what cannot.
    fn take(&mut self, config: Config) {
        let keys = Config::keys();
        let changed = keys.filter(|key| (key.value)(&config) != (key.value)(&self.config));
        let mut changed: Vec<&str> = changed.map(|key| key.name).collect();
        if config.listen != self.config.listen {
            changed.push("[[listen]]");
        }
        let (done, later): (Vec<&str>, Vec<&str>) = changed.iter().partition(|name| AT_ONCE.contains(name));
        if !done.is_empty() {
            self.log.set_level(config.log.level);
            let mut now = (*self.config).clone();
            now.log.level = config.log.level;
            self.config = Arc::new(now);
            log::info!("in effect: log.level = \"{}\"", config.log.level.as_str().to_lowercase());
        }
        if !later.is_empty() {
            log::warn!("changed, and in effect after a restart: {}", later.join(", "));
        }
        if changed.is_empty() {
            log::info!("the configuration has not changed");
        }
    }
}
