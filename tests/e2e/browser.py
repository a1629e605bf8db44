"""Headless Chromium, its tabs with the page in them, and what a person sees and does there."""

import os
import pathlib
import re
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from helpers import DEADLINE_S

SCREENSHOTS = pathlib.Path(os.environ.get("STARLING_TEST_ARTIFACTS", "target/screenshots"))
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--window-size=1280,800"]
# This machine under a name that no browser trusts as it trusts localhost: a page by http from there is not secure.
INSECURE_HOST = "chat.test"
FLAGS.append(f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


class Tab:
    """A tab of the browser, in front whenever it is asked something."""

    def __init__(self, driver, server):
        self._driver = driver
        self._handle = driver.current_window_handle
        self._url = server.url("/", "http")

    @property
    def driver(self):
        if self._driver.current_window_handle != self._handle:
            self._driver.switch_to.window(self._handle)
        return self._driver

    def at(self, host):
        """From now on the page is opened under another name of this machine."""
        address = urlsplit(self._url)
        self._url = address._replace(netloc=f"{host}:{address.port}").geturl()
        return self

    def open(self, query=""):
        self.driver.get(self._url + query)
        return self

    def wait(self, condition, what, seconds=DEADLINE_S):
        driver = self.driver
        return WebDriverWait(driver, seconds, poll_frequency=0.05).until(lambda _: condition(), f"in vain waited for {what}")

    def find(self, id):
        return self.driver.find_element(By.ID, id)

    def state(self):
        return self.driver.execute_script("return document.body.dataset.connection")

    def texts(self, selector):
        """What a person reads in the elements, as the browser lays it out."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((node) => node.innerText.trim())", selector)

    def expect_texts(self, selector, expected):
        """The page draws its lists a moment after what they tell has changed."""
        self.wait(lambda: self.texts(selector) == expected, f"{selector} to read {expected}")

    def answer_nickname(self, nickname):
        field = self.find("nickname")
        self.wait(field.is_displayed, "the question for a nickname")
        field.send_keys(Keys.CONTROL + "a")
        field.send_keys(nickname + Keys.ENTER)

    def enter(self, nickname, query=""):
        self.open(query)
        self.answer_nickname(nickname)
        return self.joined()

    def joined(self):
        self.wait(lambda: self.state() == "online" and self.texts("#members .name"), "the room to be joined")
        return self

    def write(self, text):
        """Types as a person does; a newline by Shift and Enter."""
        field = self.find("message")
        lines = text.split("\n")
        for line in lines[:-1]:
            field.send_keys(line + Keys.SHIFT + Keys.ENTER + Keys.NULL)
        field.send_keys(lines[-1] + Keys.ENTER)

    def messages(self):
        """Sender and content of all messages that the server has confirmed."""
        return [tuple(pair) for pair in self.driver.execute_script("""
            return [...document.querySelectorAll('.entries .message')].filter((node) => (node.dataset.status ?? 'sent') === 'sent').map((node) =>
                [node.querySelector('.sender').textContent, node.querySelector('.content').textContent])""")]

    def expect_message(self, sender, content):
        self.wait(lambda: (sender, content) in self.messages(), f"{sender} to say {content!r}")

    def expect_line(self, text):
        self.wait(lambda: any(line.startswith(text) for line in self.texts(".entries .line")), f"the line {text!r}")

    def emulate(self, scheme="light", width=1280, height=800, is_phone=False):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": width, "height": height, "deviceScaleFactor": 2 if is_phone else 1, "mobile": is_phone})

    def choose(self, nickname, choice):
        """Opens the menu at a member, and takes what is called so."""
        [entry] = [entry for entry in self.driver.find_elements(By.CSS_SELECTOR, "#members .entry") if nickname in entry.text]
        entry.click()
        [button] = [button for button in self.driver.find_elements(By.CSS_SELECTOR, "#member-menu button") if button.text == choice]
        button.click()

    def press(self, *keys):
        """Keys held together, wherever the focus is."""
        chain = ActionChains(self.driver)
        for key in keys[:-1]:
            chain.key_down(key)
        chain.send_keys(keys[-1])
        for key in reversed(keys[:-1]):
            chain.key_up(key)
        chain.perform()

    def focused(self):
        return self.driver.execute_script("return document.activeElement.id")

    def screenshot(self, name):
        still = "return document.getAnimations().every((animation) => animation.effect.getTiming().iterations === Infinity)"
        self.wait(lambda: self.driver.execute_script(still), "the page to come to rest")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    def complaints(self):
        """What the browser has logged, but for connections that failed because a test stopped the server, for the icon that it asks for
        on its own beside what is no page, and for a header that it takes notice of on secure pages alone."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        expected = ("WebSocket", "/favicon.ico", "Cross-Origin-Opener-Policy header has been ignored")
        return [message for message in messages if not any(text in message for text in expected)]


@pytest.fixture
def tab(chromium, server):
    """A fresh tab without memories; others that the last test has opened are closed."""
    for handle in chromium.window_handles[1:]:
        chromium.switch_to.window(handle)
        chromium.close()
    chromium.switch_to.window(chromium.window_handles[0])
    tab = Tab(chromium, server)
    tab.emulate()
    tab.driver.get("about:blank")
    tab.open("health")
    tab.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
    tab.driver.get_log("browser")
    yield tab
    assert tab.complaints() == []
    # The page says quit when it goes, so that the server's end finds no client of it.
    for handle in chromium.window_handles:
        chromium.switch_to.window(handle)
        chromium.get("about:blank")


def second_tab(tab, server):
    tab.driver.switch_to.new_window("tab")
    return Tab(tab._driver, server)


def contrast(tab, selector):
    """The ratio of the luminances of an element's text and the ground behind it."""
    text, ground = tab.driver.execute_script("""
        let node = document.querySelector(arguments[0]);
        const text = getComputedStyle(node).color;
        let ground = 'rgba(0, 0, 0, 0)';
        while (ground === 'rgba(0, 0, 0, 0)' && node) { ground = getComputedStyle(node).backgroundColor; node = node.parentElement; }
        return [text, ground]""", selector)

    def luminance(color):
        channels = [float(channel) / 255 for channel in re.findall(r"[\d.]+", color)[:3]]
        linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted([luminance(text), luminance(ground)], reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
