//! What became of a session's commands, by the ids that its client gave them: the same id again gets the same answer.

use std::collections::{HashMap, VecDeque};

use crate::base::time::Tick;

/// The remembered ids. Owns no memory while it is empty.
#[derive(Debug)]
pub struct Window<A> {
    /// Keyed by text that peers choose, so with the standard library's keyed hash.
    answers: HashMap<Box<str>, (u64, Option<A>)>,
    /// The same ids in the order in which they came, with when and with their number, which only grows while there are any.
    order: VecDeque<(Tick, u64, Box<str>)>,
    last_number: u64,
}

/// What is known of an id.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a, A> {
    /// Nothing.
    New,
    /// Its command has not been answered yet.
    Waiting,
    /// It was answered so.
    Done(&'a A),
}

impl<A> Default for Window<A> {
    fn default() -> Self {
        Window { answers: HashMap::new(), order: VecDeque::new(), last_number: 0 }
    }
}

impl<A> Window<A> {
    /// Looks an id up, after forgetting those that are older than `keep_ms`. What came after a command that still waits is
    /// looked at when that is answered.
    pub fn look(&mut self, id: &str, now: Tick, keep_ms: u64) -> Seen<'_, A> {
        while let Some((since, _, oldest)) = self.order.front() {
            if self.is_waiting(oldest) || now.since(*since) < keep_ms {
                break;
            }
            self.remove(0);
        }
        match self.answers.get(id) {
            None => Seen::New,
            Some((_, None)) => Seen::Waiting,
            Some((_, Some(answer))) => Seen::Done(answer),
        }
    }

    /// Remembers that the command of `id` is under way, and forgets the oldest answers over `ids_max`.
    ///
    /// What waits is never forgotten, or the same id again would be obeyed a second time: the caller bounds how many
    /// commands are under way.
    pub fn begin(&mut self, id: &str, now: Tick, ids_max: usize) {
        if let Some(place) = self.place(id) {
            self.remove(place);
        }
        self.last_number += 1;
        self.order.push_back((now, self.last_number, id.into()));
        self.answers.insert(id.into(), (self.last_number, None));
        while self.order.len() > ids_max {
            let Some(place) = self.order.iter().position(|(_, _, id)| !self.is_waiting(id)) else { break };
            self.remove(place);
        }
    }

    /// Remembers the answer to the command of `id`.
    pub fn finish(&mut self, id: &str, answer: A) {
        if let Some((_, place)) = self.answers.get_mut(id) {
            *place = Some(answer);
        }
    }

    /// Forgets an id that waits: errors are not remembered, and take no place from what is.
    pub fn forget(&mut self, id: &str) {
        if self.is_waiting(id)
            && let Some(place) = self.place(id)
        {
            self.remove(place);
        }
    }

    /// The ids that have been answered, in the order in which they came.
    pub fn answered(&self) -> impl Iterator<Item = (&str, &A)> {
        self.order.iter().filter_map(|(_, _, id)| Some((&**id, self.answers.get(id)?.1.as_ref()?)))
    }

    /// How many ids are remembered.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    fn is_waiting(&self, id: &str) -> bool {
        matches!(self.answers.get(id), Some((_, None)))
    }

    /// Where an id is in the order.
    fn place(&self, id: &str) -> Option<usize> {
        let (number, _) = self.answers.get(id)?;
        self.order.binary_search_by_key(number, |(_, number, _)| *number).ok()
    }

    fn remove(&mut self, place: usize) {
        if let Some((_, _, id)) = self.order.remove(place) {
            self.answers.remove(&id);
        }
        if self.order.is_empty() {
            *self = Window::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP_MS: u64 = 50;
    const IDS_MAX: usize = 5;

    proptest! {
        #[test]
        fn remembers_the_last_answers_for_a_while(
            steps in prop::collection::vec((0u8..5, 0u8..12, 0u64..20), 0..200),
        ) {
            let mut window: Window<u64> = Window::default();
            // The id, when it came, and its answer; the oldest first.
            let mut model: Vec<(String, u64, Option<u64>)> = Vec::new();
            let mut now = 100;
            for (step, (op, id, pause)) in steps.into_iter().enumerate() {
                now += pause;
                let id = format!("id{id}");
                while model.first().is_some_and(|(_, since, answer)| answer.is_some() && now - since >= KEEP_MS) {
                    model.remove(0);
                }
                let known = model.iter().position(|m| m.0 == id);
                let seen = window.look(&id, Tick(now), KEEP_MS);
                match known.map(|k| &model[k].2) {
                    None => prop_assert_eq!(&seen, &Seen::New),
                    Some(None) => prop_assert_eq!(&seen, &Seen::Waiting),
                    Some(Some(answer)) => prop_assert_eq!(&seen, &Seen::Done(answer)),
                }
                match (op, known) {
                    (0 | 1, None) => {
                        window.begin(&id, Tick(now), IDS_MAX);
                        model.push((id, now, None));
                        while model.len() > IDS_MAX {
                            let Some(answered) = model.iter().position(|m| m.2.is_some()) else { break };
                            model.remove(answered);
                        }
                    }
                    (2 | 3, Some(k)) if model[k].2.is_none() => {
                        window.finish(&id, step as u64);
                        model[k].2 = Some(step as u64);
                    }
                    (4, known) => {
                        window.forget(&id);
                        if let Some(k) = known.filter(|k| model[*k].2.is_none()) { model.remove(k); }
                    }
                    _ => {}
                }
                prop_assert_eq!(window.len(), model.len());
                prop_assert_eq!(window.order.len(), model.len());
                prop_assert!(!window.is_empty() || window.answers.capacity() + window.order.capacity() == 0);
            }
        }
    }

    #[test]
    fn what_waits_is_never_obeyed_twice() {
        let mut window = Window::default();
        for n in 0..3 * IDS_MAX {
            window.begin(&n.to_string(), Tick(0), IDS_MAX);
        }
        for n in 0..3 * IDS_MAX {
            assert_eq!(window.look(&n.to_string(), Tick(10 * KEEP_MS), KEEP_MS), Seen::Waiting, "{n}");
        }
        for n in 0..3 * IDS_MAX {
            window.finish(&n.to_string(), n);
        }
        window.begin("next", Tick(0), IDS_MAX);
        assert_eq!(window.len(), IDS_MAX, "back within its bound");
    }

    #[test]
    fn errors_take_no_place_from_answers() {
        let mut window = Window::default();
        window.begin("a", Tick(0), IDS_MAX);
        window.finish("a", 1);
        for n in 0..10 * IDS_MAX {
            window.begin(&n.to_string(), Tick(0), IDS_MAX);
            window.forget(&n.to_string());
        }
        assert_eq!(window.look("a", Tick(0), KEEP_MS), Seen::Done(&1));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut window = Window::default();
        for n in 0..20 {
            let id = n.to_string();
            window.begin(&id, Tick(0), IDS_MAX);
            window.finish(&id, n);
        }
        assert_eq!(window.len(), IDS_MAX);
        assert_eq!(window.look("14", Tick(0), KEEP_MS), Seen::New);
        assert_eq!(window.look("15", Tick(0), KEEP_MS), Seen::Done(&15));
        assert_eq!(window.look("19", Tick(KEEP_MS), KEEP_MS), Seen::New, "too old");
        assert!(window.is_empty());
    }

    #[test]
    fn an_id_that_was_refused_is_new_again() {
        let mut window: Window<u8> = Window::default();
        window.begin("a", Tick(0), IDS_MAX);
        window.forget("a");
        assert_eq!(window.look("a", Tick(0), KEEP_MS), Seen::New);
        window.begin("a", Tick(1), IDS_MAX);
        window.finish("a", 7);
        window.forget("a");
        assert_eq!(window.look("a", Tick(1), KEEP_MS), Seen::Done(&7), "an answer stays");
    }

    #[test]
    fn answers_are_told_in_the_order_of_their_commands() {
        let mut window = Window::default();
        for id in ["a", "b", "c", "d"] {
            window.begin(id, Tick(0), IDS_MAX);
        }
        for (id, answer) in [("d", 4), ("a", 1), ("c", 3)] {
            window.finish(id, answer);
        }
        assert_eq!(window.answered().collect::<Vec<_>>(), [("a", &1), ("c", &3), ("d", &4)], "b still waits");
        window.begin("a", Tick(0), IDS_MAX);
        assert_eq!(window.look("a", Tick(0), KEEP_MS), Seen::Waiting, "begun anew");
        assert_eq!(window.len(), 4);
        window.finish("a", 5);
        assert_eq!(window.answered().collect::<Vec<_>>(), [("c", &3), ("d", &4), ("a", &5)]);
    }
}
