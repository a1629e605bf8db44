//! Cores in the test's own process, over any kernel.

use std::sync::Arc;

use starling::base::census::Census;
use starling::base::time::Now;
use starling::config::{Config, ListenKind};
use starling::reactor::mailbox::Exchange;
use starling::reactor::{Os, Reactor};
use starling::shard::{Flock, Shard};

/// The cores of a server, one on each kernel, all with these listeners, where one message in `every` is followed on its way. 0: none.
/// Which ones are is drawn: what is counted with another number is another count each time.
pub fn reactors<O: Os>(
    every: u64,
    kernels: impl IntoIterator<Item = O, IntoIter: ExactSizeIterator>,
    listeners: &[ListenKind],
    now: Now,
) -> Vec<Reactor<O>> {
    let kernels = kernels.into_iter();
    let mut config = Config::default();
    config.rate.commands_per_second = 0; // what is measured here is not how fast one may go
    config.history.count = 16; // a ring that has stopped growing
    config.web.deflate = true; // for whoever offers it
    config.observe.latency_sample_every = every;
    let config = Arc::new(config);
    let flock = Flock {
        node: 0,
        cores: kernels.len() as u16,
        core_connections: 10_000,
        core_reserve: 64,
        ..Flock::of_one(config.clone(), Arc::new(Census::new(0, 0)))
    };
    let exchange = Arc::new(Exchange::new(kernels.len(), config.limits.mailbox_parcels));
    let core = |(core, kernel)| {
        let shard = Shard::new(core as u16, &flock, Arc::default(), core as u64, now);
        Reactor::new(core, kernel, shard, &config.limits, false, listeners.iter().copied(), exchange.clone())
    };
    kernels.enumerate().map(core).collect()
}
