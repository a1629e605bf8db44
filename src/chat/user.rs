//! Who is here: sessions, and the registry of nicknames that makes each of them unique.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

use super::name::Nickname;
use crate::base::slots::Id;

/// Names a node of a cluster: given out once, at each start. 0 is a node that stands alone.
pub type NodeId = u32;

/// Names a session anywhere in the cluster: the node and core it lives on, and its key there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionRef {
    /// The node.
    pub node: NodeId,
    /// The core.
    pub core: u16,
    /// The key in that core's table of sessions.
    pub session: Id,
}

impl fmt::Display for SessionRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SessionRef { node, core, session: Id { index, generation } } = self;
        write!(out, "{node}.{core}.{index}.{generation}")
    }
}

impl FromStr for SessionRef {
    type Err = &'static str;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let mut parts = written.split('.').map(|part| part.parse::<u32>().ok());
        let mut next = || parts.next().flatten();
        let (node, core, index, generation) = (next(), next(), next(), next());
        let core = core.and_then(|core| u16::try_from(core).ok());
        match (node, core, index, generation, parts.next()) {
            (Some(node), Some(core), Some(index), Some(generation), None) => {
                Ok(SessionRef { node, core, session: Id { index, generation } })
            }
            _ => Err("a session is written as node.core.index.generation"),
        }
    }
}

impl TryFrom<String> for SessionRef {
    type Error = &'static str;

    fn try_from(written: String) -> Result<Self, Self::Error> {
        written.parse()
    }
}

impl From<SessionRef> for String {
    fn from(session: SessionRef) -> Self {
        session.to_string()
    }
}

/// The nicknames whose home is one core, each held by one session, or by several of one user with a token.
///
/// The map is keyed by text that peers choose, so it uses the standard library's keyed hash.
#[derive(Debug, Default)]
pub struct Registry {
    holders: HashMap<Arc<str>, Holder>,
}

#[derive(Debug)]
struct Holder {
    nickname: Nickname,
    /// Whether its user has shown a token: then it may have further sessions.
    has_token: bool,
    /// Never empty, and seldom more than one: that one needs no memory of its own.
    sessions: SmallVec<[SessionRef; 1]>,
}

/// What came of claiming a nickname.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The session has it.
    Granted,
    /// Somebody else has it.
    Taken,
    /// Its user has as many sessions as one may have.
    Full,
}

impl Registry {
    /// Bytes of the entry of one nickname, without the nickname.
    pub const ENTRY_BYTES: usize = size_of::<(Arc<str>, Holder)>();

    /// Gives `nickname` to `session`, unless somebody else has it; several sessions may have it if all of them have shown a
    /// token for it. A holder may claim its own nickname again, in another spelling.
    pub fn claim(
        &mut self,
        nickname: &Nickname,
        session: SessionRef,
        has_token: bool,
        sessions_max: usize,
    ) -> Claim {
        match self.holders.get_mut(nickname.folded()) {
            None => {
                let holder = Holder { nickname: nickname.clone(), has_token, sessions: smallvec![session] };
                self.holders.insert(nickname.folded().into(), holder);
            }
            Some(holder) if holder.sessions[..] == [session] => holder.nickname = nickname.clone(),
            Some(holder) if holder.sessions.contains(&session) => {}
            Some(holder) if !holder.has_token || !has_token => return Claim::Taken,
            Some(holder) if holder.sessions.len() >= sessions_max => return Claim::Full,
            Some(holder) => holder.sessions.push(session),
        }
        Claim::Granted
    }

    /// Lets `session` have `nickname` in the place of `old`.
    pub fn replace(&mut self, nickname: &Nickname, old: SessionRef, session: SessionRef) {
        if let Some(holder) = self.holders.get_mut(nickname.folded()) {
            holder.sessions.iter_mut().filter(|s| **s == old).for_each(|place| *place = session);
        }
    }

    /// Frees `nickname` if `session` is the last that has it.
    pub fn release(&mut self, nickname: &Nickname, session: SessionRef) {
        if let Some(holder) = self.holders.get_mut(nickname.folded()) {
            holder.sessions.retain(|s| *s != session);
            if holder.sessions.is_empty() {
                self.holders.remove(nickname.folded());
            }
        }
    }

    /// The sessions that have `nickname`, and how their user spells it.
    pub fn find(&self, nickname: &Nickname) -> Option<(&[SessionRef], &Nickname)> {
        self.holders.get(nickname.folded()).map(|holder| (&*holder.sessions, &holder.nickname))
    }

    /// How many nicknames are held.
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(index: u32) -> SessionRef {
        SessionRef { node: 0, core: 0, session: Id { index, generation: 0 } }
    }

    #[test]
    fn a_session_is_written_and_read() {
        let session = SessionRef { node: 7, core: 3, session: Id { index: 12, generation: u32::MAX } };
        assert_eq!(session.to_string(), "7.3.12.4294967295");
        assert_eq!("7.3.12.4294967295".parse(), Ok(session));
        assert_eq!(SessionRef::try_from(String::from(session)), Ok(session));
        assert!(SessionRef::try_from("7.3".to_owned()).is_err());
        for bad in ["", "7.3.12", "7.3.12.1.1", "7.70000.12.1", "7.-3.12.1", "a.b.c.d"] {
            assert!(bad.parse::<SessionRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_nickname_has_one_holder_until_it_is_released() {
        let (alice, shouted) = (Nickname::parse("alice").unwrap(), Nickname::parse("ALICE").unwrap());
        let mut registry = Registry::default();
        let mut claim = |name: &Nickname, index| registry.claim(name, session(index), false, 9);
        assert_eq!(claim(&alice, 1), Claim::Granted);
        assert_eq!(claim(&shouted, 2), Claim::Taken, "the same nickname in another spelling");
        assert_eq!(claim(&shouted, 1), Claim::Granted, "its holder may respell it");
        assert_eq!(registry.find(&alice).unwrap().1.as_str(), "ALICE");
        assert_eq!((registry.len(), registry.is_empty()), (1, false));
        registry.release(&alice, session(2));
        assert_eq!(registry.find(&alice).unwrap().0, [session(1)], "released by a stranger");
        registry.replace(&alice, session(1), session(3));
        registry.release(&alice, session(1));
        assert_eq!(registry.find(&alice).unwrap().0, [session(3)], "it is another's by now");
        registry.release(&alice, session(3));
        assert!(registry.find(&alice).is_none() && registry.is_empty());
        assert_eq!(registry.len(), 0);
        assert_eq!(registry.claim(&alice, session(2), false, 9), Claim::Granted);
    }

    #[test]
    fn only_sessions_with_tokens_share_a_nickname() {
        let alice = Nickname::parse("alice").unwrap();
        let mut registry = Registry::default();
        let mut claim = |index, has_token| registry.claim(&alice, session(index), has_token, 2);
        assert_eq!(claim(1, true), Claim::Granted);
        assert_eq!(claim(2, false), Claim::Taken, "a guest may not pass for a user");
        assert_eq!(claim(2, true), Claim::Granted);
        assert_eq!(claim(3, true), Claim::Full);
        let shouted = Nickname::parse("ALICE").unwrap();
        assert_eq!(registry.claim(&shouted, session(2), true, 2), Claim::Granted, "it has it already");
        assert_eq!(registry.find(&alice).unwrap().1.as_str(), "alice", "as all of its sessions spell it");
        registry.release(&alice, session(1));
        assert_eq!(registry.find(&alice).unwrap().0, [session(2)]);
        registry.release(&alice, session(2));
        assert_eq!(registry.claim(&alice, session(4), false, 2), Claim::Granted, "free for a guest");
        assert_eq!(
            registry.claim(&alice, session(5), true, 2),
            Claim::Taken,
            "and a guest's until it is released"
        );
    }
}
