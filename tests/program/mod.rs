//! The program as its users start it, and stores for it.

#![allow(dead_code)] // not every test uses all of it

use std::process::{Command, Output, Stdio};

use starling::record::{Record, Retention};
use starling::store::engine::{Engine, Part};

/// `starling` with these arguments, without standard input, and without the variables of whoever runs the tests.
pub fn starling(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"STARLING_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Exit code 0; what is on standard output. On a slow machine there may be progress on standard error.
#[track_caller]
pub fn assert_ok(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Exit code 1, and one line of ours at the end of standard error.
#[track_caller]
pub fn assert_failed(output: &Output, part: &str) {
    assert_line(output, 1, part);
}

/// Exit code 2, and one line of ours at the end of standard error.
#[track_caller]
pub fn assert_wrong(output: &Output, part: &str) {
    assert_line(output, 2, part);
    assert!(output.stdout.is_empty());
}

#[track_caller]
fn assert_line(output: &Output, code: i32, part: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("starling: ") && last.contains(part), "{stderr}");
}

/// Writes `count` messages into a room, from this offset on, as a server does.
pub fn publish(engine: &mut Engine, room: u64, name: &str, first: u64, count: u64) {
    let mut frame = vec![0];
    if first == 1 {
        let retention = Retention { count: 1_000_000, bytes: 0, age_ms: 0 };
        Record::Room { room, name, epoch: "e", retention }.put(&mut frame);
    }
    for offset in first..first + count {
        let content = format!("message {offset}: \"hé\"\n");
        let (sender, content, timestamp_ms) = ("Alice", &*content, 1_800_000_000_000 + offset);
        Record::Message { room, offset, timestamp_ms, sender, content, command: None }.put(&mut frame);
    }
    let end = first + count;
    engine.apply(&[Part { ring: room as usize, frames: &[frame], end }], false).unwrap();
    engine.flush_rooms(usize::MAX).unwrap();
    assert_eq!(engine.rejected(), 0);
}
