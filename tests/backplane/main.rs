//! The link between a node and Redis, with servers of its own: what is asked and told, and what becomes of it when they fail.
//!
//! The test is the node's cores. Nothing here waits for a time to pass: it waits for what must come.

mod kinds;
mod names;
mod node;
mod rooms;
mod server;
mod trouble;
