//! How long messages take, of one in so many.

use starling::base::histogram::Snapshot;
use starling::base::latency::Hop;
use starling::base::time::Now;
use starling::config::Config;

use crate::calls::Caller;
use crate::cores::{Client, Cores};

fn every_one(config: &mut Config) {
    config.observe.latency_sample_every = 1;
}

/// How often a hop was counted, and how long it took in all.
fn hop(cores: &Cores, hop: Hop) -> (u64, u64) {
    let mut snapshot = Snapshot::default();
    cores.counters[0].hops.of(hop).add_to(&mut snapshot);
    (snapshot.count(), snapshot.sum_ns)
}

fn speak_in_this_turn(cores: &mut Cores, client: Client) {
    let said = b"{\"type\":\"message\",\"room\":\"den\",\"content\":\"x\"}\n";
    cores.shards[client.core].receive(client.id, &mut said.to_vec());
}

#[test]
fn what_has_just_been_read_was_read_when_the_turn_began() {
    let mut cores = Cores::new(every_one);
    let alice = cores.enter(0, "alice", &["den"]);
    // A turn begins within a millisecond.
    let (began_ns, unix_ms) = (2_000_300_000, cores.unix_ms());
    cores.shards[0].tick(Now::new(began_ns, unix_ms));
    speak_in_this_turn(&mut cores, alice);
    cores.shards[0].stamp(began_ns + 70);
    assert_eq!(hop(&cores, Hop::ReadToParsed), (1, 70));
}

#[test]
fn nothing_is_followed_to_a_call_which_has_no_socket_of_its_own() {
    let mut cores = Cores::new(every_one);
    let mut caller = Caller::new(&mut cores, 0);
    let metadata = [("nickname", "bob"), ("room", "den")];
    let call = caller.call(&mut cores, "/chat.ChatService/StreamMessages", &metadata, &[], false);
    let alice = cores.enter(0, "alice", &[]);
    cores.say(alice, r#"{"type":"join","room":"den","echo":false}"#);
    caller.heard_bytes(&mut cores, call);
    for count in 1..=3 {
        cores.speak(alice, "den", "x");
        assert_eq!(caller.heard_bytes(&mut cores, call).len(), 1);
        assert_eq!(cores.total(|counters| &counters.latency_samples), count);
        assert_eq!(cores.total(|counters| &counters.latency_unfollowed), count);
        assert_eq!(hop(&cores, Hop::ReceivedToWritten).0, 0);
    }
}

#[test]
fn how_many_are_followed_may_change() {
    let mut cores = Cores::new(|config| config.observe.latency_sample_every = 0);
    let alice = cores.enter(0, "alice", &["den"]);
    let followed = |cores: &mut Cores| {
        let before = cores.total(|counters| &counters.latency_samples);
        for _ in 0..10 {
            cores.speak(alice, "den", "x");
        }
        cores.total(|counters| &counters.latency_samples) - before
    };
    assert_eq!(followed(&mut cores), 0);
    cores.reconfigure(every_one);
    assert_eq!(followed(&mut cores), 10);
    cores.reconfigure(|config| config.observe.latency_sample_every = 0);
    assert_eq!(followed(&mut cores), 0);
}
