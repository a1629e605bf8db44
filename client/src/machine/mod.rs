//! The client without its sockets, clock and threads: a state machine.
//!
//! Whoever drives it tells what happened ([`Machine::connected`], [`Machine::frame`], [`Machine::closed`], [`Machine::tick`]) and when, and does what it
//! says ([`Machine::poll`]). `now` is the time since any moment that stays the same; it never falls. The same inputs with the
//! same seed give the same outputs.
//!
//! After [`Output::Connect`] the driver says once [`Machine::connected`] or [`Machine::connect_failed`], and after the former, when the connection has ended,
//! [`Machine::closed`] or [`Machine::not_understood`]. After [`Output::Close`] it says nothing more of that connection.

mod requests;
mod rooms;
mod sends;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crate::backoff::{self, Random};
use crate::event::{Event, Failure, Link, Reason, Reply, Ticket};
use crate::wire::{self, Command, Frame, Incoming, ServerError, Welcome};

pub use rooms::JoinOptions;
pub use sends::{Record, Saved};

#[cfg(test)]
mod tests;

use requests::Requests;
use rooms::Room;
use sends::{Lane, Sends};

/// How a machine behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Who one is, without a token.
    pub nickname: Option<String>,
    /// Who one is, with one.
    pub token: Option<String>,
    /// The session to go on with.
    pub resume: Option<String>,
    /// How often the connection is probed and measured.
    pub ping_interval: Duration,
    /// After how much silence the connection is given up.
    pub dead_after: Duration,
    /// How long the answer to the hello may take.
    pub hello_timeout: Duration,
    /// The bound of the first pause between attempts.
    pub backoff_base: Duration,
    /// The bound of all pauses.
    pub backoff_max: Duration,
    /// For how long the server remembers ids of messages (its `limits.idempotency_ms`), less what clocks and ways may differ.
    pub idempotency: Duration,
    /// How many messages may wait.
    pub queue_messages: usize,
    /// How many bytes of content may wait.
    pub queue_bytes: usize,
    /// How many requests may wait.
    pub requests: usize,
    /// How many messages to one room may be under way. With more than 1, one that is refused for a while comes after those behind it.
    pub in_flight: usize,
    /// The longest content.
    pub content_bytes: usize,
    /// The longest command.
    pub frame_bytes: usize,
    /// Whether missing messages are asked for, before a gap is told.
    pub fill_gaps: bool,
    /// Whether messages of which nobody knows whether they were published are sent again, instead of told as [`Failure::Unsure`].
    pub resend_unsure: bool,
    /// Whether attempts go on where the first one has found that the address or the certificate is wrong.
    pub keep_trying: bool,
    /// Whether the user says which private messages have come ([`Machine::received`]), instead of the machine.
    pub manual_received: bool,
    /// Whether [`Machine::take_records`] is wanted.
    pub journal: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            nickname: None,
            token: None,
            resume: None,
            ping_interval: Duration::from_secs(15),
            dead_after: Duration::from_secs(40),
            hello_timeout: Duration::from_secs(20),
            backoff_base: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
            idempotency: Duration::from_secs(290),
            queue_messages: 1024,
            queue_bytes: 8 << 20,
            requests: 256,
            in_flight: 1,
            content_bytes: 65_536,
            frame_bytes: 262_144,
            fill_gaps: true,
            resend_unsure: false,
            keep_trying: false,
            manual_received: false,
            journal: false,
        }
    }
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Connect.
    Connect,
    /// Write this to the connection.
    Write(Frame),
    /// End the connection, or the attempt, and tell nothing more of it.
    Close,
    /// Tell the user.
    Event(Event),
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectFailure {
    /// What the user hears.
    pub reason: Reason,
    /// When the server wants to see one again, if it said so.
    pub retry_after: Option<Duration>,
}

/// Whether a connection was up for so long that the next pause begins small again.
const STABLE: Duration = Duration::from_secs(10);

/// For how long the answer to `quit` is waited for.
const QUIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Nobody is told more often than this that somebody types.
const TYPING_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
enum Phase {
    Stopped(Reason),
    Waiting { until: Duration },
    Connecting,
    Hello { by: Duration },
    Online { since: Duration },
    Quitting { by: Duration },
}

/// Whose reply an id is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Waits {
    Hello,
    Ping(Duration),
    Join(String),
    Leave(String),
    /// Nobody's any more: the room has been left or joined again since.
    Stale,
    Fill(String, u64),
    Received,
    Send(Lane),
    Request(Ticket),
}

/// The state machine of a client.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    random: Random,
    phase: Phase,
    outputs: VecDeque<Output>,
    /// Begins every id, so that no two runs of a program say the same one in one session.
    prefix: String,
    last_number: u64,
    last_ticket: u64,
    /// How many attempts have failed since the last connection that held.
    attempt: u32,
    /// The same, for the user.
    attempts_told: u32,
    was_online: bool,
    nickname: Option<String>,
    resume: Option<String>,
    /// Who asked for the nickname that the next hello will say.
    nick_asked: Option<Ticket>,
    /// The rename that is under way in a session.
    nick_under_way: Option<(Ticket, String)>,
    replies: HashMap<String, Waits>,
    last_heard: Duration,
    next_ping: Duration,
    latency: Option<Duration>,
    /// By the folded name.
    rooms: BTreeMap<String, Room>,
    sends: Sends,
    requests: Requests,
    privates: rooms::Inbox,
    typed: HashMap<String, Duration>,
}

impl Machine {
    /// A machine that does nothing yet. The seed decides jitter and ids, and must be another one in every run of a program.
    pub fn new(config: Config, seed: u64) -> Machine {
        let mut random = Random::new(seed);
        let prefix = format!("{:016x}", random.next());
        Machine {
            nickname: config.nickname.clone(),
            resume: config.resume.clone(),
            config,
            random,
            phase: Phase::Stopped(Reason::Quit),
            outputs: VecDeque::new(),
            prefix,
            last_number: 0,
            last_ticket: 0,
            attempt: 0,
            attempts_told: 0,
            was_online: false,
            nick_asked: None,
            nick_under_way: None,
            replies: HashMap::new(),
            last_heard: Duration::ZERO,
            next_ping: Duration::ZERO,
            latency: None,
            rooms: BTreeMap::new(),
            sends: Sends::default(),
            requests: Requests::default(),
            privates: rooms::Inbox::default(),
            typed: HashMap::new(),
        }
    }

    /// Begins, or begins again after [`Event::Stopped`]. Nothing happens if it has begun.
    pub fn start(&mut self, now: Duration) {
        if let Phase::Stopped(_) = self.phase {
            self.attempt = 0;
            self.connect(now);
        }
    }

    /// Where it stands.
    pub fn link(&self) -> Link {
        match &self.phase {
            Phase::Stopped(reason) => Link::Stopped(reason.clone()),
            Phase::Waiting { .. } => Link::Waiting,
            Phase::Connecting | Phase::Hello { .. } => Link::Connecting,
            Phase::Online { .. } | Phase::Quitting { .. } => Link::Online,
        }
    }

    /// The nickname that one has, or will say hello with.
    pub fn nickname(&self) -> Option<&str> {
        self.nickname.as_deref()
    }

    /// What resumes the session, on another day or in another program.
    pub fn resume_token(&self) -> Option<&str> {
        self.resume.as_deref()
    }

    /// How long the last ping took there and back.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Takes another token, for the next hello.
    pub fn set_token(&mut self, token: Option<String>) {
        self.config.token = token;
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Machine::tick`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Stopped(_) | Phase::Connecting => None,
            Phase::Waiting { until } => Some(until),
            Phase::Hello { by } | Phase::Quitting { by } => Some(by),
            Phase::Online { .. } => [
                Some(self.next_ping),
                Some(self.last_heard + self.config.dead_after),
                self.rooms.values().filter_map(Room::deadline).min(),
                self.sends.deadline(),
                self.privates.deadline(),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        match self.phase {
            Phase::Waiting { until } if now >= until => self.connect(now),
            Phase::Hello { by } if now >= by => self.give_up(now, Reason::Silent),
            Phase::Quitting { by } if now >= by => {
                self.outputs.push_back(Output::Close);
                self.stop(Reason::Quit);
            }
            Phase::Online { .. } => {
                if now >= self.last_heard + self.config.dead_after {
                    self.give_up(now, Reason::Silent);
                    return;
                }
                if now >= self.next_ping {
                    self.ping(now);
                }
                self.flush(now);
            }
            _ => {}
        }
    }

    /// The connection stands.
    pub fn connected(&mut self, now: Duration) {
        if !matches!(self.phase, Phase::Connecting) {
            return;
        }
        self.last_heard = now;
        self.phase = Phase::Hello { by: now + self.config.hello_timeout };
        self.say_hello();
    }

    /// The attempt has failed.
    pub fn connect_failed(&mut self, now: Duration, failure: ConnectFailure) {
        if !matches!(self.phase, Phase::Connecting) {
            return;
        }
        if self.is_hopeless(&failure.reason) {
            self.stop(failure.reason);
            return;
        }
        // What a server refuses by 4xx it will refuse again, but for "too many" and "too slow".
        if let Reason::Rejected { status, .. } = &failure.reason
            && matches!(status, 400..=499)
            && !matches!(status, 408 | 425 | 429)
        {
            self.stop(failure.reason);
            return;
        }
        let delay = self.pause().max(failure.retry_after.unwrap_or_default());
        self.wait(now, delay, failure.reason);
    }

    /// What has been right once may be so again: a server that is put up anew, for example.
    fn is_hopeless(&self, reason: &Reason) -> bool {
        reason.is_lasting() && !self.was_online && !self.config.keep_trying
    }

    /// The connection has been ended here, for a reason that the other end gave by what it said.
    pub fn not_understood(&mut self, now: Duration, reason: Reason) {
        if self.is_hopeless(&reason) {
            self.lost_connection();
            self.stop(reason);
        } else if matches!(self.phase, Phase::Hello { .. } | Phase::Online { .. }) {
            self.ended(now, reason);
        } else {
            self.closed(now, None, "");
        }
    }

    /// Bytes have come, of whatever kind: the connection lives.
    pub fn heard(&mut self, now: Duration) {
        self.last_heard = now;
    }

    /// The connection has ended.
    pub fn closed(&mut self, now: Duration, code: Option<u16>, reason: &str) {
        match self.phase {
            Phase::Hello { .. } | Phase::Online { .. } => {
                let code_of_bye = code.filter(|code| (4100..4400).contains(code));
                let reason = match code_of_bye {
                    // The close said what the `bye` would have.
                    Some(code) => Reason::Bye(wire::Bye {
                        code,
                        reason: reason.to_owned(),
                        resumable: true,
                        after_ms: 0,
                    }),
                    None => Reason::Closed { code, reason: reason.to_owned() },
                };
                self.ended(now, reason);
            }
            Phase::Quitting { .. } => self.stop(Reason::Quit),
            _ => {}
        }
    }

    /// An event has come.
    pub fn frame(&mut self, now: Duration, text: &str) {
        if !matches!(self.phase, Phase::Hello { .. } | Phase::Online { .. } | Phase::Quitting { .. }) {
            return;
        }
        self.last_heard = now;
        let (id, event) = wire::parse(text);
        let waits = id.as_deref().and_then(|id| self.replies.remove(id));
        if let Incoming::Bye(bye) = event {
            self.outputs.push_back(Output::Close);
            match self.phase {
                Phase::Quitting { .. } => self.stop(Reason::Quit),
                _ => self.ended(now, Reason::Bye(bye)),
            }
            return;
        }
        match (waits, event) {
            (_, Incoming::Ping) => self.write(Command::Pong.to_frame(None)),
            (_, Incoming::Welcome(welcome)) => self.welcome(now, welcome),
            (Some(Waits::Hello), Incoming::Error(error)) => self.hello_refused(now, error),
            (Some(Waits::Ping(sent)), Incoming::Pong) => {
                let latency = now.saturating_sub(sent);
                self.latency = Some(latency);
                self.tell(Event::Latency(latency));
            }
            (Some(Waits::Ping(_)), _) => {}
            (Some(Waits::Stale), _) => {}
            (Some(Waits::Join(room)), Incoming::Joined(joined)) => self.joined(now, &room, joined),
            (Some(Waits::Join(room)), Incoming::Error(error)) => self.join_refused(now, &room, error),
            (Some(Waits::Leave(room)), Incoming::Error(error)) if error.retryable => {
                self.leave_later(now, &room, &error);
            }
            (Some(Waits::Leave(room)), Incoming::Left(_) | Incoming::Error(_)) => self.left(&room, "left"),
            (Some(Waits::Fill(room, question)), Incoming::History(history)) => {
                self.filled(&room, question, Some(history));
            }
            (Some(Waits::Fill(room, question)), _) => self.filled(&room, question, None),
            (Some(Waits::Received), Incoming::Error(error)) if error.retryable => {
                let delay =
                    self.retry_pause().max(Duration::from_millis(error.retry_after_ms.unwrap_or_default()));
                self.privates.say_at(now + delay);
            }
            (Some(Waits::Send(lane)), Incoming::Ack(ack)) => {
                self.acknowledged(&lane, id.as_deref().unwrap_or_default(), ack);
            }
            (Some(Waits::Send(lane)), Incoming::Error(error)) => {
                self.send_refused(now, &lane, id.as_deref().unwrap_or_default(), error);
            }
            (Some(Waits::Request(ticket)), event) => self.replied(ticket, event),
            (_, Incoming::Message(message)) => self.heard_message(message),
            (_, Incoming::Gap(gap)) => self.heard_gap(gap),
            (_, Incoming::Private(private)) => self.heard_private(now, private),
            (None, Incoming::Left(left)) => self.put_out(left),
            (_, Incoming::System(system)) => self.tell(Event::System(system)),
            (_, Incoming::Presence(presence)) => {
                if let wire::Change::Nick { nickname, from } = &presence.change
                    && self.nickname.as_deref() == Some(from)
                {
                    self.renamed(nickname.clone());
                }
                self.tell(Event::Presence(presence));
            }
            (_, Incoming::State(state)) => self.tell(Event::State(state)),
            (_, Incoming::Typing(typing)) => self.tell(Event::Typing(typing)),
            (None, Incoming::Error(_) | Incoming::Unknown(_)) => {
                self.tell(Event::Other(serde_json::from_str(text).unwrap_or_default()));
            }
            // A reply to what nobody waits for any more.
            _ => {}
        }
        self.flush(now);
    }

    /// Says goodbye, which ends the session: the nickname is free, and what was not sent is told as failed.
    pub fn quit(&mut self, now: Duration) {
        match self.phase {
            Phase::Online { .. } => {
                let id = self.id();
                self.write(Command::Quit.to_frame(Some(&id)));
                self.phase = Phase::Quitting { by: now + QUIT_TIMEOUT };
            }
            Phase::Quitting { .. } => {}
            Phase::Connecting | Phase::Hello { .. } => {
                self.outputs.push_back(Output::Close);
                self.stop(Reason::Quit);
            }
            Phase::Waiting { .. } | Phase::Stopped(_) => self.stop(Reason::Quit),
        }
    }

    /// Ends the connection and leaves the session, and the messages that wait, for whoever resumes it within its time of grace.
    pub fn detach(&mut self) {
        if !matches!(self.phase, Phase::Stopped(_) | Phase::Waiting { .. }) {
            self.outputs.push_back(Output::Close);
        }
        self.lost_connection();
        self.abandon_requests();
        self.abandon_rooms();
        self.phase = Phase::Stopped(Reason::Quit);
        self.tell(Event::Stopped(Reason::Quit));
    }

    /// Ends the connection at once, for a reason of the driver's. Everything that waits goes on waiting.
    pub fn abort(&mut self, reason: Reason) {
        if matches!(self.phase, Phase::Stopped(_)) {
            return;
        }
        self.outputs.push_back(Output::Close);
        self.lost_connection();
        self.stop(reason);
    }

    fn connect(&mut self, _now: Duration) {
        self.phase = Phase::Connecting;
        self.attempts_told += 1;
        self.tell(Event::Connecting { attempt: self.attempts_told });
        self.outputs.push_back(Output::Connect);
    }

    fn say_hello(&mut self) {
        let id = self.id();
        self.replies.insert(id.clone(), Waits::Hello);
        let hello = Command::Hello {
            // A token names its user; a nickname beside it could only contradict it.
            nickname: if self.config.token.is_some() { None } else { self.nickname.clone() },
            token: self.config.token.clone(),
            resume: self.resume.clone(),
        };
        self.write(hello.to_frame(Some(&id)));
    }

    fn welcome(&mut self, now: Duration, welcome: Welcome) {
        if !matches!(self.phase, Phase::Hello { .. }) {
            return;
        }
        self.phase = Phase::Online { since: now };
        self.attempts_told = 0;
        self.was_online = true;
        self.nickname = Some(welcome.nickname.clone());
        if !welcome.resume.is_empty() {
            self.resume = Some(welcome.resume.clone());
            self.record(|| Record::Session { resume: welcome.resume.clone() });
        }
        let resumed = welcome.resumed;
        self.tell(Event::Online(welcome));
        if let Some(ticket) = self.nick_asked.take() {
            self.tell(Event::Reply { ticket, reply: Ok(Reply::Ack(wire::Ack::default())) });
        }
        self.ping(now);
        if !resumed {
            self.privates.forget();
            self.doubt(now);
        }
        self.leave_again(resumed);
        self.flush(now);
    }

    fn hello_refused(&mut self, now: Duration, error: ServerError) {
        if error.code == 401 && self.resume.is_some() {
            // The token of the session may be what is bad; what else is shown may be good.
            self.resume = None;
            self.say_hello();
            return;
        }
        if let Some(ticket) = self.nick_asked.take() {
            self.tell(Event::Reply { ticket, reply: Err(Failure::Refused(error.clone())) });
        }
        if error.reason == "nickname_in_use" {
            // No session of ours is left to go on with.
            self.resume = None;
        }
        // One's own session of before may be what has the nickname, for as long as its grace lasts.
        let again = error.retryable || (self.was_online && error.reason == "nickname_in_use");
        let after = Duration::from_millis(error.retry_after_ms.unwrap_or_default());
        self.outputs.push_back(Output::Close);
        self.lost_connection();
        if again {
            let delay = self.pause().max(after);
            self.wait(now, delay, Reason::Refused(error));
        } else {
            self.stop(Reason::Refused(error));
        }
    }

    /// The connection is of no use any more.
    fn give_up(&mut self, now: Duration, reason: Reason) {
        self.outputs.push_back(Output::Close);
        self.ended(now, reason);
    }

    /// The connection is gone: what comes next follows from why.
    fn ended(&mut self, now: Duration, reason: Reason) {
        if let Phase::Online { since } = self.phase
            && now >= since + STABLE
        {
            self.attempt = 0;
        }
        self.lost_connection();
        match &reason {
            Reason::Bye(bye) => match bye.code {
                1000 | 4100..=4199 => self.stop(reason),
                4300..=4399 => {
                    // These pauses are spread by the server.
                    let delay = Duration::from_millis(bye.after_ms);
                    self.wait(now, delay, reason);
                }
                _ => {
                    let delay = self.pause().max(Duration::from_millis(bye.after_ms));
                    self.wait(now, delay, reason);
                }
            },
            _ => {
                let delay = self.pause();
                self.wait(now, delay, reason);
            }
        }
    }

    fn pause(&mut self) -> Duration {
        let pause =
            backoff::pause(&mut self.random, self.config.backoff_base, self.config.backoff_max, self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        pause
    }

    fn wait(&mut self, now: Duration, delay: Duration, reason: Reason) {
        self.phase = Phase::Waiting { until: now + delay };
        self.tell(Event::Waiting { delay, reason });
    }

    fn stop(&mut self, reason: Reason) {
        if reason == Reason::Quit {
            self.replies.clear();
            self.abandon();
            self.resume = None;
            // It has ended, and an answer is all that resuming it would get.
            self.record(|| Record::Session { resume: String::new() });
        }
        self.attempts_told = 0;
        self.phase = Phase::Stopped(reason.clone());
        self.tell(Event::Stopped(reason));
    }

    /// Forgets what belonged to the connection.
    fn lost_connection(&mut self) {
        self.replies.clear();
        self.rooms_lost();
        self.sends.unwrite();
        self.requests_lost();
    }

    fn ping(&mut self, now: Duration) {
        let id = self.id();
        self.replies.insert(id.clone(), Waits::Ping(now));
        self.write(Command::Ping.to_frame(Some(&id)));
        self.next_ping = now + self.config.ping_interval;
    }

    /// Writes whatever may be written now.
    fn flush(&mut self, now: Duration) {
        if !matches!(self.phase, Phase::Online { .. }) {
            return;
        }
        self.flush_joins(now);
        self.flush_sends(now);
        self.flush_requests();
        self.flush_received(now);
    }

    fn renamed(&mut self, nickname: String) {
        if self.nickname.as_deref() != Some(&nickname) {
            self.nickname = Some(nickname.clone());
            self.tell(Event::Renamed(nickname));
        }
    }

    fn is_online(&self) -> bool {
        matches!(self.phase, Phase::Online { .. })
    }

    fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped(_) | Phase::Quitting { .. })
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn write(&mut self, frame: Frame) {
        self.outputs.push_back(Output::Write(frame));
    }

    fn id(&mut self) -> String {
        self.last_number += 1;
        format!("{}-{}", self.prefix, self.last_number)
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }
}
