//! Certificates of encrypted listeners: read at the start, and again when somebody says that they have changed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::server::ProducesTickets;

use crate::config::{ClientAuth, Listen, ListenKind, TlsFiles};
use crate::observe::push_time;
use crate::reactor::Door;
use crate::sys::{files, unix_ms};
use crate::tls::settings::{self, Files, Wrong};
use crate::tls::{ServerSettings, certificate};

/// Bytes of a PEM file: hundreds of certificates; a device or a wrong file ends here.
const FILE_BYTES_MAX: u64 = 1_048_576;

/// Days before the end of a certificate in which a warning tells of it.
const WARNING_DAYS: u64 = 14;

/// All listeners, and what the encrypted ones have their connections made from.
pub struct Certificates {
    doors: Vec<Door>,
    groups: Vec<Group>,
}

/// Listeners with the same files.
struct Group {
    files: TlsFiles,
    listeners: Vec<(ListenKind, ServerSettings)>,
    /// The keys of tickets. One for all of them: what holds for one holds for the others.
    ticketer: Mutex<Arc<dyn ProducesTickets>>,
}

impl Certificates {
    /// Reads the files of the listeners.
    ///
    /// # Errors
    /// One line that names the file, what is wrong with it, and what to do.
    pub fn load(listeners: &[Listen]) -> Result<Self, String> {
        let mut groups: Vec<Group> = Vec::new();
        let mut doors = Vec::new();
        for Listen { kind, tls, proxies, .. } in listeners {
            let Some(files) = tls else {
                doors.push(Door { proxies: proxies.clone(), ..Door::from(*kind) });
                continue;
            };
            let nth = match groups.iter().position(|group| group.files == *files) {
                Some(nth) => nth,
                None => {
                    let ticketer = ticketer()?;
                    groups.push(Group {
                        files: files.clone(),
                        listeners: Vec::new(),
                        ticketer: Mutex::new(ticketer),
                    });
                    groups.len() - 1
                }
            };
            let ticketer = groups[nth].ticketer.get_mut().unwrap_or_else(PoisonError::into_inner).clone();
            let contents = Contents::read(files)?;
            let (config, first) = contents.settings(files, *kind, ticketer)?;
            if groups[nth].listeners.is_empty() {
                tell_end(files, &first);
                tell_openness(files);
            }
            let settings: ServerSettings = Arc::new(ArcSwap::from_pointee(config));
            groups[nth].listeners.push((*kind, settings.clone()));
            doors.push(Door { tls: Some(settings), proxies: proxies.clone(), ..Door::from(*kind) });
        }
        Ok(Certificates { doors, groups })
    }

    /// The listeners, in their order.
    pub fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// Reads the files again. New connections get what is in them; where something is wrong with them everything stays as it was.
    pub fn reload(&self) {
        for group in &self.groups {
            if let Err(why) = group.reload() {
                log::error!("the certificate stays as it was: {why}");
            }
        }
    }
}

impl Group {
    fn reload(&self) -> Result<(), String> {
        let contents = Contents::read(&self.files)?;
        let mut kept = self.ticketer.lock().unwrap_or_else(PoisonError::into_inner);
        // A ticket stands for the certificate that its client has shown, which other roots may not know.
        let ticketer = if self.files.client_ca.is_some() { ticketer()? } else { kept.clone() };
        let mut made = Vec::new();
        let mut first = None;
        for (kind, _) in &self.listeners {
            let (config, certificate) = contents.settings(&self.files, *kind, ticketer.clone())?;
            made.push(Arc::new(config));
            first = Some(certificate);
        }
        // All or none.
        for ((_, settings), config) in self.listeners.iter().zip(made) {
            settings.store(config);
        }
        *kept = ticketer;
        if let Some(first) = first {
            tell_end(&self.files, &first);
        }
        tell_openness(&self.files);
        Ok(())
    }
}

/// What is in the files of a listener.
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, String> {
        Ok(Contents {
            cert: read(cert_path(files))?,
            key: read(key_path(files))?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn settings(
        &self,
        files: &TlsFiles,
        kind: ListenKind,
        ticketer: Arc<dyn ProducesTickets>,
    ) -> Result<(rustls::ServerConfig, rustls_pki_types::CertificateDer<'static>), String> {
        let contents = Files {
            cert: &self.cert,
            key: &self.key,
            client_ca: self.client_ca.as_deref(),
            client_auth: files.client_auth.unwrap_or(ClientAuth::Required),
        };
        settings::server(contents, kind, ticketer).map_err(|wrong| {
            let path = match &wrong {
                Wrong::Cert(_) => cert_path(files),
                Wrong::Key(_) => key_path(files),
                Wrong::ClientCa(_) => files.client_ca.as_deref().unwrap_or(Path::new("")),
            };
            format!("{} {wrong}", path.display())
        })
    }
}

// The configuration has seen to it that both are there.
fn cert_path(files: &TlsFiles) -> &Path {
    files.cert.as_deref().unwrap_or(Path::new(""))
}

fn key_path(files: &TlsFiles) -> &Path {
    files.key.as_deref().unwrap_or(Path::new(""))
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>, String> {
    settings::ticketer().map_err(|why| format!("no keys for the tickets of sessions: {why}"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    match files::read_regular(path, FILE_BYTES_MAX) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            Err(format!("{} is no regular file", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::FileTooLarge => {
            Err(format!("{} is longer than {FILE_BYTES_MAX} bytes: no PEM file is", path.display()))
        }
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::NotFound => "; `starling cert` makes a certificate and a key for trying",
                ErrorKind::PermissionDenied => {
                    "; give the file to the user that the server runs as, or to a group of that user"
                }
                _ => "",
            };
            Err(format!("cannot read {}: {error}{hint}", path.display()))
        }
    }
}

/// Tells until when a certificate is valid.
fn tell_end(files: &TlsFiles, certificate: &[u8]) {
    let path = cert_path(files).display();
    let Some(end) = certificate::not_after(certificate) else {
        return log::info!("certificate {path}");
    };
    let mut until = String::new();
    push_time(&mut until, end.saturating_mul(1000));
    let until = until.split('T').next().unwrap_or_default();
    let now = unix_ms() / 1000;
    if end < now {
        log::warn!(
            "certificate {path}: expired on {until}, clients refuse it; replace the file and send SIGHUP"
        );
    } else if end - now < WARNING_DAYS * 86_400 {
        log::warn!("certificate {path}: expires on {until}; replace the file and send SIGHUP");
    } else {
        log::info!("certificate {path}: valid until {until}");
    }
}

/// Warns where everybody on the machine can read the key.
fn tell_openness(files: &TlsFiles) {
    use std::os::unix::fs::PermissionsExt as _;

    let path = key_path(files);
    if fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0) {
        log::warn!("key {}: everybody on this machine can read it; chmod o-r", path.display());
    }
}
