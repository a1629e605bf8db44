//! A client of starling, the chat server, for programs in Rust: one thread a client, no async runtime.
//!
//! It connects, comes back when the connection is lost, and resumes its session. A message that is sent is published once, or told as
//! failed. The messages of each room come in order, each once, or a gap is told.
//!
//! # How to use it
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use starling_client::{Client, Event, Options};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(Options::new("ws://127.0.0.1:8080/ws").nickname("parrot"))?;
//! client.wait_online(Duration::from_secs(10))?;
//! client.join("lobby")?;
//! let receipt = client.send("lobby", "hello")?;
//! println!("published at {:?}", receipt.wait(Duration::from_secs(5))?.offset);
//!
//! for event in client.events() {
//!     match event {
//!         Event::Message(message) => println!("{}: {}", message.sender, message.content),
//!         Event::Gap(gap) => println!("messages {} to {} are gone", gap.from, gap.to),
//!         Event::Stopped(reason) => return Err(reason.to_string().into()),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Nothing waits.** [`Client::connect`] fails only on wrong options; [`Client::join`], [`Client::send`] and the others may be called before there is a
//! connection, and while it is lost. What they ask waits, within bounds ([`Error::QueueFull`]). Each returns a [`Request`] or [`Receipt`], which can be waited on, or asked for its
//! [`Ticket`]: the answer comes as an event with that ticket, too, exactly once.
//!
//! **Events** come from [`Client::events`], an iterator; or from [`Client::receiver`], a crossbeam channel to `select!` on; or go to a callback
//! ([`Options::on_event`]). A program that polls files beside it is woken by [`Options::on_wake`]:
//!
//! ```no_run
//! # use starling_client::{Client, Options};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut poll = mio::Poll::new()?;
//! # const CHAT: mio::Token = mio::Token(1);
//! let waker = mio::Waker::new(poll.registry(), CHAT)?;
//! let options = Options::new("ws://127.0.0.1:8080/ws").nickname("alice");
//! let client = Client::connect(options.on_wake(move || _ = waker.wake()))?;
//! # let mut polled = mio::Events::with_capacity(8);
//! loop {
//!     poll.poll(&mut polled, None)?; // the keyboard, and CHAT
//!     for event in client.receiver().try_iter() {
//!         println!("{event:?}");
//!     }
//! }
//! # }
//! ```
//!
//! **The connection** is told by [`Event::Connecting`], [`Event::Online`], [`Event::Latency`] (after each ping), [`Event::Waiting`] (with the reason, and for how long) and
//! [`Event::Stopped`]. A client stops when the server says so (put out, replaced, a bad token), when its first hello finds the nickname in use
//! ([`Reason::is_nickname_in_use`]), when its first connection finds that the address or the certificate is wrong ([`Reason::Misaddressed`],
//! [`Reason::Untrusted`]; [`Options::keep_trying`] goes on), or when it is closed. It keeps what waits: [`Client::nick`] with another nickname, or [`Client::reconnect`], goes on. [`Client::link`] tells where it stands.
//!
//! **Messages** that are sent are drawn by their ticket: queued when [`Client::send`] has returned, then [`Event::Delivery`] with [`Delivery::Sent`], then
//! [`Delivery::Acknowledged`] with its `epoch` and `offset`, or [`Delivery::Failed`]. The room hears it as [`Event::Message`], oneself too (but for [`JoinOptions::no_echo`]), with the same offset; it may come
//! before the acknowledgement or after it.
//!
//! **Rooms** have one name whatever its case ([`name::fold`]), as on the server, and are joined until they are left: after a lost connection the client joins them again by itself and is told what it missed.
//! [`Event::Joined`] comes each time, with the state and one's role as they are now.
//!
//! **Everything else** that the server can be asked is [`Client::command`] with a [`Command`] (`kick`, `ban`, `mute`, `role`), and answered by a [`Reply`].
//!
//! # What is promised
//!
//! - A message has one id, and is sent under it until it is answered. The server publishes an id once, so that a message that was under way
//!   when the connection was lost is not published twice: as long as the session lasts, and for as long as the server remembers ids (5 minutes). If the
//!   session is gone, or that time is over, nobody knows whether a message that was under way has been published: it has failed with [`Failure::Unsure`], or is sent again with [`Options::resend_unsure`].
//!   Messages that had not been under way are sent in the new session.
//! - Messages to one room are published in the order they were sent. (With [`Options::in_flight`] over 1, one that is refused for a while
//!   comes later.) What the server refuses for a while (`rate_limited`, `store_down`) is tried again, after the time it says.
//! - What is missing between two messages of a room is asked for; what the server does not have any more is told as [`Event::Gap`]. If the room's history
//!   has begun afresh, [`Event::Restarted`] says so.
//! - Private messages that were kept while one was away come until they are said to have come, which the client does by itself (or the program, after
//!   [`Options::manual_received`]); those that come again are told once. The server cannot always know what a client that lost its connection has read,
//!   nor a server that was killed what it had delivered: what it takes for another message is told as one.
//! - With [`Options::journal`] messages survive the end of the program, too. What of it cannot be read is told as [`Event::JournalDamaged`].
//! - Nothing grows without bound. A program that does not take its events makes the client stop reading, and the server close the connection
//!   when its own queue is full; the client resumes when there is place again.
//!
//! [`machine::Machine`] is the same client without sockets, clock and threads, to be driven by other loops and by tests.

mod backoff;
mod client;
mod driver;
mod error;
mod event;
mod frames;
#[doc(hidden)]
pub mod fuzzing;
mod journal;
pub mod machine;
pub mod name;
mod options;
mod socket;
pub mod wire;

pub use client::{Client, Events, Receipt, Request};
pub use crossbeam_channel;
pub use error::Error;
pub use event::{Delivery, Event, Failure, Link, Reason, Reply, Ticket};
pub use machine::JoinOptions;
pub use options::Options;
pub use serde_json::{self, Value};
pub use wire::{Command, Level, Position};
