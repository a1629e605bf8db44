//! Another version of the server takes the place of one, in the middle of everything: the old one drains, its clients are told to come
//! back, everything is written down, and the new one begins with that, on another number of cores and with other limits. There is but
//! one version of the code to play this with; what the next one finds in the store is what this one has written.
//!
//! A server that does not drain in time is killed by whoever watches over it, and the next one begins with its journals.

use starling::base::rng::Rng;
use starling::config::{Config, Limits};

use crate::faults::pick;
use crate::restart::End;
use crate::world::World;

/// In one of so many steps an upgrade begins, if there is another one to come.
const ONE_IN: u64 = 2500;

/// For how many steps a server may drain until it is killed.
const PATIENCE: u64 = 3000;

impl World {
    /// Begins an upgrade at a moment that is drawn, and ends one that has begun.
    pub fn upgrade_perhaps(&mut self) {
        match self.upgrade {
            Some(until) => {
                if self.have_all_cores_ended() || self.model.moment >= until {
                    self.end_upgrade();
                }
            }
            None => {
                let rng = &mut self.kernel.borrow_mut().rng;
                if self.shape.upgrades == 0 || rng.below(ONE_IN) > 0 {
                    return;
                }
                let until = self.model.moment + 1 + rng.below(PATIENCE);
                self.shape.upgrades -= 1;
                self.upgrade = Some(until);
            }
        }
        if self.upgrade.is_some() && !self.model.is_draining {
            self.model.count("upgrades_begun");
            self.drain();
        }
    }

    /// Has the next server take over, whether this one has drained or not.
    pub fn end_upgrade(&mut self) {
        if self.upgrade.is_none() {
            return;
        }
        let has_drained = self.have_all_cores_ended();
        if !has_drained {
            self.model.count("upgrades_hurried");
        }
        self.restart(if has_drained { End::Upgrade } else { End::Kill });
    }
}

/// The configuration of the next version: limits that no client counts on are others.
pub fn other_limits(rng: &mut Rng, config: &Config) -> Config {
    let d = Limits::default();
    let mut config = config.clone();
    let limits = &mut config.limits;
    limits.private_kept = pick(rng, &[3, 20, d.private_kept]);
    limits.output_pause_bytes = pick(rng, &[1000, d.output_pause_bytes]);
    limits.send_queue_bytes = pick(rng, &[1500, 6000, 100_000, d.send_queue_bytes]);
    limits.commands_in_flight = pick(rng, &[1, 2, 5, d.commands_in_flight]);
    limits.peer_window = pick(rng, &[1, 3, 12, d.peer_window]);
    limits.accepts_per_turn = pick(rng, &[1, d.accepts_per_turn]);
    limits.closes_per_turn = limits.accepts_per_turn; // no dice of its own: what a seed means must not change
    limits.read_bytes_per_turn = pick(rng, &[50, d.read_bytes_per_turn]);
    limits.read_buffer_bytes = pick(rng, &[16, 300, d.read_buffer_bytes]);
    limits.events_per_turn = pick(rng, &[1, 3, d.events_per_turn]);
    limits.timers_per_turn = pick(rng, &[1, d.timers_per_turn]);
    limits.parcels_per_turn = pick(rng, &[1, 2, d.parcels_per_turn]);
    limits.replay_page_bytes = pick(rng, &[100, 700, d.replay_page_bytes]);
    config.store.queue_bytes = pick(rng, &[32_768, 262_144, 1_048_576]);
    config.store.sync_ms = pick(rng, &[5, 100, 1000]);
    config.history.memory_count = pick(rng, &[1, 5, 1000]);
    config
}
