// What a person does to others: the menu at a member, and the questions of a host.

import { bdi, element, find } from "./nodes.js";

const DURATIONS = [["Until it is undone", ""], ["10 minutes", "600"], ["1 hour", "3600"], ["1 day", "86400"], ["1 week", "604800"]];
const QUESTIONS = {
    kick: { title: "Remove from the room", help: "They may come back.", verb: "Remove", hasDuration: false },
    ban: { title: "Ban from the room", help: "They cannot come back until the ban ends.", verb: "Ban", hasDuration: true },
    mute: { title: "Mute in the room", help: "They read and cannot write until it ends.", verb: "Mute", hasDuration: true },
};

const menu = find("member-menu");
const dialog = find("action-dialog");

export class Members {
    #chat;
    #view;
    #opener = null;
    #asked = null;

    constructor(chat, view) {
        this.#chat = chat;
        this.#view = view;
        menu.addEventListener("keydown", (event) => this.#pressed(event));
        document.addEventListener("pointerdown", ({ target }) => {
            if (!menu.hidden && !menu.contains(target) && !this.#opener?.contains(target)) {
                this.close();
            }
        });
        window.addEventListener("resize", () => this.close());
        find("action-seconds").append(...DURATIONS.map(([text, value]) => element("option", { value, textContent: text })));
        find("action-form").addEventListener("submit", (event) => {
            event.preventDefault();
            this.#confirmed();
        });
        find("action-cancel").addEventListener("click", () => dialog.close());
    }

    get isOpen() {
        return !menu.hidden;
    }

    open(nickname, opener) {
        if (this.isOpen && this.#opener === opener) {
            this.close();
            return;
        }
        const room = this.#chat.current;
        const member = room.members.get(nickname);
        const choice = (text, act, className = "") => {
            const button = element("button", { type: "button", role: "menuitem", tabIndex: -1, className, textContent: text });
            button.addEventListener("click", () => {
                this.close();
                act();
            });
            return button;
        };
        const choices = [choice("Write privately", () => this.#chat.openPrivate(nickname))];
        if (this.#chat.isHost(room) && member) {
            const role = (to) => () => this.#moderate(room, "role", nickname, { role: to });
            choices.push(element("hr", { role: "separator" }));
            choices.push(member.role === "host"
                ? choice("Make a member", role("member"))
                : choice("Make a host", role("host")));
            choices.push(member.role === "guest" ? choice("Let them write", role("member")) : choice("Let them only read", role("guest")));
            choices.push(room.muted.has(nickname)
                ? choice("Unmute", () => this.#moderate(room, "unmute", nickname))
                : choice("Mute…", () => this.#ask(room, "mute", nickname)));
            choices.push(choice("Remove…", () => this.#ask(room, "kick", nickname), "danger"));
            choices.push(choice("Ban…", () => this.#ask(room, "ban", nickname), "danger"));
        }
        menu.replaceChildren(element("p", { className: "menu-head", role: "presentation" }, bdi(nickname)), ...choices);
        menu.ariaLabel = `What to do with ${nickname}`;
        menu.hidden = false;
        this.#opener = opener;
        opener.ariaExpanded = "true";
        this.#place(opener.getBoundingClientRect());
        menu.querySelector("button").focus();
    }

    close() {
        if (this.isOpen) {
            menu.hidden = true;
            this.#opener.ariaExpanded = "false";
            this.#opener.focus();
            this.#opener = null;
        }
    }

    /** Beside the member, as far as there is room; on a phone the style puts it at the bottom. */
    #place({ left, top, bottom }) {
        const { offsetWidth, offsetHeight } = menu;
        const y = bottom + offsetHeight < innerHeight - 8 ? bottom + 4 : Math.max(top - offsetHeight - 4, 8);
        menu.style.left = `${Math.max(Math.min(left, innerWidth - offsetWidth - 12), 8)}px`;
        menu.style.top = `${y}px`;
    }

    #pressed(event) {
        const items = [...menu.querySelectorAll("[role=menuitem]")];
        const at = items.indexOf(document.activeElement);
        const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
        if (to !== undefined) {
            event.preventDefault();
            items.at(to % items.length).focus();
        } else if (event.key === "Escape" || event.key === "Tab") {
            event.preventDefault();
            event.stopPropagation();
            this.close();
        }
    }

    #ask(room, action, nickname) {
        const { title, help, verb, hasDuration } = QUESTIONS[action];
        this.#asked = { room, action, nickname };
        find("action-title").textContent = title;
        find("action-text").replaceChildren(bdi(nickname), `: ${help}`);
        find("action-duration").hidden = !hasDuration;
        find("action-seconds").value = "";
        find("action-reason").value = "";
        find("action-submit").textContent = verb;
        find("action-problem").textContent = "";
        dialog.showModal();
    }

    async #confirmed() {
        const { room, action, nickname } = this.#asked;
        const seconds = Number(find("action-seconds").value) || undefined;
        const reason = find("action-reason").value.trim() || undefined;
        try {
            await this.#chat.moderate(room, action, nickname, { reason, seconds: QUESTIONS[action].hasDuration ? seconds : undefined });
            dialog.close();
        } catch (error) {
            find("action-problem").textContent = error.message;
        }
    }

    #moderate(room, action, nickname, options) {
        this.#chat.moderate(room, action, nickname, options).catch((error) => this.#view.alert(error.message));
    }
}
