//! Both ends of a connection, with everything between them that a network can do.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::settings::{self, Files, Wrong};
use super::{ClientSettings, INPUT_OVERHEAD, Tls};
use crate::config::{ClientAuth, ListenKind};

const HOST: &str = "chat.example";

/// A certificate and its key.
struct Identity {
    cert: String,
    key: String,
}

fn identity() -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let cert = rcgen::CertificateParams::new([HOST.to_owned()]).unwrap().self_signed(&key).unwrap();
    Identity { cert: cert.pem(), key: key.serialize_pem() }
}

fn files(identity: &Identity) -> Files<'_> {
    Files {
        cert: identity.cert.as_bytes(),
        key: identity.key.as_bytes(),
        client_ca: None,
        client_auth: ClientAuth::Required,
    }
}

fn server(files: Files<'_>, kind: ListenKind) -> Arc<ServerConfig> {
    Arc::new(settings::server(files, kind, settings::ticketer().unwrap()).unwrap().0)
}

/// A client that trusts the server, and shows a certificate of its own if it is asked for one.
fn client(
    trusted: &Identity,
    own: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientSettings {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.cert.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(settings::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    ClientSettings { config: Arc::new(config), name: ServerName::try_from(HOST).unwrap() }
}

/// A socket that takes so many bytes, and then none.
struct Narrow<'a> {
    taken: &'a mut Vec<u8>,
    room: usize,
}

impl Write for Narrow<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = &bytes[..bytes.len().min(self.room)];
        self.room -= bytes.len();
        self.taken.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One end, as the loop drives it.
struct End {
    tls: Tls,
    /// What it still has to say, and what it has heard.
    to_say: Vec<u8>,
    heard: Vec<u8>,
    /// How many bytes were encrypted.
    sent: usize,
    /// Ciphertext that is on its way to the other end.
    wire: Vec<u8>,
}

impl End {
    fn new(tls: Tls, to_say: Vec<u8>) -> Self {
        End { tls, to_say, heard: Vec::new(), sent: 0, wire: Vec::new() }
    }

    /// Writes, to a socket that takes so much, in ranges of such a length.
    fn write(&mut self, room: usize, range: usize) {
        let mut out = Narrow { taken: &mut self.wire, room };
        loop {
            if self.tls.has_output() {
                if self.tls.write_output(&mut out).is_err() {
                    return;
                }
            } else if self.tls.is_handshaking() || self.tls.has_said_end() {
                return;
            } else if self.to_say.is_empty() {
                self.tls.say_end();
            } else {
                let slices: Vec<IoSlice<'_>> = self.to_say.chunks(range).take(64).map(IoSlice::new).collect();
                let taken = self.tls.encrypt(&slices);
                self.sent += taken;
                self.to_say.drain(..taken);
            }
        }
    }

    /// Reads up to so many bytes of what the other has sent.
    fn read(&mut self, from: &mut Vec<u8>, most: usize) {
        let ciphertext: Vec<u8> = from.drain(..most.min(from.len())).collect();
        let mut plaintext = vec![0; ciphertext.len() + INPUT_OVERHEAD];
        let bytes = self.tls.decrypt(&ciphertext, &mut plaintext);
        self.heard.extend_from_slice(&plaintext[..bytes]);
    }

    fn is_done(&self) -> bool {
        self.tls.has_said_end() && !self.tls.has_output() && self.tls.has_heard_end()
    }
}

fn pair(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
    said: (Vec<u8>, Vec<u8>),
) -> (End, End) {
    let accepted = Tls::accept(server(files(identity), ListenKind::Web)).unwrap();
    let connected = Tls::connect(&client(identity, None, versions)).unwrap();
    (End::new(accepted, said.0), End::new(connected, said.1))
}

/// Lets both ends talk until neither has anything more to say.
fn talk(server: &mut End, client: &mut End) {
    for _ in 0..100 {
        client.write(usize::MAX, 1 << 14);
        let mut wire = std::mem::take(&mut client.wire);
        server.read(&mut wire, usize::MAX);
        server.write(usize::MAX, 1 << 14);
        let mut wire = std::mem::take(&mut server.wire);
        client.read(&mut wire, usize::MAX);
    }
}

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..300),
        (any::<u8>(), 0..70_000_usize).prop_map(|(byte, times)| vec![byte; times])
    ]
}

const BOTH: [&[&SupportedProtocolVersion]; 2] = [&[&rustls::version::TLS13], &[&rustls::version::TLS12]];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the ciphertext is cut, and however little the sockets take at a time, each end hears what the other has said,
    /// and then its end.
    #[test]
    fn what_is_said_is_heard(
        said in (any_text(), any_text()),
        version in 0..2_usize,
        rooms in vec(0..20_000_usize, 1..8),
        chunks in vec(1..20_000_usize, 1..8),
        range in 1..5000_usize,
    ) {
        let identity = identity();
        let (mut server, mut client) = pair(&identity, BOTH[version], said.clone());
        let mut steps = 0;
        while !(server.is_done() && client.is_done() && client.wire.is_empty() && server.wire.is_empty()) {
            let (room, chunk) = (rooms[steps % rooms.len()], chunks[steps % chunks.len()]);
            client.write(room, range);
            let mut wire = std::mem::take(&mut client.wire);
            server.read(&mut wire, chunk);
            client.wire = wire;
            server.write(room + 1, range);
            let mut wire = std::mem::take(&mut server.wire);
            client.read(&mut wire, chunk);
            server.wire = wire;
            steps += 1;
            prop_assert!(steps < 300_000, "it does not come to an end");
            prop_assert!(server.tls.failure().is_none() && client.tls.failure().is_none());
        }
        prop_assert!(server.heard == said.1 && client.heard == said.0);
        prop_assert_eq!(server.tls.unacknowledged(0), 0);
    }

    /// What the peer's kernel has acknowledged tells how much its program can have, and never too much of it.
    #[test]
    fn nothing_counts_as_arrived_that_cannot_be_read(
        said in any_text(),
        room in 0..40_000_usize,
        lost in 0..70_000_usize,
        range in 1..20_000_usize,
    ) {
        let identity = identity();
        let (mut server, mut client) = pair(&identity, BOTH[0], (Vec::new(), Vec::new()));
        server.to_say = said;
        // The handshake, without the server's saying anything.
        client.write(usize::MAX, 1);
        let mut wire = std::mem::take(&mut client.wire);
        server.read(&mut wire, usize::MAX);
        server.write(usize::MAX, 1);
        let mut wire = std::mem::take(&mut server.wire);
        client.read(&mut wire, usize::MAX);
        client.write(usize::MAX, 1);
        let mut wire = std::mem::take(&mut client.wire);
        server.read(&mut wire, usize::MAX);
        prop_assert!(!server.tls.is_handshaking());

        server.write(room, range);
        let lost = lost.min(server.wire.len());
        let arrives = server.wire.len() - lost;
        let mut wire = std::mem::take(&mut server.wire);
        client.read(&mut wire, arrives);
        prop_assert!(client.heard.len() >= server.sent.saturating_sub(server.tls.unacknowledged(lost)));
    }

    /// Bytes that are no TLS are answered with an alert, and with nothing else.
    #[test]
    fn any_bytes_are_answered(bytes in vec(any::<u8>(), 1..600), is_record: bool) {
        let identity = identity();
        let mut server = End::new(Tls::accept(server(files(&identity), ListenKind::Line)).unwrap(), Vec::new());
        let mut bytes = bytes;
        if is_record {
            let length = (bytes.len() as u16).to_be_bytes();
            bytes.splice(..0, [22, 3, 1, length[0], length[1]]);
        }
        server.read(&mut bytes, usize::MAX);
        prop_assert!(server.heard.is_empty() && server.tls.is_handshaking());
        if server.tls.failure().is_some() {
            server.tls.say_end(); // as the loop does: where rustls has no alert for it, it is a farewell
            server.write(usize::MAX, 1);
            // An alert (RFC 8446 section 6): its type, the version, two bytes.
            prop_assert!(server.wire.starts_with(&[21, 3]), "{:?}", server.wire);
        }
    }

    /// A byte that is changed on its way spoils the connection: what is heard before it was said so.
    #[test]
    fn damage_is_noticed(said in vec(any::<u8>(), 1..40_000), at: usize, flip in 1..=255_u8) {
        let identity = identity();
        let (mut server, mut client) = pair(&identity, BOTH[0], (Vec::new(), said.clone()));
        client.write(usize::MAX, 1);
        let mut wire = std::mem::take(&mut client.wire);
        server.read(&mut wire, usize::MAX);
        server.write(usize::MAX, 1);
        let mut wire = std::mem::take(&mut server.wire);
        client.read(&mut wire, usize::MAX);
        client.write(usize::MAX, 1 << 14);
        let mut wire = std::mem::take(&mut client.wire);
        let at = at % wire.len();
        wire[at] ^= flip;
        server.read(&mut wire, usize::MAX);
        prop_assert!(said.starts_with(&server.heard));
        // A length that was made longer has it wait for more, and what was unencrypted (the change of ciphers) carries nothing.
        let is_complete = server.heard.len() == said.len() && server.tls.has_heard_end();
        prop_assert!(!is_complete || at < 11, "the damage at {} went unnoticed", at);
    }
}

#[test]
fn sessions_are_resumed_on_any_core_and_without_a_certificate() {
    let identity = identity();
    let (config, client) = (server(files(&identity), ListenKind::Web), client(&identity, None, BOTH[0]));
    for is_resumed in [false, true, true] {
        let mut server = End::new(Tls::accept(config.clone()).unwrap(), b"hello".to_vec());
        let mut client = End::new(Tls::connect(&client).unwrap(), b"hello".to_vec());
        talk(&mut server, &mut client);
        assert_eq!(server.tls.is_resumed(), is_resumed);
        assert_eq!((server.heard, client.heard), (b"hello".to_vec(), b"hello".to_vec()));
    }
}

#[test]
fn a_client_that_speaks_something_else_is_refused() {
    let identity = identity();
    for (kind, offers, is_fine) in [
        (ListenKind::Web, "h2", false),
        (ListenKind::Web, "http/1.1", true),
        (ListenKind::Grpc, "h2", true),
        (ListenKind::Grpc, "http/1.1", false),
        (ListenKind::Line, "anything", true),
    ] {
        let mut offering = client(&identity, None, BOTH[0]);
        let mut config = (*offering.config).clone();
        config.alpn_protocols = vec![offers.as_bytes().to_vec()];
        offering.config = Arc::new(config);
        let mut server = End::new(Tls::accept(server(files(&identity), kind)).unwrap(), Vec::new());
        let mut client = End::new(Tls::connect(&offering).unwrap(), Vec::new());
        talk(&mut server, &mut client);
        assert_eq!(server.tls.failure().is_none(), is_fine, "{kind:?} {offers}: {:?}", server.tls.failure());
        assert_eq!(client.tls.failure().is_none(), is_fine, "the alert has told the client");
    }
}

#[test]
fn clients_show_certificates_where_they_must() {
    let (own, known, stranger) = (identity(), identity(), identity());
    let meet = |client_auth, shown: Option<&Identity>| {
        let files = Files { client_ca: Some(known.cert.as_bytes()), client_auth, ..files(&own) };
        let mut server = End::new(Tls::accept(server(files, ListenKind::Web)).unwrap(), Vec::new());
        let mut client = End::new(Tls::connect(&client(&own, shown, BOTH[0])).unwrap(), Vec::new());
        talk(&mut server, &mut client);
        server.tls.failure().is_none()
    };
    for auth in [ClientAuth::Optional, ClientAuth::Required] {
        assert!(meet(auth, Some(&known)));
        assert!(!meet(auth, Some(&stranger)), "{auth:?}");
    }
    assert!(meet(ClientAuth::Optional, None));
    assert!(!meet(ClientAuth::Required, None));
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let (one, other) = (identity(), identity());
    let attempt = |cert: &str, key: &str, client_ca: Option<&str>| {
        let files = Files {
            cert: cert.as_bytes(),
            key: key.as_bytes(),
            client_ca: client_ca.map(str::as_bytes),
            client_auth: ClientAuth::Required,
        };
        settings::server(files, ListenKind::Web, settings::ticketer().unwrap()).map(|_| ())
    };
    attempt(&one.cert, &one.key, Some(&other.cert)).unwrap();
    attempt(&format!("{}{}", one.cert, one.key), &format!("{}{}", one.cert, one.key), None).unwrap();
    let wrong = |result: Result<(), Wrong>, part: &str| {
        let wrong = result.unwrap_err();
        assert!(wrong.to_string().contains(part), "{wrong:?}");
        wrong
    };
    assert!(matches!(wrong(attempt(&one.cert, &other.key, None), "not the key"), Wrong::Key(_)));
    assert!(matches!(wrong(attempt(&one.cert, &one.cert, None), "no private key"), Wrong::Key(_)));
    assert!(matches!(wrong(attempt(&one.key, &one.key, None), "no certificate"), Wrong::Cert(_)));
    assert!(matches!(wrong(attempt("", &one.key, None), "no certificate"), Wrong::Cert(_)));
    assert!(matches!(wrong(attempt(&one.cert, &one.key, Some("")), "no certificate"), Wrong::ClientCa(_)));
    let torn = &one.cert[..one.cert.len() / 2];
    wrong(attempt(torn, &one.key, None), "PEM");
}
