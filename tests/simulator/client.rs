//! A client: it says things at random, and checks everything that it hears against what it has said and what the others
//! know. This file is what all kinds of clients have in common; what programs hear is in `program`, what people read in
//! `person`, and what they say in `talk`.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;
use starling::config::AckLevel;

use crate::comeback::Session;
use crate::faults::{Shape, happens};
use crate::http2::{self, Call};
use crate::kernel::{Kernel, Received};
use crate::model::Model;
use crate::wire;

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JSON object a line.
    Json,
    /// A JSON object a WebSocket frame, after an HTTP request.
    Web,
    /// Lines as people type them.
    Text,
    /// A `Command` or `Event` a message of gRPC, in one call.
    Grpc,
}

impl Kind {
    /// The number of the listener for it.
    pub fn listener(self) -> usize {
        match self {
            Kind::Json | Kind::Text => 0,
            Kind::Web => 1,
            Kind::Grpc => 2,
        }
    }
}

/// The bounds of the server that its clients know.
#[derive(Debug, Clone)]
pub struct Terms {
    pub rooms_per_session: usize,
    pub content_bytes: usize,
    pub inbound_bytes: usize,
    pub errors_per_window: usize,
    pub timeout_ms: u64,
    pub hello_ms: u64,
    pub has_connection_limit: bool,
    pub tells_presence_at_once: bool,
    pub grace_ms: u64,
    pub history_count: u64,
    /// Whether commands may be refused for coming too fast, and whether that concerns the connection alone.
    pub has_rates: bool,
    pub rate_is_own: bool,
    pub rate_ignored_ms: u64,
    /// Whether what is said may be refused for reasons that the speaker cannot know: then everything has an id, so that each
    /// answer has its command.
    pub may_be_refused: bool,
    /// Whether rooms may be kept by those who are in none.
    pub has_listeners: bool,
    /// Whether compression is switched on.
    pub has_deflate: bool,
    /// Whether there is a store, and when messages are acknowledged that do not say so.
    pub has_store: bool,
    pub ack: AckLevel,
    /// How many messages of a room are in memory.
    pub memory_count: usize,
    /// Whether there are strangers, whose admins speak to all.
    pub has_strangers: bool,
    /// Whether another server follows where one has drained.
    pub has_upgrades: bool,
}

/// One client, from its connection to its end.
pub struct Client {
    pub number: usize,
    pub kind: Kind,
    pub conn: usize,
    pub terms: Terms,
    /// What has come and is not yet a whole line, frame or response.
    pub input: Vec<u8>,
    /// For WebSocket: whether the request has been granted.
    pub is_upgraded: bool,
    /// And what was agreed on about compression.
    pub deflate: Option<wire::Deflate>,
    /// For gRPC: the call, and whether it is over.
    pub call: Option<Box<Call>>,
    pub is_call_over: bool,
    pub nickname: Option<String>,
    /// The rooms that it knows itself to be in, by folded name.
    pub rooms: BTreeMap<String, Membership>,
    /// What it has said and not heard an answer to, oldest first.
    pub outstanding: VecDeque<Sent>,
    /// For people, who get no ids: the nicknames that they have asked for.
    pub asked_names: VecDeque<String>,
    pub bye: Option<u16>,
    /// Whether it has ended its side.
    pub has_ended: bool,
    /// Whether it has said everything it will: after a `quit`, an end or a WebSocket close.
    pub is_silent: bool,
    /// Whether it went, or was cut off, without a farewell from its side.
    pub is_cut_off: bool,
    /// Whether the connection is over.
    pub is_gone: bool,
    pub is_stalled: bool,
    pub has_stalled: bool,
    /// Whether it keeps its connection open after the server has ended its side.
    pub dawdles: bool,
    /// Whether it neither reads nor goes, however long it takes.
    pub is_deaf: bool,
    pub errors_400: usize,
    pub connected_ms: u64,
    pub sequence: u64,
    /// For the others to be asked what the server thinks: the answers to its latest queries.
    pub members_heard: BTreeMap<String, Vec<(String, bool, String)>>,
    pub members_total: u64,
    pub rooms_heard: Option<Vec<(String, u64, u64)>>,
    /// Until when it is quiet, having been told that it asks too much.
    pub quiet_until_ms: Option<u64>,
    /// The command that it says first after that: this one must not be refused.
    pub entitled: Option<String>,
    /// When it has changed its nickname last.
    pub renamed_at: u64,
    /// What outlives the connection.
    pub session: Session,
}

/// A room as a member knows it.
#[derive(Debug, Default)]
pub struct Membership {
    pub epoch: String,
    /// The offset that comes next.
    pub next: u64,
    pub hears_itself: bool,
    /// Offsets that did not come, because they are the member's own.
    pub skipped: Vec<u64>,
    /// Where others are known to be.
    pub others: BTreeMap<String, Whereabouts>,
    /// Whether it has agreed to have messages left out.
    pub skips: bool,
    /// Whether it began with what was missed, in which one's own messages are.
    pub was_replayed: bool,
    /// Whether the member has changed its nickname since it joined. What somebody did who had the nickname before may be
    /// heard after that.
    pub was_renamed: bool,
    /// Whether the answer to a `switch` has come: the room is left at some moment before the next answer.
    pub is_being_left: bool,
    /// The roles that it knows of.
    pub roles: BTreeMap<String, String>,
    /// The room's state, the last version that it knows of, and whether that is the room's and not only a key's.
    pub state: BTreeMap<String, Value>,
    pub version: u64,
    pub knows_version: bool,
    /// For people, who are not told offsets: the contents heard, in order.
    pub contents: Vec<String>,
}

/// Where somebody is, as a member of a room knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    Here,
    /// Without a connection, to come back or not.
    Away,
    Gone,
}

/// A command on its way.
#[derive(Debug)]
pub struct Sent {
    pub id: Option<String>,
    pub what: What,
    /// When it was said.
    pub moment: u64,
}

/// What was said. Rooms are folded, nicknames as they were written.
#[derive(Debug, Clone)]
pub enum What {
    Hello {
        nickname: String,
    },
    /// A hello that continues a session; if that has ended, it begins one of this nickname.
    Resume {
        nickname: String,
    },
    Nick {
        nickname: String,
    },
    Join {
        room: String,
        hears_itself: bool,
        since: Option<(String, u64)>,
        history: Option<u64>,
        skips: bool,
    },
    Switch {
        from: String,
        to: String,
        hears_itself: bool,
    },
    Leave {
        room: String,
    },
    Message {
        room: String,
        content: String,
        level: AckLevel,
    },
    /// A message again, under the id that it had.
    Repeat {
        room: String,
        content: String,
        level: AckLevel,
    },
    Private {
        content: String,
    },
    Members {
        room: String,
        after: Option<String>,
    },
    Rooms,
    /// A host's decision: the number of the sentence.
    Moderate {
        room: String,
        nth: usize,
    },
    Role {
        room: String,
    },
    State {
        room: String,
        key: &'static str,
    },
    History {
        room: String,
        before: Option<u64>,
        after: Option<u64>,
        limit: u64,
    },
    Received {
        offset: u64,
    },
    Typing {
        room: String,
    },
    Ping,
    Quit,
    /// No command: a 400.
    Garbage,
    /// A line over the limit: a 413 that does not wait for its turn.
    TooLong,
    /// A request for something else than a WebSocket.
    Health,
    /// The request for the WebSocket, with what its query asks for.
    Upgrade {
        nickname: Option<String>,
        room: Option<String>,
    },
}

impl Client {
    pub fn new(number: usize, kind: Kind, conn: usize, terms: &Terms, connected_ms: u64) -> Client {
        Client {
            number,
            kind,
            conn,
            terms: terms.clone(),
            input: Vec::new(),
            is_upgraded: false,
            call: None,
            is_call_over: false,
            deflate: None,
            nickname: None,
            rooms: BTreeMap::new(),
            outstanding: VecDeque::new(),
            asked_names: VecDeque::new(),
            bye: None,
            has_ended: false,
            is_silent: false,
            is_cut_off: false,
            is_gone: false,
            is_stalled: false,
            has_stalled: false,
            dawdles: false,
            is_deaf: false,
            errors_400: 0,
            connected_ms,
            sequence: 0,
            members_heard: BTreeMap::new(),
            members_total: 0,
            rooms_heard: None,
            quiet_until_ms: None,
            entitled: None,
            renamed_at: 0,
            session: Session::default(),
        }
    }

    /// Does one or two of the things that a client does.
    pub fn act(&mut self, kernel: &mut Kernel, model: &mut Model, shape: &Shape) {
        if happens(&mut kernel.rng, kernel.faults.stall) {
            self.is_stalled = !self.is_stalled;
            self.has_stalled = true;
        }
        if happens(&mut kernel.rng, kernel.faults.network_reset) {
            kernel.reset(self.conn);
        }
        if kernel.rng.chance(30) {
            self.talk(kernel, model, shape);
        }
        if self.is_gone {
            return;
        }
        if kernel.rng.chance(70) {
            let most = 1 + kernel.rng.below(shape.chunk_bytes as u64) as usize;
            kernel.deliver(self.conn, most);
        }
        if kernel.rng.chance(70) && !self.is_stalled {
            let most = 1 + kernel.rng.below(4096) as usize;
            self.listen(kernel, model, most);
        }
    }

    /// Lets everything go through that is on its way. Returns whether anything was.
    pub fn pump(&mut self, kernel: &mut Kernel, model: &mut Model) -> bool {
        if self.is_gone {
            return kernel.deliver(self.conn, usize::MAX);
        }
        if self.is_deaf {
            return kernel.deliver(self.conn, usize::MAX);
        }
        self.is_stalled = false;
        self.dawdles = false;
        let arrived = kernel.deliver(self.conn, usize::MAX);
        let heard = self.listen(kernel, model, usize::MAX);
        arrived || heard
    }

    /// Begins with what comes before anything is said.
    pub fn begin(&mut self, kernel: &mut Kernel) {
        (self.call, self.is_call_over) = (None, false);
        if self.kind == Kind::Grpc {
            let mut out = Vec::new();
            self.call = Some(Box::new(Call::begin(&mut out)));
            self.send(kernel, &out);
        }
    }

    /// Sends frames that are no words, whatever else it says.
    fn send_frames(&mut self, kernel: &mut Kernel, frames: &[u8]) {
        if !frames.is_empty() && !self.is_gone && !self.is_call_over {
            kernel.send(self.conn, frames);
        }
    }

    /// Sends bytes, unless it has ended its side.
    pub fn send(&mut self, kernel: &mut Kernel, bytes: &[u8]) {
        if !self.has_ended && !self.is_gone {
            kernel.send(self.conn, bytes);
            kernel.note_words(self.conn);
        }
    }

    /// Ends its side: what it has said is still to be answered.
    pub fn end(&mut self, kernel: &mut Kernel) {
        if !self.has_ended && !self.is_gone {
            kernel.trace.note(&[20, self.number as u64], || format!("client {} ends its side", self.number));
            match &mut self.call {
                Some(call) if !self.is_call_over => {
                    let mut out = Vec::new();
                    call.end(&mut out, &mut kernel.rng);
                    self.send_frames(kernel, &out);
                }
                Some(_) => {}
                None => kernel.end_input(self.conn),
            }
            (self.has_ended, self.is_silent) = (true, true);
        }
    }

    /// Goes without a word.
    pub fn reset(&mut self, kernel: &mut Kernel) {
        kernel.trace.note(&[21, self.number as u64], || format!("client {} resets", self.number));
        if let Some(call) = self.call.as_ref().filter(|_| !self.is_call_over && self.number.is_multiple_of(2))
        {
            // The call alone is taken back; the connection that was for it ends in order.
            let mut out = Vec::new();
            call.cancel(&mut out);
            self.send_frames(kernel, &out);
            kernel.end_input(self.conn);
            (self.has_ended, self.is_call_over, self.is_silent, self.is_cut_off) = (true, true, true, true);
            return;
        }
        kernel.reset(self.conn);
        (self.is_cut_off, self.is_gone) = (true, true);
    }

    /// Reads up to `most` bytes, and understands them. Returns whether there was anything.
    fn listen(&mut self, kernel: &mut Kernel, model: &mut Model, most: usize) -> bool {
        match kernel.receive(self.conn, most) {
            Received::Nothing => false,
            Received::Bytes(bytes) => {
                self.input.extend(bytes);
                self.understand(kernel, model);
                true
            }
            Received::Reset => {
                kernel
                    .trace
                    .note(&[22, self.number as u64], || format!("client {} finds a reset", self.number));
                (self.is_cut_off, self.is_gone) = (true, true);
                true
            }
            Received::End => {
                if self.dawdles {
                    return false;
                }
                if !self.is_call_over {
                    self.hear_end(kernel, model);
                }
                self.is_gone = true;
                true
            }
        }
    }

    fn understand(&mut self, kernel: &mut Kernel, model: &mut Model) {
        loop {
            let before = self.input.len();
            match self.kind {
                Kind::Web if !self.is_upgraded => {
                    if let Some((status, body, extensions)) = wire::take_response(&mut self.input) {
                        self.agree_on_deflate(model, extensions.as_deref());
                        self.hear_response(kernel, model, status, &body);
                    }
                }
                Kind::Web => {
                    if let Some((opcode, payload)) = wire::take_frame(&mut self.input, self.deflate.as_mut())
                    {
                        self.hear_frame(kernel, model, opcode, &payload);
                    }
                }
                Kind::Grpc if self.is_call_over => return self.input.clear(),
                Kind::Grpc => {
                    let mut out = Vec::new();
                    let call = self.call.as_mut().expect("it is called from the beginning");
                    let heard = call.take(&mut self.input, &mut out, &mut kernel.rng);
                    self.send_frames(kernel, &out);
                    match heard {
                        Some(http2::Heard::Event(event)) => {
                            self.hear_json(kernel, model, event.to_string().as_bytes())
                        }
                        Some(http2::Heard::Over { is_refused }) => {
                            if is_refused && self.bye.is_none() {
                                assert!(
                                    model.may_drain(self.conn),
                                    "client {}: its call is refused",
                                    self.number
                                );
                                self.hear_bye(kernel, model, 4300);
                            }
                            self.hear_end(kernel, model);
                        }
                        Some(http2::Heard::GoAway(why)) => match why.as_str() {
                            "too_many_connections" => self.hear_bye(kernel, model, 4105),
                            "draining" => self.hear_bye(kernel, model, 4300),
                            "no_hello" => self.hear_bye(kernel, model, 4106),
                            _ => {}
                        },
                        None => return,
                    }
                    continue;
                }
                Kind::Json => {
                    if let Some(line) = wire::take_line(&mut self.input) {
                        self.hear_json(kernel, model, &line);
                    }
                }
                Kind::Text => {
                    if let Some(line) = wire::take_line(&mut self.input) {
                        let line = String::from_utf8(line).expect("people read UTF-8");
                        self.hear_line(kernel, model, &line);
                    }
                }
            }
            if self.input.len() == before {
                return;
            }
        }
    }

    fn agree_on_deflate(&mut self, model: &mut Model, extensions: Option<&str>) {
        assert!(extensions.is_none() || self.terms.has_deflate, "what nobody has switched on is agreed on");
        self.deflate = extensions.map(|answer| wire::Deflate::agreed(self.number, answer));
        if self.deflate.is_some() {
            model.count("deflate_agreed");
        }
    }

    /// The server has ended its side.
    fn hear_end(&mut self, kernel: &mut Kernel, model: &mut Model) {
        kernel.trace.note(&[23, self.number as u64], || format!("client {} hears the end", self.number));
        // One that does not read may be cut off in the middle of a frame when the time for its last words is over.
        let may_be_cut = self.has_stalled || model.has_jumped || kernel.conns[self.conn].may_be_unfinished();
        let is_within = self.call.as_ref().is_some_and(|call| call.is_within());
        assert!(
            self.input.is_empty() && !is_within || may_be_cut || self.call.is_some() && !is_within,
            "client {}: cut off within {:?}",
            self.number,
            self.input
        );
        if self.bye.is_none() && !may_be_cut && !kernel.conns[self.conn].is_discarding() {
            let is_request = self.kind == Kind::Web && !self.is_upgraded;
            if self.has_ended && !self.is_cut_off && !(is_request && model.may_drain(self.conn)) {
                self.check_all_answered(model);
            } else {
                assert!(is_request || self.is_silent, "client {} was closed without a word", self.number);
            }
        }
        self.end(kernel);
        if self.call.is_some() && !std::mem::replace(&mut self.is_call_over, true) {
            kernel.end_input(self.conn); // it wanted the connection for this call alone
        } else {
            self.is_gone = true;
        }
        if self.bye.is_none() && !self.is_silent {
            self.is_cut_off = true;
        }
    }

    /// The server says goodbye. Checks that it has a reason.
    pub fn hear_bye(&mut self, kernel: &mut Kernel, model: &mut Model, code: u16) {
        assert!(self.bye.is_none(), "client {} is told goodbye twice", self.number);
        self.bye = Some(code);
        let conn = &kernel.conns[self.conn];
        match code {
            1000 => model.give_up_all(self.number),
            4104 => {
                assert!(self.errors_400 > self.terms.errors_per_window, "after {} mistakes", self.errors_400);
            }
            4105 => assert!(self.terms.has_connection_limit && self.nickname.is_none()),
            4106 => {
                let waited = kernel.clock_ms - self.connected_ms;
                assert!(
                    self.nickname.is_none() && waited >= self.terms.hello_ms,
                    "no hello after {waited} ms"
                );
            }
            4103 => assert!(self.session.was_raced, "client {} is replaced by nobody", self.number),
            4201 => {
                // Whoever has not yet got all that was missed may be too slow for a short history.
                let is_behind = self.rooms.values().any(|membership| membership.was_replayed);
                assert!(conn.was_blocked || is_behind, "client {} was never slow", self.number);
            }
            4202 => {
                let connected_ms = kernel.clock_ms - self.connected_ms;
                let may_be = self.terms.has_rates && connected_ms >= self.terms.rate_ignored_ms;
                assert!(may_be, "client {} asked too much, after {connected_ms} ms", self.number);
                model.count("rate_byes");
            }
            4203 => {
                let mut silence = conn.longest_silence_ms.max(kernel.clock_ms - conn.last_read_ms);
                // On a call only what it says counts, and not the other frames of its connection.
                if self.call.is_some() {
                    let wordless =
                        if conn.words_on_wire == 0 { kernel.clock_ms - conn.last_word_ms } else { 0 };
                    silence = silence.max(conn.longest_wordless_ms).max(wordless);
                }
                let least_ms = self.terms.timeout_ms / if self.call.is_some() { 2 } else { 1 };
                assert!(silence >= least_ms, "timeout after {silence} ms");
            }
            4300 => assert!(model.may_drain(self.conn)),
            _ => panic!("client {}: bye {code}", self.number),
        }
        self.is_silent = true;
        if kernel.rng.chance(20) {
            self.dawdles = true;
        }
    }

    /// Checks that every command that has to be answered has been.
    pub fn check_all_answered(&mut self, model: &mut Model) {
        let client = self.number;
        self.finish_leaving();
        while let Some(sent) = self.outstanding.pop_front() {
            assert!(self.is_silent_command(&sent), "client {client}: no answer to {sent:?}");
            self.note_silent(model, &sent);
        }
    }

    /// What a `switch` leaves has been left by the time of the next answer.
    pub fn finish_leaving(&mut self) {
        self.rooms.retain(|_, membership| !membership.is_being_left);
    }

    pub fn is_in(&self, room: &str) -> bool {
        self.rooms.get(room).is_some_and(|membership| !membership.is_being_left)
    }

    /// Whether it is in a room, which it may have to join again to hear it.
    pub fn is_member(&self, room: &str) -> bool {
        self.is_in(room) || self.session.kept.contains_key(room)
    }

    /// Whether a command is not answered when it succeeds, and will succeed.
    pub fn is_silent_command(&self, sent: &Sent) -> bool {
        if sent.id.is_some() || self.nickname.is_none() {
            return false;
        }
        match &sent.what {
            What::Message { room, content, .. } => {
                self.is_member(room) && content.len() <= self.terms.content_bytes
            }
            What::Typing { room } => self.is_member(room),
            _ => false,
        }
    }

    /// A command has succeeded without an answer.
    pub fn note_silent(&self, model: &mut Model, sent: &Sent) {
        if let What::Message { room, content, .. } = &sent.what {
            let said = model.said(content);
            said.was_member = Some(true);
            said.is_unheard = self.rooms.get(room).is_none_or(|membership| !membership.hears_itself);
        }
    }

    /// Whether the client takes part: it can be asked, and will answer.
    pub fn is_there(&self) -> bool {
        !self.is_gone && self.bye.is_none() && !self.is_silent
    }
}
