//! A node of which only the link is real: the test is its cores.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use starling::base::slots::Id;
use starling::chat::name::{Nickname, RoomName};
use starling::chat::user::{NodeId, SessionRef};
use starling::cluster::{self, ClusterError, Links, Running};
use starling::config::{Config, RedisUrls, Secret};
use starling::reactor::mailbox::Exchange;
use starling::shard::backplane::{
    Append, BackplaneNews, BackplaneRequest, Failed, LogEntry, OpenedRoom, Placed, Position, Publish, RoomAt,
    RoomOp, SharedMessage,
};
use starling::shard::mail::{Mail, Parcel};
use starling::sys::kernel::Sleeper;

/// How long something is waited for that must come.
const PATIENCE: Duration = Duration::from_secs(30);

pub const CORES: usize = 2;

pub struct Node {
    pub id: NodeId,
    pub resume_secret: [u8; 32],
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
        let links = Links {
            exchange: exchange.clone(),
            wakers: wakers.clone(),
            sleeper: sleepers.pop().unwrap(),
            stops: Arc::new(AtomicBool::new(false)),
            home: Box::new(|folded| folded.len() as u16 % CORES as u16),
            cores: CORES,
        };
        let running = Some(cluster::start(joined, links).unwrap());
        let heard = (0..CORES).map(|_| VecDeque::new()).collect();
        Ok(Node { id, resume_secret, exchange, wakers, sleepers, heard, running })
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
            None => panic!("it has not come; what has: {:?}", self.heard[usize::from(core)]),
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
            BackplaneNews::Opened { room: of, outcome } if **of == *room => Some(outcome.clone()),
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

    /// Waits until what is said in a room from now on will be heard.
    #[track_caller]
    pub fn heard_from_now(&mut self, room: &str) -> Option<(Arc<str>, Position)> {
        self.expect(0, |news| match news {
            BackplaneNews::At { room: of, at } if **of == *room => Some(at.clone()),
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

    #[track_caller]
    pub fn catch_up(&mut self, at: &RoomAt) -> Vec<LogEntry> {
        self.ask(0, BackplaneRequest::CatchUp(at.clone()));
        self.entries(&at.room)
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
    RoomAt { room: room.into(), epoch: epoch.into(), position: Position { change, offset } }
}

pub fn join_of(session: SessionRef, name: &str) -> RoomOp {
    RoomOp::Join { session, nickname: nickname(name), is_admin: false }
}

pub fn said(node: NodeId, content: &str, tag: u64) -> SharedMessage {
    SharedMessage { sender: nickname("ann"), content: content.into(), from: None, node, tag }
}

pub fn say(at: &RoomAt, node: NodeId, content: &str, tag: u64) -> BackplaneRequest {
    let message = said(node, content, tag);
    BackplaneRequest::Publish(Box::new(Publish { at: at.clone(), message, kept: 1000, key: None }))
}

/// What entries are, in short: `m` and an offset, or `c` and a number.
pub fn short(entries: &[LogEntry]) -> Vec<String> {
    let one = |entry: &LogEntry| match entry {
        LogEntry::Message { position, message, .. } => format!("m{} {}", position.offset, message.content),
        LogEntry::Change { position, .. } => format!("c{}", position.change),
    };
    entries.iter().map(one).collect()
}
