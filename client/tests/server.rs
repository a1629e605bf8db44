//! The client against servers that are real: the release binary, which is killed, drained and started again under it.

mod common;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::{DEADLINE, Server, certificate};
use starling_client::wire::Message;
use starling_client::{
    Client, Command, Delivery, Error, Event, Failure, JoinOptions, Level, Link, Options, Position, Reason,
    Reply, Value,
};

/// Comes back fast: a test waits for it.
fn options(url: &str, nickname: &str) -> Options {
    Options::new(url).nickname(nickname).backoff(Duration::from_millis(20), Duration::from_millis(200))
}

fn client(url: &str, nickname: &str) -> Client {
    let client = Client::connect(options(url, nickname)).unwrap();
    client.wait_online(DEADLINE).unwrap();
    client
}

fn member(url: &str, nickname: &str, room: &str) -> Client {
    let client = client(url, nickname);
    client.join(room).unwrap().wait(DEADLINE).unwrap();
    client
}

/// The next event for which this has an answer.
#[track_caller]
fn next<T>(client: &Client, what: &str, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(event) = client.events().next_timeout(left) else { panic!("{what} did not come") };
        if let Some(found) = wanted(event) {
            return found;
        }
    }
}

#[track_caller]
fn next_message(client: &Client) -> Message {
    next(client, "a message", |event| match event {
        Event::Message(message) => Some(message),
        Event::Gap(_) | Event::Restarted { .. } => panic!("{event:?}"),
        _ => None,
    })
}

/// All that a room has, oldest first.
fn history(client: &Client, room: &str) -> Vec<Message> {
    let mut all: Vec<Message> = Vec::new();
    loop {
        let after = all.last().map_or(0, |message| message.offset);
        match client.history_after(room, after, Some(1000)).unwrap().wait(DEADLINE).unwrap() {
            Reply::History(page) if page.messages.is_empty() => return all,
            Reply::History(page) => all.extend(page.messages),
            reply => panic!("{reply:?}"),
        }
    }
}

/// What somebody needs who writes a client with a screen, over each transport.
fn everything(url: &str, alter: impl Fn(Options) -> Options) {
    let connect = |nickname: &str| {
        let client = Client::connect(alter(options(url, nickname))).unwrap();
        client.wait_online(DEADLINE).unwrap();
        client
    };
    let (alice, bob) = (connect("alice"), connect("bob"));
    next(&alice, "a latency", |event| matches!(event, Event::Latency(_)).then_some(()));
    assert!(alice.latency().is_some());
    alice.join("den").unwrap().wait(DEADLINE).unwrap();
    let said = alice.send("den", "hello").unwrap();
    let ack = said.wait(DEADLINE).unwrap();
    assert_eq!((ack.offset, ack.level), (Some(1), Some(Level::Sequenced)));
    assert!(matches!(said.delivery(), Delivery::Acknowledged(_)));
    alice.set_topic("den", "birds").unwrap().wait(DEADLINE).unwrap();

    bob.join_with("den", JoinOptions::default().history(5)).unwrap();
    let joined = next(&bob, "joined", |event| match event {
        Event::Joined(joined) => Some(joined),
        _ => None,
    });
    assert_eq!(joined.state["topic"].value, Value::from("birds"));
    assert_eq!(joined.messages.len(), 1);
    assert_eq!((&*joined.messages[0].room, &*joined.messages[0].content), ("den", "hello"));
    next(&alice, "a presence", |event| matches!(event, Event::Presence(_)).then_some(()));
    bob.typing("den").unwrap();
    next(&alice, "typing", |event| matches!(event, Event::Typing(_)).then_some(()));
    assert_eq!(bob.private("alice", "psst").unwrap().wait(DEADLINE).unwrap().delivered, Some(1));
    let private = next(&alice, "a private message", |event| match event {
        Event::Private(private) => Some(private),
        _ => None,
    });
    assert_eq!((&*private.sender, &*private.content), ("bob", "psst"));
    let Reply::Members(members) = bob.members("den", None, None).unwrap().wait(DEADLINE).unwrap() else {
        panic!()
    };
    assert_eq!(members.total, 2);
    let Reply::Rooms(rooms) = bob.rooms(None, None).unwrap().wait(DEADLINE).unwrap() else { panic!() };
    assert!(rooms.rooms.iter().any(|room| room.room == "den"));
    bob.nick("rob").unwrap().wait(DEADLINE).unwrap();
    assert_eq!(bob.nickname().as_deref(), Some("rob"));

    let mute = |client: &Client| {
        let target = if client.nickname().as_deref() == Some("rob") { "alice" } else { "rob" };
        let command =
            Command::Mute { room: "den".into(), target: target.into(), reason: None, seconds: None };
        client.command(command).unwrap().wait(DEADLINE)
    };
    assert!(matches!(mute(&bob), Err(Error::Failed(Failure::Refused(error))) if error.reason == "forbidden"));
    mute(&alice).unwrap();
    let muted = bob.send("den", "but").unwrap().wait(DEADLINE);
    assert!(matches!(muted, Err(Error::Failed(Failure::Refused(error))) if error.reason == "muted"));

    let kick = Command::Kick { room: "den".into(), target: "rob".into(), reason: Some("enough".into()) };
    alice.command(kick).unwrap().wait(DEADLINE).unwrap();
    let left = next(&bob, "left", |event| match event {
        Event::Left(left) => Some(left),
        _ => None,
    });
    assert_eq!(left.reason, "kicked");
    assert!(matches!(bob.send("den", "but"), Err(Error::NotInRoom(_))));
    assert!(
        matches!(alice.leave("den").unwrap().wait(DEADLINE).unwrap(), Reply::Left(room) if room == "den")
    );
    assert_eq!(alice.close(DEADLINE), 0);
    // The loop over its events ends.
    assert!(alice.events().any(|event| event == Event::Stopped(Reason::Quit)));
    // The nickname is free at once.
    assert!(matches!(bob.nick("alice").unwrap().wait(DEADLINE), Ok(Reply::Ack(_))));
}

#[test]
fn websocket_does_everything() {
    let server = Server::start(&[]);
    everything(&server.url("web"), |options| options);
    let server = Server::start(&[]);
    everything(&server.url("web").replace("ws://", "http://").replace("/ws", ""), |options| options);
}

#[test]
fn frames_do_everything() {
    let server = Server::start(&[]);
    everything(&server.url("frame"), |options| options);
}

#[test]
fn tls_does_everything_for_whom_it_trusts() {
    let (directory, pem) = certificate();
    for kind in ["web", "frame"] {
        let server = Server::encrypted(&directory);
        everything(&server.url(kind), |options| options.certificates(&pem));
        // The system does not know who signed this.
        let stranger = Client::connect(options(&server.url(kind), "eve")).unwrap();
        let Err(Error::Offline(reason)) = stranger.wait_online(DEADLINE) else { panic!() };
        assert!(matches!(reason, Reason::Untrusted(_)), "{reason}");
        assert_eq!(stranger.link(), Link::Stopped(reason));
    }
}

#[test]
fn a_wrong_address_is_told_and_not_tried_again() {
    let (directory, pem) = certificate();
    let (plain, encrypted) = (Server::start(&[]), Server::encrypted(&directory));
    let at = |server: &Server, kind: &str, scheme: &str| {
        let url = server.url(kind);
        let (_, rest) = url.split_once("://").unwrap();
        format!("{scheme}://{rest}")
    };
    for (server, kind, scheme, what) in [
        (&plain, "frame", "ws", "does not speak HTTP"),
        (&plain, "web", "wss", "does not speak TLS: write ws://"),
        (&plain, "frame", "frames", "does not speak TLS: write frame://"),
        (&plain, "web", "frame", "does not speak frames"),
        (&encrypted, "frame", "wss", "does not speak HTTP"),
        (&encrypted, "web", "ws", "does not speak HTTP"),
        (&encrypted, "web", "frame", "does not speak frames"),
    ] {
        let url = at(server, kind, scheme);
        let client = Client::connect(options(&url, "alice").certificates(&pem)).unwrap();
        let Err(Error::Offline(reason)) = client.wait_online(DEADLINE) else { panic!("{url}") };
        assert!(matches!(&reason, Reason::Misaddressed(why) if why.contains(what)), "{url}: {reason}");
        assert_eq!(client.link(), Link::Stopped(reason));
    }
    let patient = Client::connect(options(&at(&plain, "frame", "ws"), "alice").keep_trying()).unwrap();
    for _ in 0..2 {
        next(&patient, "another attempt", |event| match event {
            Event::Waiting { reason: Reason::Misaddressed(_), .. } => Some(()),
            Event::Stopped(reason) => panic!("{reason}"),
            _ => None,
        });
    }
}

#[test]
fn a_nickname_in_use_is_told_and_another_one_goes_on() {
    let server = Server::start(&[]);
    let _alice = client(&server.url("web"), "alice");
    let other = Client::connect(options(&server.url("web"), "alice")).unwrap();
    let Err(Error::Offline(reason)) = other.wait_online(DEADLINE) else { panic!() };
    assert!(reason.is_nickname_in_use());
    assert_eq!(other.link(), Link::Stopped(reason));
    other.nick("bob").unwrap().wait(DEADLINE).unwrap();
    assert_eq!((other.link(), other.nickname().as_deref()), (Link::Online, Some("bob")));
}

#[test]
fn a_server_that_is_not_there_is_told_and_waited_for() {
    let mut server = Server::start(&[]);
    server.kill();
    let early = Client::connect(options(&server.url("web"), "alice")).unwrap();
    let Err(Error::Offline(Reason::Unreachable(_))) = early.wait_online(Duration::from_millis(300)) else {
        panic!()
    };
    // What is asked meanwhile is done when there is a server.
    early.join("den").unwrap();
    let receipt = early.send("den", "early").unwrap();
    assert_eq!(receipt.delivery(), Delivery::Queued);
    server.start_again();
    assert_eq!(receipt.wait(DEADLINE).unwrap().offset, Some(1));
}

#[test]
fn who_resumes_elsewhere_replaces_the_first() {
    let server = Server::start(&[]);
    let first = member(&server.url("web"), "alice", "den");
    let place = Position { epoch: first.position("den").unwrap().epoch.clone(), offset: 0 };
    first.send("den", "before").unwrap().wait(DEADLINE).unwrap();
    let second =
        Client::connect(options(&server.url("frame"), "alice").resume(first.resume_token().unwrap()))
            .unwrap();
    second.join_with("den", JoinOptions::default().since(place)).unwrap();
    assert_eq!(next_message(&second).content, "before");
    let reason = next(&first, "the end", |event| match event {
        Event::Stopped(reason) => Some(reason),
        _ => None,
    });
    assert!(matches!(reason, Reason::Bye(bye) if bye.code == 4103));
}

/// Messages are said and heard while the server is killed again and again: each is published once, and heard once, in order.
fn kills(kind: &str) {
    const COUNT: usize = 300;
    let mut server = Server::stored();
    let url = server.url(kind);
    let (speaker, listener) = (member(&url, "alice", "den"), member(&url, "bob", "den"));
    let receipts: Vec<_> =
        (0..COUNT).map(|number| speaker.send("den", &number.to_string()).unwrap()).collect();
    let mut heard = Vec::new();
    while heard.len() < COUNT {
        let message = next_message(&listener);
        assert_eq!((message.offset, message.content), (heard.len() as u64 + 1, heard.len().to_string()));
        heard.push(message.offset);
        if heard.len() % 60 == 0 {
            server.kill();
            server.start_again();
        }
    }
    for (number, receipt) in receipts.iter().enumerate() {
        assert_eq!(receipt.wait(DEADLINE).unwrap().offset, Some(number as u64 + 1));
    }
    let contents: Vec<String> =
        history(&listener, "den").into_iter().map(|message| message.content).collect();
    assert!(contents.iter().cloned().eq((0..COUNT).map(|number| number.to_string())));
    // The speaker hears himself, each once too.
    for number in 0..COUNT {
        assert_eq!(next_message(&speaker).content, number.to_string());
    }
}

#[test]
fn a_server_that_is_killed_loses_and_repeats_nothing_over_websocket() {
    kills("web");
}

#[test]
fn a_server_that_is_killed_loses_and_repeats_nothing_over_frames() {
    kills("frame");
}

#[test]
fn a_server_that_forgets_is_told_of() {
    let mut server = Server::start(&[]);
    let alice = member(&server.url("web"), "alice", "den");
    alice.send("den", "one").unwrap().wait(DEADLINE).unwrap();
    server.kill();
    server.start_again();
    let offset = next(&alice, "a new history", |event| match event {
        Event::Restarted { room, offset, .. } => {
            assert_eq!(room, "den");
            Some(offset)
        }
        _ => None,
    });
    assert_eq!(offset, 0);
    assert_eq!(alice.send("den", "two").unwrap().wait(DEADLINE).unwrap().offset, Some(1));
}

#[test]
fn a_room_is_one_room_whatever_its_case() {
    let mut server = Server::stored();
    let alice = member(&server.url("web"), "alice", "lobby");
    let again = alice.join("LOBBY").unwrap().wait(DEADLINE).unwrap();
    assert!(matches!(again, Reply::Joined(room) if room == "lobby"));
    assert_eq!(alice.joined_rooms(), ["lobby"]);
    assert_eq!(alice.send("LoBBy", "one").unwrap().wait(DEADLINE).unwrap().offset, Some(1));
    server.kill();
    server.start_again();
    assert_eq!(alice.send("lobby", "two").unwrap().wait(DEADLINE).unwrap().offset, Some(2));
    let mut joined = 0;
    while let Some(event) = alice.events().try_next() {
        assert!(!matches!(event, Event::Restarted { .. }), "{event:?}");
        joined += usize::from(matches!(event, Event::Joined(_)));
    }
    assert_eq!(joined, 2, "once, and once again");
    alice.leave("LOBBY").unwrap().wait(DEADLINE).unwrap();
    assert!(alice.joined_rooms().is_empty());
}

#[test]
fn a_server_that_is_drained_is_come_back_to() {
    let mut server = Server::stored();
    let alice = member(&server.url("web"), "alice", "den");
    server.drain();
    let reason = next(&alice, "a farewell", |event| match event {
        Event::Waiting { reason, .. } => Some(reason),
        _ => None,
    });
    assert!(matches!(reason, Reason::Bye(bye) if bye.code == 4300));
    server.start_again();
    let resumed = next(&alice, "a session", |event| match event {
        Event::Online(welcome) => Some(welcome.resumed),
        _ => None,
    });
    assert!(resumed);
}

#[test]
fn a_program_that_does_not_listen_loses_nothing() {
    const COUNT: usize = 2000;
    // Far less than what is said: the server closes the connection, more than once perhaps.
    let server = Server::start(&["--set", "limits.send_queue_bytes=65536", "--set", "history.count=5000"]);
    let slow = Client::connect(options(&server.url("web"), "slow").event_queue(1)).unwrap();
    slow.join("den").unwrap();
    next(&slow, "joined", |event| matches!(event, Event::Joined(_)).then_some(()));
    let speaker = Client::connect(
        options(&server.url("web"), "alice").in_flight(64).send_queue(COUNT, 64 << 20).without_events(),
    )
    .unwrap();
    speaker.join_with("den", JoinOptions::default().no_echo()).unwrap();
    let words = "x".repeat(4000);
    let sent: Vec<_> =
        (0..COUNT).map(|number| speaker.send("den", &format!("{number} {words}")).unwrap()).collect();
    for receipt in sent {
        receipt.wait(DEADLINE).unwrap();
    }
    for number in 0..COUNT {
        let message = next_message(&slow);
        assert_eq!(message.content.split(' ').next(), Some(&*number.to_string()));
    }
}

#[test]
fn who_waits_and_takes_no_events_is_told_why() {
    let server = Server::start(&[]);
    let client = Client::connect(options(&server.url("web"), "alice").event_queue(1)).unwrap();
    let joined = client.join("den").unwrap();
    let deadline = Instant::now() + DEADLINE;
    while !matches!(joined.wait(Duration::from_millis(50)), Err(Error::EventsFull)) {
        assert!(Instant::now() < deadline);
    }
    while joined.reply().is_none() {
        client.events().next_timeout(DEADLINE).unwrap();
    }
}

#[test]
fn callbacks_and_wakers_are_called() {
    let server = Server::start(&[]);
    let (woken, wakes) = starling_client::crossbeam_channel::unbounded();
    let echo = options(&server.url("web"), "parrot").on_event(|client, event| {
        if let Event::Message(message) = event
            && Some(&message.sender) != client.nickname().as_ref()
        {
            client.send(&message.room, &message.content).unwrap();
        }
    });
    let echo = Client::connect(echo).unwrap();
    echo.join("den").unwrap().wait(DEADLINE).unwrap();
    let alice =
        Client::connect(options(&server.url("web"), "alice").on_wake(move || woken.send(()).unwrap()))
            .unwrap();
    alice.join_with("den", JoinOptions::default().no_echo()).unwrap();
    alice.send("den", "hello").unwrap();
    let mut heard = None;
    while heard.is_none() {
        wakes.recv_timeout(DEADLINE).unwrap();
        heard = alice.receiver().try_iter().find_map(|event| match event {
            Event::Message(message) => Some((message.sender, message.content)),
            _ => None,
        });
    }
    assert_eq!(heard, Some(("parrot".to_owned(), "hello".to_owned())));
    // Without a handle there is no client.
    drop(echo);
    next(&alice, "a presence", |event| match event {
        Event::Presence(presence) => {
            matches!(presence.change, starling_client::wire::Change::Leave { .. }).then_some(())
        }
        _ => None,
    });
}

#[test]
fn a_client_whose_callback_panics_says_that_it_has_stopped() {
    let server = Server::start(&[]);
    let client = options(&server.url("web"), "alice").on_event(|_, event| {
        assert!(!matches!(event, Event::Joined(_)), "a fault of the program");
    });
    let client = Client::connect(client).unwrap();
    client.wait_online(DEADLINE).unwrap();
    client.join("den").unwrap();
    let deadline = Instant::now() + DEADLINE;
    while client.link() != Link::Stopped(Reason::Died) {
        assert!(Instant::now() < deadline, "{:?}", client.link());
        std::thread::yield_now();
    }
    assert!(matches!(client.wait_online(DEADLINE), Err(Error::Offline(Reason::Died))));
    assert!(matches!(client.send("den", "hello"), Err(Error::Stopped)));
}

/// Not a test of its own: the program that the next test kills. It sends as fast as it can, and says what it has sent.
#[test]
fn the_program_with_a_journal() {
    let Ok(argument) = std::env::var(common::CHILD) else { return };
    let (url, path) = argument.split_once(' ').unwrap();
    let client = Client::connect(options(url, "alice").journal(path).without_events()).unwrap();
    client.join("den").unwrap().wait(DEADLINE).unwrap();
    for number in 0.. {
        loop {
            match client.send("den", &number.to_string()) {
                Ok(_) => break,
                Err(Error::QueueFull) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        println!("{}{number}", common::SENT);
    }
}

#[test]
fn a_program_that_is_killed_has_its_messages_published_once() {
    let server = Server::stored();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let url = server.url("web");
    let sent = common::run_and_kill("the_program_with_a_journal", &format!("{url} {}", path.display()), 3000);

    let alice = Client::connect(options(&url, "alice").journal(&path)).unwrap();
    assert!(Client::connect(options(&url, "alice").journal(&path)).is_err(), "two clients with one journal");
    let mut tickets = HashMap::new();
    alice.join("den").unwrap();
    let resumed = next(&alice, "a session", |event| match event {
        Event::Restored { ticket, to, private, content } => {
            assert_eq!((&*to, private), ("den", false));
            tickets.insert(ticket, content);
            None
        }
        Event::Online(welcome) => Some(welcome.resumed),
        _ => None,
    });
    assert!(resumed);
    assert!(!tickets.is_empty(), "everything was acknowledged before the kill");
    while !tickets.is_empty() {
        next(&alice, "an acknowledgement", |event| match event {
            Event::Delivery { ticket, delivery: Delivery::Acknowledged(_) } => tickets.remove(&ticket),
            Event::Delivery { delivery: Delivery::Failed(failure), .. } => panic!("{failure}"),
            _ => None,
        });
    }
    // One more may have been sent, and not said.
    let contents: Vec<u64> =
        history(&alice, "den").into_iter().map(|message| message.content.parse().unwrap()).collect();
    assert!(contents.len() as u64 >= sent, "{} of {sent}", contents.len());
    assert!(contents.iter().copied().eq(0..contents.len() as u64), "{contents:?}");
    assert_eq!(alice.close(DEADLINE), 0);
}

#[test]
fn what_cannot_be_sent_before_the_end_waits_in_the_journal() {
    let mut server = Server::stored();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let connect = || Client::connect(options(&server.url("web"), "alice").journal(&path)).unwrap();
    let alice = connect();
    alice.join("den").unwrap().wait(DEADLINE).unwrap();
    server.kill();
    let receipt = alice.send("den", "later").unwrap();
    assert_eq!(alice.close(Duration::from_millis(50)), 1);
    assert!(!receipt.delivery().is_final());
    drop(alice);
    server.start_again();
    let alice = Client::connect(options(&server.url("web"), "alice").journal(&path)).unwrap();
    alice.join("den").unwrap();
    next(&alice, "an acknowledgement", |event| {
        matches!(event, Event::Delivery { delivery: Delivery::Acknowledged(_), .. }).then_some(())
    });
    assert_eq!(history(&alice, "den").len(), 1);
}
