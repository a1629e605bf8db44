//! How things look: with colours, or with weight alone where `NO_COLOR` says so.

use ratatui::style::{Color, Modifier, Style};

/// Colours of senders: without dark blue, which cannot be read on black, and the red of what has gone wrong.
const SENDERS: [Color; 8] = [
    Color::Green,
    Color::Yellow,
    Color::Magenta,
    Color::Cyan,
    Color::LightRed,
    Color::LightGreen,
    Color::LightBlue,
    Color::LightMagenta,
];

/// The styles.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    /// Whether there are colours.
    pub is_coloured: bool,
}

impl Theme {
    fn colour(self, colour: Color) -> Style {
        if self.is_coloured { Style::new().fg(colour) } else { Style::new() }
    }

    /// What is beside the point.
    pub fn soft(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What stands out.
    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What has gone wrong.
    pub fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// All is well.
    pub fn good(self) -> Style {
        self.colour(Color::Green)
    }

    /// It is not yet.
    pub fn warn(self) -> Style {
        self.colour(Color::Yellow)
    }

    /// What is new.
    pub fn unread(self) -> Style {
        self.colour(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// A line across the screen.
    pub fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The lines between panes.
    pub fn border(self) -> Style {
        self.soft()
    }

    /// A sender: the same one always looks the same.
    pub fn sender(self, nickname: &str, is_own: bool) -> Style {
        if is_own {
            return self.strong();
        }
        // FNV-1a: the same in every run.
        let hash = nickname.to_lowercase().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        self.colour(SENDERS[(hash >> 32) as usize % SENDERS.len()])
    }
}
