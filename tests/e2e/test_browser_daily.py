"""The page as one uses it every day: long logs, unread marks, writing offline, hosts, keys, notifications, looks, and who cannot see it."""

import os
import pathlib

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browser import INSECURE_HOST, Tab, chromium, tab  # noqa: F401

AXE = pathlib.Path(os.environ.get("STARLING_TEST_NPM", pathlib.Path(__file__).parents[2] / "target/npm")) / "node_modules/axe-core/axe.min.js"

# Every socket that the page opens from now on fails, and the one that it has breaks at the next word.
GO_OFFLINE = """
    const real = WebSocket.prototype.send;
    WebSocket.prototype.send = function () { WebSocket.prototype.send = real; this.close(); };
    window.WebSocket = class { constructor() { setTimeout(() => this.onclose?.({ code: 1006, reason: '' }), 20); } send() {} close() {} };"""

HIDE = """
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => arguments_hidden });
    document.dispatchEvent(new Event('visibilitychange'));"""


def set_hidden(tab, is_hidden):
    tab.driver.execute_script("window.arguments_hidden = arguments[0];" + HIDE, is_hidden)


def entry_of(tab, nickname):
    [entry] = [entry for entry in tab.driver.find_elements(By.CSS_SELECTOR, "#members .entry") if nickname in entry.text]
    return entry


def rows(tab):
    return tab.driver.execute_script("return document.querySelectorAll('.log-row').length")


def from_end(tab):
    return tab.driver.execute_script("const s = document.getElementById('scroller'); return s.scrollHeight - s.scrollTop - s.clientHeight")


def go_to(tab, room):
    [entry] = [entry for entry in tab.driver.find_elements(By.CSS_SELECTOR, "#rooms .entry") if room in entry.text]
    entry.click()


def wheel(tab, px, times=1):
    """Turns the wheel over the log, downwards if `px` is positive."""
    chain = ActionChains(tab.driver, duration=0)
    for _ in range(times):
        chain.scroll_from_origin(ScrollOrigin.from_element(tab.find("scroller")), 0, px).pause(0.02)
    chain.perform()


def numbers(tab):
    """Those of the messages in the document, which are called `message 17`."""
    return [int(text.split()[1]) for text in tab.texts(".message .content") if text.startswith("message ")]


def fill(client, room, start, end):
    """Says messages without waiting for each."""
    for number in range(start, end):
        client.send("message", room=room, content=f"message {number}")
    client.call("ping")


# Long logs.

def test_ten_thousand_messages_are_a_few_nodes(start_server, chromium, tab):  # noqa: F811
    busy = start_server(history__count=20_000)
    bob = busy.ws("bob")
    bob.call("join", room="den", echo=False)
    anna = Tab(chromium, busy).enter("anna", "?room=den")
    fill(bob, "den", 0, 10_000)
    anna.wait(lambda: anna.messages()[-1:] == [("bob", "message 9999")], "the last message", seconds=60)
    anna.wait(lambda: from_end(anna) < 5, "the end to be in sight")
    assert rows(anna) < 120
    # All of it is there: somebody who scrolls finds each message at its place, without the page becoming slow.
    anna.driver.set_script_timeout(120)
    seen, step_ms = anna.driver.execute_async_script("""
        const done = arguments[0];
        const scroller = document.getElementById('scroller');
        const seen = new Set();
        const steps = [];
        let last = performance.now();
        const step = () => {
            const now = performance.now();
            steps.push(now - last);
            last = now;
            document.querySelectorAll('.message .content').forEach((node) => seen.add(Number(node.textContent.split(' ')[1])));
            if (seen.has(0) || scroller.scrollTop === 0) {
                done([seen.size, steps.sort((a, b) => a - b)[steps.length >> 1]]);
                return;
            }
            scroller.dispatchEvent(new WheelEvent('wheel', { deltaY: -1 }));
            scroller.scrollTop -= 1_500;
            requestAnimationFrame(() => requestAnimationFrame(step));
        };
        step();""")
    assert seen == 10_000
    assert step_ms < 200, "two frames must not take long, on a busy machine either"
    assert rows(anna) < 150
    # Whoever reads further up is left there.
    before = anna.driver.execute_script("return document.getElementById('scroller').scrollTop")
    bob.call("message", room="den", content="news")
    anna.wait(lambda: anna.find("to-latest").is_displayed(), "the way to the latest messages")
    assert anna.driver.execute_script("return document.getElementById('scroller').scrollTop") == before
    anna.find("to-latest").click()
    anna.expect_message("bob", "news")
    anna.wait(lambda: from_end(anna) < 5, "the end to be in sight")


def test_scrolling_up_fetches_history_and_keeps_the_place(server, tab):  # noqa: F811
    bob = server.ws("bob", "den")
    fill(bob, "den", 0, 420)
    anna = tab.enter("anna", "?room=den")
    anna.expect_message("bob", "message 419")
    assert min(numbers(anna)) >= 370, "the newest page comes with the join"
    text, top = anna.driver.execute_async_script("""
        const done = arguments[0];
        document.getElementById('scroller').scrollTop = 10;
        requestAnimationFrame(() => requestAnimationFrame(() => {
            const [node] = [...document.querySelectorAll('.message .content')].filter((other) => other.getBoundingClientRect().top > 150);
            done([node.textContent, node.getBoundingClientRect().top]);
        }));""")
    anna.wait(lambda: anna.driver.execute_script("return document.getElementById('scroller').scrollTop") > 500, "earlier messages above")
    now = anna.driver.execute_script("""
        return [...document.querySelectorAll('.message .content')].find((node) => node.textContent === arguments[0]).getBoundingClientRect().top""", text)
    assert abs(now - top) < 2, (text, top, now)

    def at_top():
        anna.driver.execute_script("document.getElementById('scroller').scrollTop = 0")
        return 0 in numbers(anna)

    anna.wait(at_top, "the first message")
    anna.wait(lambda: not anna.texts(".line.earlier"), "the end of what can be fetched")
    assert numbers(anna) == sorted(set(numbers(anna)))
    anna.press(Keys.CONTROL, Keys.END)
    anna.wait(lambda: 419 in numbers(anna) and from_end(anna) < 5, "the end")


def test_scrolling_is_not_undone_by_what_is_drawn_meanwhile(server, tab):  # noqa: F811
    """A drawing may be due when somebody scrolls: each of these steps must go as far as it was meant."""
    bob = server.ws("bob", "den")
    anna = tab.enter("anna", "?room=den")
    fill(bob, "den", 0, 400)
    anna.expect_message("bob", "message 399")
    anna.wait(lambda: from_end(anna) < 5, "the end to be in sight")
    first = anna.driver.execute_async_script("""
        const done = arguments[0];
        const scroller = document.getElementById('scroller');
        let count = 0;
        const step = () => {
            scroller.dispatchEvent(new WheelEvent('wheel', { deltaY: -1 }));
            scroller.scrollTop -= 500;
            count += 1;
            requestAnimationFrame(() => requestAnimationFrame(count < 8 ? step : () => requestAnimationFrame(() => {
                const top = scroller.getBoundingClientRect().top;
                done([...document.querySelectorAll('.message .content')].find((node) => node.getBoundingClientRect().top >= top).textContent);
            })));
        };
        step();""")
    # Eight times 500 px are some 150 rows of 26, above the 25 that were in view.
    assert int(first.split()[1]) < 260, first


@pytest.mark.parametrize("step, least", [("wheel", 150), ("arrow", 30), ("arrows", 200), ("page", 100), ("end and page", 100)])
def test_any_step_up_leaves_the_end(server, tab, step, least):  # noqa: F811
    """However small it is: what comes then does not pull, until the person has come down again."""
    bob = server.ws("bob", "den")
    anna = tab.enter("anna", "?room=den")
    fill(bob, "den", 0, 200)
    anna.expect_message("bob", "message 199")
    anna.wait(lambda: from_end(anna) < 1, "the end to be in sight")
    anna.driver.execute_script("document.getElementById('scroller').focus()")
    if step == "wheel":
        wheel(anna, -20, times=10)
    elif step == "end and page":
        wheel(anna, -500)
        anna.wait(lambda: from_end(anna) > 400, "the wheel to be obeyed")
        anna.press(Keys.END)
        anna.wait(lambda: from_end(anna) < 1, "the end")
        anna.press(Keys.PAGE_UP)
    else:
        for _ in range(10 if step == "arrows" else 1):
            anna.press(Keys.PAGE_UP if step == "page" else Keys.ARROW_UP)
    anna.wait(lambda: from_end(anna) >= least, "the steps to be made")
    bob.say("den", "news")
    anna.expect_texts("#rooms .unread", ["1"])
    assert from_end(anna) >= least
    assert anna.find("to-latest").is_displayed()
    for _ in range(2):
        wheel(anna, 2_000)
    anna.expect_message("bob", "news")
    anna.expect_texts("#rooms .unread", [""])
    fill(bob, "den", 200, 230)
    anna.expect_message("bob", "message 229")
    anna.wait(lambda: from_end(anna) < 1, "the end to be followed again")


def test_keys_that_go_nowhere_do_not_leave_the_end(server, tab):  # noqa: F811
    bob = server.ws("bob", "den")
    anna = tab.enter("anna", "?room=den")
    fill(bob, "den", 0, 200)
    anna.expect_message("bob", "message 199")
    anna.wait(lambda: from_end(anna) < 1, "the end to be in sight")
    anna.press(Keys.PAGE_DOWN)
    anna.driver.execute_script("document.getElementById('scroller').focus()")
    anna.press(Keys.ALT, Keys.ARROW_UP)
    fill(bob, "den", 200, 230)
    anna.expect_message("bob", "message 229")
    anna.wait(lambda: from_end(anna) < 1, "the end to be followed")
    anna.expect_texts("#rooms .unread", [""])


def test_what_was_missed_is_in_its_place(start_server, chromium, tab):  # noqa: F811
    """More was said meanwhile than `since` brings: the rest comes by history."""
    server = start_server(history__count=30)
    anna = Tab(chromium, server).enter("anna", "?room=den")
    bob = server.ws("bob", "den")
    fill(bob, "den", 0, 5)
    anna.expect_message("bob", "message 4")
    anna.driver.execute_script("""
        window.real = WebSocket;
        const send = WebSocket.prototype.send;
        WebSocket.prototype.send = function () { WebSocket.prototype.send = send; this.close(); };
        window.WebSocket = class { constructor() { setTimeout(() => this.onclose?.({ code: 1006, reason: '' }), 20); } send() {} close() {} };""")
    anna.write("breaks it")
    bob.expect("presence", event="away")
    fill(bob, "den", 5, 100)
    anna.driver.execute_script("window.WebSocket = window.real; window.dispatchEvent(new Event('online'))")
    anna.expect_message("bob", "message 99")
    anna.expect_line("65 messages were missed")
    anna.expect_message("anna", "breaks it")
    anna.wait(lambda: 70 in numbers(anna) or anna.press(Keys.PAGE_UP), "the first of those that there are")
    assert numbers(anna) == sorted(set(numbers(anna)))
    anna.open("health")


# Unread marks.

def test_unread_marks_survive_a_reload(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    bob.say("lobby", "read")
    anna.expect_message("bob", "read")
    anna.find("browse").click()
    anna.find("room").send_keys("birds" + Keys.ENTER)
    anna.expect_texts("#title", ["# birds"])
    bob.say("lobby", "one", "two", "three")
    anna.expect_texts("#rooms .unread", ["3", ""])
    anna.wait(lambda: anna.driver.title == "(3) birds · starling", "the title to count")
    anna.driver.refresh()
    anna.joined()
    anna.expect_texts("#rooms .unread", ["3", ""])
    go_to(anna, "lobby")
    anna.expect_message("bob", "three")
    anna.expect_texts(".unread-line", ["New messages"])
    after = anna.driver.execute_script("""
        const rows = [...document.querySelectorAll('.log-row')];
        return rows[rows.findIndex((row) => row.querySelector('.unread-line')) + 1].innerText""")
    assert after.endswith("one")
    anna.screenshot("unread")
    anna.wait(lambda: anna.driver.title == "lobby · starling", "the title to be done with it")
    go_to(anna, "birds")
    go_to(anna, "lobby")
    anna.wait(lambda: "three" in anna.texts(".message .content")[-1:] and not anna.texts(".unread-line"), "nothing to be new any more")


def test_a_reload_opens_what_was_open(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    anna.find("browse").click()
    anna.find("room").send_keys("birds" + Keys.ENTER)
    anna.expect_texts("#title", ["# birds"])
    bob = server.ws("bob", "birds")
    anna.wait(lambda: "bob" in anna.texts("#members .name"), "bob")
    go_to(anna, "lobby")
    anna.expect_texts("#title", ["# lobby"])
    bob.say("birds", "one", "two")
    anna.expect_texts("#rooms .unread", ["", "2"])
    anna.driver.refresh()
    anna.joined()
    anna.expect_texts("#title", ["# lobby"])
    anna.expect_texts("#rooms .name", ["lobby", "birds"])
    anna.expect_texts("#rooms .unread", ["", "2"])
    # And so it is with a private conversation, but not when another room is asked for.
    bob.call("private", target="anna", content="psst")
    anna.expect_texts("#privates .unread", ["1"])
    anna.driver.find_element(By.CSS_SELECTOR, "#privates .entry").click()
    anna.expect_message("bob", "psst")
    anna.driver.refresh()
    anna.expect_texts("#title", ["bob"])
    anna.expect_message("bob", "psst")
    anna.open("?room=birds").joined()
    anna.expect_texts("#title", ["# birds"])


def test_the_unread_mark_of_a_private_conversation_survives_a_reload(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    bob.call("private", target="anna", content="one")
    bob.call("private", target="anna", content="two")
    anna.expect_texts("#privates .unread", ["2"])
    anna.driver.refresh()
    anna.joined()
    anna.expect_texts("#privates .unread", ["2"])
    anna.wait(lambda: anna.driver.title == "(2) lobby · starling", "the title to count")
    anna.driver.find_element(By.CSS_SELECTOR, "#privates .entry").click()
    anna.expect_texts(".unread-line", ["New messages"])
    anna.expect_texts("#privates .unread", [""])
    go_to(anna, "lobby")
    anna.driver.refresh()
    anna.joined()
    anna.expect_texts("#privates .name", ["bob"])
    anna.expect_texts("#privates .unread", [""])


def test_unread_is_marked_where_it_began_further_up_too(server, tab):  # noqa: F811
    bob = server.ws("bob", "den")
    fill(bob, "den", 0, 5)
    anna = tab.enter("anna", "?room=den")
    anna.wait(lambda: 4 in numbers(anna) and anna.driver.execute_script("return localStorage['starling.read.anna'].includes('5')"), "it to be read")
    anna.open("health")
    fill(bob, "den", 5, 205)
    anna.open("?room=den").joined()
    anna.expect_message("bob", "message 204")

    def divider():
        anna.driver.execute_script("document.getElementById('scroller').scrollTop = 0")
        return anna.driver.execute_script("""
            const rows = [...document.querySelectorAll('.log-row')];
            const at = rows.findIndex((row) => row.querySelector('.unread-line'));
            return [0, 1].map((more) => rows[at - 1 + more * 2]?.querySelector('.content')?.textContent)""") == ["message 4", "message 5"]

    anna.wait(divider, "the mark before the first unread message")


def test_a_hidden_page_has_read_nothing(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    anna.expect_line("bob joined")
    set_hidden(anna, True)
    bob.say("lobby", "one", "two")
    anna.wait(lambda: anna.driver.title.startswith("(2) "), "the title to count")
    set_hidden(anna, False)
    anna.wait(lambda: anna.driver.title == "lobby · starling", "them to be read")
    anna.expect_texts(".unread-line", ["New messages"])
    anna.write("an answer")
    anna.expect_message("anna", "an answer")
    anna.wait(lambda: not anna.texts(".unread-line"), "nothing to be new any more")


# Offline, private, presence.

def test_what_was_written_offline_survives_a_reload_and_is_sent_once(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    anna.expect_line("bob joined")
    anna.driver.execute_script(GO_OFFLINE)
    anna.write("first")
    anna.wait(lambda: anna.state() in ("retry", "connecting"), "the connection to be lost")
    anna.write("second")
    anna.wait(lambda: anna.texts(".message .note") == ["Waiting for the connection"] * 2, "both to wait")
    anna.screenshot("offline")
    anna.emulate("dark")
    anna.screenshot("offline-dark")
    anna.driver.refresh()
    anna.joined()
    assert [bob.expect("message")["content"] for _ in range(2)] == ["first", "second"]
    anna.wait(lambda: [text for _, text in anna.messages()] == ["first", "second"], "both to be said")
    assert not [event for event in bob.until_pong() if event["type"] == "message"]


def test_a_message_that_waits_can_be_discarded(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    # A refusal for good leaves it there, for the person to decide.
    anna.find("browse").click()
    anna.find("room").send_keys("den" + Keys.ENTER)
    anna.wait(lambda: anna.texts("#title") == ["# den"] and anna.texts("#subtitle") == ["1 member"], "the room to be joined")
    bob.call("join", room="den")
    host = server.ws("carl", "den")
    anna.wait(lambda: "carl" in anna.texts("#members .name"), "carl")
    anna.choose("carl", "Make a host")
    host.expect("presence", event="role", nickname="carl", role="host")
    host.call("mute", room="den", target="anna", reason="hush")
    anna.expect_line("anna was muted")
    anna.write("may I?")
    anna.wait(lambda: anna.texts(".note") == ["Not sent: you are muted in this room: hush"], "the refusal")
    host.call("unmute", room="den", target="anna")
    anna.expect_line("anna may speak again")
    anna.write("or this?")
    anna.expect_message("anna", "or this?")
    [again, discard] = anna.driver.find_elements(By.CSS_SELECTOR, ".message[data-status=failed] .actions button")
    assert (again.text, discard.text) == ("Send again", "Discard")
    again.click()
    anna.expect_message("anna", "may I?")


def test_drafts_survive_a_reload(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    anna.find("browse").click()
    anna.find("room").send_keys("birds" + Keys.ENTER)
    anna.expect_texts("#title", ["# birds"])
    written = lambda: anna.find("message").get_property("value")  # noqa: E731
    anna.find("message").send_keys("of birds")
    go_to(anna, "lobby")
    anna.expect_texts("#title", ["# lobby"])
    anna.find("message").send_keys("two" + Keys.SHIFT + Keys.ENTER + Keys.NULL + "lines")
    anna.driver.refresh()
    anna.joined()
    anna.wait(lambda: written() == "two\nlines", "the draft to be there")
    go_to(anna, "birds")
    anna.wait(lambda: written() == "of birds", "the other draft")
    anna.find("message").send_keys(Keys.ENTER)
    anna.expect_message("anna", "of birds")
    anna.driver.refresh()
    anna.joined()
    anna.expect_texts("#title", ["# birds"])
    assert written() == "", "what is sent is no draft any more"
    go_to(anna, "lobby")
    anna.wait(lambda: written() == "two\nlines", "the draft that was not sent")


@pytest.mark.parametrize("host", ["127.0.0.1", INSECURE_HOST])
def test_a_tab_that_is_opened_from_another_is_somebody_else(server, tab, host):  # noqa: F811
    """It begins with a copy of the other's storage. Where the page is not secure, there are no locks to tell that by."""
    tab.at(host)
    tab.open("health")
    tab.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
    anna = tab.enter("anna")
    anna.find("message").send_keys("a draft")
    bob = server.ws("bob", "lobby")
    anna.expect_line("bob joined")
    before = set(anna.driver.window_handles)
    anna.driver.execute_script("window.open(location.href)")
    anna.wait(lambda: len(anna.driver.window_handles) == len(before) + 1, "the other tab")
    [handle] = set(anna.driver.window_handles) - before
    anna.driver.switch_to.window(handle)
    carl = Tab(anna._driver, server).at(host)
    carl.wait(lambda: "taken" in carl.find("nickname-problem").text, "the nickname to be in use")
    carl.answer_nickname("carl")
    carl.joined()
    assert carl.find("message").get_property("value") == ""
    carl.write("hello")
    assert bob.expect("message")["sender"] == "carl"
    anna.expect_message("carl", "hello")
    assert anna.state() == "online"
    # Both are themselves after a reload.
    carl.driver.refresh()
    carl.joined()
    assert carl.texts("#me-name") == ["carl"]
    anna.driver.refresh()
    anna.joined()
    assert anna.texts("#me-name") == ["anna"]
    carl.wait(lambda: carl.state() == "online" and "anna" in carl.texts("#members .name"), "both to be there")


def test_private_conversations_survive_a_reload(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    bob.call("private", target="anna", content="psst")
    anna.expect_texts("#privates .unread", ["1"])
    anna.driver.find_element(By.CSS_SELECTOR, "#privates .entry").click()
    anna.write("yes?")
    anna.expect_message("anna", "yes?")
    anna.expect_texts("#subtitle", ["Private conversation, here"])
    anna.driver.refresh()
    anna.wait(lambda: anna.messages() == [("bob", "psst"), ("anna", "yes?")], "the conversation")
    anna.expect_texts("#subtitle", ["Private conversation, here"])
    bob.drop()
    anna.expect_texts("#subtitle", ["Private conversation, away"])


def test_who_is_away_is_shown_so(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    anna.expect_line("bob joined")
    bob.drop()
    anna.expect_line("bob is away")
    anna.wait(lambda: "away" in entry_of(anna, "bob").text, "bob to be away")
    server.ws().enter(None, resume=bob.welcome["resume"])
    anna.expect_line("bob is back")
    anna.wait(lambda: "away" not in entry_of(anna, "bob").text, "bob to be back")


# Hosts.

def test_a_host_sets_the_topic(server, tab):  # noqa: F811
    anna = tab.enter("anna", "?room=den")
    bob = server.ws("bob", "den")
    anna.find("room-settings").click()
    anna.wait(lambda: anna.focused() == "topic-field", "the field to have the focus")
    anna.find("topic-field").send_keys("birds & <b>bees</b>" + Keys.ENTER)
    assert bob.expect("state", key="topic")["value"] == "birds & <b>bees</b>"
    anna.expect_texts("#topic", ["birds & <b>bees</b>"])
    anna.wait(lambda: anna.focused() == "room-settings", "the focus to be back")
    anna.screenshot("topic")
    bob.call("state", room="den", key="topic", value="only birds")
    anna.expect_texts("#topic", ["only birds"])
    anna.driver.refresh()
    anna.joined()
    anna.expect_texts("#topic", ["only birds"])
    anna.wait(lambda: not anna.find("room-settings").is_displayed(), "somebody else to be the host now")
    bob.call("state", room="den", key="topic", value={"no": "text"})
    anna.expect_texts("#topic", [""])


def test_a_host_acts_by_the_menu_at_a_member(server, tab):  # noqa: F811
    anna = tab.enter("anna", "?room=den")
    bob = server.ws("bob", "den")
    anna.wait(lambda: "bob" in anna.texts("#members .name"), "bob")
    # By keyboard alone.
    anna.driver.execute_script("arguments[0].focus()", entry_of(anna, "bob"))
    anna.press(Keys.ENTER)
    anna.wait(anna.find("member-menu").is_displayed, "the menu")
    choices = anna.texts("#member-menu button")
    assert choices == ["Write privately", "Make a host", "Let them only read", "Mute…", "Remove…", "Ban…"]
    anna.screenshot("member-menu")
    anna.press(Keys.ESCAPE)
    anna.wait(lambda: not anna.find("member-menu").is_displayed(), "the menu to close")
    assert anna.driver.execute_script("return document.activeElement === arguments[0]", entry_of(anna, "bob"))
    anna.press(Keys.ENTER)
    for _ in range(3):
        anna.press(Keys.ARROW_DOWN)
    assert anna.driver.execute_script("return document.activeElement.textContent") == "Mute…"
    anna.press(Keys.ENTER)
    anna.wait(anna.find("action-dialog").is_displayed, "the question")
    anna.find("action-seconds").send_keys("1 hour")
    anna.find("action-reason").send_keys("too loud")
    anna.screenshot("mute-dialog")
    anna.find("action-reason").send_keys(Keys.ENTER)
    assert bob.expect("presence", event="mute")["nickname"] == "bob"
    refusal = bob.refused(403, "muted", "message", room="den", content="but")
    assert "too loud" in refusal["message"] and 3_500_000 < refusal["retry_after_ms"] <= 3_600_000
    anna.wait(lambda: "muted" in entry_of(anna, "bob").text, "the sign of it")
    anna.choose("bob", "Unmute")
    assert bob.expect("presence", event="unmute")
    anna.choose("bob", "Let them only read")
    assert bob.expect("presence", event="role")["role"] == "guest"
    anna.wait(lambda: "guest" in entry_of(anna, "bob").text, "the guest")
    anna.choose("bob", "Let them write")
    assert bob.expect("presence", event="role")["role"] == "member"

    anna.choose("bob", "Remove…")
    anna.find("action-submit").click()
    assert bob.expect("left")["reason"] == "kicked"
    bob.call("join", room="den")
    anna.wait(lambda: "bob" in anna.texts("#members .name"), "bob again")
    anna.choose("bob", "Ban…")
    anna.find("action-submit").click()
    assert bob.expect("left")["reason"] == "banned"
    bob.refused(403, "banned", "join", room="den")
    anna.find("room-settings").click()
    anna.find("unban-field").send_keys("bob")
    anna.driver.find_element(By.CSS_SELECTOR, "#unban-form button[value=unban]").click()
    anna.wait(lambda: "may come back" in anna.find("toast").text, "the ban to be lifted")
    bob.call("join", room="den")
    anna.wait(lambda: "bob" in anna.texts("#members .name"), "bob once more")
    # After a reload nobody tells who is muted, so that it can be undone by name too.
    anna.choose("bob", "Mute…")
    anna.find("action-submit").click()
    assert bob.expect("presence", event="mute")
    anna.find("room-settings").click()
    anna.find("unban-field").send_keys("bob")
    anna.driver.find_element(By.CSS_SELECTOR, "#unban-form button[value=unmute]").click()
    assert bob.expect("presence", event="unmute")
    anna.choose("bob", "Make a host")
    assert bob.expect("presence", event="role")["role"] == "host"
    # And whoever is put out is told, and comes back by a click.
    bob.call("kick", room="den", target="anna")
    anna.expect_line("You were removed from this room")
    anna.expect_texts("#leave", ["Join again"])
    anna.find("leave").click()
    anna.expect_texts("#leave", ["Leave"])


def test_who_is_no_host_only_writes_to_others(server, tab):  # noqa: F811
    bob = server.ws("bob", "den")
    anna = tab.enter("anna", "?room=den")
    assert not anna.find("room-settings").is_displayed()
    entry_of(anna, "bob").click()
    assert anna.texts("#member-menu button") == ["Write privately"]
    bob.call("role", room="den", target="anna", role="host")
    anna.wait(anna.find("room-settings").is_displayed, "the host's settings")


# Keys.

def test_one_writes_as_soon_as_one_has_a_nickname(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    anna.wait(lambda: anna.focused() == "message", "the message field to have the focus")
    anna.press("hello" + Keys.ENTER)
    anna.expect_message("anna", "hello")


def test_a_room_is_one_however_it_is_written(server, tab):  # noqa: F811
    bob = server.ws("bob", "Straße")
    anna = tab.enter("anna", "?room=STRAẞE")
    anna.expect_texts("#title", ["# Straße"])
    bob.call("message", room="straße", content="hello")
    anna.expect_message("bob", "hello")
    anna.find("browse").click()
    anna.find("room").send_keys("other" + Keys.ENTER)
    anna.expect_texts("#title", ["# other"])
    anna.find("browse").click()
    anna.find("room").send_keys("sTRAße" + Keys.ENTER)
    anna.expect_texts("#title", ["# Straße"])
    anna.expect_texts("#rooms .name", ["Straße", "other"])
    anna.write("to all")
    assert bob.expect("message", sender="anna")["content"] == "to all"
    assert not [event for event in bob.until_pong() if event.get("event") == "leave"]


def test_it_is_used_by_keyboard(server, tab):  # noqa: F811
    bob = server.ws("bob", "birds")
    anna = tab.enter("anna")
    anna.press(Keys.CONTROL, "k")
    anna.wait(lambda: anna.focused() == "switch-to", "the switcher")
    anna.find("switch-to").send_keys("bir")
    anna.expect_texts("#switcher-list .name", ["bir"])
    anna.find("switch-to").send_keys("ds" + Keys.ENTER)
    anna.expect_texts("#title", ["# birds"])
    anna.wait(lambda: "bob" in anna.texts("#members .name"), "the room")
    anna.wait(lambda: anna.focused() == "message", "the message field to have the focus")
    anna.press(Keys.ALT, Keys.ARROW_UP)
    anna.expect_texts("#title", ["# lobby"])
    anna.press(Keys.ALT, Keys.ARROW_DOWN)
    anna.expect_texts("#title", ["# birds"])
    anna.press(Keys.CONTROL, "k")
    anna.find("switch-to").send_keys("o")
    anna.expect_texts("#switcher-list .name", ["lobby", "bob", "o"])
    anna.screenshot("switcher")
    anna.press(Keys.ARROW_DOWN)
    selected = anna.driver.execute_script("return document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).innerText")
    assert "bob" in selected
    anna.press(Keys.ENTER)
    anna.expect_texts("#title", ["bob"])
    anna.press(Keys.ALT, Keys.ARROW_UP)
    anna.expect_texts("#title", ["# birds"])

    fill(bob, "birds", 0, 100)
    anna.expect_message("bob", "message 99")
    anna.wait(lambda: from_end(anna) < 5, "the end")
    anna.press(Keys.PAGE_UP)
    anna.wait(lambda: from_end(anna) > 100, "a page up")
    assert anna.focused() == "message"
    anna.press(Keys.PAGE_DOWN)
    anna.wait(lambda: from_end(anna) < 5, "and down again")

    anna.press("?")
    anna.wait(lambda: anna.find("message").get_property("value") == "?", "what is typed to be typed")
    anna.find("message").send_keys(Keys.BACKSPACE)
    anna.driver.execute_script("document.getElementById('browse').focus()")
    anna.press("?")
    anna.wait(anna.find("help-dialog").is_displayed, "the help")
    anna.screenshot("help")
    anna.press(Keys.ESCAPE)
    anna.wait(lambda: not anna.find("help-dialog").is_displayed() and anna.focused() == "browse", "the focus to be back")


# Notifications and looks.

def test_notifications_are_asked_for_and_told_while_hidden(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    anna.driver.execute_script("""
        window.asked = 0;
        window.told = [];
        window.Notification = class {
            static permission = 'default';
            static async requestPermission() { window.asked += 1; return (this.permission = 'granted'); }
            constructor(title, { body }) { window.told.push([title, body]); window.last = this; }
            close() {}
        };""")
    bob = server.ws("bob", "lobby")
    told = lambda: anna.driver.execute_script("return window.told")  # noqa: E731
    set_hidden(anna, True)
    bob.say("lobby", "anna?")
    anna.expect_message("bob", "anna?")
    assert anna.driver.execute_script("return window.asked") == 0 and told() == [], "never by itself"
    set_hidden(anna, False)
    anna.find("open-settings").click()
    anna.screenshot("settings")
    anna.find("notify").click()
    anna.wait(lambda: anna.driver.execute_script("return window.asked") == 1, "the question")
    anna.press(Keys.ESCAPE)
    bob.say("lobby", "anna, seen")
    anna.expect_message("bob", "anna, seen")
    assert told() == [], "whoever looks need not be told"
    set_hidden(anna, True)
    bob.say("lobby", "hello all", "annabel is no word for it", "Hi ANNA!")
    bob.call("private", target="anna", content="psst")
    anna.wait(lambda: len(told()) == 2, "the notifications")
    assert told() == [["bob in #lobby", "Hi ANNA!"], ["bob", "psst"]]
    anna.driver.execute_script("window.last.onclick()")
    anna.expect_texts("#title", ["bob"])
    set_hidden(anna, False)


def test_a_person_chooses_light_or_dark(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    ground = lambda: anna.driver.execute_script("return getComputedStyle(document.body).backgroundColor")  # noqa: E731
    light = ground()
    anna.emulate("dark")
    anna.wait(lambda: ground() != light, "the system's choice")
    dark = ground()
    anna.emulate("light")
    anna.find("open-settings").click()
    anna.driver.find_element(By.CSS_SELECTOR, "#theme input[value=dark]").click()
    assert ground() == dark
    anna.driver.refresh()
    anna.joined()
    assert ground() == dark
    anna.find("open-settings").click()
    anna.driver.find_element(By.CSS_SELECTOR, "#theme input[value=system]").click()
    assert ground() == light


def test_it_moves_less_for_who_wants_that(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    anna.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]})
    anna.driver.execute_script("document.body.dataset.connection = 'retry'")
    assert anna.driver.execute_script("return getComputedStyle(document.querySelector('#connection .dot')).animationName") == "none"
    anna.driver.execute_script("document.body.dataset.connection = 'online'")


def test_a_narrow_phone_has_all_of_it(server, tab):  # noqa: F811
    anna = tab.enter("anna", "?room=a-room-with-a-rather-long-name")
    anna.emulate(width=320, height=568, is_phone=True)
    bob = server.ws("bob", "a-room-with-a-rather-long-name")
    bob.call("state", room="a-room-with-a-rather-long-name", key="topic", value="a topic that is longer than a phone is wide, as topics are")
    bob.say("a-room-with-a-rather-long-name", "https://example.org/" + "a" * 200, "short")
    anna.expect_message("bob", "short")
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert anna.driver.execute_script(overflow) <= 0
    anna.screenshot("narrow")
    anna.find("open-members").click()
    anna.wait(anna.find("members").is_displayed, "the members")
    still = "return document.getAnimations().length === 0"
    anna.wait(lambda: anna.driver.execute_script(still), "the drawer to be open")
    entry_of(anna, "bob").click()
    inside = """
        const { left, right, top, bottom } = document.getElementById(arguments[0]).getBoundingClientRect();
        return left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight"""
    assert anna.driver.execute_script(inside, "member-menu")
    anna.screenshot("narrow-menu")
    [mute] = [button for button in anna.driver.find_elements(By.CSS_SELECTOR, "#member-menu button") if button.text == "Mute…"]
    assert mute.rect["height"] >= 44, "a finger is wide"
    mute.click()
    assert anna.driver.execute_script(inside, "action-dialog")
    anna.screenshot("narrow-dialog")
    anna.find("action-cancel").click()
    anna.find("close-members").click()
    anna.wait(lambda: anna.focused() == "open-members", "the focus to be back")
    for opener, dialog in [("room-settings", "room-settings-dialog"), ("open-settings", "settings-dialog"), ("open-help", "help-dialog")]:
        anna.driver.execute_script("document.getElementById(arguments[0]).click()", opener)
        assert anna.driver.execute_script(inside, dialog), dialog
        assert anna.driver.execute_script("const d = document.getElementById(arguments[0]); return d.scrollWidth <= d.clientWidth", dialog), dialog
        anna.screenshot(f"narrow-{dialog}")
        if opener != "open-settings":
            anna.press(Keys.ESCAPE)
    assert anna.driver.execute_script(overflow) <= 0


# Those who cannot see it.

def test_what_is_new_is_said_aloud_within_bounds(server, tab):  # noqa: F811
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    bob.say("lobby", "hello there")
    anna.expect_texts("#announcer p", ["bob: hello there"])
    fill(bob, "lobby", 0, 50)
    anna.wait(lambda: anna.texts("#announcer p")[-1] == "50 new messages" or len(anna.texts("#announcer p")) > 1, "a sum")
    assert len(anna.texts("#announcer p")) <= 3
    assert anna.driver.execute_script("""
        const log = document.querySelector('[role=log]');
        return [log.ariaLabel, log.ariaLive, document.getElementById('announcer').ariaLive]""") == ["Messages in lobby", "off", "polite"]


def violations(tab):
    """What axe finds against WCAG 2 A and AA that is serious or worse."""
    tab.driver.execute_script(AXE.read_text())
    result = tab.driver.execute_async_script("""
        const done = arguments[0];
        axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })
            .then(({ violations }) => done(violations), (error) => done([{ impact: 'critical', id: String(error), nodes: [] }]));""")
    return [(found["id"], [node["html"][:120] for node in found["nodes"]]) for found in result if found["impact"] in ("serious", "critical")]


def test_axe_has_nothing_serious_to_say(server, tab):  # noqa: F811
    assert AXE.exists(), "axe-core is missing: scripts/setup installs it"
    anna = tab.open()
    anna.wait(anna.find("nickname").is_displayed, "the question for a nickname")
    assert violations(anna) == []
    anna = tab.enter("anna", "?room=den")
    bob = server.ws("bob", "den")
    bob.call("private", target="anna", content="psst")
    bob.say("den", "one", "two")
    bob.drop()
    anna.write("three")
    anna.expect_message("anna", "three")
    anna.expect_line("bob is away")
    for scheme in ("light", "dark"):
        anna.emulate(scheme)
        assert violations(anna) == [], scheme
        for opener, dialog in [("browse", "rooms-dialog"), ("room-settings", "room-settings-dialog"), ("open-switcher", "switcher-dialog"),
                               ("open-settings", "settings-dialog"), ("open-help", "help-dialog"), ("change-nickname", "nickname-dialog")]:
            anna.driver.execute_script("document.getElementById(arguments[0]).click()", opener)
            anna.wait(anna.find(dialog).is_displayed, dialog)
            assert violations(anna) == [], (scheme, dialog)
            anna.press(Keys.ESCAPE)
        entry_of(anna, "bob").click()
        assert violations(anna) == [], (scheme, "the menu")
        anna.press(Keys.ESCAPE)
    anna.emulate(width=320, height=568, is_phone=True)
    assert violations(anna) == [], "a phone"
