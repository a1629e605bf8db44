//! People at a terminal.

use starling::config::ListenKind;

use crate::cores::{Client, Cores};

/// What is typed, and all that comes of it.
const TALK: &[(&str, &str)] = &[
    ("", ""),
    ("/help", "* TEXT            say it in the current room; //TEXT says /TEXT ..."),
    (
        "/token abc",
        "! 401 bad_token: this is no token
* welcome to starling: what is your nickname?",
    ),
    (
        "bad name!",
        "! 400 bad_name: nickname: a name has letters, marks, numbers, '_', '-' and '.', but no ' '
* welcome to starling: what is your nickname?",
    ),
    ("alice", "* welcome, alice\n* joined lobby: 1 member"),
    ("", ""),
    ("hello there", ""),
    ("/topic", "* lobby has no topic"),
    ("/topic The cats", "[lobby] * alice set the topic: The cats"),
    ("/topic", "* lobby has the topic: The cats"),
    ("/join den", "* joined den: 2 members"),
    ("/who", "* den has 2 members: alice, bob"),
    ("/rooms", "* room den: 2 members\n* room lobby: 1 member"),
    ("one", ""),
    ("two", ""),
    ("/history", "[den] alice: one\n[den] alice: two"),
    ("/history 1", "[den] alice: two"),
    ("/join LOBBY", "* you are in lobby"),
    ("/history 1", "[lobby] alice: hello there"),
    ("/join den", "* you are in den"),
    ("/kick bob", "! 403 forbidden: only hosts do this"),
    ("/msg bob psst", ""),
    ("/msg nobody psst", "! 404 no_such_user: nobody here has this nickname"),
    ("/ping", "* pong"),
    ("/nick alicia", "* you are now alicia"),
    ("/token x", "! 409 already_said_hello: you have a nickname; see /help"),
    ("/help", "* TEXT            say it in the current room; //TEXT says /TEXT ..."),
    ("/what", "! 400 unknown_type: there is no /what; see /help"),
    ("/join", "! 400 bad_request: /join ROOM"),
    ("/leave", "* left den"),
    ("/history", "[lobby] alice: hello there"),
    ("/leave", "* left lobby"),
    ("words", "! 403 not_a_member: you are in no room; join one with /join ROOM"),
    ("/topic", "! 403 not_a_member: you are in no room; join one with /join ROOM"),
    ("/topic x", "! 403 not_a_member: you are in no room; join one with /join ROOM"),
    ("/who", "! 403 not_a_member: you are in no room; join one with /join ROOM"),
    ("/history", "! 403 not_a_member: you are in no room; join one with /join ROOM"),
    ("/kick bob", "! 403 not_a_member: you are in no room; join one with /join ROOM"),
    ("/leave", "! 403 not_a_member: you are in no room; join one with /join ROOM"),
    ("/quit", "! 1000 quit: bye"),
];

/// The whole of a list of commands is shortened to its first line.
fn shortened(heard: &str) -> String {
    let mut lines = Vec::new();
    for line in heard.lines() {
        match line.strip_prefix("* /") {
            Some(_) if lines.last().is_some_and(|last: &String| last.ends_with("...")) => {}
            _ if line.starts_with("* TEXT ") => lines.push(format!("{line} ...")),
            _ if line == "* /quit           leave" => {}
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

fn begin() -> (Cores, Client, Client) {
    let mut cores = Cores::of(3, |config| config.limits.errors_per_window = 100);
    let bob = cores.enter(0, "bob", &["den"]);
    let person = cores.connect(1, ListenKind::Line);
    (cores, bob, person)
}

#[test]
fn each_line_has_its_answer() {
    let (mut cores, bob, person) = begin();
    for (at, (typed, answer)) in TALK.iter().enumerate() {
        cores.say(person, typed);
        let heard = cores.heard(person);
        let heard = if at == 0 {
            heard.replace("* welcome to starling: what is your nickname?\n", "")
        } else {
            heard
        };
        assert_eq!(shortened(&heard), *answer, "{typed}");
    }
    assert!(cores.is_over(person));
    let events = cores.events(bob);
    let said = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!((said("message"), said("private"), said("presence")), (2, 1, 3));
}

#[test]
fn what_is_typed_ahead_is_answered_in_turn() {
    let all: String = TALK.iter().map(|(typed, _)| format!("{typed}\n")).collect();
    let answers: Vec<&str> =
        TALK.iter().map(|(_, answer)| *answer).filter(|answer| !answer.is_empty()).collect();
    for bytes in [1, 7, all.len()] {
        let (mut cores, _, person) = begin();
        for chunk in all.as_bytes().chunks(bytes) {
            cores.receive(person, chunk);
        }
        let heard = cores.heard(person).replacen("* welcome to starling: what is your nickname?\n", "", 1);
        assert_eq!(shortened(&heard), answers.join("\n"), "{bytes}");
    }
}

#[test]
fn a_last_line_needs_no_end() {
    let (mut cores, bob, person) = begin();
    cores.receive(person, b"alice\n/join den\nlast words");
    cores.heard(person);
    cores.events(bob);
    cores.ends(person);
    assert_eq!(cores.told(bob, "message", "content"), ["last words"]);
    assert!(cores.is_over(person));
}
