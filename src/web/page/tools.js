// What makes the page one's own: the quick switcher, keys, notifications and looks.

import { browser, recall, remember } from "./memory.js";
import { avatar, bdi, element, find } from "./nodes.js";

const THEME_KEY = "starling.theme";
const NOTIFY_KEY = "starling.notify";
const SWITCHER_SHOWN = 12;
const NOTIFIED_CHARS = 140;

// The looks.

export function applyTheme() {
    const theme = recall(browser, THEME_KEY, "system");
    if (theme === "light" || theme === "dark") {
        document.documentElement.dataset.theme = theme;
    } else {
        delete document.documentElement.dataset.theme;
    }
    const radio = document.querySelector(`#theme input[value="${theme === "light" || theme === "dark" ? theme : "system"}"]`);
    radio.checked = true;
}

find("theme").addEventListener("change", ({ target }) => {
    remember(browser, THEME_KEY, target.value);
    applyTheme();
});

// Notifications: asked for when the person says so, and told only while the page is hidden.

const canNotify = () => "Notification" in window;
const wantsNotifications = () => canNotify() && Notification.permission === "granted" && recall(browser, NOTIFY_KEY, false) === true;

function showNotifying(note = "") {
    const isOn = wantsNotifications();
    find("notify").checked = isOn;
    find("notify").disabled = !canNotify();
    find("notify-note").textContent = !canNotify() ? "This browser does not offer them here: the page may have to come by https."
        : note || (Notification.permission === "denied" ? "The browser has been told not to allow them for this page." : "");
}

find("notify").addEventListener("change", async ({ target }) => {
    if (!target.checked) {
        remember(browser, NOTIFY_KEY, false);
    } else {
        const permission = await Notification.requestPermission();
        remember(browser, NOTIFY_KEY, permission === "granted");
    }
    showNotifying();
});

/** Whether `content` has the nickname as a word of its own. */
export function mentions(content, nickname) {
    const isWord = (character) => character !== undefined && /[\p{L}\p{M}\p{N}_]/u.test(character);
    const text = content.toLowerCase();
    const name = nickname.toLowerCase();
    for (let at = text.indexOf(name); name && at >= 0; at = text.indexOf(name, at + 1)) {
        const before = [...text.slice(Math.max(at - 2, 0), at)].at(-1);
        const [after] = text.slice(at + name.length, at + name.length + 2);
        if (!isWord(before) && !isWord(after)) {
            return true;
        }
    }
    return false;
}

export function notify(chat, conversation, { sender, content }) {
    if (!document.hidden || !wantsNotifications() || (conversation.isRoom && !mentions(content, chat.nickname))) {
        return;
    }
    const title = conversation.isRoom ? `${sender} in #${conversation.name}` : sender;
    let notification;
    try {
        notification = new Notification(title, { body: content.slice(0, NOTIFIED_CHARS), icon: "/favicon.svg", tag: conversation.key });
    } catch {
        // Some phones have the class, and let only service workers use it.
        return;
    }
    notification.onclick = () => {
        window.focus();
        chat.select(conversation);
        notification.close();
    };
}

// Dialogs. The browser gives the focus back to where it was when one closes.

export function openSettings() {
    showNotifying();
    find("settings-dialog").showModal();
}

find("open-help").addEventListener("click", () => {
    find("settings-dialog").close();
    find("help-dialog").showModal();
});
find("open-settings").addEventListener("click", openSettings);
for (const button of document.querySelectorAll("dialog [data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
}
for (const dialog of document.querySelectorAll("dialog")) {
    // A click beside a dialog is on the dialog itself, whose content fills it.
    dialog.addEventListener("click", ({ target, offsetX, offsetY }) => {
        const isOutside = offsetX < 0 || offsetY < 0 || offsetX > dialog.offsetWidth || offsetY > dialog.offsetHeight;
        if (target === dialog && isOutside && dialog.id !== "nickname-dialog") {
            dialog.close();
        }
    });
}

// The quick switcher: conversations, members, and rooms to join, by a few letters.

export class Switcher {
    #chat;
    #joinRoom;
    #choices = [];
    #at = 0;

    constructor(chat, joinRoom) {
        this.#chat = chat;
        this.#joinRoom = joinRoom;
        find("switch-to").addEventListener("input", () => this.#list());
        find("switch-to").addEventListener("keydown", (event) => this.#pressed(event));
        find("switcher-form").addEventListener("submit", (event) => {
            event.preventDefault();
            this.#choose(this.#at);
        });
    }

    open() {
        find("switch-to").value = "";
        this.#list();
        find("switcher-dialog").showModal();
    }

    #list() {
        const typed = find("switch-to").value.trim().replace(/^[#@]/, "");
        const wanted = typed.toLowerCase();
        const { conversations, current, nickname } = this.#chat;
        const known = new Set(conversations.map(({ key }) => key));
        const members = [...(current?.members?.keys() ?? [])].filter((name) => name !== nickname && !known.has(`private:${name}`));
        const choices = [
            // What is unread comes first, and what one is in already last.
            ...conversations.toSorted((a, b) => (a === current) - (b === current) || b.unread - a.unread)
                .map((conversation) => ({ name: conversation.name, isRoom: conversation.isRoom, unread: conversation.unread, go: () => this.#chat.select(conversation) })),
            ...members.map((name) => ({ name, isRoom: false, note: "member", go: () => this.#chat.openPrivate(name) })),
        ].filter(({ name }) => name.toLowerCase().includes(wanted));
        if (typed && !this.#chat.rooms.has(typed)) {
            choices.push({ name: typed, isRoom: true, note: "join or make", go: () => this.#joinRoom(typed) });
        }
        this.#choices = choices.slice(0, SWITCHER_SHOWN);
        this.#at = 0;
        find("switcher-list").replaceChildren(...this.#choices.map(({ name, isRoom, note, unread }, index) => {
            const option = element("li", { role: "option", id: `switch-${index}`, className: "entry" },
                isRoom ? element("span", { className: "hash", textContent: "#" }) : avatar(name),
                bdi(name, "name"),
                element("span", { className: "badge", textContent: note ?? (unread ? `${unread} unread` : "") }));
            option.addEventListener("click", () => this.#choose(index));
            return option;
        }));
        this.#mark();
    }

    #mark() {
        [...find("switcher-list").children].forEach((option, index) => {
            option.ariaSelected = String(index === this.#at);
            option.classList.toggle("current", index === this.#at);
        });
        find("switcher-list").children[this.#at]?.scrollIntoView({ block: "nearest" });
        if (this.#choices.length) {
            find("switch-to").setAttribute("aria-activedescendant", `switch-${this.#at}`);
        } else {
            find("switch-to").removeAttribute("aria-activedescendant");
        }
    }

    #pressed(event) {
        const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (step && this.#choices.length) {
            event.preventDefault();
            this.#at = (this.#at + step + this.#choices.length) % this.#choices.length;
            this.#mark();
        }
    }

    #choose(index) {
        find("switcher-dialog").close();
        this.#choices[index]?.go();
    }
}

/** `actions`: switcher(), move(step), scrollPages(count), toEnd(), escape(). */
export function listenToKeys(actions) {
    document.addEventListener("keydown", (event) => {
        if (document.querySelector("dialog[open]")) {
            return;
        }
        const isTyping = event.target.matches?.("input, textarea, select");
        if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && event.key.toLowerCase() === "k") {
            event.preventDefault();
            actions.switcher();
        } else if (event.altKey && !event.ctrlKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
            event.preventDefault();
            actions.move(event.key === "ArrowUp" ? -1 : 1);
        } else if (event.key === "?" && !isTyping) {
            event.preventDefault();
            find("help-dialog").showModal();
        } else if ((event.key === "PageUp" || event.key === "PageDown") && event.target.id === "message") {
            event.preventDefault();
            actions.scrollPages(event.key === "PageUp" ? -1 : 1);
        } else if (event.key === "End" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            actions.toEnd();
        } else if (event.key === "Escape") {
            actions.escape();
        }
    });
}
