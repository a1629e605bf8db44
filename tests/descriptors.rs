//! The open-file limit holds a core, not the process; and a server that has reached it still answers everybody.

#![cfg(target_os = "linux")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Client, DEADLINE, Server, until};

/// The open-file limit that the servers here run under.
const FILES: usize = 256;

/// What of it is kept for listeners, wakers and those who are told that there is no room: see `server.rs`.
const RESERVE: usize = 64;

/// How many clients one table holds.
const TABLE: usize = FILES - RESERVE;

/// What each thread's descriptor table refers to, by the name of the thread.
fn tables(server: &Server) -> BTreeMap<String, Vec<String>> {
    let mut tables = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap().trim().to_owned();
        let descriptors = fs::read_dir(task.join("fd")).unwrap();
        // One may be closed while it is looked at.
        let targets = descriptors.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        let targets = targets.map(|target| target.to_str().unwrap().to_owned()).collect();
        assert!(tables.insert(name.clone(), targets).is_none(), "two threads called {name}");
    }
    tables
}

/// The sockets that listen on the server's ports, as a table would name them.
fn listening_sockets(server: &Server) -> BTreeSet<String> {
    const LISTEN: &str = "0A";
    let ports = [server.web.port(), server.line.port()].map(|port| format!(":{port:04X}"));
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|fields| fields[3] == LISTEN && ports.iter().any(|port| fields[1].ends_with(port)))
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect()
}

/// Whether cores have tables of their own here. If not, the server must have said so, and be right.
fn has_own_tables(server: &Server) -> bool {
    let has = server.has_own_tables();
    if !has {
        println!("not tested: descriptor tables cannot be unshared here, and the server says so");
        let tables = tables(server);
        let main = &tables["starling"];
        assert!(tables.values().all(|table| table.len() == main.len()), "but it has unshared them");
    }
    has
}

#[test]
fn each_core_holds_its_own_descriptors_and_nobody_elses() {
    let server = Server::start(&["--cores", "2"]);
    if !has_own_tables(&server) {
        return;
    }
    let listening = listening_sockets(&server);
    assert_eq!(listening.len(), 4, "two addresses on two cores");
    let tables = tables(&server);
    let holders = |socket: &String| {
        let holds = |(_, table): &(&String, &Vec<String>)| table.contains(socket);
        tables.iter().filter(holds).map(|(name, _)| name.as_str()).collect::<Vec<_>>()
    };
    let mut of_core = BTreeMap::new();
    for socket in &listening {
        let holders = holders(socket);
        assert!(holders.len() == 1 && holders[0].starts_with("core-"), "{socket} is held by {holders:?}");
        *of_core.entry(holders[0]).or_insert(0) += 1;
    }
    assert_eq!(of_core, BTreeMap::from([("core-0", 2), ("core-1", 2)]));
    for core in ["core-0", "core-1"] {
        let table = &tables[core];
        let count = |kind: &str| table.iter().filter(|target| target.starts_with(kind)).count();
        assert_eq!(count("anon_inode:[eventpoll]"), 1, "{core} polls once: {table:?}");
        assert_eq!(count("anon_inode:[eventfd]"), 2, "{core} can wake both: {table:?}");
        // Standard streams, four listeners, a poll, two wakers.
        assert_eq!(table.len(), 3 + 4 + 1 + 2, "{core}: {table:?}");
    }
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn two_cores_hold_twice_as_many() {
    let server = Server::with_files(FILES, &["--cores", "2"]);
    if !has_own_tables(&server) {
        return;
    }
    server.logged(&format!("room for {TABLE} connections a core"));
    let mut clients = Vec::new();
    // The kernel spreads clients by a hash, so that one core is full before the other is; those whom it refuses come
    // again, and are another client to the hash.
    const ATTEMPTS_MAX: usize = 20 * TABLE;
    for attempt in 0..ATTEMPTS_MAX {
        if clients.len() == 2 * TABLE {
            break;
        }
        let mut client = Client::connect(server.line).unwrap();
        client.say(&format!("bird{attempt}"));
        let line = client.line();
        if line.starts_with("! 4105 ") {
            assert!(clients.len() >= TABLE, "refused while every core has room");
        } else {
            client.expect("* joined lobby");
            clients.push(client);
        }
    }
    assert!(clients.len() * 10 >= TABLE * 17, "{} clients are not nearly two tables' worth", clients.len());
    assert_eq!(clients.len(), 2 * TABLE, "both cores are full to the last place");
    for client in &mut clients {
        client.say("/ping");
        client.expect("* pong");
    }
    let tables = tables(&server);
    let sockets = |core| tables[core].iter().filter(|target| target.starts_with("socket:")).count();
    for core in ["core-0", "core-1"] {
        // Those who were refused may not be gone yet.
        let held = sockets(core);
        assert!((TABLE + 2..FILES).contains(&held), "{core} holds {held} sockets");
    }
    assert_eq!(tables["starling"].iter().filter(|target| target.starts_with("socket:")).count(), 0);
    drop(clients);
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn at_the_limit_newcomers_are_told_and_old_clients_stay() {
    let server = Server::with_files(FILES, &["--cores", "1"]);
    let mut clients: Vec<Client> =
        (0..TABLE).map(|n| Client::person(server.line, &format!("bird{n}"))).collect();

    // A person, a program, and a browser.
    let (person, program) = ("! 4105 too_many_connections: ", "{\"type\":\"bye\",\"code\":4105,");
    for (first, farewell) in [("late", person), ("{\"type\":\"hello\",\"nickname\":\"late\"}", program)] {
        let mut late = Client::connect(server.line).unwrap();
        late.say(first);
        let rest = late.rest().unwrap();
        assert!(rest.starts_with(farewell) && rest.lines().count() == 1, "{rest}");
    }
    for request in ["GET / HTTP/1.1", "GET /ws HTTP/1.1\r\nUpgrade: websocket"] {
        let mut late = TcpStream::connect(server.web).unwrap();
        late.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(late, "{request}\r\nHost: {}\r\n\r\n", server.web).unwrap();
        let mut answer = String::new();
        late.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nRetry-After: "), "{answer}");
        assert!(answer.contains("\"reason\":\"unavailable\""), "{answer}");
    }

    // Everybody else goes on.
    clients[0].say("still here");
    for client in &mut clients[1..] {
        client.expect("[lobby] bird0: still here");
    }

    // Places that become free are taken.
    const FREED: usize = 50;
    clients.truncate(TABLE - FREED);
    for n in 0..FREED {
        // The server may hear of the newcomer before it hears that the others have gone.
        let client = until("a place", || {
            let mut client = Client::connect(server.line).unwrap();
            client.say(&format!("new{n}"));
            if client.line().starts_with("! 4105 ") {
                return None;
            }
            client.expect("* joined lobby");
            Some(client)
        });
        clients.push(client);
    }
    clients[0].say("and so are they");
    for client in &mut clients[1..] {
        client.expect("[lobby] bird0: and so are they");
    }
    assert_eq!(server.count_logged("accept failed"), 0, "the reserve was enough for those who were refused");
    drop(clients);
    assert_eq!(server.stop().code(), Some(0));
}
