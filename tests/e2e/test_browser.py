"""The page in a real browser, beside a person at a terminal. Screenshots are left for whoever wants to look."""

import subprocess

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browser import Tab, chromium, contrast, second_tab, tab  # noqa: F401

HOSTILE = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<svg/onload=document.title='owned'>",
    "javascript:document.title='owned'",
    "</p></article><h1>owned</h1>",
    "{{constructor.constructor('document.title=1')()}} ${7*7} %3Cscript%3E",
    "&lt;b&gt; &amp; \"quotes\" 'and' `ticks`",
]


def test_two_tabs_and_a_terminal_talk(server, tab):
    anna = tab.enter("anna")
    anna.expect_texts("#title", ["# lobby"])
    # The second tab remembers the nickname, which the first one holds.
    bert = second_tab(tab, server).open()
    bert.wait(lambda: "taken" in bert.find("nickname-problem").text, "the nickname to be refused")
    bert.answer_nickname("bert")
    bert.joined()
    terminal = subprocess.Popen(["nc", *map(str, server.line)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        terminal.stdin.write(b"cleo\n")
        terminal.stdin.flush()
        anna.expect_line("cleo joined")
        anna.expect_line("bert joined")
        anna.wait(lambda: sorted(anna.texts("#members .name")) == ["anna", "bert", "cleo"], "the members")
        anna.expect_texts("#subtitle", ["3 members"])

        anna.write("hello from a page\nwith a second line")
        bert.expect_message("anna", "hello from a page\nwith a second line")
        terminal.stdin.write("hello from a terminal: 你好 مرحبا 👋\n".encode())
        terminal.stdin.flush()
        for one in (anna, bert):
            one.expect_message("cleo", "hello from a terminal: 你好 مرحبا 👋")
        bert.write("and hello to both")
        anna.expect_message("bert", "and hello to both")
        anna.expect_message("anna", "hello from a page\nwith a second line")
        bert.expect_message("bert", "and hello to both")
        assert anna.messages() == bert.messages()
    finally:
        output, _ = terminal.communicate(b"/quit\n", timeout=10)
    assert "[lobby] anna: hello from a page⏎with a second line\n" in output.decode()
    assert "[lobby] bert: and hello to both\n" in output.decode()
    anna.expect_line("cleo left")
    anna.wait(lambda: sorted(anna.texts("#members .name")) == ["anna", "bert"], "the members")


def test_nothing_that_anybody_writes_becomes_markup(server, tab):
    anna = tab.enter("anna")
    mallory = server.ws("mallory", "lobby")
    before = anna.driver.execute_script("return document.querySelectorAll('script, img, svg, h1').length")
    for text in HOSTILE:
        mallory.call("message", room="lobby", content=text)
        mallory.call("private", target="anna", content=text)
    for text in HOSTILE:
        anna.expect_message("mallory", text)
    anna.write(HOSTILE[0])
    anna.expect_message("anna", HOSTILE[0])
    anna.driver.find_element(By.CSS_SELECTOR, "#privates .entry").click()
    for text in HOSTILE:
        anna.expect_message("mallory", text)
    assert "owned" not in anna.driver.title
    assert anna.driver.execute_script("return document.querySelectorAll('script, img, svg, h1').length") == before


def test_text_of_both_directions_keeps_to_itself(server, tab):
    anna = tab.enter("anna")
    other = server.ws("أمل", "lobby")
    other.call("message", room="lobby", content="\u202eevil\u202c שלום")
    anna.expect_message("أمل", "\u202eevil\u202c שלום")
    assert anna.driver.execute_script("""
        const isolated = (node) => node.tagName === 'BDI' || node.dir === 'auto';
        const name = document.querySelector('.message .sender bdi') ?? document.querySelector('.message .sender');
        return isolated(name) && isolated(document.querySelector('.message .content'))""")


def test_private_messages_have_a_conversation_of_their_own(server, tab):
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    bob.call("private", target="anna", content="psst")
    anna.expect_texts("#privates .entry .unread", ["1"])
    assert not anna.messages()
    anna.driver.find_element(By.CSS_SELECTOR, "#privates .entry").click()
    anna.expect_message("bob", "psst")
    anna.expect_texts("#privates .entry .unread", [""])
    anna.write("what is it?")
    private = bob.expect("private")
    assert (private["sender"], private["content"]) == ("anna", "what is it?")
    anna.expect_message("anna", "what is it?")

    # A click on a member begins one, and an error shows on the message.
    carol = server.ws("carol", "lobby")
    anna.driver.find_element(By.CSS_SELECTOR, "#rooms .entry").click()
    anna.wait(lambda: "carol" in anna.texts("#members .name"), "carol among the members")
    anna.choose("carol", "Write privately")
    anna.expect_texts("#title", ["carol"])
    carol.call("quit")
    anna.write("still there?")
    anna.wait(lambda: any("Not sent" in note for note in anna.texts(".message .note")), "the error on the message")


def test_rooms_are_made_browsed_read_and_left(server, tab):
    anna = tab.enter("anna", "?room=birds")
    anna.expect_texts("#title", ["# birds"])
    bob = server.ws("bob", "cats")
    bob.call("join", room="birds")
    anna.find("browse").click()
    anna.expect_texts("#server-rooms .name", ["birds", "cats"])
    anna.driver.find_elements(By.CSS_SELECTOR, "#server-rooms .entry")[1].click()
    anna.wait(lambda: anna.texts("#title") == ["# cats"] and anna.texts("#members .name") == ["anna", "bob"], "the other room")
    bob.call("message", room="birds", content="tweet")
    anna.expect_texts("#rooms .entry .unread", ["1", ""])
    assert anna.driver.title.startswith("(1) ")
    anna.find("browse").click()
    anna.find("room").send_keys("not a name" + Keys.ENTER)
    anna.wait(lambda: anna.find("toast").text, "the refusal of a bad name")
    anna.expect_texts("#rooms .name", ["birds", "cats"])
    anna.driver.find_elements(By.CSS_SELECTOR, "#rooms .entry")[1].click()
    anna.find("leave").click()
    assert bob.expect("presence", room="cats", event="leave")["nickname"] == "anna"
    anna.expect_texts("#title", ["# birds"])
    anna.expect_message("bob", "tweet")


def test_presence_typing_and_nicknames_are_shown(server, tab):
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    anna.expect_line("bob joined")
    bob.send("typing", room="lobby")
    anna.expect_texts("#typing", ["bob is typing"])
    bob.call("message", room="lobby", content="done")
    anna.expect_texts("#typing", [""])
    anna.find("message").send_keys("abc")
    assert bob.expect("typing")["nickname"] == "anna"
    anna.find("message").send_keys("defgh")
    anna.wait(lambda: anna.find("message").get_property("value") == "abcdefgh", "the letters")
    assert not [event for event in bob.until_pong() if event["type"] == "typing"], "at most once in a while"

    bob.call("nick", nickname="robert")
    anna.expect_line("bob is now robert")
    anna.find("change-nickname").click()
    anna.answer_nickname("robert")
    anna.wait(lambda: "taken" in anna.find("nickname-problem").text, "the nickname to be refused")
    anna.answer_nickname("änna")
    assert bob.expect("presence", event="nick")["nickname"] == "änna"
    anna.expect_texts("#me-name", ["änna"])
    anna.wait(lambda: sorted(anna.texts("#members .name")) == ["robert", "änna"], "the members")


def test_what_is_written_offline_is_sent_later(server, tab):
    anna = tab.enter("anna")
    bob = server.ws("bob", "lobby")
    anna.expect_line("bob joined")
    anna.driver.execute_script("""
        const real = WebSocket.prototype.send;
        WebSocket.prototype.send = function (data) { WebSocket.prototype.send = real; this.close(); }""")
    anna.write("this one breaks the connection")
    anna.wait(lambda: anna.state() in ("retry", "connecting"), "the connection to be lost")
    anna.write("written offline")
    bob.expect("message", content="written offline")
    anna.expect_message("anna", "written offline")
    anna.wait(lambda: anna.state() == "online", "the connection to be back")


def test_a_server_that_restarts_is_found_again(server, tab):
    """The page obeys `after_ms` and keeps trying; nobody is there, so it says so and keeps what is written."""
    anna = tab.enter("anna")
    server.terminate()
    anna.wait(lambda: anna.state() == "retry", "the page to wait")
    anna.write("kept")
    anna.expect_texts("[data-status=queued] .content", ["kept"])
    assert anna.find("banner").is_displayed()
    assert server.exit_code() == 0


def test_a_page_that_is_sent_away_stops(server, tab):
    anna = tab.enter("anna")
    # Eleven nonsensical commands through the page's own socket.
    anna.driver.execute_script("""
        const real = WebSocket.prototype.send;
        WebSocket.prototype.send = function (data) {
            WebSocket.prototype.send = real;
            for (let count = 0; count < 11; count += 1) { this.send('nonsense'); }
        }""")
    anna.write("x")
    anna.wait(lambda: anna.state() == "stopped", "the page to stop")
    assert "too many errors" in anna.find("banner").text
    anna.find("banner-action").click()
    anna.joined()


def test_a_reload_keeps_nickname_and_rooms(server, tab):
    anna = tab.enter("anna")
    anna.find("browse").click()
    anna.find("room").send_keys("birds" + Keys.ENTER)
    anna.expect_texts("#title", ["# birds"])
    anna.expect_texts("#subtitle", ["1 member"])
    anna.driver.refresh()
    anna.joined()
    anna.expect_texts("#me-name", ["anna"])
    assert sorted(anna.texts("#rooms .name")) == ["birds", "lobby"]
    anna.expect_texts("#title", ["# birds"])


def test_the_looks(server, tab):
    anna = tab.enter("anna")
    friends = {name: server.ws(name, "lobby") for name in ["theo", "李明", "أمل", "Kwame"]}
    anna.wait(lambda: len(anna.texts("#members .name")) == 5, "all members")
    friends["theo"].call("message", room="lobby", content="Good morning! Who watched the murmuration over the pier last night?")
    friends["李明"].call("message", room="lobby", content="看到了，太美了！每只鸟只看着身边的七只。")
    friends["أمل"].call("message", room="lobby", content="مرحبا بالجميع، كان المشهد رائعا حقا")
    anna.write("I did. They turned as one,\nand the sky folded.")
    friends["Kwame"].call("message", room="lobby", content="longword" * 60)
    friends["theo"].call("private", target="anna", content="coffee at ten?")
    friends["theo"].send("typing", room="lobby")
    anna.expect_message("Kwame", "longword" * 60)
    anna.expect_texts("#typing", ["theo is typing"])
    anna.screenshot("desktop-light")
    anna.emulate("dark")
    anna.screenshot("desktop-dark")
    anna.emulate(width=390, height=844, is_phone=True)
    overflow = anna.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, "a phone must not scroll sideways"
    anna.screenshot("phone")
    assert not anna.find("rooms").is_displayed()
    anna.find("open-sidebar").click()
    anna.wait(anna.find("rooms").is_displayed, "the drawer")
    anna.screenshot("phone-rooms")
    # The brand and the sender's tint aside, text must stand out from its ground in both schemes (WCAG 2, 1.4.3).
    for scheme in ("light", "dark"):
        anna.emulate(scheme)
        for selector in ("body", ".head p", ".message time", ".line", "#send", ".entry.current"):
            assert contrast(anna, selector) >= 4.5, (scheme, selector)


def test_the_browser_has_messages_compressed(chromium, start_server):
    server = start_server(web__deflate="true", limits__deflate_min_bytes=0)
    tab = Tab(chromium, server).enter("ada")
    told = tab.driver.execute_async_script("""
        const done = arguments[arguments.length - 1];
        const socket = new WebSocket(location.origin.replace('http', 'ws') + '/echo');
        const said = ['', 'hello', 'hello '.repeat(20000), 'κόσμε 😀'.repeat(100)];
        const heard = [];
        socket.onopen = () => said.forEach((text) => socket.send(text));
        socket.onerror = () => done('an error');
        socket.onmessage = (event) => {
            heard.push(event.data);
            if (heard.length === said.length) done([socket.extensions, heard.every((text, at) => text === said[at])]);
        };""")
    assert told == ["permessage-deflate; server_no_context_takeover; client_no_context_takeover", True]
    content = "and so is what people say, " * 20
    server.ws("bob", "lobby").call("message", room="lobby", content=content)
    tab.expect_message("bob", content)
    assert tab.complaints() == []
