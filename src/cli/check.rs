//! `starling check FILE`: whether a server would start with a configuration file.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{EXIT_FAILURE, EXIT_USAGE, Flags, fail};
use crate::server;

/// What is checked.
#[derive(Args, Debug)]
pub struct CheckFlags {
    /// The configuration file (TOML)
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Looks at the file, at the keys and certificates that it names and at the places where the server would write, as `serve` does; but makes
/// nothing, takes no port and opens no store.
pub fn run(flags: CheckFlags) -> ExitCode {
    let config = match Flags::of_file(flags.file.clone()).resolve() {
        Ok(config) => config,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    let notices = match server::check(&config) {
        Ok(notices) => notices,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    for notice in config.notices().into_iter().chain(notices) {
        eprintln!("starling: warning: {notice}");
    }
    match writeln!(io::stdout(), "{}: ok", flags.file.display()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(EXIT_FAILURE, format_args!("cannot write to standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}
