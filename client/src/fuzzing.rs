//! Ways in for the fuzz targets, to what reads a peer's bytes and a file's. No part of what is promised to anybody.

use std::io::{self, Read, Write};
use std::path::Path;

use crate::frames::Frames;
use crate::journal::Journal;
use crate::machine::{Record, Saved};
use crate::socket::Heard;

/// What a journal has kept, and how many of its bytes could not be read.
#[derive(Debug)]
pub struct Left {
    /// What resumes the session.
    pub resume: Option<String>,
    /// The messages that wait.
    pub saved: Vec<Saved>,
    /// What is lost.
    pub damaged_bytes: u64,
}

/// Opens a journal, says what an earlier run has left in it, writes these records down, and closes it.
///
/// # Errors
/// When it is none, or cannot be written.
pub fn journal(path: &Path, records: Vec<Record>) -> io::Result<Left> {
    let (mut journal, left) = Journal::open(path)?;
    journal.append(records)?;
    Ok(Left {
        resume: left.resume,
        saved: left.saved,
        damaged_bytes: left.damage.map_or(0, |damage| damage.bytes),
    })
}

/// Reads frames until the stream ends or breaks the protocol. It may say that it would block, and is asked again.
pub fn frames(stream: impl Read + Write) -> Vec<String> {
    let mut frames = Frames::new(stream);
    let mut heard = Vec::new();
    loop {
        match frames.read() {
            Ok(Heard::Text(text)) => heard.push(text),
            Ok(_) => {}
            Err(_) => return heard,
        }
    }
}
