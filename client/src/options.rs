//! Where a client connects, as whom, and how it behaves.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::machine::Config;

pub(crate) type OnEvent = Box<dyn FnMut(&Client, Event) + Send>;
pub(crate) type OnWake = Box<dyn Fn() + Send>;

/// What [`Client::connect`] is given: `Options::new("ws://127.0.0.1:8080/ws").nickname("alice")`.
pub struct Options {
    pub(crate) url: String,
    pub(crate) config: Config,
    pub(crate) event_queue: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) certificates: Option<PathBuf>,
    pub(crate) journal: Option<PathBuf>,
    pub(crate) on_event: Option<OnEvent>,
    pub(crate) on_wake: Option<OnWake>,
}

impl Options {
    /// For a server at `ws://host:8080/ws`, `wss://...`, or `http://...` and `https://...`, which mean the same; without a path it is `/ws`.
    /// Or at `frame://host:9001`, or `frames://...` with TLS, for the server's listener of binary frames.
    pub fn new(url: impl Into<String>) -> Options {
        Options {
            url: url.into(),
            config: Config::default(),
            event_queue: 1024,
            connect_timeout: Duration::from_secs(10),
            certificates: None,
            journal: None,
            on_event: None,
            on_wake: None,
        }
    }

    /// Who one is, without a token.
    pub fn nickname(mut self, nickname: impl Into<String>) -> Options {
        self.config.nickname = Some(nickname.into());
        self
    }

    /// Who one is, by a JSON Web Token, which names its user.
    pub fn token(mut self, token: impl Into<String>) -> Options {
        self.config.token = Some(token.into());
        self
    }

    /// The session to go on with: [`Client::resume_token`] of an earlier client. If it has ended, a new one begins.
    pub fn resume(mut self, resume: impl Into<String>) -> Options {
        self.config.resume = Some(resume.into());
        self
    }

    /// How many events wait for the program (1,024). When they are that many, the client reads no more from the server until
    /// some have been taken; a server that has to wait for too long closes the connection, and nothing is lost. A program that takes none
    /// at all uses [`Options::without_events`], or hears nothing any more after so many.
    pub fn event_queue(mut self, events: usize) -> Options {
        self.event_queue = events.max(1);
        self
    }

    /// How many messages, and bytes of content, may wait to be acknowledged (1,024 and 8 MiB). One more is [`Error::QueueFull`].
    pub fn send_queue(mut self, messages: usize, bytes: usize) -> Options {
        self.config.queue_messages = messages;
        self.config.queue_bytes = bytes;
        self
    }

    /// How many messages to one room may be under way at a time (1). With more, they go faster; but one that the server
    /// refuses for a while, as over its rate, comes after those behind it.
    pub fn in_flight(mut self, messages: usize) -> Options {
        self.config.in_flight = messages.max(1);
        self
    }

    /// How long one attempt to connect may take (10 s).
    pub fn connect_timeout(mut self, timeout: Duration) -> Options {
        self.connect_timeout = timeout;
        self
    }

    /// How often the connection is probed and its latency measured (15 s), and after how much silence it is given up (40 s).
    pub fn heartbeat(mut self, interval: Duration, dead_after: Duration) -> Options {
        self.config.ping_interval = interval;
        self.config.dead_after = dead_after;
        self
    }

    /// The bounds of the first pause between attempts (200 ms), and of all (30 s). They double between; each pause is anything up to its bound.
    pub fn backoff(mut self, first: Duration, most: Duration) -> Options {
        self.config.backoff_base = first;
        self.config.backoff_max = most;
        self
    }

    /// Goes on trying where the first connection has found that the address or the certificate is wrong
    /// ([`Reason::Misaddressed`](crate::Reason::Misaddressed), [`Reason::Untrusted`](crate::Reason::Untrusted)), instead of stopping: for a
    /// server that is being set up.
    pub fn keep_trying(mut self) -> Options {
        self.config.keep_trying = true;
        self
    }

    /// Sends a message again of which nobody knows whether it was published, instead of telling
    /// [`Failure::Unsure`](crate::Failure::Unsure): rather twice than not at all.
    pub fn resend_unsure(mut self) -> Options {
        self.config.resend_unsure = true;
        self
    }

    /// Tells gaps at once, instead of asking the history for what is missing.
    pub fn tell_gaps(mut self) -> Options {
        self.config.fill_gaps = false;
        self
    }

    /// Leaves it to the program to say which kept private messages have come ([`Client::received`]): they come again, in
    /// another run of the program too, until it does.
    pub fn manual_received(mut self) -> Options {
        self.config.manual_received = true;
        self
    }

    /// Keeps what is sent in this file until it is answered, for one client at a time (another one is refused). A client that is started with the
    /// file of one that has ended, however it ended, goes on with its session and its messages: each is told by
    /// [`Event::Restored`], and goes to its room when that is joined. These events come first, and may be as many as fill the
    /// [`Options::event_queue`]: take them before anything is waited for. A file belongs to one user of one server.
    ///
    /// A new or an empty file becomes a journal. One that is none, that is no regular file, or that is longer than 256 MiB is
    /// [`Error::Journal`](crate::Error::Journal), and is left as it is. A part of a journal that cannot be read costs only what is in it:
    /// [`Event::JournalDamaged`] tells so, and the file as it was found is kept beside it (`FILE.damaged`). While the
    /// journal is written anew, there is a `FILE.new`.
    ///
    /// A message is in the file when [`Client::send`] has returned, and survives the end of the process. (When the machine itself fails, the
    /// last ones may not be there.) It is published once, if the client is started again while the session lasts (`session.grace_ms` of
    /// the server, 2 minutes) and within the time for which the server remembers ids (`limits.idempotency_ms`, 5 minutes). Later, one that was
    /// under way when the client ended has failed with [`Failure::Unsure`](crate::Failure::Unsure), because nobody knows;
    /// one that was not is sent all the same, once.
    pub fn journal(mut self, file: impl Into<PathBuf>) -> Options {
        self.journal = Some(file.into());
        self.config.journal = true;
        self
    }

    /// Trusts the certificates in this PEM file instead of the system's.
    pub fn certificates(mut self, file: impl Into<PathBuf>) -> Options {
        self.certificates = Some(file.into());
        self
    }

    /// Calls this with each event, on the client's thread, instead of putting it into [`Client::events`]. What blocks here
    /// blocks the client: an answer that is waited for here does not come.
    pub fn on_event(mut self, call: impl FnMut(&Client, Event) + Send + 'static) -> Options {
        self.on_event = Some(Box::new(call));
        self
    }

    /// Drops all events: for a program that only sends and asks, and waits for its [`Receipt`](crate::Receipt)s and [`Request`](crate::Request)s.
    pub fn without_events(self) -> Options {
        self.on_event(|_, _| {})
    }

    /// Calls this, on the client's thread, whenever events have been put into [`Client::events`]: to wake a poll that waits for other things
    /// too, by a `mio::Waker` or a byte into a pipe.
    pub fn on_wake(mut self, call: impl Fn() + Send + 'static) -> Options {
        self.on_wake = Some(Box::new(call));
        self
    }

    /// Everything else that can be set.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// How to speak TLS.
    pub(crate) fn tls(&self) -> Result<Arc<ClientConfig>, Error> {
        let mut roots = RootCertStore::empty();
        match &self.certificates {
            Some(file) => {
                let wrong = |why: &dyn fmt::Display| Error::Tls(format!("{}: {why}", file.display()));
                for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
                    let certificate = certificate.map_err(|error| wrong(&error))?;
                    roots.add(certificate).map_err(|error| wrong(&error))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            return Err(Error::Tls("there are no certificates to trust".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Tls(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tokens are secrets.
        f.debug_struct("Options")
            .field("url", &self.url)
            .field("nickname", &self.config.nickname)
            .finish_non_exhaustive()
    }
}
