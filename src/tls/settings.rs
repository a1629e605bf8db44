//! From the contents of PEM files to what a listener's connections are made from.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::ClientSettings;

use crate::config::{ClientAuth, ListenKind};

/// The contents of the files of a listener.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// The certificate, and those between it and the root.
    pub cert: &'a [u8],
    /// Its private key.
    pub key: &'a [u8],
    /// Roots of clients' certificates, if clients are asked for one.
    pub client_ca: Option<&'a [u8]>,
    /// Whether a client may do without.
    pub client_auth: ClientAuth,
}

/// The file that something is wrong with, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The certificate.
    Cert(String),
    /// The key.
    Key(String),
    /// The roots of clients' certificates.
    ClientCa(String),
}

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Wrong::Cert(why) | Wrong::Key(why) | Wrong::ClientCa(why)) = self;
        out.write_str(why)
    }
}

/// The algorithms. One set in the whole program.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Keys that seal the tickets of sessions: whoever shares them resumes what another has begun, on any core.
///
/// # Errors
/// When the system has no randomness to give.
pub fn ticketer() -> Result<Arc<dyn ProducesTickets>, Error> {
    aws_lc_rs::Ticketer::new()
}

/// What the connections of a listener are made from: TLS 1.2 and 1.3, and sessions that are resumed by tickets, of which the
/// server keeps nothing. Returns the certificate too.
///
/// # Errors
/// Says which file is wrong, and how.
pub fn server(
    files: Files<'_>,
    kind: ListenKind,
    ticketer: Arc<dyn ProducesTickets>,
) -> Result<(ServerConfig, CertificateDer<'static>), Wrong> {
    let chain = certificates(files.cert).map_err(Wrong::Cert)?;
    let first = chain.first().cloned().expect("there is at least one");
    let key = PrivateKeyDer::from_pem_slice(files.key).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => Wrong::Key(
            "has no private key (-----BEGIN PRIVATE KEY-----) that can be read without a password".to_owned(),
        ),
        other => Wrong::Key(format!("is not a PEM file: {other}")),
    })?;
    let provider = provider();
    let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Wrong::Key(
            "is not the key of the certificate: a certificate needs the key that it was made with".to_owned(),
        ),
        Error::InvalidCertificate(why) => {
            Wrong::Cert(format!("has a certificate that cannot be used: {why:?}"))
        }
        other => Wrong::Key(format!("has a key that cannot be used: {other}")),
    })?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Wrong::Cert(error.to_string()))?;
    let builder = match files.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(pem).map_err(Wrong::ClientCa)? {
                roots.add(root).map_err(|why| {
                    Wrong::ClientCa(format!("has a certificate that cannot be used: {why}"))
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match files.client_auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                ClientAuth::Required => verifier,
            };
            builder
                .with_client_cert_verifier(verifier.build().map_err(|why| Wrong::ClientCa(why.to_string()))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    config.alpn_protocols = alpn(kind).iter().map(|name| name.to_vec()).collect();
    config.ticketer = ticketer;
    // All that is spoken is strong, and which of it is the server's to say: what a client would rather have may be old advice.
    config.ignore_client_order = true;
    // What clients without tickets would have the server remember for them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok((config, first))
}

/// What connections to a server of this name are made from. `roots` (PEM) are those of its certificate; without them any
/// certificate will do, which is good for measuring and for nothing else.
///
/// # Errors
/// Says what is wrong with the roots or the name.
pub fn client(
    host: &str,
    roots: Option<&[u8]>,
    alpn: Option<&'static str>,
) -> Result<ClientSettings, String> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match roots {
        Some(pem) => {
            let mut store = RootCertStore::empty();
            for root in certificates(pem)? {
                store.add(root).map_err(|why| format!("has a certificate that cannot be used: {why}"))?;
            }
            builder.with_root_certificates(store)
        }
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = alpn.into_iter().map(|name| name.as_bytes().to_vec()).collect();
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no name of a server"))?;
    Ok(ClientSettings { config: Arc::new(config), name })
}

/// Takes any certificate, as long as the server has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What is spoken behind the handshake, as clients name it (RFC 7301). Where there is none, what they name is passed over.
fn alpn(kind: ListenKind) -> &'static [&'static [u8]] {
    match kind {
        ListenKind::Web => &[b"http/1.1"],
        ListenKind::Grpc => &[b"h2"],
        ListenKind::Line | ListenKind::Frame => &[],
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("has no certificate (-----BEGIN CERTIFICATE-----)".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("is not a PEM file: {error}")),
    }
}
