//! A client's end of TLS: rustls's own, not the server's wrapping of it.
//!
//! What is encrypted differs from run to run, but not in length, and so a seed is its run all the same: the certificate is of a
//! kind whose keys and signatures have one length, no session is resumed (the client would have to remember one from another run),
//! and traces are of what is said.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::ServerName;
use starling::config::{ClientAuth, ListenKind};
use starling::reactor::Door;
use starling::tls::settings::{self, Files};

const HOST: &str = "chat.example";

/// The client's end of one connection.
pub struct Secure {
    connection: ClientConnection,
    /// Whether it wants to end its side, which it cannot before the handshake is over.
    wants_end: bool,
    has_ended: bool,
}

/// What both sides are made from.
struct Settings {
    door: Door,
    client: Arc<ClientConfig>,
}

fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let mut parameters = rcgen::CertificateParams::new([HOST.to_owned()]).expect("a name");
        // It would be random, and its length with it.
        parameters.serial_number = Some(rcgen::SerialNumber::from(1));
        let cert = parameters.self_signed(&key).expect("a certificate");
        let (pem, key) = (cert.pem(), key.serialize_pem());
        let files = Files {
            cert: pem.as_bytes(),
            key: key.as_bytes(),
            client_ca: None,
            client_auth: ClientAuth::Required,
        };
        let ticketer = settings::ticketer().expect("random keys");
        let (server, _) = settings::server(files, ListenKind::Line, ticketer).expect("good files");
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a root");
        let mut client = ClientConfig::builder_with_provider(settings::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        let door = Door {
            kind: ListenKind::Line,
            tls: Some(Arc::new(ArcSwap::from_pointee(server))),
            proxies: None,
            outlives_us: false,
        };
        Settings { door, client: Arc::new(client) }
    })
}

/// An encrypted listener.
pub fn door(kind: ListenKind) -> Door {
    Door { kind, ..settings().door.clone() }
}

impl Secure {
    pub fn new() -> Secure {
        let name = ServerName::try_from(HOST).expect("a name");
        let mut connection = ClientConnection::new(settings().client.clone(), name).expect("settings");
        connection.set_buffer_limit(None);
        Secure { connection, wants_end: false, has_ended: false }
    }

    /// Says something, now or when the handshake is over.
    pub fn say(&mut self, bytes: &[u8]) {
        self.connection.writer().write_all(bytes).expect("there is no limit");
    }

    pub fn end(&mut self) {
        self.wants_end = true;
    }

    /// Takes ciphertext, and returns what it says.
    pub fn hear(&mut self, mut ciphertext: &[u8]) -> Vec<u8> {
        let mut plaintext = Vec::new();
        while !ciphertext.is_empty() {
            if self.connection.read_tls(&mut ciphertext).expect("room for more") == 0 {
                break;
            }
            if let Err(error) = self.connection.process_new_packets() {
                // A server that gives a handshake up says so in a way that does not belong there.
                assert!(self.connection.is_handshaking(), "the server says {error}");
                break;
            }
            let mut buffer = [0; 4096];
            while let Ok(bytes @ 1..) = self.connection.reader().read(&mut buffer) {
                plaintext.extend_from_slice(&buffer[..bytes]);
            }
        }
        plaintext
    }

    /// Takes what is to go onto the wire, and whether that is the last of it.
    pub fn take_output(&mut self) -> (Vec<u8>, bool) {
        if self.wants_end && !self.connection.is_handshaking() && !self.has_ended {
            self.connection.send_close_notify();
            self.has_ended = true;
        }
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).expect("a vector takes everything");
        }
        (bytes, self.has_ended)
    }

    /// Whether the server has said that its side ends.
    pub fn has_heard_end(&mut self) -> bool {
        let state = self.connection.process_new_packets();
        state.is_ok_and(|state| state.peer_has_closed())
    }

    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }
}
