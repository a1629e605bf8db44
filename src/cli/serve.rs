//! `starling serve`: the server, from its configuration to its last log line.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{EXIT_FAILURE, EXIT_USAGE, Flags, fail};
use crate::observe::logging;
use crate::server::{self, Maker};
use crate::sys::{files, inherited, signals};

/// How long the end of the program waits for the log to be written: a stuck terminal must not keep a stopped server
/// alive.
const LOG_FINISH: Duration = Duration::from_secs(1);

/// Runs the server.
pub fn run(flags: &Flags) -> ExitCode {
    let config = match flags.resolve() {
        Ok(config) => config,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    if let Err(why) = server::check_values(&config) {
        return fail(EXIT_USAGE, why);
    }
    if let Err(why) = signals::block() {
        return fail(EXIT_FAILURE, format!("cannot take signals: {why}"));
    }
    if let Err(why) = inherited::check().and_then(|()| server::refuse_shared(&config)) {
        return fail(EXIT_FAILURE, why);
    }
    let started = Maker::find(&config).and_then(|maker| {
        maker.prepare()?;
        let opens = |path: &Path| maker.make(path, || files::open_appending(path));
        let logging = logging::start(&config.log, config.limits.log_lines, opens)?;
        Ok((maker, logging))
    });
    let (maker, logging) = match started {
        Ok(started) => started,
        Err(why) => return fail(EXIT_FAILURE, why),
    };
    for notice in config.notices() {
        log::warn!("{notice}");
    }
    let again = flags.clone();
    let end = server::run(config, maker, Box::new(move || again.resolve()), logging.control());
    // First the log, so that the reason stands last and on a line of its own.
    logging.finish(LOG_FINISH);
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILURE, error),
    }
}
