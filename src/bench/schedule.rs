//! When an open-loop run sends what: decided before it begins, so that a slow server cannot slow the questions down and
//! so hide how long the answers took (coordinated omission).

/// The sends of one thread, in order of time.
///
/// Message m of the whole run is due m periods after the beginning and belongs to publisher m modulo their number; a
/// thread has the messages of its own publishers.
#[derive(Debug)]
pub struct Schedule {
    begin_ns: u64,
    end_ns: u64,
    period_ns: f64,
    /// The numbers of this thread's publishers, ascending.
    own: Vec<u32>,
    publishers: u64,
    /// The next one: which of `own`, in which round.
    place: usize,
    round: u64,
}

/// One message to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// When.
    pub due_ns: u64,
    /// By whom: an index into the thread's publishers.
    pub place: usize,
}

impl Schedule {
    /// `rate` messages a second of all `publishers` together, from `begin_ns` until before `end_ns`.
    pub fn new(rate: f64, publishers: usize, own: Vec<u32>, begin_ns: u64, end_ns: u64) -> Schedule {
        Schedule {
            begin_ns,
            end_ns,
            period_ns: 1e9 / rate,
            own,
            publishers: publishers as u64,
            place: 0,
            round: 0,
        }
    }

    /// When the next one is due, if there is one more.
    pub fn next_ns(&self) -> Option<u64> {
        let number = self.own.get(self.place)?;
        let index = self.round * self.publishers + u64::from(*number);
        // Exact to a nanosecond for a hundred days.
        let due_ns = self.begin_ns + (index as f64 * self.period_ns) as u64;
        (due_ns < self.end_ns).then_some(due_ns)
    }

    /// Takes the next one if it is due. Late ones keep the time that they were due at, and none is left out.
    pub fn take(&mut self, now_ns: u64) -> Option<Due> {
        let due_ns = self.next_ns().filter(|due_ns| *due_ns <= now_ns)?;
        let due = Due { due_ns, place: self.place };
        self.place += 1;
        if self.place == self.own.len() {
            self.place = 0;
            self.round += 1;
        }
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(schedule: &mut Schedule) -> Vec<Due> {
        std::iter::from_fn(|| schedule.take(u64::MAX)).collect()
    }

    #[test]
    fn a_stall_loses_no_send_and_moves_none() {
        let mut schedule = Schedule::new(1000.0, 1, vec![0], 0, 1_000_000_000);
        assert_eq!(schedule.take(0), Some(Due { due_ns: 0, place: 0 }));
        assert_eq!(schedule.take(999_999), None);
        // Asked again only after 300 ms.
        let late: Vec<u64> =
            std::iter::from_fn(|| schedule.take(300_000_000)).map(|due| due.due_ns).collect();
        assert_eq!(late.len(), 300);
        assert_eq!(late[0], 1_000_000);
        assert_eq!(late[299], 300_000_000);
    }

    proptest! {
        #[test]
        fn threads_share_the_messages(rate in 1.0f64..1e6, publishers in 1usize..20, threads in 1usize..5) {
            let end_ns = (500.0 * 1e9 / rate) as u64 + 1;
            let mut sent = Vec::new();
            for thread in 0..threads {
                let own: Vec<u32> = (0..publishers as u32).filter(|n| *n as usize % threads == thread).collect();
                let mut schedule = Schedule::new(rate, publishers, own.clone(), 7, 7 + end_ns);
                let due = all(&mut schedule);
                prop_assert!(due.is_sorted_by_key(|due| due.due_ns));
                sent.extend(due.iter().map(|due| (due.due_ns, own[due.place])));
            }
            sent.sort_unstable();
            prop_assert!((499..=502).contains(&sent.len()), "{}", sent.len());
            if rate < 1e5 {
                for (index, (_, publisher)) in sent.iter().enumerate() {
                    prop_assert_eq!(*publisher as usize, index % publishers);
                }
            }
        }
    }
}
