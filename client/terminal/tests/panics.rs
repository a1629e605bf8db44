//! A panic at a terminal gives it back, and can be read.

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::FromRawFd as _;
use std::process::{Command, Stdio};

use starling_chat::terminal::Screen;

/// Tells the test that it is the one at the terminal.
const AT_TERMINAL: &str = "CHAT_TEST_AT_TERMINAL";

#[test]
fn a_panic_gives_the_terminal_back_and_can_be_read() {
    if env::var_os(AT_TERMINAL).is_some() {
        let _screen = Screen::open(true).unwrap();
        // As on any thread: the one that draws is not asked.
        let _ = std::thread::spawn(|| panic!("on purpose")).join();
        return;
    }
    let (mut terminal, mut child) = (-1, -1);
    let null = std::ptr::null_mut();
    // SAFETY: both numbers are written, and nothing else is asked for.
    assert_eq!(unsafe { libc::openpty(&mut terminal, &mut child, null, null.cast(), null.cast()) }, 0);
    // SAFETY: they are open, and nobody else's.
    let (mut terminal, child) = unsafe { (File::from_raw_fd(terminal), File::from_raw_fd(child)) };
    let pipe = || Stdio::from(child.try_clone().unwrap());
    let mut program = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_panic_gives_the_terminal_back_and_can_be_read", "--nocapture"])
        .env(AT_TERMINAL, "1")
        .stdin(pipe())
        .stdout(pipe())
        .stderr(pipe())
        .spawn()
        .unwrap();
    drop(child);
    let mut output = Vec::new();
    let mut chunk = [0; 4096];
    // At the end reading fails, as nobody has the other side any more.
    while let Ok(count @ 1..) = terminal.read(&mut chunk) {
        output.extend_from_slice(&chunk[..count]);
    }
    assert!(program.wait().unwrap().success());
    let output = String::from_utf8_lossy(&output);
    let at = |text: &str| output.find(text).unwrap_or_else(|| panic!("no {text:?} in {output:?}"));
    assert!(at("\x1b[?1049h") < at("\x1b[?1049l"), "{output:?}");
    assert!(at("\x1b[?1049l") < at("on purpose"), "{output:?}");
    assert!(at("\x1b[?1000l") < at("on purpose"), "{output:?}");
}
