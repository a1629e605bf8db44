//! `starling cert`: a certificate for trying, signed by itself.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls_pki_types::ServerName;

use super::{EXIT_FAILURE, EXIT_USAGE, fail, write};
use crate::observe::date;
use crate::sys::unix_ms;

pub(super) const EXAMPLES: &str = "\
Examples:
  starling cert                             cert.pem and key.pem here, for localhost
  starling cert --host chat.example --host 10.0.0.5 --out /etc/starling
  starling serve --tls-cert cert.pem --tls-key key.pem
  curl --cacert cert.pem https://localhost:8080/health

Nobody else knows such a certificate: programs must be told to trust it, and browsers
warn. For others to come, get one from a certificate authority (Let's Encrypt).";

/// The hosts of a certificate for which none was named.
const HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Milliseconds of a day.
pub(super) const DAY_MS: u64 = 86_400_000;

/// Who may use the key, and change what is in the directory if that is made.
const DIRECTORY_MODE: u32 = 0o700;
const KEY_MODE: u32 = 0o600;
const CERT_MODE: u32 = 0o644;

/// For whom, where and how long.
#[derive(Args, Debug)]
pub struct CertFlags {
    /// A name or an IP address that the server is reached by; may be repeated [default: localhost, 127.0.0.1, ::1]
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// The directory for cert.pem and key.pem
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Days that the certificate is valid
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

/// Makes both files.
pub fn run(flags: &CertFlags) -> ExitCode {
    let hosts: Vec<String> = match flags.host.is_empty() {
        true => HOSTS.map(str::to_owned).into(),
        false => flags.host.clone(),
    };
    let (cert, key) = match make(&hosts, unix_ms() / DAY_MS, u64::from(flags.days)) {
        Ok(made) => made,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    let (cert_path, key_path) = (flags.out.join("cert.pem"), flags.out.join("key.pem"));
    if let Err(why) = put_both(&flags.out, flags.force, (&cert_path, &cert), (&key_path, &key)) {
        return fail(EXIT_FAILURE, why);
    }
    // Of a wildcard, one of those that it stands for.
    let host = hosts[0].replacen('*', "www", 1);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let (cert, key) = (quoted(&cert_path), quoted(&key_path));
    let told = format!(
        "starling serve --tls-cert {cert} --tls-key {key}\ncurl --cacert {cert} https://{host}:8080/health\n"
    );
    match write(told.as_bytes()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(why) => fail(EXIT_FAILURE, why),
    }
}

/// A certificate and its key, as PEM: valid from the day before `today` (in days since the Unix epoch), since clocks differ.
pub(super) fn make(hosts: &[String], today: u64, days: u64) -> Result<(String, String), String> {
    for host in hosts {
        let name = host.strip_prefix("*.").unwrap_or(host);
        if ServerName::try_from(name).is_err() {
            return Err(format!(
                "--host: {host:?} is no name and no IP address (chat.example, *.chat.example, 10.0.0.5 or ::1; without a port)"
            ));
        }
    }
    let mut parameters = CertificateParams::new(hosts)
        .map_err(|why| format!("--host: not a name or address that a certificate can have: {why}"))?;
    let day = |days| {
        let (year, month, day) = date(days);
        rcgen::date_time_ymd(year as i32, month as u8, day as u8)
    };
    parameters.not_before = day(today.saturating_sub(1));
    parameters.not_after = day(today + days);
    parameters.distinguished_name.push(DnType::CommonName, hosts[0].as_str());
    // It speaks for a server, and for nobody else: what trusts it trusts nothing that it signs.
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(|why| format!("cannot make a key: {why}"))?;
    let cert = parameters.self_signed(&key).map_err(|why| format!("cannot make a certificate: {why}"))?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// Writes both files, or none.
pub(super) fn put_both(
    directory: &Path,
    replaces: bool,
    cert: (&Path, &str),
    key: (&Path, &str),
) -> Result<(), String> {
    // Not what is above it, whose name may have been mistyped.
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Err(why) if why.kind() != ErrorKind::AlreadyExists => {
            return Err(format!("cannot make {}: {why}", directory.display()));
        }
        _ => {}
    }
    if !replaces {
        for (path, _) in [cert, key] {
            if path.symlink_metadata().is_ok() {
                return Err(format!(
                    "{} is there already: --force replaces it, --out puts it elsewhere",
                    path.display()
                ));
            }
        }
    }
    put(key.0, key.1, KEY_MODE, replaces)?;
    put(cert.0, cert.1, CERT_MODE, replaces)
}

fn put(path: &Path, text: &str, mode: u32, replaces: bool) -> Result<(), String> {
    let told = |why: io::Error| match why.kind() {
        ErrorKind::AlreadyExists => format!("{} is there already: --force replaces it", path.display()),
        _ => format!("cannot write {}: {why}", path.display()),
    };
    // Written beside it and moved: whoever reads it meanwhile gets the old one or the new one, and never one that others may read.
    let beside = path.with_extension("pem.new");
    let target = if replaces { &beside } else { path };
    if replaces {
        let _ = fs::remove_file(&beside);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(target).map_err(told)?;
    file.write_all(text.as_bytes()).map_err(told)?;
    // Not narrowed by the mask of the process: a certificate is for all.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(told)?;
    if replaces {
        fs::rename(&beside, path).map_err(told)?;
    }
    Ok(())
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text.strip_prefix("./").unwrap_or(&text);
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+=:,@".contains(&byte));
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClientAuth, ListenKind};
    use crate::tls::{certificate, settings};

    #[test]
    fn what_is_made_can_be_served_and_ends_when_it_was_to() {
        let hosts = ["localhost".to_owned(), "::1".to_owned()];
        let (cert, key) = make(&hosts, 20_000, 365).unwrap();
        let files = settings::Files {
            cert: cert.as_bytes(),
            key: key.as_bytes(),
            client_ca: None,
            client_auth: ClientAuth::Required,
        };
        let (_, first) = settings::server(files, ListenKind::Web, settings::ticketer().unwrap()).unwrap();
        assert_eq!(certificate::not_after(&first), Some(20_365 * 86_400));
        make(&["*.chat.example".to_owned(), "10.0.0.5".to_owned()], 20_000, 1).unwrap();
        for wrong in ["ä", "", "a b", "localhost:8080", "https://a", "*", "*.*.a", "[::1]"] {
            let why = make(&["localhost".to_owned(), wrong.to_owned()], 20_000, 1).unwrap_err();
            assert!(why.contains(&format!("{wrong:?}")), "{why}");
        }
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("./cert.pem")), "cert.pem");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
