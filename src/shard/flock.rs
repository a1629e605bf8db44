//! What all cores are made with.

use std::net::IpAddr;
use std::sync::Arc;

use super::home_of;
use super::observer::Observer;
use crate::auth::Authority;
use crate::auth::api_key::ApiKeys;
use crate::auth::resume::ResumeKey;
use crate::base::attempts::Attempts;
use crate::base::buckets::SharedBuckets;
use crate::base::census::Census;
use crate::chat::user::NodeId;
use crate::config::Config;

/// Facts that all cores share when they start.
#[derive(Debug, Clone)]
pub struct Flock {
    /// This node among those of the cluster; 0: it stands alone.
    pub node: NodeId,
    /// How many cores there are.
    pub cores: u16,
    /// The configuration.
    pub config: Arc<Config>,
    /// Everybody who is connected.
    pub census: Arc<Census>,
    /// What tokens are checked with.
    pub authority: Arc<Authority>,
    /// Who sees all cores, if there is somebody.
    pub observer: Option<Arc<dyn Observer>>,
    /// What each address may send.
    pub address_buckets: Arc<SharedBuckets<IpAddr>>,
    /// What each user may send.
    pub user_buckets: Arc<SharedBuckets<Arc<str>>>,
    /// Who tries to log in or register how often.
    pub attempts: Arc<Attempts>,
    /// How many connections one core can hold: its open-file limit, less a reserve.
    pub core_connections: usize,
    /// How many more it can take to tell them so.
    pub core_reserve: usize,
    /// A secret number, the same for all cores.
    pub home_seed: u64,
    /// Whether there is a store: its threads have a mailbox behind those of the cores, and each core a journal.
    pub has_store: bool,
    /// Whether there is a backplane instead: the link to it has that mailbox.
    pub has_backplane: bool,
}

impl Flock {
    /// One core with few places, whose keys are known: for tests.
    pub fn of_one(config: Arc<Config>, census: Arc<Census>) -> Self {
        let authority = Authority {
            verifier: None,
            accounts: None,
            api_keys: ApiKeys::default(),
            resume: ResumeKey::new([0; 32]),
            reading: 0,
        };
        Flock {
            node: 0,
            cores: 1,
            config,
            census,
            authority: Arc::new(authority),
            observer: None,
            address_buckets: Arc::default(),
            user_buckets: Arc::default(),
            attempts: Arc::new(Attempts::new(0, 0, 64)),
            core_connections: 10,
            core_reserve: 10,
            home_seed: 1,
            has_store: false,
            has_backplane: false,
        }
    }

    /// How many mailboxes there are: one a core, and one for whoever keeps what outlives the process.
    pub fn mailboxes(&self) -> usize {
        usize::from(self.cores) + usize::from(self.has_store || self.has_backplane)
    }

    /// The core that a folded name lives on.
    pub fn home_of(&self, folded: &str) -> u16 {
        home_of(self.home_seed, usize::from(self.cores), folded)
    }

    /// One in how many messages is followed. In a cluster none is: there messages get their place elsewhere.
    pub(super) fn sample_every(&self) -> u64 {
        if self.has_backplane { 0 } else { self.config.observe.latency_sample_every }
    }
}
