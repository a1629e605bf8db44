//! The client for pipes: lines in are messages, what is heard are lines out.

mod lines;
mod told;

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use starling_client::crossbeam_channel::{Receiver, after, never, select};
use starling_client::name::fold;
use starling_client::{Client, Delivery, Error, Event, JoinOptions, Options, Reply, Ticket};

use crate::flags::{self, Outcome, damaged, unsent};
use crate::run::heed_signals;
use crate::text::seconds;
use lines::Input;

/// How many lines wait to be acknowledged before no more are read.
const SEND_QUEUE: (usize, usize) = (1024, 8 << 20);

/// How many events are told before what they say is written.
const EVENTS_A_TURN: usize = 1024;

/// For how long what is under way may still be, when a signal ends it.
const GOODBYE: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Debug, Clone)]
pub struct Plain {
    /// Rooms to join; lines go to the first one.
    pub rooms: Vec<String>,
    /// Whether nothing is told that is heard.
    pub is_quiet: bool,
    /// Whether nothing is read.
    pub is_listening: bool,
    /// Whether what is unsent at the end is kept for another run.
    pub has_journal: bool,
    /// How long to wait at the end until all is acknowledged.
    pub timeout: Duration,
}

/// Why it ends.
#[derive(Debug, Clone, Copy)]
enum Why {
    /// All is acknowledged.
    Done,
    /// Somebody wants it to.
    Signal,
    /// It has taken too long.
    Timeout,
    /// Nobody reads what it writes.
    Closed,
    /// It cannot go on.
    Over,
}

/// How far it is.
struct Pipe<'a> {
    plain: &'a Plain,
    client: Client,
    /// What has been asked to be sent, and from which line.
    open: HashMap<Ticket, u64>,
    joins: HashMap<Ticket, String>,
    /// A line that had no place, with its number.
    held: Option<(u64, String)>,
    /// The last line that was sent, or failed: who goes on after an interruption does so from the next.
    last_line: u64,
    /// Whether the input has ended.
    is_read: bool,
    /// How many lines were not sent, for whatever reason.
    failed: usize,
    /// Lines that were given up at the end, which are told together.
    given_up: Vec<u64>,
    /// What is lost although nothing has failed.
    lost: Option<String>,
    /// Why it cannot go on.
    over: Option<String>,
    is_ending: bool,
    /// What is to be written.
    out: Vec<u8>,
    is_out_closed: bool,
    was_online: bool,
}

/// Runs until the input has ended and all of it is acknowledged.
pub fn run(plain: &Plain, options: Options) -> Outcome {
    let options = options.send_queue(SEND_QUEUE.0, SEND_QUEUE.1);
    let client = match Client::connect(options) {
        Ok(client) => client,
        Err(error) => return Outcome::Usage(error.to_string()),
    };
    let signals = match heed_signals() {
        Ok(signals) => signals,
        Err(why) => return Outcome::Failed(format!("signals cannot be caught: {why}")),
    };
    let mut pipe = Pipe {
        plain,
        client,
        open: HashMap::new(),
        joins: HashMap::new(),
        held: None,
        last_line: 0,
        is_read: false,
        failed: 0,
        given_up: Vec::new(),
        lost: None,
        over: None,
        is_ending: false,
        out: Vec::new(),
        is_out_closed: false,
        was_online: false,
    };
    for room in &plain.rooms {
        match pipe.client.join_with(room, JoinOptions::default().no_echo()) {
            Ok(request) => _ = pipe.joins.insert(request.ticket(), room.clone()),
            // Why it has comes as an event.
            Err(Error::Stopped) => {}
            Err(error) => return Outcome::Usage(format!("{room}: {error}")),
        }
    }
    let input = if plain.is_listening { Ok(never()) } else { lines::read(io::stdin()) };
    match input {
        Ok(input) => pipe.run(&input, &signals),
        Err(why) => Outcome::Failed(format!("standard input cannot be read: {why}")),
    }
}

impl Pipe<'_> {
    fn run(mut self, input: &Receiver<Input>, signals: &Receiver<i32>) -> Outcome {
        let events = self.client.receiver().clone();
        let (nothing, forever) = (never(), never());
        let mut ends_at: Option<Instant> = None;
        let mut why = None;
        loop {
            // No faster than lines are acknowledged.
            let input = if self.held.is_none() && ends_at.is_none() { input } else { &nothing };
            let deadline = ends_at
                .map_or_else(|| forever.clone(), |at| after(at.saturating_duration_since(Instant::now())));
            select! {
                recv(input) -> line => match line {
                    Ok(line) => ends_at = self.take(line).then(|| Instant::now() + self.plain.timeout),
                    Err(_) => ends_at = Some(Instant::now() + self.plain.timeout),
                },
                recv(events) -> event => {
                    if event.is_err() {
                        // A client without its thread hears nothing any more.
                        self.over.get_or_insert_with(|| "the client has ended".to_owned());
                    }
                    for event in event.ok().into_iter().chain(events.try_iter().take(EVENTS_A_TURN)) {
                        self.heard(event);
                    }
                    if let Some((number, line)) = self.held.take() {
                        self.send(number, line);
                    }
                },
                recv(signals) -> _ => why = Some(Why::Signal),
                recv(deadline) -> _ => why = Some(Why::Timeout),
            }
            self.write();
            let is_done = ends_at.is_some()
                && self.held.is_none()
                && self.client.unanswered() == 0
                && self.joins.is_empty();
            let why = match why {
                _ if self.over.is_some() => Some(Why::Over),
                _ if self.is_out_closed => Some(Why::Closed),
                None => is_done.then_some(Why::Done),
                why => why,
            };
            if let Some(why) = why {
                return self.end(why);
            }
        }
    }

    /// Something has come from standard input. Whether it was its end.
    fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Line(number, line) => self.send(number, line),
            Input::Wrong(number, why) => {
                self.last_line = number;
                self.fail(number, &why);
            }
            Input::Failed(why) => self.over = Some(format!("standard input cannot be read: {why}")),
            Input::End => {
                self.is_read = true;
                return true;
            }
        }
        false
    }

    fn send(&mut self, number: u64, line: String) {
        let before = std::mem::replace(&mut self.last_line, number);
        match self.client.send(&self.plain.rooms[0], &line) {
            Ok(receipt) => _ = self.open.insert(receipt.ticket(), number),
            Err(Error::QueueFull) => {
                self.last_line = before;
                self.held = Some((number, line));
            }
            // Why it has stopped comes as an event.
            Err(Error::Stopped) => self.fail(number, "the client has stopped"),
            Err(error) => self.fail(number, &error.to_string()),
        }
    }

    fn fail(&mut self, number: u64, why: &str) {
        self.failed += 1;
        let line = if number == 0 { "a line of an earlier run".to_owned() } else { format!("line {number}") };
        tell(&format!("{line} was not sent: {why}"));
    }

    fn heard(&mut self, event: Event) {
        match &event {
            Event::Online(welcome) => {
                let resumed = match (self.was_online, welcome.resumed) {
                    (false, _) => "",
                    (true, true) => " again",
                    (true, false) => " again, in a new session",
                };
                self.was_online = true;
                tell(&format!("online as {}{resumed}", welcome.nickname));
            }
            Event::Waiting { delay, reason } => {
                tell(&format!("{}; again in {}", flags::why(reason), seconds(*delay)));
            }
            Event::Stopped(_) | Event::Left(_) | Event::Reply { .. } if self.is_ending => {}
            Event::Stopped(reason) => self.over = Some(flags::why(reason)),
            Event::Delivery { ticket, delivery } if delivery.is_final() => {
                let number = self.open.remove(ticket);
                if let Delivery::Failed(failure) = delivery {
                    match number {
                        Some(number) if self.is_ending => self.given_up.push(number),
                        Some(number) => self.fail(number, &failure.to_string()),
                        None => self.failed += 1,
                    }
                }
            }
            Event::Reply { ticket, reply } => {
                if let Some(room) = self.joins.remove(ticket)
                    && !matches!(reply, Ok(Reply::Joined(_)))
                {
                    let why =
                        reply.as_ref().err().map_or_else(|| "no answer".to_owned(), ToString::to_string);
                    self.over.get_or_insert(format!("{room} cannot be joined: {why}"));
                }
            }
            Event::Left(left) if fold(&left.room) != fold(&self.plain.rooms[0]) => {
                tell(&format!("no more in {}: {}", left.room, left.reason));
            }
            Event::Left(left) => self.over = Some(format!("no more in {}: {}", left.room, left.reason)),
            Event::JournalDamaged { bytes, copy } => {
                let damaged = damaged(*bytes, copy);
                tell(&damaged);
                self.lost = Some(damaged);
            }
            Event::Restored { ticket, content, .. } => {
                self.open.insert(*ticket, 0);
                tell(&format!("from an earlier run: {content}"));
            }
            Event::Restarted { room, .. } => {
                tell(&format!("the history of {room} has begun afresh: something may be lost"))
            }
            Event::Other(value) if value["type"] == "error" => {
                tell(&format!("the server refuses: {}", value["message"]))
            }
            _ => {}
        }
        if !self.plain.is_quiet {
            told::put(&mut self.out, &event);
        }
    }

    fn write(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let mut out = io::stdout().lock();
        // Nobody reads it any more: `.. | head` is no failure.
        self.is_out_closed = out.write_all(&self.out).and_then(|()| out.flush()).is_err();
        self.out.clear();
    }

    /// Says goodbye, and counts what was not sent.
    fn end(mut self, why: Why) -> Outcome {
        let patience = match why {
            Why::Done | Why::Signal | Why::Closed => GOODBYE,
            Why::Timeout | Why::Over => Duration::ZERO,
        };
        let left_over = self.client.close(patience);
        let events: Vec<Event> = self.client.receiver().try_iter().collect();
        self.is_ending = true;
        for event in events {
            self.heard(event);
        }
        if let (Why::Timeout, Some(room)) = (&why, self.joins.values().next()) {
            self.over.get_or_insert_with(|| match self.was_online {
                true => format!("the server has not let it into {room} in time"),
                false => "the server has not been reached in time".to_owned(),
            });
        }
        self.write();
        if left_over == 0 {
            // What is not known to have failed has been acknowledged: an event may have found no place any more.
            self.open.clear();
        }
        let kept = if self.plain.has_journal { self.open.len() } else { 0 };
        // What had no place in the journal either is as good as not read, if there is more behind it.
        let held = self.held.take().filter(|_| kept == 0 || self.is_read);
        let mut lines: Vec<u64> = self.open.values().copied().chain(held.map(|(number, _)| number)).collect();
        lines.extend(&self.given_up);
        let first = lines.iter().copied().filter(|number| *number > 0).min();
        let count = self.failed + lines.len();
        let mut unsent = unsent(count, first, kept);
        let mut over = self.over;
        if !self.is_read && self.last_line > 0 {
            let read = format!("the input was read up to line {}", self.last_line);
            match &mut over {
                _ if count > 0 => unsent = format!("{unsent}; {read}"),
                Some(why) => *why = format!("{why}; {read}"),
                None => tell(&read),
            }
        }
        match over {
            Some(why) if count > 0 => Outcome::Failed(format!("{why}; {unsent}")),
            Some(why) => Outcome::Failed(why),
            None if count > 0 => Outcome::Failed(unsent),
            // It has been told when it was found; a program sees the exit code alone.
            None => self.lost.map_or(Outcome::Done, Outcome::Failed),
        }
    }
}

/// Tells a person. Not `eprintln!`, which panics where standard error is closed.
pub(crate) fn tell(text: &str) {
    let mut line = Vec::new();
    told::put_line(&mut line, &["starling: ", text]);
    let _ = io::stderr().write_all(&line);
}
