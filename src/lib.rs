//! starling: a chat and realtime message server with one pinned, hand-written event loop a core, no async runtime, and
//! no lock on the path of a message.
//!
//! # Bird's view
//!
//! ```text
//!              clients                               clients
//!    TCP          | SO_REUSEPORT spreads them           |
//!  +--------------v-----------------+   +---------------v----------------+
//!  | core 0 (a thread, a processor) |   | core 1                         |
//!  |  reactor: poll, read, write    |   |  reactor                       |
//!  |  shard:   connections          |   |  shard                         |
//!  |           sessions             |   |                                |
//!  |           rooms at home here   |   |  (other rooms at home here)    |
//!  +-------^------------+-----------+   +-------^------------+-----------+
//!          |            +----- parcels of mail --+           |
//!          +------------------ parcels of mail --------------+
//! ```
//!
//! Each core owns what it serves: nobody else touches its connections, sessions and rooms. Cores talk by mail, through
//! bounded lock-free queues, once a turn. Every room has one home core, found by a hash of its name; so has
//! every nickname. The home is the only writer, and so there is one order, one offset after the other, and no lock.
//!
//! # The life of a message
//!
//! 1. The poll says that a connection is readable. The reactor reads into the core's one buffer
//!    ([`reactor::Reactor::turn`], step 6).
//! 2. The connection's decoder finds a WebSocket frame or a line in that buffer, in place ([`proto`]), and a command in it
//!    ([`proto::json`], [`proto::text`]).
//! 3. The shard checks it: hello said, room joined, content within bounds, its turn (`shard/commands.rs`), and sends it
//!    as a request to the room's home core: across the mailbox at the end of the turn, or to itself at once.
//! 4. The home gives it an offset and a timestamp ([`chat::room`]), encodes it once for each encoding that any member
//!    wants, and adds it to the batch of this turn (`shard/home.rs`). An acknowledgement goes back.
//! 5. At the end of the turn the batch goes to each core that has members (`Arc`, one push a core), and a core that
//!    sleeps is woken ([`reactor::doorbell`]).
//! 6. That core puts a range of the shared bytes into each member's queue (`shard/fanout.rs`, `shard/queue.rs`): no
//!    copy and no allocation a member.
//! 7. Each connection with something queued is written to, once a turn (step 8).
//!
//! How a connection comes to a core: each has a socket of its own for each port, over which the kernel spreads them (`sys/listen.rs`); of
//! a path one core accepts, and hands on through a socket that is one more listener to the loop there (`sys/path.rs`).
//!
//! Three things may stand between the socket and step 2, each known only to those who come by it: a proxy's header
//! (`reactor/proxied.rs`), TLS (`reactor/secure.rs`), and HTTP/2 (`shard/grpc/mod.rs`), whose streams are connections of their own, without
//! a socket, so that everything from step 2 on is theirs too.
//!
//! With a store, the message is also put into this core's journal, in shared memory, before step 7: what anybody has heard outlives the
//! process. The storage thread takes it from there into the database, and tells the core, which acknowledges what waited for that
//! ([`record`], `shard/journal.rs`, [`store`]).
//!
//! # Several nodes
//!
//! Nodes that share a Redis are one server. A room is then a log there, of messages and changes in one order, to which one script at a time
//! appends; the home core of each node that has members has a copy of the room, and applies the log to it. What a member wants is an order:
//! it is sent to the log first, and carried out by every copy when it comes back with its place, by all alike. Messages are checked by the copy before, and
//! again if the log has had a change since that may forbid them (`shard/shared.rs` and what is below it). A nickname or a session belongs to whom a
//! key there says; sessions are given up by one node and taken by another (`shard/nodes.rs`). The cores ask and hear [`shard::backplane`], a
//! list of requests and news that names no Redis; [`cluster`] is the thread that answers them, and the simulator has another that fails
//! in every way. `docs/cluster.md` tells what is kept there, and what happens when something fails.
//!
//! # Code map
//!
//! From the bottom. A module imports only from those above it in this list, which a test holds it to.
//!
//! | module | what it knows |
//! |---|---|
//! | [`base`] | data structures that know nothing else: slots with generations, timer wheel, counters, randomness |
//! | [`config`] | every key and limit, with its unit, reason and range |
//! | [`proto`] | bytes to frames and back, without I/O: lines, binary frames, JSON, Protobuf, HTTP/1, Server-Sent Events, WebSocket, HTTP/2, gRPC |
//! | [`chat`] | what the service means, without protocols: names, rooms, nicknames, presence, refusals |
//! | [`auth`] | who somebody is: users' tokens, programs' keys and resume tokens, checked and signed |
//! | [`web`] | the routes and the embedded pages |
//! | [`record`] | what is to outlive the process, as facts in bytes |
//! | [`shard`] | one core's world, pure: where `proto` and `chat` meet |
//! | [`tls`] | one encrypted connection as bytes in and out, and what it is made from |
//! | [`proxy`] | what a proxy says first, as bytes |
//! | [`reactor`] | the loop, over the [`reactor::Os`] trait |
//! | [`sys`] | the kernel as the loops need it, and all `unsafe` |
//! | [`store`] | the database: the thread that writes it, the threads that read it, accounts, and tools |
//! | [`cluster`] | the Redis that nodes share: the thread that asks it, and the one that hears it |
//! | [`consul`] | registration with a Consul agent, from a thread of its own |
//! | [`observe`] | logs, written by threads of their own; what cores count, as Prometheus reads it |
//! | [`server`] | opens listeners, starts cores, drains and stops; the thread that sees all cores and answers for them |
//! | [`mod@bench`] | the load generator: another world on the same loop, and what is told of its runs |
//! | [`cli`] | the command line |
//!
//! Clients are crates of their own, which know the protocol and nothing of this one: `client` (`starling-client`, a state machine without
//! I/O and the thread that drives it), `client/terminal` (`starling chat` stands on it), and `client/js`, which the page is made with.
//!
//! Good first reading: [`reactor::Reactor::turn`], then `shard/mod.rs`, then whatever it calls.
//!
//! # Invariants
//!
//! - Nothing below [`sys`] reads a clock, a random source or a socket. The simulator in `tests/simulator` runs the same
//!   reactor and shard over a kernel of its own, from a seed.
//! - Every loop of a turn has a budget; nothing but the poll blocks.
//! - A socket is registered once, for reading and writing, edge-triggered, and never again.
//! - Keys that leave their table carry a generation ([`base::slots::Id`]), so that a stale one finds nothing.
//! - A request to a home is answered by exactly one reply, and a session keeps its slot until all have come. The connection of
//!   an HTTP request may have gone by then: its key finds nothing.
//! - Only requests make mail for others. While some mailbox is full, requests wait and everything else is taken in, so
//!   that cores cannot block each other; clients whose requests wait are no longer read from.
//! - Cores end together ([`reactor::quiescence`]): one without connections still answers those that have some.
//! - There is no unbounded queue: commands under way are bounded a session and a pair of cores, bytes to send a
//!   connection, input to look at by one read, and what compressed input becomes by as much again.
//! - What follows from a record is heard by nobody before the record is in the journal. No core ever waits for a disk.
//! - In a cluster a copy changes only by what the log says, in its order; what a copy cannot be brought up to is a new epoch, never a gap.
//! - A peer's bytes never reach a panic. `assert!` and `expect` stand only where a bug of ours is the cause.
//! - A connection ends through one entry (`Shard::close`), with a typed reason from which the log line, the wire code and
//!   the presence of the others come.
//!
//! # Lexicon
//!
//! | word | meaning |
//! |---|---|
//! | core | a thread with its loop; pinned to a processor unless told otherwise |
//! | turn | one pass of the loop |
//! | connection | a socket and the protocol it speaks, or a call |
//! | call | one request of gRPC and its answers: a stream of a connection of HTTP/2 |
//! | session | a user's presence: nickname and rooms |
//! | home | the core that alone decides about a room or nickname |
//! | mail, parcel | what one core says to another; all of it of one turn |
//! | request, reply | mail that asks a home, and its answer |
//! | event stream | an answer of HTTP that is what is said in a room, as it is said (Server-Sent Events) |
//! | push | a message that comes by an HTTP request, from somebody who need not be a member |
//! | batch | what happened in a room in one turn, encoded |
//! | segment, range | encoded bytes that many may share; the part of them in one connection's queue |
//! | offset, epoch | a message's place in its room; the history that places count in |
//! | record, frame, journal | a fact that outlives the process; those of one turn of a core; the queue of them to the storage thread |
//! | node, cluster | a server that shares a Redis with others; all of them |
//! | backplane | what nodes share, as the cores see it |
//! | copy | what a node knows of a room whose log is on the backplane |
//! | order, change | what somebody wants of such a room; the same with its place in the log |
//! | guard | a change that may forbid a message which was allowed before it |
//! | line | names what all nodes know to be whole: another line, and rooms nobody has a copy of begin anew |
//! | dashboard, snapshot, report | a connection of an operator that is sent numbers; what it is sent; what each core tells for that |
//! | pause | a connection is not read from until something has happened |
//! | drain | tell all clients to go, and stop when they have gone |

pub mod auth;
pub mod base;
pub mod bench;
pub mod chat;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod consul;
pub mod observe;
pub mod proto;
pub mod proxy;
pub mod reactor;
pub mod record;
pub mod server;
pub mod shard;
pub mod store;
pub mod sys;
pub mod tls;
pub mod web;
