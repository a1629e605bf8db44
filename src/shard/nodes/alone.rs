//! For tests: the one core of a node, which has its test for a backplane.

use std::sync::Arc;

use crate::base::census::Census;
use crate::base::time::Now;
use crate::config::Config;
use crate::shard::backplane::BackplaneRequest;
use crate::shard::mail::Mail;
use crate::shard::{Flock, Shard};

/// The core of node 7.
pub fn core_of_a_node(config: Config) -> Shard {
    let flock = Flock::of_one(Arc::new(config), Arc::new(Census::new(0, 0)));
    let flock = Flock { node: 7, has_backplane: true, ..flock };
    Shard::new(0, &flock, Arc::default(), 1, Now::default())
}

/// Brings the core its own mail. Returns what it asks the backplane, or `None` if it has said nothing.
pub fn next_requests(shard: &mut Shard) -> Option<Vec<BackplaneRequest>> {
    let mail: Vec<Mail> = shard.outboxes().iter_mut().flat_map(std::mem::take).collect();
    if mail.is_empty() {
        return None;
    }
    let mut requests = Vec::new();
    for mail in mail {
        match mail {
            Mail::BackplaneRequest { request, .. } => requests.push(request),
            mail => shard.mail(mail),
        }
    }
    Some(requests)
}
