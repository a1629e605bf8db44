//! Who is connected, counted over all cores: the limits on connections hold for the server, not for a core.
//!
//! This is touched once when a connection is accepted and once when it is closed, never for a message. The total is one
//! atomic number; the counts an address are maps behind locks, split by hash so that cores seldom meet. They are kept
//! while no such limit is configured too: one that is configured later holds for those who are there.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const SHARDS: usize = 64;

/// The connections of the whole server.
#[derive(Debug)]
pub struct Census {
    total: AtomicUsize,
    total_max: usize,
    address_max: AtomicUsize,
    addresses: Vec<Mutex<HashMap<IpAddr, usize>>>,
    hasher: RandomState,
}

/// Why a connection may not stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The server has as many connections as it may.
    Server,
    /// The peer's address has.
    Address,
}

impl Census {
    /// Nobody connected. A limit of 0 is none.
    pub fn new(total_max: usize, address_max: usize) -> Self {
        Census {
            total: AtomicUsize::new(0),
            total_max: if total_max == 0 { usize::MAX } else { total_max },
            address_max: AtomicUsize::new(address_max),
            addresses: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Allows an address so many connections from now on; 0: any number. Those that are there stay.
    pub fn set_address_max(&self, address_max: usize) {
        self.address_max.store(address_max, Relaxed);
    }

    /// Counts a connection from `address` in, or says which limit forbids it.
    pub fn enter(&self, address: IpAddr) -> Result<(), Full> {
        if self.total.fetch_add(1, Relaxed) >= self.total_max {
            self.total.fetch_sub(1, Relaxed);
            return Err(Full::Server);
        }
        let address_max = self.address_max.load(Relaxed);
        let mut counts = self.shard(address);
        let count = counts.get(&address).copied().unwrap_or(0);
        if address_max != 0 && count >= address_max {
            self.total.fetch_sub(1, Relaxed);
            return Err(Full::Address);
        }
        counts.insert(address, count + 1);
        Ok(())
    }

    /// Counts out a connection that [`Census::enter`] let in.
    pub fn leave(&self, address: IpAddr) {
        self.total.fetch_sub(1, Relaxed);
        let mut counts = self.shard(address);
        let count = counts.get_mut(&address).expect("left without having entered");
        *count -= 1;
        if *count == 0 {
            counts.remove(&address);
        }
    }

    /// How many are connected.
    pub fn total(&self) -> usize {
        self.total.load(Relaxed)
    }

    fn shard(&self, address: IpAddr) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        let index = self.hasher.hash_one(address) as usize % SHARDS;
        self.addresses[index].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_count(ops in prop::collection::vec((any::<bool>(), 0u8..4, prop::option::weighted(0.1, 0usize..4)), 0..100), total_max in 0usize..8, mut address_max in 0usize..4) {
            let census = Census::new(total_max, address_max);
            let mut model: HashMap<u8, usize> = HashMap::new();
            for (enters, host, other_max) in ops {
                if let Some(other_max) = other_max {
                    address_max = other_max;
                    census.set_address_max(address_max);
                }
                let address = IpAddr::from([127, 0, 0, host]);
                let total: usize = model.values().sum();
                let here = model.entry(host).or_default();
                if enters {
                    let expected = if total_max != 0 && total >= total_max { Err(Full::Server) }
                        else if address_max != 0 && *here >= address_max { Err(Full::Address) }
                        else { *here += 1; Ok(()) };
                    prop_assert_eq!(census.enter(address), expected);
                } else if *here > 0 {
                    *here -= 1;
                    census.leave(address);
                }
                prop_assert_eq!(census.total(), model.values().sum::<usize>());
            }
            for shard in &census.addresses {
                prop_assert!(shard.lock().unwrap().values().all(|n| *n > 0), "an empty count stays in the table");
            }
        }
    }
}
