//! What cores do, step by step: shards without an event loop, whose sockets, clock, mail, store and backplane are played by the test. So
//! every test is exact: what is asked, what is counted, what is told to whom, and when.

mod commands;
mod cores;
mod fanout;
mod input;
mod limits;
mod lines;
mod rooms;
