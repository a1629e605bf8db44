// Wires the page: the client, the chat, the view, and the forms and drawers around them.

import { Chat } from "./chat.js";
import { Log } from "./log.js";
import { Members } from "./members.js";
import { Drafts, browser, claimTab, memoryOf, recall, remember, tab } from "./memory.js";
import { bdi, element, find } from "./nodes.js";
import { Client, State } from "./starling.js";
import { Switcher, applyTheme, listenToKeys, notify } from "./tools.js";
import { View } from "./view.js";

const DEFAULT_ROOM = "lobby";
const NICKNAME_KEY = "starling.nickname";
const ROOMS_KEY = "starling.rooms";

const STOP_REASONS = {
    bad_protocol: "The server did not understand this page. Reload it.",
    unauthenticated: "The server asks for a login.",
    banned: "You are banned from this server.",
    replaced: "You are connected from somewhere else.",
    too_many_errors: "The server closed the connection: too many errors.",
    too_many_connections: "The server has no room for another connection.",
    no_hello: "The server waited too long for a nickname.",
    kicked: "You were removed from this server.",
};

const body = document.body;
const message = find("message");
const nicknameDialog = find("nickname-dialog");
const roomsDialog = find("rooms-dialog");
const roomSettings = find("room-settings-dialog");

applyTheme();

// What is queued, and the session, are a tab's own.
await claimTab();
const client = new Client({ url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`, storage: tab });
const view = new View();
const log = new Log();
const chat = new Chat(client, view, memoryOf(() => client.nickname));
const members = new Members(chat, view);
const switcher = new Switcher(chat, joinRoom);
log.attach(chat);
view.attach(chat, log, {
    onMember: (nickname, button) => members.open(nickname, button),
    onHeard: (conversation, entry) => notify(chat, conversation, entry),
});

function rememberRooms() {
    remember(tab, ROOMS_KEY, [...chat.rooms.values()].map(({ name }) => name));
}

function recalledRooms() {
    const rooms = recall(tab, ROOMS_KEY, []);
    return Array.isArray(rooms) ? rooms.filter((room) => typeof room === "string") : [];
}

// The connection.

/** This tab is loaded again, and is who it was. */
const isRestored = Boolean(client.nickname);

client.on("connection", showState);
client.on("refused", (error) => askNickname(explain(error)));
client.on("welcome", ({ nickname }) => {
    remember(browser, NICKNAME_KEY, nickname);
    nicknameDialog.close();
    if (!chat.current) {
        const wanted = new URLSearchParams(location.search).get("room") || DEFAULT_ROOM;
        const whom = isRestored && history.state?.privateWith;
        chat.openBehind(new Set([...recalledRooms(), ...chat.rooms.keys(), wanted]));
        whom ? chat.openPrivate(whom) : chat.openRoom(wanted);
    }
});
window.addEventListener("online", () => client.retryNow());

let countdown = 0;

function showState({ state, atMs, code, reason }) {
    clearInterval(countdown);
    body.dataset.connection = state;
    const say = (text) => (find("connection-text").textContent = text);
    switch (state) {
        case State.ONLINE: say("Connected"); break;
        case State.CONNECTING: say("Connecting"); break;
        case State.IDLE: say("Not connected"); break;
        case State.STOPPED: say("Disconnected"); break;
        case State.RETRY: {
            const tick = () => say(`Reconnecting in ${Math.max(Math.ceil((atMs - Date.now()) / 1000), 0)} s`);
            tick();
            countdown = setInterval(tick, 1_000);
            break;
        }
    }
    const banner = state === State.STOPPED ? (STOP_REASONS[reason] ?? `The server closed the connection (${code} ${reason}).`)
        : state === State.RETRY ? "The connection is lost. What you write is kept and sent later." : "";
    if (nicknameDialog.open && banner) {
        // The dialog covers the banner, and nothing has been written yet that could be kept.
        find("nickname-problem").textContent = state === State.RETRY ? "The server cannot be reached; the page keeps trying." : banner;
    }
    if (state !== State.CONNECTING) {
        find("banner").hidden = !banner;
        find("banner-text").textContent = banner;
        find("banner-action").hidden = state !== State.STOPPED;
    }
    view.changed();
}

find("banner-action").addEventListener("click", () => client.connect({ isHeld: true }));

// A page that goes leaves at once; one that is loaded again has its nickname, and what was queued.
window.addEventListener("pagehide", () => client.close());
window.addEventListener("pageshow", (event) => {
    if (event.persisted && client.nickname) {
        client.connect({ isHeld: true });
    }
});

// The nickname.

function explain({ reason, message: text }) {
    switch (reason) {
        case "nickname_in_use": return "This nickname is taken. Choose another one.";
        case "bad_name": return "A nickname has 1 to 32 letters, digits, _ - or . and begins with a letter or a digit.";
        case "offline": return "You are offline. Try again when you are connected.";
        case "connection_lost": return "The connection broke. Try again.";
        default: return text;
    }
}

function askNickname(problem = "") {
    find("nickname-problem").textContent = problem;
    find("nickname-cancel").hidden = !client.isOnline;
    find("nickname-submit").textContent = client.isOnline ? "Change" : "Join the chat";
    find("nickname-title").textContent = client.isOnline ? "Change your nickname" : "Welcome to starling";
    find("nickname").value = client.nickname || recall(browser, NICKNAME_KEY, "");
    if (!nicknameDialog.open) {
        nicknameDialog.showModal();
    }
    find("nickname").select();
}

find("nickname-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const nickname = find("nickname").value.trim();
    if (!nickname) {
        find("nickname").focus();
    } else if (!client.isOnline) {
        find("nickname-problem").textContent = "";
        client.connect({ nickname, isHeld: false });
    } else if (nickname === client.nickname) {
        nicknameDialog.close();
    } else {
        try {
            await chat.rename(nickname);
            remember(browser, NICKNAME_KEY, nickname);
            nicknameDialog.close();
        } catch (error) {
            find("nickname-problem").textContent = explain(error);
        }
    }
});
find("nickname-cancel").addEventListener("click", () => nicknameDialog.close());
// Without a nickname there is nothing behind the dialog to go back to.
nicknameDialog.addEventListener("cancel", (event) => {
    if (!client.isOnline) {
        event.preventDefault();
    }
});
find("change-nickname").addEventListener("click", () => askNickname());

// Rooms.

async function browse() {
    find("room").value = "";
    roomsDialog.showModal();
    find("server-rooms").replaceChildren();
    find("server-rooms-note").textContent = "Loading";
    try {
        const rooms = await chat.browse();
        find("server-rooms-note").textContent = rooms.length ? "" : "No rooms yet: make the first one.";
        find("server-rooms").replaceChildren(...rooms.map(({ room, members: count }) => {
            const button = element("button", { type: "button", className: "entry" },
                element("span", { className: "hash", textContent: "#" }), bdi(room, "name"),
                element("span", { className: "badge", textContent: count === 1 ? "1 member" : `${count} members` }));
            button.addEventListener("click", () => joinRoom(room));
            return element("li", {}, button);
        }));
    } catch {
        find("server-rooms-note").textContent = "The list needs a connection.";
    }
}

function joinRoom(name) {
    roomsDialog.close();
    chat.openRoom(name);
}

find("browse").addEventListener("click", browse);
find("room-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = find("room").value.trim().replace(/^#/, "");
    if (name) {
        joinRoom(name);
    }
});
find("leave").addEventListener("click", () => {
    if (chat.isOut(chat.current)) {
        chat.rejoin(chat.current);
    } else {
        chat.close(chat.current);
    }
});

// A host's settings of a room.

find("room-settings").addEventListener("click", () => {
    find("topic-field").value = chat.current.topic;
    find("unban-field").value = "";
    find("room-settings-problem").textContent = "";
    roomSettings.showModal();
});

async function ofRoom(action) {
    try {
        await action(chat.current);
        return true;
    } catch (error) {
        find("room-settings-problem").textContent = explain(error);
        return false;
    }
}

find("topic-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await ofRoom((room) => chat.setTopic(room, find("topic-field").value.trim()))) {
        roomSettings.close();
    }
});
find("unban-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const nickname = find("unban-field").value.trim();
    // By Enter it is the first button's.
    const action = event.submitter.value;
    if (nickname && await ofRoom((room) => chat.moderate(room, action, nickname))) {
        roomSettings.close();
        view.alert(action === "unban" ? `${nickname} may come back.` : `${nickname} may write again.`);
    }
});

// Writing.

let shown = null;
const drafts = new Drafts();

function saveDrafts() {
    if (shown) {
        shown.draft = message.value;
    }
    drafts.save(chat.conversations);
}

// A page that goes may come again by a reload; one that is hidden may be ended without another word.
window.addEventListener("pagehide", saveDrafts);
document.addEventListener("visibilitychange", saveDrafts);

document.addEventListener("conversation", ({ detail: conversation }) => {
    closeDrawers();
    members.close();
    rememberRooms();
    if (shown) {
        shown.draft = message.value;
    }
    if (conversation !== shown) {
        shown = conversation;
        message.value = conversation ? conversation.draft || drafts.take(conversation.key) : "";
        fitMessage();
    }
    if (!conversation) {
        return;
    }
    message.placeholder = conversation.isRoom ? `Message #${conversation.name}` : `Message ${conversation.name}`;
    if (conversation.isRoom) {
        history.replaceState(null, "", `?room=${encodeURIComponent(conversation.name)}`);
    } else {
        // No address leads to it, but a reload does.
        history.replaceState({ privateWith: conversation.name }, "");
    }
    // On a phone the focus would pull up the keyboard over what was just opened.
    if (!matchMedia("(pointer: coarse)").matches && !nicknameDialog.open) {
        message.focus();
    }
});

function fitMessage() {
    message.style.height = "auto";
    // Nothing while the field is hidden: one line is right then.
    message.style.height = message.scrollHeight ? `${message.scrollHeight}px` : "auto";
}

function submit() {
    if (!chat.current || !message.value.trim()) {
        return;
    }
    const problem = chat.send(chat.current, message.value);
    if (problem) {
        view.alert(problem);
    } else {
        message.value = "";
        fitMessage();
    }
}

find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
    message.focus();
});
message.addEventListener("input", () => {
    fitMessage();
    if (chat.current?.isRoom && message.value.trim()) {
        chat.typed(chat.current);
    }
});
message.addEventListener("keydown", (event) => {
    // While an input method composes, Enter belongs to it.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        submit();
    }
});

// Drawers, on narrow screens.

let drawerOpener = null;

function openDrawer(name, opener) {
    body.dataset.drawer = name;
    drawerOpener = opener;
    find(name === "sidebar" ? "close-sidebar" : "close-members").focus();
}

function closeDrawers() {
    if (body.dataset.drawer) {
        delete body.dataset.drawer;
        drawerOpener.focus();
    }
}

find("open-sidebar").addEventListener("click", ({ currentTarget }) => openDrawer("sidebar", currentTarget));
find("open-members").addEventListener("click", ({ currentTarget }) => openDrawer("members", currentTarget));
for (const id of ["close-sidebar", "close-members", "scrim"]) {
    find(id).addEventListener("click", closeDrawers);
}

// Keys.

listenToKeys({
    switcher: () => switcher.open(),
    move(step) {
        const { conversations, current } = chat;
        if (conversations.length) {
            chat.select(conversations[(conversations.indexOf(current) + step + conversations.length) % conversations.length]);
        }
    },
    scrollPages: (count) => log.scrollPages(count),
    toEnd: () => log.toEnd(),
    escape() {
        members.close();
        closeDrawers();
    },
});
find("open-switcher").addEventListener("click", () => switcher.open());

// A tab that is loaded again has just let go of its nickname; a new one may find it taken by the first.
const remembered = recall(browser, NICKNAME_KEY, "");
if (isRestored) {
    chat.restore();
    client.connect();
} else if (remembered) {
    client.connect({ nickname: remembered, isHeld: false });
} else {
    askNickname();
}
