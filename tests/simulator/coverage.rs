//! What of the protocol comes to pass in the runs: each command, each event, each reason for which something is refused or somebody is
//! sent away. The lists are those of the server itself, so that what is new there is missing here until a run has it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value;
use starling::chat::refusal::{Farewell, LeaveReason, Reason};
use starling::proto::wire::{COMMANDS, EVENTS};
use starling::web::{self, Route};

use crate::{cluster, machines, swarm};

/// The parts of the protocol, in the order in which they are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Command,
    Event,
    /// Why something was refused.
    Reason,
    /// Why a connection was closed.
    Farewell,
    /// Why somebody is no longer in a room.
    Leave,
    /// What was asked for over HTTP.
    Request,
}

impl Part {
    const ALL: [Part; 6] =
        [Part::Command, Part::Event, Part::Reason, Part::Farewell, Part::Leave, Part::Request];

    /// Everything that there is of it.
    fn words(self) -> Vec<&'static str> {
        match self {
            Part::Command => COMMANDS.to_vec(),
            Part::Event => EVENTS.to_vec(),
            Part::Reason => Reason::ALL.iter().map(|reason| reason.as_str()).collect(),
            Part::Farewell => Farewell::ALL.iter().map(|farewell| farewell.as_str()).collect(),
            Part::Leave => LeaveReason::ALL.iter().map(|reason| reason.as_str()).collect(),
            Part::Request => REQUESTS.to_vec(),
        }
    }

    /// The one of its words that is this one.
    fn find(self, word: &str) -> Option<&'static str> {
        let among = |words: &[&'static str]| words.iter().copied().find(|known| *known == word);
        match self {
            Part::Command => among(&COMMANDS),
            Part::Event => among(&EVENTS),
            Part::Reason => Reason::ALL.iter().map(|reason| reason.as_str()).find(|known| *known == word),
            Part::Farewell => Farewell::ALL.iter().map(|reason| reason.as_str()).find(|known| *known == word),
            Part::Leave => LeaveReason::ALL.iter().map(|reason| reason.as_str()).find(|known| *known == word),
            Part::Request => among(REQUESTS),
        }
    }
}

macro_rules! requests {
    ($($pattern:pat => $name:literal,)+) => {
        const REQUESTS: &[&str] = &[$($name),+];

        fn request_of(route: &Route) -> &'static str {
            match route { $($pattern => $name),+ }
        }
    };
}

requests! {
    Route::Health => "health",
    Route::Ready => "ready",
    Route::Metrics => "metrics",
    Route::WebSocket => "ws",
    Route::Echo => "echo",
    Route::Dashboard => "dashboard",
    Route::Register => "register",
    Route::Login => "login",
    Route::Messages(_) => "messages",
    Route::Rooms => "rooms",
    Route::Members(_) => "members",
    Route::History(_) => "history",
    Route::Stream(_) => "stream",
    Route::Broadcast => "broadcast",
    Route::Sessions(_) => "sessions",
    Route::Asset(_) => "asset",
    Route::NotFound => "nothing",
}

/// What no run can have, and why.
const NEVER: &[(Part, &str, &str)] = &[
    (Part::Reason, "internal", "said where a thread for passwords is gone; there are no such threads here"),
    (Part::Farewell, "unauthenticated", "an account is disabled or a key taken away: there are no accounts"),
    (Part::Farewell, "overloaded", "the server has the code and never says it"),
];

/// How often each has come to pass.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    counts: RefCell<BTreeMap<(Part, &'static str), u64>>,
}

impl Tally {
    /// Counts a word, which must be one of those that there are.
    pub fn count(&self, part: Part, word: &str) {
        let mut counts = self.counts.borrow_mut();
        let known = part.find(word).unwrap_or_else(|| panic!("{part:?} {word:?} is none of the protocol"));
        *counts.entry((part, known)).or_default() += 1;
    }

    /// Somebody has said a command.
    pub fn said(&self, command: &Value) {
        // What is no command has no type that is one.
        if let Some(name) = command["type"].as_str().filter(|name| COMMANDS.contains(name)) {
            self.count(Part::Command, name);
        }
    }

    /// The same, of a command as it is written.
    pub fn said_line(&self, line: &str) {
        let name = line.split("\"type\":\"").nth(1).and_then(|rest| rest.split('"').next());
        if let Some(name) = name.filter(|name| COMMANDS.contains(name)) {
            self.count(Part::Command, name);
        }
    }

    /// Somebody has heard an event.
    pub fn heard(&self, event: &Value) {
        let Some(kind) = event["type"].as_str() else { return };
        self.count(Part::Event, kind);
        match (kind, event["reason"].as_str()) {
            ("error", Some(reason)) => self.count(Part::Reason, reason),
            ("bye", Some(reason)) => self.count(Part::Farewell, reason),
            ("left", Some(reason)) => self.count(Part::Leave, reason),
            ("presence", Some(reason)) if event["event"] == "leave" => self.count(Part::Leave, reason),
            _ => {}
        }
    }

    /// A connection was closed, with this code.
    pub fn farewell(&self, code: u16) {
        let farewell = Farewell::ALL.iter().find(|farewell| farewell.code() == code);
        self.count(Part::Farewell, farewell.unwrap_or_else(|| panic!("{code} is no farewell")).as_str());
    }

    /// Somebody has asked for a path.
    pub fn requested(&self, path: &str) {
        self.count(Part::Request, request_of(&web::route(path)));
    }

    /// A request was refused.
    pub fn refused(&self, body: &[u8]) {
        let error: Option<Value> = serde_json::from_slice(body).ok();
        if let Some(reason) = error.as_ref().and_then(|error| error["reason"].as_str()) {
            self.count(Part::Reason, reason);
        }
    }

    pub fn add(&self, other: &Tally) {
        let mut counts = self.counts.borrow_mut();
        for (key, count) in &*other.counts.borrow() {
            *counts.entry(*key).or_default() += count;
        }
    }

    fn of(&self, part: Part, word: &'static str) -> u64 {
        self.counts.borrow().get(&(part, word)).copied().unwrap_or(0)
    }
}

/// How many seeds of each kind are run for it, from the first of the second generation on. What follows from the seeds of the first
/// generation is looked at by the tests that run those.
const SINGLE: u64 = 120;
const CLUSTERS: u64 = 40;
const MACHINES: u64 = 12;

/// What must happen in some of these runs.
const HAPPENS: &[&str] =
    &["upgrades", "upgrades_hurried", "kills", "machine_failures", "nodes_upgraded", "nodes_killed"];

/// Runs the known seeds of the second generation, prints what of the protocol they have had, and has nothing missing.
#[test]
fn coverage() {
    let tally = Tally::default();
    let mut totals = BTreeMap::new();
    for seed in (swarm::FIRST..swarm::FIRST + SINGLE).chain(crate::SWARM_REGRESSIONS) {
        assert!(crate::try_seed(seed, &mut totals, &tally), "a known seed fails");
    }
    for seed in (swarm::FIRST..swarm::FIRST + CLUSTERS).chain(cluster::SWARM_REGRESSIONS) {
        assert!(cluster::try_seed(seed, &mut totals, &tally), "a known seed fails");
    }
    let mut peers = machines::Totals::default();
    for seed in (swarm::FIRST..swarm::FIRST + MACHINES).chain(machines::SWARM_REGRESSIONS) {
        assert!(machines::try_seed(seed, &mut peers), "a known seed fails");
    }
    tally.add(&peers.tally);
    let mut missing = Vec::new();
    for part in Part::ALL {
        println!("{part:?}");
        for word in part.words() {
            let count = tally.of(part, word);
            println!("{count:>12} {word}");
            let never = NEVER.iter().find(|(of, never, _)| (*of, *never) == (part, word));
            match never {
                Some((.., why)) => {
                    println!("             ^ {why}");
                    assert_eq!(count, 0, "{part:?} {word} comes to pass, and is said not to");
                }
                None if count == 0 => missing.push((part, word)),
                None => {}
            }
        }
    }
    println!("{totals:?}");
    assert!(missing.is_empty(), "no run has {missing:?}");
    for name in HAPPENS {
        assert!(totals.get(name).is_some_and(|count| *count > 0), "no run has {name}: {totals:?}");
    }
}
