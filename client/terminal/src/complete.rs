//! Completion by Tab: nicknames, rooms and commands; again Tab is the next one.

use crate::commands;

/// What is known that can be completed.
#[derive(Debug, Default)]
pub struct Known {
    /// Who is there, those who spoke last first.
    pub nicknames: Vec<String>,
    /// Which rooms there are.
    pub rooms: Vec<String>,
}

/// A completion that goes on with the next Tab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// Where what is completed begins, in bytes.
    pub from: usize,
    candidates: Vec<String>,
    at: usize,
}

impl Completion {
    /// What can stand for the word that ends at the cursor.
    pub fn new(text: &str, cursor: usize, known: &Known) -> Option<Completion> {
        let before = &text[..cursor];
        let from = before
            .rfind(char::is_whitespace)
            .map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8));
        let word = before[from..].to_lowercase();
        let begins = |name: &&String| name.to_lowercase().starts_with(&word);
        let (name, argument) = commands::split(before);
        let is_command = before.starts_with('/') && !before.starts_with("//");
        let candidates: Vec<String> = if is_command && from == 0 {
            let names = commands::COMMANDS.iter().map(|command| format!("/{}", command.name));
            names.filter(|name| name.starts_with(&word)).map(|name| name + " ").collect()
        } else if is_command && argument.is_some() {
            let index = before[..from].split_whitespace().count();
            match commands::argument(name, index) {
                commands::Argument::Room => {
                    known.rooms.iter().filter(begins).map(|room| format!("{room} ")).collect()
                }
                commands::Argument::Nickname | commands::Argument::Text => {
                    known.nicknames.iter().filter(begins).map(|nickname| format!("{nickname} ")).collect()
                }
                commands::Argument::Role => {
                    let roles = ["host", "member", "guest"].iter().filter(|role| role.starts_with(&word));
                    roles.map(|role| format!("{role} ")).collect()
                }
                commands::Argument::None => Vec::new(),
            }
        } else if word.is_empty() {
            Vec::new()
        } else {
            // One who is spoken to stands at the start.
            let end = if from == 0 { ": " } else { " " };
            let marked = word.strip_prefix('@').filter(|word| !word.is_empty());
            let mark = if marked.is_some() { "@" } else { "" };
            let begins = |name: &&String| name.to_lowercase().starts_with(marked.unwrap_or(&word));
            let rooms = known.rooms.iter().filter(begins).map(|room| format!("{room} "));
            let nicknames =
                known.nicknames.iter().filter(begins).map(|nickname| format!("{mark}{nickname}{end}"));
            nicknames.chain(rooms).collect()
        };
        (!candidates.is_empty()).then_some(Completion { from, candidates, at: 0 })
    }

    /// What is to stand there now.
    pub fn text(&self) -> &str {
        &self.candidates[self.at]
    }

    /// The next one, or the one before.
    pub fn turn(&mut self, is_back: bool) {
        let count = self.candidates.len();
        self.at = (self.at + if is_back { count - 1 } else { 1 }) % count;
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.candidates.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(text: &str) -> Vec<String> {
        let known = Known {
            nicknames: vec!["alice".into(), "Albert".into(), "bob".into(), "李明".into()],
            rooms: vec!["attic".into(), "lobby".into()],
        };
        Completion::new(text, text.len(), &known).map_or(Vec::new(), |completion| completion.candidates)
    }

    #[test]
    fn what_is_completed_depends_on_where() {
        assert_eq!(complete("al"), ["alice: ", "Albert: "]);
        assert_eq!(complete("hi Al"), ["alice ", "Albert "]);
        assert_eq!(complete("a"), ["alice: ", "Albert: ", "attic "]);
        assert_eq!(complete("李"), ["李明: "]);
        assert_eq!(complete("hi @b"), ["@bob "]);
        assert_eq!(complete("/jo"), ["/join "]);
        assert_eq!(complete("/join a"), ["attic "]);
        assert_eq!(complete("/join "), ["attic ", "lobby "]);
        assert_eq!(complete("/msg b"), ["bob "]);
        assert_eq!(complete("/msg bob al"), ["alice ", "Albert "]);
        assert_eq!(complete("/role bob h"), ["host "]);
        assert_eq!(complete("//jo"), [""; 0]);
        assert_eq!(complete(""), [""; 0]);
        assert_eq!(complete("hi "), [""; 0]);
    }

    #[test]
    fn again_is_the_next_one() {
        let known = Known { nicknames: vec!["a1".into(), "a2".into(), "a3".into()], rooms: Vec::new() };
        let mut completion = Completion::new("a", 1, &known).unwrap();
        let mut seen = vec![completion.text().to_owned()];
        for is_back in [false, false, false, true] {
            completion.turn(is_back);
            seen.push(completion.text().to_owned());
        }
        assert_eq!(seen, ["a1: ", "a2: ", "a3: ", "a1: ", "a3: "]);
    }
}
