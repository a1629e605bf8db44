//! `starling serve`: the server, from its configuration to its last log line.

use std::process::ExitCode;
use std::time::Duration;

use super::{EXIT_FAILURE, EXIT_USAGE, Flags, fail};
use crate::observe::logging;
use crate::server;
use crate::sys::{inherited, signals};

/// How long the end of the program waits for the log to be written: a stuck terminal must not keep a stopped server
/// alive.
const LOG_FINISH: Duration = Duration::from_secs(1);

/// Runs the server.
pub fn run(flags: &Flags) -> ExitCode {
    let config = match flags.resolve() {
        Ok(config) => config,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    if let Err(why) = signals::block() {
        return fail(EXIT_FAILURE, format!("cannot take signals: {why}"));
    }
    if let Err(why) = inherited::check().and_then(|()| server::refuse_shared(&config)) {
        return fail(EXIT_FAILURE, why);
    }
    let logging = match logging::start(&config.log, config.limits.log_lines) {
        Ok(logging) => logging,
        Err(why) => return fail(EXIT_FAILURE, why),
    };
    for notice in config.notices() {
        log::warn!("{notice}");
    }
    let again = flags.clone();
    let end = server::run(config, Box::new(move || again.resolve()), logging.control());
    // First the log, so that the reason stands last and on a line of its own.
    logging.finish(LOG_FINISH);
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILURE, error),
    }
}
