//! Lines of styled text, figures for people, and lines drawn with letters.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory as _};

/// How a piece of a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As the terminal writes by itself.
    Plain,
    /// Headings, and figures that matter.
    Strong,
    /// What is beside the point.
    Soft,
    /// All is well.
    Good,
    /// It may not be for long.
    Warn,
    /// It is not.
    Bad,
    /// Lines over time.
    Accent,
}

/// A line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line(pub Vec<(Style, String)>);

impl Line {
    /// Adds a piece.
    #[must_use]
    pub fn with(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    /// Its text.
    pub fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// As much of it as fits.
    pub fn cut(&self, columns: usize) -> impl Iterator<Item = (Style, String)> + '_ {
        let mut left = columns;
        self.0.iter().map(move |(style, text)| {
            let text = cut(text, left);
            left -= width(&text);
            (*style, text)
        })
    }
}

/// How many columns a text takes, as far as that is known of terminals: marks none, the letters of East Asia and pictures two.
pub fn width(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

fn width_of(letter: char) -> usize {
    match letter {
        _ if letter.general_category_group() == GeneralCategoryGroup::Mark => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// What fits of a text.
pub fn cut(text: &str, columns: usize) -> String {
    let mut left = columns;
    let fits = |letter: &char| {
        let width = width_of(*letter);
        let does = width <= left;
        left = left.saturating_sub(if does { width } else { left });
        does
    };
    text.chars().take_while(fits).collect()
}

/// A text that others wrote, cut to so many columns, without anything that moves the cursor or turns the direction.
pub fn foreign(text: &str, columns: usize) -> String {
    let is_safe = |letter: &char| {
        !matches!(
            letter.general_category_group(),
            GeneralCategoryGroup::Other | GeneralCategoryGroup::Separator
        ) || *letter == ' '
    };
    let safe: String = text.chars().filter(is_safe).collect();
    if width(&safe) <= columns { safe } else { cut(&safe, columns.saturating_sub(1)) + "…" }
}

/// Puts spaces before a text, up to so many columns.
pub fn right(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Puts spaces behind a text, up to so many columns.
pub fn left(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// The last values as bars, the highest being the highest bar, or `ceiling` if none is higher.
pub fn sparkline(values: impl DoubleEndedIterator<Item = f64>, columns: usize, ceiling: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut last: Vec<f64> = values.rev().take(columns).collect();
    last.reverse();
    let top = last.iter().copied().fold(ceiling, f64::max);
    let bar = |value: &f64| BARS[((value / top * 8.0) as usize).min(7)];
    right(&last.iter().map(bar).collect::<String>(), columns)
}

/// A number: with commas up to a million, then shortened.
pub fn count(value: f64) -> String {
    match value {
        _ if value < 1000.0 => format!("{value:.0}"),
        _ if value < 1e6 => format!("{},{:03}", (value / 1000.0) as u64, value as u64 % 1000),
        _ if value < 1e9 => format!("{:.1}M", value / 1e6),
        _ => format!("{:.1}G", value / 1e9),
    }
}

/// Something a second.
pub fn rate(value: f64) -> String {
    if value > 0.0 && value < 10.0 { format!("{value:.1}") } else { count(value) }
}

/// Bytes.
pub fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (value, 0);
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Microseconds.
pub fn micros(value: f64) -> String {
    match value {
        _ if value < 10.0 => format!("{value:.1} µs"),
        _ if value < 1000.0 => format!("{value:.0} µs"),
        _ if value < 10_000.0 => format!("{:.1} ms", value / 1e3),
        _ if value < 1e6 => format!("{:.0} ms", value / 1e3),
        _ => format!("{:.1} s", value / 1e6),
    }
}

/// A share.
pub fn percent(value: f64) -> String {
    if value < 0.1 { format!("{:.1} %", value * 100.0) } else { format!("{:.0} %", value * 100.0) }
}

/// How long something has lasted, in milliseconds.
pub fn duration(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match (hours / 24, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (value, text) in [(0.0, "0"), (999.0, "999"), (1234.0, "1,234"), (2.5e6, "2.5M"), (3e9, "3.0G")] {
            assert_eq!(count(value), text);
        }
        assert_eq!((rate(0.0), rate(0.25), rate(12.0)), ("0".into(), "0.2".into(), "12".into()));
        assert_eq!(
            (bytes(5.0), bytes(2048.0), bytes(3.5e8)),
            ("5 B".into(), "2.0 KiB".into(), "334 MiB".into())
        );
        assert_eq!(
            (micros(5.0), micros(2500.0), micros(2e6)),
            ("5.0 µs".into(), "2.5 ms".into(), "2.0 s".into())
        );
        assert_eq!((percent(0.012), percent(0.5)), ("1.2 %".into(), "50 %".into()));
        assert_eq!(duration(90_000), "1 min");
        assert_eq!(duration(90_000_000), "1 d 1 h");
    }

    #[test]
    fn text_is_cut_by_columns_and_disarmed() {
        assert_eq!((width("ab"), width("李明"), width("e\u{301}")), (2, 4, 1));
        assert_eq!(cut("李明", 3), "李");
        assert_eq!(foreign("a\x1b[2J\u{202e}b\n", 20), "a[2Jb");
        assert_eq!(foreign("abcdef", 4), "abc…");
        let line = Line::default().with(Style::Plain, "abc").with(Style::Bad, "def");
        let cut: Vec<_> = line.cut(4).collect();
        assert_eq!(cut, [(Style::Plain, "abc".to_owned()), (Style::Bad, "d".to_owned())]);
    }

    #[test]
    fn bars_are_of_the_highest() {
        assert_eq!(sparkline([0.0, 4.0, 8.0].into_iter(), 4, 1.0), " ▁▅█");
        assert_eq!(sparkline([1.0, 2.0, 3.0].into_iter(), 2, 8.0), "▃▄");
    }
}
