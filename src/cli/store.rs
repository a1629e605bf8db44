//! `starling store`: what is on the disk, whether it is whole, copies of it and of rooms. Reads only, beside a server or without one.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use crossbeam::channel::{RecvTimeoutError, bounded};
use rusqlite::OptionalExtension as _;

use super::{DataFlags, EXIT_FAILURE, EXIT_USAGE, about_store, fail, write};
use crate::chat::name::RoomName;
use crate::proto::json;
use crate::proto::wire::Event;
use crate::record::HistoryPage;
use crate::store::progress::Progress;
use crate::store::read::read_page;
use crate::store::stats::Stats;
use crate::store::{StoreError, backup, check, connection, place};
use crate::sys::threads;

pub(super) const EXAMPLES: &str = "\
Examples:
  starling store stats --data-dir /var/lib/starling
  starling store stats --json | jq '.largest_rooms[].room'
  starling store check && starling store backup /backup/starling.db --force
  starling store export --room lobby > lobby.jsonl
  starling store export --room lobby --after 1000 --before 2001 | jq -r .content

The store is `starling.db` in --data-dir, or in the data_dir of the configuration.
It is only read, and may be in use. While `check` and `backup` run, the log of a
busy server (starling.db-wal) grows: they look at one moment.

A backup is a store: stop the server, put it in the place of starling.db, remove
starling.db-wal and starling.db-shm, and start the server again.

Exit codes: 0 ok, 1 failed, or `check` has found something, 2 wrong arguments.";

/// Rooms in `stats`.
const LARGEST_ROOMS: usize = 10;

/// How much of a room is read at a time. Nothing is held while it is printed, so that the one who reads it may take time.
const EXPORT_MESSAGES: usize = 1000;
const EXPORT_BYTES: usize = 4_194_304;

/// When somebody begins to wonder, and how often they are told then: on a terminal, and in a log.
const PATIENCE: Duration = Duration::from_secs(1);
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What is to be done with the store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Tell what is in it: sizes, rooms, messages, sessions, users
    Stats(StatsFlags),
    /// Check that nothing in it is damaged or missing
    Check(CheckFlags),
    /// Copy it to another file, as it is at one moment
    Backup(BackupFlags),
    /// Print the messages of a room, one JSON object a line
    Export(ExportFlags),
}

/// How to tell.
#[derive(Debug, Args)]
pub struct StatsFlags {
    /// A JSON object, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataFlags,
}

/// What to check.
#[derive(Debug, Args)]
pub struct CheckFlags {
    #[command(flatten)]
    data: DataFlags,
}

/// Where to copy.
#[derive(Debug, Args)]
pub struct BackupFlags {
    /// The file that is to be made
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    data: DataFlags,
}

/// What to print.
#[derive(Debug, Args)]
pub struct ExportFlags {
    /// The room
    #[arg(long, value_name = "NAME")]
    room: String,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Only messages after this offset
    #[arg(long, value_name = "OFFSET")]
    after: Option<u64>,
    /// Only messages before this offset
    #[arg(long, value_name = "OFFSET")]
    before: Option<u64>,
    #[command(flatten)]
    data: DataFlags,
}

/// How messages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line, as clients get messages
    Jsonl,
}

/// Does it.
pub fn run(command: &StoreCommand) -> ExitCode {
    let data = match command {
        StoreCommand::Stats(flags) => &flags.data,
        StoreCommand::Check(flags) => &flags.data,
        StoreCommand::Backup(flags) => &flags.data,
        StoreCommand::Export(flags) => &flags.data,
    };
    let config = match data.resolve() {
        Ok(config) => config,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    let path = match place::find(&config.data_dir) {
        Ok(path) => path,
        Err(why) => return fail(EXIT_FAILURE, why),
    };
    let done = match command {
        StoreCommand::Stats(flags) => print_stats(&path, flags),
        StoreCommand::Check(_) => print_check(&path),
        StoreCommand::Backup(flags) => make_backup(&path, flags),
        StoreCommand::Export(flags) => export(&path, flags),
    };
    done.unwrap_or_else(|why| fail(EXIT_FAILURE, why))
}

fn print_stats(path: &Path, flags: &StatsFlags) -> Result<ExitCode, String> {
    let stats = Stats::read(path, LARGEST_ROOMS).map_err(|error| about_store(path, &error))?;
    let out = if flags.json {
        let json = serde_json::to_string(&stats).map_err(|error| error.to_string())?;
        json + "\n"
    } else {
        table(path, &stats)
    };
    write(out.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The numbers for a person.
fn table(path: &Path, stats: &Stats) -> String {
    let free = stats.free_pages * stats.page_bytes;
    let rows = [
        ("file", path.display().to_string()),
        ("schema", format!("version {}", stats.schema)),
        ("size", format!("{}, of which {} free", bytes(stats.file_bytes), bytes(free))),
        ("log", bytes(stats.wal_bytes)),
        ("rooms", format!("{}{}", stats.rooms, besides(stats.ended_rooms, "ended, being deleted"))),
        ("messages", format!("{}, {} of content", stats.messages, bytes(stats.message_bytes))),
        ("sessions", stats.sessions.to_string()),
        ("users", format!("{}{}", stats.users, besides(stats.disabled_users, "of them disabled"))),
        (
            "inboxes",
            format!("{}, {} messages, {}", stats.inboxes, stats.inbox_messages, bytes(stats.inbox_bytes)),
        ),
    ];
    let mut out: String = rows.iter().map(|(what, told)| format!("{what:10}{told}\n")).collect();
    if !stats.largest_rooms.is_empty() {
        out.push_str(&format!("\n{:>12}  {:>12}  {:>12}  ROOM\n", "BYTES", "MESSAGES", "OFFSET"));
    }
    for room in &stats.largest_rooms {
        let name = room.room.escape_debug();
        out.push_str(&format!("{:>12}  {:>12}  {:>12}  {name}\n", room.bytes, room.messages, room.offset));
    }
    out
}

fn besides(count: u64, what: &str) -> String {
    if count == 0 { String::new() } else { format!(", {count} {what}") }
}

fn bytes(number: u64) -> String {
    match number {
        1_000_000_000.. => format!("{:.2} GB", number as f64 / 1e9),
        1_000_000.. => format!("{:.1} MB", number as f64 / 1e6),
        1000.. => format!("{:.1} kB", number as f64 / 1e3),
        _ => format!("{number} bytes"),
    }
}

fn print_check(path: &Path) -> Result<ExitCode, String> {
    let findings =
        telling(|progress| check::check(path, progress)).map_err(|error| about_store(path, &error))?;
    if findings.is_empty() {
        write(format!("{}: nothing is wrong\n", path.display()).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = String::new();
    for finding in &findings {
        // Names in a damaged file may be anything.
        out.extend(
            finding.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }),
        );
        out.push('\n');
    }
    write(out.as_bytes())?;
    let count = findings.len();
    let plural = if count == 1 { "" } else { "s" };
    let path = path.display();
    Err(format!(
        "{path}: {count} finding{plural}; restore a backup, or see what `sqlite3 {path} .recover` can save"
    ))
}

fn make_backup(path: &Path, flags: &BackupFlags) -> Result<ExitCode, String> {
    let copied = telling(|progress| backup::backup(path, &flags.to, flags.force, progress));
    copied.map_err(|error| match error.code {
        None => error.to_string(),
        // Of which of the two SQLite does not say.
        Some(_) => format!("{}, while it is copied to {}", about_store(path, &error), flags.to.display()),
    })?;
    let size = flags.to.metadata().map_or(0, |facts| facts.len());
    write(format!("{}: {}\n", flags.to.display(), bytes(size)).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Does something that may take long, and tells how far it is once it does.
fn telling<T>(body: impl FnOnce(&Progress) -> T) -> T {
    let progress = Arc::new(Progress::default());
    let (end, ended) = bounded::<()>(0);
    let seen = progress.clone();
    let teller = threads::spawn("progress".into(), move || {
        let is_terminal = io::stderr().is_terminal();
        let mut wait = PATIENCE;
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
            // Where nobody can be told, it goes on.
            let (before, after) = if is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
            let _ = write!(io::stderr(), "{before}{}{after}", seen.line());
            wait = if is_terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL };
        }
        if is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    });
    let done = body(&progress);
    drop(end);
    if let Ok(teller) = teller {
        let _ = teller.join();
    }
    done
}

fn export(path: &Path, flags: &ExportFlags) -> Result<ExitCode, String> {
    let Format::Jsonl = flags.format;
    let room = match RoomName::parse(&flags.room) {
        Ok(room) => room,
        Err(why) => return Ok(fail(EXIT_USAGE, format!("--room: {:?}: {why}", flags.room))),
    };
    let failed = |error: StoreError| about_store(path, &error);
    let db = connection::open_to_read(path).map_err(failed)?;
    let found = db
        .query_row("SELECT id, name FROM rooms WHERE folded = ?1", [room.folded()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })
        .optional()
        .map_err(|error| failed(error.into()))?;
    let Some((number, name)) = found else {
        return Err(format!(
            "{}: there is no room {:?}: `starling store stats` names some",
            path.display(),
            flags.room
        ));
    };
    let before = flags.before.unwrap_or(u64::MAX);
    let mut after = flags.after.unwrap_or(0);
    let mut is_first = true;
    let mut lines = Vec::new();
    loop {
        let page = HistoryPage {
            room: number as u64,
            after,
            before,
            is_ascending: true,
            limit: EXPORT_MESSAGES,
            bytes_max: EXPORT_BYTES,
        };
        let entries = read_page(&db, &page).map_err(failed)?;
        let Some(last) = entries.last() else { return Ok(ExitCode::SUCCESS) };
        // A server that runs may delete messages faster than somebody reads them here.
        if !is_first && entries[0].offset > after + 1 {
            let (from, to) = (after + 1, entries[0].offset - 1);
            let _ = writeln!(io::stderr(), "starling: messages {from} to {to} have been deleted meanwhile");
        }
        (after, is_first) = (last.offset, false);
        lines.clear();
        for entry in &entries {
            let event = Event::Message {
                room: &name,
                sender: entry.sender.as_str(),
                content: &entry.content,
                offset: entry.offset,
                timestamp: entry.timestamp_ms,
            };
            json::write(&event, &mut lines);
            lines.push(b'\n');
        }
        if !write(&lines)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (number, told) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (4096, "4.1 kB"),
            (2_500_000, "2.5 MB"),
            (7_000_000_000, "7.00 GB"),
        ] {
            assert_eq!(bytes(number), told);
        }
    }

    #[test]
    fn a_long_wait_is_told_of_and_a_short_one_gives_its_result() {
        assert_eq!(telling(|progress| progress.line()), "opening the file");
    }
}
