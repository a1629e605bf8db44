//! What the loop drives: one core's world, as the loop sees it. The server's is a [`Shard`]; the load generator has another.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use crate::base::slots::Id;
use crate::base::stats::Counters;
use crate::base::tcp::TcpInfo;
use crate::base::time::{Now, Tick};
use crate::config::ListenKind;
use crate::shard::Shard;
use crate::shard::mail::Mail;

/// A connection that a world wants to have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect {
    /// Its slot in the world.
    pub id: Id,
    /// Where to.
    pub to: SocketAddr,
    /// The address to come from, if that matters: one address has about 28,000 ports.
    pub from: Option<IpAddr>,
}

/// One core's connections and what they mean, without a socket, and without blocking. Called by one thread.
pub trait World {
    /// What worlds of other cores are told.
    type Mail;

    /// The counters of this core, some of which the loop keeps.
    fn counters(&self) -> &Counters;
    /// Tells the time. Called once at the beginning of a turn.
    fn tick(&mut self, now: Now);

    /// The turn is over, at this moment of the monotonic clock, in nanoseconds.
    fn turn_ended(&mut self, _ns: u64) {}

    /// How long a turn may take before it is a stall, in nanoseconds; 0: as long as it likes.
    fn stall_ns(&self) -> u64 {
        0
    }
    /// What this turn was about, as the end of a sentence: asked when it was a stall.
    fn describe_turn(&self) -> String {
        String::new()
    }
    /// Whether something has happened of which the world wants to know when.
    fn wants_stamp(&self) -> bool {
        false
    }
    /// Tells it that this is now, in nanoseconds of the monotonic clock.
    fn stamp(&mut self, _ns: u64) {}

    /// A peer has connected.
    fn open(&mut self, peer: IpAddr, kind: ListenKind) -> Id;
    /// A proxy has connected for somebody else, of whom nothing is known yet.
    fn open_for_another(&mut self, proxy: IpAddr, kind: ListenKind) -> Id {
        self.open(proxy, kind)
    }
    /// It has told for whom.
    fn introduced(&mut self, _id: Id, _client: IpAddr) {}
    /// A connection that has just been opened came by a path: its peer's address tells nothing.
    fn indirect(&mut self, _id: Id) {}
    /// That connection is encrypted, and its handshake begins: until it is over nothing that is queued can be written.
    fn securing(&mut self, _id: Id) {}
    /// It is over.
    fn secured(&mut self, _id: Id) {}
    /// What comes on an encrypted connection cannot be understood any more, and nothing can be said on it but that: it is ended in
    /// a way that the peer hears of.
    fn spoiled(&mut self, id: Id) {
        self.broken(id);
    }
    /// The next connection that is to be made, if there is one. Its slot is taken.
    fn next_connect(&mut self) -> Option<Connect> {
        None
    }
    /// Something has come on an encrypted connection that does not say anything yet.
    fn heard(&mut self, _id: Id) {}
    /// Bytes have come from a peer. They may be changed in place. [`World::settle`] follows.
    fn receive(&mut self, id: Id, input: &mut [u8]);
    /// Goes on with what they say, now that it is understood.
    fn settle(&mut self) {}
    /// The peer has ended its side.
    fn input_ended(&mut self, id: Id);
    /// The peer of an encrypted connection has ended its side without saying so: what came last may not have been all.
    fn input_torn(&mut self, id: Id) {
        self.input_ended(id);
    }
    /// The socket has failed.
    fn broken(&mut self, id: Id);
    /// Whether the connection's input may be read now.
    fn wants_input(&self, id: Id) -> bool;
    /// Whether as much has been gathered as one turn should send.
    fn has_gathered_enough(&self) -> bool {
        false
    }
    /// Takes the connections whose input may be read again.
    fn take_resumed(&mut self) -> impl Iterator<Item = Id>;

    /// Tells how many bytes have place in the journal. Called once at the beginning of a turn.
    fn set_journal_room(&mut self, _bytes: usize) {}
    /// Takes what is to be in the journal before anything that follows from it is heard by anybody.
    fn take_frame(&mut self) -> Option<Vec<u8>> {
        None
    }
    /// It is there, and ends at this position, or had no place; so many bytes are left.
    fn journaled(&mut self, _frame: Vec<u8>, _end: Option<u64>, _room: usize) {}

    /// Ends the turn's gathering: what is to be sent to many becomes mail to their cores.
    fn send_gathered_events(&mut self) {}
    /// What of that is for this core is queued on each of them.
    fn deliver_gathered_events(&mut self) {}
    /// Swaps the list of connections that have something to flush for an empty one.
    fn take_touched(&mut self, list: &mut Vec<Id>);
    /// Fills `slices` with what is to be written on a connection, and returns how many there are.
    fn gather<'a>(&'a self, id: Id, slices: &mut [IoSlice<'a>]) -> usize;
    /// So many of the gathered bytes have been written.
    fn sent(&mut self, id: Id, bytes: usize);
    /// Whether all that will ever be said has been written, so that the end of our side comes next.
    fn has_said_all(&self, _id: Id) -> bool {
        false
    }
    /// What could be written has been. Says whether our side is to be ended now.
    #[must_use]
    fn flushed(&mut self, id: Id) -> bool;
    /// The next connection of which the world wants to know how many bytes the peer has not acknowledged.
    fn next_doubt(&mut self) -> Option<Id> {
        None
    }
    /// Tells it. Called for each in the same turn, before its slot is freed.
    fn settle_doubt(&mut self, _id: Id, _unacknowledged: usize) {}
    /// The next connection of which the world wants to know what the kernel knows.
    fn next_inquiry(&mut self) -> Option<Id> {
        None
    }
    /// Tells it. Called for each in the same turn, before [`World::turn_ended`].
    fn settle_inquiry(&mut self, _id: Id, _tcp: Option<TcpInfo>) {}
    /// Whether something waits to be sent.
    fn has_unsent(&self) -> bool;
    /// Takes the connections that are to be closed, and frees their slots; `close` is also told whether the connection is
    /// cut off.
    fn take_closed(&mut self, close: impl FnMut(Id, bool));

    /// Handles one timer that is due, and says whether there was one.
    fn expire(&mut self) -> bool;
    /// Whether there may be one.
    fn has_due_timer(&mut self) -> bool {
        true
    }
    /// When the next timer wants to be looked at.
    fn next_deadline(&self) -> Option<Tick>;

    /// Mail has come from another core, and is handled next.
    fn note_mail(&mut self, _mail: &Self::Mail) {}
    /// Mail has come from another core.
    fn mail(&mut self, mail: Self::Mail);
    /// The mail for each core, to be taken by whoever delivers it.
    fn outboxes(&mut self) -> &mut [Vec<Self::Mail>];
    /// Tells whether a mailbox was full when this core's mail was last sent.
    fn set_congested(&mut self, _is_congested: bool) {}
    /// Whether mail waits for a mailbox.
    fn has_deferred(&self) -> bool {
        false
    }

    /// Whether there need not be another turn.
    fn is_over(&self) -> bool;
    /// Whether those who are here have been told to go.
    fn is_leaving(&self) -> bool {
        false
    }
}

impl World for Shard {
    type Mail = Mail;

    fn counters(&self) -> &Counters {
        self.counters()
    }

    fn tick(&mut self, now: Now) {
        self.tick(now);
    }

    fn turn_ended(&mut self, ns: u64) {
        self.turn_ended(ns);
    }

    fn open(&mut self, peer: IpAddr, kind: ListenKind) -> Id {
        self.open(peer, kind)
    }

    fn open_for_another(&mut self, proxy: IpAddr, kind: ListenKind) -> Id {
        self.open_for_another(proxy, kind)
    }

    fn introduced(&mut self, id: Id, client: IpAddr) {
        self.introduced(id, client);
    }

    fn securing(&mut self, id: Id) {
        self.securing(id);
    }

    fn secured(&mut self, id: Id) {
        self.secured(id);
    }

    fn spoiled(&mut self, id: Id) {
        self.spoiled(id);
    }

    fn heard(&mut self, id: Id) {
        self.heard(id);
    }

    fn stall_ns(&self) -> u64 {
        self.stall_ns()
    }

    fn describe_turn(&self) -> String {
        self.describe_turn()
    }

    fn wants_stamp(&self) -> bool {
        self.wants_stamp()
    }

    fn stamp(&mut self, ns: u64) {
        self.stamp(ns);
    }

    fn receive(&mut self, id: Id, input: &mut [u8]) {
        self.receive_unsettled(id, input);
    }

    fn settle(&mut self) {
        self.settle();
    }

    fn input_torn(&mut self, id: Id) {
        self.input_torn(id);
    }

    fn input_ended(&mut self, id: Id) {
        self.input_ended(id);
    }

    fn broken(&mut self, id: Id) {
        self.broken(id);
    }

    fn wants_input(&self, id: Id) -> bool {
        self.wants_input(id)
    }

    fn has_gathered_enough(&self) -> bool {
        self.has_gathered_enough()
    }

    fn take_resumed(&mut self) -> impl Iterator<Item = Id> {
        self.take_resumed()
    }

    fn set_journal_room(&mut self, bytes: usize) {
        self.set_journal_room(bytes);
    }

    fn take_frame(&mut self) -> Option<Vec<u8>> {
        self.take_frame()
    }

    fn journaled(&mut self, frame: Vec<u8>, end: Option<u64>, room: usize) {
        self.journaled(frame, end, room);
    }

    fn send_gathered_events(&mut self) {
        self.post_gathered_events();
    }

    fn deliver_gathered_events(&mut self) {
        self.deliver_gathered_events();
    }

    fn take_touched(&mut self, list: &mut Vec<Id>) {
        self.take_touched(list);
    }

    fn gather<'a>(&'a self, id: Id, slices: &mut [IoSlice<'a>]) -> usize {
        self.gather(id, slices)
    }

    fn sent(&mut self, id: Id, bytes: usize) {
        self.sent(id, bytes);
    }

    fn has_said_all(&self, id: Id) -> bool {
        self.has_said_all(id)
    }

    fn flushed(&mut self, id: Id) -> bool {
        self.flushed(id)
    }

    fn next_doubt(&mut self) -> Option<Id> {
        self.next_doubt()
    }

    fn settle_doubt(&mut self, id: Id, unacknowledged: usize) {
        self.settle_doubt(id, unacknowledged);
    }

    fn indirect(&mut self, id: Id) {
        self.indirect(id);
    }

    fn next_inquiry(&mut self) -> Option<Id> {
        self.next_inquiry()
    }

    fn settle_inquiry(&mut self, id: Id, tcp: Option<TcpInfo>) {
        self.settle_inquiry(id, tcp);
    }

    fn has_unsent(&self) -> bool {
        self.has_unsent()
    }

    fn take_closed(&mut self, close: impl FnMut(Id, bool)) {
        self.take_closed(close);
    }

    fn expire(&mut self) -> bool {
        self.expire()
    }

    fn has_due_timer(&mut self) -> bool {
        self.has_due_timer()
    }

    fn next_deadline(&self) -> Option<Tick> {
        self.next_deadline()
    }

    fn note_mail(&mut self, mail: &Mail) {
        self.note_mail(mail);
    }

    fn mail(&mut self, mail: Mail) {
        self.mail(mail);
    }

    fn outboxes(&mut self) -> &mut [Vec<Mail>] {
        self.outboxes()
    }

    fn set_congested(&mut self, is_congested: bool) {
        self.set_congested(is_congested);
    }

    fn has_deferred(&self) -> bool {
        self.has_deferred()
    }

    fn is_leaving(&self) -> bool {
        Shard::is_leaving(self)
    }

    fn is_over(&self) -> bool {
        self.is_over()
    }
}
