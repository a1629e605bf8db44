#[path = "../../src/reactor/doorbell.rs"]
pub mod doorbell;
#[path = "../../src/reactor/mailbox.rs"]
pub mod mailbox;
#[path = "../../src/reactor/quiescence.rs"]
pub mod quiescence;

mod sync {
    pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}
