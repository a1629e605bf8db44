//! `starling top`: what the dashboard of a server shows, in a terminal.

mod feed;
mod screen;
mod text;
mod view;

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use clap::Args;

use super::{EXIT_FAILURE, EXIT_USAGE, fail, write};
use crate::sys::{signals, threads};
use feed::{Feed, News, Target};
use screen::{Asked, Screen};
use view::View;

/// What `starling top --help` shows below the flags.
pub const EXAMPLES: &str = "\
Examples:
  starling top                              the server on this machine
  starling top http://10.0.0.5:8080 --token-file admin.token
  starling top https://chat.example.com --ca root.pem --token-file admin.token
  starling top --once                       one snapshot as text
  starling top --json | jq .rates           a snapshot a second, each a line

q, Esc or Ctrl-C ends it. Where standard output is no terminal it is as with
--once. NO_COLOR is respected. docs/dashboard.md says what each figure means, and
who may look.

Exit codes: 0 ok, 1 the server cannot be reached or refuses, 2 wrong arguments.";

/// How often a terminal is looked at for keys, and the screen for what has become old.
const LOOK: Duration = Duration::from_millis(100);

/// The flags of `starling top`.
#[derive(Args, Debug)]
pub struct TopFlags {
    /// Where the server's web listener is
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A token of an admin; needed unless the server is on this machine. Others here can see arguments: prefer --token-file
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with that token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The roots of the server's certificate (PEM), where it is encrypted
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Take any certificate of the server: whoever is between can read the token
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// Print one snapshot as text, and end
    #[arg(long)]
    once: bool,
    /// Print snapshots as lines of JSON
    #[arg(long)]
    json: bool,
}

/// Runs `starling top`.
pub fn run(flags: &TopFlags) -> ExitCode {
    let target = match target(flags) {
        Ok(target) => target,
        Err(why) => return fail(EXIT_USAGE, why),
    };
    let has_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    let shown = match flags {
        TopFlags { json: true, .. } => print_json(target, flags.once),
        TopFlags { once: false, .. } if has_terminal => draw(target),
        _ => print_once(target),
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(EXIT_FAILURE, why),
    }
}

fn target(flags: &TopFlags) -> Result<Target, String> {
    let read = |flag: &str, path: &PathBuf| {
        fs::read(path).map_err(|why| format!("{flag}: cannot read {}: {why}", path.display()))
    };
    let token = match (&flags.token, &flags.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(path)) => {
            let text = String::from_utf8(read("--token-file", path)?);
            Some(text.map_err(|_| format!("--token-file: {} holds no token", path.display()))?)
        }
        (None, None) => None,
    };
    let token = token.map(|token| token.trim().to_owned());
    if token.as_ref().is_some_and(|token| token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic())) {
        return Err("the token is empty, or has characters that no token has".into());
    }
    let roots = flags.ca.as_ref().map(|path| read("--ca", path)).transpose()?;
    Target::parse(&flags.url, token, roots.as_deref(), flags.insecure)
}

/// One snapshot as text.
fn print_once(target: Target) -> Result<(), String> {
    let url = target.url.clone();
    let snapshot = Feed::open(target)?.next_snapshot()?;
    let mut view = View::new(url);
    view.add(&snapshot)?;
    write(view.plain().as_bytes()).map(drop)
}

/// Snapshots as lines of JSON, until nobody reads them any more.
fn print_json(target: Target, is_once: bool) -> Result<(), String> {
    let mut feed = Feed::open(target)?;
    loop {
        let snapshot = feed.next_snapshot()?;
        let is_read = write(format!("{}\n", snapshot.trim_end()).as_bytes())?;
        if is_once || !is_read {
            return Ok(());
        }
    }
}

/// The whole screen, until somebody has seen enough.
fn draw(target: Target) -> Result<(), String> {
    // Before there is a second thread: a signal must not end the process with a terminal that is not as it was.
    signals::block().map_err(|why| format!("signals cannot be blocked: {why}"))?;
    let mut view = View::new(target.url.clone());
    // The first connection is made before anything is drawn, so that what is wrong with it stays to be read.
    let feed = Feed::open(target)?;
    let (tell, heard) = mpsc::channel();
    let ending = tell.clone();
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        threads::spawn(name.to_owned(), run).map_err(|why| format!("cannot start a thread: {why}"))
    };
    spawn("feed", Box::new(move || feed.follow(&tell)))?;
    spawn(
        "signals",
        Box::new(move || {
            if signals::wait().is_ok() {
                let _ = ending.send(News::Ended);
            }
        }),
    )?;
    let failed = |why: io::Error| format!("the terminal cannot be used: {why}");
    let mut screen = Screen::open().map_err(failed)?;
    screen.draw(&view).map_err(failed)?;
    loop {
        let mut is_changed = match heard.recv_timeout(LOOK) {
            Ok(News::Snapshot(snapshot)) => view.add(&snapshot).map(|()| true)?,
            Ok(News::Trouble(why)) => {
                view.set_trouble(why);
                true
            }
            Ok(News::Refused(why)) => return Err(why),
            Ok(News::Ended) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => false,
        };
        match screen.asked().map_err(failed)? {
            Some(Asked::End) => return Ok(()),
            Some(Asked::Redraw) => is_changed = true,
            None => {}
        }
        if is_changed {
            screen.draw(&view).map_err(failed)?;
        }
    }
}
