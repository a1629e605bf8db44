//! What cores do, step by step: shards without an event loop, whose sockets, clock, mail, store and backplane are played by the test. So
//! every test is exact: what is asked, what is counted, what is told to whom, and when.

mod cores;
mod link;
mod nodes;
mod nodes_private;
mod nodes_spoken;
mod rooms;
mod shared;
mod shared_orders;
