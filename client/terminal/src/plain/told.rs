//! What is heard as lines of text, as the server writes them for those who come by Telnet.

use starling_client::wire::{Change, Role};
use starling_client::{Event, Value};

/// How many names of a batch are told.
const NAMES_MAX: usize = 10;

/// Appends what a person reads of an event, if that is anything.
pub fn put(out: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Message(message) => {
            put_line(out, &["[", &message.room, "] ", &message.sender, ": ", &message.content])
        }
        Event::Private(private) => put_line(out, &["[private] ", &private.sender, ": ", &private.content]),
        Event::System(system) => put_line(out, &["[system] ", &system.sender, ": ", &system.content]),
        Event::Presence(presence) => put_change(out, &presence.room, &presence.change),
        Event::Joined(joined) => {
            let members = counted(joined.members, "member");
            put_line(out, &["* joined ", &joined.room, ": ", &members]);
            if let Some(topic) = joined.state.get("topic").and_then(|topic| topic_of(&topic.value)) {
                put_line(out, &["[", &joined.room, "] * topic: ", &topic]);
            }
        }
        Event::Left(left) if left.reason == "left" => put_line(out, &["* left ", &left.room]),
        Event::Left(left) => put_line(out, &["* left ", &left.room, " (", &left.reason, ")"]),
        Event::Gap(gap) => {
            let lost = if gap.from == gap.to {
                format!("message {} was left out", gap.from)
            } else {
                format!("messages {} to {} were left out", gap.from, gap.to)
            };
            put_line(out, &["[", &gap.room, "] * ", &lost]);
        }
        Event::State(state) if state.key == "topic" => match topic_of(&state.value) {
            Some(topic) => {
                put_line(out, &["[", &state.room, "] * ", &state.sender, " set the topic: ", &topic])
            }
            None => put_line(out, &["[", &state.room, "] * ", &state.sender, " cleared the topic"]),
        },
        _ => {}
    }
}

fn put_change(out: &mut Vec<u8>, room: &str, change: &Change) {
    let told = match change {
        Change::Join { nickname } => format!("{nickname} joined"),
        Change::Leave { nickname, reason } if reason.is_empty() => format!("{nickname} left"),
        Change::Leave { nickname, reason } => format!("{nickname} left ({reason})"),
        Change::Away { nickname } => format!("{nickname} is away"),
        Change::Back { nickname } => format!("{nickname} is back"),
        Change::Nick { nickname, from } => format!("{from} is now {nickname}"),
        Change::Role { nickname, role } => {
            let role = match role {
                Role::Host => "host",
                Role::Member => "member",
                Role::Guest => "guest",
                Role::Other => "?",
            };
            format!("{nickname} is now {role}")
        }
        Change::Mute { nickname } => format!("{nickname} was muted"),
        Change::Unmute { nickname } => format!("{nickname} was unmuted"),
        Change::Batch { joined, left, members } => {
            let mut parts = Vec::new();
            for (names, verb) in [(joined, "joined"), (left, "left")] {
                if !names.is_empty() {
                    let more = if names.len() > NAMES_MAX { ", ..." } else { "" };
                    let shown = names[..names.len().min(NAMES_MAX)].join(", ");
                    parts.push(format!("{} {verb} ({shown}{more})", names.len()));
                }
            }
            parts.push(counted(*members, "member"));
            parts.join(", ")
        }
        _ => return,
    };
    put_line(out, &["[", room, "] * ", &told]);
}

fn topic_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    }
}

fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Appends one line of parts, each of them made harmless, as the server does it for lines: programs read them too, so
/// that nothing of the content is changed but what ends a line or controls a terminal.
pub fn put_line(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        let mut letters = part.chars().peekable();
        while let Some(letter) = letters.next() {
            let shown = match letter {
                '\r' if letters.peek() == Some(&'\n') => continue,
                '\r' | '\n' => '⏎',
                '\t' => ' ',
                letter if letter.is_control() => continue,
                letter => letter,
            };
            out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use starling_client::serde_json::{from_value, json};

    use super::*;

    fn told(event: &Event) -> String {
        let mut out = Vec::new();
        put(&mut out, event);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn events_are_lines() {
        let message = |content: &str| {
            let message =
                json!({"room": "ops", "sender": "bob", "content": content, "offset": 1, "timestamp": 0});
            told(&Event::Message(from_value(message).unwrap()))
        };
        assert_eq!(message("hi"), "[ops] bob: hi\n");
        assert_eq!(message("a\r\nb\x1b[2J\tc\u{9b}"), "[ops] bob: a⏎b[2J c\n");
        let presence = |change: Value| {
            let mut presence = json!({"room": "ops", "timestamp": 0});
            presence.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            told(&Event::Presence(from_value(presence).unwrap()))
        };
        assert_eq!(presence(json!({"event": "join", "nickname": "bob"})), "[ops] * bob joined\n");
        assert_eq!(
            presence(json!({"event": "nick", "nickname": "rob", "from": "bob"})),
            "[ops] * bob is now rob\n"
        );
        assert_eq!(
            presence(json!({"event": "batch", "joined": ["a", "b"], "left": [], "members": 300})),
            "[ops] * 2 joined (a, b), 300 members\n"
        );
        assert_eq!(presence(json!({"event": "dance"})), "");
        let joined =
            json!({"room": "ops", "members": 1, "state": {"topic": {"value": "birds", "version": 1}}});
        assert_eq!(
            told(&Event::Joined(from_value(joined).unwrap())),
            "* joined ops: 1 member\n[ops] * topic: birds\n"
        );
    }
}
