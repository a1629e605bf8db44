//! The client at a terminal: keys and events are carried to the [`App`], what it asks to the server, and what it shows to the screen.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event as Key};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use starling_client::crossbeam_channel::{Receiver, bounded, never, select, unbounded};
use starling_client::{Client, Error, Event, JoinOptions, Options, Ticket};

use crate::app::{App, Ask, Effect, FIRST_PAGE, Server, Settings};
use crate::clock;
use crate::terminal::{self, Screen};

/// How many events are taken in before the screen is drawn again.
const EVENTS_A_TURN: usize = 500;

/// How often it is drawn at most.
const DRAW_EVERY: Duration = Duration::from_millis(20);

/// For how long what was said just now may still be under way when one quits.
const GOODBYE: Duration = Duration::from_secs(2);

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How many messages were not sent, as far as one knows.
    pub unsent: usize,
    /// What is lost of an earlier run.
    pub lost: Option<String>,
}

/// The client library, once there is a nickname to connect with.
struct Library<'a> {
    options: &'a dyn Fn(Option<String>) -> Options,
    client: Option<Client>,
    /// What cannot be put right while it runs.
    wrong: Option<Error>,
}

/// A ticket of what has no answer.
const NO_TICKET: Ticket = Ticket(0);

impl Server for Library<'_> {
    fn ask(&mut self, ask: Ask) -> Result<Ticket, Error> {
        let client = match (&self.client, ask) {
            (None, Ask::Connect(nickname)) => {
                match Client::connect((self.options)(nickname)) {
                    Ok(client) => self.client = Some(client),
                    Err(error) => {
                        self.wrong = Some(error);
                        return Err(Error::Stopped);
                    }
                }
                return Ok(NO_TICKET);
            }
            (None, _) => return Err(Error::Stopped),
            (Some(client), ask) => (client, ask),
        };
        let (client, ask) = client;
        match ask {
            Ask::Connect(Some(nickname)) | Ask::Nick(nickname) => {
                client.nick(&nickname).map(|request| request.ticket())
            }
            Ask::Connect(None) | Ask::Reconnect => client.reconnect().map(|()| NO_TICKET),
            Ask::Join(room) => {
                let options = JoinOptions::default().history(FIRST_PAGE).overflow_gap();
                client.join_with(&room, options).map(|request| request.ticket())
            }
            Ask::Leave(room) => client.leave(&room).map(|request| request.ticket()),
            Ask::Say(room, text) => client.send(&room, &text).map(|receipt| receipt.ticket()),
            Ask::Private(nickname, text) => client.private(&nickname, &text).map(|receipt| receipt.ticket()),
            Ask::Typing(room) => client.typing(&room).map(|()| NO_TICKET),
            Ask::Command(command) => client.command(command).map(|request| request.ticket()),
        }
    }
}

/// Runs until somebody has had enough. `options` makes those of the library for a nickname.
///
/// # Errors
/// One line for a person, if the terminal cannot be used or the options are wrong.
pub fn run(
    settings: Settings,
    has_mouse: bool,
    options: &dyn Fn(Option<String>) -> Options,
) -> Result<Ended, Failure> {
    let failed = |error: io::Error| Failure::Terminal(error.to_string());
    let mut server = Library { options, client: None, wrong: None };
    let mut app = App::new(settings, (80, 24));
    let began = Instant::now();
    app.now_ms = clock::now_ms();
    // Before the terminal is taken, so that what is wrong with the options stays to be read.
    app.start(&mut server);
    if let Some(error) = server.wrong {
        return Err(Failure::Options(error.to_string()));
    }
    let signals = heed_signals().map_err(failed)?;
    let mut screen = Screen::open(has_mouse).map_err(failed)?;
    app.size = screen.size();
    let keys = read_keys().map_err(failed)?;
    let mut drawn: Option<Instant> = None;
    let mut is_stale = true;
    let mut has_signal = false;
    loop {
        let wait = if is_stale {
            drawn.map_or(Duration::ZERO, |drawn| DRAW_EVERY.saturating_sub(drawn.elapsed()))
        } else {
            app.wakes().map_or(Duration::from_secs(60), |at| at.saturating_sub(began.elapsed()))
        };
        let events = server.client.as_ref().map_or_else(never, |client| client.receiver().clone());
        let (mut key, mut event) = (None, None);
        select! {
            recv(keys) -> news => key = Some(news),
            // A client without its thread hears nothing any more.
            recv(events) -> news => {
                has_signal |= news.is_err();
                event = news.ok();
            }
            recv(signals) -> _ => has_signal = true,
            default(wait) => {}
        }
        app.now = began.elapsed();
        app.now_ms = clock::now_ms();
        match key {
            Some(Ok(Ok(key))) => app.event(&key, &mut server),
            // The terminal is gone.
            Some(Ok(Err(_)) | Err(_)) => has_signal = true,
            None => {}
        }
        take_in(&mut app, event, &events, &mut server);
        // Everything that is there, before it is drawn: a paste into a terminal that brackets none, for example.
        for key in keys.try_iter().flatten().take(EVENTS_A_TURN) {
            app.event(&key, &mut server);
        }
        if terminal::has_panicked() {
            return Err(Failure::Terminal("a thread has panicked".to_owned()));
        }
        let mut has_quit = has_signal;
        for effect in app.take_effects() {
            match effect {
                Effect::Bell => screen.bell().map_err(failed)?,
                Effect::Redraw => {
                    app.size = screen.size();
                    screen.forget();
                }
                Effect::Quit => has_quit = true,
            }
        }
        is_stale = true;
        if let Some(error) = server.wrong {
            return Err(Failure::Options(error.to_string()));
        }
        if has_quit {
            let is_asked = app.unsent() > 0 && !has_signal;
            drop(screen);
            let patience = if is_asked { Duration::ZERO } else { GOODBYE };
            let unsent = server.client.map_or(0, |client| client.close(patience));
            return Ok(Ended { unsent, lost: app.lost });
        }
        if drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW_EVERY) {
            screen.draw(&app).map_err(failed)?;
            drawn = Some(Instant::now());
            is_stale = false;
        }
    }
}

fn take_in(app: &mut App, first: Option<Event>, events: &Receiver<Event>, server: &mut Library) {
    for event in first.into_iter().chain(events.try_iter().take(EVENTS_A_TURN)) {
        app.heard(event, server);
    }
}

/// Why it could not be run.
#[derive(Debug)]
pub enum Failure {
    /// The options are wrong.
    Options(String),
    /// The terminal cannot be used.
    Terminal(String),
}

/// Signals that end it, as they come.
///
/// # Errors
/// When they cannot be caught.
pub fn heed_signals() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGTERM, SIGHUP, SIGINT])?;
    let (tell, heard) = unbounded();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if tell.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(heard)
}

fn read_keys() -> io::Result<Receiver<io::Result<Key>>> {
    let (tell, heard) = bounded(EVENTS_A_TURN);
    thread::Builder::new().name("keys".to_owned()).spawn(move || {
        loop {
            let key = event::read();
            let is_over = key.is_err();
            if tell.send(key).is_err() || is_over {
                return;
            }
        }
    })?;
    Ok(heard)
}
