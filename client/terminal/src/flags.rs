//! What the client is told on the command line.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use starling_client::{Options, Reason};

use crate::app::Settings;
use crate::{clock, plain};

/// What `--help` shows below the flags.
pub const EXAMPLES: &str = "\
Examples:
  starling chat                             the server on this machine, in lobby
  starling chat --nickname alice --room ops --room lobby
  starling chat wss://chat.example.com      over TLS; without a path it is /ws
  starling chat wss://localhost:8443 --ca cert.pem
  starling chat frame://127.0.0.1:9001      the listener for binary frames
  STARLING_TOKEN=\"$(cat alice.token)\" starling chat

  tail -f log | starling chat --room ops --nickname bot
  echo done | starling chat --room ops --nickname bot --quiet && echo told
  starling chat --room ops --nickname ear --listen | grep --line-buffered urgent

F1 shows keys and commands, Ctrl-C on an empty line quits. NO_COLOR is respected.

Where standard input or output is no terminal, or with --plain, each line of
standard input is a message to the first room, and what is heard goes to standard
output, a line each; what happens to the connection, to standard error. Lines are
sent once and in order, also when the connection is lost meanwhile. At the end of
the input it waits until all of it is acknowledged. If it is stopped before, it says
up to which line the input was read.

Exit codes: 0 ok, in plain mode: every line was acknowledged; 1 something was not
sent, a part of the journal was lost, the server refuses, or the address or the
certificate is wrong on the first attempt (--wait goes on); 2 wrong arguments.";

/// The flags of `starling chat`.
#[derive(Args, Debug, Clone)]
pub struct Flags {
    /// Where the server is: ws://, wss://, http://, https://, frame:// or frames://
    #[arg(value_name = "URL", default_value = "ws://127.0.0.1:8080/ws")]
    pub url: String,
    /// Who you are, without a token; asked for at a terminal
    #[arg(long, short, value_name = "NAME")]
    pub nickname: Option<String>,
    /// A token that says who you are. Others here can see arguments: prefer the variable
    #[arg(long, value_name = "TOKEN", env = "STARLING_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A room to join; may be given several times [default: lobby]
    #[arg(long, short, value_name = "ROOM")]
    pub room: Vec<String>,
    /// The roots of the server's certificate (PEM), instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Keep trying where the address or the certificate seems to be wrong, as while a server is being set up
    #[arg(long)]
    pub wait: bool,
    /// Keep what is sent in this file until it is acknowledged, and go on with what an earlier run left there; a file that
    /// is none of starling's journals is refused
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Scroll and choose rooms with the mouse; the terminal selects text only with Shift then
    #[arg(long, overrides_with = "no_mouse")]
    pub mouse: bool,
    /// Leave the mouse to the terminal, which is the default
    #[arg(long)]
    pub no_mouse: bool,
    /// Do not ring when your name is said
    #[arg(long)]
    pub no_bell: bool,
    /// Lines in, lines out, also at a terminal
    #[arg(long)]
    pub plain: bool,
    /// In plain mode: tell nothing that is heard
    #[arg(long, short)]
    pub quiet: bool,
    /// In plain mode: read nothing, and listen until stopped
    #[arg(long, conflicts_with = "quiet")]
    pub listen: bool,
    /// In plain mode: how long to wait at the end until all is acknowledged, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = a_time)]
    pub timeout: f64,
}

fn a_time(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=1e9).contains(&seconds) => Ok(seconds),
        _ => Err("write a number of seconds, such as 30".to_owned()),
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Done,
    /// Not, and why.
    Failed(String),
    /// The arguments are wrong.
    Usage(String),
}

/// Runs `starling chat`.
pub fn run(flags: &Flags) -> Outcome {
    let token = flags.token.as_deref().map(str::trim).filter(|token| !token.is_empty());
    let nickname = flags.nickname.clone().filter(|nickname| !nickname.is_empty());
    let rooms = if flags.room.is_empty() { vec!["lobby".to_owned()] } else { flags.room.clone() };
    let options = |nickname: Option<String>| {
        let mut options = Options::new(&flags.url);
        if let Some(nickname) = nickname {
            options = options.nickname(nickname);
        }
        if let Some(token) = token {
            options = options.token(token);
        }
        if let Some(ca) = &flags.ca {
            options = options.certificates(ca);
        }
        if flags.wait {
            options = options.keep_trying();
        }
        if let Some(journal) = &flags.journal {
            options = options.journal(journal);
        }
        options
    };
    let is_plain = flags.plain || flags.listen || !io::stdin().is_terminal() || !io::stdout().is_terminal();
    if is_plain {
        if nickname.is_none() && token.is_none() {
            return Outcome::Usage("who are you? Name a --nickname, or set STARLING_TOKEN".to_owned());
        }
        if let (Some(nickname), Some(_)) = (&nickname, token) {
            plain::tell(&token_counts(nickname));
        }
        let plain = plain::Plain {
            rooms,
            is_quiet: flags.quiet,
            is_listening: flags.listen,
            has_journal: flags.journal.is_some(),
            timeout: Duration::from_secs_f64(flags.timeout),
        };
        return plain::run(&plain, options(nickname));
    }
    let settings = Settings {
        url: flags.url.clone(),
        nickname,
        has_token: token.is_some(),
        has_journal: flags.journal.is_some(),
        rooms,
        is_coloured: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        has_bell: !flags.no_bell,
        to_local: clock::local,
    };
    match crate::run::run(settings, flags.mouse, &options) {
        Ok(ended) if ended.unsent == 0 => ended.lost.map_or(Outcome::Done, Outcome::Failed),
        Ok(ended) => {
            let kept = if flags.journal.is_some() { ended.unsent } else { 0 };
            let unsent = unsent(ended.unsent, None, kept);
            Outcome::Failed(ended.lost.map_or(unsent.clone(), |lost| format!("{lost}; {unsent}")))
        }
        Err(crate::run::Failure::Options(why)) => Outcome::Usage(why),
        Err(crate::run::Failure::Terminal(why)) => {
            Outcome::Failed(format!("the terminal cannot be used: {why}"))
        }
    }
}

/// Tells that a nickname is of no use.
pub(crate) fn token_counts(nickname: &str) -> String {
    format!("the token says who you are: --nickname {nickname} does not count")
}

/// Why there is no connection, with the flag that may help.
pub(crate) fn why(reason: &Reason) -> String {
    match reason {
        Reason::Untrusted(_) => format!("{reason}: --ca FILE names the certificate to trust"),
        reason => reason.to_string(),
    }
}

/// Tells that a part of the journal is lost.
pub(crate) fn damaged(bytes: u64, copy: &Path) -> String {
    let bytes = if bytes == 1 { "1 byte of it".to_owned() } else { format!("{bytes} bytes of it") };
    format!(
        "the journal was damaged: {bytes} could not be read, and the messages in them are lost; as it was found it is kept as {}",
        copy.display()
    )
}

/// Tells how many messages were not sent, and from which line on, and how many of them wait in a journal.
pub(crate) fn unsent(count: usize, first: Option<u64>, kept: usize) -> String {
    let messages = if count == 1 { "message is" } else { "messages are" };
    let from = first.map_or(String::new(), |line| format!(" from line {line} on"));
    let kept = match kept {
        0 => String::new(),
        1 if count == 1 => "; the journal keeps it for the next run".to_owned(),
        kept if kept >= count => "; the journal keeps them for the next run".to_owned(),
        kept => format!("; the journal keeps {kept} of them for the next run"),
    };
    format!("{count} {messages} unsent{from}{kept}")
}

#[cfg(test)]
mod tests {
    use super::unsent;

    #[test]
    fn what_is_unsent_is_told() {
        assert_eq!(unsent(1, Some(1), 0), "1 message is unsent from line 1 on");
        assert_eq!(unsent(2, None, 2), "2 messages are unsent; the journal keeps them for the next run");
        assert_eq!(unsent(1, None, 1), "1 message is unsent; the journal keeps it for the next run");
        assert_eq!(
            unsent(3, Some(7), 2),
            "3 messages are unsent from line 7 on; the journal keeps 2 of them for the next run"
        );
    }
}
