//! What is drawn, as text.

use std::time::Duration;

use proptest::prelude::*;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{Event as Key, KeyCode, KeyModifiers};
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

/// What somebody does, or hears.
#[derive(Debug, Clone)]
enum Step {
    Key(KeyCode, KeyModifiers),
    Type(&'static str),
    Hear { room: bool, content: &'static str },
    Resize(u16, u16),
    Older(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let codes = vec![
        KeyCode::Enter,
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::Left,
        KeyCode::Right,
        KeyCode::Backspace,
        KeyCode::Delete,
        KeyCode::F(1),
        KeyCode::F(2),
        KeyCode::Esc,
        KeyCode::Char('c'),
        KeyCode::Char('n'),
        KeyCode::Char('w'),
        KeyCode::Char('1'),
        KeyCode::Char('y'),
    ];
    let modifiers = vec![KeyModifiers::NONE, KeyModifiers::CONTROL, KeyModifiers::ALT];
    let texts = vec![
        "a",
        "b",
        "李",
        "e\u{301}",
        "🦜",
        "/",
        "/msg bob hi",
        "/leave",
        "/join ops",
        "/history",
        " ",
        "\u{202e}",
        "//x",
    ];
    let contents = vec![
        "",
        "short",
        "a longer one with 李明 and \n a break, long enough to be wrapped",
        "🦜🦜🦜🦜🦜🦜🦜🦜",
        "alice",
    ];
    let step = prop_oneof![
        (prop::sample::select(codes), prop::sample::select(modifiers))
            .prop_map(|(code, with)| Step::Key(code, with)),
        prop::sample::select(texts).prop_map(Step::Type),
        (any::<bool>(), prop::sample::select(contents))
            .prop_map(|(room, content)| Step::Hear { room, content }),
        (1..130_u16, 1..45_u16).prop_map(|(columns, rows)| Step::Resize(columns, rows)),
        (1..20_u64).prop_map(Step::Older),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn whatever_happens_is_drawn(steps in steps()) {
        let mut test = Test::online((80, 24));
        test.joined("ops", json!([]), 0);
        let mut offset = 1000;
        for step in steps {
            match step {
                Step::Key(code, with) => test.press(code, with),
                Step::Type(text) => test.write(text),
                Step::Hear { room, content } => {
                    offset += 1;
                    test.message(if room { "den" } else { "ops" }, "bob", content, offset);
                }
                Step::Resize(columns, rows) => {
                    test.app.event(&Key::Resize(columns, rows), &mut test.server);
                }
                Step::Older(count) => test.older("den", count),
            }
            let buffer = drawn(&test);
            prop_assert!(buffer.content.iter().all(|cell| !cell.symbol().contains(char::is_control)));
            // Scrolled all the way down is not scrolled.
            test.app.help = None;
            let scroll = test.app.shown().scroll;
            let (down, _) = super::rows::moved(&test.app, isize::MAX / 2);
            prop_assert_eq!(down, None, "from {:?}", scroll);
        }
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

#[test]
fn who_quits_is_told_what_becomes_of_what_is_unsent() {
    for (has_journal, count, told) in [
        (false, 1, "A message is unsent and would be lost. Quit? y/n"),
        (false, 2, "2 messages are unsent and would be lost. Quit? y/n"),
        (true, 1, "A message is unsent; the journal keeps it. Quit? y/n"),
        (true, 2, "2 messages are unsent; the journal keeps them. Quit? y/n"),
    ] {
        let mut test = Test::online((80, 24));
        test.app.settings.has_journal = has_journal;
        for _ in 0..count {
            test.enter("hello");
        }
        test.control('c');
        assert_eq!(text(&drawn(&test)).lines().last(), Some(told));
    }
}

#[test]
fn whose_nickname_was_taken_meanwhile_is_told_what_helps() {
    let refusal = || {
        Reason::Refused(
            from_value(
                json!({"code": 409, "reason": "nickname_in_use", "message": "this nickname is in use"}),
            )
            .unwrap(),
        )
    };
    for columns in [80, 60, 50, 40] {
        let mut test = Test::online((columns, 24));
        test.hear(Event::Connecting { attempt: 1 });
        test.hear(Event::Waiting { delay: Duration::from_secs(1), reason: Reason::Silent });
        for attempt in 2..4 {
            test.hear(Event::Connecting { attempt });
            test.hear(Event::Waiting { delay: Duration::from_secs(30), reason: refusal() });
        }
        let screen = text(&drawn(&test));
        let status = screen.lines().rev().nth(1).unwrap();
        assert!(status.contains("taken: /nick NAME"), "{status}");
        assert_eq!(test.said().iter().filter(|line| line.contains("/nick NAME takes another")).count(), 1);
        // What is typed is obeyed at once.
        test.enter("/nick al");
        assert_eq!(test.asked().last(), Some(&crate::app::Ask::Nick("al".to_owned())));
    }
}
