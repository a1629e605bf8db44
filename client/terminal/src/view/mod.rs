//! The client drawn: rooms, messages, members, what is typed, and where one stands with the server.

pub mod bar;
pub mod help;
pub mod rows;
#[cfg(test)]
mod tests;

use ratatui::buffer::Buffer as Screen;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::app::{App, Link, Mode};
use crate::buffer::Kind;
use crate::text::{cut, fitted, harmless, millis, seconds, width};
use crate::theme::Theme;
use starling_client::wire::Role;

/// Where everything is; what has no place has no columns or no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Areas {
    /// The rooms, beside the messages or in one row above them.
    pub rooms: Rect,
    /// The topic.
    pub topic: Rect,
    /// The messages.
    pub messages: Rect,
    /// Who is there.
    pub members: Rect,
    /// Who is typing.
    pub typing: Rect,
    /// Where one stands.
    pub status: Rect,
    /// What is typed.
    pub input: Rect,
}

/// Where everything is on a screen of the app's size.
pub fn areas(app: &App) -> Areas {
    let (columns, rows) = (app.size.0.max(1), app.size.1.max(1));
    let none = Rect::new(0, 0, 0, 0);
    let has_bar = columns >= 64 && rows >= 8;
    let rooms_columns = match columns {
        _ if !has_bar => 0,
        100.. => 20,
        _ => 15,
    };
    let is_room = app.shown().kind == Kind::Room;
    let members_columns = match columns {
        _ if !has_bar || !is_room || !app.has_members => 0,
        100.. => 18,
        76.. => 14,
        _ => 0,
    };
    let has_tabs = !has_bar && rows >= 7;
    let has_topic = rows >= 6;
    let has_typing = rows >= 9;
    let has_status = rows >= 3;
    let input = Rect::new(0, rows - 1, columns, 1);
    let mut bottom = rows - 1;
    let mut take = |has: bool| {
        if has {
            bottom -= 1;
            Rect::new(0, bottom, columns, 1)
        } else {
            none
        }
    };
    let status = take(has_status);
    let typing = take(has_typing);
    // The side panes go down beside it.
    let side = bottom + typing.height;
    // One column beside each pane is the line between.
    let left = if has_bar { rooms_columns + 1 } else { 0 };
    let right = if members_columns > 0 { members_columns + 1 } else { 0 };
    let middle = columns.saturating_sub(left + right);
    let mut top = 0;
    let mut rooms = Rect::new(0, 0, rooms_columns, side);
    if has_tabs {
        rooms = Rect::new(0, 0, columns, 1);
        top += 1;
    }
    let topic = if has_topic { Rect::new(left, top, middle, 1) } else { none };
    top += u16::from(has_topic);
    Areas {
        rooms,
        topic,
        // A column of air between text and lines.
        messages: Rect::new(
            left + u16::from(left > 0),
            top,
            middle.saturating_sub(u16::from(left > 0) + u16::from(right > 0)),
            bottom.saturating_sub(top),
        ),
        members: if members_columns > 0 {
            Rect::new(columns - members_columns, 0, members_columns, side)
        } else {
            none
        },
        typing: Rect { x: left, width: middle.min(typing.width), ..typing },
        status,
        input,
    }
}

/// Draws everything; and says where the cursor is.
pub fn paint(app: &App, area: Rect, screen: &mut Screen) -> Option<Position> {
    let theme = Theme { is_coloured: app.settings.is_coloured };
    let mut areas = areas(app);
    // The size of the terminal may not be the one that the app was told last.
    for part in [
        &mut areas.rooms,
        &mut areas.topic,
        &mut areas.messages,
        &mut areas.members,
        &mut areas.typing,
        &mut areas.status,
        &mut areas.input,
    ] {
        *part = part.intersection(area);
    }
    if app.help.is_some() {
        let rows = Rect { height: area.height.saturating_sub(1), ..area };
        help::draw(app, theme, rows, screen);
        put(
            screen,
            Rect { y: area.bottom().saturating_sub(1), height: 1, ..area },
            0,
            &Line::styled("Esc goes back, arrows scroll", theme.bar()),
        );
        return None;
    }
    bar::draw(app, theme, areas.rooms, screen);
    topic(app, theme, areas.topic, screen);
    rows::draw(app, theme, areas.messages, screen);
    members(app, theme, areas.members, screen);
    typing(app, theme, areas.typing, screen);
    borders(theme, &areas, screen);
    status(app, theme, areas.status, screen);
    input(app, theme, areas.input, screen)
}

/// Puts a line into a row of an area, cut to it.
pub fn put(screen: &mut Screen, area: Rect, row: u16, line: &Line) {
    if row < area.height && area.width > 0 {
        screen.set_line(area.x, area.y + row, line, area.width);
    }
}

fn borders(theme: Theme, areas: &Areas, screen: &mut Screen) {
    let bottom = areas.messages.bottom().max(areas.typing.bottom());
    let mut line = |x: u16| {
        for y in 0..bottom {
            if let Some(cell) = screen.cell_mut((x, y)) {
                cell.set_symbol("│").set_style(theme.border());
            }
        }
    };
    if areas.rooms.height > 1 && areas.rooms.width > 0 {
        line(areas.rooms.right());
    }
    if areas.members.width > 0 {
        line(areas.members.x - 1);
    }
}

fn topic(app: &App, theme: Theme, area: Rect, screen: &mut Screen) {
    let buffer = app.shown();
    let name = harmless(&buffer.name);
    let text = match buffer.kind {
        Kind::Server => format!("starling at {}", harmless(&app.settings.url)),
        Kind::Room if buffer.topic.is_empty() => name,
        Kind::Room => format!("{name}: {}", buffer.topic),
        Kind::Private => format!("between you and {name}"),
    };
    let text = format!(" {}", cut(&text, usize::from(area.width).saturating_sub(1)));
    put(screen, area, 0, &Line::styled(fitted(&text, usize::from(area.width)), theme.bar()));
}

fn members(app: &App, theme: Theme, area: Rect, screen: &mut Screen) {
    if area.width == 0 {
        return;
    }
    let buffer = app.shown();
    let columns = usize::from(area.width);
    let title = if buffer.is_joined { format!(" {} here", buffer.total) } else { " not joined".to_owned() };
    put(screen, area, 0, &Line::styled(fitted(&title, columns), theme.bar()));
    let place = usize::from(area.height.saturating_sub(1));
    let total = usize::try_from(buffer.total).unwrap_or(usize::MAX).max(buffer.members.len());
    let shown = if total > place { place.saturating_sub(1) } else { total }.min(buffer.members.len());
    for (row, member) in (1..).zip(&buffer.members[..shown]) {
        let mark = match member.role {
            Role::Host => "@",
            Role::Guest => "-",
            _ => " ",
        };
        let is_own = app.nickname.as_ref() == Some(&member.nickname);
        let style = theme.sender(&member.nickname, is_own);
        let style = if member.connected { style } else { theme.soft() };
        let away = if member.connected { "" } else { " zz" };
        let name = cut(&harmless(&member.nickname), columns.saturating_sub(1 + away.len()));
        put(
            screen,
            area,
            row,
            &Line::from(vec![Span::raw(mark), Span::styled(name, style), Span::styled(away, theme.soft())]),
        );
    }
    if total > shown && buffer.is_joined {
        let row = u16::try_from(shown + 1).unwrap_or(u16::MAX);
        put(screen, area, row, &Line::styled(format!(" and {} more", total - shown), theme.soft()));
    }
}

fn typing(app: &App, theme: Theme, area: Rect, screen: &mut Screen) {
    let typists = app.shown().typists(app.now);
    let text = match typists[..] {
        [] => return,
        [one] => format!("{one} is typing"),
        [one, other] => format!("{one} and {other} are typing"),
        [one, ..] => format!("{one} and {} others are typing", typists.len() - 1),
    };
    put(
        screen,
        area,
        0,
        &Line::styled(cut(&format!(" {}", harmless(&text)), usize::from(area.width)), theme.soft()),
    );
}

fn status(app: &App, theme: Theme, area: Rect, screen: &mut Screen) {
    if area.width == 0 {
        return;
    }
    let columns = usize::from(area.width);
    let (mark, link, style) = match &app.link {
        Link::None => ("○", "not connected".to_owned(), theme.warn()),
        Link::Connecting(1) => ("◌", "connecting".to_owned(), theme.warn()),
        Link::Connecting(attempt) => ("◌", format!("connecting ({attempt})"), theme.warn()),
        Link::Online => {
            let latency = app.latency.map_or(String::new(), |latency| format!(" {}", millis(latency)));
            ("●", format!("online{latency}"), theme.good())
        }
        Link::Waiting { until, why, hint } => {
            let left = seconds(until.saturating_sub(app.now));
            let text = match hint {
                Some(hint) => format!("{hint} (again in {left})"),
                None => format!("reconnecting in {left}: {}", harmless(why)),
            };
            ("○", text, theme.bad())
        }
        Link::Stopped(why) => ("✗", format!("stopped: {}", harmless(why)), theme.bad()),
    };
    let mut right = Vec::new();
    if app.unsent() > 0 {
        right.push(format!("{} unsent", app.unsent()));
    }
    let buffer = app.shown();
    if buffer.scroll.is_some() {
        right.push(if buffer.unread > 0 {
            format!("↓ {} new", buffer.unread)
        } else {
            "↓ End".to_owned()
        });
    }
    // Where there is no row for it.
    let others: usize = app
        .buffers
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != app.current)
        .map(|(_, buffer)| buffer.unread)
        .sum();
    if areas(app).rooms.width == 0 && others > 0 {
        right.push(format!("+{others}"));
    }
    if columns >= 30 {
        right.extend(app.nickname.as_deref().map(harmless));
    }
    if columns >= 60 {
        right.push("F1 help".to_owned());
    }
    let right = right.join("  ");
    let right = cut(&right, columns.saturating_sub(3));
    let place = columns.saturating_sub(width(&right) + 4);
    // Two columns between what may be cut and what is not.
    let gap = if width(&link) <= place { 0 } else { place.min(2) };
    let left = fitted(&link, place - gap) + &" ".repeat(gap);
    let line = Line::from(vec![
        Span::styled(format!(" {mark} "), theme.bar().patch(style)),
        Span::styled(left, theme.bar()),
        Span::styled(right, theme.bar()),
        Span::styled(" ", theme.bar()),
    ]);
    put(screen, area, 0, &line);
}

fn input(app: &App, theme: Theme, area: Rect, screen: &mut Screen) -> Option<Position> {
    if area.width == 0 {
        return None;
    }
    let columns = usize::from(area.width);
    let (prompt, style) = match &app.mode {
        Mode::Quit => {
            let question = match (app.unsent(), app.settings.has_journal) {
                (1, true) => "A message is unsent; the journal keeps it. Quit? y/n ".to_owned(),
                (count, true) => format!("{count} messages are unsent; the journal keeps them. Quit? y/n "),
                (1, false) => "A message is unsent and would be lost. Quit? y/n ".to_owned(),
                (count, false) => format!("{count} messages are unsent and would be lost. Quit? y/n "),
            };
            let question = if width(&question) < columns {
                question
            } else {
                format!("{} unsent. Quit? y/n ", app.unsent())
            };
            let question = cut(&question, columns.saturating_sub(1));
            put(screen, area, 0, &Line::styled(question.clone(), theme.bad()));
            return Some(Position::new(area.x + u16::try_from(width(&question)).unwrap_or(0), area.y));
        }
        Mode::Nickname { why: None } => ("nickname: ".to_owned(), theme.strong()),
        Mode::Nickname { why: Some(why) } => (format!("{}; nickname: ", harmless(why)), theme.bad()),
        Mode::Chat if columns < 40 => ("> ".to_owned(), Style::new()),
        Mode::Chat => match app.shown().kind {
            Kind::Server => ("> ".to_owned(), Style::new()),
            Kind::Room => (format!("{}> ", cut(&harmless(&app.shown().name), 20)), theme.soft()),
            Kind::Private => (format!("@{}> ", cut(&harmless(&app.shown().name), 20)), theme.soft()),
        },
    };
    let prompt = if width(&prompt) + 12 <= columns { prompt } else { prompt_cut(&app.mode, columns) };
    let used = width(&prompt);
    let (text, cursor) = app.editor.window(columns.saturating_sub(used));
    put(screen, area, 0, &Line::from(vec![Span::styled(prompt, style), Span::raw(text)]));
    let column = u16::try_from(used + cursor).unwrap_or(u16::MAX);
    Some(Position::new(area.x + column.min(area.width - 1), area.y))
}

fn prompt_cut(mode: &Mode, columns: usize) -> String {
    match mode {
        Mode::Nickname { why: Some(why) } => cut(&harmless(why), columns.saturating_sub(14)) + "; ",
        Mode::Nickname { why: None } => "name: ".to_owned(),
        _ => "> ".to_owned(),
    }
}
