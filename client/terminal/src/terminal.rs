//! The terminal: taken, and given back as it was, however the program ends.

use std::io::{self, Stdout, Write as _};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::backend::{Backend as _, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};
use ratatui::layout::Rect;

use crate::app::App;
use crate::view;

/// Whether the terminal is ours and has to be given back.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether a thread has panicked: what is drawn from then on would hide what it said.
static HAS_PANICKED: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back, if it is ours.
fn give_back() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        let mut out = io::stdout();
        // What cannot be given back is gone.
        let _ = execute!(out, DisableMouseCapture, DisableBracketedPaste, LeaveAlternateScreen, cursor::Show);
        let _ = out.flush();
        let _ = disable_raw_mode();
    }
}

/// Whether a thread has panicked since the terminal was taken.
pub fn has_panicked() -> bool {
    HAS_PANICKED.load(Ordering::SeqCst)
}

/// A terminal that is drawn on. Dropping it gives it back.
///
/// Not ratatui's `Terminal`: when it is resized, that asks where the cursor is, and the answer would go to the thread that reads keys.
#[derive(Debug)]
pub struct Screen {
    backend: CrosstermBackend<Stdout>,
    /// What stands there.
    drawn: Buffer,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it does not let itself be taken.
    pub fn open(has_mouse: bool) -> io::Result<Screen> {
        // What a panic says is to be read, and not to be lost with the other screen.
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |why| {
            HAS_PANICKED.store(true, Ordering::SeqCst);
            give_back();
            before(why);
        }));
        enable_raw_mode()?;
        IS_TAKEN.store(true, Ordering::SeqCst);
        let entered = (|| {
            let mut out = io::stdout();
            execute!(out, EnterAlternateScreen, EnableBracketedPaste)?;
            if has_mouse {
                execute!(out, EnableMouseCapture)?;
            }
            Ok(Screen { backend: CrosstermBackend::new(out), drawn: Buffer::default() })
        })();
        if entered.is_err() {
            give_back();
        }
        entered
    }

    /// Columns and rows.
    pub fn size(&self) -> (u16, u16) {
        self.backend.size().map_or((80, 24), |size| (size.width.max(1), size.height.max(1)))
    }

    /// Draws what has changed.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn draw(&mut self, app: &App) -> io::Result<()> {
        let area = Rect::new(0, 0, app.size.0, app.size.1);
        if self.drawn.area != area {
            self.backend.clear()?;
            self.drawn = Buffer::empty(area);
        }
        let mut next = Buffer::empty(area);
        let cursor = view::paint(app, area, &mut next);
        self.backend.hide_cursor()?;
        self.backend.draw(self.drawn.diff(&next).into_iter())?;
        if let Some(cursor) = cursor {
            self.backend.set_cursor_position(cursor)?;
            self.backend.show_cursor()?;
        }
        io::Write::flush(&mut self.backend)?;
        self.drawn = next;
        Ok(())
    }

    /// Draws everything at the next time, whatever seems to stand there.
    pub fn forget(&mut self) {
        self.drawn = Buffer::default();
    }

    /// Rings.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn bell(&mut self) -> io::Result<()> {
        let mut out = io::stdout();
        out.write_all(b"\x07")?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}
