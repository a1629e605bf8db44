//! What a turn of the event loop asks of a core.

use serde_json::json;
use starling::config::ListenKind;
use starling::shard::mail::Mail;

use crate::cores::{Client, Cores};

/// As much as one turn sends, in a message to each of so many.
const TURN_BYTES: usize = 256 * 1024;

fn message(room: &str, bytes: usize) -> Vec<u8> {
    let message = json!({ "type": "message", "room": room, "content": "x".repeat(bytes) });
    format!("{message}\n").into_bytes()
}

#[test]
fn a_turn_ends_when_enough_has_been_gathered() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    let shard = &mut cores.shards[0];
    assert!(!shard.has_gathered_enough());
    // What is said to a room is gathered for it.
    let mut gathered = 0;
    while !shard.has_gathered_enough() {
        shard.receive(alice.id, &mut message("den", 10_000));
        gathered += 10_000;
    }
    assert!((TURN_BYTES - 20_000..=TURN_BYTES).contains(&gathered), "{gathered}");
    shard.send_gathered_events();
    assert!(!shard.has_gathered_enough());
    cores.settle();
    // So are answers.
    let clients: Vec<Client> =
        (0..40).map(|number| cores.enter(0, &format!("user{number}"), &["den"])).collect();
    let shard = &mut cores.shards[0];
    let query = b"{\"type\":\"history\",\"room\":\"den\",\"limit\":1}\n";
    let mut answers = 0;
    while !shard.has_gathered_enough() {
        shard.receive(clients[answers].id, &mut query.to_vec());
        answers += 1;
    }
    assert!((answers - 1) * 10_000 < TURN_BYTES && answers * 10_500 > TURN_BYTES, "{answers}");
    shard.send_gathered_events();
    assert!(!shard.has_gathered_enough());
}

#[test]
fn a_core_with_something_to_send_does_not_sleep() {
    let mut cores = Cores::of(2, |_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    let bob = cores.enter(1, "bob", &["den"]);
    let home = (0..2).find(|core| cores.counters[*core].rooms.value() == 1).unwrap();
    let (here, there): (Client, Client) = if home == 0 { (alice, bob) } else { (bob, alice) };
    let shard = |cores: &mut Cores, core: usize| -> bool { cores.shards[core].has_unsent() };
    assert!(!shard(&mut cores, 0) && !shard(&mut cores, 1));
    // Events that have been gathered.
    cores.shards[home].receive(here.id, &mut message("den", 10));
    assert!(shard(&mut cores, home));
    cores.settle();
    assert!(!shard(&mut cores, home));
    // Mail.
    cores.shards[1 - home].receive(there.id, &mut message("den", 10));
    assert!(shard(&mut cores, 1 - home));
    assert_eq!(cores.shards[1 - home].outboxes()[home].len(), 1);
    cores.settle();
    // Bytes on a connection.
    cores.shards[home].receive(here.id, &mut b"{\"type\":\"ping\"}\n".to_vec());
    assert!(shard(&mut cores, home));
    cores.settle();
    assert!(!shard(&mut cores, 0) && !shard(&mut cores, 1));
}

#[test]
fn requests_wait_while_a_mailbox_is_full() {
    let mut cores = Cores::of(2, |_| {});
    let clients = [cores.enter(0, "alice", &["den"]), cores.enter(1, "bob", &["den"])];
    let home = (0..2).find(|core| cores.counters[*core].rooms.value() == 1).unwrap();
    let away = clients[1 - home];
    clients.iter().for_each(|client| drop(cores.events(*client)));
    cores.shards[1 - home].receive(away.id, &mut message("den", 10));
    let mail: Vec<Mail> = cores.shards[1 - home].outboxes()[home].drain(..).collect();
    cores.shards[home].set_congested(true);
    for mail in mail {
        cores.shards[home].mail(mail);
    }
    assert!(cores.shards[home].has_deferred());
    assert_eq!((cores.total(|c| &c.deferred_requests), cores.total(|c| &c.published)), (1, 0));
    cores.shards[home].set_congested(false);
    assert!(!cores.shards[home].has_deferred());
    assert_eq!(cores.total(|c| &c.published), 1);
    cores.settle();
    assert_eq!(cores.told(away, "message", "offset"), [1]);
}

#[test]
fn a_turn_that_took_long_is_described() {
    let mut cores = Cores::new(|config| config.observe.stall_ms = 50);
    assert_eq!(cores.shards[0].stall_ns(), 50_000_000);
    let alice = cores.enter(0, "alice", &["den", "hall"]);
    for number in 0..3 {
        cores.enter(0, &format!("user{number}"), &["hall"]);
    }
    cores.turn();
    assert_eq!(cores.shards[0].describe_turn(), "");
    let mut said = message("den", 1000);
    said.extend(message("hall", 400));
    cores.shards[0].receive(alice.id, &mut said);
    cores.shards[0].send_gathered_events();
    let text = cores.shards[0].describe_turn();
    assert!(text.starts_with("; commands: 2, the last message by conn=0."), "{text}");
    // To four members, so that it is more in all than the longer one to one.
    assert!(
        text.contains("; most fan-out: room hall, ") && text.ends_with(" bytes to 4 members here"),
        "{text}"
    );
    cores.turn();
    assert_eq!(cores.shards[0].describe_turn(), "");
    let listener = cores.connect(0, ListenKind::Line);
    cores.shards[0].receive(listener.id, &mut b"{\"type\":\"ping\"}\n".to_vec());
    let text = cores.shards[0].describe_turn();
    assert!(
        text.starts_with("; commands: 1, the last ping by conn=0.") && !text.contains("fan-out"),
        "{text}"
    );
}
