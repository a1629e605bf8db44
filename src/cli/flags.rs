//! The flags of the subcommands that need a configuration, and its file and environment.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{Config, ConfigError, ENV_CONFIG_FILE, ENV_PREFIX, ListenKind, Overrides};

/// Flags that decide the configuration. Values stay texts here: the configuration checks them all alike, wherever
/// they come from.
#[derive(Args, Debug, Default, Clone)]
pub struct Flags {
    /// The configuration file (TOML); STARLING_CONFIG names it too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Cores to use; 0: all
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cores: Option<String>,
    /// The directory of the store; not used if store.kind is memory
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The user to become when the listeners are open, where root starts the server
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Let the scheduler move the loops between cores
    #[arg(long)]
    no_pin: bool,
    /// Poll without ever sleeping: lowest latency, every core busy
    #[arg(long)]
    spin: bool,
    /// Give connections to the core whose processor takes in their packets: for network cards that spread them
    #[arg(long)]
    steer: bool,
    /// A listener: web, line, frame or grpc, or web+tls and so on, at HOST:PORT or unix:PATH; may be repeated; these
    /// replace the configured ones
    #[arg(long, value_name = "KIND=ADDRESS")]
    listen: Vec<String>,
    /// The address of the web listener: HTTP and WebSocket
    #[arg(long, value_name = "ADDRESS")]
    web: Option<String>,
    /// The address of the line listener: text and JSON lines
    #[arg(long, value_name = "ADDRESS")]
    line: Option<String>,
    /// The address of the frame listener: binary frames
    #[arg(long, value_name = "ADDRESS")]
    frame: Option<String>,
    /// The address of the grpc listener: gRPC over HTTP/2
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<String>,
    /// The certificate (PEM): all listeners are encrypted, unless some are named KIND+tls
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// off, error, warn, info, debug or trace, and such for modules: info,starling::cluster=debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// A file for the log, besides standard error
    #[arg(long, value_name = "FILE")]
    log_file: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Connections at a time; 0: as many as the open-file limit allows
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    max_connections: Option<String>,
    /// Connections at a time from one IP address; 0: no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    max_connections_per_address: Option<String>,
    /// An origin whose pages may open a WebSocket; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Any key of the configuration, dotted: limits.content_bytes=16384; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl Flags {
    /// Those of a server that is given a file and nothing else.
    pub fn of_file(path: PathBuf) -> Self {
        Flags { config: Some(path), ..Flags::default() }
    }

    /// The configuration in effect, or one line that says why there is none.
    pub fn resolve(&self) -> Result<Config, String> {
        let overrides = self.overrides()?;
        let env = our_environment()?;
        let named = env.iter().find(|(name, text)| name == ENV_CONFIG_FILE && !text.is_empty());
        let path = self.config.clone().or_else(|| named.map(|(_, path)| path.into()));
        let file = path.map(|path| read_file(&path).map(|text| (path, text))).transpose()?;
        let path = file.as_ref().map(|(path, _)| path.to_string_lossy());
        let file = path.as_deref().zip(file.as_ref().map(|(_, text)| text.as_str()));
        Config::resolve(file, env.iter().cloned(), &overrides).map_err(|error: ConfigError| error.to_string())
    }

    fn overrides(&self) -> Result<Overrides, String> {
        let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
        let values = [
            ("--cores", "cores", self.cores.clone()),
            ("--data-dir", "data_dir", self.data_dir.clone()),
            ("--user", "user", self.user.clone()),
            ("--no-pin", "pin", self.no_pin.then(|| "false".to_owned())),
            ("--spin", "spin", self.spin.then(|| "true".to_owned())),
            ("--steer", "steer", self.steer.then(|| "true".to_owned())),
            ("--listen", "listen", list(&self.listen)),
            ("--tls-cert", "tls.cert", self.tls_cert.clone()),
            ("--tls-key", "tls.key", self.tls_key.clone()),
            ("--log-level", "log.level", self.log_level.clone()),
            ("--log-file", "log.file", self.log_file.clone()),
            ("--log-format", "log.format", self.log_format.clone()),
            ("--max-connections", "limits.connections", self.max_connections.clone()),
            (
                "--max-connections-per-address",
                "limits.connections_per_address",
                self.max_connections_per_address.clone(),
            ),
            ("--allow-origin", "web.allowed_origins", list(&self.allow_origin)),
        ];
        let mut overrides = Overrides::default();
        for (flag, key, text) in values {
            if let Some(text) = text {
                overrides.set(flag, key, text);
            }
        }
        for set in &self.sets {
            // What does not look like a key any more may be a secret.
            let is_of_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c);
            let (key, text) = set.split_once('=').ok_or_else(|| {
                let begin = set.find(|c| !is_of_key(c)).map_or(set.as_str(), |end| &set[..end]);
                format!("--set: it must be KEY=VALUE, and behind {begin:?} there is no =")
            })?;
            overrides.set("--set", key.trim(), text.trim());
        }
        let addresses = [
            ("--web", ListenKind::Web, &self.web),
            ("--line", ListenKind::Line, &self.line),
            ("--frame", ListenKind::Frame, &self.frame),
            ("--grpc", ListenKind::Grpc, &self.grpc),
        ];
        for (flag, kind, address) in addresses {
            if let Some(address) = address {
                overrides.set_address(flag, kind, address);
            }
        }
        Ok(overrides)
    }
}

/// The flags of subcommands that work on the store, beside a server or without one.
#[derive(Args, Debug, Default)]
pub struct DataFlags {
    /// The directory that the server keeps its data in
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The configuration file of the server (TOML); STARLING_CONFIG names it too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl DataFlags {
    /// The configuration in effect, or one line that says why there is none.
    pub fn resolve(&self) -> Result<Config, String> {
        let flags =
            Flags { config: self.config.clone(), data_dir: self.data_dir.clone(), ..Flags::default() };
        flags.resolve()
    }
}

/// The `STARLING_*` variables. Not `std::env::vars`, which panics on any variable that is not UTF-8, ours or not.
fn our_environment() -> Result<Vec<(String, String)>, String> {
    std::env::vars_os()
        .filter(|(name, _)| name.as_encoded_bytes().starts_with(ENV_PREFIX.as_bytes()))
        .map(|(name, text)| {
            let name = name.to_string_lossy().into_owned();
            text.into_string().map_err(|_| format!("{name}: must be UTF-8")).map(|text| (name, text))
        })
        .collect()
}

/// Bytes of a configuration file: thousands of keys; a device or a wrong file ends here.
const FILE_BYTES_MAX: u64 = 1_048_576;

fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > FILE_BYTES_MAX => {
            Err(format!("{}: longer than {FILE_BYTES_MAX} bytes", path.display()))
        }
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(format!("{}: not UTF-8", path.display()))
        }
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}
