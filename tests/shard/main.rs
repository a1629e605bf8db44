//! What cores do, step by step: shards without an event loop, whose sockets, clock, mail, store and backplane are played by the test. So
//! every test is exact: what is asked, what is counted, what is told to whom, and when.

mod backplane;
mod cores;
mod inventory;
mod link;
mod nodes;
mod nodes_private;
mod nodes_spoken;
mod rooms;
mod shared;
mod shared_away;
mod shared_entries;
mod shared_orders;
mod shared_publishing;
