//! What every run does: stretches in which everything may happen, each followed by a moment of rest at which all that the
//! clients know is compared, and in the end everybody goes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use starling::base::rng::Rng;
use starling::shard::Inventory;

use crate::client::{Kind, Sent, What, Whereabouts};
use crate::comeback::LONG_GRACE_MS;
use crate::model::fold;
use crate::moderation::check_hosts;
use crate::stranger;
use crate::trace::{Mode, Trace};
use crate::world::World;

/// Longer than every close takes: a reader that takes nothing and is given up, its last words, lingering, an HTTP connection
/// without a request.
const LONG_MS: u64 = 300_000;

/// How often something is asked that may be refused for coming too fast.
const TRIES: usize = 20;

/// Longer than every retry and backoff of the server.
const REST_MS: u64 = 600;

/// For how long the world rests between two stretches. Where commands are refused for coming too fast, the refusals take their
/// time too; where messages are compressed, each may be more bytes than are read in a turn, and have the next one wait.
fn rest_ms(world: &World) -> u64 {
    if world.terms.has_rates || world.terms.has_deflate { 10 * REST_MS } else { REST_MS }
}

fn rest(world: &mut World) {
    world.come_to_rest(rest_ms(world));
}

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
        world.end_upgrade();
        rest_and_compare(world);
    }
    world.run();
    world.end_upgrade();
    end(world);
}

/// A moment of rest, at which everything is compared.
pub fn rest_and_compare(world: &mut World) {
    rest(world);
    if world.terms.grace_ms < LONG_GRACE_MS {
        world.come_to_rest(2 * world.terms.grace_ms); // those who are away now do not come back
    }
    world.check_rest();
    compare(world);
}

/// Everybody goes, in the way that the world has drawn.
pub fn end(world: &mut World) {
    if world.shape.ends_by_drain { end_by_drain(world) } else { end_by_leaving(world) }
}

/// Compares what the clients know of each other at a moment of rest, and with what the server says.
fn compare(world: &mut World) {
    let there: Vec<usize> = (0..world.clients.len()).filter(|c| world.clients[*c].is_there()).collect();
    for client in &there {
        world.clients[*client].check_all_answered(&mut world.model);
    }
    for client in &world.clients {
        if client.is_gone && world.terms.grace_ms == 0 {
            world.model.give_up_all(client.number);
        }
    }
    for client in &mut world.clients {
        client.doubt_rooms(&world.model);
    }
    let clients = &world.clients;
    world.model.check_private(|client| {
        let session = &clients[client].session;
        // Whoever has not said hello again has it still to come.
        let is_back = clients[client].is_there() && clients[client].nickname.is_some();
        !is_back || session.was_forgotten || session.was_raced
    });
    let mut holders = BTreeMap::new();
    for client in &there {
        if let Some(nickname) = &world.clients[*client].nickname {
            let other = holders.insert(fold(nickname), *client);
            assert!(other.is_none(), "{other:?} and {client} are both called {nickname}");
        }
    }
    world.model.check_own_messages(|author| {
        let client = &clients[author];
        let has_heard_all = !client.session.has_missed && client.session.kept.is_empty();
        client.is_there() && client.kind != Kind::Text && has_heard_all && client.session.unsure.is_empty()
    });

    world.model.bench.check_obeyed(|client, comebacks| {
        clients[client].is_there() && clients[client].session.comebacks == comebacks
    });

    let query = world.connect(Kind::Json, 0);
    for _ in 0..TRIES {
        if world.clients[query].is_there() && world.clients[query].rooms_heard.is_none() {
            ask_rooms(world, query);
            rest(world);
        }
    }
    if world.clients[query].nickname.is_none() {
        assert!(world.terms.has_connection_limit, "a newcomer is not let in");
        return;
    }
    let mut rooms = world.clients[query].rooms_heard.clone().expect("asked");
    rooms.retain(|(name, ..)| !stranger::is_theirs(name));
    for (name, count, _) in &rooms {
        ask_members(world, query, name, *count as usize);
    }

    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for client in &there {
        let client = &world.clients[*client];
        let Some(nickname) = &client.nickname else { continue };
        for room in client.rooms.keys().chain(client.session.kept.keys()) {
            assert!(known.entry(room.clone()).or_default().insert(fold(nickname)));
        }
    }
    for (room, count, offset) in &rooms {
        let told = world.clients[query].members_heard.get(room).cloned().unwrap_or_default();
        let heard: BTreeMap<String, bool> =
            told.iter().map(|(name, is_connected, _)| (name.clone(), *is_connected)).collect();
        let roles: BTreeMap<String, String> =
            told.iter().map(|(name, _, role)| (name.clone(), role.clone())).collect();
        check_hosts(room, &roles);
        let members = known.remove(room).unwrap_or_default();
        assert_eq!(*count as usize, heard.len(), "members of {room}");
        check_members(world, &there, room, &heard, &members);
        let members = heard;
        let mut state = None;
        for client in &there {
            check_member(world, *client, room, *offset, &members);
            let Some(membership) = world.clients[*client].rooms.get(room) else { continue };
            if world.clients[*client].kind == Kind::Text {
                continue;
            }
            if world.terms.tells_presence_at_once {
                membership.check_roles(*client, room, &roles);
            }
            let (other, known) = state.get_or_insert((*client, membership.state.clone()));
            assert_eq!(
                *known, membership.state,
                "clients {other} and {client} disagree on the state of {room}"
            );
        }
    }
    assert!(known.is_empty(), "rooms that the server does not know: {known:?}");
    let client = &mut world.clients[query];
    client.session.token = None;
    client.end(&mut world.kernel.borrow_mut());
    rest(world);
    assert!(world.clients[query].is_gone, "a client that has ended its side is kept");
    world.model.give_up_all(query);
}

/// Compares the members that the server tells with what they know themselves, and with what those may be who are away.
fn check_members(
    world: &mut World,
    there: &[usize],
    room: &str,
    heard: &BTreeMap<String, bool>,
    known: &BTreeSet<String>,
) {
    let unsure: BTreeSet<String> = there
        .iter()
        .map(|client| &world.clients[*client])
        .filter(|client| client.session.unsure.contains(room) || client.nickname.is_none())
        .flat_map(|client| client.nickname.iter().chain(client.session.token.as_ref().map(|(_, name)| name)))
        .map(|name| fold(name))
        .collect();
    for name in known {
        assert_eq!(heard.get(name), Some(&true), "{name} knows itself to be in {room}: {heard:?}");
    }
    for (name, is_connected) in heard.iter().filter(|(name, _)| !known.contains(*name)) {
        let clients = &world.clients;
        let is_lost = |client: usize| !there.contains(&client) && world.terms.grace_ms > 0;
        let may_be_away = !is_connected
            && world.model.ever_asked_for(name, |client| {
                is_lost(client) || clients[client].nickname.is_none() || world.model.losers.contains(&client)
            });
        assert!(may_be_away || unsure.contains(name), "{name} in {room} (connected: {is_connected})");
        world.model.count("members_away");
    }
    if world.terms.grace_ms < LONG_GRACE_MS {
        return;
    }
    // Nobody's time of grace can be over.
    for client in world.clients.iter().filter(|client| client.may_come_back()) {
        let is_left = |sent: &Sent| match &sent.what {
            What::Leave { room: left } | What::Switch { from: left, .. } => left == room,
            What::Nick { .. } => true,
            _ => false,
        };
        let is_sure = client.rooms.get(room).is_some_and(|membership| !membership.is_being_left)
            && !world.model.may_be_expelled(room, client.number)
            && !client.outstanding.iter().any(is_left)
            && client.session.mistakes <= client.terms.errors_per_window
            && !client.session.was_raced;
        if let (true, Some(nickname)) = (is_sure, &client.nickname) {
            assert_eq!(heard.get(&fold(nickname)), Some(&false), "{nickname} is away and to be in {room}");
        }
    }
}

/// Checks that a member has heard all of a room up to its present offset.
fn check_member(world: &mut World, client: usize, room: &str, offset: u64, members: &BTreeMap<String, bool>) {
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
        for (name, known) in membership.others.iter().filter(|(name, _)| **name != own) {
            let truth = match members.get(name) {
                Some(true) => Whereabouts::Here,
                Some(false) => Whereabouts::Away,
                None => Whereabouts::Gone,
            };
            assert_eq!(truth, *known, "{name} in {room}, as client {client} was told");
        }
    }
    world.clients[client].rooms.insert(room.to_owned(), membership);
}

/// Asks for the rooms, after a hello if there was none.
fn ask_rooms(world: &mut World, client: usize) {
    let kernel = &mut *world.kernel.borrow_mut();
    let (model, client) = (&mut world.model, &mut world.clients[client]);
    if client.nickname.is_none() {
        client.say_hello(kernel, model, Some(&format!("query{}", client.number)));
    }
    client.say(kernel, model, What::Rooms, true, json!({"type": "rooms"}));
}

/// Asks for the members of a room, a page at a time: all together may be more than a small queue takes.
fn ask_members(world: &mut World, client: usize, room: &str, count: usize) {
    let mut tries = 0;
    loop {
        let after = world.clients[client].members_heard.get(room).and_then(|heard| heard.last()).cloned();
        let after = after.map(|(name, ..)| name);
        let heard = world.clients[client].members_heard.get(room).map_or(0, Vec::len);
        if heard >= count {
            return;
        }
        tries += 1;
        assert!(tries < count + TRIES, "the members of {room} cannot be had");
        {
            let kernel = &mut *world.kernel.borrow_mut();
            let (model, client) = (&mut world.model, &mut world.clients[client]);
            let mut object = json!({"type": "members", "room": room, "limit": 10});
            if let Some(after) = &after {
                object["after"] = json!(after);
            }
            client.say(kernel, model, What::Members { room: room.to_owned(), after }, true, object);
        }
        rest(world);
        // Somebody may have been put out, or have left, in between.
        if world.clients[client].members_total == heard as u64 {
            return;
        }
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
    for listener in &mut world.listeners {
        listener.leave(&mut world.kernel.borrow_mut());
    }
    for stranger in &mut world.strangers {
        stranger.leave(&mut world.kernel.borrow_mut());
    }
    let history_count = world.terms.history_count;
    world.come_to_rest(LONG_MS + 2 * world.terms.grace_ms);
    world.check_rest();
    for core in 0..world.core_count() {
        let inventory = world.inventory(core);
        // What was said may be read by those who come later.
        let Inventory { rooms, idle_rooms, history_bytes, .. } = inventory;
        assert_eq!(rooms, idle_rooms, "core {core} keeps a room for nobody");
        let kept = match history_count {
            0 => Inventory::default(),
            _ => Inventory { rooms, idle_rooms, history_bytes, ..Inventory::default() },
        };
        assert_eq!(inventory, kept, "core {core} has something left");
        // With a store, not all that there is to be read is in memory.
        let is_read_there = world.terms.has_store && history_bytes == 0;
        assert!(is_read_there || (rooms == 0) == (history_bytes == 0), "core {core}: {inventory:?}");
    }
    if let Some(store) = &mut world.store {
        store.check_deserted();
    }
    assert_eq!(world.connected(), 0, "the census counts somebody");
    for (number, conn) in world.kernel.borrow().conns.iter().enumerate() {
        assert!(conn.is_closed || !conn.is_accepted, "conn {number} was never closed");
    }
    for client in &mut world.clients {
        client.is_deaf = false;
    }
    rest(world);
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
    rest(world);
    assert!(world.have_all_cores_ended(), "a core does not drain");
    for client in there {
        let client = &world.clients[client];
        // What was on its way when the drain began comes first, other goodbyes among it.
        let is_told = client.bye.is_some() || client.is_cut_off || client.has_stalled;
        let is_request = client.kind == Kind::Web && !client.is_upgraded;
        let (is_accepted, was_blocked) = {
            let conn = &world.kernel.borrow().conns[client.conn];
            // A slow consumer may not have taken its last words in time.
            (conn.is_accepted, conn.was_blocked || conn.may_be_unfinished())
        };
        assert!(
            is_told || is_request || !is_accepted || was_blocked,
            "client {} was not told to go",
            client.number
        );
    }
    if let Some(store) = &world.store {
        store.check_written();
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
