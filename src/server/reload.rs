//! What a server that runs reads again: its log file, its certificates, and of its configuration what can change without dropping anyone.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam::channel::{Sender, bounded};

use super::certificates::Certificates;
use super::supervisor;
use crate::auth::Authority;
use crate::config::{Config, Taken};
use crate::observe::logging::Control;
use crate::reactor::teller::Teller;
use crate::shard::mail::Mail;
use crate::shard::reconfigure::Reconfigured;
use crate::sys::waker::{self, Waker};
use crate::sys::{terminal, threads};

/// Reads the configuration again from where it came from. The error is one line for a person.
pub type Reread = Box<dyn Fn() -> Result<Config, String> + Send>;

/// How long a core with a full mailbox is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// What is read again, and what it is now.
pub struct Reload {
    pub config: Arc<Config>,
    /// The same, for whoever else wants to know what holds now.
    pub current: Arc<ArcSwap<Config>>,
    pub authority: Arc<Authority>,
    pub teller: Teller,
    pub wakers: Arc<Vec<Waker>>,
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
            true => log::info!("SIGUSR1: opening the log file again"),
            false => log::info!("SIGUSR1: there is no log file to open again"),
        }
    }
}

impl Reload {
    fn again(&mut self) {
        self.certificates.reload();
        match (self.reread)() {
            Ok(config) => self.take(&config),
            Err(why) => log::error!("the configuration stays as it was: {why}"),
        }
    }

    /// Does what can be done at once, and says what cannot. Files with keys are read again too, whether or not they have another name.
    fn take(&mut self, config: &Config) {
        let Taken { config, done, later } = self.config.take_over(config);
        let authority = match super::load_authority(&config) {
            Ok(authority) => authority,
            Err(why) => return log::error!("the configuration stays as it was: {why}"),
        };
        let Authority { verifier, api_keys, .. } = authority;
        let reading = self.authority.reading + 1;
        let authority = Authority { verifier, api_keys, reading, ..(*self.authority).clone() };
        self.config = Arc::new(config);
        self.current.store(self.config.clone());
        self.authority = Arc::new(authority);
        self.log.set(&self.config.log);
        self.tell_cores();
        if !done.is_empty() {
            log::info!(
                "in effect: {}",
                done.iter().map(|name| self.told(name)).collect::<Vec<_>>().join(", ")
            );
        }
        if !later.is_empty() {
            log::warn!("changed, and in effect after a restart: {}", later.join(", "));
        }
        if done.is_empty() && later.is_empty() {
            log::info!("the configuration has not changed");
        }
        for notice in self.config.notices() {
            log::warn!("{notice}");
        }
    }

    /// A key and its value, unless that is nobody's business or long.
    fn told(&self, name: &str) -> String {
        let key = Config::keys().find(|key| key.name == name).expect("it is a key's");
        match (key.value)(&self.config) {
            Some(value) if !key.is_secret && !value.is_array() => format!("{name} = {value}"),
            _ => name.to_owned(),
        }
    }

    /// Each core takes it up in a turn of its own: for a moment some go by the old one. A full mailbox is soon emptied.
    fn tell_cores(&mut self) {
        let (config, authority) = (self.config.clone(), self.authority.clone());
        let new = Arc::new(Reconfigured { config, authority });
        self.teller.tell_all(|| Mail::Reconfigured(new.clone()));
        let wakers = self.wakers.clone();
        while !self.teller.deliver(|core| waker::wake(&wakers, core)) {
            std::thread::sleep(FULL_PAUSE);
        }
    }
}
