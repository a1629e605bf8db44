//! Nodes that are replaced by a newer version, one after the other, while the others serve: each drains and gives its sessions up, and
//! another takes its place, with other limits and another number of cores.

use std::sync::Arc;

use starling::base::rng::Rng;
use starling::chat::user::NodeId;
use starling::config::{Config, Limits};

use super::World;
use crate::faults::pick;

/// In one of so many steps an upgrade of all nodes begins, if there is one to come.
const ONE_IN: u64 = 2000;

/// For how many steps a node may drain until it is killed.
const PATIENCE: u64 = 1200;

/// Rounds in which a node that drains at the end of a stretch has to be done.
const ROUNDS: usize = 200;

/// The configuration of a node that is not of the same version as the others: limits of which no other node knows.
pub fn other_limits(rng: &mut Rng, config: &Arc<Config>) -> Config {
    let mut config = Config::clone(config);
    let d = Limits::default();
    let limits = &mut config.limits;
    limits.commands_in_flight = pick(rng, &[1, 3, limits.commands_in_flight]);
    limits.peer_window = pick(rng, &[1, 3, d.peer_window]);
    limits.private_kept = pick(rng, &[20, d.private_kept]);
    config.history.memory_count = pick(rng, &[1, 5, config.history.memory_count]);
    config.drain.delay_ms = pick(rng, &[0, 100]);
    config
}

impl World {
    /// Begins an upgrade at a moment that is drawn, and goes on with one that has begun.
    pub fn upgrade_perhaps(&mut self) {
        if let Some(until) = self.drains_until {
            let node = *self.outdated.front().expect("it is the one that drains");
            let may_leave = self.has_drained(node) && self.backplane.has_done_all(node);
            if may_leave || self.ledger.moment >= until {
                self.replace(node, may_leave);
            }
            return;
        }
        if self.outdated.is_empty() {
            let Some(swarm) = &mut self.swarm else { return };
            if swarm.upgrades == 0 || self.rng.below(ONE_IN) > 0 {
                return;
            }
            swarm.upgrades -= 1;
            self.outdated = self.nodes.iter().map(|node| node.id).collect();
            self.ledger.count("upgrades_begun");
        }
        let node = self.outdated[0];
        self.note(|| format!("node {node} begins to drain"));
        let (now, index) = (self.now(), self.index_of(node));
        for core in &mut self.nodes[index].cores {
            core.shard.tick(now);
            core.shard.drain();
        }
        self.drains_since_ms = self.clock_ms;
        self.drains_until = Some(self.ledger.moment + 1 + self.rng.below(PATIENCE));
    }

    /// At the end of a stretch the node that drains is waited for; the others stay as they are.
    pub fn end_upgrades(&mut self) {
        for _ in 0..ROUNDS {
            let (Some(_), Some(node)) = (self.drains_until, self.outdated.front().copied()) else { break };
            self.backplane.settle(self.clock_ms);
            while let Some((node, core, news)) = self.backplane.next_news(&mut self.rng) {
                self.deliver(node, core, news);
            }
            let index = self.index_of(node);
            for core in 0..self.nodes[index].cores.len() {
                self.turn(index, core);
            }
            self.clock_ms += 20;
            if self.has_drained(node) && self.backplane.has_done_all(node) {
                self.replace(node, true);
                break;
            }
        }
        if let (Some(_), Some(node)) = (self.drains_until, self.outdated.front().copied()) {
            self.replace(node, false);
        }
        self.outdated.clear();
    }

    /// A node is gone, and need not be replaced any more.
    pub fn forget_outdated(&mut self, node: NodeId) {
        if self.outdated.front() == Some(&node) {
            self.drains_until = None;
        }
        self.outdated.retain(|other| *other != node);
    }

    fn index_of(&self, node: NodeId) -> usize {
        self.nodes.iter().position(|other| other.id == node).expect("it is there")
    }

    fn has_drained(&self, node: NodeId) -> bool {
        self.nodes[self.index_of(node)].cores.iter().all(|core| core.shard.is_over() && core.mail.is_empty())
    }

    /// Another node takes the place of one that has drained, or has not done so in time.
    fn replace(&mut self, node: NodeId, has_drained: bool) {
        let index = self.index_of(node);
        if !has_drained {
            self.ledger.count("upgrades_hurried");
            return self.kill(index);
        }
        if self.backplane.was_down_since(node, self.drains_since_ms) {
            self.ledger.count("drains_unheard");
        }
        self.add_counts_of(index);
        self.nodes.remove(index);
        self.note(|| format!("node {node} has drained"));
        self.forget_outdated(node);
        self.backplane.part(node, self.clock_ms);
        self.ledger.is_late |= self.backplane.is_orphaned;
        self.ledger.count("nodes_upgraded");
        for client in &mut self.clients {
            client.lose_node(node, &mut self.ledger);
        }
        self.start_node();
    }
}
