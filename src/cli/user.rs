//! `starling user`: accounts, from the command line. It changes the store itself, whether a server runs on it or not; a server notices.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use rusqlite::Connection;
use serde::Serialize;

use super::{DataFlags, EXIT_FAILURE, EXIT_USAGE, about_store, fail, write};
use crate::auth::password::{PASSWORD_BYTES_MAX, check_password};
use crate::chat::name::{NICKNAME_CHARS_MAX, Nickname};
use crate::config::Config;
use crate::observe::push_time;
use crate::store::{StoreError, accounts, connection, place};
use crate::sys::terminal::{self, Typed};
use crate::sys::unix_ms;

pub(super) const EXAMPLES: &str = "\
Examples:
  starling user add alice                          asks for the password, twice
  pass show chat/bob | starling user add bob --password-stdin
  starling user passwd alice --data-dir /var/lib/starling
  starling user disable bob                        no more logins, until `enable`
  starling user list --json | jq -r .nickname

The store is `starling.db` in --data-dir, or in the data_dir of the configuration.
`add` makes it if it is missing. All of these work while the server runs, too.

A password is never an argument: what is on a command line, everybody on the
machine can read.

Exit codes: 0 ok, 1 failed, 2 wrong arguments or configuration, 130 interrupted.";

/// Users listed at a time: nothing is held open while they are printed.
const LIST_PAGE: usize = 1000;

/// The exit code after Ctrl-C, as of a process that the signal has ended.
const EXIT_INTERRUPTED: u8 = 130;

/// What is to be done with users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Register a user, with a password that is asked for
    Add(PasswordFlags),
    /// Give a user another password, which is asked for
    Passwd(PasswordFlags),
    /// Let a user log in no more
    Disable(NameFlags),
    /// Let a user log in again
    Enable(NameFlags),
    /// Remove a user, with the private messages that wait; the nickname is free then
    Remove(NameFlags),
    /// List the users
    List(ListFlags),
}

/// Whose password.
#[derive(Debug, Args)]
pub struct PasswordFlags {
    /// The nickname
    #[arg(value_name = "NICKNAME")]
    name: String,
    /// Read the password from standard input: one line
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    data: DataFlags,
}

/// Who.
#[derive(Debug, Args)]
pub struct NameFlags {
    /// The nickname
    #[arg(value_name = "NICKNAME")]
    name: String,
    #[command(flatten)]
    data: DataFlags,
}

/// How to list.
#[derive(Debug, Args)]
pub struct ListFlags {
    /// One JSON object a line, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataFlags,
}

/// Does it.
pub fn run(command: &UserCommand) -> ExitCode {
    let done = match command {
        UserCommand::Add(flags) => add(flags),
        UserCommand::Passwd(flags) => change_password(flags),
        UserCommand::Disable(flags) => {
            change(flags, "is disabled", |db, name| accounts::set_disabled(db, name, true))
        }
        UserCommand::Enable(flags) => {
            change(flags, "is enabled", |db, name| accounts::set_disabled(db, name, false))
        }
        UserCommand::Remove(flags) => change(flags, "is removed", accounts::remove),
        UserCommand::List(flags) => list(flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code: EXIT_INTERRUPTED, .. }) => ExitCode::from(EXIT_INTERRUPTED),
        Err(Failure { code, why }) => fail(code, why),
    }
}

/// Why nothing was done.
struct Failure {
    code: u8,
    why: String,
}

fn usage(why: impl ToString) -> Failure {
    Failure { code: EXIT_USAGE, why: why.to_string() }
}

fn failed(why: impl ToString) -> Failure {
    Failure { code: EXIT_FAILURE, why: why.to_string() }
}

fn parse(name: &str) -> Result<Nickname, Failure> {
    Nickname::parse(name).map_err(|why| usage(format!("{name:?} is no nickname: {why}")))
}

/// The store at `path`, for changes.
fn open(path: &Path) -> Result<Connection, Failure> {
    accounts::open(path).map_err(|error| cannot_open(path, &error))
}

fn cannot_open(path: &Path, error: &StoreError) -> Failure {
    failed(about_store(path, error))
}

fn add(flags: &PasswordFlags) -> Result<(), Failure> {
    let name = parse(&flags.name)?;
    let config = flags.data.resolve().map_err(usage)?;
    let db = open(&place::find_or_make(&config.data_dir).map_err(failed)?)?;
    // Before anybody types a password for nothing.
    if let Some(account) = accounts::find(&db, &name).map_err(failed)? {
        let name = account.name.as_str();
        return Err(failed(format!(
            "{name} is registered already: `starling user passwd {name}` gives another password"
        )));
    }
    let hash = ask_and_hash(flags, &config)?;
    accounts::add(&db, &name, &hash, unix_ms()).map_err(failed)?;
    say(&name, "is registered")
}

fn change_password(flags: &PasswordFlags) -> Result<(), Failure> {
    let name = parse(&flags.name)?;
    let config = flags.data.resolve().map_err(usage)?;
    let db = open(&place::find(&config.data_dir).map_err(failed)?)?;
    if accounts::find(&db, &name).map_err(failed)?.is_none() {
        return Err(nobody(&name));
    }
    let hash = ask_and_hash(flags, &config)?;
    accounts::set_password(&db, &name, &hash, unix_ms()).map_err(|error| told(&name, error))?;
    say(&name, "has another password")
}

fn change(
    flags: &NameFlags,
    done: &str,
    change: impl Fn(&Connection, &Nickname) -> Result<(), accounts::AccountError>,
) -> Result<(), Failure> {
    let name = parse(&flags.name)?;
    let config = flags.data.resolve().map_err(usage)?;
    let db = open(&place::find(&config.data_dir).map_err(failed)?)?;
    change(&db, &name).map_err(|error| told(&name, error))?;
    say(&name, done)
}

fn told(name: &Nickname, error: accounts::AccountError) -> Failure {
    match error {
        accounts::AccountError::NoSuchUser(_) => nobody(name),
        error => failed(error),
    }
}

fn nobody(name: &Nickname) -> Failure {
    failed(format!("nobody is registered as {}: `starling user list` tells who is", name.as_str()))
}

fn say(name: &Nickname, done: &str) -> Result<(), Failure> {
    write(format!("{} {done}\n", name.as_str()).as_bytes()).map(|_| ()).map_err(failed)
}

/// The hash of a password that somebody types, or a program writes.
fn ask_and_hash(flags: &PasswordFlags, config: &Config) -> Result<String, Failure> {
    let password = if flags.password_stdin { read_password()? } else { ask_password(config)? };
    check_password(&password, config.auth.password_bytes_min).map_err(failed)?;
    accounts::hash_password(&password).map_err(failed)
}

/// Asks twice, because nobody sees what is typed.
fn ask_password(config: &Config) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(usage("standard input is no terminal to ask at: use --password-stdin"));
    }
    let password = ask("Password: ")?;
    check_password(&password, config.auth.password_bytes_min).map_err(failed)?;
    if ask("The same again: ")? != password {
        return Err(failed("these are two passwords; nothing is changed"));
    }
    Ok(password)
}

fn ask(prompt: &str) -> Result<String, Failure> {
    match terminal::read_hidden(prompt) {
        Ok(Typed::Line(line)) => Ok(line),
        Ok(Typed::Interrupted) => Err(Failure { code: EXIT_INTERRUPTED, why: String::new() }),
        Err(error) => Err(failed(format!("cannot read the password: {error}"))),
    }
}

fn read_password() -> Result<String, Failure> {
    // The longest password, the end of its line, and one byte that shows that there is more.
    let bytes_max = PASSWORD_BYTES_MAX as u64 + 3;
    let mut text = String::new();
    io::stdin()
        .take(bytes_max)
        .read_to_string(&mut text)
        .map_err(|error| failed(format!("cannot read the password from standard input: {error}")))?;
    let line = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.contains(['\n', '\r']) {
        return Err(failed("standard input has more than one line: a password is one"));
    }
    Ok(line.to_owned())
}

fn list(flags: &ListFlags) -> Result<(), Failure> {
    let config = flags.data.resolve().map_err(usage)?;
    let path = place::find(&config.data_dir).map_err(failed)?;
    let db = connection::open_to_read(&path).map_err(|error| cannot_open(&path, &error))?;
    if !flags.json {
        let title =
            format!("{:NICKNAME_CHARS_MAX$}  {:24}  {:8}  WAITING\n", "NICKNAME", "REGISTERED", "LOGIN");
        if !write(title.as_bytes()).map_err(failed)? {
            return Ok(());
        }
    }
    let mut after = String::new();
    loop {
        let page = accounts::list(&db, &after, LIST_PAGE).map_err(failed)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.name.folded().to_owned();
        let mut out = String::new();
        for user in &page {
            out.push_str(&if flags.json { object(user) } else { row(user) });
            out.push('\n');
        }
        if !write(out.as_bytes()).map_err(failed)? {
            return Ok(());
        }
    }
}

/// A user as programs get one.
#[derive(Serialize)]
struct Object<'a> {
    nickname: &'a str,
    /// In milliseconds since the Unix epoch.
    registered: u64,
    disabled: bool,
    waiting: u64,
}

fn object(user: &accounts::Listed) -> String {
    let object = Object {
        nickname: user.name.as_str(),
        registered: user.created_ms,
        disabled: user.is_disabled,
        waiting: user.waiting,
    };
    serde_json::to_string(&object).expect("plain values become JSON")
}

fn row(user: &accounts::Listed) -> String {
    let mut registered = String::new();
    push_time(&mut registered, user.created_ms);
    let login = if user.is_disabled { "disabled" } else { "enabled" };
    let name = user.name.as_str();
    format!("{name:NICKNAME_CHARS_MAX$}  {registered:24}  {login:8}  {:7}", user.waiting)
}
