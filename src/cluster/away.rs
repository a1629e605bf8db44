//! What the log says of servers of a Redis Cluster that are away while others answer: nobody else says so, since the backplane is not down.

use std::time::Instant;

use super::link::Link;
use crate::sys::complaint::Lasting;

impl Link {
    /// Logs which servers of a Redis Cluster are away, and which are back: what is asked of the others goes on meanwhile.
    pub(super) fn note_away(&mut self) {
        let Some(wire) = &self.wire else { return };
        let now = Instant::now();
        for (name, state) in wire.states() {
            match state {
                Ok(()) => {
                    if let Some(lasted) = self.away.get_mut(name).and_then(|away| away.ends(now)) {
                        log::info!("{name}: back in the Redis Cluster after {} ms", lasted.as_millis());
                    }
                }
                Err(why) => {
                    if !self.away.contains_key(name) {
                        self.away.insert(name.to_owned(), Lasting::default());
                    }
                    if self.away.get_mut(name).is_some_and(|away| away.goes_on(why, now)) {
                        log::warn!(
                            "{name}: away in the Redis Cluster: {why}; rooms, nicknames and sessions there are refused until that is over"
                        );
                    }
                }
            }
        }
        // Another server has the slots of one that has gone for good.
        self.away.retain(|name, away| {
            let is_gone = !wire.has_slots(name);
            if is_gone && let Some(lasted) = away.ends(now) {
                log::info!("{name}: has no slots any more, after {} ms", lasted.as_millis());
            }
            !is_gone
        });
    }
}
