// The document around the log: lists, headings, notices, and what is said to those who cannot see it.

import { avatar, bdi, element, find, sync } from "./nodes.js";

const TOAST_MS = 6_000;
// What is new is said aloud at most once in this time, and no more than this of it.
const ANNOUNCE_MS = 1_500;
const ANNOUNCED_CHARS = 200;
const ANNOUNCEMENTS_KEPT = 3;

export class View {
    #chat;
    #log;
    #onMember;
    #onHeard;
    #isRedrawDue = false;
    #areMembersStale = true;
    #toastTimer = 0;
    #announceTimer = 0;
    #unannounced = [];

    /** `chat` comes later, by `attach`: each of the two needs the other. */
    attach(chat, log, { onMember, onHeard }) {
        this.#chat = chat;
        this.#log = log;
        this.#onMember = onMember;
        this.#onHeard = onHeard;
    }

    // Lists and headings, drawn at most once for many changes in a row.

    changed() {
        if (!this.#isRedrawDue) {
            this.#isRedrawDue = true;
            // Not an animation frame: those stop in a background tab, whose title should still count.
            setTimeout(() => {
                this.#isRedrawDue = false;
                this.#redraw();
            }, 16);
        }
    }

    membersChanged() {
        this.#areMembersStale = true;
        this.changed();
    }

    #redraw() {
        const { current } = this.#chat;
        this.#drawList(find("rooms"), [...this.#chat.rooms.values()]);
        this.#drawList(find("privates"), [...this.#chat.privates.values()]);
        find("privates-section").hidden = this.#chat.privates.size === 0;
        this.#drawHeading(current);
        this.#drawTyping(current);
        this.#drawOwnName();
        if (this.#areMembersStale) {
            this.#areMembersStale = false;
            this.#drawMembers(current);
        }
        const unread = this.#chat.conversations.reduce((sum, conversation) => sum + conversation.unread, 0);
        document.title = `${unread ? `(${unread}) ` : ""}${current ? `${current.name} · ` : ""}starling`;
    }

    #drawList(list, conversations) {
        const create = (conversation) => {
            const button = element("button", { type: "button", className: "entry" },
                conversation.isRoom ? element("span", { className: "hash", textContent: "#" }) : avatar(conversation.name),
                bdi(conversation.name, "name"),
                element("span", { className: "unread", ariaHidden: "true" }),
                element("span", { className: "unseen" }));
            const item = element("li", {}, button);
            button.addEventListener("click", () => this.#chat.select(this.#conversationOf(item)));
            return item;
        };
        sync(list, conversations, ({ key }) => key, create, (item, conversation) => {
            const isCurrent = conversation === this.#chat.current;
            const { unread } = conversation;
            const button = item.firstChild;
            button.classList.toggle("current", isCurrent);
            button.classList.toggle("has-unread", unread > 0);
            button.classList.toggle("away", !conversation.isRoom && this.#chat.isConnected(conversation.name) === false);
            button.ariaCurrent = isCurrent ? "true" : null;
            button.querySelector(".unread").textContent = unread > 999 ? "999+" : unread || "";
            button.querySelector(".unseen").textContent = unread ? `${unread} unread` : "";
        });
    }

    /** By key, since a conversation may be renamed or replaced under the node. */
    #conversationOf(item) {
        return this.#chat.conversations.find(({ key }) => key === item.dataset.key);
    }

    #drawHeading(current) {
        find("title").replaceChildren(...(current ? [current.isRoom ? "# " : "", bdi(current.name)] : ["starling"]));
        find("subtitle").textContent = current ? this.#subtitle(current) : "No conversation is open";
        find("topic").textContent = current?.topic ?? "";
        find("topic").title = current?.topic ?? "";
        find("room-settings").hidden = !this.#chat.isHost(current);
        find("leave").hidden = !current || (current.isRoom && !current.isJoined && !this.#chat.isOut(current));
        find("leave").textContent = !current?.isRoom ? "Close" : current.isJoined ? "Leave" : "Join again";
        find("open-members").hidden = !current?.isRoom;
        find("members-panel").classList.toggle("is-empty", !current?.isRoom);
        find("app").classList.toggle("without-members", !current?.isRoom);
    }

    #subtitle(conversation) {
        if (!conversation.isRoom) {
            const isConnected = this.#chat.isConnected(conversation.name);
            return isConnected === undefined ? "Private conversation" : `Private conversation, ${isConnected ? "here" : "away"}`;
        }
        if (!conversation.isJoined) {
            return !this.#chat.isOnline ? "Not connected" : conversation.isJoining ? "Joining" : "Not in this room";
        }
        return conversation.memberCount === 1 ? "1 member" : `${conversation.memberCount} members`;
    }

    #drawOwnName() {
        const { nickname } = this.#chat;
        if (find("me-name").textContent !== nickname) {
            find("me-name").textContent = nickname;
            find("me-avatar").replaceChildren(avatar(nickname));
        }
    }

    #drawMembers(current) {
        const members = current?.isRoom ? [...current.members.values()] : [];
        members.sort((a, b) => a.nickname.localeCompare(b.nickname));
        const create = ({ nickname }) => {
            const button = element("button", { type: "button", className: "entry", ariaHasPopup: "menu" },
                avatar(nickname), bdi(nickname, "name"), element("span", { className: "badge" }));
            button.addEventListener("click", () => this.#onMember(nickname, button));
            return element("li", {}, button);
        };
        sync(find("members"), members, ({ nickname }) => nickname, create, (item, { nickname, role, connected }) => {
            const isMe = nickname === this.#chat.nickname;
            const button = item.firstChild;
            button.disabled = isMe;
            button.classList.toggle("away", !connected);
            const badges = [isMe && "you", !connected && "away", role !== "member" && role, current.muted.has(nickname) && "muted"];
            button.querySelector(".badge").textContent = badges.filter(Boolean).join(", ");
        });
        find("members-count").textContent = current?.isRoom ? current.memberCount : "";
        const hidden = current?.isRoom ? current.memberCount - members.length : 0;
        find("members-more").textContent = hidden > 0 ? `and ${hidden} more` : "";
    }

    #drawTyping(current) {
        const names = current ? [...current.typing.keys()].slice(0, 3) : [];
        const more = current ? current.typing.size - names.length : 0;
        const parts = names.flatMap((name, index) => (index ? [", ", bdi(name)] : [bdi(name)]));
        if (more > 0) {
            parts.push(` and ${more} more`);
        }
        if (parts.length) {
            parts.push(names.length + more === 1 ? " is typing" : " are typing");
        }
        find("typing").replaceChildren(...parts);
    }

    // The log.

    selected(conversation) {
        this.#log.show(conversation);
        // At once, as what is hidden cannot have the focus.
        find("composer").hidden = !conversation;
        document.dispatchEvent(new CustomEvent("conversation", { detail: conversation }));
    }

    logChanged(conversation) {
        this.#log.changed(conversation);
    }

    sentOwn(conversation) {
        this.#log.toEnd(conversation);
    }

    updated(entry) {
        this.#log.updated(entry);
    }

    isSeen(conversation) {
        return this.#log.isSeen(conversation);
    }

    // Notices.

    /** A message of somebody else has come. */
    heard(conversation, entry) {
        if (entry.isOwn) {
            return;
        }
        this.#onHeard(conversation, entry);
        if (conversation === this.#chat.current || !conversation.isRoom) {
            this.#unannounced.push(entry);
            this.#announceTimer ||= setTimeout(() => this.#announce(), ANNOUNCE_MS);
        }
    }

    /** Many messages at once are counted and not read out. */
    #announce() {
        this.#announceTimer = 0;
        const entries = this.#unannounced.splice(0);
        const [{ sender, content }] = entries;
        const text = entries.length === 1 ? `${sender}: ${content.slice(0, ANNOUNCED_CHARS)}` : `${entries.length} new messages`;
        const announcer = find("announcer");
        announcer.append(element("p", { textContent: text }));
        while (announcer.childElementCount > ANNOUNCEMENTS_KEPT) {
            announcer.firstElementChild.remove();
        }
    }

    alert(text) {
        clearTimeout(this.#toastTimer);
        find("toast").textContent = text;
        this.#toastTimer = setTimeout(() => (find("toast").textContent = ""), TOAST_MS);
    }
}
