//! What the simulator has found, as far as it can be told without its dice: the shortest way to each.

use std::collections::BTreeMap;

use serde_json::json;
use starling::base::rng::Rng;
use starling::config::Config;

use crate::client::{Kind, What};
use crate::comeback::LONG_GRACE_MS;
use crate::faults::plain;
use crate::faults::{Faults, Shape};
use crate::restart::End;
use crate::scenario;
use crate::store::Storage;
use crate::trace::Trace;
use crate::world::World;

/// Sends commands of one client together.
fn say(world: &mut World, client: usize, commands: Vec<(What, serde_json::Value)>) {
    let kernel = &mut *world.kernel.borrow_mut();
    for (what, object) in commands {
        world.clients[client].say(kernel, &world.model, what, true, object);
    }
}

fn say_hello(world: &mut World, client: usize) {
    let kernel = &mut *world.kernel.borrow_mut();
    world.clients[client].say_hello(kernel, &mut world.model, Some("ann"));
}

#[test]
fn every_typing_notice_with_an_id_is_acknowledged() {
    let mut world = World::calm(4, plain());
    let client = world.connect(Kind::Json, 0);
    say_hello(&mut world, client);
    // On four cores, one of these rooms has its home on another.
    for room in ["a", "b", "c", "d", "e", "f"] {
        let room_ = || room.to_owned();
        let join = What::Join { room: room_(), hears_itself: true, since: None, history: None, skips: false };
        let mut commands = vec![(join, json!({"type": "join", "room": room}))];
        commands.extend(
            (0..3).map(|_| (What::Typing { room: room_() }, json!({"type": "typing", "room": room}))),
        );
        say(&mut world, client, commands);
    }
    world.come_to_rest(100);
    world.clients[client].check_all_answered(&mut world.model);
}

#[test]
fn a_program_that_was_greeted_is_heard_as_one() {
    let mut world = World::calm(1, plain());
    let client = world.connect(Kind::Json, 0);
    world.come_to_rest(1000);
    say_hello(&mut world, client);
    world.come_to_rest(100);
    assert_eq!(world.clients[client].nickname.as_deref(), Some("ann"));
}

#[test]
fn a_websocket_that_said_hello_in_its_query_is_probed_in_time() {
    let mut config = plain();
    (config.heartbeat.probe_ms, config.heartbeat.timeout_ms) = (300, 1500);
    let mut world = World::calm(1, config);
    let clients: Vec<usize> = (0..10).map(|_| world.connect(Kind::Web, 0)).collect();
    for client in &clients {
        let kernel = &mut *world.kernel.borrow_mut();
        world.clients[*client].request_upgrade(kernel, &mut world.model);
    }
    world.come_to_rest(100);
    let has_some = clients.iter().any(|client| world.clients[*client].nickname.is_some());
    assert!(has_some, "nobody said hello");
    world.come_to_rest(12_000); // longer than an HTTP connection may take for its request
    for client in clients {
        let client = &world.clients[client];
        assert!(client.nickname.is_none() || client.bye.is_none(), "closed with {:?}", client.bye);
    }
}

/// A fault of the server: a session that had come to a lost connection, with the next connection waiting for it already,
/// went away in between, and the timer of its grace time outlived it.
#[test]
fn a_session_that_is_passed_on_leaves_no_timer_behind() {
    let mut config = plain();
    config.session.grace_ms = 1000;
    let mut world = World::calm(4, config);
    // It begins on one core and is on another, so that it comes to the third later than the word that a fourth wants it.
    for born in 0..4 {
        let client = world.connect(Kind::Json, born);
        {
            let kernel = &mut *world.kernel.borrow_mut();
            world.clients[client].say_hello(kernel, &mut world.model, Some(&format!("ann{born}")));
        }
        world.come_to_rest(100);
        resume(&mut world, client, (born + 1) % 4);
        world.come_to_rest(100);
        resume(&mut world, client, (born + 2) % 4);
        resume(&mut world, client, (born + 3) % 4);
        world.come_to_rest(2000);
        let nickname = world.clients[client].nickname.as_deref();
        assert_eq!(nickname, Some(&*format!("ann{born}")), "it has come through");
        let away: usize = (0..4).map(|core| world.inventory(core).away).sum();
        assert_eq!(away, 0, "nobody is away");
    }
}

fn resume(world: &mut World, client: usize, core: usize) {
    world.come_back(client, Kind::Json, core);
    let kernel = &mut *world.kernel.borrow_mut();
    world.clients[client].say_resume(kernel, &mut world.model);
}

/// Nicknames that change hands while mailboxes are full: a room may hear of the new holder before it hears that the old
/// one has another name now.
#[test]
fn nobody_is_in_a_room_twice() {
    for seed in 0..20 {
        let faults = Faults { nick: 400, join: 400, frozen_core: 60, ..Faults::default() };
        let shape = Shape { clients: 12, mailbox_parcels: 1, burst: 6, ..Shape::roomy(4) };
        let mut world = World::build(Rng::new(seed), faults, shape, plain(), Trace::default());
        scenario::play(&mut world, 2);
    }
}

/// A fault of the server: a session that had come to a lost connection, with the next connection waiting for it already, ended
/// because its grace time was over, and the next one waited for ever.
#[test]
fn nobody_waits_for_a_session_that_has_ended() {
    for seed in 0..60 {
        let faults = Faults { takeover: 60, frozen_core: 80, jump: 200, join: 300, ..Faults::default() };
        let shape = Shape { clients: 6, mailbox_parcels: 1, burst: 2, ..Shape::roomy(4) };
        let mut config = plain();
        config.session.grace_ms = 200;
        let mut world = World::build(Rng::new(seed), faults, shape, config, Trace::default());
        scenario::play(&mut world, 2);
    }
}

/// A fault of the server: a core that was held up for longer than a close may take threw away last words that it had not yet
/// tried to write.
#[test]
fn last_words_are_tried_before_they_are_given_up() {
    for seed in 0..60 {
        let faults = Faults { quit: 200, jump: 500, ..Faults::default() };
        let shape = Shape { clients: 8, mailbox_parcels: 1, ..Shape::roomy(4) };
        let mut world = World::build(Rng::new(seed), faults, shape, plain(), Trace::default());
        scenario::play(&mut world, 2);
    }
}

/// A fault of the server: whoever asked too much could not even say that it goes.
#[test]
fn quit_is_never_refused() {
    let mut config = plain();
    (config.rate.commands_per_second, config.rate.burst) = (1, 1);
    let mut world = World::calm(1, config);
    let client = world.connect(Kind::Json, 0);
    say_hello(&mut world, client);
    say(&mut world, client, vec![(What::Quit, json!({"type": "quit"}))]);
    world.come_to_rest(100);
    assert_eq!(world.clients[client].bye, Some(1000));
}

/// Two faults of the server: whoever was put out of a room while it changed its nickname or switched to another one heard an
/// error that answered nothing.
#[test]
fn whoever_is_put_out_meanwhile_hears_no_stray_error() {
    for seed in 0..60 {
        let faults = Faults { moderation: 400, nick: 300, join: 300, frozen_core: 60, ..Faults::default() };
        let shape = Shape { clients: 6, burst: 3, ..Shape::roomy(4) };
        let mut world = World::build(Rng::new(seed), faults, shape, plain(), Trace::default());
        scenario::play(&mut world, 1);
    }
}

/// A world with a store, in which nothing goes wrong but what its user does.
fn stored(seed: u64, faults: Faults, shape: Shape, storage: Storage, mut config: Config) -> World {
    config.history.count = 1000;
    let shape = Shape { storage: Some(storage), ..shape };
    World::build(Rng::new(seed), faults, shape, config, Trace::default())
}

/// A fault of the server: joins, changes of nicknames and what hosts decide were written down however full the journal was. What had no
/// place became one frame, which was larger than the journal in the end, and was never written.
#[test]
fn a_full_journal_has_place_for_what_cannot_be_refused() {
    for seed in 0..20 {
        let faults =
            Faults { join: 500, nick: 100, moderation: 100, quit: 30, abrupt_reset: 30, ..Faults::default() };
        let shape = Shape { clients: 15, burst: 40, ..Shape::roomy(2) };
        let mut config = plain();
        config.session.grace_ms = 1000;
        (config.store.queue_bytes, config.limits.content_bytes) = (4096, 500);
        // It tells what there is, but commits nothing until the world comes to rest.
        let storage = Storage { read: 500, tell: 500, ..Storage::default() };
        let mut world = stored(seed, faults, shape, storage, config);
        scenario::play(&mut world, 1);
        let mut totals = BTreeMap::new();
        world.add_counts(&mut totals);
        assert!(totals["store_refused"] > 0 && totals["journal_full"] == 0, "{totals:?}");
    }
}

/// A core that had no place for what was announced has said so in its journal: rooms get new epochs then, as after the end of the machine.
#[test]
fn what_had_no_place_in_a_journal_is_known_to_be_lost() {
    for seed in 0..10 {
        let shape = Shape { clients: 8, burst: 6, ..Shape::roomy(2) };
        let mut config = plain();
        config.session.grace_ms = LONG_GRACE_MS;
        let storage = Storage { group_bytes: 500, write: 20, read: 500, tell: 500, ..Storage::default() };
        let mut world = stored(seed, Faults { join: 300, ..Faults::default() }, shape, storage, config);
        world.run();
        world.store.as_ref().expect("it has one").rings[0].set_behind(true);
        world.restart(End::Kill);
        assert_eq!(world.model.counts["kills_behind"], 1);
        scenario::play(&mut world, 1);
    }
}

/// Faults of the server, each found by a seed with kills: what a command was answered was forgotten with its message, where few or no
/// messages are kept; after messages had been lost, commands were answered with the room's old epoch, and a second kill brought that
/// back; a page of what a member had missed was taken for one of its next membership; whoever joined was told less of the past than
/// there was, if messages went from memory while the store was read; and a private message that had been received came again, if
/// its session had been on two cores.
#[test]
fn what_was_announced_is_there_after_a_kill() {
    for seed in 0..40 {
        let faults = Faults { join: 200, takeover: 20, frozen_core: 30, ..Faults::default() };
        let shape = Shape { clients: 8, burst: 6, mailbox_parcels: 2, ..Shape::roomy(3) };
        let mut config = plain();
        config.session.grace_ms = LONG_GRACE_MS;
        config.limits.replay_page_bytes = 100;
        (config.history.memory_count, config.limits.idempotency_ms) = (3, 86_400_000);
        let storage = Storage {
            write: 100,
            read: 100,
            tell: 300,
            trim: 100,
            kill: 100,
            machine: 30,
            ..Storage::default()
        };
        let mut world = stored(seed, faults, shape, Storage { group_bytes: 500, ..storage }, config);
        scenario::play(&mut world, 2);
    }
}
