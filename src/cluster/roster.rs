//! Which nodes live, as far as this one knows.
//!
//! A node says from time to time that it lives, for the time of a lease by the clock of the backplane. A lease that is over is a node that is
//! lost, unless nobody could have renewed it: when the backplane was away, or its clock has made a leap, those who come back first must not
//! take the others for dead who are on their way. Whoever has not heard from the backplane for that long gives all others the time of one
//! more lease, and so does a node that has just begun, since it cannot know.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chat::user::NodeId;
use crate::shard::backplane::LostNode;

/// What is known of the nodes.
#[derive(Debug, Default)]
pub(super) struct Roster {
    living: Arc<[NodeId]>,
    /// Those that are lost, and since when, in ms by the clock of the backplane.
    missing: BTreeMap<NodeId, u64>,
    /// When the nodes were last looked at, in ms by that clock.
    looked_ms: Option<u64>,
    /// Until then nobody is found to be lost who was not lost before.
    patient_until_ms: u64,
}

impl Roster {
    pub(super) fn living(&self) -> &Arc<[NodeId]> {
        &self.living
    }

    /// Takes what the backplane says: the time, and until when each node's lease is, all in ms by its clock. Says whether something is
    /// other than it was.
    pub(super) fn take(&mut self, lease_ms: u64, now_ms: u64, leases: &[(NodeId, u64)]) -> bool {
        let is_in_time = self.looked_ms.is_some_and(|looked| is_soon(looked, now_ms, lease_ms));
        self.looked_ms = Some(now_ms);
        if !is_in_time {
            self.patient_until_ms = now_ms + lease_ms;
        }
        let is_patient = now_ms < self.patient_until_ms;
        let is_over = |until_ms: u64| until_ms < now_ms;
        let mut living: Vec<NodeId> =
            leases.iter().filter(|(_, until)| !is_over(*until)).map(|(node, _)| *node).collect();
        let mut missing = BTreeMap::new();
        for (node, until_ms) in leases.iter().filter(|(_, until)| is_over(*until)) {
            match self.missing.get(node) {
                Some(since_ms) => _ = missing.insert(*node, *since_ms),
                // Its time begins when it could have come back.
                None if !is_patient => _ = missing.insert(*node, self.patient_until_ms.max(*until_ms)),
                None => {}
            }
        }
        if is_patient {
            // Also one that the backplane has forgotten.
            let known = |node: &&NodeId| living.contains(node) || missing.contains_key(node);
            let waited: Vec<NodeId> = self.living.iter().filter(|node| !known(node)).copied().collect();
            living.extend(waited);
        }
        living.sort_unstable();
        let is_other = *living != *self.living || missing != self.missing;
        (self.living, self.missing) = (living.into(), missing);
        is_other
    }

    /// Whether a node whose lease is over may live all the same, at a time by the clock of the backplane. It may, where that has not been
    /// looked at for so long that it could not have been heard; and until all have had the time to come back after such a silence.
    pub(super) fn may_live(&self, lease_ms: u64, node: NodeId, now_ms: u64) -> bool {
        let is_in_time = self.looked_ms.is_some_and(|looked| is_soon(looked, now_ms, lease_ms));
        !self.missing.contains_key(&node) && (!is_in_time || now_ms < self.patient_until_ms)
    }

    /// Those that are lost, and for how long they have been.
    pub(super) fn lost(&self) -> Arc<[LostNode]> {
        let now_ms = self.looked_ms.unwrap_or(0);
        let lost =
            |(node, since): (&NodeId, &u64)| LostNode { node: *node, lost_ms: now_ms.saturating_sub(*since) };
        self.missing.iter().map(lost).collect()
    }
}

/// Whether so little time has passed that whoever lives has been heard. Leases are renewed thrice as often as they end: where more than half
/// of one has passed, somebody has missed a renewal.
fn is_soon(looked_ms: u64, now_ms: u64, lease_ms: u64) -> bool {
    now_ms.saturating_sub(looked_ms) < lease_ms / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 900;

    fn known(roster: &Roster) -> (Vec<NodeId>, Vec<(NodeId, u64)>) {
        (roster.living().to_vec(), roster.lost().iter().map(|lost| (lost.node, lost.lost_ms)).collect())
    }

    /// One that has been going on for a while, with two nodes.
    fn settled() -> Roster {
        let mut roster = Roster::default();
        for now in [10_000, 10_300, 10_600, 10_900, 11_200] {
            roster.take(LEASE, now, &[(1, now + LEASE), (2, now + LEASE)]);
        }
        assert_eq!(known(&roster), (vec![1, 2], vec![]));
        roster
    }

    #[test]
    fn a_lease_that_is_over_is_a_node_that_is_lost() {
        let mut roster = settled();
        for now in [11_500, 11_800, 12_100] {
            assert!(!roster.take(LEASE, now, &[(1, now + LEASE), (2, 12_100)]));
        }
        assert!(roster.take(LEASE, 12_400, &[(1, 13_300), (2, 12_100)]));
        assert_eq!(known(&roster), (vec![1], vec![(2, 300)]));
        // The backplane forgets it after a while, and so does whoever asks.
        assert!(roster.take(LEASE, 12_700, &[(1, 13_600)]));
        assert_eq!(known(&roster), (vec![1], vec![]));
    }

    #[test]
    fn leases_that_nobody_could_renew_say_nothing() {
        let mut roster = settled();
        // Away until 20,000: the first is back and the second not yet, and the backplane has forgotten it at first.
        assert!(!roster.take(LEASE, 20_000, &[(1, 20_900)]));
        assert!(!roster.take(LEASE, 20_300, &[(1, 21_200), (2, 12_100)]));
        // It is back in time, or has a lease's time from when it could have been.
        let mut late = Roster { living: roster.living.clone(), missing: BTreeMap::new(), ..roster };
        assert!(!late.take(LEASE, 20_600, &[(1, 21_500), (2, 12_100)]));
        assert!(late.take(LEASE, 20_900, &[(1, 21_800), (2, 12_100)]));
        assert_eq!(known(&late), (vec![1], vec![(2, 0)]));
        assert!(!late.take(LEASE, 21_200, &[(1, 22_100), (2, 12_100)]));
        assert_eq!(known(&late), (vec![1], vec![(2, 300)]), "since then and no later");
        assert!(late.take(LEASE, 21_500, &[(1, 22_400), (2, 22_400)]));
        assert_eq!(known(&late), (vec![1, 2], vec![]));
    }

    #[test]
    fn who_was_lost_before_stays_lost() {
        let mut roster = settled();
        for now in [11_500, 11_800, 12_100, 12_400] {
            roster.take(LEASE, now, &[(1, now + LEASE), (2, 12_100)]);
        }
        assert!(!roster.take(LEASE, 20_000, &[(1, 20_900), (2, 12_100)]));
        assert_eq!(known(&roster), (vec![1], vec![(2, 7900)]));
    }

    #[test]
    fn whose_lease_is_over_may_live_where_nobody_could_have_renewed_it() {
        let mut roster = settled();
        // The last look was at 11,200, when the lease of the second ended at 12,100.
        assert!(!roster.may_live(LEASE, 2, 11_600));
        assert!(roster.may_live(LEASE, 2, 12_200), "not looked at since");
        roster.take(LEASE, 12_200, &[(1, 13_100), (2, 12_100)]);
        assert!(roster.may_live(LEASE, 2, 12_500) && roster.may_live(LEASE, 2, 13_000));
        for now in [12_500, 12_800, 13_100] {
            roster.take(LEASE, now, &[(1, now + LEASE), (2, 12_100)]);
        }
        assert!(!roster.may_live(LEASE, 2, 13_200));
        // Who is lost stays lost while nobody looks.
        assert!(!roster.may_live(LEASE, 2, 20_000));
    }

    #[test]
    fn who_begins_gives_everybody_time() {
        let mut roster = Roster::default();
        assert!(roster.take(LEASE, 5000, &[(1, 5900), (2, 1000)]));
        assert_eq!(known(&roster), (vec![1], vec![]));
        assert!(!roster.take(LEASE, 5300, &[(1, 6200), (2, 1000)]));
        roster.take(LEASE, 5600, &[(1, 6500), (2, 1000)]);
        assert!(roster.take(LEASE, 5900, &[(1, 6800), (2, 1000)]));
        assert_eq!(known(&roster), (vec![1], vec![(2, 0)]));
    }
}
