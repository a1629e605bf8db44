//! Terminals: whether there is one, and reading a password from it: what is typed is not shown.
//!
//! The terminal gives each byte as it comes, and no signal for Ctrl-C, which would end the process and leave a terminal that shows nothing
//! (termios(3)). So the few keys that edit a line are understood here.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;

/// Longest line in bytes; what is typed beyond it is left out. Longer than any password may be, so that one that is too long is noticed.
const LINE_BYTES_MAX: usize = 4096;

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const CTRL_BACKSLASH: u8 = 0x1c;
const DELETE: u8 = 0x7f;

/// What somebody did at a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// A line, without its end.
    Line(String),
    /// Ctrl-C, or Ctrl-D: they want to do something else.
    Interrupted,
}

/// Whether the process has a terminal from which it is controlled (tty(4)). It loses it when that is closed.
pub fn is_controlled() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Asks on standard error, and reads a line from standard input, which is a terminal, without showing it.
///
/// # Errors
/// When standard input is no terminal or cannot be read, or the line is not UTF-8.
pub fn read_hidden(prompt: &str) -> io::Result<Typed> {
    let _hidden = Hidden::new()?;
    // Only now: somebody may type as soon as it is seen. Whoever cannot see it may still type.
    let mut err = io::stderr();
    let _ = write!(err, "{prompt}").and_then(|()| err.flush());
    let typed = read_line();
    // The key that ended the line was not shown either.
    let _ = writeln!(err);
    typed
}

fn read_line() -> io::Result<Typed> {
    let mut line = Line::default();
    // A byte a call: what was typed ahead stays for the next line.
    let mut input = io::stdin().lock();
    loop {
        let mut byte = [0];
        if input.read(&mut byte)? == 0 {
            return Ok(Typed::Interrupted);
        }
        match line.feed(byte[0]) {
            Step::More => {}
            Step::Interrupted => return Ok(Typed::Interrupted),
            Step::End => {
                let not_utf8 = |_| io::Error::new(io::ErrorKind::InvalidData, "what was typed is not UTF-8");
                return String::from_utf8(line.0).map(Typed::Line).map_err(not_utf8);
            }
        }
    }
}

/// The terminal as it was; it becomes so again when this is dropped.
struct Hidden(libc::termios);

impl Hidden {
    fn new() -> io::Result<Self> {
        let mut found = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the call fills the value in, or fails.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, found.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: filled in by the call above.
        let before = unsafe { found.assume_init() };
        let mut hidden = before;
        hidden.c_lflag &= !(libc::ECHO | libc::ICANON | libc::ISIG | libc::IEXTEN);
        (hidden.c_cc[libc::VMIN], hidden.c_cc[libc::VTIME]) = (1, 0);
        set(&hidden)?;
        Ok(Hidden(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = set(&self.0); // a terminal that is gone needs no care
    }
}

fn set(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: the settings were filled in by tcgetattr.
    let result = unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, settings) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A line that is being typed.
#[derive(Default)]
struct Line(Vec<u8>);

#[derive(Debug, PartialEq, Eq)]
enum Step {
    More,
    End,
    Interrupted,
}

impl Line {
    fn feed(&mut self, byte: u8) -> Step {
        match byte {
            b'\r' | b'\n' => return Step::End,
            CTRL_C | CTRL_BACKSLASH => return Step::Interrupted,
            CTRL_D if self.0.is_empty() => return Step::Interrupted,
            DELETE | BACKSPACE => {
                // All bytes of a character: those after the first begin with the bits 10.
                while self.0.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            CTRL_U => self.0.clear(),
            _ if byte.is_ascii_control() || self.0.len() == LINE_BYTES_MAX => {}
            _ => self.0.push(byte),
        }
        Step::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line that comes of these keys, or what ended it otherwise.
    fn typed(keys: &str) -> Result<String, Step> {
        let mut line = Line::default();
        for byte in keys.bytes() {
            match line.feed(byte) {
                Step::More => {}
                Step::End => return Ok(String::from_utf8(line.0).unwrap()),
                Step::Interrupted => return Err(Step::Interrupted),
            }
        }
        Err(Step::More)
    }

    #[test]
    fn keys_edit_the_line() {
        assert_eq!(typed("hush\rmore"), Ok("hush".to_owned()));
        assert_eq!(typed("huß\u{7f}sh\n"), Ok("hush".to_owned()));
        assert_eq!(typed("\u{7f}\u{8}a\u{1f600}\u{8}\u{8}\u{8}b\n"), Ok("b".to_owned()));
        assert_eq!(typed("wrong\u{15}right\n"), Ok("right".to_owned()));
        assert_eq!(typed("a\u{1b}\u{1a}\u{4}b\n"), Ok("ab".to_owned()), "other keys do nothing");
        assert_eq!(typed("hush"), Err(Step::More));
        for key in ["\u{3}", "\u{1c}", "\u{4}"] {
            assert_eq!(typed(key), Err(Step::Interrupted));
        }
    }

    #[test]
    fn a_line_is_bounded() {
        let long = typed(&format!("{}\n", "x".repeat(LINE_BYTES_MAX + 10))).unwrap();
        assert_eq!(long.len(), LINE_BYTES_MAX);
    }
}
