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
    pub(super) resume: [u8; SECRET_BYTES],
    pub(super) account: [u8; SECRET_BYTES],
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

    /// Those that a node begins with: fields and values of what is kept of them. `None`: its own are not there, or damaged.
    pub(super) fn found(fields: &[Value]) -> Option<Self> {
        let own = |name: &str| {
            let is_it = |field: &&[Value]| text(&field[0]) == Some(name);
            fields.chunks_exact(2).find(is_it).and_then(|field| text(&field[1])).and_then(from_hex)
        };
        let mut secrets = Secrets::new(own("resume")?, own("account")?);
        secrets.learn(fields);
        Some(secrets)
    }

    /// What resume tokens were signed with by other nodes.
    pub(super) fn others(&self) -> &[[u8; SECRET_BYTES]] {
        &self.others
    }

    /// Learns what other nodes sign with. Returns how many of those have not been known.
    fn learn(&mut self, fields: &[Value]) -> usize {
        let known = self.others.len();
        for field in fields.chunks_exact(2) {
            let secret = match (text(&field[0]), text(&field[1])) {
                (Some("resume"), Some(secret)) => from_hex(secret),
                (Some(name), _) => name.strip_prefix(ALSO).and_then(from_hex),
                _ => None,
            };
            if let Some(secret) = secret
                && secret != self.resume
                && !self.others.contains(&secret)
                && self.others.len() < OTHERS_MAX
            {
                self.others.push(secret);
            }
        }
        self.others.len() - known
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
        let new = self.secrets.learn(list(all).unwrap_or(&[]));
        for secret in self.secrets.others.iter().rev().take(new) {
            (self.accept)(*secret);
            log::warn!(
                "a node signs resume tokens with another secret, which is taken too: the backplane had lost it"
            );
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
    fn a_node_begins_with_its_own_and_all_that_others_have_said() {
        let hex = |byte: u8| to_hex(&[byte; SECRET_BYTES]);
        let fields = |pairs: &[(&str, String)]| -> Vec<Value> {
            let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
            pairs.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect()
        };
        let also = |byte: u8| (format!("{ALSO}{}", hex(byte)), String::new());
        let said = [also(1), also(3), ("account".to_owned(), hex(2)), ("resume".to_owned(), hex(1)), also(4)];
        let said: Vec<(&str, String)> =
            said.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let mut secrets = Secrets::found(&fields(&said)).expect("both are there");
        assert_eq!((secrets.resume, secrets.account), ([1; SECRET_BYTES], [2; SECRET_BYTES]));
        assert_eq!(secrets.others(), [[3; SECRET_BYTES], [4; SECRET_BYTES]]);
        assert_eq!(secrets.learn(&fields(&said)), 0);
        for lacks in ["account", "resume"] {
            let rest: Vec<_> = said.iter().filter(|(name, _)| *name != lacks).cloned().collect();
            assert!(Secrets::found(&fields(&rest)).is_none(), "{lacks}");
        }
        // Their number is bounded.
        let many: Vec<_> = (0..=u8::MAX).map(also).collect();
        let many: Vec<(&str, String)> =
            many.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        secrets.learn(&fields(&many));
        assert_eq!(secrets.others().len(), OTHERS_MAX);
    }

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
