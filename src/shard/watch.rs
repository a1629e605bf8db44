//! Dashboards: who may look at one, and what this core tells of itself while somebody does.
//!
//! Once a second, while there is a dashboard on any core, whoever sees all cores asks each for a [`Report`] and sends all dashboards
//! what becomes of them. While there is none nothing is done here but that each turn is compared with the longest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Shard;
use super::api::Caller;
use super::closing::Closing;
use super::connection::{Connection, Protocol};
use super::encode::Encoding;
use super::http::{Answered, What};
use super::limits::Cost;
use super::observer::{Report, RoomFigures, SlowClient};
use super::session::Identity;
use super::upgrade::is_own_origin;
use crate::base::slots::{Id, Slots};
use crate::base::stats::Counter;
use crate::base::tcp::TcpInfo;
use crate::base::time::Tick;
use crate::chat::refusal::{Farewell, Reason, Refusal};
use crate::config::{DashboardAccess, ListenKind, MetricsAccess};
use crate::proto::http1::{self, Head, Reply};
use crate::proto::websocket::{self, Item, Opcode, Violation, handshake};

/// Entries of each list of a report.
const ENTRIES: usize = 10;

/// How many connections, and how many rooms, one report looks at beside those of the last one: where there are more it takes several
/// seconds until all have been seen.
const PLACES: usize = 4096;

/// What a full house is told to wait, in milliseconds.
const FULL_RETRY_MS: u64 = 5000;

/// Bytes of a message of a dashboard, which has nothing to say: those of a control frame.
const INPUT_BYTES_MAX: usize = 125;

/// Header fields by which proxies of HTTP tell for whom they ask: whoever sends one is no client of this machine.
const FORWARDED: [&str; 6] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

/// Who looks at dashboards on this core, and what is remembered from one report to the next.
#[derive(Debug, Default)]
pub(super) struct Watching {
    watchers: Vec<Watcher>,
    longest_turn_ns: u64,
    /// Where the next look at the connections begins, and whom the last one found to be slow.
    next_connection: usize,
    slow: Vec<Id>,
    /// Where the next look at the rooms begins, and which the last one found to be large or busy.
    next_room: usize,
    found: Vec<Id>,
    /// The offset of each room when it was looked at last, and when that was.
    offsets: HashMap<Id, (u64, Tick)>,
    /// The report that is being made in this turn.
    report: Option<Box<Report>>,
    /// Those of its connections about which the kernel has not been asked.
    inquiries: Vec<(Id, usize)>,
}

/// One dashboard.
#[derive(Debug)]
struct Watcher {
    connection: Id,
    /// Who looks, where that had to be shown.
    identity: Option<Arc<Identity>>,
}

impl Shard {
    /// The turn is over, at this moment of the monotonic clock: what was said in it has been written, as far as sockets took it.
    pub fn turn_ended(&mut self, ns: u64) {
        self.counters.send_queue_bytes.set(self.pool.bytes());
        for Answered { method, status, began_ns } in self.answered.drain(..) {
            self.counters.http.note(method, status, ns.saturating_sub(began_ns));
        }
        let watching = &mut self.watching;
        watching.longest_turn_ns = watching.longest_turn_ns.max(ns.saturating_sub(self.now.ns));
        if let Some(mut report) = watching.report.take()
            && let Some(observer) = &self.observer
        {
            // With the turn that the report was made in, which may be the only one.
            report.longest_turn_ns = std::mem::take(&mut watching.longest_turn_ns);
            observer.report(report);
        }
    }

    /// The gauge of the connections to listeners of a kind.
    pub(super) fn connections_of(&self, kind: ListenKind) -> &Counter {
        match kind {
            ListenKind::Web => &self.counters.web_connections,
            ListenKind::Line => &self.counters.line_connections,
            ListenKind::Frame => &self.counters.frame_connections,
            ListenKind::Grpc => &self.counters.grpc_connections,
        }
    }

    /// Whether there is a dashboard.
    pub(super) fn has_dashboard(&self) -> bool {
        self.config.web.dashboard != DashboardAccess::Off
    }

    /// Decides what is to be done about a request for a dashboard's numbers.
    pub(super) fn consider_watch(&mut self, id: Id, head: &Head, caller: &mut Option<Box<Caller>>) -> What {
        if self.observer.is_none() {
            return What::error(503, "nobody here counts");
        }
        if !self.is_origin_allowed(head, self.connections.get(id).is_some_and(Connection::is_secure)) {
            return What::error(403, "this origin may not connect");
        }
        let identity = match self.admit_watcher(id, head, caller) {
            Ok(identity) => identity,
            Err(refusal) => return What::Refusal(refusal),
        };
        match handshake::upgrade(head) {
            Ok(upgrade) => What::Watch { key: upgrade.key.to_owned(), identity },
            Err(refusal) => {
                let headers = refusal.headers.to_vec();
                What::Error { status: refusal.status, message: refusal.message, headers }
            }
        }
    }

    /// Who looks, if that has to be shown.
    fn admit_watcher(
        &mut self,
        id: Id,
        head: &Head,
        caller: &mut Option<Box<Caller>>,
    ) -> Result<Option<Arc<Identity>>, Refusal> {
        let pairs = http1::query_pairs(head.query.unwrap_or_default())
            .ok_or_else(|| Refusal::new(Reason::BadRequest, "the query is not well formed"))?;
        let token = pairs.into_iter().find(|(name, _)| name == "token").map(|(_, token)| token);
        let is_local = self.config.web.dashboard == DashboardAccess::Local;
        if token.is_none() && is_local && !shows_credentials(head) && self.is_of_this_machine(id, head) {
            if self.is_leaving() {
                return Err(Refusal::new(Reason::Draining, "the server is about to stop"));
            }
            self.charge(id, Cost::COMMAND, None)?;
            return Ok(None);
        }
        let identity = match token {
            Some(token) => self.admit_token(id, head, &token, caller)?,
            None => self.admit(id, head, caller)?,
        };
        match identity.claims.is_admin {
            true => Ok(Some(identity)),
            false => Err(Refusal::new(Reason::Forbidden, "only an admin may look at the dashboard")),
        }
    }

    /// Whether /metrics leads anywhere.
    pub(super) fn has_metrics(&self) -> bool {
        self.config.web.metrics != MetricsAccess::Off
    }

    /// Decides whether somebody may read the metrics.
    pub(super) fn admit_scraper(
        &mut self,
        id: Id,
        head: &Head,
        caller: &mut Option<Box<Caller>>,
    ) -> Result<(), Refusal> {
        let is_local = self.config.web.metrics == MetricsAccess::Local;
        if self.config.web.metrics == MetricsAccess::All
            || is_local && !shows_credentials(head) && self.is_of_this_machine(id, head)
        {
            return Ok(());
        }
        match self.admit(id, head, caller)?.claims.is_admin {
            true => Ok(()),
            false => Err(Refusal::new(Reason::Forbidden, "only an admin may read the metrics (web.metrics)")),
        }
    }

    /// Whether a request was made on this machine, by nobody who speaks for others, and by no page of another site: one whose name
    /// leads here (DNS rebinding) names itself as the host.
    fn is_of_this_machine(&self, id: Id, head: &Head) -> bool {
        let Some(connection) = self.connections.get(id) else { return false };
        connection.peer.is_loopback()
            && !connection.is_indirect
            && head.host.is_some_and(is_loopback_host)
            && head.origin.is_none_or(|origin| is_own_origin(origin, head, connection.is_secure()))
            && head.headers().all(|(name, _)| {
                FORWARDED.iter().all(|forwarded| !name.eq_ignore_ascii_case(forwarded.as_bytes()))
            })
    }

    /// Makes a connection a dashboard, if there is place for one more.
    pub(super) fn begin_watch(
        &mut self,
        id: Id,
        key: &str,
        identity: Option<Arc<Identity>>,
        reply: &Reply,
        next: &mut Option<Protocol>,
    ) -> Result<(), Refusal> {
        if !self.observer.as_ref().is_some_and(|observer| observer.begin_watch(self.core)) {
            self.counters.dashboard_watchers_refused.add(1);
            let message = "as many dashboards are open as may be (limits.dashboard_watchers)";
            return Err(Refusal::with_retry(Reason::Unavailable, message, FULL_RETRY_MS));
        }
        self.watching.watchers.push(Watcher { connection: id, identity });
        self.counters.dashboard_watchers.set(self.watching.watchers.len() as u64);
        *next = Some(Protocol::Watch(websocket::Decoder::new(INPUT_BYTES_MAX, 1)));
        self.say_raw(id, |out| handshake::put_response(out, key, None, None, reply.request_id));
        if let Some(connection) = self.connections.get_mut(id) {
            connection.encoding = Encoding::JsonMessage;
            connection.http_bytes = u32::try_from(connection.queue.bytes()).unwrap_or(u32::MAX);
        }
        Ok(())
    }

    /// A connection ends, which may be a dashboard.
    pub(super) fn end_watch(&mut self, id: Id) {
        let watching = &mut self.watching;
        let Some(place) = watching.watchers.iter().position(|watcher| watcher.connection == id) else {
            return;
        };
        watching.watchers.swap_remove(place);
        self.counters.dashboard_watchers.set(watching.watchers.len() as u64);
        if let Some(observer) = &self.observer {
            observer.end_watch(self.core);
        }
    }

    /// A dashboard has said something, which is none of its business.
    pub(super) fn hear_watcher(&mut self, id: Id, _said: Item) -> bool {
        self.close(id, Closing::Violation(Violation { code: 1003, why: "a dashboard has nothing to say" }));
        false
    }

    /// Sends the dashboards here what there is to see. Those whose users may not see it any more are closed.
    pub(super) fn tell_watchers(&mut self, snapshot: &[u8]) {
        for place in (0..self.watching.watchers.len()).rev() {
            let Watcher { connection, identity } = &self.watching.watchers[place];
            let (id, identity) = (*connection, identity.clone());
            let claims = identity.as_ref().map(|identity| &identity.claims);
            if claims.is_some_and(|claims| claims.expires_at_ms.is_some_and(|at| at <= self.now.unix_ms)) {
                self.counters.expired_tokens.add(1);
                self.close(id, Closing::Bye(Farewell::ExpiredToken));
            } else if claims.is_some_and(|claims| self.check_account_of(claims).is_err()) {
                self.close(id, Closing::Bye(Farewell::Kicked));
            } else if identity.is_some_and(|identity| self.is_key_void(&identity)) {
                self.close(id, Closing::Bye(Farewell::Unauthenticated));
            } else {
                self.say_websocket(id, Opcode::Text, snapshot);
            }
        }
    }

    /// Makes a report, which is sent when the kernel has been asked about the connections in it.
    pub(super) fn look(&mut self) {
        let (slow, ids) = self.look_for_slow();
        let (crowded, lively) = self.look_at_rooms();
        let watching = &mut self.watching;
        watching.inquiries = ids.iter().copied().enumerate().map(|(place, id)| (id, place)).collect();
        watching.slow = ids;
        watching.report = Some(Box::new(Report {
            core: self.core,
            sessions: self.sessions.len(),
            timers: self.wheel.len(),
            deferred: self.deferred.len(),
            longest_turn_ns: 0,
            store_is_down: self.journal.is_on.then(|| self.journal.is_down()),
            store_waits: self.journal.waiting(),
            backplane: self.nodes.is_clustered.then(|| self.nodes.down.clone()),
            slow,
            crowded,
            lively,
        }));
    }

    /// The connections with most bytes to send, and their keys.
    fn look_for_slow(&mut self) -> (Vec<SlowClient>, Vec<Id>) {
        let known = std::mem::take(&mut self.watching.slow);
        let looked_at = places(&self.connections, &mut self.watching.next_connection, known);
        let queued = |id: Id| self.connections.get(id).map_or(0, |connection| connection.queue.bytes());
        let mut waiting: Vec<Id> = looked_at.into_iter().filter(|id| queued(*id) > 0).collect();
        waiting.sort_by_key(|id| std::cmp::Reverse(queued(*id)));
        waiting.truncate(ENTRIES);
        (waiting.iter().filter_map(|id| self.slow_client(*id)).collect(), waiting)
    }

    fn slow_client(&self, id: Id) -> Option<SlowClient> {
        let connection = self.connections.get(id)?;
        let session = connection.session.and_then(|session| self.sessions.get(session));
        let nickname = match &connection.protocol {
            Protocol::EventStream(stream) => stream.nickname(),
            _ => session.and_then(|session| session.nickname.as_ref()),
        };
        Some(SlowClient {
            nickname: nickname.cloned(),
            peer: connection.peer,
            transport: transport_of(connection),
            queued_bytes: connection.queue.bytes(),
            tcp: None,
        })
    }

    /// The rooms at home here with most members, and those with most messages.
    fn look_at_rooms(&mut self) -> (Vec<RoomFigures>, Vec<RoomFigures>) {
        let now = self.now.tick;
        let known = std::mem::take(&mut self.watching.found);
        let looked_at = places(&self.home.rooms, &mut self.watching.next_room, known);
        let mut rooms: Vec<(Id, usize, f64)> = Vec::with_capacity(looked_at.len());
        for id in looked_at {
            let Some(home) = self.home.rooms.get(id) else { continue };
            let offset = home.room.offset();
            let last = self.watching.offsets.insert(id, (offset, now));
            let rate = last.map_or(0.0, |(before, at)| {
                offset.saturating_sub(before) as f64 * 1000.0 / now.since(at).max(1) as f64
            });
            rooms.push((id, home.room.len(), rate));
        }
        // Those that are gone are forgotten when they have become more than those that are there.
        if self.watching.offsets.len() > 2 * self.home.rooms.len() + PLACES {
            self.watching.offsets.retain(|id, _| self.home.rooms.contains(*id));
        }
        let figures = |(id, members, messages_per_s): &(Id, usize, f64)| {
            let room = self.home.rooms.get(*id)?.room.name().clone();
            Some(RoomFigures { room, members: *members, messages_per_s: *messages_per_s })
        };
        rooms.sort_by(|a, b| b.2.total_cmp(&a.2));
        let lively: Vec<_> = rooms.iter().filter(|room| room.2 > 0.0).take(ENTRIES).collect();
        let mut found: Vec<Id> = lively.iter().map(|room| room.0).collect();
        let lively = lively.into_iter().filter_map(figures).collect();
        rooms.sort_by_key(|room| std::cmp::Reverse(room.1));
        let crowded: Vec<_> = rooms.iter().filter(|room| room.1 > 0).take(ENTRIES).collect();
        found.extend(crowded.iter().map(|room| room.0));
        let crowded = crowded.into_iter().filter_map(figures).collect();
        self.watching.found = found;
        (crowded, lively)
    }

    /// The next connection of which the report wants to know what the kernel knows.
    pub fn next_inquiry(&mut self) -> Option<Id> {
        self.watching.inquiries.last().map(|(id, _)| *id)
    }

    /// Tells it.
    pub fn settle_inquiry(&mut self, id: Id, tcp: Option<TcpInfo>) {
        let watching = &mut self.watching;
        let Some((asked, place)) = watching.inquiries.pop() else { return };
        debug_assert_eq!(asked, id);
        if let Some(client) = watching.report.as_mut().and_then(|report| report.slow.get_mut(place)) {
            client.tcp = tcp;
        }
    }
}

/// The keys that were found before, if they are still there, and those in the next [`PLACES`] places of a table. Each once.
fn places<T>(table: &Slots<T>, next: &mut usize, mut found: Vec<Id>) -> Vec<Id> {
    if *next >= table.places() {
        *next = 0;
    }
    let window = *next..next.saturating_add(PLACES);
    found.retain(|id| table.contains(*id) && !window.contains(&(id.index as usize)));
    found.sort_unstable();
    found.dedup();
    found.extend(table.iter_places(*next, PLACES).map(|(id, _)| id));
    *next = window.end;
    found
}

/// What a connection speaks, in a word or two.
fn transport_of(connection: &Connection) -> &'static str {
    match (&connection.protocol, connection.kind) {
        (Protocol::WebSocket(_), _) => "websocket",
        (Protocol::Echo(_), _) => "echo",
        (Protocol::Watch(_), _) => "dashboard",
        (Protocol::EventStream(_), _) => "event stream",
        (Protocol::JsonLines(_), _) => "json lines",
        (Protocol::Messages(_), _) => "grpc call",
        (_, ListenKind::Web) => "http",
        (_, ListenKind::Line) => "text lines",
        (_, ListenKind::Frame) => "frames",
        (_, ListenKind::Grpc) => "http/2",
    }
}

/// Whether a request says who it is of.
fn shows_credentials(head: &Head) -> bool {
    head.header("authorization").is_some() || head.header("x-api-key").is_some()
}

/// Whether a `Host` names this machine and no other, however names are looked up.
fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::base::census::Census;
    use crate::base::time::Now;
    use crate::config::Config;
    use crate::shard::Flock;
    use crate::shard::mail::{ConnectionRef, Mail};
    use crate::shard::observer::{Observer, Question};

    #[test]
    fn names_of_this_machine_are_known() {
        for host in ["localhost", "LocalHost:8080", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:8080"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            ":8080",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com:80",
            "10.0.0.1",
            "[::2]:80",
            "[::1",
            "::",
            "0.0.0.0",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn a_large_table_is_seen_in_parts_and_what_was_found_each_time() {
        let mut table = Slots::default();
        let ids: Vec<Id> = (0..PLACES * 2 + 1).map(|n| table.insert(n)).collect();
        let mut next = 0;
        assert_eq!(places(&table, &mut next, Vec::new()), ids[..PLACES]);
        let found = places(&table, &mut next, vec![ids[3], ids[PLACES + 5], ids[3]]);
        assert_eq!(found[0], ids[3]);
        assert_eq!(found[1..], ids[PLACES..2 * PLACES]);
        table.remove(ids[3]);
        assert_eq!(places(&table, &mut next, vec![ids[3]]), [ids[2 * PLACES]]);
        assert_eq!(places(&table, &mut next, Vec::new()).len(), PLACES - 1, "from the beginning again");
    }
    /// Somebody who sees all cores, with place for one dashboard.
    #[derive(Debug, Default)]
    struct One {
        watchers: AtomicUsize,
        reports: Mutex<Vec<Report>>,
    }

    impl Observer for One {
        fn ask(&self, _: ConnectionRef, _: Question) -> bool {
            false
        }

        fn begin_watch(&self, _: u16) -> bool {
            self.watchers.fetch_update(Relaxed, Relaxed, |n| (n == 0).then_some(1)).is_ok()
        }

        fn end_watch(&self, _: u16) {
            self.watchers.fetch_sub(1, Relaxed);
        }

        fn report(&self, report: Box<Report>) {
            self.reports.lock().unwrap().push(*report);
        }
    }

    const REQUEST: &str = "GET /dashboard/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn shard(config: Config) -> (Shard, Arc<One>) {
        let observer = Arc::new(One::default());
        let census = Arc::new(Census::new(0, 0));
        let flock = Flock { observer: Some(observer.clone()), ..Flock::of_one(Arc::new(config), census) };
        (Shard::new(0, &flock, Arc::default(), 1, Now::default()), observer)
    }

    fn ask(shard: &mut Shard) -> Id {
        let id = shard.open([127, 0, 0, 1].into(), ListenKind::Web);
        shard.receive(id, &mut REQUEST.as_bytes().to_vec());
        id
    }

    fn said(shard: &mut Shard, id: Id) -> String {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = shard.gather(id, &mut slices);
        let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        shard.sent(id, bytes.len());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn a_dashboard_that_does_not_read_is_closed_and_leaves_its_place() {
        let mut config = Config::default();
        config.limits.send_queue_bytes = 4096;
        let (mut shard, observer) = shard(config);
        let id = ask(&mut shard);
        assert!(said(&mut shard, id).starts_with("HTTP/1.1 101 "));
        let late = ask(&mut shard);
        assert!(said(&mut shard, late).starts_with("HTTP/1.1 503 "), "there is place for one");
        let snapshot: Arc<[u8]> = vec![b'x'; 1000].into();
        let mut told = 0;
        while observer.watchers.load(Relaxed) == 1 {
            assert!(shard.inventory().queued_bytes_max <= 4096);
            shard.mail(Mail::Snapshot(snapshot.clone()));
            assert!(!shard.flushed(id));
            told += 1;
            assert!(told < 10, "it is told more and more");
        }
        assert_eq!(shard.counters().slow_consumers.value(), 1);
        assert_eq!(shard.counters().dashboard_watchers.value(), 0);
        let next = ask(&mut shard);
        assert!(said(&mut shard, next).starts_with("HTTP/1.1 101 "), "there is place again");
        shard.broken(next);
        assert_eq!(observer.watchers.load(Relaxed), 0);
    }

    #[test]
    fn a_report_tells_who_is_slow_with_what_the_kernel_says() {
        let (mut shard, observer) = shard(Config::default());
        let ids: Vec<Id> = (0..3).map(|_| shard.open([127, 0, 0, 1].into(), ListenKind::Line)).collect();
        for (index, id) in ids.iter().enumerate() {
            let hello = format!("{{\"type\":\"hello\",\"nickname\":\"user-{index}\"}}\n");
            shard.receive(*id, &mut hello.into_bytes());
            said(&mut shard, *id);
        }
        for id in &ids[1..] {
            shard.receive(*id, &mut b"{\"type\":\"ping\"}\n".to_vec());
        }
        shard.receive(ids[2], &mut b"{\"type\":\"ping\"}\n".to_vec());
        shard.mail(Mail::Look);
        let mut asked = Vec::new();
        while let Some(id) = shard.next_inquiry() {
            let rtt_us = id.index + 100;
            shard.settle_inquiry(id, Some(TcpInfo { rtt_us, ..TcpInfo::default() }));
            asked.push(id);
        }
        assert_eq!(asked.len(), 2);
        shard.turn_ended(1_000);
        let reports = observer.reports.lock().unwrap();
        let [report] = &reports[..] else { panic!("{reports:?}") };
        assert_eq!((report.sessions, report.longest_turn_ns), (3, 1_000));
        let slow: Vec<_> = report
            .slow
            .iter()
            .map(|client| (client.nickname.clone().unwrap().as_str().to_owned(), client.tcp.unwrap().rtt_us))
            .collect();
        assert_eq!(
            slow,
            [("user-2".to_owned(), ids[2].index + 100), ("user-1".to_owned(), ids[1].index + 100)]
        );
        assert!(report.slow[0].queued_bytes > report.slow[1].queued_bytes);
        let queued: u64 = report.slow.iter().map(|client| client.queued_bytes as u64).sum();
        assert_eq!(shard.counters().send_queue_bytes.value(), queued);
    }
}
