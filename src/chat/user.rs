//! Who is here: sessions, and the registry of nicknames that makes each of them unique.

use std::collections::HashMap;
use std::sync::Arc;

use super::name::Nickname;
use crate::base::slots::Id;

/// Names a session anywhere in this process: the core it lives on, and its key there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionRef {
    /// The core.
    pub core: u16,
    /// The key in that core's table of sessions.
    pub session: Id,
}

/// The nicknames whose home is one core, each held by one session.
///
/// The map is keyed by text that peers choose, so it uses the standard library's keyed hash.
#[derive(Debug, Default)]
pub struct Registry {
    holders: HashMap<Arc<str>, Holder>,
}

#[derive(Debug)]
struct Holder {
    session: SessionRef,
    nickname: Nickname,
}

impl Registry {
    /// Gives `nickname` to `session`, and says whether it could: not while another session holds it. A holder may claim
    /// its own nickname again, in another spelling.
    pub fn claim(&mut self, nickname: &Nickname, session: SessionRef) -> bool {
        match self.holders.get(nickname.folded()) {
            Some(holder) if holder.session != session => false,
            _ => {
                self.holders.insert(nickname.folded().into(), Holder { session, nickname: nickname.clone() });
                true
            }
        }
    }

    /// Frees `nickname` if `session` holds it.
    pub fn release(&mut self, nickname: &Nickname, session: SessionRef) {
        if self.holders.get(nickname.folded()).is_some_and(|holder| holder.session == session) {
            self.holders.remove(nickname.folded());
        }
    }

    /// The session that holds `nickname`, and how it spells it.
    pub fn find(&self, nickname: &Nickname) -> Option<(SessionRef, &Nickname)> {
        self.holders.get(nickname.folded()).map(|holder| (holder.session, &holder.nickname))
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
        SessionRef { core: 0, session: Id { index, generation: 0 } }
    }

    #[test]
    fn a_nickname_has_one_holder_until_it_is_released() {
        let (alice, shouted) = (Nickname::parse("alice").unwrap(), Nickname::parse("ALICE").unwrap());
        let mut registry = Registry::default();
        assert!(registry.claim(&alice, session(1)));
        assert!(!registry.claim(&shouted, session(2)), "the same nickname in another spelling");
        assert!(registry.claim(&shouted, session(1)), "its holder may respell it");
        assert_eq!(registry.find(&alice).unwrap().1.as_str(), "ALICE");
        registry.release(&alice, session(2));
        assert_eq!(registry.find(&alice).unwrap().0, session(1), "released by a stranger");
        registry.release(&alice, session(1));
        assert!(registry.find(&alice).is_none() && registry.is_empty());
        assert!(registry.claim(&alice, session(2)));
    }
}
