//! The client with a server that only listens.

use ratatui::crossterm::event::{Event as Key, KeyCode, KeyEvent, KeyModifiers};
use starling_client::serde_json::{from_value, json};
use starling_client::wire::ServerError;
use starling_client::{Delivery, Event, Failure, Reply, Value};

use super::*;
use crate::buffer::{Older, Own};
use crate::clock;

/// Notes what it is asked, and gives numbers.
#[derive(Debug, Default)]
pub struct Listener {
    pub asked: Vec<Ask>,
    /// What it says to the next question instead.
    pub refuses: Option<Error>,
}

impl Server for Listener {
    fn ask(&mut self, ask: Ask) -> Result<Ticket, Error> {
        if let Some(error) = self.refuses.take() {
            return Err(error);
        }
        self.asked.push(ask);
        Ok(Ticket(self.asked.len() as u64))
    }
}

/// A client, and what it has asked.
pub struct Test {
    pub app: App,
    pub server: Listener,
}

impl Test {
    pub fn new(nickname: Option<&str>, size: (u16, u16)) -> Test {
        let settings = Settings {
            url: "ws://test/ws".to_owned(),
            nickname: nickname.map(str::to_owned),
            has_token: false,
            has_journal: false,
            rooms: vec!["den".to_owned()],
            is_coloured: true,
            has_bell: true,
            to_local: clock::utc,
        };
        let mut test = Test { app: App::new(settings, size), server: Listener::default() };
        test.app.now_ms = 3_600_000;
        test.app.start(&mut test.server);
        test
    }

    /// Alice, in `den` with bob.
    pub fn online(size: (u16, u16)) -> Test {
        let mut test = Test::new(Some("alice"), size);
        test.welcome("alice");
        test.joined("den", json!([]), 10);
        let members = json!({"room": "den", "total": 2, "members": [
            {"nickname": "alice", "role": "host", "connected": true},
            {"nickname": "bob", "role": "member", "connected": true},
        ]});
        let ticket = test.ticket(|ask| matches!(ask, Ask::Command(Command::Members { .. })));
        test.hear(Event::Reply { ticket, reply: Ok(Reply::Members(from_value(members).unwrap())) });
        test
    }

    pub fn welcome(&mut self, nickname: &str) {
        self.hear(Event::Online(from_value(json!({"nickname": nickname, "server": "starling/0"})).unwrap()));
    }

    pub fn joined(&mut self, room: &str, messages: Value, offset: u64) {
        let joined = json!({"room": room, "epoch": "e", "offset": offset, "role": "host", "members": 2, "messages": []});
        let mut joined: starling_client::wire::Joined = from_value(joined).unwrap();
        joined.messages = from_value(messages).unwrap();
        for message in &mut joined.messages {
            "e".clone_into(&mut message.epoch);
        }
        self.hear(Event::Joined(joined));
    }

    pub fn hear(&mut self, event: Event) {
        self.app.heard(event, &mut self.server);
    }

    pub fn message(&mut self, room: &str, sender: &str, content: &str, offset: u64) {
        let message = json!({"room": room, "epoch": "e", "sender": sender, "content": content, "offset": offset, "timestamp": 3_600_000});
        self.hear(Event::Message(from_value(message).unwrap()));
    }

    /// Older messages come, if they have been asked for.
    pub fn older(&mut self, room: &str, count: u64) {
        let Some(buffer) = self.app.buffers.iter().find(|buffer| buffer.name == room) else { return };
        let (Older::Asked(ticket), Some(first)) = (buffer.older, buffer.first_offset()) else { return };
        let message = |offset: u64| json!({"room": room, "epoch": "e", "sender": "bob", "content": "old", "offset": offset, "timestamp": 0});
        let messages: Vec<Value> = (first.saturating_sub(count).max(1)..first).map(message).collect();
        let page = json!({"room": room, "epoch": "e", "messages": messages});
        self.hear(Event::Reply { ticket, reply: Ok(Reply::History(history_of(page))) });
    }

    pub fn press(&mut self, code: KeyCode, modifiers: KeyModifiers) {
        self.app.event(&Key::Key(KeyEvent::new(code, modifiers)), &mut self.server);
    }

    pub fn key(&mut self, code: KeyCode) {
        self.press(code, KeyModifiers::NONE);
    }

    pub fn control(&mut self, letter: char) {
        self.press(KeyCode::Char(letter), KeyModifiers::CONTROL);
    }

    pub fn alt(&mut self, letter: char) {
        self.press(KeyCode::Char(letter), KeyModifiers::ALT);
    }

    pub fn write(&mut self, text: &str) {
        for letter in text.chars() {
            self.key(KeyCode::Char(letter));
        }
    }

    pub fn enter(&mut self, text: &str) {
        self.write(text);
        self.key(KeyCode::Enter);
    }

    /// The ticket of the last question of this kind.
    pub fn ticket(&self, is: impl Fn(&Ask) -> bool) -> Ticket {
        Ticket(self.server.asked.iter().rposition(is).expect("it was asked") as u64 + 1)
    }

    /// What was asked since last time, but for notices of typing.
    pub fn asked(&mut self) -> Vec<Ask> {
        let asked = std::mem::take(&mut self.server.asked);
        // Tickets stay different.
        self.server.asked = vec![Ask::Reconnect; asked.len()];
        let is_new = |ask: &Ask| !matches!(ask, Ask::Typing(_) | Ask::Reconnect);
        asked.into_iter().filter(is_new).collect()
    }

    pub fn said(&self) -> Vec<String> {
        let said = |line: &Line| match &line.what {
            What::Message { sender, content, .. } => format!("{sender}: {content}"),
            What::Notice(text) => format!("* {text}"),
            What::Trouble(text) => format!("! {text}"),
        };
        self.app.shown().lines.iter().map(said).collect()
    }

    fn own(&self) -> Vec<Own> {
        let own = |line: &Line| match &line.what {
            What::Message { own, .. } => own.clone(),
            _ => None,
        };
        self.app.shown().lines.iter().filter_map(own).collect()
    }

    fn deliver(&mut self, ticket: Ticket, delivery: Delivery) {
        self.hear(Event::Delivery { ticket, delivery });
    }

    fn quits(&mut self) -> bool {
        self.app.take_effects().contains(&Effect::Quit)
    }
}

fn say(room: &str, text: &str) -> Ask {
    Ask::Say(room.to_owned(), text.to_owned())
}

fn history_of(page: Value) -> starling_client::wire::History {
    from_value(page).unwrap()
}

fn refusal(reason: &str, message: &str) -> ServerError {
    from_value(json!({"code": 409, "reason": reason, "message": message})).unwrap()
}

#[test]
fn one_without_a_nickname_is_asked_for_it() {
    let mut test = Test::new(None, (80, 24));
    assert_eq!((test.asked(), &test.app.mode), (vec![], &Mode::Nickname { why: None }));
    test.enter("alice");
    assert_eq!(test.asked(), [Ask::Connect(Some("alice".into())), Ask::Join("den".into())]);
    assert_eq!(test.app.shown().name, "den");
    let taken = Reason::Refused(refusal("nickname_in_use", "alice is taken"));
    test.hear(Event::Stopped(taken));
    assert_eq!(test.app.mode, Mode::Nickname { why: Some("alice is taken".into()) });
    test.enter("alice2");
    // The room is waited for already.
    assert_eq!(test.asked(), [Ask::Connect(Some("alice2".into()))]);
    assert_eq!(test.app.mode, Mode::Chat);
}

#[test]
fn what_is_said_is_followed_until_it_is_there() {
    let mut test = Test::online((80, 24));
    test.asked();
    test.enter("hi");
    assert_eq!((test.asked(), test.own(), test.app.unsent()), (vec![say("den", "hi")], vec![Own::Queued], 1));
    let ticket = Ticket(test.server.asked.len() as u64);
    test.deliver(ticket, Delivery::Sent);
    assert_eq!(test.own(), [Own::Sent]);
    let ack = json!({"room": "den", "epoch": "e", "offset": 11, "timestamp": 3_600_000});
    test.deliver(ticket, Delivery::Acknowledged(from_value(ack).unwrap()));
    test.message("den", "alice", "hi", 11);
    assert_eq!(
        (test.said(), test.own(), test.app.unsent()),
        (vec!["alice: hi".into()], vec![Own::Acknowledged], 0)
    );
    test.enter("//slash");
    test.enter("never");
    assert_eq!(test.asked(), [say("den", "/slash"), say("den", "never")]);
    let ticket = Ticket(test.server.asked.len() as u64);
    test.deliver(ticket, Delivery::Failed(Failure::Refused(refusal("muted", "you are muted"))));
    assert_eq!(test.own().last(), Some(&Own::Queued));
    assert!(test.own().contains(&Own::Failed("you are muted".into())));
}

#[test]
fn what_cannot_be_sent_stays_to_be_put_right() {
    let mut test = Test::online((80, 24));
    test.server.refuses = Some(Error::TooLarge);
    test.app.editor.insert("long");
    test.key(KeyCode::Enter);
    assert_eq!((test.app.editor.text(), test.said().last().unwrap().starts_with('!')), ("long", true));
    test.control('u');
    test.enter("/dance");
    assert_eq!(test.app.editor.text(), "/dance");
    test.control('u');
    test.alt('0');
    test.enter("hello?");
    assert!(test.said().last().unwrap().contains("nobody hears you here"));
}

#[test]
fn what_nobody_has_seen_is_counted() {
    let mut test = Test::online((80, 24));
    test.joined("ops", json!([]), 0);
    test.message("ops", "bob", "one", 1);
    test.message("ops", "bob", "Alice: two", 2);
    test.message("den", "bob", "seen", 11);
    let counts: Vec<(usize, usize)> =
        test.app.buffers.iter().map(|buffer| (buffer.unread, buffer.mentions)).collect();
    assert_eq!(counts, [(0, 0), (0, 0), (2, 1)]);
    assert_eq!(test.app.take_effects(), [Effect::Bell]);
    test.alt('2');
    assert_eq!((test.app.shown().unread, test.app.shown().new_from.is_some()), (0, true));
    test.alt('1');
    assert!(test.app.buffers[2].new_from.is_none());
    test.message("ops", "bob", "three", 3);
    test.control('n');
    assert_eq!(test.app.shown().name, "ops");
    test.press(KeyCode::Down, KeyModifiers::ALT);
    assert_eq!(test.app.current, 0);
    test.control('p');
    assert_eq!(test.app.shown().name, "ops");
}

#[test]
fn nicknames_rooms_and_commands_are_completed() {
    let mut test = Test::online((80, 24));
    test.message("den", "bert", "hi", 11);
    test.write("b");
    for expected in ["bert: ", "bob: ", "bert: "] {
        test.key(KeyCode::Tab);
        assert_eq!(test.app.editor.text(), expected);
    }
    test.key(KeyCode::BackTab);
    assert_eq!(test.app.editor.text(), "bob: ");
    test.write("x b");
    test.key(KeyCode::Tab);
    assert_eq!(test.app.editor.text(), "bob: x bert ");
    test.control('c');
    test.write("/le");
    test.key(KeyCode::Tab);
    test.write("d");
    test.key(KeyCode::Tab);
    assert_eq!(test.app.editor.text(), "/leave den ");
}

#[test]
fn conversations_have_a_place_of_their_own() {
    let mut test = Test::online((80, 24));
    let private = json!({"sender": "bob", "target": "alice", "content": "psst", "timestamp": 3_600_000});
    test.hear(Event::Private(from_value(private).unwrap()));
    assert_eq!((test.app.buffers[2].mentions, test.app.take_effects()), (1, vec![Effect::Bell]));
    test.alt('a');
    assert_eq!(test.said(), ["bob: psst"]);
    test.asked();
    test.enter("yes?");
    assert_eq!(test.asked(), [Ask::Private("bob".into(), "yes?".into())]);
    let ticket = Ticket(test.server.asked.len() as u64);
    test.deliver(
        ticket,
        Delivery::Acknowledged(from_value(json!({"target": "bob", "delivered": 0, "stored": true})).unwrap()),
    );
    assert_eq!(test.said(), ["bob: psst", "alice: yes?", "* bob is away, and will get it"]);
    test.enter("/leave");
    assert_eq!((test.app.buffers.len(), test.app.shown().name.as_str()), (2, "den"));
    test.enter("/msg carol are you there");
    assert_eq!(test.asked(), [Ask::Private("carol".into(), "are you there".into())]);
    assert_eq!(test.app.shown().name, "carol");
}

#[test]
fn reaching_the_top_asks_for_what_is_older() {
    let mut test = Test::online((80, 10));
    for offset in 11..40 {
        test.message("den", "bob", &format!("message {offset}"), offset);
    }
    test.asked();
    test.key(KeyCode::PageUp);
    assert_eq!((test.asked(), test.app.shown().scroll.is_some()), (vec![], true));
    test.message("den", "bob", "below", 40);
    assert_eq!(test.app.shown().unread, 1);
    for _ in 0..10 {
        test.key(KeyCode::PageUp);
    }
    let history = Command::History { room: "den".into(), before: Some(11), after: None, limit: Some(PAGE) };
    assert_eq!(test.asked(), [Ask::Command(history)]);
    let ticket = Ticket(test.server.asked.len() as u64);
    let message = |offset: u64| json!({"room": "den", "epoch": "e", "sender": "bob", "content": "old", "offset": offset, "timestamp": 0});
    let page = json!({"room": "den", "epoch": "e", "messages": [message(9), message(10)]});
    test.hear(Event::Reply { ticket, reply: Ok(Reply::History(history_of(page))) });
    assert_eq!(test.app.shown().first_offset(), Some(9));
    test.key(KeyCode::End);
    assert_eq!((test.app.shown().scroll, test.app.shown().unread), (None, 0));
    test.key(KeyCode::Home);
    test.asked();
    let ticket = Ticket(test.server.asked.len() as u64);
    let none = json!({"room": "den", "epoch": "e", "messages": []});
    test.hear(Event::Reply { ticket, reply: Ok(Reply::History(history_of(none))) });
    assert_eq!(test.app.shown().older, Older::None);
    test.key(KeyCode::Home);
    assert_eq!(test.asked(), []);
}

#[test]
fn a_journal_that_is_damaged_is_told_and_not_forgotten() {
    let mut test = Test::online((80, 24));
    test.hear(Event::JournalDamaged { bytes: 80, copy: "/tmp/outbox.damaged".into() });
    let told = test.said().last().unwrap().clone();
    assert!(told.starts_with("! the journal was damaged: 80 bytes of it"), "{told}");
    assert!(told.ends_with("/tmp/outbox.damaged"), "{told}");
    assert!(test.app.lost.is_some());
}

#[test]
fn a_connection_that_is_lost_is_told() {
    let mut test = Test::online((80, 24));
    test.hear(Event::Latency(Duration::from_millis(3)));
    let reason = Reason::Silent;
    test.hear(Event::Waiting { delay: Duration::from_secs(2), reason });
    assert!(matches!(&test.app.link, Link::Waiting { until, .. } if *until == Duration::from_secs(2)));
    assert_eq!(test.app.latency, None);
    test.enter("kept");
    test.control('c');
    assert_eq!((test.quits(), &test.app.mode), (false, &Mode::Quit));
    test.write("n");
    assert_eq!(test.app.mode, Mode::Chat);
    test.control('c');
    test.control('c');
    assert!(test.quits());
}

#[test]
fn who_does_not_quit_after_all_is_asked_for_a_nickname_again() {
    let mut test = Test::online((80, 24));
    test.enter("kept");
    test.hear(Event::Stopped(Reason::Refused(refusal("nickname_in_use", "taken"))));
    test.control('c');
    assert_eq!(test.app.mode, Mode::Quit);
    test.write("n");
    assert_eq!(test.app.mode, Mode::Nickname { why: Some("taken".into()) });
}

#[test]
fn control_c_clears_and_then_quits() {
    let mut test = Test::online((80, 24));
    test.write("half");
    test.control('c');
    assert_eq!((test.quits(), test.app.editor.text()), (false, ""));
    test.control('c');
    assert!(test.quits());
    let mut test = Test::online((80, 24));
    test.enter("/quit");
    assert!(test.quits());
}

#[test]
fn pasted_lines_are_one_message() {
    let mut test = Test::online((80, 24));
    test.asked();
    test.app.event(&Key::Paste("one\r\ntwo\rthree\n".into()), &mut test.server);
    assert_eq!(test.app.editor.text(), "one\ntwo\nthree");
    test.key(KeyCode::Enter);
    assert_eq!(test.asked(), [say("den", "one\ntwo\nthree")]);
    test.write("a");
    test.press(KeyCode::Enter, KeyModifiers::ALT);
    test.enter("b");
    assert_eq!(test.asked(), [say("den", "a\nb")]);
}

#[test]
fn commands_ask_the_server() {
    let mut test = Test::online((80, 24));
    test.asked();
    for text in ["/join ops", "/kick bob", "/topic birds", "/rooms", "/nick al", "/who den", "/leave"] {
        test.enter(text);
        if text == "/join ops" {
            test.alt('1');
        }
    }
    let (room, target) = ("den".to_owned(), "bob".to_owned());
    assert_eq!(
        test.asked(),
        [
            Ask::Join("ops".into()),
            Ask::Command(Command::Kick { room: room.clone(), target, reason: None }),
            Ask::Command(Command::State { room: room.clone(), key: "topic".into(), value: "birds".into() }),
            Ask::Command(Command::Rooms { limit: Some(LIST), after: None }),
            Ask::Nick("al".into()),
            Ask::Command(Command::Members { room: room.clone(), limit: Some(LIST), after: None }),
            Ask::Leave(room),
        ]
    );
    assert_eq!(test.app.shown().name, "ops");
}

#[test]
fn who_is_put_out_or_refused_is_told() {
    let mut test = Test::online((80, 24));
    test.hear(Event::Left(from_value(json!({"room": "den", "reason": "kicked"})).unwrap()));
    assert!(test.said().last().unwrap().contains("put out"));
    assert!(!test.app.shown().is_joined);
    test.asked();
    test.enter("/join den");
    assert_eq!(test.asked(), [Ask::Join("den".into())]);
    let ticket = Ticket(test.server.asked.len() as u64);
    test.hear(Event::Reply { ticket, reply: Err(Failure::Refused(refusal("banned", "you are banned"))) });
    assert_eq!(test.said().last().unwrap(), "! you are banned. /leave closes this");
}

#[test]
fn what_others_write_is_harmless() {
    let mut test = Test::online((80, 24));
    test.message("den", "bob", "a\x1b]0;title\x07b\u{202e}c\nd", 11);
    assert_eq!(test.said(), ["bob: a␛]0;title␇bc⏎d"]);
    let state = json!({"room": "den", "key": "topic", "value": "x\x1b[31m", "sender": "bob"});
    test.hear(Event::State(from_value(state).unwrap()));
    assert_eq!(test.app.shown().topic, "x␛[31m");
}

#[test]
fn gaps_and_new_histories_are_told() {
    let mut test = Test::online((80, 24));
    test.hear(Event::Gap(from_value(json!({"room": "den", "epoch": "e", "from": 11, "to": 13})).unwrap()));
    assert!(test.said().last().unwrap().starts_with("! 3 messages are missing here"));
    test.hear(Event::Restarted { room: "den".into(), epoch: "f".into(), offset: 0 });
    assert!(test.said().last().unwrap().contains("begun afresh"));
    // What was said in the new one before one was back is asked for, and stands behind the old one.
    test.message("den", "bob", "old", 14);
    test.asked();
    test.hear(Event::Restarted { room: "den".into(), epoch: "g".into(), offset: 2 });
    let last = Command::History { room: "den".into(), before: None, after: None, limit: Some(FIRST_PAGE) };
    assert_eq!(test.asked(), [Ask::Command(last)]);
    let ticket = Ticket(test.server.asked.len() as u64);
    let message = |offset: u64| json!({"room": "den", "epoch": "g", "sender": "bob", "content": "new", "offset": offset, "timestamp": 0});
    let page = json!({"room": "den", "epoch": "g", "messages": [message(1), message(2)]});
    test.hear(Event::Reply { ticket, reply: Ok(Reply::History(history_of(page))) });
    assert_eq!(test.said()[test.said().len() - 2..], ["bob: new", "bob: new"]);
}

#[test]
fn a_conversation_with_nobody_is_closed() {
    let no_such_user = || {
        from_value(json!({"code": 404, "reason": "no_such_user", "message": "nobody is called bbo"})).unwrap()
    };
    let fail = |test: &mut Test| {
        let ticket = test.ticket(|ask| matches!(ask, Ask::Private(..)));
        let delivery = Delivery::Failed(Failure::Refused(no_such_user()));
        test.hear(Event::Delivery { ticket, delivery });
    };
    let mut test = Test::online((80, 24));
    test.joined("ops", json!([]), 0);
    test.enter("/msg bbo psst");
    assert_eq!(test.app.shown().name, "bbo");
    fail(&mut test);
    assert_eq!((&*test.app.shown().name, test.app.buffers.len()), ("den", 3));
    assert_eq!(test.said().last().unwrap(), "! not sent to bbo: psst (nobody is called bbo)");
    // The same for what is typed in a conversation that was opened without a word.
    test.enter("/msg bbo");
    test.enter("psst");
    fail(&mut test);
    assert_eq!(test.app.shown().name, "den");
    // What is being typed stays where it is.
    test.enter("/msg bbo psst");
    test.write("a secret");
    fail(&mut test);
    assert_eq!(test.app.shown().name, "bbo");
    // What has been said stays to be read.
    let mut test = Test::online((80, 24));
    let private = json!({"sender": "bbo", "target": "alice", "content": "hi", "timestamp": 0});
    test.hear(Event::Private(from_value(private).unwrap()));
    test.enter("/msg bbo psst");
    fail(&mut test);
    assert_eq!(test.app.shown().name, "bbo");
}

#[test]
fn a_name_beside_a_token_does_not_count() {
    let mut test = Test::new(Some("eve"), (80, 24));
    test.app.settings.has_token = true;
    let mut app = App::new(test.app.settings.clone(), (80, 24));
    app.start(&mut test.server);
    test.app = app;
    assert_eq!(test.app.nickname, None);
    assert_eq!(test.said().last().unwrap(), "! the token says who you are: --nickname eve does not count");
}
