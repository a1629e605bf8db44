//! A node of which only the link is real: the test is its cores.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use starling::base::slots::Id;
use starling::chat::name::{Nickname, RoomName};
use starling::chat::user::{NodeId, SessionRef};
use starling::cluster::{self, ClusterError, Links, Running};
use starling::config::{Config, RedisUrls, Secret};
use starling::reactor::mailbox::Exchange;
use starling::record::HistoryPage;
use starling::shard::backplane::{
    Append, BackplaneNews, BackplaneRequest, ClaimOutcome, Failed, LogEntry, NodeMessage, OpenedRoom, Placed,
    Position, Publish, Renew, RoomAt, RoomOp, SharedMessage, TakeOutcome,
};
use starling::shard::mail::{Mail, Parcel};
use starling::sys::kernel::Sleeper;

/// How long something is waited for that must come.
const PATIENCE: Duration = Duration::from_secs(30);

pub const CORES: usize = 2;

pub struct Node {
    pub id: NodeId,
    pub resume_secret: [u8; 32],
    /// Those of others that were learned.
    pub accepted: Arc<Mutex<Vec<[u8; 32]>>>,
    exchange: Arc<Exchange<Parcel>>,
    wakers: Arc<Vec<starling::sys::waker::Waker>>,
    sleepers: Vec<Sleeper>,
    heard: Vec<VecDeque<BackplaneNews>>,
    running: Option<Running>,
}

/// As most tests want it: quick to notice, slow to look.
pub fn config(urls: &[String]) -> Config {
    let mut config = Config::default();
    config.cluster.redis = RedisUrls(urls.iter().cloned().map(Secret).collect());
    config.cluster.deadline_ms = 1000;
    config.cluster.look_ms = 3_600_000;
    config
}

impl Node {
    pub fn start(config: &Config) -> Self {
        Self::try_start(config, "").unwrap()
    }

    pub fn try_start(config: &Config, digest: &str) -> Result<Self, ClusterError> {
        let joined = cluster::join(config, digest)?;
        let (mut sleepers, wakers): (Vec<_>, Vec<_>) = (0..=CORES).map(|_| Sleeper::new().unwrap()).unzip();
        let exchange = Arc::new(Exchange::new(CORES + 1, 1024));
        let wakers = Arc::new(wakers);
        let (id, resume_secret) = (joined.node, joined.resume_secret);
        let accepted: Arc<Mutex<Vec<_>>> = Arc::default();
        let links = Links {
            exchange: exchange.clone(),
            wakers: wakers.clone(),
            sleeper: sleepers.pop().unwrap(),
            stops: Arc::new(AtomicBool::new(false)),
            home: Box::new(|folded| folded.len() as u16 % CORES as u16),
            accept: Box::new({
                let accepted = accepted.clone();
                move |secret| accepted.lock().unwrap().push(secret)
            }),
            cores: CORES,
        };
        let running = Some(cluster::start(joined, links).unwrap());
        let heard = (0..CORES).map(|_| VecDeque::new()).collect();
        Ok(Node { id, resume_secret, accepted, exchange, wakers, sleepers, heard, running })
    }

    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }

    pub fn ask(&self, core: u16, request: BackplaneRequest) {
        self.ask_all(core, vec![request]);
    }

    /// Asks all at once.
    pub fn ask_all(&self, core: u16, requests: Vec<BackplaneRequest>) {
        let mail =
            requests.into_iter().map(|request| Mail::BackplaneRequest { from: core, request }).collect();
        let mailbox = self.exchange.mailbox(CORES);
        mailbox.push(Parcel { from: core, mail }).expect("the mailbox has room");
        if mailbox.doorbell.ring() {
            self.wakers[CORES].wake().unwrap();
        }
    }

    /// Waits for what `find` wants. What it does not want waits for others.
    #[track_caller]
    pub fn expect<T>(&mut self, core: u16, find: impl FnMut(&BackplaneNews) -> Option<T>) -> T {
        match self.wait(core, PATIENCE, find) {
            Some(found) => found,
            None => {
                let heard = &self.heard[usize::from(core)];
                let last: Vec<_> = heard.iter().rev().take(8).collect();
                panic!("it has not come; of {} others that have, the last: {last:.1000?}", heard.len())
            }
        }
    }

    fn wait<T>(
        &mut self,
        core: u16,
        patience: Duration,
        mut find: impl FnMut(&BackplaneNews) -> Option<T>,
    ) -> Option<T> {
        let core = usize::from(core);
        let until = Instant::now() + patience;
        let mut seen = 0;
        loop {
            while seen < self.heard[core].len() {
                if let Some(found) = find(&self.heard[core][seen]) {
                    self.heard[core].remove(seen);
                    return Some(found);
                }
                seen += 1;
            }
            let mailbox = self.exchange.mailbox(core);
            while let Some(parcel) = mailbox.pop() {
                self.heard[core].extend(parcel.mail.into_iter().filter_map(|mail| match mail {
                    Mail::Backplane(news) => Some(news),
                    _ => None,
                }));
            }
            if seen < self.heard[core].len() {
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            if mailbox.doorbell.park(|| !mailbox.is_empty()) {
                self.sleepers[core].sleep(Some(left));
            }
            mailbox.doorbell.unpark();
        }
    }

    /// What has come so far, and is taken.
    pub fn take(&mut self, core: u16) -> Vec<BackplaneNews> {
        self.wait(core, Duration::ZERO, |_| None::<()>);
        self.heard[usize::from(core)].drain(..).collect()
    }

    #[track_caller]
    pub fn opened(&mut self, room: &str) -> Result<Option<Box<OpenedRoom>>, Failed> {
        self.expect(0, |news| match news {
            BackplaneNews::Opened { room: of, outcome, .. } if **of == *room => Some(outcome.clone()),
            _ => None,
        })
    }

    /// Opens a room, which begins with the epoch if it is not there.
    #[track_caller]
    pub fn open(&mut self, room: &str, epoch: &str) -> Result<Option<Box<OpenedRoom>>, Failed> {
        let make = (!epoch.is_empty()).then(|| epoch.into());
        self.ask(0, BackplaneRequest::Open { room: RoomName::parse(room).unwrap(), make });
        let folded = RoomName::parse(room).unwrap();
        self.opened(folded.folded())
    }

    /// Waits until a room is looked at: so it is when what is said in it is heard from now on.
    #[track_caller]
    pub fn looked_at(&mut self, room: &str) -> Option<(Arc<str>, Position)> {
        self.expect(0, |news| match news {
            BackplaneNews::At { room: of, at, .. } if **of == *room => Some(at.clone()),
            _ => None,
        })
    }

    #[track_caller]
    pub fn published(&mut self, tag: u64) -> Result<Placed, Failed> {
        self.expect(0, |news| match news {
            BackplaneNews::Published { tag: of, outcome, .. } if *of == tag => Some(outcome.clone()),
            _ => None,
        })
    }

    #[track_caller]
    pub fn publish(&mut self, at: &RoomAt, content: &str, tag: u64) -> Result<Placed, Failed> {
        self.ask(0, say(at, self.id, content, tag));
        self.published(tag)
    }

    #[track_caller]
    pub fn appended(&mut self, tag: u64) -> Result<Position, Failed> {
        self.expect(0, |news| match news {
            BackplaneNews::Appended { tag: of, outcome, .. } if *of == tag => Some(*outcome),
            _ => None,
        })
    }

    #[track_caller]
    pub fn append(&mut self, at: &RoomAt, op: RoomOp, tag: u64, is_guard: bool) -> Result<Position, Failed> {
        let append = Append { at: at.clone(), ops: vec![op], tag, is_guard };
        self.ask(0, BackplaneRequest::Append(Box::new(append)));
        self.appended(tag)
    }

    /// The next entries of a room that are told.
    #[track_caller]
    pub fn entries(&mut self, room: &str) -> Vec<LogEntry> {
        self.expect(0, |news| match news {
            BackplaneNews::Entries { room: of, entries, .. } if **of == *room => Some(entries.clone()),
            _ => None,
        })
    }

    /// The same, if it comes in time.
    pub fn entries_within(&mut self, room: &str, patience: Duration) -> Option<Vec<LogEntry>> {
        self.wait(0, patience, |news| match news {
            BackplaneNews::Entries { room: of, entries, .. } if **of == *room => Some(entries.clone()),
            _ => None,
        })
    }

    /// What is new of what comes of catching up, where the room is still what it was.
    #[track_caller]
    pub fn catch_up(&mut self, at: &RoomAt) -> Result<Vec<LogEntry>, Failed> {
        let is_new = |entry: &LogEntry| match entry {
            LogEntry::Message { position, .. } => position.offset > at.position.offset,
            LogEntry::Change { position, .. } => position.change > at.position.change,
        };
        let entries = self.catch_up_from(at)?;
        Ok(entries.into_iter().filter(is_new).collect())
    }

    /// All that comes of it.
    #[track_caller]
    pub fn catch_up_from(&mut self, at: &RoomAt) -> Result<Vec<LogEntry>, Failed> {
        self.ask(0, BackplaneRequest::CatchUp(at.clone()));
        self.expect(0, |news| match news {
            BackplaneNews::CaughtUp { room, outcome, .. } if *room == at.room => Some(outcome.clone()),
            _ => None,
        })
    }

    /// Says something until it has a place: after a failure nothing gets one for a while.
    #[track_caller]
    pub fn publish_at_last(&mut self, at: &RoomAt, content: &str, tag: u64) -> Result<Placed, Failed> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.publish(at, content, tag) {
                Err(Failed::Down) if Instant::now() < until => _ = self.open(&at.room, ""),
                other => return other,
            }
        }
    }

    #[track_caller]
    pub fn claim(
        &mut self,
        name: &str,
        session: SessionRef,
        has_token: bool,
    ) -> Result<ClaimOutcome, Failed> {
        self.ask(0, claim(name, session, has_token));
        self.expect(0, |news| match news {
            BackplaneNews::Claimed { session: of, outcome, .. } if *of == session => Some(*outcome),
            _ => None,
        })
    }

    /// The spelling of a nickname, and who has it.
    #[track_caller]
    pub fn find(&mut self, name: &str) -> Option<(String, Vec<SessionRef>)> {
        self.ask(0, BackplaneRequest::Find { wait: wait(77), nickname: nickname(name) });
        self.expect(0, |news| match news {
            BackplaneNews::Found { outcome, .. } => Some(outcome.clone()),
            _ => None,
        })
        .unwrap()
        .map(|(nickname, mut sessions)| {
            sessions.sort();
            (nickname.as_str().to_owned(), sessions)
        })
    }

    /// Keeps a session of this node.
    #[track_caller]
    pub fn keep(&mut self, number: u64, session: SessionRef, revision: u64, is_given_up: bool) -> bool {
        let (body, wait) = (format!("body {revision}"), Some(wait(revision as u32)));
        let nickname = nickname(&format!("s{number}"));
        let keep =
            BackplaneRequest::KeepSession { number, session, nickname, revision, body, wait, is_given_up };
        self.ask(0, keep);
        let kept = self.expect(0, |news| match news {
            BackplaneNews::Kept { wait: of, outcome } if Some(*of) == wait => Some(*outcome),
            _ => None,
        });
        kept.unwrap()
    }

    /// Ends the sessions of a nickname that lost nodes have.
    #[track_caller]
    pub fn put_out(&mut self, name: &str) -> u64 {
        self.ask(0, BackplaneRequest::PutOut { wait: wait(8), nickname: nickname(name) });
        let outcome = self.expect(0, |news| match news {
            BackplaneNews::PutOut { outcome, .. } => Some(*outcome),
            _ => None,
        });
        outcome.unwrap()
    }

    #[track_caller]
    pub fn take_session(&mut self, number: u64, session: SessionRef) -> TakeOutcome {
        self.try_to_take(number, session).unwrap()
    }

    #[track_caller]
    pub fn try_to_take(&mut self, number: u64, session: SessionRef) -> Result<TakeOutcome, Failed> {
        let gone_from = None;
        self.ask(0, BackplaneRequest::TakeSession { wait: wait(9), number, session, gone_from });
        self.expect(0, |news| match news {
            BackplaneNews::Taken { number: of, outcome, .. } if *of == number => Some(outcome.clone()),
            _ => None,
        })
    }

    /// Waits until exactly these nodes live, and so many are lost.
    #[track_caller]
    pub fn nodes(&mut self, living: &[NodeId], lost: &[NodeId]) {
        let sorted = |nodes: &[NodeId]| {
            let mut nodes = nodes.to_vec();
            nodes.sort_unstable();
            nodes
        };
        let (wanted, missed) = (sorted(living), sorted(lost));
        self.expect(0, |news| match news {
            BackplaneNews::Nodes { living, lost } => {
                let lost: Vec<NodeId> = lost.iter().map(|lost| lost.node).collect();
                (**living == *wanted && sorted(&lost) == missed).then_some(())
            }
            _ => None,
        });
    }

    /// The next message of another node for a core.
    #[track_caller]
    pub fn told(&mut self, core: u16) -> (NodeId, NodeMessage) {
        self.expect(core, |news| match news {
            BackplaneNews::Told { from, message } => Some((*from, (**message).clone())),
            _ => None,
        })
    }

    #[track_caller]
    pub fn rooms(&mut self, after: Option<&str>, limit: usize) -> Vec<(String, u64, u64)> {
        let after = after.map(Into::into);
        self.ask(0, BackplaneRequest::Rooms { wait: wait(5), after, limit });
        let rooms = self.expect(0, |news| match news {
            BackplaneNews::Rooms { rooms, .. } => Some(rooms.clone()),
            _ => None,
        });
        let rooms = rooms.unwrap().into_iter();
        rooms.map(|(name, members, offset)| (name.as_str().to_owned(), members, offset)).collect()
    }

    /// Messages of a room by their offsets.
    #[track_caller]
    pub fn page(&mut self, room: &str, epoch: &str, page: HistoryPage) -> Vec<u64> {
        let (room, epoch) = (room.into(), epoch.into());
        self.ask(0, BackplaneRequest::Page { wait: wait(6), room, epoch, page });
        let entries = self.expect(0, |news| match news {
            BackplaneNews::Page { entries, .. } => Some(entries.clone()),
            _ => None,
        });
        entries.unwrap().iter().map(|entry| entry.offset).collect()
    }

    #[track_caller]
    pub fn down(&mut self) -> Box<str> {
        self.expect(0, |news| match news {
            BackplaneNews::Down(Some(why)) => Some(why.clone()),
            _ => None,
        })
    }

    #[track_caller]
    pub fn back(&mut self) {
        self.expect(0, |news| matches!(news, BackplaneNews::Down(None)).then_some(()));
    }

    pub fn session(&self, index: u32) -> SessionRef {
        SessionRef { node: self.id, core: 0, session: Id { index, generation: 0 } }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn nickname(name: &str) -> Nickname {
    Nickname::parse(name).unwrap()
}

pub fn wait(index: u32) -> Id {
    Id { index, generation: 0 }
}

pub fn at(room: &str, epoch: &str, change: u64, offset: u64) -> RoomAt {
    let position = Position { change, offset };
    RoomAt { room: room.into(), epoch: epoch.into(), position, known: position }
}

pub fn join_of(session: SessionRef, name: &str) -> RoomOp {
    RoomOp::Join { session, nickname: nickname(name), is_admin: false }
}

pub fn said(node: NodeId, content: &str, tag: u64) -> SharedMessage {
    SharedMessage { sender: nickname("ann"), content: content.into(), from: None, node, tag }
}

pub fn say(at: &RoomAt, node: NodeId, content: &str, tag: u64) -> BackplaneRequest {
    let message = said(node, content, tag);
    BackplaneRequest::Publish(Box::new(Publish { at: at.clone(), message, kept: 10_000, key: None }))
}

pub fn claim(name: &str, session: SessionRef, has_token: bool) -> BackplaneRequest {
    let nickname = nickname(name);
    BackplaneRequest::Claim { wait: wait(1), nickname, session, has_token, sessions_max: 2 }
}

/// With a message at each offset that the copy has seen.
pub fn renewal(lost: &RoomAt, epoch: &str, snapshot: &str) -> BackplaneRequest {
    let room = RoomName::parse(&lost.room).unwrap();
    let (epoch, snapshot) = (epoch.into(), Some(snapshot.to_owned()).filter(|snapshot| !snapshot.is_empty()));
    let messages = (1..=lost.position.offset).map(|offset| LogEntry::Message {
        position: Position { change: 0, offset },
        timestamp_ms: offset,
        message: said(0, &format!("of the copy {offset}"), 0),
    });
    let (lost, messages) = (lost.clone(), messages.collect());
    BackplaneRequest::Renew(Box::new(Renew { room, lost, epoch, snapshot, messages }))
}

/// What entries are, in short: `m` and an offset, or `c` and a number.
pub fn short(entries: &[LogEntry]) -> Vec<String> {
    let one = |entry: &LogEntry| match entry {
        LogEntry::Message { position, message, .. } => format!("m{} {}", position.offset, message.content),
        LogEntry::Change { position, .. } => format!("c{}", position.change),
    };
    entries.iter().map(one).collect()
}
