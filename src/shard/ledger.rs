//! The latency ledger: how long each part of a message's way takes, of one in so many messages.
//!
//! A message that is chosen carries a [`Sample`], which is stamped along its way, to one listener of its room. Each stamp ends a hop, which is
//! counted where it ended. What is not chosen costs a number counted down, and here and there a look at a list that is empty.
//!
//! # Whose clock
//!
//! A shard has none: the loop tells the time. At the beginning of a turn that is enough for when a message was read; within a turn all
//! that followed would seem to take no time. So what has happened to a sample is put on a list, and the loop, which looks at
//! it after each thing that it has the shard do, reads the clock once more if there is something on it, and tells that ([`Shard::stamp`]).
//! A hop so ends when the loop has got the word back: after all that one read had to say was understood, after a piece of mail was
//! handled, after a flush.
//!
//! # Who is followed
//!
//! The home draws one of those who listen, all alike, so that what is counted is how long deliveries take. Its core follows the message to
//! that place in its own list of members and event streams: to the next one there that has a socket of its own and gets the message
//! live. It has taken it when the socket has taken all of the batch that the message was in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashbrown::HashMap;

use super::Shard;
use super::connection::{Connection, Stage};
use super::fanout::RoomBatch;
use super::mail::Mail;
use crate::base::latency::{Hop, HopCounters};
use crate::base::rng::Rng;
use crate::base::slots::Id;
use crate::base::time::Now;

/// How many samples may wait at a time for the sockets of one core; of more the rest of their way is not told.
const WAITING_MAX: usize = 4096;

/// How many listeners are looked at for one that can be followed.
const TRIES_MAX: usize = 16;

/// What the seed of a core's other dice is mixed with, so that who is followed changes nothing else.
const SEED: u64 = 0x004C_4544_4745_5200;

/// One message's way, so far. One core at a time stamps it: the one that has it.
#[derive(Debug)]
pub struct Sample {
    read_ns: u64,
    /// The last stamp.
    last_ns: AtomicU64,
}

impl Sample {
    fn new(read_ns: u64) -> Self {
        Sample { read_ns, last_ns: AtomicU64::new(read_ns) }
    }

    /// A hop ends.
    fn stamp(&self, hop: Hop, ns: u64, counters: &HopCounters) {
        let last_ns = self.last_ns.load(Relaxed);
        // Hops add up to the total, also should one core's clock be behind another's.
        let ns = ns.max(last_ns);
        self.last_ns.store(ns, Relaxed);
        counters.record(hop, ns - last_ns);
        if hop == Hop::ReceivedToWritten {
            counters.record(Hop::Total, ns - self.read_ns);
        }
    }
}

/// A message in a batch that is followed to a member or an event stream.
#[derive(Debug)]
pub struct Followed {
    /// Which event of the batch it is.
    pub event: u32,
    /// The core that has the connection.
    core: u16,
    /// Where among the listeners there.
    place: u32,
    sample: Arc<Sample>,
}

/// A connection that messages are followed to.
#[derive(Debug, Default)]
struct Waiting {
    /// How many bytes it has taken since it is.
    sent: u64,
    /// How many it will have when it has taken each of the samples.
    ends: VecDeque<(u64, Arc<Sample>)>,
}

/// The samples on this core.
#[derive(Debug)]
pub(super) struct Ledger {
    /// How many messages until the next one is chosen; so many that it never comes, if none is to be.
    until_next: u64,
    every: u64,
    rng: Rng,
    /// What has ended since the loop told the time.
    unstamped: Vec<(Arc<Sample>, Hop)>,
    /// Who is followed, and how many samples wait for them.
    waiting: HashMap<Id, Waiting>,
    samples: usize,
}

impl Ledger {
    pub fn new(every: u64, seed: u64) -> Self {
        let rng = Rng::new(seed ^ SEED);
        let (unstamped, waiting) = (Vec::new(), HashMap::new());
        let mut ledger = Ledger { until_next: 0, every: 0, rng, unstamped, waiting, samples: 0 };
        ledger.set_every(every);
        ledger
    }

    /// One in so many messages is chosen from now on; 0: none.
    pub fn set_every(&mut self, every: u64) {
        if self.every != every || every == 0 {
            self.every = every;
            self.draw_next();
        }
    }

    /// As often before as behind the mean, so that it falls in with no rhythm of those who speak.
    fn draw_next(&mut self) {
        self.until_next = match self.every {
            0 => u64::MAX,
            every => 1 + self.rng.below(2 * every - 1),
        };
    }

    /// A message comes: whether it is chosen.
    #[inline]
    fn count_down(&mut self) -> bool {
        self.until_next -= 1;
        self.until_next == 0
    }
}

impl Shard {
    /// A message has been understood, and goes to its home: perhaps it is to be followed.
    #[inline]
    pub(super) fn choose_sample(&mut self, by: Id) -> Option<Arc<Sample>> {
        if self.ledger.count_down() { self.begin_sample(by) } else { None }
    }

    #[cold]
    fn begin_sample(&mut self, by: Id) -> Option<Arc<Sample>> {
        self.ledger.draw_next();
        let seen = self.connections.get(by)?.last_seen;
        // A command that had to wait came in an earlier turn, of which the millisecond is known.
        let read_ns = if seen < self.now.tick { Now::of_ms(seen.0, 0).ns } else { self.now.ns };
        let sample = Arc::new(Sample::new(read_ns));
        self.counters.latency_samples.add(1);
        self.ledger.unstamped.push((sample.clone(), Hop::ReadToParsed));
        Some(sample)
    }

    /// A message's way ends here: it was refused, or nobody hears it.
    pub(super) fn give_up_sample(&self, sample: Option<Arc<Sample>>) {
        self.counters.latency_unfollowed.add(u64::from(sample.is_some()));
    }

    /// A message that is followed has got its offset. Its event is the last of its room.
    pub(super) fn note_sequenced(&mut self, room: Id, sample: Arc<Sample>) {
        self.ledger.unstamped.push((sample.clone(), Hop::ParsedToSequenced));
        let entry = self.home.rooms.get_mut(room).expect("it has just been spoken in");
        entry.note_sample(sample);
    }

    /// Draws whom the messages of a batch are followed to. `on_cores` says how many listen on each core.
    #[cold]
    pub(super) fn draw_followed(
        &mut self,
        samples: Vec<(u32, Arc<Sample>)>,
        on_cores: &[u32],
    ) -> Vec<Followed> {
        let listeners: u64 = on_cores.iter().map(|count| u64::from(*count)).sum();
        if listeners == 0 {
            self.counters.latency_unfollowed.add(samples.len() as u64);
            return Vec::new();
        }
        let mut followed = Vec::with_capacity(samples.len());
        for (event, sample) in samples {
            let mut place = self.ledger.rng.below(listeners) as u32;
            let mut core = 0;
            while place >= on_cores[core] {
                place -= on_cores[core];
                core += 1;
            }
            if core == usize::from(self.core) {
                self.ledger.unstamped.push((sample.clone(), Hop::SequencedToReceived));
            }
            followed.push(Followed { event, core: core as u16, place, sample });
        }
        followed
    }

    /// Mail has come from another core, and is about to be handled: a batch may have messages that are followed to here.
    #[inline]
    pub fn note_mail(&mut self, mail: &Mail) {
        self.remarks.mail();
        if let Mail::Room(batch) = mail
            && !batch.followed.is_empty()
        {
            for followed in batch.followed.iter().filter(|followed| followed.core == self.core) {
                self.ledger.unstamped.push((followed.sample.clone(), Hop::SequencedToReceived));
            }
        }
    }

    /// A batch has been queued on its listeners here: each message that is followed to one of them waits until that has taken it.
    #[cold]
    pub(super) fn follow_batch(&mut self, batch: &RoomBatch) {
        for followed in batch.followed.iter().filter(|followed| followed.core == self.core) {
            let Some(connection) = self.listener_to_follow(batch, followed) else {
                self.counters.latency_unfollowed.add(1);
                continue;
            };
            if self.ledger.samples >= WAITING_MAX {
                self.counters.latency_lost.add(1);
                continue;
            }
            let queued = self.connections[connection].queue.bytes() as u64;
            self.ledger.samples += 1;
            let waiting = self.ledger.waiting.entry(connection).or_default();
            waiting.ends.push_back((waiting.sent + queued, followed.sample.clone()));
        }
    }

    /// The connection at that place of those who listen here, members and then event streams, or the next one that gets the message live.
    fn listener_to_follow(&self, batch: &RoomBatch, followed: &Followed) -> Option<Id> {
        let members = self.local_rooms.get(&batch.room).map_or(&[][..], |local| local.members());
        let streams = self.event_streams.get(&batch.room).map_or(&[][..], Vec::as_slice);
        let all = members.len() + streams.len();
        let is_fit = |id: &Id| {
            // A call has no socket of its own: what others have queued there may be written first.
            let is_fit = |c: &Connection| c.stage == Stage::Open && c.call.is_none() && !c.queue.is_empty();
            self.connections.get(*id).is_some_and(is_fit)
        };
        let mut candidates = (0..all.min(TRIES_MAX)).map(|next| (followed.place as usize + next) % all);
        candidates.find_map(|place| match members.get(place) {
            Some(member) => Some(member.connection)
                .filter(is_fit)
                .filter(|_| member.hears_message(batch, followed.event, self.node, self.core)),
            None => streams[place - members.len()].live().filter(is_fit),
        })
    }

    /// A connection has taken so many bytes.
    #[inline]
    pub(super) fn note_sent(&mut self, id: Id, bytes: usize) {
        if self.ledger.samples > 0 {
            self.end_samples(id, bytes);
        }
    }

    #[cold]
    fn end_samples(&mut self, id: Id, bytes: usize) {
        let ledger = &mut self.ledger;
        let Some(waiting) = ledger.waiting.get_mut(&id) else { return };
        waiting.sent += bytes as u64;
        while waiting.ends.front().is_some_and(|(end, _)| *end <= waiting.sent)
            && let Some((_, sample)) = waiting.ends.pop_front()
        {
            ledger.samples -= 1;
            ledger.unstamped.push((sample, Hop::ReceivedToWritten));
        }
        if waiting.ends.is_empty() {
            ledger.waiting.remove(&id);
        }
    }

    /// A connection ends: who follows it loses it from sight.
    #[inline]
    pub(super) fn lose_samples(&mut self, id: Id) {
        if self.ledger.samples > 0
            && let Some(waiting) = self.ledger.waiting.remove(&id)
        {
            self.ledger.samples -= waiting.ends.len();
            self.counters.latency_lost.add(waiting.ends.len() as u64);
        }
    }

    /// Whether something has happened since the last stamp of which the time is to be known.
    #[inline]
    pub fn wants_stamp(&self) -> bool {
        !self.ledger.unstamped.is_empty()
    }

    /// Tells the time, in nanoseconds of the monotonic clock, of what has happened since the last stamp.
    #[cold]
    pub fn stamp(&mut self, ns: u64) {
        for (sample, hop) in self.ledger.unstamped.drain(..) {
            sample.stamp(hop, ns, &self.counters.hops);
        }
    }

    /// How long a turn may take, in nanoseconds; 0: as long as it likes.
    #[inline]
    pub fn stall_ns(&self) -> u64 {
        self.config.observe.stall_ms * 1_000_000
    }

    /// How many samples wait for sockets here.
    pub(super) fn samples_waiting(&self) -> usize {
        self.ledger.samples
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::base::census::Census;
    use crate::base::histogram::Snapshot;
    use crate::base::latency::HOPS;
    use crate::config::{Config, ListenKind};
    use crate::shard::Flock;

    const BEGAN_NS: u64 = 5_000_000;

    fn shard(every: u64) -> Shard {
        let mut config = Config::default();
        config.observe.latency_sample_every = every;
        config.rate.commands_per_second = 0;
        let flock = Flock::of_one(Arc::new(config), Arc::new(Census::new(0, 0)));
        Shard::new(0, &flock, Arc::default(), 1, Now::new(BEGAN_NS, 0))
    }

    fn hello(shard: &mut Shard, name: &str) -> Id {
        let id = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
        let said = format!(
            "{{\"type\":\"hello\",\"nickname\":\"{name}\"}}\n{{\"type\":\"join\",\"room\":\"den\"}}\n"
        );
        shard.receive(id, &mut said.into_bytes());
        shard.send_gathered_events();
        take_all(shard, id);
        id
    }

    fn say(shard: &mut Shard, id: Id, content: &str) {
        let said = format!("{{\"type\":\"message\",\"room\":\"den\",\"content\":\"{content}\"}}\n");
        shard.receive_unsettled(id, &mut said.into_bytes());
    }

    fn take(shard: &mut Shard, id: Id, bytes: usize) {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = shard.gather(id, &mut slices);
        let there: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
        shard.sent(id, there.min(bytes));
    }

    fn take_all(shard: &mut Shard, id: Id) {
        take(shard, id, usize::MAX);
    }

    /// How often each hop was counted, and how long it took in all.
    fn hops(shard: &Shard) -> [(u64, u64); HOPS.len()] {
        HOPS.map(|(hop, _)| {
            let mut snapshot = Snapshot::default();
            shard.counters.hops.of(hop).add_to(&mut snapshot);
            (snapshot.count(), snapshot.sum_ns)
        })
    }

    #[test]
    fn every_hop_ends_when_the_loop_says_so() {
        let mut shard = shard(1);
        let ann = hello(&mut shard, "ann");
        assert!(!shard.wants_stamp(), "who joins is not followed");
        say(&mut shard, ann, "hi");
        shard.stamp(BEGAN_NS + 10);
        shard.settle();
        shard.stamp(BEGAN_NS + 30);
        shard.post_gathered_events();
        shard.stamp(BEGAN_NS + 60);
        shard.deliver_gathered_events();
        assert!(!shard.wants_stamp(), "nothing has been written");
        take(&mut shard, ann, 5);
        assert!(!shard.wants_stamp(), "not all of it has");
        take_all(&mut shard, ann);
        shard.stamp(BEGAN_NS + 100);
        assert_eq!(hops(&shard), [(1, 10), (1, 20), (1, 30), (1, 40), (1, 100)]);
        assert_eq!((shard.samples_waiting(), shard.counters.latency_samples.value()), (0, 1));
    }

    #[test]
    fn a_clock_that_is_behind_takes_no_time_back() {
        let counters = HopCounters::default();
        let sample = Sample::new(100);
        for (hop, ns) in [
            (Hop::ReadToParsed, 130),
            (Hop::ParsedToSequenced, 120),
            (Hop::SequencedToReceived, 150),
            (Hop::ReceivedToWritten, 140),
        ] {
            sample.stamp(hop, ns, &counters);
        }
        let sums = HOPS.map(|(hop, _)| {
            let mut snapshot = Snapshot::default();
            counters.of(hop).add_to(&mut snapshot);
            snapshot.sum_ns
        });
        assert_eq!(sums, [30, 0, 20, 0, 50]);
    }

    #[test]
    fn who_waited_was_read_when_it_came() {
        let mut shard = shard(1);
        let ann = hello(&mut shard, "ann");
        shard.tick(Now::of_ms(9, 0));
        let sample = shard.begin_sample(ann).unwrap();
        assert_eq!(sample.read_ns, BEGAN_NS, "the millisecond in which it was heard last");
    }

    #[test]
    fn a_message_that_nobody_takes_is_lost_and_told() {
        let mut shard = shard(1);
        let ann = hello(&mut shard, "ann");
        say(&mut shard, ann, "hi");
        shard.settle();
        shard.send_gathered_events();
        assert_eq!(shard.samples_waiting(), 1);
        shard.broken(ann);
        shard.stamp(BEGAN_NS + 1);
        assert_eq!(shard.samples_waiting(), 0);
        assert_eq!(shard.counters.latency_lost.value(), 1);
        assert_eq!(hops(&shard).map(|(count, _)| count), [1, 1, 1, 0, 0]);
    }

    #[test]
    fn event_streams_are_followed_as_members_are() {
        let mut shard = shard(1);
        let ann = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
        let said = "{\"type\":\"hello\",\"nickname\":\"ann\"}\n{\"type\":\"join\",\"room\":\"den\",\"echo\":false}\n";
        shard.receive(ann, &mut said.to_owned().into_bytes());
        shard.send_gathered_events();
        let bob = hello(&mut shard, "bob");
        let streams: Vec<Id> = (0..3)
            .map(|_| {
                let id = shard.open([127, 0, 0, 1].into(), ListenKind::Web);
                let request = "GET /api/rooms/den/stream HTTP/1.1\r\nHost: a\r\n\r\n";
                shard.receive(id, &mut request.to_owned().into_bytes());
                take_all(&mut shard, id);
                id
            })
            .collect();
        take_all(&mut shard, ann);
        let mut followed_to = [0; 2];
        for _ in 0..200 {
            say(&mut shard, ann, "hi");
            shard.settle();
            shard.send_gathered_events();
            assert_eq!(shard.samples_waiting(), 1);
            take_all(&mut shard, bob);
            followed_to[shard.samples_waiting()] += 1;
            streams.iter().for_each(|id| take_all(&mut shard, *id));
            assert_eq!(shard.samples_waiting(), 0);
            shard.stamp(BEGAN_NS + 1);
            shard.tick(Now::new(BEGAN_NS, 0));
        }
        assert_eq!(shard.counters.latency_unfollowed.value(), 0);
        assert_eq!(hops(&shard).map(|(count, _)| count), [200; 5]);
        // One of five is bob; and so is he who is there in place of ann, who does not hear herself.
        assert!((40..120).contains(&followed_to[0]), "{followed_to:?}");
    }

    #[test]
    fn a_message_that_is_refused_or_unheard_ends_at_once() {
        let mut shard = shard(1);
        let ann = hello(&mut shard, "ann");
        let said = "{\"type\":\"join\",\"room\":\"attic\",\"echo\":false}\n\
                    {\"type\":\"message\",\"room\":\"attic\",\"content\":\"hello?\"}\n";
        shard.receive(ann, &mut said.to_owned().into_bytes());
        shard.send_gathered_events();
        assert_eq!(
            shard.counters.latency_unfollowed.value(),
            1,
            "only its sender is there, and does not hear it"
        );
        shard.rates.room = crate::base::bucket::Rate { per_second: 1, burst: 1 };
        for _ in 0..3 {
            say(&mut shard, ann, "fast");
        }
        shard.settle();
        shard.send_gathered_events();
        assert_eq!(shard.counters.rate_limited_rooms.value(), 2);
        assert_eq!((shard.counters.latency_unfollowed.value(), shard.samples_waiting()), (3, 1));
    }

    #[test]
    fn one_in_so_many_is_chosen_and_none_if_none_is_wanted() {
        let mut ledger = Ledger::new(0, 1);
        assert!((0..10_000).all(|_| !ledger.count_down()));
        ledger.set_every(64);
        let mut chosen = 0;
        for _ in 0..64_000 {
            if ledger.count_down() {
                chosen += 1;
                ledger.draw_next();
            }
        }
        assert!((900..1100).contains(&chosen), "{chosen}");
        ledger.set_every(1);
        ledger.draw_next();
        assert!((0..100).all(|_| {
            let is_chosen = ledger.count_down();
            ledger.draw_next();
            is_chosen
        }));
    }
}
