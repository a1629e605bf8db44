//! One core in the test's own process, over any kernel.

use std::sync::Arc;

use starling::base::census::Census;
use starling::base::time::Now;
use starling::config::{Config, ListenKind};
use starling::reactor::mailbox::Exchange;
use starling::reactor::{Os, Reactor};
use starling::shard::{Flock, Shard};

/// The only core of a server, with these listeners.
pub fn reactor<O: Os>(os: O, listeners: &[ListenKind], now: Now) -> Reactor<O> {
    let config = Arc::new(Config::default());
    let flock = Flock {
        cores: 1,
        census: Arc::new(Census::new(0, 0)),
        core_connections: 10_000,
        home_seed: 1,
        config: config.clone(),
    };
    let shard = Shard::new(0, &flock, Arc::default(), 1, now);
    let exchange = Arc::new(Exchange::new(1, config.limits.mailbox_parcels));
    Reactor::new(0, os, shard, &config.limits, false, listeners, exchange)
}
