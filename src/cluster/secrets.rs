//! What the nodes sign with.
//!
//! The first node that comes makes a secret, and whoever comes later takes it. When the backplane has lost its data a node that starts finds
//! none, and makes another one, although there are nodes that have signed with the first. So each node says its own again and
//! again: where there is none it becomes the one that newcomers take; and where there is another, all nodes learn of both, and take what was signed
//! with either.

use std::fmt;

use redis::Value;

use super::answer::{list, text};
use super::job::{Job, Then};
use super::link::Link;
use super::wire::{Answer, Command};

/// Bytes of a secret.
pub(super) const SECRET_BYTES: usize = 32;

/// Secrets of others that a node takes: one comes with each loss of all data that somebody starts after.
const OTHERS_MAX: usize = 64;

/// What is before a secret that only some sign with, in the name of its field.
const ALSO: &str = "also:";

/// A node's own, and those of others that it knows.
pub(super) struct Secrets {
    resume: [u8; SECRET_BYTES],
    account: [u8; SECRET_BYTES],
    others: Vec<[u8; SECRET_BYTES]>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Secrets(+{})", self.others.len())
    }
}

impl Secrets {
    pub(super) fn new(resume: [u8; SECRET_BYTES], account: [u8; SECRET_BYTES]) -> Self {
        Secrets { resume, account, others: Vec::new() }
    }
}

impl Link {
    /// Says what this node signs with, and asks what others do.
    pub(super) fn say_secrets(&mut self) {
        let key = self.settings.keys.secret();
        let set = |name: &str, secret: &[u8]| Command::keyed("HSETNX", &key).arg(name).arg(to_hex(secret));
        let Secrets { resume, account, .. } = &self.secrets;
        let also = Command::keyed("HSETNX", &key).arg(format!("{ALSO}{}", to_hex(resume))).arg("");
        let commands =
            [set("resume", resume), set("account", account), also, Command::keyed("HGETALL", &key)];
        let until = self.until();
        self.urgent.push_back(Job {
            from: 0,
            commands: commands.into_iter().collect(),
            then: Then::Secrets,
            until,
        });
    }

    /// What the others sign with.
    pub(super) fn told_secrets(&mut self, answers: Option<&[Answer]>) {
        let Some([_, _, Ok(is_new), Ok(all)]) = answers else { return };
        for field in list(all).unwrap_or(&[]).chunks_exact(2) {
            let secret = match (text(&field[0]), text(&field[1])) {
                (Some("resume"), Some(secret)) => from_hex(secret),
                (Some(name), _) => name.strip_prefix(ALSO).and_then(from_hex),
                _ => None,
            };
            let Secrets { resume, others, .. } = &mut self.secrets;
            if let Some(secret) = secret
                && secret != *resume
                && !others.contains(&secret)
                && others.len() < OTHERS_MAX
            {
                others.push(secret);
                (self.accept)(secret);
                log::warn!(
                    "a node signs resume tokens with another secret, which is taken too: the backplane had lost it"
                );
            }
        }
        // The others look at once.
        if *is_new == Value::Int(1) {
            let command = Command::anywhere("PUBLISH").arg(self.settings.keys.nodes_channel()).arg("");
            self.push_urgent(0, command, Then::Nothing("tell of a secret"));
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn from_hex(text: &str) -> Option<[u8; SECRET_BYTES]> {
    let mut bytes = [0; SECRET_BYTES];
    if text.len() != 2 * SECRET_BYTES || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_written_as_they_are_read() {
        let secret: [u8; SECRET_BYTES] = std::array::from_fn(|index| index as u8 * 8);
        assert_eq!(from_hex(&to_hex(&secret)), Some(secret));
        for wrong in ["", "00", &"0g".repeat(32), &"é".repeat(32)] {
            assert_eq!(from_hex(wrong), None);
        }
        assert_eq!(format!("{:?}", Secrets::new(secret, secret)), "Secrets(+0)");
    }
}
