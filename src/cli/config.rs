//! `starling config`: the configuration in effect.

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::{EXIT_FAILURE, EXIT_USAGE, Flags, fail};

/// Prints the configuration.
pub fn run(flags: &Flags) -> ExitCode {
    let config = match flags.resolve() {
        Ok(config) => config,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    match io::stdout().write_all(config.print_commented().as_bytes()).and_then(|()| io::stdout().flush()) {
        // Whoever reads has seen enough: `starling config | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILURE, format_args!("cannot write to standard output: {error}")),
        Ok(()) => ExitCode::SUCCESS,
    }
}
