//! Text lines for people at a terminal: what they type, and one line an event of what they read. Only syntax: which
//! room a line goes to, and what a person who never said hello may do, is decided elsewhere.
//!
//! A line does not depend on who reads it, so that one encoding serves a whole room.

use std::borrow::Cow;

use super::scan::plain_bytes;
use super::wire::{Ack, Error, Event, HistoryMessage, Json, Member, Presence};

/// What somebody hears who said nothing yet: asks for a nickname.
pub const GREETING: &str = "* welcome to starling: what is your nickname?\n";

/// The answer to `/help`.
pub const HELP: &str = "\
* TEXT            say it in the current room; //TEXT says /TEXT
* /nick NAME      change your nickname
* /join ROOM      join a room and make it the current one
* /leave          leave the current room
* /rooms          list the rooms
* /who            list the members of the current room
* /msg NAME TEXT  say something to one person alone
* /history [N]    show the last messages of the current room
* /topic [TEXT]   show the topic of the current room, or set it
* /kick NAME      remove somebody from the current room
* /ping           ask whether the server is there
* /help           this list
* /quit           leave
";

/// How many of those who came, or went, a batch names: about what fits a terminal's line.
const NAMES_SHOWN_MAX: usize = 8;

/// The key of a room's state that people see and set with `/topic`; the others are for programs.
const TOPIC_KEY: &str = "topic";

/// The first byte of U+0080 to U+00BF in UTF-8, of which those up to U+009F are control characters.
const C1_LEAD: u8 = 0xC2;

/// The commands, in lower case, with what each expects.
const USAGES: [(&str, &str); 13] = [
    ("nick", "/nick NAME"),
    ("join", "/join ROOM"),
    ("leave", "/leave"),
    ("rooms", "/rooms"),
    ("who", "/who"),
    ("msg", "/msg NAME TEXT"),
    ("history", "/history [N]"),
    ("topic", "/topic [TEXT]"),
    ("kick", "/kick NAME"),
    ("ping", "/ping"),
    ("help", "/help"),
    ("quit", "/quit"),
    ("token", "/token JWT"),
];

/// A line as somebody typed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// Something to say, its leading slash unescaped. The first line of a connection is a nickname instead.
    Say(&'a str),
    /// Nothing, or nothing but spaces.
    Empty,
    /// `/nick NAME`
    Nick(&'a str),
    /// `/join ROOM`
    Join(&'a str),
    /// `/leave`
    Leave,
    /// `/rooms`
    Rooms,
    /// `/who`
    Who,
    /// `/msg NAME TEXT`
    Msg {
        /// Who is meant.
        target: &'a str,
        /// What is said, with all its spaces after the one that separates it.
        text: &'a str,
    },
    /// `/history [N]`
    History(Option<u64>),
    /// `/topic [TEXT]`
    Topic(Option<&'a str>),
    /// `/kick NAME`
    Kick(&'a str),
    /// `/ping`
    Ping,
    /// `/help`
    Help,
    /// `/quit`
    Quit,
    /// `/token JWT`
    Token(&'a str),
    /// A command that does not exist, without its slash.
    Unknown(&'a str),
    /// A command with too few or too many arguments: what it expects.
    Usage(&'static str),
}

/// Reads one line, given without its line end.
pub fn parse(line: &str) -> Line<'_> {
    let Some(typed) = line.strip_prefix('/') else {
        return if line.trim().is_empty() { Line::Empty } else { Line::Say(line) };
    };
    if typed.starts_with('/') {
        return Line::Say(typed);
    }
    let (word, arguments) = typed.split_once(char::is_whitespace).unwrap_or((typed, ""));
    let Some(&(name, usage)) = USAGES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) else {
        return Line::Unknown(word);
    };
    let arguments = arguments.trim_start();
    let command = match name {
        "nick" => one(arguments).map(Line::Nick),
        "join" => one(arguments).map(Line::Join),
        "leave" => none(arguments, Line::Leave),
        "rooms" => none(arguments, Line::Rooms),
        "who" => none(arguments, Line::Who),
        "msg" => msg(arguments),
        "history" => none(arguments, Line::History(None))
            .or_else(|| one(arguments)?.parse().ok().map(|count| Line::History(Some(count)))),
        "topic" => Some(Line::Topic(Some(arguments.trim_end()).filter(|text| !text.is_empty()))),
        "kick" => one(arguments).map(Line::Kick),
        "ping" => none(arguments, Line::Ping),
        "help" => none(arguments, Line::Help),
        "quit" => none(arguments, Line::Quit),
        "token" => one(arguments).map(Line::Token),
        _ => None,
    };
    command.unwrap_or(Line::Usage(usage))
}

/// Appends what a person reads of one event: a line, several for a list, none for what only programs need.
pub fn write(event: &Event<'_>, out: &mut Vec<u8>) {
    match *event {
        Event::Message { room, sender, content, .. } => put_message(out, room, sender, content),
        Event::Private { sender, content, .. } => put_message(out, "private", sender, content),
        Event::System { sender, content, .. } => put_message(out, "system", sender, content),
        Event::Presence(presence) => put_presence(out, &presence),
        Event::Welcome { nickname, .. } => put_line(out, &["* welcome, ", nickname]),
        Event::Joined { room, members, state, messages, .. } => {
            put_line(out, &["* joined ", room, ": ", &counted(members, "member")]);
            let entry = state.0.iter().find(|entry| entry.key == TOPIC_KEY);
            if let Some(topic) = entry.and_then(|entry| topic(entry.value)) {
                put_line(out, &["[", room, "] * topic: ", &topic]);
            }
            put_history(out, room, messages.unwrap_or_default());
        }
        Event::Left { room, reason: "left", .. } => put_line(out, &["* left ", room]),
        Event::Left { room, reason, .. } => put_line(out, &["* left ", room, " (", reason, ")"]),
        Event::Members { room, total, members, .. } => put_members(out, room, total, members),
        Event::Rooms { rooms: [], .. } => put_line(out, &["* no rooms"]),
        Event::Rooms { rooms, .. } => {
            for room in rooms {
                put_line(out, &["* room ", room.room, ": ", &counted(room.members, "member")]);
            }
        }
        Event::Pong { .. } => put_line(out, &["* pong"]),
        Event::Bye { code, reason, after_ms, .. } => {
            put_line(out, &["! ", &code.to_string(), " ", reason, ": ", &farewell(code, after_ms)]);
        }
        Event::Error(Error { code, reason, message, .. }) => {
            put_line(out, &["! ", &code.to_string(), " ", reason, ": ", message]);
        }
        Event::History { room, messages: [], .. } => put_line(out, &["* ", room, " has no messages to show"]),
        Event::History { room, messages, .. } => put_history(out, room, messages),
        Event::Gap { room, from, to, .. } => put_gap(out, room, from, to),
        Event::State { room, key: TOPIC_KEY, value, sender, .. } => match topic(value) {
            Some(topic) => put_line(out, &["[", room, "] * ", sender, " set the topic: ", &topic]),
            None => put_line(out, &["[", room, "] * ", sender, " cleared the topic"]),
        },
        Event::State { .. } => {}
        // What an acknowledgement means depends on the command: whoever sent it may say so with `put_note`.
        Event::Ack(Ack { .. }) | Event::Typing { .. } | Event::Ping => {}
    }
}

/// Appends a line of the server's own, to one person: that something was done, for instance.
pub fn put_note(out: &mut Vec<u8>, text: &str) {
    put_line(out, &["* ", text]);
}

/// Appends text so that it stays on its line and does nothing to a terminal: a line end shows as `⏎`, a tab as a space,
/// and the other control characters (C0, DEL, C1) are dropped.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain_bytes(rest, may_be_control));
        out.extend_from_slice(plain);
        let (shown, skipped) = match special {
            [] => break,
            [b'\r', b'\n', ..] => ("⏎".as_bytes(), 2),
            [b'\r' | b'\n', ..] => ("⏎".as_bytes(), 1),
            [b'\t', ..] => (&b" "[..], 1),
            [C1_LEAD, 0x80..=0x9F, ..] => (&[][..], 2),
            [C1_LEAD, ..] => (&special[..2], 2),
            _ => (&[][..], 1),
        };
        out.extend_from_slice(shown);
        rest = &special[skipped..];
    }
}

/// Whether a control character may begin with this byte.
fn may_be_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7F || byte == C1_LEAD
}

/// The command, if nothing stands behind it.
fn none<'a>(arguments: &str, command: Line<'a>) -> Option<Line<'a>> {
    arguments.is_empty().then_some(command)
}

/// The only argument, if there is exactly one.
fn one(arguments: &str) -> Option<&str> {
    let argument = arguments.trim_end();
    (!argument.is_empty() && !argument.contains(char::is_whitespace)).then_some(argument)
}

fn msg(arguments: &str) -> Option<Line<'_>> {
    let (target, text) = arguments.split_once(char::is_whitespace)?;
    (!text.trim().is_empty()).then_some(Line::Msg { target, text })
}

fn put_message(out: &mut Vec<u8>, origin: &str, sender: &str, content: &str) {
    put_line(out, &["[", origin, "] ", sender, ": ", content]);
}

fn put_history(out: &mut Vec<u8>, room: &str, messages: &[HistoryMessage<'_>]) {
    for message in messages {
        put_message(out, room, message.sender, message.content);
    }
}

fn put_gap(out: &mut Vec<u8>, room: &str, from: u64, to: u64) {
    let lost = if from == to {
        format!("message {from} was left out")
    } else {
        format!("messages {from} to {to} were left out")
    };
    put_line(out, &["[", room, "] * ", &lost]);
}

/// The topic as people read it: a string's text, any other value as its JSON, nothing if there is none.
fn topic(value: Json<'_>) -> Option<Cow<'_, str>> {
    match value.0.trim_ascii() {
        "null" => None,
        // What is no string stays as it is, and so does a string with half a surrogate pair, which no text can hold.
        written => Some(serde_json::from_str(written).map_or(Cow::Borrowed(written), Cow::Owned)),
    }
}

fn put_presence(out: &mut Vec<u8>, presence: &Presence<'_>) {
    let &Presence { room, event, nickname, from, reason, role, .. } = presence;
    let nickname = nickname.unwrap_or("?");
    match (event, from, reason) {
        ("batch", ..) => put_batch(out, presence),
        ("join", ..) => put_line(out, &["[", room, "] * ", nickname, " joined"]),
        ("leave", _, Some(reason)) => put_line(out, &["[", room, "] * ", nickname, " left (", reason, ")"]),
        ("leave", _, None) => put_line(out, &["[", room, "] * ", nickname, " left"]),
        ("nick", Some(from), _) => put_line(out, &["[", room, "] * ", from, " is now ", nickname]),
        ("role", ..) => put_line(out, &["[", room, "] * ", nickname, " is now ", role.unwrap_or("?")]),
        ("mute" | "unmute", _, reason) => put_muted(out, room, nickname, event, reason),
        ("away" | "back", ..) => put_line(out, &["[", room, "] * ", nickname, " is ", event]),
        _ => put_line(out, &["[", room, "] * ", nickname, ": ", event]),
    }
}

fn put_muted(out: &mut Vec<u8>, room: &str, nickname: &str, event: &str, reason: Option<&str>) {
    let mut parts = vec!["[", room, "] * ", nickname, " was ", event, "d"];
    if let Some(reason) = reason {
        parts.extend([" (", reason, ")"]);
    }
    put_line(out, &parts);
}

fn put_batch(out: &mut Vec<u8>, presence: &Presence<'_>) {
    let mut parts = Vec::new();
    for (names, verb) in [(presence.joined, "joined"), (presence.left, "left")] {
        let names = names.unwrap_or_default();
        if !names.is_empty() {
            let shown = names[..names.len().min(NAMES_SHOWN_MAX)].join(", ");
            let more = if names.len() > NAMES_SHOWN_MAX { ", ..." } else { "" };
            parts.push(format!("{} {verb} ({shown}{more})", names.len()));
        }
    }
    parts.extend(presence.members.map(|members| counted(members, "member")));
    put_line(out, &["[", presence.room, "] * ", &parts.join(", ")]);
}

fn put_members(out: &mut Vec<u8>, room: &str, total: u64, members: &[Member<'_>]) {
    let mut parts = vec!["* ", room, " has "];
    let count = counted(total, "member");
    parts.push(&count);
    for (index, member) in members.iter().enumerate() {
        parts.extend([if index == 0 { ": " } else { ", " }, member.nickname]);
    }
    if !members.is_empty() && (members.len() as u64) < total {
        parts.push(", ...");
    }
    put_line(out, &parts);
}

/// Appends one line of parts, each of them made harmless.
fn put_line(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        put_text(out, part);
    }
    out.push(b'\n');
}

fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// What a person makes of a `bye`, by the range of its code: its reason stands before it.
fn farewell(code: u16, after_ms: u64) -> String {
    match code {
        1000 => "bye".to_owned(),
        4200..4300 => "the connection ends here, come back in a while".to_owned(),
        4300..4400 => {
            format!("the server is restarting, come back in {}", counted(after_ms.div_ceil(1000), "second"))
        }
        _ => "the connection ends here".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::wire::{RoomInfo, State, StateEntry};

    fn written(event: Event<'_>) -> String {
        let mut out = Vec::new();
        write(&event, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn shown(text: &str) -> String {
        let mut out = Vec::new();
        put_text(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    fn presence<'a>(event: &'a str, nickname: &'a str) -> Presence<'a> {
        Presence { room: "lobby", event, nickname: Some(nickname), ..Presence::default() }
    }

    #[test]
    fn what_is_no_command_is_said() {
        assert_eq!(parse("hello  there "), Line::Say("hello  there "));
        assert_eq!(parse(" /join x"), Line::Say(" /join x"));
        assert_eq!(parse("//etc/passwd"), Line::Say("/etc/passwd"));
        assert_eq!(parse("///"), Line::Say("//"));
        assert_eq!(parse(""), Line::Empty);
        assert_eq!(parse(" \t "), Line::Empty);
    }

    #[test]
    fn commands_in_any_case_with_spaces_around_their_arguments() {
        assert_eq!(parse("/nick al"), Line::Nick("al"));
        assert_eq!(parse("/JOIN   ops  "), Line::Join("ops"));
        assert_eq!(parse("/leave "), Line::Leave);
        assert_eq!(parse("/rooms"), Line::Rooms);
        assert_eq!(parse("/Who"), Line::Who);
        assert_eq!(parse("/history"), Line::History(None));
        assert_eq!(parse("/history 20 "), Line::History(Some(20)));
        assert_eq!(parse("/topic"), Line::Topic(None));
        assert_eq!(parse("/topic  what we do "), Line::Topic(Some("what we do")));
        assert_eq!(parse("/kick bob"), Line::Kick("bob"));
        assert_eq!(parse("/ping"), Line::Ping);
        assert_eq!(parse("/help"), Line::Help);
        assert_eq!(parse("/quit"), Line::Quit);
        assert_eq!(parse("/token a.b.c"), Line::Token("a.b.c"));
    }

    #[test]
    fn a_private_text_keeps_its_spaces() {
        assert_eq!(parse("/msg bob psst"), Line::Msg { target: "bob", text: "psst" });
        assert_eq!(parse("/msg  bob  a  b "), Line::Msg { target: "bob", text: " a  b " });
        assert_eq!(parse("/msg bob"), Line::Usage("/msg NAME TEXT"));
        assert_eq!(parse("/msg bob   "), Line::Usage("/msg NAME TEXT"));
        assert_eq!(parse("/msg"), Line::Usage("/msg NAME TEXT"));
    }

    #[test]
    fn a_misused_command_tells_its_usage_and_an_unknown_one_its_name() {
        for (line, usage) in [
            ("/nick", "/nick NAME"),
            ("/nick a b", "/nick NAME"),
            ("/join ", "/join ROOM"),
            ("/leave ops", "/leave"),
            ("/history many", "/history [N]"),
            ("/history -1", "/history [N]"),
            ("/quit now", "/quit"),
        ] {
            assert_eq!(parse(line), Line::Usage(usage), "{line}");
        }
        assert_eq!(parse("/me waves"), Line::Unknown("me"));
        assert_eq!(parse("/"), Line::Unknown(""));
    }

    #[test]
    fn help_lists_only_commands_that_exist() {
        let named: Vec<_> = HELP.lines().filter_map(|line| line.strip_prefix("* /")).collect();
        assert_eq!(named.len(), USAGES.len() - 1, "all but /token, which is for programs");
        for line in named {
            let word = line.split(' ').next().unwrap();
            assert!(
                USAGES.iter().any(|(name, usage)| *name == word && line.starts_with(&usage[1..])),
                "{line}"
            );
        }
    }

    #[test]
    fn messages_show_where_they_come_from() {
        let message =
            Event::Message { room: "lobby", sender: "alice", content: "hi\r\nall", offset: 1, timestamp: 2 };
        assert_eq!(written(message), "[lobby] alice: hi⏎all\n");
        let private =
            Event::Private { sender: "alice", target: "bob", content: "psst", timestamp: 1, offset: None };
        assert_eq!(written(private), "[private] alice: psst\n");
        let system = Event::System { sender: "root", content: "maintenance", timestamp: 1 };
        assert_eq!(written(system), "[system] root: maintenance\n");
    }

    #[test]
    fn presence_is_a_sentence() {
        let line = |presence| written(Event::Presence(presence));
        assert_eq!(line(presence("join", "alice")), "[lobby] * alice joined\n");
        let leave = Presence { reason: Some("quit"), ..presence("leave", "alice") };
        assert_eq!(line(leave), "[lobby] * alice left (quit)\n");
        assert_eq!(line(presence("leave", "alice")), "[lobby] * alice left\n");
        let nick = Presence { from: Some("alice"), ..presence("nick", "al") };
        assert_eq!(line(nick), "[lobby] * alice is now al\n");
        assert_eq!(line(presence("away", "alice")), "[lobby] * alice is away\n");
        assert_eq!(line(presence("back", "alice")), "[lobby] * alice is back\n");
        let role = Presence { role: Some("host"), ..presence("role", "bob") };
        assert_eq!(line(role), "[lobby] * bob is now host\n");
        assert_eq!(line(presence("mute", "bob")), "[lobby] * bob was muted\n");
        let mute = Presence { reason: Some("spam"), ..presence("mute", "bob") };
        assert_eq!(line(mute), "[lobby] * bob was muted (spam)\n");
        assert_eq!(line(presence("unmute", "bob")), "[lobby] * bob was unmuted\n");
        for reason in ["kicked", "banned"] {
            let leave = Presence { reason: Some(reason), ..presence("leave", "bob") };
            assert_eq!(line(leave), format!("[lobby] * bob left ({reason})\n"));
            let left = written(Event::Left { id: None, room: "lobby", reason });
            assert_eq!(left, format!("* left lobby ({reason})\n"));
        }
    }

    #[test]
    fn a_topic_is_told_when_it_changes_and_when_one_joins() {
        let change = |key, value| {
            written(Event::State { room: "lobby", key, value: Json(value), version: 3, sender: "alice" })
        };
        assert_eq!(
            change("topic", r#""we \"talk\"\nhere""#),
            "[lobby] * alice set the topic: we \"talk\"⏎here\n"
        );
        assert_eq!(change("topic", r#"{"a":[1]}"#), "[lobby] * alice set the topic: {\"a\":[1]}\n");
        assert_eq!(change("topic", r#""\ud800""#), "[lobby] * alice set the topic: \"\\ud800\"\n");
        assert_eq!(change("topic", "null"), "[lobby] * alice cleared the topic\n");
        assert_eq!(change("color", r#""red""#), "");
        let state = [
            StateEntry { key: "color", value: Json(r#""red""#), version: 1 },
            StateEntry { key: "topic", value: Json(r#""tea""#), version: 2 },
        ];
        let joined = Event::Joined {
            id: None,
            room: "ops",
            epoch: "e",
            offset: 4,
            role: "member",
            members: 1,
            state: State(&state),
            messages: None,
            recovered: None,
        };
        assert_eq!(written(joined), "* joined ops: 1 member\n[ops] * topic: tea\n");
    }

    #[test]
    fn history_and_what_is_missing_of_it_are_told() {
        let message = |content| HistoryMessage { sender: "bob", content, offset: 4, timestamp: 1 };
        let messages = [message("old"), message("older\nstill")];
        let page = Event::History { id: None, room: "ops", epoch: "e", messages: &messages };
        assert_eq!(written(page), "[ops] bob: old\n[ops] bob: older⏎still\n");
        let nothing = Event::History { id: None, room: "ops", epoch: "e", messages: &[] };
        assert_eq!(written(nothing), "* ops has no messages to show\n");
        let gap = |from, to| written(Event::Gap { room: "lobby", epoch: "e", from, to });
        assert_eq!(gap(5, 9), "[lobby] * messages 5 to 9 were left out\n");
        assert_eq!(gap(5, 5), "[lobby] * message 5 was left out\n");
    }

    #[test]
    fn a_note_is_one_line() {
        let mut out = Vec::new();
        put_note(&mut out, "bob was kicked\nout");
        assert_eq!(String::from_utf8(out).unwrap(), "* bob was kicked⏎out\n");
    }

    #[test]
    fn a_batch_names_some_and_counts_all() {
        let joined: Vec<String> = (0..12).map(|n| format!("u{n}")).collect();
        let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
        let batch = Presence {
            room: "lobby",
            event: "batch",
            joined: Some(&joined),
            left: Some(&["al", "bo"]),
            members: Some(140),
            ..Presence::default()
        };
        assert_eq!(
            written(Event::Presence(batch)),
            "[lobby] * 12 joined (u0, u1, u2, u3, u4, u5, u6, u7, ...), 2 left (al, bo), 140 members\n"
        );
        let all_named =
            Presence { joined: None, left: Some(&joined[..NAMES_SHOWN_MAX]), members: None, ..batch };
        assert_eq!(
            written(Event::Presence(all_named)),
            "[lobby] * 8 left (u0, u1, u2, u3, u4, u5, u6, u7)\n"
        );
        let quiet = Presence { joined: Some(&[]), left: None, members: Some(1), ..batch };
        assert_eq!(written(Event::Presence(quiet)), "[lobby] * 1 member\n");
    }

    #[test]
    fn replies_are_sentences() {
        let member = |nickname| Member { nickname, role: "member", connected: true, last_active: 0 };
        let members = [member("alice"), member("bob"), member("carol")];
        let event = |total, members| written(Event::Members { id: None, room: "lobby", total, members });
        assert_eq!(event(3, &members), "* lobby has 3 members: alice, bob, carol\n");
        assert_eq!(event(9, &members), "* lobby has 9 members: alice, bob, carol, ...\n");
        assert_eq!(event(1, &members[..1]), "* lobby has 1 member: alice\n");
        assert_eq!(event(3, &[]), "* lobby has 3 members\n");

        let room = |room, members| RoomInfo { room, members, offset: 0 };
        let rooms = [room("lobby", 3), room("ops", 1)];
        assert_eq!(
            written(Event::Rooms { id: None, rooms: &rooms }),
            "* room lobby: 3 members\n* room ops: 1 member\n"
        );
        assert_eq!(written(Event::Rooms { id: None, rooms: &[] }), "* no rooms\n");
        assert_eq!(written(Event::Left { id: None, room: "ops", reason: "left" }), "* left ops\n");
        assert_eq!(written(Event::Left { id: None, room: "ops", reason: "kicked" }), "* left ops (kicked)\n");
        assert_eq!(written(Event::Pong { id: None, timestamp: 1 }), "* pong\n");
    }

    #[test]
    fn a_join_shows_the_history_asked_for() {
        let messages = [HistoryMessage { sender: "bob", content: "old", offset: 4, timestamp: 1 }];
        let joined = Event::Joined {
            id: None,
            room: "ops",
            epoch: "e",
            offset: 4,
            role: "member",
            members: 2,
            state: State::default(),
            messages: Some(&messages),
            recovered: None,
        };
        assert_eq!(written(joined), "* joined ops: 2 members\n[ops] bob: old\n");
    }

    #[test]
    fn errors_and_farewells_begin_with_a_mark_and_their_code() {
        let error = Error {
            id: None,
            code: 409,
            reason: "nickname_in_use",
            message: "somebody is alice",
            retryable: false,
            retry_after_ms: None,
        };
        assert_eq!(written(Event::Error(error)), "! 409 nickname_in_use: somebody is alice\n");
        let bye = |code, reason, after_ms| {
            written(Event::Bye { id: None, code, reason, resumable: false, after_ms })
        };
        assert_eq!(bye(1000, "quit", 0), "! 1000 quit: bye\n");
        assert_eq!(
            bye(4300, "draining", 1200),
            "! 4300 draining: the server is restarting, come back in 2 seconds\n"
        );
        for slow in [4200, 4201, 4299] {
            let line = bye(slow, "slow_consumer", 0);
            assert_eq!(
                line,
                format!("! {slow} slow_consumer: the connection ends here, come back in a while\n")
            );
        }
        assert_eq!(bye(4107, "kicked", 0), "! 4107 kicked: the connection ends here\n");
    }

    #[test]
    fn what_only_programs_need_shows_nothing() {
        assert_eq!(written(Event::Ping), "");
        assert_eq!(written(Event::Ack(Ack::default())), "");
        assert_eq!(written(Event::Typing { room: "lobby", nickname: "alice" }), "");
    }

    #[test]
    fn text_cannot_leave_its_line_or_steer_a_terminal() {
        assert_eq!(shown("a\nb\r\nc\rd\n\re"), "a⏎b⏎c⏎d⏎⏎e");
        assert_eq!(shown("a\tb"), "a b");
        assert_eq!(shown("\x1b[31mred\x1b[0m\x07\x7f\0"), "[31mred[0m");
        assert_eq!(
            shown("\u{80}a\u{9b}31m\u{9f}\u{a0}é"),
            "a31m\u{a0}é",
            "C1 is dropped, what follows it is not"
        );
        assert_eq!(shown("🦀 李\u{2028}\u{202e}"), "🦀 李\u{2028}\u{202e}");
    }
}
