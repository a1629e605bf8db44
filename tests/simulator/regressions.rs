//! What the simulator has found, as far as it can be told without its dice: the shortest way to each.

use serde_json::json;
use starling::config::Config;

use crate::client::{Kind, What};
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
    let mut world = World::calm(4, Config::default());
    let client = world.connect(Kind::Json, 0);
    say_hello(&mut world, client);
    // On four cores, one of these rooms has its home on another.
    for room in ["a", "b", "c", "d", "e", "f"] {
        let room_ = || room.to_owned();
        let join = What::Join { room: room_(), hears_itself: true, since: None };
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
    let mut world = World::calm(1, Config::default());
    let client = world.connect(Kind::Json, 0);
    world.come_to_rest(1000);
    say_hello(&mut world, client);
    world.come_to_rest(100);
    assert_eq!(world.clients[client].nickname.as_deref(), Some("ann"));
}

#[test]
fn a_websocket_that_said_hello_in_its_query_is_probed_in_time() {
    let mut config = Config::default();
    (config.heartbeat.probe_ms, config.heartbeat.timeout_ms) = (300, 1500);
    let mut world = World::calm(1, config);
    let clients: Vec<usize> = (0..10).map(|_| world.connect(Kind::Web, 0)).collect();
    for client in &clients {
        let kernel = &mut *world.kernel.borrow_mut();
        world.clients[*client].request_upgrade(kernel, &mut world.model);
    }
    world.come_to_rest(9000);
    for client in clients {
        let client = &world.clients[client];
        assert!(client.nickname.is_none() || client.bye.is_none(), "closed with {:?}", client.bye);
    }
}

#[test]
fn a_nickname_that_was_changed_is_free_for_others() {
    let mut world = World::calm(3, Config::default());
    let (first, second) = (world.connect(Kind::Json, 0), world.connect(Kind::Json, 1));
    say_hello(&mut world, first);
    let join = |room: &str| {
        let what = What::Join { room: room.to_owned(), hears_itself: true, since: None };
        (what, json!({"type": "join", "room": room}))
    };
    say(&mut world, first, vec![join("a"), join("b"), join("c")]);
    world.come_to_rest(100);
    world.model.claim(first, "bob");
    let nick = (What::Nick { nickname: "bob".to_owned() }, json!({"type": "nick", "nickname": "bob"}));
    say(&mut world, first, vec![nick]);
    world.come_to_rest(100);
    say_hello(&mut world, second);
    say(&mut world, second, vec![join("a"), join("b"), join("c")]);
    world.come_to_rest(100);
    for (client, nickname) in [(first, "bob"), (second, "ann")] {
        assert_eq!(world.clients[client].nickname.as_deref(), Some(nickname));
        assert_eq!(world.clients[client].rooms.len(), 3);
    }
}
