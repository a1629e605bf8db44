//! Keys, pastes and the mouse.

use ratatui::crossterm::event::{
    Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};

use super::{App, Ask, Effect, Mode, Server};
use crate::buffer::Kind;
use crate::complete::Completion;
use crate::view;

/// How many rows a turn of the wheel is.
const WHEEL: isize = 3;

impl App {
    /// Something has come from the terminal.
    pub fn event(&mut self, event: &Event, server: &mut dyn Server) {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key, server),
            Event::Paste(text) => {
                self.help = None;
                self.completion = None;
                if self.mode != Mode::Quit {
                    self.editor.insert(text.trim_end_matches(['\r', '\n']));
                }
            }
            Event::Mouse(mouse) => self.mouse(*mouse, server),
            Event::Resize(columns, rows) => {
                self.size = (*columns, *rows);
                self.effects.push(Effect::Redraw);
            }
            _ => {}
        }
    }

    fn key(&mut self, key: KeyEvent, server: &mut dyn Server) {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        let is_alt = key.modifiers.contains(KeyModifiers::ALT);
        if is_control && key.code == KeyCode::Char('l') {
            self.effects.push(Effect::Redraw);
            return;
        }
        if self.mode == Mode::Quit {
            return self.answer(key, is_control);
        }
        if self.help.is_some() && self.key_of_help(key.code) {
            return;
        }
        if !matches!(key.code, KeyCode::Tab | KeyCode::BackTab) {
            self.completion = None;
        }
        match key.code {
            KeyCode::F(1) => self.help = Some(0),
            KeyCode::F(2) => self.has_members = !self.has_members,
            KeyCode::Enter if is_alt => self.editor.insert("\n"),
            KeyCode::Enter => self.enter(server),
            KeyCode::Tab => self.complete(false),
            KeyCode::BackTab => self.complete(true),
            KeyCode::PageUp => self.scroll(-self.page(), server),
            KeyCode::PageDown => self.scroll(self.page(), server),
            KeyCode::Home if is_control || self.editor.is_empty() => self.scroll(isize::MIN / 2, server),
            KeyCode::End if is_control || self.editor.is_empty() => self.scroll(isize::MAX / 2, server),
            KeyCode::Char(letter) if is_control => self.control(letter, server),
            KeyCode::Char(letter) if is_alt => self.alt(letter),
            KeyCode::Up if is_alt => self.turn(true),
            KeyCode::Down if is_alt => self.turn(false),
            KeyCode::Up => self.editor.older(),
            KeyCode::Down => self.editor.newer(),
            KeyCode::Left if is_control || is_alt => self.editor.word_left(),
            KeyCode::Right if is_control || is_alt => self.editor.word_right(),
            KeyCode::Left => self.editor.left(),
            KeyCode::Right => self.editor.right(),
            KeyCode::Home => self.editor.home(),
            KeyCode::End => self.editor.end(),
            KeyCode::Backspace if is_alt || is_control => self.editor.kill_word(),
            KeyCode::Backspace => self.editor.backspace(),
            KeyCode::Delete => self.editor.delete(),
            KeyCode::Char(letter) => {
                self.editor.insert(letter.encode_utf8(&mut [0; 4]));
                self.tell_typing(server);
            }
            _ => {}
        }
    }

    fn control(&mut self, letter: char, server: &mut dyn Server) {
        match letter {
            'c' if !self.editor.is_empty() => self.editor.clear(),
            'c' => self.ask_to_quit(),
            'd' if self.editor.is_empty() => self.ask_to_quit(),
            'd' => self.editor.delete(),
            'a' => self.editor.home(),
            'e' => self.editor.end(),
            'b' => self.editor.left(),
            'f' => self.editor.right(),
            'w' => self.editor.kill_word(),
            'u' => self.editor.kill_to_start(),
            'k' => self.editor.kill_to_end(),
            'y' => self.editor.yank(),
            'h' => self.editor.backspace(),
            // As terminals send Enter where it is told from it.
            'j' | 'm' => self.enter(server),
            'n' => self.turn(false),
            'p' => self.turn(true),
            _ => {}
        }
    }

    fn alt(&mut self, letter: char) {
        match letter {
            '0'..='9' => self.go(letter as usize - '0' as usize),
            'a' => self.go_to_unread(),
            'b' => self.editor.word_left(),
            'f' => self.editor.word_right(),
            'd' => self.editor.kill_word_right(),
            _ => {}
        }
    }

    /// To the buffer before or after, around the ends.
    fn turn(&mut self, is_back: bool) {
        let count = self.buffers.len();
        self.go((self.current + if is_back { count - 1 } else { 1 }) % count);
    }

    /// To the next one with something new; one's own name first.
    fn go_to_unread(&mut self) {
        let others = (1..self.buffers.len()).map(|step| (self.current + step) % self.buffers.len());
        let unread = others.filter(|at| self.buffers[*at].unread > 0);
        if let Some(at) = unread.max_by_key(|at| (self.buffers[*at].mentions > 0, usize::MAX - at)) {
            self.go(at);
        }
    }

    fn page(&self) -> isize {
        let rows = view::areas(self).messages.height;
        isize::try_from(rows.saturating_sub(1).max(1)).unwrap_or(1)
    }

    fn key_of_help(&mut self, code: KeyCode) -> bool {
        let Some(row) = self.help else { return false };
        match code {
            KeyCode::Up => self.help = Some(row.saturating_sub(1)),
            KeyCode::Down => self.help = Some((row + 1).min(view::help::rows())),
            KeyCode::PageUp => self.help = Some(row.saturating_sub(self.size.1)),
            KeyCode::PageDown => self.help = Some((row + self.size.1 / 2).min(view::help::rows())),
            KeyCode::Esc | KeyCode::F(1) | KeyCode::Enter | KeyCode::Char('q') => self.help = None,
            // It goes away, and the key does what it does.
            _ => {
                self.help = None;
                return false;
            }
        }
        true
    }

    /// Ends, unless something is unsent: then it is asked for.
    pub(super) fn ask_to_quit(&mut self) {
        if self.unsent() == 0 {
            self.quit();
        } else {
            self.mode_before = std::mem::replace(&mut self.mode, Mode::Quit);
        }
    }

    fn answer(&mut self, key: KeyEvent, is_control: bool) {
        match key.code {
            KeyCode::Char('y' | 'Y') => self.quit(),
            KeyCode::Char('c' | 'd') if is_control => self.quit(),
            _ => self.mode = std::mem::replace(&mut self.mode_before, Mode::Chat),
        }
    }

    fn complete(&mut self, is_back: bool) {
        if self.mode != Mode::Chat {
            return;
        }
        match &mut self.completion {
            Some(completion) => completion.turn(is_back),
            None => {
                let known = self.known();
                self.completion = Completion::new(self.editor.text(), self.editor.cursor(), &known);
            }
        }
        if let Some(completion) = &self.completion {
            let (from, text) = (completion.from, completion.text().to_owned());
            self.editor.replace(from, self.editor.cursor(), &text);
            if completion.count() == 1 {
                self.completion = None;
            }
        }
    }

    /// Others see that one writes to them, but not what, and not commands.
    fn tell_typing(&mut self, server: &mut dyn Server) {
        let buffer = self.shown();
        let is_command = self.editor.text().starts_with('/') && !self.editor.text().starts_with("//");
        if self.mode == Mode::Chat && buffer.kind == Kind::Room && buffer.is_joined && !is_command {
            // Nobody misses it where it cannot be told.
            let _ = server.ask(Ask::Typing(buffer.name.clone()));
        }
    }

    fn mouse(&mut self, mouse: MouseEvent, server: &mut dyn Server) {
        match mouse.kind {
            MouseEventKind::ScrollUp => self.scroll(-WHEEL, server),
            MouseEventKind::ScrollDown => self.scroll(WHEEL, server),
            MouseEventKind::Down(MouseButton::Left) => {
                if let Some(at) = view::bar::buffer_at(self, mouse.column, mouse.row) {
                    self.go(at);
                }
            }
            _ => {}
        }
    }
}
