//! The command line: one file a subcommand, and here what they share.

pub mod bench;
pub mod cert;
pub mod chat;
pub mod check;
pub mod completions;
pub mod config;
pub mod doctor;
mod flags;
pub mod man;
pub mod serve;
pub mod store;
pub mod token;
pub mod top;
pub mod user;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser, Subcommand};
use rusqlite::ErrorCode;

use crate::store::StoreError;
pub use flags::{DataFlags, Flags};

/// What the program is asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server until SIGTERM or SIGINT
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<Flags>),
    /// Print the configuration in effect as a commented TOML file
    #[command(after_help = CONFIG_EXAMPLES)]
    Config(Box<Flags>),
    /// Check a configuration file, and the keys and certificates that it names
    #[command(after_help = CHECK_EXAMPLES)]
    Check(check::CheckFlags),
    /// Look at this machine: what is not as a server wants it, why that matters, and the commands that change it
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(Box<doctor::DoctorFlags>),
    /// Print a token for a user, signed with the configured secret or a private key
    #[command(after_help = TOKEN_EXAMPLES)]
    Token(Box<token::TokenFlags>),
    /// Make a certificate and its key, for trying TLS
    #[command(after_help = cert::EXAMPLES)]
    Cert(cert::CertFlags),
    /// Register users, change and disable them, also while the server runs
    #[command(subcommand, after_help = user::EXAMPLES)]
    User(user::UserCommand),
    /// Look at the store, check it, back it up and export rooms, also while the server runs
    #[command(subcommand, after_help = store::EXAMPLES)]
    Store(store::StoreCommand),
    /// Watch a server in the terminal: what its dashboard shows
    #[command(after_help = top::EXAMPLES)]
    Top(top::TopFlags),
    /// Chat in the terminal, or send lines from a pipe
    #[command(after_help = chat::EXAMPLES)]
    Chat(Box<chat::ChatFlags>),
    /// Measure a server: load with an open or closed loop, latencies, CPU, and an audit of every message
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Box<bench::BenchFlags>),
    /// Print what a shell needs to complete the arguments
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::CompletionsFlags),
    /// Write the manual pages
    #[command(after_help = man::EXAMPLES)]
    Man(man::ManFlags),
}

/// The name that the program goes by.
const PROGRAM: &str = "starling";

#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, about = "A chat and realtime message server", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  starling serve                            on 127.0.0.1: web 8080, lines 9000, frames 9001, gRPC 50051
  starling serve --config starling.toml
  starling config > starling.toml           a commented file to start from
  starling check starling.toml              whether a server would take it
  starling doctor                           whether this machine is ready for it
  starling token --sub alice                a token by which alice says hello
  starling cert                             cert.pem and key.pem for trying TLS
  starling user add alice                   a user with a password
  starling store stats                      what the server keeps on disk
  starling top                              what a server does at the moment
  starling chat --nickname alice            chat with whoever is there
  starling bench fanout                     what a message to 1,000 costs here

Exit codes: 0 ok, 1 failed while running (a port is taken), 2 wrong arguments or
configuration.";

const SERVE_EXAMPLES: &str = "\
Examples:
  starling serve --web 0.0.0.0:8080 --line 0.0.0.0:9000
  starling serve --listen 'web=[::1]:8080' --listen web=127.0.0.1:8080
  starling serve --web unix:/run/starling/web.sock           a path, not a port
  starling serve --tls-cert cert.pem --tls-key key.pem       all listeners over TLS
  starling serve --tls-cert cert.pem --tls-key key.pem \\
      --listen web+tls=0.0.0.0:8443 --listen web=127.0.0.1:8080
  starling serve --cores 2 --set limits.content_bytes=16384
  STARLING_LOG_LEVEL=debug starling serve --log-file starling.log --log-format json

Flags come before STARLING_* variables, these before the file, the file before
the defaults. Every key has a variable: limits.content_bytes is
STARLING_LIMITS_CONTENT_BYTES. `starling config` shows them all.

Standard output tells one line a listener (`listening web 127.0.0.1:8080`) once
it takes connections, with ` tls` behind it where it is encrypted; the log goes to
standard error. SIGHUP has the configuration and certificates read again, and the
log file opened again; SIGUSR1 the log file alone.";

const CONFIG_EXAMPLES: &str = "\
Examples:
  starling config > starling.toml           the defaults, as a file to edit
  starling config --config starling.toml    what is in effect, or what is wrong

The output holds the secrets of the configuration.";

const CHECK_EXAMPLES: &str = "\
Examples:
  starling check starling.toml
  starling check starling.toml && kill -HUP \"$(pidof starling)\"

STARLING_* variables count as they do for a server. Nothing is opened that a
server which runs has: no port, no store, no log file.

Exit codes: 0 a server would take it, 2 it would not, and why.";

const TOKEN_EXAMPLES: &str = "\
Examples:
  starling token --sub alice --config starling.toml
  starling token --sub bob --room lobby --room 'team-*' --tag beta --ttl 30d
  starling token --sub root --admin --ttl 15m --config starling.toml \\
      --signing-key private.pem

Algorithm, secret, audience and issuer come from the configuration of the
server: auth.jwt_algorithm, auth.jwt_secret, auth.jwt_audience, auth.jwt_issuer.
RS256, ES256 and EdDSA sign with --signing-key, which the server never needs.

Standard output has the token alone; what it says goes to standard error if that
is a terminal, or with -v. Whoever has the token is the user: keep it as a secret.";

const BENCH_EXAMPLES: &str = "\
Examples:
  starling bench echo                             round trips at /echo of a server
                                                  that is started for the run
  starling bench fanout -c 1000 --rate 500        open loop: 500 messages a second
  starling bench fanout -c 1000 -p 10 -i 8        closed loop: 10 publishers with 8
                                                  under way each
  starling bench fanout --transport frames+proto
  starling bench fanout --transport ws+tls
  starling bench rooms --find-max --slo p99=5ms   the highest rate that holds
  starling bench idle -c 100000 --sources 127.0.0.2-127.0.0.9
  starling bench fanout --target ws://10.0.0.5:8080/ws --pid 4711
  starling bench fanout --target ws-any://127.0.0.1:3000/chat \\
      --hello '{\"join\":\"{room}\"}' --publish '{\"say\":\"{content}\"}'
  starling bench fanout --json a.json --label before
  starling bench plot a.json b.json -o ab.html

Every message says who sent it, as which of its own, and when it was due. What
is missing, repeated or out of order is counted, and fails the run. With --rate
latency counts from the time that a message was due, not from when it was sent.

Standard output has a table, or with `--json -` the JSON; progress goes to
standard error. docs/bench.md says what each figure means.

Exit codes: 0 ok, 1 the audit failed or the run could not be made, 2 wrong
arguments, 130 interrupted.";

/// The arguments as clap knows them: every subcommand and flag, with its help. What completions and manual pages are made of.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Reads the arguments. `Err` is the exit code where there is nothing more to do: help was printed, or an error.
pub fn arguments() -> Result<Command, ExitCode> {
    Arguments::try_parse().map(|arguments| arguments.command).map_err(|mut error| {
        hide_stray_value(&mut error);
        // A closed pipe behind `--help | head` is no failure, so the result does not matter.
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE))
    })
}

/// A word too many is often the value of a flag before it (`--set auth.jwt_secret SECRET`), and what is written to standard error is kept
/// by supervisors.
fn hide_stray_value(error: &mut clap::Error) {
    let is_flag = |word: &ContextValue| matches!(word, ContextValue::String(word) if word.starts_with('-'));
    if error.kind() == ErrorKind::UnknownArgument
        && error.get(ContextKind::InvalidArg).is_some_and(|word| !is_flag(word))
    {
        let hidden = "not shown: it may be a secret; a flag's value goes with it, as in --set KEY=VALUE";
        error.insert(ContextKind::InvalidArg, ContextValue::String(hidden.to_owned()));
    }
}

/// The exit code for a failure at run time.
const EXIT_FAILURE: u8 = 1;
/// The exit code for wrong arguments or a wrong configuration.
const EXIT_USAGE: u8 = 2;

/// Tells a person why, and gives the exit code back. Not `eprintln!`, which panics where standard error is closed.
fn fail(code: u8, why: impl Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "starling: {why}");
    ExitCode::from(code)
}

/// Writes to standard output, and says whether somebody still reads it: `.. | head` is no failure.
fn write(bytes: &[u8]) -> Result<bool, String> {
    match io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("cannot write to standard output: {error}")),
    }
}

/// What went wrong with the store at `path`, and what to do where that is known.
fn about_store(path: &Path, error: &StoreError) -> String {
    let hint = match error.code {
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            "; be the user that the server runs as"
        }
        _ => "",
    };
    format!("{}: {error}{hint}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_declared_without_contradiction() {
        command().debug_assert();
    }
}
