//! The line that is typed: a cursor between graphemes, words to jump over and to kill, and what was entered before.

use unicode_segmentation::UnicodeSegmentation as _;

use crate::text::{BREAK, width, width_of};

/// How many lines that were entered are remembered.
const HISTORY_MAX: usize = 500;

/// A line that is being typed.
#[derive(Debug, Clone, Default)]
pub struct Editor {
    text: String,
    /// In bytes; always between two graphemes.
    cursor: usize,
    history: Vec<String>,
    /// Which of the history is shown, and what was typed before that.
    shown: Option<(usize, String)>,
    killed: String,
}

impl Editor {
    /// What has been typed; with line breaks, if any were pasted.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where the cursor is, in bytes.
    pub fn cursor(&self) -> usize {
        self.cursor
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Replaces all of it; the cursor goes to the end.
    pub fn set(&mut self, text: &str) {
        text.clone_into(&mut self.text);
        self.cursor = self.text.len();
    }

    /// Replaces what stands between these bytes; the cursor goes behind it.
    pub fn replace(&mut self, from: usize, to: usize, text: &str) {
        self.text.replace_range(from..to, text);
        self.cursor = from + text.len();
        self.snap();
    }

    /// Types.
    pub fn insert(&mut self, text: &str) {
        let text: String = text.replace("\r\n", "\n").replace('\r', "\n");
        // A tab or an escape that is pasted is content; what turns the terminal is shown as a picture.
        self.text.insert_str(self.cursor, &text);
        self.cursor += text.len();
        self.snap();
    }

    /// Takes what has been typed, and remembers it.
    pub fn take(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        self.cursor = 0;
        self.remember(&text);
        text
    }

    /// Remembers a line as one that was entered.
    pub fn remember(&mut self, text: &str) {
        self.shown = None;
        if !text.trim().is_empty() && self.history.last().is_none_or(|last| last != text) {
            if self.history.len() == HISTORY_MAX {
                self.history.remove(0);
            }
            self.history.push(text.to_owned());
        }
    }

    /// Forgets what has been typed.
    pub fn clear(&mut self) {
        self.text.clear();
        self.cursor = 0;
        self.shown = None;
    }

    /// One grapheme to the left.
    pub fn left(&mut self) {
        self.cursor = self.before();
    }

    /// One grapheme to the right.
    pub fn right(&mut self) {
        self.cursor = self.after();
    }

    /// To the start.
    pub fn home(&mut self) {
        self.cursor = 0;
    }

    /// To the end.
    pub fn end(&mut self) {
        self.cursor = self.text.len();
    }

    /// To the start of the word, or of the one before.
    pub fn word_left(&mut self) {
        self.cursor = self.word_start();
    }

    /// To the end of the word, or of the one behind.
    pub fn word_right(&mut self) {
        self.cursor = self.word_end();
    }

    /// Deletes the grapheme before the cursor.
    pub fn backspace(&mut self) {
        let from = self.before();
        self.text.replace_range(from..self.cursor, "");
        self.cursor = from;
        self.snap();
    }

    /// Deletes the grapheme behind the cursor.
    pub fn delete(&mut self) {
        let to = self.after();
        self.text.replace_range(self.cursor..to, "");
        self.snap();
    }

    /// Kills the word before the cursor.
    pub fn kill_word(&mut self) {
        self.kill(self.word_start(), self.cursor);
    }

    /// Kills the word behind the cursor.
    pub fn kill_word_right(&mut self) {
        self.kill(self.cursor, self.word_end());
    }

    /// Kills everything before the cursor.
    pub fn kill_to_start(&mut self) {
        self.kill(0, self.cursor);
    }

    /// Kills everything behind the cursor.
    pub fn kill_to_end(&mut self) {
        self.kill(self.cursor, self.text.len());
    }

    /// Types what was killed last.
    pub fn yank(&mut self) {
        let killed = self.killed.clone();
        self.insert(&killed);
    }

    /// Shows the line that was entered before the one that is shown.
    pub fn older(&mut self) {
        let at = match &self.shown {
            Some((0, _)) => return,
            Some((at, _)) => at - 1,
            None if self.history.is_empty() => return,
            None => {
                self.shown = Some((self.history.len(), self.text.clone()));
                self.history.len() - 1
            }
        };
        self.show(at);
    }

    /// Shows the line that was entered after it; after the last one, what had been typed.
    pub fn newer(&mut self) {
        let Some((at, typed)) = &self.shown else { return };
        if at + 1 < self.history.len() {
            self.show(at + 1);
        } else {
            let typed = typed.clone();
            self.shown = None;
            self.set(&typed);
        }
    }

    fn show(&mut self, at: usize) {
        let text = self.history[at].clone();
        if let Some(shown) = &mut self.shown {
            shown.0 = at;
        }
        self.set(&text);
    }

    fn kill(&mut self, from: usize, to: usize) {
        if from < to {
            self.killed = self.text[from..to].to_owned();
            self.text.replace_range(from..to, "");
            self.cursor = from;
            self.snap();
        }
    }

    fn before(&self) -> usize {
        self.text[..self.cursor].grapheme_indices(true).next_back().map_or(0, |(at, _)| at)
    }

    fn after(&self) -> usize {
        let next = self.text[self.cursor..].graphemes(true).next();
        self.cursor + next.map_or(0, str::len)
    }

    fn word_start(&self) -> usize {
        let before = self.text[..self.cursor].trim_end();
        before
            .grapheme_indices(true)
            .rev()
            .find(|(_, grapheme)| is_blank(grapheme))
            .map_or(0, |(at, blank)| at + blank.len())
    }

    fn word_end(&self) -> usize {
        let behind = &self.text[self.cursor..];
        let start = behind.len() - behind.trim_start().len();
        let word = behind[start..].grapheme_indices(true).find(|(_, grapheme)| is_blank(grapheme));
        self.cursor + word.map_or(behind.len(), |(at, _)| start + at)
    }

    /// What is joined may be one grapheme: the cursor goes behind it.
    fn snap(&mut self) {
        let is_between = |at: usize| {
            at == self.text.len() || self.text.grapheme_indices(true).any(|(start, _)| start == at)
        };
        if !is_between(self.cursor) {
            let behind =
                self.text.grapheme_indices(true).map(|(start, _)| start).find(|start| *start > self.cursor);
            self.cursor = behind.unwrap_or(self.text.len());
        }
    }

    /// As much of the line as has place in so many columns, with the cursor in it; and in which column that is.
    pub fn window(&self, columns: usize) -> (String, usize) {
        let columns = columns.max(3);
        let shown: Vec<(usize, String)> =
            self.text.grapheme_indices(true).map(|(at, grapheme)| (at, seen(grapheme))).collect();
        let cursor_at = shown.iter().position(|(at, _)| *at >= self.cursor).unwrap_or(shown.len());
        let total: usize = shown.iter().map(|(_, grapheme)| width(grapheme)).sum();
        let before: usize = shown[..cursor_at].iter().map(|(_, grapheme)| width(grapheme)).sum();
        // The cursor needs a column of its own at the end, and at least a third of the line is before it.
        let first = if total < columns { 0 } else { before.saturating_sub(columns * 2 / 3) };
        let (mut used, mut at, mut cursor, mut row) = (0, 0, 0, String::new());
        for (index, (_, grapheme)) in shown.iter().enumerate() {
            let width = width_of(grapheme);
            if at >= first {
                if index == cursor_at {
                    cursor = used;
                }
                if used + width >= columns {
                    return (row, cursor);
                }
                row.push_str(grapheme);
                used += width;
            }
            at += width;
        }
        (row, if cursor_at == shown.len() { used } else { cursor })
    }
}

fn is_blank(grapheme: &str) -> bool {
    grapheme.chars().all(char::is_whitespace)
}

/// What a grapheme of one's own line is shown as: in at least one column.
fn seen(grapheme: &str) -> String {
    if grapheme.contains('\n') {
        return BREAK.to_string();
    }
    let shown = crate::text::harmless(grapheme);
    if width(&shown) == 0 { "\u{fffd}".to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn typed(text: &str) -> Editor {
        let mut editor = Editor::default();
        editor.insert(text);
        editor
    }

    #[test]
    fn graphemes_are_one_step() {
        let mut editor = typed("a李e\u{301}👩\u{200d}👧");
        editor.left();
        assert_eq!(&editor.text()[editor.cursor()..], "👩\u{200d}👧");
        editor.backspace();
        assert_eq!(editor.text(), "a李👩\u{200d}👧");
        editor.home();
        editor.right();
        editor.delete();
        assert_eq!(editor.text(), "a👩\u{200d}👧");
    }

    #[test]
    fn words_are_jumped_over_and_killed() {
        let mut editor = typed("one two  three");
        editor.word_left();
        editor.kill_word();
        assert_eq!((editor.text(), editor.cursor()), ("one three", 4));
        editor.home();
        editor.word_right();
        assert_eq!(editor.cursor(), 3);
        editor.kill_to_end();
        assert_eq!(editor.text(), "one");
        editor.yank();
        assert_eq!(editor.text(), "one three");
        editor.kill_to_start();
        assert!(editor.is_empty());
        editor.yank();
        assert_eq!(editor.text(), "one three");
    }

    #[test]
    fn what_was_entered_comes_again() {
        let mut editor = Editor::default();
        for line in ["one", "two", "two", " "] {
            editor.insert(line);
            editor.take();
        }
        editor.insert("half");
        editor.older();
        assert_eq!(editor.text(), "two");
        editor.older();
        editor.older();
        assert_eq!(editor.text(), "one");
        editor.newer();
        editor.newer();
        assert_eq!(editor.text(), "half");
        editor.newer();
        assert_eq!(editor.text(), "half");
    }

    #[test]
    fn a_long_line_moves_under_its_window() {
        let mut editor = typed("0123456789");
        assert_eq!(editor.window(20), ("0123456789".into(), 10));
        assert_eq!(editor.window(6), ("6789".into(), 4));
        editor.home();
        assert_eq!(editor.window(6), ("01234".into(), 0));
        assert_eq!(typed("a\nb\x1b").window(10), ("a⏎b␛".into(), 4));
    }

    #[derive(Debug, Clone)]
    enum Do {
        Type(String),
        Key(u8),
    }

    fn keys() -> impl Strategy<Value = Vec<Do>> {
        let text = prop::sample::select(vec![
            "a", " ", "李", "e", "\u{301}", "👩", "\u{200d}", "👧", "🇩", "🇪", "\n", "\r", "\x1b", "\u{202e}",
            "ᄀ", "ᅡ", "word",
        ]);
        let act = prop_oneof![text.prop_map(|text| Do::Type(text.to_owned())), (0..18_u8).prop_map(Do::Key)];
        prop::collection::vec(act, 0..60)
    }

    proptest! {
        #[test]
        fn any_keys_leave_the_cursor_between_graphemes(keys in keys(), columns in 0..40_usize) {
            let mut editor = Editor::default();
            for key in keys {
                match key {
                    Do::Type(text) => editor.insert(&text),
                    Do::Key(key) => {
                        let acts: [fn(&mut Editor); 17] = [
                            Editor::left, Editor::right, Editor::home, Editor::end, Editor::word_left, Editor::word_right,
                            Editor::backspace, Editor::delete, Editor::kill_word, Editor::kill_word_right,
                            Editor::kill_to_start, Editor::kill_to_end, Editor::yank, Editor::older, Editor::newer,
                            Editor::clear, |editor| { editor.take(); },
                        ];
                        acts[usize::from(key) % acts.len()](&mut editor);
                    }
                }
                let at = editor.cursor();
                let is_between = at == editor.text().len()
                    || editor.text().grapheme_indices(true).any(|(start, _)| start == at);
                prop_assert!(is_between, "{:?} at {at}", editor.text());
                let (row, cursor) = editor.window(columns);
                prop_assert!(cursor <= width(&row) && width(&row) < columns.max(3), "{row:?} {cursor} in {columns}");
                prop_assert!(!row.contains(char::is_control));
            }
        }
    }
}
