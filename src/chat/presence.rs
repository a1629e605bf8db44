//! Who came and went in a room too large to tell each of them at once.
//!
//! In a small room every join and leave is told by itself. In a large one that would cost the square of its size, so
//! they are gathered and told together; the lists are capped, the count of members is exact.

use super::name::Nickname;

/// The joins and leaves that a room has yet to tell.
#[derive(Debug, Default)]
pub struct Batch {
    joined: Vec<Nickname>,
    left: Vec<Nickname>,
    is_pending: bool,
}

impl Batch {
    /// Notes that `nickname` came; at most `names_max` are listed.
    pub fn join(&mut self, nickname: Nickname, names_max: usize) {
        self.is_pending = true;
        // Somebody who left and came back within one batch never went, as far as the others can tell.
        if let Some(index) = self.left.iter().position(|gone| *gone == nickname) {
            self.left.swap_remove(index);
        } else if self.joined.len() < names_max {
            self.joined.push(nickname);
        }
    }

    /// Notes that `nickname` went; at most `names_max` are listed.
    pub fn leave(&mut self, nickname: Nickname, names_max: usize) {
        self.is_pending = true;
        if let Some(index) = self.joined.iter().position(|come| *come == nickname) {
            self.joined.swap_remove(index);
        } else if self.left.len() < names_max {
            self.left.push(nickname);
        }
    }

    /// Whether it is yet to be told that somebody of this nickname went.
    pub fn has_left(&self, nickname: &Nickname) -> bool {
        self.left.contains(nickname)
    }

    /// Gives a newcomer of whom nobody has been told another nickname, and says whether it is one.
    pub fn rename(&mut self, old: &Nickname, new: &Nickname) -> bool {
        let newcomer = self.joined.iter_mut().find(|nickname| *nickname == old);
        newcomer.map(|nickname| *nickname = new.clone()).is_some()
    }

    /// Whether there is something to tell.
    pub fn is_pending(&self) -> bool {
        self.is_pending
    }

    /// Takes what there is to tell: who joined and who left.
    pub fn take(&mut self) -> (Vec<Nickname>, Vec<Nickname>) {
        self.is_pending = false;
        (std::mem::take(&mut self.joined), std::mem::take(&mut self.left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_capped_and_round_trips_cancel() {
        let names: Vec<_> = (0..5).map(|n| Nickname::parse(&format!("user{n}")).unwrap()).collect();
        let mut batch = Batch::default();
        for name in &names {
            batch.join(name.clone(), 3);
        }
        batch.leave(names[1].clone(), 3);
        batch.leave(Nickname::parse("old").unwrap(), 3);
        assert!(batch.is_pending());
        let (joined, left) = batch.take();
        let spelled = |names: &[Nickname]| names.iter().map(|n| n.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(spelled(&joined), ["user0", "user2"]);
        assert_eq!(spelled(&left), ["old"]);
        assert!(!batch.is_pending());
        for name in &names {
            batch.leave(name.clone(), 3);
        }
        batch.join(names[1].clone(), 3);
        batch.join(names[4].clone(), 3);
        let (joined, left) = batch.take();
        assert_eq!(
            (spelled(&joined), spelled(&left)),
            (vec!["user4".into()], vec!["user0".into(), "user2".into()])
        );
    }

    #[test]
    fn a_newcomer_who_changes_names_is_told_by_the_last() {
        let [old, new] = ["old", "new"].map(|name| Nickname::parse(name).unwrap());
        let mut batch = Batch::default();
        batch.join(old.clone(), 3);
        assert!(batch.rename(&old, &new), "nobody knows the old nickname");
        assert!(!batch.rename(&old, &new), "everybody knows whoever is not in the batch");
        batch.leave(new.clone(), 3);
        assert!(!batch.has_left(&new), "came and went unseen");
        batch.leave(old.clone(), 3);
        assert!(batch.has_left(&old));
    }
}
