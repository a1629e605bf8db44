//! `starling chat`: the client for terminals and pipes, which is a crate of its own.

use std::process::ExitCode;

use starling_chat::Outcome;
pub use starling_chat::{EXAMPLES, Flags as ChatFlags};

use super::{EXIT_FAILURE, EXIT_USAGE, fail};

/// Runs `starling chat`.
pub fn run(flags: &ChatFlags) -> ExitCode {
    match starling_chat::run(flags) {
        Outcome::Done => ExitCode::SUCCESS,
        Outcome::Failed(why) => fail(EXIT_FAILURE, why),
        Outcome::Usage(why) => fail(EXIT_USAGE, why),
    }
}
