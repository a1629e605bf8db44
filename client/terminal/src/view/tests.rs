//! What is drawn, as text.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};
use starling_client::serde_json::{from_value, json};
use starling_client::{Event, Reason};

use crate::app::tests::Test;

fn drawn(test: &Test) -> Buffer {
    let (columns, rows) = test.app.size;
    let mut buffer = Buffer::empty(Rect::new(0, 0, columns, rows));
    super::paint(&test.app, buffer.area, &mut buffer);
    buffer
}

fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let mut row = String::new();
        let mut skip = 0;
        for x in 0..buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            if skip > 0 {
                skip -= 1;
                continue;
            }
            skip = crate::text::width(symbol).saturating_sub(1);
            row.push_str(symbol);
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn busy(size: (u16, u16)) -> Test {
    let mut test = Test::online(size);
    test.joined("ops", json!([]), 0);
    test.message("ops", "bob", "alice: look", 1);
    test.message("den", "bob", "李明 🦜 e\u{301}", 11);
    test.message("den", "alice", "a long message that does not fit into one row of a small screen", 12);
    let state = json!({"room": "den", "key": "topic", "value": "birds", "sender": "bob"});
    test.hear(Event::State(from_value(state).unwrap()));
    test.hear(Event::Typing(from_value(json!({"room": "den", "nickname": "bob"})).unwrap()));
    test.hear(Event::Latency(Duration::from_micros(2_500)));
    test.write("half");
    test
}

#[test]
fn a_usual_screen() {
    assert_eq!(
        text(&drawn(&busy((80, 14)))),
        "\
0 server       │ den: birds                                      │ 2 here
1 den          │                                                 │@alice
2 ops        !1│                                                 │ bob
               │                                                 │
               │                                                 │
               │ ─────────── PageUp: older messages ──────────── │
               │ ───────────────── 1970-01-01 ────────────────── │
               │ 01:00 bob: 李明 🦜 e\u{301}                            │
               │ 01:00 alice: a long message that does not fit   │
               │       into one row of a small screen            │
               │ 01:00 * bob set the topic: birds                │
               │ bob is typing                                   │
 ● online 2.5 ms                                                 alice  F1 help
den> half
"
    );
}

#[test]
fn a_small_screen() {
    assert_eq!(
        text(&drawn(&busy((30, 10)))),
        "\
0:server 1:den 2:ops !1
 den: birds
      that does not fit into
      one row of a small
      screen
01:00 * bob set the topic:
        birds
 bob is typing
 ● online 2.5 ms        alice
> half
"
    );
}

#[test]
fn a_tiny_screen() {
    assert_eq!(
        text(&drawn(&busy((20, 5)))),
        "\u{20}screen
* bob set the topic:
  birds
 ● online 2.5 ms +1
> half
"
    );
}

#[test]
fn any_size_is_drawn() {
    let mut test = busy((1, 1));
    for size in [(1, 1), (2, 2), (5, 3), (20, 5), (63, 8), (64, 8), (80, 24), (200, 60), (300, 3), (10, 100)]
    {
        test.app.size = size;
        for help in [None, Some(0), Some(200)] {
            test.app.help = help;
            drawn(&test);
        }
        test.app.help = None;
        test.press(KeyCode::PageUp, KeyModifiers::NONE);
        test.press(KeyCode::PageDown, KeyModifiers::NONE);
    }
}

#[test]
fn nothing_has_a_colour_where_none_is_wanted() {
    let mut test = busy((100, 20));
    let reason = Reason::Silent;
    test.hear(Event::Waiting { delay: Duration::from_secs(3), reason });
    assert!(drawn(&test).content.iter().any(|cell| cell.fg != Color::Reset));
    test.app.settings.is_coloured = false;
    assert!(drawn(&test).content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
}

#[test]
fn what_is_new_stands_below_a_line_and_days_are_told_apart() {
    let mut test = Test::online((60, 12));
    test.alt('0');
    test.message("den", "bob", "first", 11);
    let tomorrow = json!({"room": "den", "epoch": "e", "sender": "bob", "content": "second", "offset": 12, "timestamp": 90_000_000});
    test.hear(Event::Message(from_value(tomorrow).unwrap()));
    test.alt('1');
    let screen = text(&drawn(&test));
    let rows: Vec<&str> =
        screen.lines().map(|row| row.trim_matches(['─', ' '])).filter(|row| !row.is_empty()).collect();
    assert_eq!(
        rows[3..8],
        ["1970-01-01", "new", "01:00       bob  first", "1970-01-02", "01:00       bob  second"],
        "{screen}"
    );
}

#[test]
fn a_mention_stands_out() {
    let mut test = Test::online((80, 12));
    test.message("den", "bob", "alice, look", 11);
    let buffer = drawn(&test);
    let is_marked =
        |cell: &ratatui::buffer::Cell| cell.symbol() == "b" && cell.modifier.contains(Modifier::REVERSED);
    assert!(buffer.content.iter().any(is_marked));
}
