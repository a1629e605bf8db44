//! Data structures that know nothing else of this program: each stands on its own and is tested against a model.

pub mod attempts;
pub mod bucket;
pub mod buckets;
pub mod census;
pub mod histogram;
pub mod latency;
pub mod rng;
pub mod slots;
pub mod stats;
pub mod tcp;
pub mod time;
pub mod wheel;
