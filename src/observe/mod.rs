//! What the server tells about itself.

mod format;
pub mod logging;
pub mod metrics;
mod writer;

pub use format::{date, push_time};
