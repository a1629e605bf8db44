//! What the server tells about itself.

mod format;
pub mod logging;
pub mod metrics;
mod repeats;
mod writer;

pub use format::{date, push_time};
