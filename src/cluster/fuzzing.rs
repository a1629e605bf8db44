//! How what Redis says is read, without a Redis: for the fuzzer, whose target is `backplane`.

use std::sync::Arc;

use redis::Value;
use serde_json::Value as Json;

use super::{answer, hear};
use crate::base::slots::Id;
use crate::shard::backplane::{BackplaneNews, Failed, Position};

/// What is announced on a room's channel; `None`: it cannot be understood.
pub fn announced(room: &Arc<str>, payload: &str) -> Option<BackplaneNews> {
    hear::read(room.clone(), payload)
}

/// What a script answers about a room as a whole. Strings, numbers, lists and null are those of Redis.
pub fn opened(room: &Arc<str>, answer: &Json, is_catch_up: bool) -> Option<BackplaneNews> {
    let outcome = answer::opened(&value(answer), room)?;
    Some(BackplaneNews::Opened { room: room.clone(), outcome, is_catch_up })
}

/// What is answered to whoever asks for what comes after a position: at most `limit` of each kind are told.
pub fn caught_up(room: &Arc<str>, seen: Position, answer: &Json, limit: usize) -> Option<BackplaneNews> {
    let caught_up = answer::caught_up(&value(answer), seen, limit)?;
    Some(BackplaneNews::CaughtUp {
        room: room.clone(),
        epoch: caught_up.epoch,
        outcome: Ok::<_, Failed>(caught_up.entries),
    })
}

/// What is answered to whoever asks for a page of history.
pub fn page(wait: Id, answer: &Json, is_ascending: bool) -> BackplaneNews {
    BackplaneNews::Page { wait, entries: answer::page(&value(answer), is_ascending, 1 << 20) }
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(is_true) => Value::Boolean(*is_true),
        Json::Number(number) => number.as_i64().map_or(Value::Nil, Value::Int),
        Json::String(text) => Value::BulkString(text.clone().into_bytes()),
        Json::Array(items) => Value::Array(items.iter().map(value).collect()),
        Json::Object(_) => Value::Okay,
    }
}
