//! A room's state: a few keys with values that all members see, a topic for example.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Room;
use crate::chat::name::Nickname;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::user::SessionRef;

/// The keys, and the counter that every change moves on.
#[derive(Debug, Default)]
pub(super) struct State {
    keys: BTreeMap<Box<str>, (Arc<str>, u64)>,
    version: u64,
}

impl State {
    /// The counter.
    pub fn version(&self) -> u64 {
        self.version
    }
}

/// What came of a change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    /// The room's counter after it.
    pub version: u64,
    /// Who made it.
    pub sender: Nickname,
    /// Whether anything has changed: deleting a key that is not there changes nothing.
    pub is_changed: bool,
}

impl Room {
    /// Sets a key to a value, which is a text of the caller's format; `None` deletes it.
    ///
    /// # Errors
    /// Those of [`Room::speaker`]; `bad_request` for a key that is none, `too_large` for the value, `forbidden` for one key
    /// too many.
    pub fn set_state(
        &mut self,
        actor: SessionRef,
        key: &str,
        value: Option<Arc<str>>,
        now_ms: u64,
    ) -> Result<StateChange, Refusal> {
        let sender = self.speaker(actor, now_ms)?;
        let bounds = self.bounds;
        if key.is_empty() || key.len() > bounds.state_key_bytes || key.chars().any(char::is_control) {
            let message =
                format!("a key has 1 to {} bytes and no control characters", bounds.state_key_bytes);
            return Err(Refusal::new(Reason::BadRequest, message));
        }
        if value.as_ref().is_some_and(|value| value.len() > bounds.state_value_bytes) {
            let message = format!("a value may have {} bytes", bounds.state_value_bytes);
            return Err(Refusal::new(Reason::TooLarge, message));
        }
        let state = &mut self.state;
        let is_there = state.keys.contains_key(key);
        match value {
            None if !is_there => {
                return Ok(StateChange { version: state.version, sender, is_changed: false });
            }
            None => {
                state.version += 1;
                state.keys.remove(key);
            }
            Some(_) if !is_there && state.keys.len() >= bounds.state_keys => {
                let message = format!("a room's state may have {} keys", bounds.state_keys);
                return Err(Refusal::new(Reason::Forbidden, message));
            }
            Some(value) => {
                state.version += 1;
                state.keys.insert(key.into(), (value, state.version));
            }
        }
        Ok(StateChange { version: state.version, sender, is_changed: true })
    }

    /// Sets a key as it was before the server was started.
    pub fn restore_state(&mut self, key: Box<str>, value: Arc<str>, version: u64) {
        self.state.version = self.state.version.max(version);
        self.state.keys.insert(key, (value, version));
    }

    /// Goes on counting changes from where the counter was.
    pub fn restore_state_version(&mut self, version: u64) {
        self.state.version = self.state.version.max(version);
    }

    /// The keys in order, with their values and the versions in which they were set.
    pub fn state(&self) -> impl Iterator<Item = (&str, &Arc<str>, u64)> {
        self.state.keys.iter().map(|(key, (value, version))| (&**key, value, *version))
    }

    /// The value of one key.
    pub fn state_of(&self, key: &str) -> Option<&Arc<str>> {
        self.state.keys.get(key).map(|(value, _)| value)
    }
}
