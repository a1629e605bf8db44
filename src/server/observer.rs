//! The thread that sees all cores: it adds their numbers and asks the kernel, when somebody asks it, so that no core has to.

use std::io;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::base::stats::Counters;
use crate::observe::metrics::{self, About, Format};
use crate::reactor::mailbox::Exchange;
use crate::reactor::teller::Teller;
use crate::shard::mail::{ConnectionRef, Mail, Parcel, Reply};
use crate::shard::observer::{Document, Observer, Question};
use crate::sys::waker::{self, Waker};
use crate::sys::{process, threads};

/// Questions that may wait. Whoever asks more finds no place, and is told so.
const QUESTIONS_MAX: usize = 64;

/// How soon a core whose mailbox is full is tried again, in milliseconds.
const RETRY_MS: u64 = 1;

#[derive(Debug)]
struct Line(Sender<(ConnectionRef, Question)>);

impl Observer for Line {
    fn ask(&self, from: ConnectionRef, question: Question) -> bool {
        self.0.try_send((from, question)).is_ok()
    }
}

/// The line to the thread, and the end of it that the thread is started with.
pub fn line() -> (Arc<dyn Observer>, Receiver<(ConnectionRef, Question)>) {
    let (asks, asked) = bounded(QUESTIONS_MAX);
    (Arc::new(Line(asks)), asked)
}

/// What the thread is started with.
pub struct Start {
    /// Where it is asked.
    pub asked: Receiver<(ConnectionRef, Question)>,
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
}

/// Starts the thread, which ends with the cores.
///
/// # Errors
/// When the kernel has no thread to give.
pub fn start(start: Start) -> io::Result<()> {
    let Start { asked, counters, exchange, wakers, started_ms, node } = start;
    threads::spawn("observer".into(), move || {
        let mut teller = Teller::new(exchange, counters.len());
        while let Ok((from, question)) = asked.recv() {
            let document = match question {
                Question::Metrics { is_open_metrics } => {
                    let format = if is_open_metrics { Format::OpenMetrics } else { Format::Text };
                    let about = About { started_ms, process: process::figures(), node };
                    let body = metrics::render(&counters, &about, format).into_bytes();
                    Document { content_type: format.content_type(), body }
                }
            };
            let reply = Reply::Document(Box::new(document));
            let mail = Mail::ApiReply { to: from.connection, home: from.core, reply };
            teller.tell(usize::from(from.core), mail);
            while !teller.deliver(|core| waker::wake(&wakers, core)) {
                threads::sleep_ms(RETRY_MS);
            }
        }
    })?;
    Ok(())
}
