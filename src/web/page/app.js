// Wires the page: forms, drawers and what the browser remembers, around the connection, the chat and the view.

import { Chat } from "./chat.js";
import { Connection, State } from "./connection.js";
import { View, bdi, element } from "./view.js";

const DEFAULT_ROOM = "lobby";
const NICKNAME_KEY = "starling.nickname";
// These two are a tab's own: two tabs are two people.
const HELD_KEY = "starling.held";
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

const find = (id) => document.getElementById(id);
const body = document.body;
const message = find("message");
const nicknameDialog = find("nickname-dialog");
const roomsDialog = find("rooms-dialog");

const socketUrl = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
const connection = new Connection(socketUrl, {
    onState: showState,
    onWelcome: welcomed,
    onEvent: (event) => chat.heard(event),
    onRefused: (error) => askNickname(explain(error)),
});
const view = new View();
const chat = new Chat(connection, view);
view.attach(chat);

// What the browser remembers. Storage may be forbidden, and the page works without.

function recall(storage, key) {
    try {
        return window[storage].getItem(key);
    } catch {
        return null;
    }
}

function remember(storage, key, value) {
    try {
        window[storage].setItem(key, value);
    } catch {
        // Not remembered, then.
    }
}

function rememberRooms() {
    remember("sessionStorage", ROOMS_KEY, JSON.stringify([...chat.rooms.keys()]));
}

function recalledRooms() {
    try {
        const rooms = JSON.parse(recall("sessionStorage", ROOMS_KEY));
        return Array.isArray(rooms) ? rooms.filter((room) => typeof room === "string") : [];
    } catch {
        return [];
    }
}

// The connection.

function welcomed({ nickname, resumed }) {
    remember("localStorage", NICKNAME_KEY, nickname);
    remember("sessionStorage", HELD_KEY, nickname);
    nicknameDialog.close();
    chat.welcomed(resumed);
    if (!chat.current) {
        const wanted = new URLSearchParams(location.search).get("room") || DEFAULT_ROOM;
        new Set([...recalledRooms(), wanted]).forEach((room) => chat.openRoom(room));
    }
}

let countdown = 0;

function showState(state, { atMs, code, reason }) {
    clearInterval(countdown);
    if (state !== State.ONLINE) {
        chat.disconnected();
    }
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
}

find("banner-action").addEventListener("click", () => connection.connect(connection.nickname, true));

// A reload would otherwise leave the nickname to a connection that nobody holds.
window.addEventListener("pagehide", () => connection.quit());
window.addEventListener("pageshow", (event) => {
    if (event.persisted && connection.nickname) {
        connection.connect(connection.nickname, true);
    }
});

// The nickname.

function explain({ reason, message: text }) {
    switch (reason) {
        case "nickname_in_use": return "This nickname is taken. Choose another one.";
        case "bad_name": return "A nickname has 1 to 32 letters, digits, _ - or . and begins with a letter or a digit.";
        default: return text;
    }
}

function askNickname(problem = "") {
    find("nickname-problem").textContent = problem;
    find("nickname-cancel").hidden = !connection.isOnline;
    find("nickname-submit").textContent = connection.isOnline ? "Change" : "Join the chat";
    find("nickname-title").textContent = connection.isOnline ? "Change your nickname" : "Welcome to starling";
    find("nickname").value = connection.nickname || recall("localStorage", NICKNAME_KEY) || "";
    if (!nicknameDialog.open) {
        nicknameDialog.showModal();
    }
    find("nickname").select();
}

find("nickname-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const nickname = find("nickname").value.trim();
    if (!nickname) {
        find("nickname").focus();
    } else if (!connection.isOnline) {
        find("nickname-problem").textContent = "";
        connection.connect(nickname);
    } else if (nickname === connection.nickname) {
        nicknameDialog.close();
    } else {
        chat.rename(nickname, (error) => {
            if (error) {
                find("nickname-problem").textContent = explain(error);
                return;
            }
            remember("localStorage", NICKNAME_KEY, nickname);
            remember("sessionStorage", HELD_KEY, nickname);
            nicknameDialog.close();
        });
    }
});
find("nickname-cancel").addEventListener("click", () => nicknameDialog.close());
// Without a nickname there is nothing behind the dialog to go back to.
nicknameDialog.addEventListener("cancel", (event) => {
    if (!connection.isOnline) {
        event.preventDefault();
    }
});
find("change-nickname").addEventListener("click", () => askNickname());

// Rooms.

function browse() {
    find("room").value = "";
    roomsDialog.showModal();
    find("server-rooms").replaceChildren();
    find("server-rooms-note").textContent = "Loading";
    chat.browse((rooms) => {
        find("server-rooms-note").textContent = !rooms ? "The list needs a connection." : rooms.length ? "" : "No rooms yet: make the first one.";
        find("server-rooms").replaceChildren(...(rooms ?? []).map(({ room, members }) => {
            const button = element("button", { type: "button", className: "entry" },
                element("span", { className: "hash", textContent: "#" }), bdi(room, "name"),
                element("span", { className: "badge", textContent: members === 1 ? "1 member" : `${members} members` }));
            button.addEventListener("click", () => joinRoom(room));
            return element("li", {}, button);
        }));
    });
}

function joinRoom(name) {
    roomsDialog.close();
    chat.openRoom(name);
}

find("browse").addEventListener("click", browse);
find("rooms-close").addEventListener("click", () => roomsDialog.close());
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

document.addEventListener("conversation", ({ detail: conversation }) => {
    closeDrawers();
    rememberRooms();
    if (shown) {
        shown.draft = message.value;
    }
    if (conversation !== shown) {
        shown = conversation;
        message.value = conversation?.draft ?? "";
        fitMessage();
    }
    if (!conversation) {
        return;
    }
    message.placeholder = conversation.isRoom ? `Message #${conversation.name}` : `Message ${conversation.name}`;
    if (conversation.isRoom) {
        history.replaceState(null, "", `?room=${encodeURIComponent(conversation.name)}`);
    }
    // On a phone the focus would pull up the keyboard over what was just opened.
    if (matchMedia("(pointer: fine)").matches && !nicknameDialog.open) {
        message.focus();
    }
});

// Writing.

let shown = null;

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

function openDrawer(name) {
    body.dataset.drawer = name;
    find(name === "sidebar" ? "close-sidebar" : "close-members").focus();
}

function closeDrawers() {
    delete body.dataset.drawer;
}

find("open-sidebar").addEventListener("click", () => openDrawer("sidebar"));
find("open-members").addEventListener("click", () => openDrawer("members"));
for (const id of ["close-sidebar", "close-members", "scrim"]) {
    find(id).addEventListener("click", closeDrawers);
}
document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
        closeDrawers();
    }
});
document.addEventListener("visibilitychange", () => {
    if (!document.hidden && chat.current) {
        chat.current.unread = 0;
        view.changed();
    }
});

// A tab that is loaded again has just let go of its nickname; a new one may find it taken by the first.
const remembered = recall("sessionStorage", HELD_KEY) ?? recall("localStorage", NICKNAME_KEY);
if (remembered) {
    connection.connect(remembered, remembered === recall("sessionStorage", HELD_KEY));
} else {
    askNickname();
}
