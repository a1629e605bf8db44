//! What the answers say.
//!
//! What cannot be understood has been written by somebody else. It is never a reason to stop: an entry that cannot be read becomes one that
//! says so, because offsets are to have no gap.

use std::sync::{Arc, Mutex, PoisonError};

use redis::Value;

use crate::chat::history::Entry;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::user::NodeId;
use crate::shard::backplane::{Failed, LogEntry, OpenedRoom, Position, RoomOp, SharedMessage};
use crate::sys::complaint::Complaint;

/// Who has said what cannot be read, and what that is shown as.
const UNREADABLE_SENDER: &str = "unknown";
const UNREADABLE_CONTENT: &str = "(unreadable)";

/// A text; `None`: it is none.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::Okay => Some("OK"),
        _ => None,
    }
}

/// The greatest number that Redis counts to (INCR).
const NUMBER_MAX: u64 = i64::MAX as u64;

/// A number, written either way.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => parse(text(other)?),
    }
}

/// A number in a text. There is always one that is greater.
pub(super) fn parse(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number <= NUMBER_MAX)
}

/// A number that was given to an entry of a room: offsets and the numbers of changes begin with 1.
pub(super) fn counted(number: u64) -> Option<u64> {
    (number > 0).then_some(number)
}

/// The items of a list.
pub(super) fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

/// The name of a room: in its first spelling if that has been kept, and otherwise as it is folded.
pub(super) fn room_name(spelled: &str, folded: &str) -> Option<RoomName> {
    let name = RoomName::parse(spelled).ok().filter(|name| name.folded() == folded);
    name.or_else(|| RoomName::parse(folded).ok())
}

/// What a script answers that tells of a room as a whole (`opened` in common.lua). `None`: that is not it.
pub(super) fn opened(value: &Value, folded: &str) -> Option<Result<Option<Box<OpenedRoom>>, Failed>> {
    if matches!(value, Value::Nil) {
        return Some(Ok(None));
    }
    let [kind, epoch, name, change, offset, time, first, since, body, changes, messages, doubtful] =
        list(value)?
    else {
        return None;
    };
    if text(kind)? != "opened" {
        return None;
    }
    let position = Position { change: number(change)?, offset: number(offset)? };
    let since = number(since).zip(text(body));
    let snapshot = since.map(|(change, body)| (change, body.to_owned()));
    let kept = snapshot.as_ref().map_or(0, |(change, _)| *change);
    let changes: Vec<LogEntry> = list(changes)?.iter().filter_map(change_entry).collect();
    // They are needed one after the other.
    let is_whole = changes.first().is_none_or(|first| first.position().change == kept + 1)
        && changes.len() as u64 == position.change.saturating_sub(kept);
    if !is_whole {
        return Some(Err(Failed::Lost));
    }
    let messages = list(messages)?.iter().rev().filter_map(message_entry);
    let messages = messages.filter(|message| message.position().change >= kept).collect();
    Some(Ok(Some(Box::new(OpenedRoom {
        room: room_name(text(name)?, folded)?,
        epoch: text(epoch)?.into(),
        position,
        timestamp_ms: number(time)?,
        first_kept: id(first).unwrap_or(position.offset + 1),
        snapshot,
        entries: merge(changes, messages, usize::MAX),
        is_doubtful: text(doubtful) != Some("0"),
    }))))
}

/// Entries that were asked for.
pub(super) struct CaughtUp {
    pub(super) epoch: Arc<str>,
    pub(super) entries: Vec<LogEntry>,
    /// How far the room has got.
    pub(super) position: Position,
    /// Whether there is more.
    pub(super) has_more: bool,
}

/// What catch_up.lua answers if it has the entries from `seen` on, of which it tells at most so many of each kind.
pub(super) fn caught_up(value: &Value, seen: Position, limit: usize) -> Option<CaughtUp> {
    let [kind, epoch, change, offset, changes, messages] = list(value)? else { return None };
    if text(kind)? != "entries" {
        return None;
    }
    let position = Position { change: number(change)?, offset: number(offset)? };
    let changes: Vec<LogEntry> = list(changes)?.iter().filter_map(change_entry).collect();
    let messages: Vec<LogEntry> = list(messages)?.iter().filter_map(message_entry).collect();
    let entries = merge(changes, messages, limit);
    let last = entries.iter().fold(seen, |last, entry| last.max(entry.position()));
    let has_more = last.change < position.change || last.offset < position.offset;
    Some(CaughtUp { epoch: text(epoch)?.into(), entries, position, has_more })
}

/// Puts changes and messages into their one order. Of either at most `limit` were asked for: where there are so many there may be more,
/// and what comes after the last of them cannot be told.
fn merge(changes: Vec<LogEntry>, messages: Vec<LogEntry>, limit: usize) -> Vec<LogEntry> {
    let may_lack = [changes.len() >= limit, messages.len() >= limit];
    let mut merged = Vec::with_capacity(changes.len() + messages.len());
    let (mut changes, mut messages) = (changes.into_iter().peekable(), messages.into_iter().peekable());
    loop {
        let is_message = match (changes.peek(), messages.peek()) {
            // A message comes before the change that it does not count.
            (Some(change), Some(message)) => message.position().change < change.position().change,
            (Some(_), None) if may_lack[1] => break,
            (None, Some(_)) if may_lack[0] => break,
            (change, message) => match change.is_some() || message.is_some() {
                true => message.is_some(),
                false => break,
            },
        };
        merged.extend(if is_message { messages.next() } else { changes.next() });
    }
    merged
}

/// The number of an entry of a stream: `<number>-0`, from 1 on.
fn id(value: &Value) -> Option<u64> {
    parse(text(value)?.strip_suffix("-0")?).and_then(counted)
}

/// An entry of a stream: its number, and a field of it.
struct Raw<'v> {
    number: u64,
    fields: &'v [Value],
}

impl<'v> Raw<'v> {
    fn new(value: &'v Value) -> Option<Self> {
        let [number, fields] = list(value)? else { return None };
        Some(Raw { number: id(number)?, fields: list(fields)? })
    }

    fn field(&self, name: &str) -> Option<&'v Value> {
        self.fields.chunks_exact(2).find(|pair| text(&pair[0]) == Some(name)).map(|pair| &pair[1])
    }

    fn number_of(&self, name: &str) -> u64 {
        self.field(name).and_then(number).unwrap_or(0)
    }

    fn body(&self) -> &'v str {
        self.field("b").and_then(text).unwrap_or("")
    }
}

fn change_entry(value: &Value) -> Option<LogEntry> {
    let raw = Raw::new(value)?;
    Some(LogEntry::Change {
        position: Position { change: raw.number, offset: raw.number_of("o") },
        timestamp_ms: raw.number_of("t"),
        node: raw.number_of("n") as NodeId,
        tag: raw.number_of("i"),
        ops: ops(raw.body()),
    })
}

fn message_entry(value: &Value) -> Option<LogEntry> {
    let raw = Raw::new(value)?;
    Some(LogEntry::Message {
        position: Position { change: raw.number_of("g"), offset: raw.number },
        timestamp_ms: raw.number_of("t"),
        message: message(raw.body())?,
    })
}

/// A message; what cannot be read is shown as that.
pub(super) fn message(json: &str) -> Option<SharedMessage> {
    match serde_json::from_str(json) {
        Ok(message) => Some(message),
        Err(error) => {
            unreadable(&error);
            let sender = Nickname::parse(UNREADABLE_SENDER).ok()?;
            Some(SharedMessage { sender, content: UNREADABLE_CONTENT.into(), from: None, node: 0, tag: 0 })
        }
    }
}

/// What happens with a change; what cannot be read is nothing.
pub(super) fn ops(json: &str) -> Vec<RoomOp> {
    serde_json::from_str(json).unwrap_or_else(|error| {
        unreadable(&error);
        Vec::new()
    })
}

fn unreadable(error: &serde_json::Error) {
    static COMPLAINT: Mutex<Option<Complaint>> = Mutex::new(None);
    let mut complaint = COMPLAINT.lock().unwrap_or_else(PoisonError::into_inner);
    if complaint.get_or_insert_default().is_due() {
        log::warn!(
            "the backplane has an entry that cannot be read ({error}): has somebody else written to its keys?"
        );
    }
}

/// A message as history tells it.
pub(super) fn page(value: &Value, is_ascending: bool, bytes_max: usize) -> Option<Vec<Entry>> {
    let mut bytes = 0;
    let mut entries = Vec::new();
    for raw in list(value)? {
        let Some(LogEntry::Message { position, timestamp_ms, message }) = message_entry(raw) else {
            continue;
        };
        bytes += message.content.len();
        if bytes > bytes_max && !entries.is_empty() {
            break;
        }
        let SharedMessage { sender, content, .. } = message;
        entries.push(Entry { offset: position.offset, timestamp_ms, sender, content });
    }
    if !is_ascending {
        entries.reverse();
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(text: impl Into<String>) -> Value {
        Value::BulkString(text.into().into_bytes())
    }

    /// A number as scripts write it, large ones too.
    fn count() -> impl Strategy<Value = u64> {
        prop_oneof![0..4u64, Just(u64::MAX), Just(i64::MAX as u64), any::<u64>()]
    }

    /// What nobody has written here.
    fn other() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<Vec<u8>>().prop_map(Value::BulkString),
            any::<i64>().prop_map(Value::Int),
            Just(Value::Nil),
            Just(Value::Okay),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Value::Array))
    }

    fn entries() -> impl Strategy<Value = Value> {
        let body = prop::sample::select(vec!["", "{}", "[]", r#"[{"op":"forget_node","node":1}]"#]);
        let fields = (body, count(), count(), any::<bool>()).prop_map(|(body, first, second, is_whole)| {
            let fields =
                ["b", body, "o", &first.to_string(), "g", &second.to_string(), "n", "7"].map(text_of);
            Value::Array(fields[..if is_whole { 8 } else { 5 }].to_vec())
        });
        let entry = (count(), prop_oneof![9 => fields, 1 => other()])
            .prop_map(|(number, fields)| Value::Array(vec![text_of(format!("{number}-0")), fields]));
        prop::collection::vec(prop_oneof![9 => entry, 1 => other()], 0..4).prop_map(Value::Array)
    }

    /// As scripts answer, but for a place in which anything may be.
    fn answer() -> impl Strategy<Value = Value> {
        let number = || count().prop_map(|number| text_of(number.to_string()));
        let since = prop_oneof![number(), Just(Value::Nil)];
        let first = prop_oneof![count().prop_map(|number| text_of(format!("{number}-0"))), Just(Value::Nil)];
        let body = prop_oneof![Just(text_of("{}")), Just(Value::Nil)];
        let opened = (number(), number(), number(), first, since, body, entries(), entries()).prop_map(
            |(change, offset, time, first, since, body, changes, messages)| {
                let head = [text_of("opened"), text_of("e"), text_of("Den"), change, offset, time, first];
                let tail = [since, body, changes, messages, text_of("0")];
                head.into_iter().chain(tail).collect::<Vec<_>>()
            },
        );
        let caught_up =
            (number(), number(), entries(), entries()).prop_map(|(change, offset, changes, messages)| {
                vec![text_of("entries"), text_of("e"), change, offset, changes, messages]
            });
        let place = prop::option::weighted(0.3, (0..12usize, other()));
        (prop_oneof![opened, caught_up], place).prop_map(|(mut places, other)| {
            if let Some((place, other)) = other
                && place < places.len()
            {
                places[place] = other;
            }
            Value::Array(places)
        })
    }

    proptest! {
        /// Whatever the server says, it is read or it is not.
        #[test]
        fn any_answer_is_read_or_refused(
            value in prop_oneof![1 => other(), 9 => answer()],
            entries in entries(),
            seen in count(),
            limit in 0..4usize,
        ) {
            if let Some(Ok(Some(room))) = opened(&value, "den") {
                prop_assert_eq!(room.room.folded(), "den");
            }
            let _ = caught_up(&value, Position { change: seen, offset: seen }, limit);
            let _ = page(&entries, seen.is_multiple_of(2), 100);
        }
    }

    fn change(change: u64, offset: u64) -> LogEntry {
        let position = Position { change, offset };
        LogEntry::Change { position, timestamp_ms: 0, node: 1, tag: change, ops: Vec::new() }
    }

    fn said(offset: u64, change: u64) -> LogEntry {
        let position = Position { change, offset };
        LogEntry::Message { position, timestamp_ms: 0, message: message("").unwrap() }
    }

    #[test]
    fn entries_have_one_order() {
        // 1 change, 2 messages, 2 changes, 1 message.
        let all = [change(1, 0), said(1, 1), said(2, 1), change(2, 2), change(3, 2), said(3, 3)];
        let of = |is_message: bool| {
            let is_it = |entry: &&LogEntry| matches!(entry, LogEntry::Message { .. }) == is_message;
            all.iter().filter(is_it).cloned().collect::<Vec<_>>()
        };
        assert_eq!(merge(of(false), of(true), 10), all);
        // There may be a fourth change before the third message, and a third message before a fourth change.
        assert_eq!(merge(of(false), of(true), 3), all[..5]);
        assert_eq!(merge(of(false), of(true)[..2].to_vec(), 2), all[..3]);
        assert_eq!(merge(Vec::new(), Vec::new(), 1), []);
        assert_eq!(merge(of(false), Vec::new(), 10), of(false));
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        let unreadable = message("{").unwrap();
        assert_eq!((unreadable.sender.as_str(), &*unreadable.content), ("unknown", "(unreadable)"));
        assert_eq!(ops("[{\"op\":\"fly\"}]"), []);
        let mangled = Value::Array(vec![
            Value::BulkString(b"7-0".to_vec()),
            Value::Array(vec![Value::BulkString(b"x".to_vec())]),
        ]);
        assert_eq!(message_entry(&mangled).unwrap().position(), Position { change: 0, offset: 7 });
    }
}
