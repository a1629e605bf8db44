//! The terminal as a screen: drawn on with the sequences that all of them know (ECMA-48), and left as it was.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal;

use super::text::{Line, Style};
use super::view::View;

/// To the other screen, where there is one, without a cursor and without lines that wrap; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The size where the terminal does not tell.
const SIZE: (u16, u16) = (80, 24);

/// What somebody at the terminal wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It is enough.
    End,
    /// The terminal has another size.
    Redraw,
}

/// A terminal that is drawn on. Dropping it restores it, also when something has failed.
#[derive(Debug)]
pub struct Screen {
    is_coloured: bool,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it does not let itself be changed.
    pub fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        // From here on what has been changed is changed back.
        let screen =
            Screen { is_coloured: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
        put(ENTER)?;
        Ok(screen)
    }

    /// What somebody wants, if they want something. Does not wait.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn asked(&mut self) -> io::Result<Option<Asked>> {
        let mut asked = None;
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('c' | 'd') if is_control => return Ok(Some(Asked::End)),
                        KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Ok(Some(Asked::End)),
                        KeyCode::Char('l') if is_control => asked = Some(Asked::Redraw),
                        _ => {}
                    }
                }
                Event::Resize(..) => asked = Some(Asked::Redraw),
                _ => {}
            }
        }
        Ok(asked)
    }

    /// Draws.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn draw(&mut self, view: &View) -> io::Result<()> {
        let (columns, rows) = terminal::size().ok().filter(|size| size.0 > 0 && size.1 > 0).unwrap_or(SIZE);
        let lines = view.lines(usize::from(columns));
        let mut out = String::from("\x1b[H");
        for (row, line) in lines.iter().take(usize::from(rows)).enumerate() {
            if row > 0 {
                out.push_str("\r\n");
            }
            self.put_line(&mut out, line, usize::from(columns));
            out.push_str("\x1b[K");
        }
        out.push_str("\x1b[J");
        put(&out)
    }

    fn put_line(&self, out: &mut String, line: &Line, columns: usize) {
        for (style, text) in line.cut(columns) {
            let sequence = match style {
                Style::Plain => None,
                // Weight is no colour.
                Style::Strong => Some("1"),
                Style::Soft => self.is_coloured.then_some("2"),
                Style::Good => self.is_coloured.then_some("32"),
                Style::Warn => self.is_coloured.then_some("33"),
                Style::Bad => Some(if self.is_coloured { "31" } else { "1" }),
                Style::Accent => self.is_coloured.then_some("36"),
            };
            let _ = match sequence {
                Some(sequence) => write!(out, "\x1b[{sequence}m{text}\x1b[0m"),
                None => write!(out, "{text}"),
            };
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = put(LEAVE);
        let _ = terminal::disable_raw_mode();
    }
}

fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
