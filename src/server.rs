//! The server as a whole.

use std::fmt;

use crate::config::Config;

/// Why the server could not run, or had to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeError {
    /// One line for a person.
    pub message: String,
}

impl fmt::Display for ServeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for ServeError {}

/// Serves until a signal asks it to stop.
pub fn run(_config: Config) -> Result<(), ServeError> {
    Ok(())
}
