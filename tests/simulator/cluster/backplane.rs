//! A backplane that lags, fails, hangs and forgets: what the scripts of the link do, as a model, and what the link does with it, played
//! by dice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use starling::base::rng::Rng;
use starling::chat::history::Entry;
use starling::chat::name::{Nickname, RoomName};
use starling::chat::user::{NodeId, SessionRef};
use starling::shard::backplane::{
    Append, BackplaneNews, BackplaneRequest, ClaimOutcome, Failed, KnownSession, LogEntry, LostNode,
    NodeMessage, OpenedRoom, Placed, Position, Publish, RoomAt, TakeOutcome,
};

/// How long a node lives without being heard of, in milliseconds.
pub const LEASE_MS: u64 = 1000;

/// Entries that one answer to a copy that catches up may have.
const CAUGHT_UP_MAX: usize = 8;

/// Messages that a room which begins anew takes along beside those of whoever renews it, at most.
const CARRIED_OVER_MAX: usize = 256;

/// For how long nothing gets a place after something was forgotten, in milliseconds.
const SETTLE_MS: u64 = 1000;

/// Changes that are left when the others go with a snapshot.
const CHANGES_LEFT: u64 = 4;

/// How many places a session is known by at most.
const PLACES_MAX: usize = 8;

/// The data.
#[derive(Debug, Clone, Default)]
pub struct Redis {
    rooms: BTreeMap<String, Room>,
    nicknames: BTreeMap<String, BTreeMap<SessionRef, Holder>>,
    sessions: BTreeMap<u64, Session>,
    /// Who was ended by an admin while the node was lost.
    put_out: BTreeSet<SessionRef>,
    nodes: BTreeMap<NodeId, u64>,
    /// The last write of each link, and the line that everything here is of, as far as anybody knows.
    marks: BTreeMap<NodeId, u64>,
    line: u64,
}

#[derive(Debug, Clone)]
struct Room {
    line: u64,
    name: RoomName,
    epoch: Arc<str>,
    position: Position,
    guard: u64,
    members: u64,
    messages: Vec<LogEntry>,
    changes: Vec<LogEntry>,
    snapshot: Option<(u64, String)>,
    keys: BTreeMap<Box<str>, Placed>,
    tags: BTreeMap<NodeId, (u64, Position)>,
}

impl Room {
    /// Lets what the room had before, and whoever renews it had not seen, follow what it has; and says how many messages that is.
    fn carry_over(&mut self, before: Room) -> u64 {
        let seen = self.position.offset;
        self.position.offset = seen.max(before.position.offset);
        let mut more: Vec<LogEntry> =
            before.messages.into_iter().filter(|entry| entry.position().offset > seen).collect();
        more.drain(..more.len().saturating_sub(CARRIED_OVER_MAX));
        if self.position.offset > seen && more.first().is_none_or(|first| first.position().offset != seen + 1)
        {
            self.messages.clear();
        }
        let count = more.len() as u64;
        for entry in &mut more {
            if let LogEntry::Message { position, .. } = entry {
                position.change = 0;
            }
        }
        self.messages.extend(more);
        count
    }
}

#[derive(Debug, Clone)]
struct Holder {
    until_ms: u64,
    line: u64,
    has_token: bool,
    spelled: Nickname,
}

#[derive(Debug, Clone)]
struct Session {
    at: SessionRef,
    /// Where it was when it was kept last.
    known_as: SessionRef,
    /// Where it has been, the last place first, and where it was kept among them if it has been taken since.
    places: Vec<SessionRef>,
    revision: u64,
    body: String,
    is_given_up: bool,
    /// Whether another node has had it, and whether it has ended: that node may have it still.
    has_moved: bool,
    has_ended: bool,
    line: u64,
    until_ms: u64,
}

/// The link of one node.
#[derive(Debug)]
pub struct Link {
    pub node: NodeId,
    /// Where the sessions that this node has taken had been, until they have their nicknames.
    taken_from: BTreeMap<SessionRef, (NodeId, Vec<SessionRef>)>,
    /// Where sessions that have their nicknames have been before.
    before: BTreeMap<SessionRef, Vec<SessionRef>>,
    cores: usize,
    requests: VecDeque<(u16, BackplaneRequest)>,
    /// What waits until all links have looked whether something is lost.
    wishes: VecDeque<(u16, BackplaneRequest)>,
    /// What the command connection tells, and what the subscription does.
    answers: VecDeque<(u16, BackplaneNews)>,
    announced: VecDeque<(u16, BackplaneNews)>,
    heard: BTreeMap<String, u16>,
    pub is_down: bool,
    /// When it was last, in milliseconds of the clock.
    pub down_at_ms: u64,
    /// Until when it does nothing.
    hangs_until: u64,
    living: Vec<NodeId>,
    lost: Vec<NodeId>,
    beat_at: u64,
    look_at: u64,
    held: BTreeMap<SessionRef, (Nickname, bool)>,
    /// Until when nicknames are those of sessions that were given up.
    given_up: BTreeMap<String, u64>,
    kept: BTreeMap<u64, SessionRef>,
    /// The number of its last write that was answered.
    mark: u64,
}

impl Redis {
    fn time(&self, room: &str, now_ms: u64) -> u64 {
        let room = &self.rooms[room];
        let last =
            [room.messages.last(), room.changes.last()].into_iter().flatten().map(|entry| match entry {
                LogEntry::Message { timestamp_ms, .. } | LogEntry::Change { timestamp_ms, .. } => {
                    *timestamp_ms
                }
            });
        last.max().unwrap_or(0).max(now_ms)
    }

    fn opened(&self, room: &str) -> Option<Box<OpenedRoom>> {
        let data = self.rooms.get(room)?;
        let from = data.snapshot.as_ref().map_or(0, |(change, _)| *change);
        let after = data.changes.iter().filter(|entry| entry.position().change > from);
        let messages = data.messages.iter().filter(|entry| entry.position().change >= from);
        let first_kept = data.messages.first().map_or(data.position.offset + 1, |e| e.position().offset);
        Some(Box::new(OpenedRoom {
            room: data.name.clone(),
            epoch: data.epoch.clone(),
            position: data.position,
            timestamp_ms: 0,
            first_kept,
            snapshot: data.snapshot.clone(),
            entries: merge(after.cloned().collect(), messages.cloned().collect()),
            is_doubtful: data.line != self.line,
        }))
    }

    fn is_lost(&self, at: &RoomAt) -> bool {
        self.rooms
            .get(&*at.room)
            .is_none_or(|room| room.epoch != at.epoch || !room.position.reaches(at.known))
    }

    fn publish(&mut self, publish: Publish, now_ms: u64) -> (Result<Placed, Failed>, Option<LogEntry>) {
        let Publish { at, message, kept, key } = publish;
        if self.is_lost(&at) {
            return (Err(Failed::Lost), None);
        }
        let timestamp_ms = self.time(&at.room, now_ms);
        let room = self.rooms.get_mut(&*at.room).expect("it is not lost");
        if let Some(placed) = key.as_ref().and_then(|key| room.keys.get(key)) {
            return (Ok(Placed { is_repeated: true, ..placed.clone() }), None);
        }
        if at.position.change < room.guard {
            return (Err(Failed::Behind), None);
        }
        room.position.offset += 1;
        let entry = LogEntry::Message { position: room.position, timestamp_ms, message };
        room.messages.push(entry.clone());
        let over = room.messages.len().saturating_sub(kept as usize);
        room.messages.drain(..over);
        let placed = Placed {
            epoch: room.epoch.clone(),
            offset: room.position.offset,
            timestamp_ms,
            is_repeated: false,
        };
        if let Some(key) = key {
            room.keys.insert(key, placed.clone());
        }
        (Ok(placed), Some(entry))
    }

    fn append(
        &mut self,
        append: Append,
        node: NodeId,
        now_ms: u64,
    ) -> (Result<Position, Failed>, Option<LogEntry>) {
        let Append { at, ops, tag, is_guard } = append;
        if self.is_lost(&at) {
            return (Err(Failed::Lost), None);
        }
        let timestamp_ms = self.time(&at.room, now_ms);
        let room = self.rooms.get_mut(&*at.room).expect("it is not lost");
        if let Some((last, position)) = room.tags.get(&node)
            && *last >= tag
        {
            return (Ok(*position), None);
        }
        room.position.change += 1;
        if is_guard {
            room.guard = room.position.change;
        }
        room.tags.insert(node, (tag, room.position));
        let entry = LogEntry::Change { position: room.position, timestamp_ms, node, tag, ops };
        room.changes.push(entry.clone());
        (Ok(room.position), Some(entry))
    }

    /// The entries from a position on; `None` where some of those after it are not there any more.
    fn after(&self, at: &RoomAt) -> Option<Vec<LogEntry>> {
        if self.is_lost(at) {
            return None;
        }
        let room = &self.rooms[&*at.room];
        let pick = |entries: &[LogEntry], place: fn(&LogEntry) -> u64, from: u64, last: u64| {
            let entries: Vec<LogEntry> = entries.iter().filter(|e| place(e) >= from).cloned().collect();
            (from == last || entries.first().is_some_and(|e| place(e) <= from + 1)).then_some(entries)
        };
        let (change, offset) = (at.position.change, at.position.offset);
        let changes = pick(&room.changes, |e| e.position().change, change, room.position.change)?;
        let messages = pick(&room.messages, |e| e.position().offset, offset, room.position.offset)?;
        let mut entries = merge(changes, messages);
        entries.truncate(CAUGHT_UP_MAX);
        Some(entries)
    }

    #[allow(clippy::too_many_arguments)]
    fn claim(
        &mut self,
        nickname: &Nickname,
        session: SessionRef,
        has_token: bool,
        sessions_max: usize,
        now_ms: u64,
        lease_ms: u64,
        is_given_up: bool,
        is_held: bool,
    ) -> ClaimOutcome {
        if self.put_out.contains(&session) {
            return ClaimOutcome::PutOut;
        }
        let line = self.line;
        let holders = self.nicknames.entry(nickname.folded().into()).or_default();
        holders.retain(|_, holder| holder.until_ms > now_ms);
        if is_held {
            holders.retain(|at, holder| *at == session || holder.line == line);
        }
        // Of its own sessions a node knows itself which of them may have it, but for one that it has given up.
        let is_alone =
            holders.keys().all(|holder| *holder == session || holder.node == session.node && !is_given_up);
        let is_users = has_token && holders.values().all(|holder| holder.has_token);
        if !is_alone && !is_users {
            return ClaimOutcome::Taken;
        }
        if !holders.contains_key(&session) && holders.len() >= sessions_max {
            return ClaimOutcome::Full;
        }
        let spelled = match holders.values().next() {
            Some(first) if !is_alone => first.spelled.clone(),
            _ => nickname.clone(),
        };
        holders.insert(session, Holder { until_ms: now_ms + lease_ms, line, has_token, spelled });
        ClaimOutcome::Granted
    }

    /// Lets a session hold a nickname in the place of another one, if nobody else does.
    /// `places` are those where the session has been, and `nodes` those where it was kept last, and that it was taken from.
    fn replace(
        &mut self,
        nickname: &Nickname,
        (places, nodes): (&[SessionRef], [NodeId; 2]),
        session: SessionRef,
        has_token: bool,
        now_ms: u64,
        lease_ms: u64,
    ) -> bool {
        let line = self.line;
        let holders = self.nicknames.entry(nickname.folded().into()).or_default();
        holders.retain(|at, holder| {
            holder.until_ms > now_ms && (places.contains(at) || *at == session || holder.line == line)
        });
        let of_old = places.iter().find_map(|at| holders.get(at)).map(|holder| holder.spelled.clone());
        let others: Vec<_> =
            holders.iter().filter(|(at, _)| !places.contains(at) && **at != session).collect();
        let is_shared = has_token && others.iter().all(|(_, holder)| holder.has_token);
        let spelled = of_old.clone().or_else(|| others.first().map(|(_, holder)| holder.spelled.clone()));
        if of_old.is_none() && !is_shared {
            if others.iter().any(|(at, holder)| holder.has_token || !nodes.contains(&at.node)) {
                return false;
            }
            holders.retain(|at, _| *at == session);
        }
        holders.retain(|at, _| !places.contains(at));
        let spelled = spelled.unwrap_or_else(|| nickname.clone());
        holders.insert(session, Holder { until_ms: now_ms + lease_ms, line, has_token, spelled });
        true
    }

    /// The rooms as their data has them, for comparison.
    pub fn positions(&self) -> BTreeMap<String, (Arc<str>, Position)> {
        self.rooms.iter().map(|(name, room)| (name.clone(), (room.epoch.clone(), room.position))).collect()
    }
}

/// Puts messages and changes into their common order.
fn merge(changes: Vec<LogEntry>, messages: Vec<LogEntry>) -> Vec<LogEntry> {
    let mut merged = [changes, messages].concat();
    // So many entries come before each, itself among them.
    merged.sort_by_key(|entry| entry.position().change + entry.position().offset);
    merged
}

/// What one run's links and data are.
#[derive(Debug, Default)]
pub struct Backplane {
    pub redis: Redis,
    /// As it was some time ago, for when a part is forgotten.
    earlier: Redis,
    pub links: Vec<Link>,
    grace_ms: u64,
    /// Until when nothing gets a place, after something was forgotten.
    settled_at: u64,
    /// The links that have not looked since then whether something of theirs is lost.
    unlooked: BTreeSet<NodeId>,
    /// Whether something was lost of which only a node knew that is lost too: nobody can find that out.
    pub is_orphaned: bool,
    pub counts: BTreeMap<&'static str, u64>,
}

/// How the backplane behaves. Chances are in a thousand, each time that it could.
#[derive(Debug, Clone, Default)]
pub struct Mishaps {
    pub loses_announcement: u64,
    pub goes_down: u64,
    pub comes_back: u64,
    pub hangs: u64,
    pub forgets: u64,
    pub forgets_partly: u64,
    /// Whether a link may come back after all others have gone on: then an offset may be given twice.
    pub is_late: bool,
}

impl Mishaps {
    pub fn draw(rng: &mut Rng) -> Mishaps {
        let mut up_to = |most: u64| if rng.chance(50) { 0 } else { rng.below(most) + 1 };
        Mishaps {
            loses_announcement: up_to(100),
            goes_down: up_to(10),
            comes_back: 50,
            hangs: up_to(5),
            forgets: up_to(3),
            forgets_partly: up_to(3),
            is_late: rng.chance(10),
        }
    }
}

impl Backplane {
    pub fn new(grace_ms: u64) -> Self {
        Backplane { grace_ms, ..Backplane::default() }
    }

    pub fn join(&mut self, node: NodeId, cores: usize, now_ms: u64) {
        self.redis.nodes.insert(node, now_ms + LEASE_MS);
        self.links.push(Link {
            node,
            taken_from: BTreeMap::new(),
            before: BTreeMap::new(),
            cores,
            requests: VecDeque::new(),
            wishes: VecDeque::new(),
            answers: VecDeque::new(),
            announced: VecDeque::new(),
            heard: BTreeMap::new(),
            is_down: false,
            down_at_ms: 0,
            hangs_until: 0,
            living: Vec::new(),
            lost: Vec::new(),
            beat_at: 0,
            look_at: 0,
            held: BTreeMap::new(),
            given_up: BTreeMap::new(),
            kept: BTreeMap::new(),
            mark: 0,
        });
    }

    /// A node is gone, with its link.
    pub fn leave(&mut self, node: NodeId) {
        self.is_orphaned |= self.unlooked.remove(&node);
        self.links.retain(|link| link.node != node);
    }

    /// Whether a link has done all that it was asked for, and its node was told.
    pub fn has_done_all(&self, node: NodeId) -> bool {
        let link = self.links.iter().find(|link| link.node == node).expect("the node is there");
        link.requests.is_empty() && link.wishes.is_empty() && link.answers.is_empty() && !link.is_down
    }

    /// Whether a node has not reached the data for a while since a moment.
    pub fn was_down_since(&self, node: NodeId, since_ms: u64) -> bool {
        let link = self.links.iter().find(|link| link.node == node).expect("the node is there");
        link.is_down || link.down_at_ms >= since_ms
    }

    /// A node goes in order, and says so: as if its lease were over.
    pub fn part(&mut self, node: NodeId, now_ms: u64) {
        self.redis.nodes.insert(node, now_ms - 1);
        self.leave(node);
    }

    pub fn ask(&mut self, node: NodeId, from: u16, request: BackplaneRequest) {
        let link = self.links.iter_mut().find(|link| link.node == node).expect("the node is there");
        link.requests.push_back((from, request));
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A step in which everything may go wrong.
    pub fn step(&mut self, rng: &mut Rng, mishaps: &Mishaps, now_ms: u64) {
        let happens = |rng: &mut Rng, chance: u64| chance > 0 && rng.below(1000) < chance;
        if self.links.is_empty() {
            return;
        }
        let index = rng.below(self.links.len() as u64) as usize;
        if happens(rng, 20) {
            self.earlier = self.redis.clone();
        }
        if happens(rng, mishaps.forgets) && happens(rng, 200) {
            self.count("forgotten");
            self.forget(Redis::default(), rng, now_ms);
        } else if happens(rng, mishaps.forgets_partly) && happens(rng, 200) {
            self.count("forgotten_partly");
            self.forget(self.earlier.clone(), rng, now_ms);
        }
        let link = &mut self.links[index];
        if link.is_down {
            if happens(rng, mishaps.comes_back) {
                self.come_back(index);
            } else {
                self.refuse_all(index, rng);
            }
            return;
        }
        if happens(rng, mishaps.goes_down) {
            self.count("downs");
            return self.go_down(index, rng, now_ms);
        }
        if happens(rng, mishaps.hangs) {
            link.hangs_until = now_ms + rng.below(500);
        }
        if link.hangs_until > now_ms {
            return;
        }
        if happens(rng, mishaps.loses_announcement) && !link.announced.is_empty() {
            let at = rng.below(link.announced.len() as u64) as usize;
            if !matches!(link.announced[at].1, BackplaneNews::Told { .. }) {
                link.announced.remove(at);
                self.count("announcements_lost");
            }
        }
        for _ in 0..1 + rng.below(4) {
            self.execute(index, now_ms);
        }
        self.chores(index, now_ms);
    }

    /// Whether it is time for whoever has not looked yet what is lost, and all that are to be heard of it.
    pub fn is_time_to_look(&self, now_ms: u64) -> bool {
        !self.unlooked.is_empty() && now_ms + SETTLE_MS / 2 > self.settled_at
    }

    /// Does all that there is to do, without mishaps.
    pub fn settle(&mut self, now_ms: u64) {
        // A link that comes back only now waits, too, until all have looked.
        if !self.unlooked.is_empty() {
            self.settled_at = self.settled_at.max(now_ms + SETTLE_MS / 2);
        }
        for index in 0..self.links.len() {
            self.links[index].hangs_until = 0;
            if self.links[index].is_down {
                self.come_back(index);
            }
        }
        self.unlooked.clear();
        for index in 0..self.links.len() {
            let is_settled = now_ms >= self.settled_at;
            let has_work = |link: &Link| !link.requests.is_empty() || is_settled && !link.wishes.is_empty();
            while has_work(&self.links[index]) {
                self.execute(index, now_ms);
            }
            self.chores(index, now_ms);
        }
    }

    /// What a link tells next: of its commands or of its subscription.
    pub fn next_news(&mut self, rng: &mut Rng) -> Option<(NodeId, u16, BackplaneNews)> {
        let full: Vec<usize> = (0..self.links.len())
            .filter(|index| {
                !self.links[*index].answers.is_empty() || !self.links[*index].announced.is_empty()
            })
            .collect();
        let index = *full.get(rng.below(full.len().max(1) as u64) as usize)?;
        let link = &mut self.links[index];
        let of_commands = link.announced.is_empty() || (!link.answers.is_empty() && rng.chance(50));
        let queue = if of_commands { &mut link.answers } else { &mut link.announced };
        let (core, news) = queue.pop_front().expect("one of them has something");
        Some((link.node, core, news))
    }

    /// Another server is there, with other data: all connections are lost by that.
    fn forget(&mut self, redis: Redis, rng: &mut Rng, now_ms: u64) {
        for index in 0..self.links.len() {
            if !self.links[index].is_down {
                self.go_down(index, rng, now_ms);
            }
        }
        let is_gone = |node: &NodeId| self.links.iter().all(|link| link.node != *node);
        let has_lost = |(node, mark): (&NodeId, &u64)| redis.marks.get(node).copied().unwrap_or(0) < *mark;
        self.is_orphaned |= self.redis.marks.iter().filter(|(node, _)| is_gone(node)).any(has_lost);
        self.redis = redis;
        self.settled_at = now_ms + SETTLE_MS;
        self.unlooked = self.links.iter().map(|link| link.node).collect();
    }

    fn go_down(&mut self, index: usize, rng: &mut Rng, now_ms: u64) {
        // Some of what was sent is done, and nobody hears of it.
        let done = rng.below(4);
        for _ in 0..done {
            if let Some((_, request)) = self.links[index].requests.front()
                && matches!(request, BackplaneRequest::Publish(_) | BackplaneRequest::Append(_))
            {
                let refused = refuse(request);
                self.execute(index, now_ms);
                let link = &mut self.links[index];
                if let (Some((core, _)), Some(refused)) = (link.answers.pop_back(), refused) {
                    link.answers.push_back((core, refused));
                }
            }
        }
        let link = &mut self.links[index];
        link.is_down = true;
        // Messages from node to node are kept, and come later.
        link.announced.retain(|(_, news)| matches!(news, BackplaneNews::Told { .. }));
        for core in 0..link.cores as u16 {
            link.answers.push_back((core, BackplaneNews::Down(Some("it is played".into()))));
        }
        self.refuse_all(index, rng);
    }

    fn refuse_all(&mut self, index: usize, _rng: &mut Rng) {
        let link = &mut self.links[index];
        let mut later = VecDeque::new();
        let waiting = std::mem::take(&mut link.requests);
        for (core, request) in std::mem::take(&mut link.wishes).into_iter().chain(waiting) {
            match &request {
                // These are done when it can be: others would take the node to have what it has no more.
                BackplaneRequest::Release { .. }
                | BackplaneRequest::Replace { .. }
                | BackplaneRequest::ForgetSession { .. }
                | BackplaneRequest::FreeSession { .. } => {
                    later.push_back((core, request));
                    continue;
                }
                BackplaneRequest::Close { room } => drop(link.heard.remove(&**room)),
                _ => {}
            }
            if let Some(news) = refuse(&request) {
                link.answers.push_back((core, news));
            }
        }
        link.requests = later;
    }

    fn come_back(&mut self, index: usize) {
        let link = &mut self.links[index];
        link.is_down = false;
        if self.redis.marks.get(&link.node).copied().unwrap_or(0) < link.mark {
            // What this link wrote last is not there.
            self.redis.line = self.settled_at + 1_000_000 * link.mark;
            self.redis.marks.insert(link.node, link.mark);
            *self.counts.entry("losses_noticed").or_default() += 1;
        }
        (link.beat_at, link.look_at) = (0, 0);
        for core in 0..link.cores as u16 {
            link.answers.push_back((core, BackplaneNews::Down(None)));
        }
        self.count("comebacks");
    }

    /// What a link does now and then: it says that it lives, and looks where its rooms are.
    fn chores(&mut self, index: usize, now_ms: u64) {
        let lease_ms = LEASE_MS + self.grace_ms;
        let link = &mut self.links[index];
        if link.beat_at <= now_ms {
            link.beat_at = now_ms + LEASE_MS / 3;
            let was_late = self.redis.nodes.get(&link.node).is_none_or(|until| *until < now_ms);
            self.redis.nodes.insert(link.node, now_ms + LEASE_MS);
            let over = |until: &u64| *until + self.grace_ms + LEASE_MS < now_ms;
            self.redis.nodes.retain(|_, until| !over(until));
            let nodes = &self.redis.nodes;
            let living: Vec<NodeId> =
                nodes.iter().filter(|(_, until)| **until >= now_ms).map(|(n, _)| *n).collect();
            let lost: Vec<LostNode> = nodes
                .iter()
                .filter(|(_, until)| **until < now_ms)
                .map(|(node, until)| LostNode { node: *node, lost_ms: now_ms - *until })
                .collect();
            let lost_ids: Vec<NodeId> = lost.iter().map(|lost| lost.node).collect();
            if living != link.living || lost_ids != link.lost {
                let (tell, lost): (Arc<[NodeId]>, Arc<[LostNode]>) = (living.clone().into(), lost.into());
                for core in 0..link.cores as u16 {
                    let news = BackplaneNews::Nodes { living: tell.clone(), lost: lost.clone() };
                    link.answers.push_back((core, news));
                }
                (link.living, link.lost) = (living, lost_ids);
            }
            if was_late {
                *self.counts.entry("returned").or_default() += 1;
                for core in 0..link.cores as u16 {
                    link.answers.push_back((core, BackplaneNews::Returned));
                }
            }
            let is_settled = now_ms >= self.settled_at;
            let held: Vec<_> = link.held.iter().map(|(s, (n, t))| (*s, n.clone(), *t)).collect();
            for (session, nickname, has_token) in held {
                let outcome = self.redis.claim(
                    &nickname,
                    session,
                    has_token,
                    usize::MAX,
                    now_ms,
                    lease_ms,
                    false,
                    true,
                );
                if outcome == ClaimOutcome::PutOut || outcome != ClaimOutcome::Granted && is_settled {
                    *self.counts.entry("nicknames_lost").or_default() += 1;
                    link.held.remove(&session);
                    let is_put_out = outcome == ClaimOutcome::PutOut;
                    let news = BackplaneNews::NicknameLost { session, nickname, is_put_out };
                    link.answers.push_back((session.core, news));
                }
            }
            let mut moved = Vec::new();
            for (number, at) in &link.kept {
                match self.redis.sessions.get_mut(number) {
                    Some(session) if session.line != self.redis.line && !session.has_ended => {
                        link.answers.push_back((at.core, BackplaneNews::Unkept { session: *at }));
                    }
                    Some(session) if session.at.node == link.node && !session.has_ended => {
                        session.until_ms = now_ms + lease_ms
                    }
                    Some(_) if !is_settled => {}
                    Some(_) => {
                        let news = BackplaneNews::SessionMoved { number: *number, session: *at };
                        link.answers.push_back((at.core, news));
                        moved.push(*number);
                    }
                    None => link.answers.push_back((at.core, BackplaneNews::Unkept { session: *at })),
                }
            }
            for number in moved {
                link.kept.remove(&number);
                *self.counts.entry("sessions_moved").or_default() += 1;
            }
            self.redis.sessions.retain(|_, session| session.until_ms >= now_ms);
        }
        if link.look_at <= now_ms {
            link.look_at = now_ms + 100;
            for (room, core) in &link.heard {
                let data = self.redis.rooms.get(room);
                let is_doubtful = data.is_some_and(|data| data.line != self.redis.line);
                let at = data.map(|data| (data.epoch.clone(), data.position));
                link.answers
                    .push_back((*core, BackplaneNews::At { room: room.as_str().into(), at, is_doubtful }));
            }
        }
    }

    fn announce(&mut self, room: &str, entry: LogEntry) {
        let epoch = self.redis.rooms[room].epoch.clone();
        for link in self.links.iter_mut().filter(|link| !link.is_down) {
            if let Some(core) = link.heard.get(room) {
                let (room, epoch) = (room.into(), epoch.clone());
                let news = BackplaneNews::Entries { room, epoch, entries: vec![entry.clone()] };
                link.announced.push_back((*core, news));
            }
        }
    }

    /// Does what a link is asked next.
    fn execute(&mut self, index: usize, now_ms: u64) {
        let lease_ms = LEASE_MS + self.grace_ms;
        let link = &mut self.links[index];
        let node = link.node;
        let is_settled = now_ms >= self.settled_at;
        let wish = if is_settled { link.wishes.pop_front() } else { None };
        let Some((core, request)) = wish.or_else(|| link.requests.pop_front()) else { return };
        if !is_settled && is_of_others(&request) {
            return link.wishes.push_back((core, request));
        }
        link.mark += 1;
        self.redis.marks.insert(node, link.mark);
        let line = self.redis.line;
        let news = match request {
            BackplaneRequest::Open { room, make } => {
                let folded: String = room.folded().into();
                if let (Some(epoch), false) = (make, self.redis.rooms.contains_key(&folded)) {
                    self.redis.rooms.insert(folded.clone(), new_room(room, epoch, None, line));
                }
                let opened = self.redis.opened(&folded);
                if opened.as_ref().is_some_and(|opened| !opened.is_doubtful) {
                    link.heard.insert(folded.clone(), core);
                }
                Some(BackplaneNews::Opened { room: folded.into(), outcome: Ok(opened), is_catch_up: false })
            }
            BackplaneRequest::Close { room } => {
                link.heard.remove(&*room);
                None
            }
            BackplaneRequest::Publish(publish) => {
                let (room, tag) = (publish.at.room.clone(), publish.message.tag);
                if now_ms < self.settled_at {
                    let news = BackplaneNews::Published { room, tag, outcome: Err(Failed::Down) };
                    return link.answers.push_back((core, news));
                }
                let (outcome, entry) = self.redis.publish(*publish, now_ms);
                let is_repeated = outcome.as_ref().is_ok_and(|placed| placed.is_repeated);
                *self.counts.entry("repeated").or_default() += u64::from(is_repeated);
                if let Some(entry) = entry {
                    self.announce(&room, entry);
                }
                Some(BackplaneNews::Published { room, tag, outcome })
            }
            BackplaneRequest::Append(append) => {
                let (room, epoch, tag) = (append.at.room.clone(), append.at.epoch.clone(), append.tag);
                if now_ms < self.settled_at {
                    let news = BackplaneNews::Appended { room, epoch, tag, outcome: Err(Failed::Down) };
                    return link.answers.push_back((core, news));
                }
                let (outcome, entry) = self.redis.append(*append, node, now_ms);
                if let Some(entry) = entry {
                    self.announce(&room, entry);
                }
                Some(BackplaneNews::Appended { room, epoch, tag, outcome })
            }
            BackplaneRequest::CatchUp(at) => {
                *self.counts.entry("catch_ups_asked").or_default() += 1;
                Some(match self.redis.after(&at) {
                    Some(entries) => {
                        self.redis.rooms.get_mut(&*at.room).expect("it is not lost").line = line;
                        let RoomAt { room, epoch, .. } = at;
                        BackplaneNews::CaughtUp { room, epoch, outcome: Ok(entries) }
                    }
                    None => {
                        let outcome = Ok(self.redis.opened(&at.room));
                        BackplaneNews::Opened { room: at.room, outcome, is_catch_up: true }
                    }
                })
            }
            BackplaneRequest::Renew(renew) => {
                let room = renew.lost.room.clone();
                let has_other = self.redis.rooms.get(&*room).is_some_and(|r| r.epoch != renew.lost.epoch);
                let is_doubtful = self.redis.rooms.get(&*room).is_some_and(|r| r.line != line);
                let is_lost = self.redis.is_lost(&renew.lost);
                let has_more =
                    self.redis.rooms.get(&*room).is_some_and(|r| !is_lost && r.position != renew.lost.known);
                let may_renew = !has_other && !has_more && (is_doubtful || is_lost);
                if may_renew && renew.snapshot.is_none() {
                    if let Some(data) = self.redis.rooms.get_mut(&*room) {
                        *self.counts.entry("contradicted").or_default() += 1;
                        (data.epoch, data.line) = (renew.epoch, line);
                    }
                } else if may_renew {
                    *self.counts.entry("renewed").or_default() += 1;
                    let snapshot = renew.snapshot.map(|snapshot| (0, snapshot));
                    let mut renewed = new_room(renew.room, renew.epoch, snapshot, line);
                    renewed.position.offset = renew.lost.position.offset;
                    renewed.messages = renew.messages;
                    if let Some(before) = self.redis.rooms.remove(&*room) {
                        *self.counts.entry("carried_over").or_default() += renewed.carry_over(before);
                    }
                    self.redis.rooms.insert(room.to_string(), renewed);
                }
                let opened = self.redis.opened(&room);
                if opened.as_ref().is_some_and(|opened| !opened.is_doubtful) {
                    link.heard.insert(room.to_string(), core);
                }
                Some(BackplaneNews::Opened { room, outcome: Ok(opened), is_catch_up: false })
            }
            BackplaneRequest::Keep(keep) => {
                let room =
                    self.redis.rooms.get_mut(&*keep.at.room).filter(|room| room.epoch == keep.at.epoch);
                let change = keep.at.position.change;
                let Some(room) = room else { return };
                room.members = keep.members;
                if let Some(snapshot) = keep.snapshot
                    && room.snapshot.as_ref().is_none_or(|(at, _)| *at < change)
                {
                    room.snapshot = Some((change, snapshot));
                    room.changes.retain(|entry| entry.position().change + CHANGES_LEFT > change);
                    *self.counts.entry("snapshots").or_default() += 1;
                }
                None
            }
            BackplaneRequest::Page { wait, room, epoch, page } => {
                let data = self.redis.rooms.get(&*room).filter(|room| room.epoch == epoch);
                let mut entries: Vec<Entry> =
                    data.map(|room| room.messages.iter().filter_map(entry_of).collect()).unwrap_or_default();
                entries.retain(|entry| entry.offset > page.after && entry.offset < page.before);
                if page.is_ascending {
                    entries.truncate(page.limit);
                } else {
                    entries.drain(..entries.len().saturating_sub(page.limit));
                }
                let mut bytes = 0;
                let mut fits = |entry: &Entry| {
                    bytes += entry.content.len();
                    bytes <= page.bytes_max || bytes == entry.content.len()
                };
                if page.is_ascending {
                    let count = entries.iter().take_while(|entry| fits(entry)).count();
                    entries.truncate(count);
                } else {
                    let count = entries.iter().rev().take_while(|entry| fits(entry)).count();
                    entries.drain(..entries.len() - count);
                }
                Some(BackplaneNews::Page { wait, entries: Some(entries) })
            }
            BackplaneRequest::Utter { room, utterance } => {
                for link in self.links.iter_mut().filter(|link| !link.is_down) {
                    if let Some(core) = link.heard.get(&*room) {
                        let news =
                            BackplaneNews::Uttered { room: room.clone(), utterance: utterance.clone() };
                        link.announced.push_back((*core, news));
                    }
                }
                None
            }
            BackplaneRequest::Rooms { wait, after, limit } => {
                let after = after.map(|after| after.to_string()).unwrap_or_default();
                let rooms = self.redis.rooms.range(after.clone()..).filter(|(name, _)| **name != after);
                let rooms = rooms
                    .take(limit)
                    .map(|(_, room)| (room.name.clone(), room.members, room.position.offset));
                Some(BackplaneNews::Rooms { wait, rooms: Some(rooms.collect()) })
            }
            BackplaneRequest::Claim { wait, nickname, session, has_token, sessions_max } => {
                let is_given_up = link.given_up.get(nickname.folded()).is_some_and(|until| *until > now_ms);
                let outcome = self.redis.claim(
                    &nickname,
                    session,
                    has_token,
                    sessions_max,
                    now_ms,
                    lease_ms,
                    is_given_up,
                    false,
                );
                if outcome == ClaimOutcome::Granted {
                    self.links[index].held.insert(session, (nickname.clone(), has_token));
                }
                Some(BackplaneNews::Claimed { wait, nickname, session, outcome: Ok(outcome) })
            }
            BackplaneRequest::Replace { nickname, old, session, has_token } => {
                link.held.remove(&old);
                link.given_up.remove(nickname.folded());
                let is_put_out = self.redis.put_out.contains(&old);
                let taken = link.taken_from.remove(&session);
                let (from, places) = taken.unwrap_or_else(|| (old.node, Vec::new()));
                let nodes = [old.node, from];
                let mut before = link.before.remove(&old).unwrap_or(places);
                if !before.contains(&old) {
                    before.insert(0, old);
                }
                before.truncate(PLACES_MAX);
                let places = before.clone();
                link.before.insert(session, before);
                if !is_put_out
                    && self.redis.replace(&nickname, (&places, nodes), session, has_token, now_ms, lease_ms)
                {
                    link.held.insert(session, (nickname, has_token));
                    None
                } else {
                    *self.counts.entry("nicknames_lost").or_default() += 1;
                    let news = BackplaneNews::NicknameLost { session, nickname, is_put_out };
                    return link.answers.push_back((session.core, news));
                }
            }
            BackplaneRequest::Release { nickname, session } => {
                // A session may have two while it changes from one to the other.
                if link.held.get(&session).is_some_and(|(held, _)| *held == nickname) {
                    link.held.remove(&session);
                }
                if let Some(holders) = self.redis.nicknames.get_mut(nickname.folded()) {
                    holders.remove(&session);
                }
                None
            }
            BackplaneRequest::Find { wait, nickname } => {
                let holders = self.redis.nicknames.get(nickname.folded());
                let living = holders.into_iter().flatten().filter(|(_, holder)| holder.until_ms > now_ms);
                let living: Vec<_> = living.collect();
                let found = living.first().map(|(_, holder)| {
                    (holder.spelled.clone(), living.iter().map(|(session, _)| **session).collect())
                });
                Some(BackplaneNews::Found { wait, outcome: Ok(found) })
            }
            BackplaneRequest::KeepSession { number, session, revision, body, wait, is_given_up, .. } => {
                let known = self.redis.sessions.get(&number);
                let is_doubtful = known.is_some_and(|known| known.line != line);
                let is_ours = known.is_none_or(|known| known.at.node == session.node);
                let has_moved = known.is_some_and(|known| known.has_moved) || !is_ours && is_doubtful;
                // What another node had before a loss, and has not said since, it may have no more.
                let known = known.filter(|known| is_ours || !is_doubtful || known.has_ended);
                let is_others = known.is_some_and(|known| known.at.node != session.node || known.has_ended);
                let is_kept = known.is_none_or(|known| {
                    let is_taken_back = wait.is_some() && !is_given_up;
                    let is_taken = is_taken_back
                        && known.at != session
                        && (known.revision == revision
                            || known.revision + 1 == revision && known.at != known.known_as);
                    let is_newer =
                        known.revision < revision + u64::from(is_taken_back) || is_doubtful && !is_taken_back;
                    !known.has_ended && known.at.node == session.node && !is_taken && is_newer
                });
                if is_kept {
                    let until_ms = now_ms + lease_ms;
                    let (at, known_as) = (session, session);
                    let has_ended = false;
                    let kept = Session {
                        at,
                        known_as,
                        places: link.before.get(&session).cloned().unwrap_or_default(),
                        revision,
                        body,
                        is_given_up,
                        has_moved,
                        has_ended,
                        line,
                        until_ms,
                    };
                    self.redis.sessions.insert(number, kept);
                }
                if is_given_up || wait.is_some() && !is_kept {
                    link.kept.retain(|kept, at| *kept != number || *at != session);
                    // Its nickname goes with it, and waits for it where it is.
                    if let Some((nickname, _)) = link.held.remove(&session) {
                        let holders = self.redis.nicknames.get_mut(nickname.folded());
                        if let Some(holder) = holders.and_then(|holders| holders.get_mut(&session))
                            && !(is_given_up && is_kept)
                        {
                            holder.until_ms = now_ms + LEASE_MS;
                        }
                        link.given_up.insert(nickname.folded().into(), now_ms + lease_ms);
                    }
                } else if is_others && wait.is_none() && is_settled {
                    link.kept.remove(&number);
                    *self.counts.entry("sessions_moved").or_default() += 1;
                    link.answers.push_back((session.core, BackplaneNews::SessionMoved { number, session }));
                } else {
                    link.kept.insert(number, session);
                }
                wait.map(|wait| BackplaneNews::Kept { wait, outcome: Ok(is_kept) })
            }
            BackplaneRequest::ForgetSession { number, session } => {
                link.kept.remove(&number);
                let known = self.redis.sessions.get_mut(&number);
                match known.filter(|known| known.at.node == session.node || known.line != line) {
                    Some(known) if known.has_moved || known.at.node != session.node => {
                        (known.has_ended, known.until_ms) = (true, now_ms + lease_ms);
                    }
                    Some(_) => drop(self.redis.sessions.remove(&number)),
                    None => {}
                }
                None
            }
            BackplaneRequest::FreeSession { number, session } => {
                link.kept.remove(&number);
                if let Some(known) = self.redis.sessions.get_mut(&number).filter(|known| known.at == session)
                {
                    known.is_given_up = true;
                }
                None
            }
            BackplaneRequest::LookForSession { number, room, session } => {
                let known = self.redis.sessions.get(&number);
                let known = match known.filter(|known| known.until_ms >= now_ms && !known.has_ended) {
                    None => KnownSession::Ended,
                    Some(known) if known.at == session || known.at != known.known_as => {
                        KnownSession::OnItsWay
                    }
                    Some(known) => KnownSession::Kept { body: known.body.clone() },
                };
                Some(BackplaneNews::SessionKnown { room, session, known })
            }
            BackplaneRequest::TakeSession { wait, number, session, gone_from } => {
                let is_put_out = |known: &Session| {
                    let places = known.places.iter().chain([&known.at, &known.known_as]);
                    places.into_iter().any(|at| self.redis.put_out.contains(at))
                };
                if self.redis.sessions.get(&number).is_some_and(is_put_out) {
                    self.redis.sessions.remove(&number);
                }
                let nodes = &self.redis.nodes;
                let outcome = match self.redis.sessions.get_mut(&number).filter(|s| s.until_ms >= now_ms) {
                    None => TakeOutcome::Gone,
                    Some(known) if known.has_ended => TakeOutcome::Gone,
                    Some(known) if known.at.node == node && !known.is_given_up && gone_from != Some(node) => {
                        TakeOutcome::Held { node }
                    }
                    Some(known)
                        if !known.is_given_up
                            && gone_from != Some(known.at.node)
                            && nodes.get(&known.at.node).is_some_and(|until| *until >= now_ms) =>
                    {
                        TakeOutcome::Held { node: known.at.node }
                    }
                    Some(known) => {
                        *self.counts.entry("sessions_taken").or_default() += 1;
                        known.has_moved |= known.at.node != node;
                        let from = known.at.node;
                        if known.at != known.known_as {
                            if !known.places.contains(&known.known_as) {
                                known.places.insert(0, known.known_as);
                            }
                            known.places.insert(0, known.at);
                            known.places.truncate(PLACES_MAX);
                        }
                        known.at = session;
                        known.is_given_up = false;
                        known.until_ms = now_ms + lease_ms;
                        known.line = line;
                        self.links[index].kept.insert(number, session);
                        let (old, revision) = (known.known_as, known.revision);
                        let (places, body) = (known.places.clone(), known.body.clone());
                        self.links[index].taken_from.insert(session, (from, places.clone()));
                        TakeOutcome::Taken { old, places, revision, body }
                    }
                };
                Some(BackplaneNews::Taken { wait, number, session, outcome: Ok(outcome) })
            }
            BackplaneRequest::PutOut { wait, nickname } => {
                let nodes = &self.redis.nodes;
                let is_lost = |node: &NodeId| nodes.get(node).is_none_or(|until| *until < now_ms);
                let holders = self.redis.nicknames.entry(nickname.folded().into()).or_default();
                let lost: Vec<SessionRef> = holders.keys().filter(|at| is_lost(&at.node)).copied().collect();
                holders.retain(|at, _| !lost.contains(at));
                *self.counts.entry("put_out").or_default() += lost.len() as u64;
                let outcome = Ok(lost.len() as u64);
                self.redis.put_out.extend(lost);
                Some(BackplaneNews::PutOut { wait, outcome })
            }
            BackplaneRequest::Tell { node: to, message } => {
                self.tell(node, to, &message);
                None
            }
            BackplaneRequest::TellAll { message } => {
                let living: Vec<NodeId> = self.redis.nodes.keys().copied().filter(|to| *to != node).collect();
                for to in living {
                    self.tell(node, to, &message);
                }
                None
            }
        };
        if let Some(news) = news {
            self.links[index].answers.push_back((core, news));
        }
    }

    fn tell(&mut self, from: NodeId, to: NodeId, message: &NodeMessage) {
        let Some(link) = self.links.iter_mut().find(|link| link.node == to) else { return };
        let cores = link.cores as u64;
        let whom: Vec<u16> = match message {
            NodeMessage::PrivateDone { ask, .. }
            | NodeMessage::BroadcastDone { ask, .. }
            | NodeMessage::GivenUp { ask, .. } => vec![ask.core],
            NodeMessage::GiveUp { number, .. } | NodeMessage::Left { number, .. } => {
                vec![(number % cores) as u16]
            }
            NodeMessage::Private { target, .. } => vec![super::home_of(to, link.cores, target.folded())],
            NodeMessage::Broadcast { .. } | NodeMessage::PutOut { .. } => (0..cores as u16).collect(),
        };
        for core in whom {
            let message = Box::new(message.clone());
            link.announced.push_back((core, BackplaneNews::Told { from, message }));
        }
    }
}

fn new_room(name: RoomName, epoch: Arc<str>, snapshot: Option<(u64, String)>, line: u64) -> Room {
    Room {
        line,
        name,
        epoch,
        position: Position::default(),
        guard: 0,
        members: 0,
        messages: Vec::new(),
        changes: Vec::new(),
        snapshot,
        keys: BTreeMap::new(),
        tags: BTreeMap::new(),
    }
}

fn entry_of(entry: &LogEntry) -> Option<Entry> {
    let LogEntry::Message { position, timestamp_ms, message } = entry else { return None };
    let (sender, content) = (message.sender.clone(), message.content.clone());
    Some(Entry { offset: position.offset, timestamp_ms: *timestamp_ms, sender, content })
}

/// Whether it waits until all links have looked whether something is lost: whose something is.
fn is_of_others(request: &BackplaneRequest) -> bool {
    matches!(
        request,
        BackplaneRequest::Claim { .. }
            | BackplaneRequest::TakeSession { .. }
            | BackplaneRequest::LookForSession { .. }
            | BackplaneRequest::ForgetSession { .. }
    )
}

/// What is answered to a request that cannot be done, or of which nobody knows whether it was.
fn refuse(request: &BackplaneRequest) -> Option<BackplaneNews> {
    let down = Failed::Down;
    Some(match request {
        BackplaneRequest::Open { room, .. } => {
            BackplaneNews::Opened { room: room.folded().into(), outcome: Err(down), is_catch_up: false }
        }
        BackplaneRequest::Publish(publish) => BackplaneNews::Published {
            room: publish.at.room.clone(),
            tag: publish.message.tag,
            outcome: Err(down),
        },
        BackplaneRequest::Append(append) => {
            let RoomAt { room, epoch, .. } = append.at.clone();
            BackplaneNews::Appended { room, epoch, tag: append.tag, outcome: Err(down) }
        }
        BackplaneRequest::CatchUp(at) => {
            BackplaneNews::CaughtUp { room: at.room.clone(), epoch: at.epoch.clone(), outcome: Err(down) }
        }
        BackplaneRequest::Renew(renew) => {
            BackplaneNews::Opened { room: renew.lost.room.clone(), outcome: Err(down), is_catch_up: false }
        }
        BackplaneRequest::KeepSession { wait, .. } => {
            let wait = (*wait)?;
            BackplaneNews::Kept { wait, outcome: Err(down) }
        }
        BackplaneRequest::Page { wait, .. } => BackplaneNews::Page { wait: *wait, entries: None },
        BackplaneRequest::Rooms { wait, .. } => BackplaneNews::Rooms { wait: *wait, rooms: None },
        BackplaneRequest::Claim { wait, nickname, session, .. } => BackplaneNews::Claimed {
            wait: *wait,
            nickname: nickname.clone(),
            session: *session,
            outcome: Err(down),
        },
        BackplaneRequest::Find { wait, .. } => BackplaneNews::Found { wait: *wait, outcome: Err(down) },
        BackplaneRequest::TakeSession { wait, number, session, .. } => {
            BackplaneNews::Taken { wait: *wait, number: *number, session: *session, outcome: Err(down) }
        }
        BackplaneRequest::PutOut { wait, .. } => BackplaneNews::PutOut { wait: *wait, outcome: Err(down) },
        BackplaneRequest::Close { .. }
        | BackplaneRequest::Keep(_)
        | BackplaneRequest::Utter { .. }
        | BackplaneRequest::Replace { .. }
        | BackplaneRequest::Release { .. }
        | BackplaneRequest::ForgetSession { .. }
        | BackplaneRequest::FreeSession { .. }
        | BackplaneRequest::LookForSession { .. }
        | BackplaneRequest::Tell { .. }
        | BackplaneRequest::TellAll { .. } => return None,
    })
}
