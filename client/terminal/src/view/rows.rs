//! The lines of a buffer as rows of the screen, and moving among them.

use ratatui::buffer::Buffer as Screen;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line as Row, Span};

use crate::app::App;
use crate::buffer::{Anchor, Buffer, Older, Own, What};
use crate::text::{cut, width, wrap};
use crate::theme::Theme;

use super::put;

/// From how many columns on nicknames have a column of their own, and times are shown.
const WIDE: usize = 56;
const TIMES: usize = 28;

/// Columns of a time with the space behind it.
const TIME: usize = 6;

/// The rows of a line, with what stands before it: a day that begins, and where one had been before.
fn rows(app: &App, buffer: &Buffer, at: usize, theme: Theme, columns: usize) -> Vec<Row<'static>> {
    let line = &buffer.lines[at];
    let local = (app.settings.to_local)(line.at_ms);
    let mut rows = Vec::new();
    let before = at.checked_sub(1).map(|before| (app.settings.to_local)(buffer.lines[before].at_ms).date());
    if before != Some(local.date()) {
        let day = format!("{:04}-{:02}-{:02}", local.year, local.month, local.day);
        rows.push(Row::styled(across(&day, columns), theme.soft()));
    }
    if buffer.new_from == Some(line.id) {
        rows.push(Row::styled(across("new", columns), theme.unread()));
    }
    let time =
        if columns >= TIMES { format!("{:02}:{:02} ", local.hour, local.minute) } else { String::new() };
    let time = Span::styled(time, theme.soft());
    match &line.what {
        What::Message { sender, content, is_mention, own } => {
            rows.extend(message(app, theme, columns, time, sender, content, *is_mention, own.as_ref()));
        }
        What::Notice(text) => rows.extend(told(columns, time, "*", text, theme.soft())),
        What::Trouble(text) => rows.extend(told(columns, time, "!", text, theme.bad())),
    }
    rows
}

/// A word in a line across.
fn across(word: &str, columns: usize) -> String {
    let word = cut(&format!(" {word} "), columns);
    let dashes = columns.saturating_sub(width(&word));
    format!("{}{word}{}", "─".repeat(dashes / 2), "─".repeat(dashes - dashes / 2))
}

/// In how many columns nicknames stand.
fn name_columns(columns: usize) -> usize {
    if columns >= 80 { 14 } else { 10 }
}

fn told(columns: usize, time: Span<'static>, mark: &str, text: &str, style: Style) -> Vec<Row<'static>> {
    let indent = if columns >= WIDE { TIME + name_columns(columns) + 1 } else { width(&time.content) + 2 };
    let lead = indent.saturating_sub(width(&time.content) + 2);
    let mut rows = Vec::new();
    for (index, text) in wrap(text, columns.saturating_sub(indent)).into_iter().enumerate() {
        let lead = if index == 0 {
            vec![time.clone(), Span::styled(format!("{}{mark} ", " ".repeat(lead)), style)]
        } else {
            vec![Span::raw(" ".repeat(indent))]
        };
        rows.push(Row::from([lead, vec![Span::styled(text, style)]].concat()));
    }
    rows
}

#[allow(clippy::too_many_arguments)] // All of it is drawn.
fn message(
    app: &App,
    theme: Theme,
    columns: usize,
    time: Span<'static>,
    sender: &str,
    content: &str,
    is_mention: bool,
    own: Option<&Own>,
) -> Vec<Row<'static>> {
    let is_own = own.is_some() || app.nickname.as_deref() == Some(sender);
    let mut sender_style = theme.sender(sender, is_own);
    if is_mention {
        sender_style = sender_style.add_modifier(Modifier::REVERSED);
    }
    let mark = match own {
        Some(Own::Queued) => Some(("…", theme.warn())),
        Some(Own::Sent) => Some(("↑", theme.warn())),
        Some(Own::Acknowledged) => Some(("✓", theme.soft())),
        Some(Own::Failed(_)) => Some(("✗", theme.bad())),
        None => None,
    };
    let text_style = match own {
        Some(own) if own.is_open() => theme.soft(),
        _ if is_mention => theme.strong(),
        _ => Style::new(),
    };
    let lead: Vec<Span<'static>>;
    let (indent, first);
    if columns >= WIDE {
        let place = name_columns(columns) - 1;
        let name = cut(sender, place);
        let gap = " ".repeat(place.saturating_sub(width(&name)));
        indent = TIME + place + 2;
        first = indent;
        lead = vec![time, Span::raw(gap), Span::styled(name, sender_style), Span::raw("  ")];
    } else {
        // The name stands in the text; what follows is indented, so that nobody can seem to be somebody else.
        let name = cut(sender, (columns / 3).max(6));
        first = width(&time.content) + width(&name) + 2;
        indent = if columns >= TIMES { TIME } else { 1 };
        lead = vec![time, Span::styled(name, sender_style), Span::raw(": ")];
    }
    let room = columns.saturating_sub(indent + if mark.is_some() { 2 } else { 0 });
    // The first row has less place where the name stands in it.
    let padding = "\u{a0}".repeat(first - indent);
    let mut rows = Vec::new();
    for (index, text) in wrap(&format!("{padding}{content}"), room).into_iter().enumerate() {
        let mut spans = Vec::new();
        if index == 0 {
            spans.extend(lead.iter().cloned());
            spans.push(Span::styled(text.strip_prefix(&padding).unwrap_or(&text).to_owned(), text_style));
        } else {
            spans.push(Span::raw(" ".repeat(indent)));
            spans.push(Span::styled(text, text_style));
        }
        rows.push(Row::from(spans));
    }
    if let (Some((mark, style)), Some(last)) = (mark, rows.last_mut()) {
        last.push_span(Span::styled(format!(" {mark}"), style));
    }
    if let Some(Own::Failed(why)) = own {
        for why in wrap(&format!("not sent: {why}"), columns.saturating_sub(indent)) {
            rows.push(Row::from(vec![Span::raw(" ".repeat(indent)), Span::styled(why, theme.bad())]));
        }
    }
    rows
}

/// The rows that are to be seen, the highest first.
fn visible(app: &App, theme: Theme, area: Rect) -> Vec<Row<'static>> {
    let buffer = app.shown();
    let (columns, place) = (usize::from(area.width), usize::from(area.height));
    let Some((mut at, mut below)) = lowest(buffer) else { return Vec::new() };
    let mut rows_up = Vec::new();
    loop {
        let mut rows = rows(app, buffer, at, theme, columns);
        rows.truncate(rows.len().saturating_sub(below));
        rows_up.extend(rows.into_iter().rev());
        below = 0;
        if rows_up.len() >= place || at == 0 {
            break;
        }
        at -= 1;
    }
    if rows_up.len() < place {
        let older = match buffer.older {
            Older::Asked(_) => Some("older messages are coming"),
            Older::Unknown if buffer.first_offset().is_some_and(|offset| offset > 1) => {
                Some("PageUp: older messages")
            }
            _ => None,
        };
        rows_up.extend(older.map(|text| Row::styled(across(text, columns), theme.soft())));
    }
    rows_up.truncate(place);
    rows_up.reverse();
    rows_up
}

/// The line that is shown lowest, and how many of its rows are below the screen.
fn lowest(buffer: &Buffer) -> Option<(usize, usize)> {
    let last = buffer.lines.len().checked_sub(1)?;
    let anchor = buffer.scroll.and_then(|anchor| Some((buffer.line(anchor.line)?, anchor.below)));
    Some(anchor.unwrap_or((last, 0)))
}

/// Draws them, the last one at the bottom.
pub fn draw(app: &App, theme: Theme, area: Rect, screen: &mut Screen) {
    if area.width == 0 || area.height == 0 {
        return;
    }
    let rows = visible(app, theme, area);
    let gap = area.height - u16::try_from(rows.len()).unwrap_or(area.height);
    for (row, line) in (gap..).zip(&rows) {
        put(screen, area, row, line);
    }
}

/// Where one is after scrolling by so many rows, and whether the top is reached.
pub fn moved(app: &App, by: isize) -> (Option<Anchor>, bool) {
    let area = super::areas(app).messages;
    let (columns, place) = (usize::from(area.width), usize::from(area.height));
    let buffer = app.shown();
    let theme = Theme { is_coloured: false };
    let count = |at: usize| rows(app, buffer, at, theme, columns).len();
    let Some((mut at, mut below)) = lowest(buffer) else { return (None, true) };
    let last = buffer.lines.len() - 1;
    let mut left = by.unsigned_abs();
    let mut is_top = false;
    if by < 0 {
        while left > 0 {
            let step = left.min(count(at).saturating_sub(below));
            below += step;
            left -= step;
            if left > 0 && at > 0 {
                at -= 1;
                below = 0;
            } else {
                break;
            }
        }
        // Not further than the first row at the top.
        let mut above = count(at).saturating_sub(below);
        let mut higher = at;
        while above < place && higher > 0 {
            higher -= 1;
            above += count(higher);
        }
        if higher == 0 && above <= place {
            is_top = true;
            let mut too_far = place - above;
            while too_far > 0 {
                let step = too_far.min(below);
                below -= step;
                too_far -= step;
                if too_far == 0 || at == last {
                    break;
                }
                at += 1;
                below = count(at);
            }
        }
    } else {
        while left > 0 {
            let step = left.min(below);
            below -= step;
            left -= step;
            if left == 0 || at == last {
                break;
            }
            at += 1;
            below = count(at);
        }
    }
    let is_bottom = at == last && below == 0;
    ((!is_bottom).then(|| Anchor { line: buffer.lines[at].id, below }), is_top)
}
