//! Keys and commands.

use ratatui::buffer::Buffer as Screen;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::app::App;
use crate::commands::COMMANDS;
use crate::text::cut;
use crate::theme::Theme;

use super::put;

const KEYS: &[(&str, &str)] = &[
    ("Tab, Shift-Tab", "complete a name or command; again: the next one"),
    ("Alt-1 .. Alt-9", "go to a room; Alt-0: to what the server says"),
    ("Ctrl-N, Ctrl-P", "the next, the one before; also Alt-Down, -Up"),
    ("Alt-A", "the next one with something unread"),
    ("PageUp, PageDown", "scroll; at the top older messages come"),
    ("Home, End", "to the top and the bottom, if nothing is typed"),
    ("Up, Down", "what was entered before"),
    ("Ctrl-A, Ctrl-E", "to the start and the end of the line"),
    ("Ctrl-Left, -Right", "by words; also Alt-B, Alt-F"),
    ("Ctrl-W, Alt-D", "kill the word before, behind"),
    ("Ctrl-U, Ctrl-K", "kill all before, behind; Ctrl-Y brings it back"),
    ("Alt-Enter", "a line break within the message"),
    ("F2", "show or hide the members"),
    ("Ctrl-L", "draw everything anew"),
    ("Ctrl-C", "clear the line; if it is empty, quit"),
];

const MARKS: &[(&str, &str)] = &[
    ("…  ↑  ✓  ✗", "yours waits, is sent, is there, has failed"),
    ("@  -  zz", "a host, a guest who only reads, one who is away"),
    ("3  !3", "unread messages; some are for you"),
];

fn lines(theme: Theme, columns: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut put = |left: String, right: &str| {
        let place = if columns >= 60 { 32 } else { 0 };
        if place > 0 {
            let left = format!(" {left:<30} ");
            let right = cut(right, columns.saturating_sub(place));
            lines.push(Line::from(vec![Span::styled(left, theme.strong()), Span::raw(right)]));
        } else {
            lines.push(Line::styled(cut(&format!(" {left}"), columns), theme.strong()));
            if !right.is_empty() {
                lines.push(Line::raw(cut(&format!("   {right}"), columns)));
            }
        }
    };
    put("Commands".into(), "");
    for command in COMMANDS {
        put(format!("/{} {}", command.name, command.usage), command.help);
    }
    put("//TEXT".into(), "say something that begins with a slash");
    put("Keys".into(), "");
    for (keys, what) in KEYS {
        put((*keys).to_owned(), what);
    }
    put("Marks".into(), "");
    for (mark, what) in MARKS {
        put((*mark).to_owned(), what);
    }
    lines
}

/// About how many rows it has at most.
pub fn rows() -> u16 {
    u16::try_from(2 * (COMMANDS.len() + KEYS.len() + MARKS.len() + 4)).unwrap_or(u16::MAX)
}

/// Draws it.
pub fn draw(app: &App, theme: Theme, area: Rect, screen: &mut Screen) {
    let lines = lines(theme, usize::from(area.width));
    let most = lines.len().saturating_sub(usize::from(area.height));
    let from = usize::from(app.help.unwrap_or(0)).min(most);
    for (row, line) in (0..area.height).zip(&lines[from..]) {
        put(screen, area, row, line);
    }
}
