//! What begins with a slash.

use starling_client::Command;
use starling_client::wire::Role;

/// What a word of a command is, for completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// A room.
    Room,
    /// Who is there.
    Nickname,
    /// `host`, `member` or `guest`.
    Role,
    /// What is said, with nicknames in it perhaps.
    Text,
    /// Nothing that is known.
    None,
}

/// A command.
#[derive(Debug)]
pub struct Spec {
    /// Without the slash.
    pub name: &'static str,
    /// What follows it.
    pub usage: &'static str,
    /// What it does.
    pub help: &'static str,
    arguments: &'static [Argument],
}

const fn spec(
    name: &'static str,
    usage: &'static str,
    help: &'static str,
    arguments: &'static [Argument],
) -> Spec {
    Spec { name, usage, help, arguments }
}

/// All of them.
pub const COMMANDS: &[Spec] = &[
    spec("join", "ROOM", "join a room, or go to it", &[Argument::Room]),
    spec("leave", "[ROOM]", "leave it, or end the conversation", &[Argument::Room]),
    spec("msg", "NAME [TEXT]", "say something to one person", &[Argument::Nickname, Argument::Text]),
    spec("nick", "NAME", "take another nickname", &[Argument::None]),
    spec("topic", "[TEXT]", "show or set the topic; - takes it away", &[Argument::Text]),
    spec("who", "[ROOM]", "who is there", &[Argument::Room]),
    spec("rooms", "", "which rooms there are", &[]),
    spec("history", "[N]", "older messages", &[Argument::None]),
    spec("kick", "NAME [REASON]", "put somebody out", &[Argument::Nickname, Argument::Text]),
    spec("ban", "NAME [SECONDS] [REASON]", "and keep him out", &[Argument::Nickname, Argument::Text]),
    spec("unban", "NAME", "let him in again", &[Argument::Nickname]),
    spec("mute", "NAME [SECONDS] [REASON]", "let somebody only read", &[Argument::Nickname, Argument::Text]),
    spec("unmute", "NAME", "let him speak again", &[Argument::Nickname]),
    spec("role", "NAME host|member|guest", "say what somebody may do", &[Argument::Nickname, Argument::Role]),
    spec("reconnect", "", "connect now", &[]),
    spec("help", "", "keys and commands", &[]),
    spec("quit", "", "leave", &[]),
];

/// The name of a command, and what follows it, if anything does.
pub fn split(text: &str) -> (&str, Option<&str>) {
    let text = text.strip_prefix('/').unwrap_or(text);
    match text.split_once(char::is_whitespace) {
        Some((name, rest)) => (name, Some(rest.trim_start())),
        None => (text, None),
    }
}

/// What the word of this number (from 1) is.
pub fn argument(name: &str, index: usize) -> Argument {
    let arguments =
        COMMANDS.iter().find(|command| command.name == name).map_or(&[][..], |command| command.arguments);
    let index = index.saturating_sub(1);
    match arguments.get(index).or(arguments.last()) {
        Some(Argument::Text) => Argument::Text,
        Some(argument) if index < arguments.len() => *argument,
        _ => Argument::None,
    }
}

/// What somebody has typed.
#[derive(Debug, Clone, PartialEq)]
pub enum Typed {
    /// Something to say.
    Say(String),
    /// Join a room, or go to it.
    Join(String),
    /// Leave a room, or the one that is shown.
    Leave(Option<String>),
    /// Say something to one person, or begin to.
    Private(String, Option<String>),
    /// Take another nickname.
    Nick(String),
    /// Show the topic, or set it; an empty one takes it away.
    Topic(Option<String>),
    /// Who is there.
    Who(Option<String>),
    /// Which rooms there are.
    Rooms,
    /// Older messages.
    History(Option<u32>),
    /// What hosts do.
    Moderate(Command),
    /// Connect now.
    Reconnect,
    /// Keys and commands.
    Help,
    /// Leave.
    Quit,
}

/// Reads what was typed in a room. `Err` says what is wrong with it.
pub fn parse(text: &str, room: Option<&str>) -> Result<Typed, String> {
    if let Some(text) = text.strip_prefix("//") {
        return Ok(Typed::Say(format!("/{text}")));
    }
    if !text.starts_with('/') {
        return Ok(Typed::Say(text.to_owned()));
    }
    let (name, rest) = split(text);
    let rest = rest.map(str::trim).filter(|rest| !rest.is_empty());
    let Some(spec) = COMMANDS.iter().find(|command| command.name == name) else {
        return Err(format!(
            "/{name} is no command: /help lists them; // says something that begins with a slash"
        ));
    };
    let usage = || format!("write /{} {}", spec.name, spec.usage);
    let (first, more) = match rest.map(|rest| {
        rest.split_once(char::is_whitespace).map_or((rest, ""), |(first, more)| (first, more.trim_start()))
    }) {
        Some((first, more)) => (Some(first.to_owned()), (!more.is_empty()).then(|| more.to_owned())),
        None => (None, None),
    };
    let here = || room.map(str::to_owned).ok_or_else(|| "go to a room first".to_owned());
    let command = match name {
        "join" => return Ok(Typed::Join(first.filter(|_| more.is_none()).ok_or_else(usage)?)),
        "leave" => return Ok(Typed::Leave(first)),
        "msg" => return Ok(Typed::Private(first.ok_or_else(usage)?, more)),
        "nick" => return Ok(Typed::Nick(first.filter(|_| more.is_none()).ok_or_else(usage)?)),
        "topic" => {
            let topic = rest.map(|topic| if topic == "-" { String::new() } else { topic.to_owned() });
            return Ok(Typed::Topic(topic));
        }
        "who" => return Ok(Typed::Who(first)),
        "rooms" => return Ok(Typed::Rooms),
        "history" => {
            let count = first.map(|count| count.parse().map_err(|_| usage())).transpose()?;
            return Ok(Typed::History(count));
        }
        "reconnect" => return Ok(Typed::Reconnect),
        "help" => return Ok(Typed::Help),
        "quit" => return Ok(Typed::Quit),
        "kick" => Command::Kick { room: here()?, target: first.ok_or_else(usage)?, reason: more },
        "ban" | "mute" => {
            let (room, target) = (here()?, first.ok_or_else(usage)?);
            let (seconds, reason) = for_seconds(more);
            match name {
                "ban" => Command::Ban { room, target, reason, seconds },
                _ => Command::Mute { room, target, reason, seconds },
            }
        }
        "unban" => Command::Unban { room: here()?, target: first.ok_or_else(usage)? },
        "unmute" => Command::Unmute { room: here()?, target: first.ok_or_else(usage)? },
        _ => {
            let role = match more.as_deref() {
                Some("host") => Role::Host,
                Some("member") => Role::Member,
                Some("guest") => Role::Guest,
                _ => return Err(usage()),
            };
            Command::Role { room: here()?, target: first.ok_or_else(usage)?, role }
        }
    };
    Ok(Typed::Moderate(command))
}

/// For how long, if the first word is a number, and why.
fn for_seconds(text: Option<String>) -> (Option<u64>, Option<String>) {
    let Some(text) = text else { return (None, None) };
    let (first, more) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
    match first.parse() {
        Ok(seconds) => (Some(seconds), (!more.is_empty()).then(|| more.trim_start().to_owned())),
        Err(_) => (None, Some(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_said_or_done() {
        let parse = |text: &str| parse(text, Some("den"));
        assert_eq!(parse("hi /there"), Ok(Typed::Say("hi /there".into())));
        assert_eq!(parse("//etc"), Ok(Typed::Say("/etc".into())));
        assert_eq!(parse("/join den"), Ok(Typed::Join("den".into())));
        assert_eq!(parse("/msg bob  psst, you"), Ok(Typed::Private("bob".into(), Some("psst, you".into()))));
        assert_eq!(parse("/msg bob"), Ok(Typed::Private("bob".into(), None)));
        assert_eq!(parse("/topic big birds"), Ok(Typed::Topic(Some("big birds".into()))));
        assert_eq!(parse("/topic -"), Ok(Typed::Topic(Some(String::new()))));
        assert_eq!(parse("/history 20"), Ok(Typed::History(Some(20))));
        let (room, target) = ("den".to_owned(), "bob".to_owned());
        assert_eq!(
            parse("/mute bob 60 too loud"),
            Ok(Typed::Moderate(Command::Mute {
                room: room.clone(),
                target: target.clone(),
                reason: Some("too loud".into()),
                seconds: Some(60)
            }))
        );
        assert_eq!(
            parse("/ban bob for good"),
            Ok(Typed::Moderate(Command::Ban {
                room: room.clone(),
                target: target.clone(),
                reason: Some("for good".into()),
                seconds: None
            }))
        );
        assert_eq!(
            parse("/role bob host"),
            Ok(Typed::Moderate(Command::Role { room, target, role: Role::Host }))
        );
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, why) in [
            ("/dance", "/dance is no command"),
            ("/join", "write /join ROOM"),
            ("/join a b", "write /join ROOM"),
            ("/role bob king", "write /role NAME host|member|guest"),
            ("/history x", "write /history [N]"),
            ("/kick", "write /kick"),
        ] {
            assert!(parse(text, Some("den")).unwrap_err().starts_with(why), "{text}");
        }
        assert_eq!(parse("/kick bob", None).unwrap_err(), "go to a room first");
    }

    #[test]
    fn arguments_are_known() {
        assert_eq!(argument("join", 1), Argument::Room);
        assert_eq!(argument("join", 2), Argument::None);
        assert_eq!(argument("msg", 5), Argument::Text);
        assert_eq!(argument("rooms", 1), Argument::None);
        assert_eq!(argument("nothing", 1), Argument::None);
    }
}
