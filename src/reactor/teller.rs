//! Tells the cores things, for a thread that is none of them.

use std::sync::Arc;

use super::mailbox::Exchange;
use crate::shard::mail::{Mail, Parcel};

/// What a thread has for the cores. What finds a full mailbox is kept: whoever tells more than is asked for looks at
/// [`Teller::deliver`]'s answer first.
#[derive(Debug)]
pub struct Teller {
    exchange: Arc<Exchange<Parcel>>,
    kept: Vec<Vec<Mail>>,
}

impl Teller {
    /// For so many cores, whose mailboxes are the first.
    pub fn new(exchange: Arc<Exchange<Parcel>>, cores: usize) -> Self {
        Teller { exchange, kept: (0..cores).map(|_| Vec::new()).collect() }
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.kept.len()
    }

    /// Has something for a core; for one that there is not, nothing.
    pub fn tell(&mut self, core: usize, mail: Mail) {
        if let Some(kept) = self.kept.get_mut(core) {
            kept.push(mail);
        }
    }

    /// Has something for all cores.
    pub fn tell_all(&mut self, mail: impl Fn() -> Mail) {
        for core in 0..self.cores() {
            self.tell(core, mail());
        }
    }

    /// Delivers what there is, and says whether all of it had place. `wake` wakes a core that sleeps.
    pub fn deliver(&mut self, mut wake: impl FnMut(usize)) -> bool {
        let mut is_all = true;
        for core in 0..self.kept.len() {
            if self.kept[core].is_empty() {
                continue;
            }
            let mailbox = self.exchange.mailbox(core);
            let parcel = Parcel { from: self.kept.len() as u16, mail: std::mem::take(&mut self.kept[core]) };
            match mailbox.push(parcel) {
                Ok(()) if mailbox.doorbell.ring() => wake(core),
                Ok(()) => {}
                Err(parcel) => {
                    self.kept[core] = parcel.mail;
                    is_all = false;
                }
            }
        }
        is_all
    }
}
