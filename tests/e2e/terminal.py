"""A program at a pseudo-terminal: keys go in, and the screen that they make is read."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading

import pyte
from wcwidth import wcwidth

from helpers import DEADLINE_S, environment, wait_until

KEYS = {
    "enter": "\r", "tab": "\t", "backtab": "\x1b[Z", "escape": "\x1b", "up": "\x1b[A", "down": "\x1b[B", "right": "\x1b[C", "left": "\x1b[D", "home": "\x1b[H", "end": "\x1b[F",
    "pageup": "\x1b[5~", "pagedown": "\x1b[6~", "f1": "\x1bOP", "f2": "\x1bOQ", "ctrl-c": "\x03", "ctrl-l": "\x0c", "ctrl-n": "\x0e", "ctrl-p": "\x10", "ctrl-u": "\x15",
    "ctrl-w": "\x17", "ctrl-a": "\x01", "alt-down": "\x1b[1;3B",
}


class Screen(pyte.Screen):
    """pyte's, which takes no notice of the private modes of newer terminals."""

    def set_mode(self, *modes, **options):
        if options.get("private"):
            modes = [mode for mode in modes if mode < 1000]
        super().set_mode(*modes, **options)

    def reset_mode(self, *modes, **options):
        if options.get("private"):
            modes = [mode for mode in modes if mode < 1000]
        super().reset_mode(*modes, **options)


class Terminal:
    """Starts a program there. Everything that it writes is also in `output`, as bytes."""

    def __init__(self, command, columns=80, rows=24, variables=None):
        self.screen = Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self.output = b""
        self._main, child = pty.openpty()
        self._set_size(columns, rows)
        self.before = termios.tcgetattr(child)
        self._child = child
        variables = environment() | {"TERM": "xterm-256color", "TZ": "UTC"} | (variables or {})
        if "NO_COLOR" not in variables:
            variables.pop("NO_COLOR", None)
        self.process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=variables, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                data = os.read(self._main, 65_536)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                self.output += data
                self._stream.feed(data)

    def _set_size(self, columns, rows):
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns, rows):
        with self._lock:
            self.screen.resize(rows, columns)
        self._set_size(columns, rows)

    def type(self, text):
        os.write(self._main, text.encode())

    def press(self, *keys):
        for key in keys:
            self.type(KEYS.get(key) or "\x1b" + key.removeprefix("alt-"))

    def enter(self, text):
        self.type(text + "\r")

    def paste(self, text):
        self.type(f"\x1b[200~{text}\x1b[201~")

    def lines(self):
        with self._lock:
            rows = [[self.screen.buffer[row][column].data for column in range(self.screen.columns)] for row in range(self.screen.lines)]
        return ["".join(self._seen(row)).rstrip() for row in rows]

    @staticmethod
    def _seen(row):
        """The second half of a wide letter is an empty cell; one that is left of a letter that was overwritten is blank at a terminal, but not for pyte."""
        before = ""
        for cell in row:
            yield cell or ("" if before and wcwidth(before[0]) == 2 else " ")
            before = cell

    def text(self):
        return "\n".join(self.lines())

    def count(self, text):
        return self.text().count(text)

    def cells(self):
        with self._lock:
            return [self.screen.buffer[row][column] for row in range(self.screen.lines) for column in range(self.screen.columns)]

    def shows(self, *texts, seconds=DEADLINE_S):
        """Waits until all of these are on the screen."""
        def found():
            screen = self.text()
            return all(text in screen for text in texts)

        try:
            wait_until(found, f"{texts} on the screen", seconds)
        except AssertionError as why:
            raise AssertionError(f"{why}:\n{self.text()}") from None

    def shows_no_more(self, text):
        wait_until(lambda: text not in self.text(), f"a screen without {text!r}:\n{self.text()}")

    def is_as_before(self):
        """Whether the terminal's modes are as they were, and the other screen has been left."""
        return termios.tcgetattr(self._child)[:4] == self.before[:4] and self.output.rfind(b"\x1b[?1049l") > self.output.rfind(b"\x1b[?1049h")

    def exit_code(self):
        try:
            return self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.text()}") from None

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(DEADLINE_S)
        os.close(self._child)
        # Ends the reader, too.
        self._reader.join(DEADLINE_S)
        os.close(self._main)
