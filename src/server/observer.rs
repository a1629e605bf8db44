//! The thread that sees all cores: it adds their numbers and asks the kernel, when somebody asks it, so that no core has to.
//! While there are dashboards it also asks the cores what those show, once a second.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, select};

use super::dashboard::{self, Dashboard, Watchers};

use crate::base::stats::Counters;
use crate::observe::logging::Control;
use crate::observe::metrics::{self, About, Format, LogLines, Sizes};
use crate::reactor::mailbox::Exchange;
use crate::reactor::teller::Teller;
use crate::reactor::{Os, link_bytes};
use crate::shard::footprint;
use crate::shard::mail::{ConnectionRef, Mail, Parcel, Reply};
use crate::shard::observer::{Document, Observer, Question, Report};
use crate::sys::kernel::Kernel;
use crate::sys::waker::{self, Waker};
use crate::sys::{process, threads};

/// Questions that may wait. Whoever asks more finds no place, and is told so.
const QUESTIONS_MAX: usize = 64;

/// How soon a core whose mailbox is full is tried again, in milliseconds.
const RETRY_MS: u64 = 1;

/// How long is slept when there is nothing to do: there is no "for ever" beside other things to wait for.
const IDLE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Line {
    asks: Sender<(ConnectionRef, Question)>,
    reports: Sender<Box<Report>>,
    wakes: Sender<()>,
    watchers: Arc<Watchers>,
}

impl Observer for Line {
    fn ask(&self, from: ConnectionRef, question: Question) -> bool {
        self.asks.try_send((from, question)).is_ok()
    }

    fn begin_watch(&self, core: u16) -> bool {
        let has_place = self.watchers.enter(usize::from(core));
        // Where that is full the thread is about to wake anyway.
        let _ = self.wakes.try_send(());
        has_place
    }

    fn end_watch(&self, core: u16) {
        self.watchers.leave(usize::from(core));
    }

    fn report(&self, report: Box<Report>) {
        // There is place: each core is asked for another when it has sent the last.
        let _ = self.reports.try_send(report);
    }
}

/// The thread's ends of the lines to it.
pub struct Asked {
    asked: Receiver<(ConnectionRef, Question)>,
    reported: Receiver<Box<Report>>,
    woken: Receiver<()>,
    watchers: Arc<Watchers>,
}

/// The line to the thread, and the end of it that the thread is started with: for so many cores and dashboards.
pub fn line(cores: usize, watchers: usize) -> (Arc<dyn Observer>, Asked) {
    let (asks, asked) = bounded(QUESTIONS_MAX);
    let (reports, reported) = bounded(cores);
    let (wakes, woken) = bounded(1);
    let watchers = Arc::new(Watchers::new(cores, watchers));
    let line = Line { asks, reports, wakes, watchers: watchers.clone() };
    (Arc::new(line), Asked { asked, reported, woken, watchers })
}

/// What the thread is started with.
pub struct Start {
    /// Where it is asked.
    pub asked: Asked,
    /// The numbers of each core.
    pub counters: Vec<Arc<Counters>>,
    /// The mailboxes of the cores.
    pub exchange: Arc<Exchange<Parcel>>,
    /// Wakes them.
    pub wakers: Arc<Vec<Waker>>,
    /// When the server was started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// The node.
    pub node: u32,
    /// Bytes of the journals of all cores.
    pub journal_bytes: usize,
    /// The log.
    pub log: Control,
}

/// What an idle client takes of memory.
const IDLE_BYTES: [(&str, usize); 6] = footprint::idle_bytes(link_bytes::<<Kernel as Os>::Socket>());

/// What the places of the tables take of it.
const SIZES: Sizes = Sizes {
    connection_bytes: footprint::connection_bytes(link_bytes::<<Kernel as Os>::Socket>()),
    session_bytes: footprint::session_bytes(),
    journal_bytes: 0,
};

/// Starts the thread, which ends with the cores.
///
/// # Errors
/// When the kernel has no thread to give.
pub fn start(start: Start) -> io::Result<()> {
    let Start { asked, counters, exchange, wakers, started_ms, node, journal_bytes, log } = start;
    let Asked { asked, reported, woken, watchers } = asked;
    let sizes = Sizes { journal_bytes, ..SIZES };
    let about = dashboard::About { started_ms, node, sizes };
    let mut dashboard = Dashboard::new(counters.clone(), exchange.clone(), watchers, about);
    threads::spawn("observer".into(), move || {
        let mut teller = Teller::new(exchange, counters.len());
        loop {
            let wait = dashboard.wait(Instant::now()).unwrap_or(IDLE);
            select! {
                recv(asked) -> question => match question {
                    Ok((from, question)) => {
                        let document = answer(question, &counters, &about, &log);
                        let reply = Reply::Document(Box::new(document));
                        let mail = Mail::ApiReply { to: from.connection, home: from.core, reply };
                        teller.tell(usize::from(from.core), mail);
                    }
                    Err(_) => return,
                },
                recv(reported) -> report => {
                    if let Ok(report) = report {
                        dashboard.hear(report);
                    }
                }
                recv(woken) -> _ => {}
                default(wait) => {}
            }
            dashboard.go_on(Instant::now(), &mut teller, process::figures);
            while !teller.deliver(|core| waker::wake(&wakers, core)) {
                threads::sleep_ms(RETRY_MS);
            }
        }
    })?;
    Ok(())
}

fn answer(
    question: Question,
    counters: &[Arc<Counters>],
    about: &dashboard::About,
    log: &Control,
) -> Document {
    match question {
        Question::Metrics { is_open_metrics } => {
            let format = if is_open_metrics { Format::OpenMetrics } else { Format::Text };
            let log = LogLines { left_out: log.left_out(), suppressed: log.suppressed() };
            let dashboard::About { started_ms, node, sizes } = *about;
            let process = process::figures();
            let about = About { started_ms, process, node, idle_bytes: &IDLE_BYTES, sizes, log };
            let body = metrics::render(counters, &about, format).into_bytes();
            Document { content_type: format.content_type(), body }
        }
    }
}
