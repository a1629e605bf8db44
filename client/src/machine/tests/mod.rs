//! Each rule of the machine, one test a rule.

mod rooms;

use serde_json::{Value, json};

use super::*;
use crate::error::Error;
use crate::event::Delivery;
use crate::wire::{Gap, Left};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A machine, its clock, and what it has put out so far and nobody has looked at.
struct Bench {
    machine: Machine,
    now: Duration,
    written: VecDeque<Value>,
    events: VecDeque<Event>,
    connects: usize,
    closes: usize,
}

impl Bench {
    fn with(configure: impl FnOnce(&mut Config)) -> Bench {
        let mut config = Config { nickname: Some("alice".to_owned()), ..Config::default() };
        configure(&mut config);
        let mut bench = Bench {
            machine: Machine::new(config, 1),
            now: ms(1000),
            written: VecDeque::new(),
            events: VecDeque::new(),
            connects: 0,
            closes: 0,
        };
        bench.machine.start(bench.now);
        bench.take();
        assert_eq!(bench.connects, 1);
        bench
    }

    /// Connected and welcomed, with the first ping answered.
    fn online() -> Bench {
        Bench::online_with(|_| {})
    }

    fn online_with(configure: impl FnOnce(&mut Config)) -> Bench {
        let mut bench = Bench::with(configure);
        bench.connect(false);
        bench.events.clear();
        bench
    }

    /// In a room, where the last message was this one.
    fn in_room(offset: u64) -> Bench {
        let mut bench = Bench::online();
        bench.join("den", offset);
        bench
    }

    fn take(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Connect => self.connects += 1,
                Output::Close => self.closes += 1,
                Output::Write(frame) => {
                    let value: Value = serde_json::from_str(&frame.text).unwrap();
                    assert_eq!(value["type"], frame.kind);
                    self.written.push_back(value);
                }
                Output::Event(event) => self.events.push_back(event),
            }
        }
    }

    fn hears(&mut self, event: Value) {
        self.machine.frame(self.now, &event.to_string());
        self.take();
    }

    /// The server answers this command.
    fn answers(&mut self, command: &Value, mut reply: Value) {
        reply["id"] = command["id"].clone();
        self.hears(reply);
    }

    /// The connection is made, and hello said and answered. What the hello was.
    fn connect(&mut self, resumed: bool) -> Value {
        self.machine.connected(self.now);
        self.take();
        let hello = self.written("hello");
        self.answers(
            &hello,
            json!({"type": "welcome", "nickname": "alice", "resume": "token", "resumed": resumed}),
        );
        let ping = self.written("ping");
        self.answers(&ping, json!({"type": "pong", "timestamp": 1}));
        hello
    }

    /// The connection breaks, and the next one is made.
    fn reconnect(&mut self, resumed: bool) -> Value {
        self.machine.closed(self.now, None, "reset");
        self.take();
        assert!(self.written.is_empty(), "{:?}", self.written);
        self.wait_to_connect();
        let hello = self.connect(resumed);
        assert!(matches!(self.event(), Event::Waiting { .. }));
        assert!(matches!(self.event(), Event::Connecting { .. }));
        assert!(matches!(self.event(), Event::Online(_)));
        self.events.retain(|event| !matches!(event, Event::Latency(_)));
        hello
    }

    fn wait_to_connect(&mut self) {
        let before = self.connects;
        self.now = self.machine.deadline().expect("it waits");
        self.tick();
        assert_eq!(self.connects, before + 1);
    }

    fn tick(&mut self) {
        self.machine.tick(self.now);
        self.take();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.tick();
    }

    #[track_caller]
    fn written(&mut self, kind: &str) -> Value {
        self.take();
        let written = self.written.pop_front().unwrap_or_else(|| panic!("no {kind} was written"));
        assert_eq!(written["type"], kind, "{written}");
        written
    }

    #[track_caller]
    fn event(&mut self) -> Event {
        self.take();
        self.events.pop_front().expect("no event")
    }

    #[track_caller]
    fn silent(&mut self) {
        self.take();
        assert!(self.written.is_empty(), "{:?}", self.written);
        assert!(self.events.is_empty(), "{:?}", self.events);
    }

    fn join(&mut self, room: &str, offset: u64) {
        let ticket = self.machine.join(self.now, room, JoinOptions::default()).unwrap();
        let join = self.written("join");
        self.answers(&join, json!({"type": "joined", "room": room, "epoch": "e", "offset": offset}));
        assert!(matches!(self.event(), Event::Joined(_)));
        assert_eq!(self.event(), Event::Reply { ticket, reply: Ok(Reply::Joined(room.to_owned())) });
    }

    fn send(&mut self, content: &str) -> Ticket {
        self.machine.send(self.now, "den", content, None).unwrap()
    }

    fn message(&mut self, offset: u64) {
        self.hears(message(offset));
    }

    /// The offsets of the messages and gaps that have been told, and nothing else has.
    #[track_caller]
    fn told(&mut self) -> Vec<(u64, u64)> {
        self.take();
        self.events
            .drain(..)
            .map(|event| match event {
                Event::Message(message) => {
                    assert_eq!((&*message.room, &*message.epoch), ("den", "e"));
                    assert_eq!(message.content, format!("m{}", message.offset));
                    (message.offset, message.offset)
                }
                Event::Gap(Gap { room, epoch, from, to }) => {
                    assert_eq!((&*room, &*epoch), ("den", "e"));
                    assert!(from <= to);
                    (from, to)
                }
                event => panic!("{event:?}"),
            })
            .collect()
    }
}

fn message(offset: u64) -> Value {
    json!({"type": "message", "room": "den", "sender": "bob", "content": format!("m{offset}"), "offset": offset, "timestamp": 5})
}

fn history(offsets: impl IntoIterator<Item = u64>) -> Value {
    let messages: Vec<Value> = offsets.into_iter().map(message).collect();
    json!({"type": "history", "room": "den", "epoch": "e", "messages": messages})
}

fn error(code: u16, reason: &str, retryable: bool) -> Value {
    json!({"type": "error", "code": code, "reason": reason, "message": "no", "retryable": retryable})
}

fn delivery(ticket: Ticket, delivery: Delivery) -> Event {
    Event::Delivery { ticket, delivery }
}

#[track_caller]
fn is_acknowledged(event: &Event, of: Ticket) {
    assert!(
        matches!(event, Event::Delivery { ticket, delivery: Delivery::Acknowledged(_) } if *ticket == of),
        "{event:?}"
    );
}

#[test]
fn says_hello_and_resumes_from_where_it_was() {
    let mut bench = Bench::with(|_| {});
    assert_eq!(bench.event(), Event::Connecting { attempt: 1 });
    let hello = bench.connect(false);
    assert_eq!(hello["nickname"], "alice");
    assert_eq!(hello["resume"], Value::Null);
    assert!(matches!(bench.event(), Event::Online(welcome) if !welcome.resumed));
    assert_eq!(bench.event(), Event::Latency(Duration::ZERO));
    bench.join("den", 4);
    bench.message(5);
    bench.message(6);
    assert_eq!(bench.told(), [(5, 5), (6, 6)]);
    let hello = bench.reconnect(true);
    assert_eq!(hello["resume"], "token");
    let join = bench.written("join");
    assert_eq!(join["since"], json!({"epoch": "e", "offset": 6}));
    bench.answers(
        &join,
        json!({"type": "joined", "room": "den", "epoch": "e", "offset": 8, "recovered": true}),
    );
    assert!(matches!(bench.event(), Event::Joined(_)));
    for offset in [7, 8, 9] {
        bench.message(offset);
    }
    assert_eq!(bench.told(), [(7, 7), (8, 8), (9, 9)]);
}

#[test]
fn a_token_says_who_one_is_and_a_bad_session_is_left_aside() {
    let mut bench = Bench::with(|config| {
        config.token = Some("jwt".to_owned());
        config.resume = Some("old".to_owned());
    });
    bench.machine.connected(bench.now);
    let hello = bench.written("hello");
    assert_eq!(
        (&hello["token"], &hello["resume"], &hello["nickname"]),
        (&json!("jwt"), &json!("old"), &Value::Null)
    );
    bench.answers(&hello, error(401, "bad_token", false));
    let hello = bench.written("hello");
    assert_eq!((&hello["token"], &hello["resume"]), (&json!("jwt"), &Value::Null));
    bench.answers(&hello, error(401, "expired_token", false));
    assert!(
        matches!(bench.machine.link(), Link::Stopped(Reason::Refused(error)) if error.reason == "expired_token")
    );
    assert_eq!(bench.closes, 1);
}

#[test]
fn what_a_bye_says_is_done() {
    let bye = |code: u16, after_ms: u64| {
        let mut bench = Bench::online();
        bench.hears(
            json!({"type": "bye", "code": code, "reason": "why", "resumable": true, "after_ms": after_ms}),
        );
        assert_eq!(bench.closes, 1);
        // What the socket says afterwards is of no interest.
        bench.machine.closed(bench.now, Some(code), "why");
        bench
    };
    for code in [1000, 4100, 4101, 4102, 4103, 4104, 4105, 4106, 4107] {
        let mut bench = bye(code, 0);
        assert!(matches!(bench.event(), Event::Stopped(Reason::Bye(bye)) if bye.code == code));
        assert_eq!(bench.machine.deadline(), None);
        bench.silent();
    }
    for code in [4200, 4201, 4202, 4203, 4204, 4205] {
        let mut bench = bye(code, 0);
        let Event::Waiting { delay, .. } = bench.event() else { panic!() };
        assert!(delay <= ms(200));
        bench.wait_to_connect();
        assert_eq!(bye(code, 700).machine.deadline(), Some(ms(1700)));
    }
    assert_eq!(bye(4300, 1234).machine.deadline(), Some(ms(2234)));
    assert_eq!(bye(4300, 0).machine.deadline(), Some(ms(1000)));
}

#[test]
fn a_close_code_counts_where_no_bye_came() {
    for (code, stops) in [(4103, true), (4201, false), (1001, false), (1009, false)] {
        let mut bench = Bench::online();
        bench.machine.closed(bench.now, Some(code), "why");
        assert_eq!(matches!(bench.event(), Event::Stopped(_)), stops, "{code}");
        assert_eq!(bench.closes, 0);
    }
}

#[test]
fn pauses_grow_until_a_connection_has_held() {
    let failure = || ConnectFailure { reason: Reason::Unreachable("no".to_owned()), retry_after: None };
    let mut bench = Bench::with(|_| {});
    let mut longest = Duration::ZERO;
    for attempt in 1..=20 {
        assert_eq!(bench.event(), Event::Connecting { attempt });
        bench.machine.connect_failed(bench.now, failure());
        let Event::Waiting { delay, .. } = bench.event() else { panic!() };
        assert!(delay <= ms(30_000));
        longest = longest.max(delay);
        bench.wait_to_connect();
    }
    assert!(longest > ms(5000));
    bench.connect(false);
    // One that ends at once is no better than none.
    let pause = |bench: &mut Bench| {
        bench.machine.closed(bench.now, None, "reset");
        bench.take();
        let pause = bench.machine.deadline().unwrap() - bench.now;
        bench.wait_to_connect();
        bench.connect(true);
        pause
    };
    assert!((0..8).map(|_| pause(&mut bench)).max() > Some(ms(400)));
    bench.now += STABLE;
    assert!(pause(&mut bench) <= ms(200));
}

#[test]
fn a_wrong_address_stops_the_first_connection_alone() {
    let fail = |bench: &mut Bench| {
        let reason = Reason::Misaddressed("no frames".to_owned());
        bench.machine.connect_failed(bench.now, ConnectFailure { reason, retry_after: None });
        bench.take();
        bench.machine.link()
    };
    let mut bench = Bench::with(|_| {});
    assert!(matches!(fail(&mut bench), Link::Stopped(Reason::Misaddressed(_))));
    let mut bench = Bench::with(|config| config.keep_trying = true);
    assert_eq!(fail(&mut bench), Link::Waiting);
    // What has been a server once may be one again.
    let mut bench = Bench::online();
    bench.machine.not_understood(bench.now, Reason::Misaddressed("no frames".to_owned()));
    bench.take();
    assert_eq!(bench.machine.link(), Link::Waiting);
    bench.wait_to_connect();
    assert_eq!(fail(&mut bench), Link::Waiting);
    // Before the hello was answered it has been none.
    let mut bench = Bench::with(|_| {});
    bench.machine.connected(bench.now);
    bench.machine.not_understood(bench.now, Reason::Misaddressed("no frames".to_owned()));
    assert!(matches!(bench.machine.link(), Link::Stopped(Reason::Misaddressed(_))));
}

#[test]
fn what_the_server_says_over_http_is_heeded() {
    let rejected = |status, retry_after| {
        let mut bench = Bench::with(|_| {});
        let reason = Reason::Rejected { status, message: String::new() };
        bench.machine.connect_failed(bench.now, ConnectFailure { reason, retry_after });
        bench.machine.deadline()
    };
    assert_eq!(rejected(403, None), None);
    assert_eq!(rejected(404, None), None);
    assert_eq!(rejected(503, Some(ms(9000))), Some(ms(10_000)));
    assert_eq!(rejected(429, Some(ms(9000))), Some(ms(10_000)));
    assert!(rejected(502, None) <= Some(ms(1200)));
}

#[test]
fn a_nickname_in_use_stops_the_first_hello_and_another_one_goes_on() {
    let mut bench = Bench::with(|_| {});
    bench.machine.connected(bench.now);
    let hello = bench.written("hello");
    bench.answers(&hello, error(409, "nickname_in_use", false));
    bench.events.pop_front();
    assert!(matches!(bench.event(), Event::Stopped(reason) if reason.is_nickname_in_use()));
    assert!(matches!(bench.machine.join(bench.now, "den", JoinOptions::default()), Err(Error::Stopped)));
    let ticket = bench.machine.nick(bench.now, "al").unwrap();
    bench.machine.connected(bench.now);
    bench.take();
    let hello = bench.written("hello");
    assert_eq!(hello["nickname"], "al");
    bench.answers(&hello, json!({"type": "welcome", "nickname": "al", "resume": "token"}));
    assert!(
        bench
            .events
            .iter()
            .any(|event| matches!(event, Event::Reply { ticket: of, reply: Ok(_) } if *of == ticket))
    );
    assert_eq!(bench.machine.nickname(), Some("al"));
}

#[test]
fn a_nickname_that_ones_own_last_session_has_is_waited_for() {
    let mut bench = Bench::online();
    bench.machine.closed(bench.now, None, "reset");
    bench.take();
    bench.wait_to_connect();
    bench.machine.connected(bench.now);
    let hello = bench.written("hello");
    bench.answers(&hello, error(409, "nickname_in_use", false));
    assert_eq!(bench.machine.link(), Link::Waiting);
    bench.wait_to_connect();
    bench.machine.connected(bench.now);
    assert_eq!(bench.written("hello")["resume"], Value::Null);
}

#[test]
fn a_hello_that_may_go_well_later_is_said_later() {
    let mut bench = Bench::with(|_| {});
    bench.machine.connected(bench.now);
    let hello = bench.written("hello");
    let mut busy = error(503, "backplane_down", true);
    busy["retry_after_ms"] = json!(1500);
    bench.answers(&hello, busy);
    assert_eq!(bench.machine.deadline(), Some(ms(2500)));
    // And one that is never answered.
    bench.wait_to_connect();
    bench.machine.connected(bench.now);
    bench.pass(ms(20_000));
    assert_eq!(bench.machine.link(), Link::Waiting);
    assert_eq!(bench.closes, 2);
}

#[test]
fn messages_go_one_after_the_other_and_again_under_their_ids() {
    let mut bench = Bench::in_room(0);
    let (one, two) = (bench.send("one"), bench.send("two"));
    let first = bench.written("message");
    assert_eq!(first["content"], "one");
    assert_eq!(bench.event(), delivery(one, Delivery::Sent));
    bench.silent();
    bench.reconnect(true);
    let join = bench.written("join");
    // Not before one hears what comes of it.
    bench.silent();
    bench.answers(
        &join,
        json!({"type": "joined", "room": "den", "epoch": "e", "offset": 1, "recovered": true}),
    );
    let again = bench.written("message");
    assert_eq!(again, first);
    bench.events.clear();
    let ack = json!({"type": "ack", "room": "den", "epoch": "e", "offset": 1, "timestamp": 9, "level": "sequenced"});
    bench.answers(&again, ack.clone());
    is_acknowledged(&bench.event(), one);
    assert_eq!(bench.event(), delivery(two, Delivery::Sent));
    let second = bench.written("message");
    assert_ne!(second["id"], first["id"]);
    // Answers of before are nobody's.
    bench.answers(&again, ack.clone());
    bench.silent();
    bench.answers(&second, ack);
    is_acknowledged(&bench.event(), two);
    assert_eq!(bench.machine.unanswered(), 0);
}

#[test]
fn a_session_that_is_gone_leaves_doubt_only_where_there_is_some() {
    for resend in [false, true] {
        let mut bench = Bench::online_with(|config| config.resend_unsure = resend);
        bench.join("den", 0);
        let (one, two) = (bench.send("one"), bench.send("two"));
        let first = bench.written("message");
        bench.event();
        bench.reconnect(false);
        let join = bench.written("join");
        if !resend {
            assert_eq!(bench.event(), delivery(one, Delivery::Failed(Failure::Unsure)));
        }
        bench.answers(
            &join,
            json!({"type": "joined", "room": "den", "epoch": "e", "offset": 0, "recovered": true}),
        );
        bench.event();
        let next = bench.written("message");
        assert_eq!(next["content"], if resend { "one" } else { "two" });
        assert_eq!(next == first, resend);
        assert_eq!(bench.event(), delivery(if resend { one } else { two }, Delivery::Sent));
    }
}

#[test]
fn an_id_that_the_server_may_have_forgotten_is_not_sent_again() {
    let mut bench = Bench::in_room(0);
    let one = bench.send("one");
    bench.written("message");
    bench.event();
    bench.now += ms(290_000);
    bench.reconnect(true);
    let join = bench.written("join");
    bench.answers(
        &join,
        json!({"type": "joined", "room": "den", "epoch": "e", "offset": 0, "recovered": true}),
    );
    bench.event();
    assert_eq!(bench.event(), delivery(one, Delivery::Failed(Failure::Unsure)));
    bench.silent();
}

#[test]
fn what_is_refused_for_a_while_is_tried_again_and_keeps_its_place() {
    let mut bench = Bench::in_room(0);
    let one = bench.send("one");
    bench.send("two");
    let first = bench.written("message");
    let mut limited = error(429, "rate_limited", true);
    limited["retry_after_ms"] = json!(5000);
    bench.answers(&first, limited);
    bench.event();
    bench.silent();
    bench.pass(ms(4999));
    bench.silent();
    assert_eq!(bench.machine.deadline(), Some(ms(6000)));
    bench.pass(ms(1));
    assert_eq!(bench.written("message"), first);
    assert_eq!(bench.event(), delivery(one, Delivery::Sent));
    // It is certain that it was not published: a new session can have it.
    bench.machine.closed(bench.now, None, "reset");
    bench.take();
    bench.events.clear();
}

#[test]
fn a_message_that_was_certainly_refused_is_sent_in_another_session() {
    let mut bench = Bench::in_room(0);
    bench.send("one");
    let first = bench.written("message");
    bench.answers(&first, error(429, "rate_limited", true));
    bench.event();
    bench.reconnect(false);
    let join = bench.written("join");
    bench.answers(
        &join,
        json!({"type": "joined", "room": "den", "epoch": "e", "offset": 0, "recovered": true}),
    );
    assert_eq!(bench.written("message"), first);
}

#[test]
fn what_is_refused_for_good_has_failed() {
    let mut bench = Bench::in_room(0);
    let (one, two) = (bench.send("one"), bench.send("two"));
    let first = bench.written("message");
    bench.event();
    bench.answers(&first, error(403, "muted", false));
    let Event::Delivery { ticket, delivery: Delivery::Failed(Failure::Refused(error)) } = bench.event()
    else {
        panic!()
    };
    assert_eq!((ticket, &*error.reason), (one, "muted"));
    assert_eq!(bench.event(), delivery(two, Delivery::Sent));
}

#[test]
fn what_cannot_be_sent_is_refused_at_once() {
    let mut bench = Bench::online_with(|config| config.queue_messages = 2);
    let now = bench.now;
    assert!(
        matches!(bench.machine.send(now, "den", "hi", None), Err(Error::NotInRoom(room)) if room == "den")
    );
    bench.join("den", 0);
    assert!(matches!(bench.machine.send(now, "den", "", None), Err(Error::Empty)));
    assert!(matches!(bench.machine.send(now, "den", &"x".repeat(65_537), None), Err(Error::TooLarge)));
    // Each of these takes six bytes in JSON.
    assert!(matches!(bench.machine.send(now, "den", &"\u{1}".repeat(50_000), None), Err(Error::TooLarge)));
    bench.send("one");
    let two = bench.send("two");
    assert!(matches!(bench.machine.send(now, "den", "three", None), Err(Error::QueueFull)));
    assert!(matches!(bench.machine.private(now, "bob", "three"), Err(Error::QueueFull)));
    assert!(bench.machine.cancel(two));
    assert!(!bench.machine.cancel(two));
    bench.machine.private(now, "bob", "three").unwrap();
    assert!(matches!(bench.machine.request(now, Command::Quit), Err(Error::OwnMethod("quit"))));
}

#[test]
fn requests_wait_for_their_room_and_questions_are_asked_again() {
    let mut bench = Bench::online();
    bench.machine.join(bench.now, "den", JoinOptions::default()).unwrap();
    let question = Command::Members { room: "den".to_owned(), limit: None, after: None };
    let asked = bench.machine.request(bench.now, question).unwrap();
    let kick = Command::Kick { room: "den".to_owned(), target: "bob".to_owned(), reason: None };
    let kicked = bench.machine.request(bench.now, kick).unwrap();
    let join = bench.written("join");
    bench.silent();
    bench.answers(&join, json!({"type": "joined", "room": "den", "epoch": "e", "offset": 0}));
    bench.events.clear();
    bench.written("members");
    bench.written("kick");
    bench.reconnect_losing(kicked);
    let join = bench.written("join");
    bench.answers(
        &join,
        json!({"type": "joined", "room": "den", "epoch": "e", "offset": 0, "recovered": true}),
    );
    bench.events.clear();
    let members = bench.written("members");
    bench.answers(&members, json!({"type": "members", "room": "den", "total": 0, "members": []}));
    assert!(
        matches!(bench.event(), Event::Reply { ticket, reply: Ok(Reply::Members(_)) } if ticket == asked)
    );
    bench.silent();
}

impl Bench {
    /// The connection breaks and what this was is not known.
    fn reconnect_losing(&mut self, lost: Ticket) {
        self.machine.closed(self.now, None, "reset");
        assert_eq!(self.event(), Event::Reply { ticket: lost, reply: Err(Failure::Lost) });
        self.wait_to_connect();
        self.connect(true);
        self.events.clear();
    }
}

#[test]
fn a_connection_is_measured_and_given_up_when_it_is_dead() {
    let mut bench = Bench::online();
    bench.pass(ms(15_000));
    let ping = bench.written("ping");
    bench.now += ms(30);
    bench.answers(&ping, json!({"type": "pong", "timestamp": 1}));
    assert_eq!(bench.event(), Event::Latency(ms(30)));
    assert_eq!(bench.machine.latency(), Some(ms(30)));
    bench.hears(json!({"type": "ping"}));
    bench.written("pong");
    bench.pass(ms(39_999));
    bench.written("ping");
    bench.silent();
    bench.machine.heard(bench.now);
    bench.pass(ms(39_999));
    bench.written("ping");
    bench.silent();
    bench.pass(ms(1));
    assert!(matches!(bench.event(), Event::Waiting { reason: Reason::Silent, .. }));
    assert_eq!(bench.closes, 1);
}

#[test]
fn what_is_not_understood_is_told_and_does_no_harm() {
    let mut bench = Bench::in_room(0);
    for odd in
        [json!({"type": "of_tomorrow", "x": 1}), json!({"type": "message", "room": 5}), json!([1]), json!("")]
    {
        bench.hears(odd.clone());
        assert_eq!(bench.event(), Event::Other(odd));
    }
    bench.machine.frame(bench.now, "{");
    assert!(matches!(bench.event(), Event::Other(_)));
    bench.hears(json!({"type": "presence", "room": "den", "event": "of_tomorrow", "nickname": "bob"}));
    assert!(matches!(bench.event(), Event::Presence(_)));
    let mut more = message(1);
    more["of_tomorrow"] = json!([1]);
    bench.hears(more);
    assert_eq!(bench.told(), [(1, 1)]);
}

#[test]
fn another_nickname_is_taken_in_the_session() {
    let mut bench = Bench::in_room(0);
    let ticket = bench.machine.nick(bench.now, "al").unwrap();
    let nick = bench.written("nick");
    bench.answers(&nick, json!({"type": "ack"}));
    assert_eq!(bench.event(), Event::Renamed("al".to_owned()));
    assert!(matches!(bench.event(), Event::Reply { ticket: of, reply: Ok(_) } if of == ticket));
    assert_eq!(bench.machine.nickname(), Some("al"));
    // Another client of the same session's user may rename him.
    bench.hears(json!({"type": "presence", "room": "den", "event": "nick", "nickname": "ali", "from": "al"}));
    assert_eq!(bench.event(), Event::Renamed("ali".to_owned()));
}

#[test]
fn who_quits_is_told_what_became_of_everything() {
    let mut bench = Bench::in_room(0);
    let (one, two) = (bench.send("one"), bench.send("two"));
    bench.written("message");
    bench.event();
    bench.machine.quit(bench.now);
    let quit = bench.written("quit");
    assert!(matches!(bench.machine.private(bench.now, "bob", "hi"), Err(Error::Stopped)));
    bench.answers(
        &quit,
        json!({"type": "bye", "code": 1000, "reason": "quit", "resumable": false, "after_ms": 0}),
    );
    assert_eq!(bench.event(), delivery(one, Delivery::Failed(Failure::Unsure)));
    assert_eq!(bench.event(), delivery(two, Delivery::Failed(Failure::Stopped)));
    assert_eq!(bench.event(), Event::Stopped(Reason::Quit));
    assert_eq!(bench.closes, 1);
    // A server that does not answer is not waited for.
    let mut bench = Bench::online();
    bench.machine.quit(bench.now);
    bench.now = bench.machine.deadline().unwrap();
    bench.tick();
    assert_eq!(bench.event(), Event::Stopped(Reason::Quit));
}

#[test]
fn a_journal_hears_what_it_must_keep() {
    let mut bench = Bench::online_with(|config| config.journal = true);
    assert_eq!(bench.machine.take_records(), [Record::Session { resume: "token".to_owned() }]);
    bench.join("den", 0);
    bench.send("one");
    bench.send("two");
    let records = bench.machine.take_records();
    let [Record::Queued(one), Record::Written { id }, Record::Queued(two)] = &records[..] else {
        panic!("{records:?}")
    };
    assert_eq!((&one.content, &two.content, id), (&"one".to_owned(), &"two".to_owned(), &one.id));
    let saved = vec![Saved { written: Some(ms(5000)), ..one.clone() }, two.clone()];
    let sent = bench.written("message");
    bench.answers(&sent, json!({"type": "ack", "room": "den", "epoch": "e", "offset": 1}));
    let records = bench.machine.take_records();
    assert_eq!(records, [Record::Done { id: one.id.clone() }, Record::Written { id: two.id.clone() }]);

    // Another run: the same session knows the ids, another one does not.
    for resumed in [true, false] {
        let mut bench = Bench::with(|config| config.resume = Some("token".to_owned()));
        bench.machine.restore(bench.now, saved.clone());
        bench.connect(resumed);
        bench.machine.join(bench.now, "den", JoinOptions::default()).unwrap();
        let join = bench.written("join");
        bench.answers(&join, json!({"type": "joined", "room": "den", "epoch": "e", "offset": 1}));
        let sent = bench.written("message");
        assert_eq!(sent["id"], if resumed { &*one.id } else { &*two.id });
        let unsure = bench.events.iter().filter(|event| {
            matches!(event, Event::Delivery { delivery: Delivery::Failed(Failure::Unsure), .. })
        });
        assert_eq!(unsure.count(), usize::from(!resumed));
    }
}
