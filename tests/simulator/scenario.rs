//! What every run does: stretches in which everything may happen, each followed by a moment of rest at which all that the
//! clients know is compared, and in the end everybody goes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use starling::base::rng::Rng;
use starling::shard::Inventory;

use crate::client::{Kind, What};
use crate::model::fold;
use crate::trace::{Mode, Trace};
use crate::world::World;

/// Longer than every close takes: a slow reader's last words, lingering, an HTTP connection without a request.
const LONG_MS: u64 = 100_000;

/// For how long the world rests between two stretches.
const REST_MS: u64 = 600;

/// What a run came to.
pub struct Outcome {
    pub hash: u64,
    pub count: u64,
}

/// Runs the seed from beginning to end. Panics where something is wrong; `keep` then has the trace.
pub fn run(seed: u64, mode: Mode, keep: &mut Option<World>) -> Outcome {
    let mut rng = Rng::new(seed ^ 0x5DEE_CE66);
    let cores = 1 + rng.below(4) as usize;
    let stretches = 1 + rng.below(3);
    let world = keep.insert(World::new(seed, cores, Trace::new(mode)));
    play(world, stretches);
    let kernel = world.kernel.borrow();
    Outcome { hash: kernel.trace.hash(), count: kernel.trace.count() }
}

/// So many stretches with a rest after each, one without, and the end.
pub fn play(world: &mut World, stretches: u64) {
    for _ in 0..stretches {
        world.run();
        world.come_to_rest(REST_MS);
        world.check_rest();
        compare(world);
    }
    world.run();
    if world.shape.ends_by_drain { end_by_drain(world) } else { end_by_leaving(world) }
}

/// Compares what the clients know of each other at a moment of rest, and with what the server says.
fn compare(world: &mut World) {
    let there: Vec<usize> = (0..world.clients.len()).filter(|c| world.clients[*c].is_there()).collect();
    for client in &there {
        world.clients[*client].check_all_answered(&mut world.model);
    }
    for client in &world.clients {
        if client.is_gone {
            world.model.give_up_all(client.number);
        }
    }
    let clients = &world.clients;
    world.model.check_private(|client| !clients[client].is_there());
    let mut holders = BTreeMap::new();
    for client in &there {
        if let Some(nickname) = &world.clients[*client].nickname {
            let other = holders.insert(fold(nickname), *client);
            assert!(other.is_none(), "{other:?} and {client} are both called {nickname}");
        }
    }
    world.model.check_own_messages(|author| clients[author].is_there() && clients[author].kind != Kind::Text);

    let query = world.connect(Kind::Json, 0);
    ask(world, query, &[]);
    world.come_to_rest(REST_MS);
    if world.clients[query].nickname.is_none() {
        assert!(world.terms.has_connection_limit, "a newcomer is not let in");
        return;
    }
    let rooms = world.clients[query].rooms_heard.clone().expect("asked");
    let names: Vec<String> = rooms.iter().map(|(room, ..)| room.clone()).collect();
    ask(world, query, &names);
    world.come_to_rest(REST_MS);

    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for client in &there {
        let client = &world.clients[*client];
        for room in client.rooms.keys() {
            let nickname = client.nickname.as_deref().expect("members have said hello");
            assert!(known.entry(room.clone()).or_default().insert(fold(nickname)));
        }
    }
    for (room, count, offset) in &rooms {
        let heard: BTreeSet<String> = world.clients[query].members_heard[room].iter().cloned().collect();
        let members = known.remove(room).unwrap_or_default();
        assert_eq!(heard, members, "members of {room}, as the server says and as they know it");
        assert_eq!(*count as usize, members.len(), "members of {room}");
        for client in &there {
            check_member(world, *client, room, *offset, &members);
        }
    }
    assert!(known.is_empty(), "rooms that the server does not know: {known:?}");
    let client = &mut world.clients[query];
    client.end(&mut world.kernel.borrow_mut());
    world.come_to_rest(REST_MS);
    assert!(world.clients[query].is_gone, "a client that has ended its side is kept");
    world.model.give_up_all(query);
}

/// Checks that a member has heard all of a room up to its present offset.
fn check_member(world: &mut World, client: usize, room: &str, offset: u64, members: &BTreeSet<String>) {
    let Some(mut membership) = world.clients[client].rooms.remove(room) else { return };
    let this = &world.clients[client];
    if this.kind == Kind::Text {
        this.check_order(&mut world.model, room, &membership);
    } else {
        while membership.next <= offset && !membership.hears_itself {
            membership.skipped.push(membership.next);
            membership.next += 1;
        }
        assert_eq!(membership.next, offset + 1, "client {client} has not heard all of {room}");
        this.check_skipped(&world.model, room, &membership);
        let own = fold(this.nickname.as_deref().expect("members have said hello"));
        for (name, is_there) in membership.others.iter().filter(|(name, _)| **name != own) {
            assert_eq!(members.contains(name), *is_there, "{name} in {room}, as client {client} was told");
        }
    }
    world.clients[client].rooms.insert(room.to_owned(), membership);
}

/// Asks for the rooms, or for the members of some.
fn ask(world: &mut World, client: usize, rooms: &[String]) {
    let kernel = &mut *world.kernel.borrow_mut();
    let (model, client) = (&mut world.model, &mut world.clients[client]);
    if rooms.is_empty() && client.nickname.is_none() {
        client.say_hello(kernel, model, Some(&format!("query{}", client.number)));
        client.say(kernel, model, What::Rooms, true, json!({"type": "rooms"}));
    }
    for room in rooms {
        let object = json!({"type": "members", "room": room, "limit": 1000});
        client.say(kernel, model, What::Members { room: room.clone() }, true, object);
    }
}

/// Everybody goes in a way of its own, some of them without ever hearing what they are told. Nothing may be left.
fn end_by_leaving(world: &mut World) {
    for number in 0..world.clients.len() {
        let kernel = &mut *world.kernel.borrow_mut();
        let client = &mut world.clients[number];
        if client.is_gone {
            continue;
        }
        client.is_deaf = client.is_stalled || kernel.rng.chance(20);
        (client.has_stalled, client.dawdles) = (client.has_stalled || client.is_deaf, false);
        match kernel.rng.below(3) {
            0 if client.kind == Kind::Json && client.is_there() => {
                client.say(kernel, &world.model, What::Quit, true, json!({"type": "quit"}));
                client.is_silent = true;
            }
            1 => client.reset(kernel),
            _ => client.end(kernel),
        }
    }
    world.come_to_rest(LONG_MS);
    world.check_rest();
    for core in 0..world.core_count() {
        let inventory = world.inventory(core);
        assert_eq!(inventory, Inventory::default(), "core {core} has something left");
    }
    assert_eq!(world.connected(), 0, "the census counts somebody");
    for (number, conn) in world.kernel.borrow().conns.iter().enumerate() {
        assert!(conn.is_closed || !conn.is_accepted, "conn {number} was never closed");
    }
    for client in &mut world.clients {
        client.is_deaf = false;
    }
    world.come_to_rest(REST_MS);
    for client in &world.clients {
        assert!(client.is_gone, "client {} is still there", client.number);
    }
}

/// The server drains: everybody is told, and every core ends.
fn end_by_drain(world: &mut World) {
    let there: Vec<usize> = (0..world.clients.len()).filter(|c| world.clients[*c].is_there()).collect();
    for client in &mut world.clients {
        client.is_deaf = client.is_stalled;
    }
    let began_ms = world.kernel.borrow().clock_ms;
    world.drain();
    world.come_to_rest(LONG_MS);
    for client in &mut world.clients {
        client.is_deaf = false;
    }
    world.come_to_rest(REST_MS);
    assert!(world.have_all_cores_ended(), "a core does not drain");
    for client in there {
        let client = &world.clients[client];
        // What was on its way when the drain began comes first, other goodbyes among it.
        let is_told = client.bye.is_some() || client.is_cut_off || client.has_stalled;
        let is_request = client.kind == Kind::Web && !client.is_upgraded;
        let (is_accepted, was_blocked) = {
            let conn = &world.kernel.borrow().conns[client.conn];
            // A slow consumer may not have taken its last words in time.
            (conn.is_accepted, conn.was_blocked)
        };
        assert!(
            is_told || is_request || !is_accepted || was_blocked,
            "client {} was not told to go",
            client.number
        );
    }
    let kernel = world.kernel.borrow();
    for core in 0..world.core_count() {
        for (conn, ..) in kernel.registered(core) {
            let came_late = kernel.conns[conn].accepted_ms >= began_ms;
            assert!(
                came_late,
                "core {core} ends with conn {conn} open, which was there when the drain began"
            );
        }
    }
}
