//! The rooms and conversations, with what is unread.

use ratatui::buffer::Buffer as Screen;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use crate::app::App;
use crate::buffer::{Buffer, Kind};
use crate::text::{cut, fitted, harmless, width};
use crate::theme::Theme;

use super::put;

/// The longest name in the row of a small screen.
const TAB: usize = 12;

/// The first buffer that is listed, so that the shown one is among them.
fn first(app: &App, rows: usize) -> usize {
    (app.current + 1).saturating_sub(rows)
}

/// How many are unread, and whether some are for oneself.
fn unread(buffer: &Buffer) -> String {
    let mark = if buffer.mentions > 0 { "!" } else { "" };
    match buffer.unread {
        0 => String::new(),
        count @ 1..=999 => format!("{mark}{count}"),
        _ => format!("{mark}1k+"),
    }
}

fn style(app: &App, at: usize, theme: Theme) -> Style {
    let buffer = &app.buffers[at];
    match buffer {
        _ if at == app.current => theme.bar(),
        Buffer { mentions: 1.., .. } => theme.bad(),
        Buffer { unread: 1.., .. } => theme.unread(),
        Buffer { kind: Kind::Room, is_joined: false, .. } => theme.soft(),
        _ => Style::new(),
    }
}

fn name(buffer: &Buffer) -> String {
    let mark = if buffer.kind == Kind::Private { "@" } else { "" };
    format!("{mark}{}", harmless(&buffer.name))
}

/// Draws them: one a row, or all in one row.
pub fn draw(app: &App, theme: Theme, area: Rect, screen: &mut Screen) {
    if area.width == 0 {
        return;
    }
    if area.height == 1 {
        for (from, at, text) in tabs(app, area) {
            put(
                screen,
                Rect { x: area.x + from, width: area.width - from, ..area },
                0,
                &Line::styled(text, style(app, at, theme)),
            );
        }
        return;
    }
    let columns = usize::from(area.width);
    for (row, at) in (0..area.height).zip(first(app, usize::from(area.height))..app.buffers.len()) {
        let buffer = &app.buffers[at];
        let unread = unread(buffer);
        let number = if at < 10 { format!("{at} ") } else { "  ".to_owned() };
        let place =
            columns.saturating_sub(number.len() + if unread.is_empty() { 0 } else { unread.len() + 1 });
        let style = style(app, at, theme);
        let number_style = if at == app.current { style } else { theme.soft() };
        let mut spans =
            vec![Span::styled(number, number_style), Span::styled(fitted(&name(buffer), place), style)];
        if !unread.is_empty() {
            spans.push(Span::styled(format!(" {unread}"), style.add_modifier(Modifier::BOLD)));
        }
        put(screen, area, row, &Line::from(spans));
    }
}

/// The row of a small screen: where each begins, which one it is, and what is written.
fn tabs(app: &App, area: Rect) -> Vec<(u16, usize, String)> {
    let text = |at: usize| {
        let buffer = &app.buffers[at];
        let unread = unread(buffer);
        let gap = if unread.is_empty() { "" } else { " " };
        format!("{at}:{}{gap}{unread}", cut(&name(buffer), TAB))
    };
    let columns = usize::from(area.width);
    // From the shown one back as far as there is place, so that it is among them.
    let mut from = app.current;
    let mut used = width(&text(from));
    while from > 0 && used + 1 + width(&text(from - 1)) <= columns {
        from -= 1;
        used += 1 + width(&text(from));
    }
    let mut tabs = Vec::new();
    let mut column = 0;
    for at in from..app.buffers.len() {
        let text = text(at);
        if column >= columns {
            break;
        }
        let next = column + width(&text) + 1;
        tabs.push((u16::try_from(column).unwrap_or(u16::MAX), at, text));
        column = next;
    }
    tabs
}

/// Which one is at a place of the screen.
pub fn buffer_at(app: &App, column: u16, row: u16) -> Option<usize> {
    let area = super::areas(app).rooms;
    if !area.contains((column, row).into()) {
        return None;
    }
    if area.height == 1 {
        return tabs(app, area).into_iter().rev().find(|(from, ..)| *from <= column).map(|(_, at, _)| at);
    }
    let at = first(app, usize::from(area.height)) + usize::from(row - area.y);
    (at < app.buffers.len()).then_some(at)
}
