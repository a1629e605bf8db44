// The document: turns the state of the chat into nodes. All text that anybody wrote is set as text, never as markup, and sits in
// an element of its own direction, so that it can neither become code nor reorder its neighbours.

import { Status } from "./chat.js";

// A node is the costly part of a message; older ones leave the page.
const LOG_MAX_NODES = 2_000;
const GROUP_MS = 5 * 60_000;
const NEAR_BOTTOM_PX = 80;
const TOAST_MS = 6_000;
const TINTS = 8;
const UPWARD_KEYS = new Set(["ArrowUp", "PageUp", "Home"]);

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

const find = (id) => document.getElementById(id);

/** Makes an element; strings among the children become text. */
export function element(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
}

export function bdi(text, className = "") {
    return element("bdi", { className, textContent: text });
}

export function avatar(name) {
    let hash = 2_166_136_261;
    for (const character of name) {
        hash = Math.imul(hash ^ character.codePointAt(0), 16_777_619);
    }
    // A whole grapheme: half of a joined emoji or a bare letter without its marks would show somebody else's sign.
    const [first] = new Intl.Segmenter().segment(name);
    const node = element("span", { className: `avatar tint-${(hash >>> 16) % TINTS}`, textContent: first?.segment.toUpperCase() ?? "" });
    node.setAttribute("aria-hidden", "true");
    return node;
}

/** Makes the children of `list` those of `items`, keeping the nodes, and with them the focus, of those that stay. */
function sync(list, items, keyOf, create, update) {
    const known = new Map([...list.children].map((node) => [node.dataset.key, node]));
    items.forEach((item, index) => {
        const key = keyOf(item);
        const node = known.get(key) ?? create(item);
        node.dataset.key = key;
        known.delete(key);
        update(node, item);
        if (list.children[index] !== node) {
            list.insertBefore(node, list.children[index] ?? null);
        }
    });
    known.forEach((node) => node.remove());
}

export class View {
    #chat;
    #logs = new Map();
    #nodes = new WeakMap();
    #isRedrawDue = false;
    #isScrollDue = false;
    #areMembersStale = true;
    #toastTimer = 0;
    #scroller = find("scroller");
    #toLatest = find("to-latest");

    /** `chat` comes later, by `attach`: each of the two needs the other. */
    attach(chat) {
        this.#chat = chat;
        this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
        this.#scroller.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.#leaveEnd(), { passive: true });
        this.#scroller.addEventListener("touchmove", () => this.#leaveEnd(), { passive: true });
        this.#scroller.addEventListener("keydown", ({ key }) => UPWARD_KEYS.has(key) && this.#leaveEnd());
        this.#toLatest.addEventListener("click", () => {
            this.#logOf(this.#chat.current).isAtEnd = true;
            this.#scrollToEnd();
        });
        new ResizeObserver(() => this.#keepPlace()).observe(this.#scroller);
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
                element("span", { className: "unread" }));
            const item = element("li", {}, button);
            button.addEventListener("click", () => this.#chat.select(this.#conversationOf(item)));
            return item;
        };
        sync(list, conversations, (conversation) => `${conversation.kind}:${conversation.name}`, create, (item, conversation) => {
            const isCurrent = conversation === this.#chat.current;
            const button = item.firstChild;
            button.classList.toggle("current", isCurrent);
            button.classList.toggle("has-unread", conversation.unread > 0);
            button.toggleAttribute("aria-current", isCurrent);
            const unread = button.querySelector(".unread");
            unread.textContent = conversation.unread > 999 ? "999+" : conversation.unread || "";
            unread.ariaLabel = conversation.unread ? `${conversation.unread} unread` : null;
        });
    }

    /** By key, since a conversation may be renamed or replaced under the node. */
    #conversationOf(item) {
        return this.#chat.conversations.find(({ kind, name }) => `${kind}:${name}` === item.dataset.key);
    }

    #drawHeading(current) {
        find("title").replaceChildren(...(current ? [current.isRoom ? "# " : "", bdi(current.name)] : ["starling"]));
        find("subtitle").textContent = current ? subtitle(current, this.#chat.isOnline) : "No conversation is open";
        find("leave").hidden = !current || (current.isRoom && !current.isJoined && !this.#chat.isOut(current));
        find("leave").textContent = !current?.isRoom ? "Close" : current.isJoined ? "Leave" : "Join again";
        find("open-members").hidden = !current?.isRoom;
        find("members-panel").classList.toggle("is-empty", !current?.isRoom);
        find("app").classList.toggle("without-members", !current?.isRoom);
        find("composer").hidden = !current;
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
            const button = element("button", { type: "button", className: "entry" },
                avatar(nickname), bdi(nickname, "name"), element("span", { className: "badge" }));
            button.addEventListener("click", () => this.#chat.openPrivate(nickname));
            return element("li", {}, button);
        };
        sync(find("members"), members, ({ nickname }) => nickname, create, (item, { nickname, role, connected }) => {
            const isMe = nickname === this.#chat.nickname;
            const button = item.firstChild;
            button.disabled = isMe;
            button.title = isMe ? "" : `Write to ${nickname} privately`;
            button.classList.toggle("away", !connected);
            button.querySelector(".badge").textContent = isMe ? "you" : !connected ? "away" : role === "member" ? "" : role;
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

    // Logs. Each conversation keeps its nodes while another one is shown.

    selected(conversation) {
        this.#scroller.replaceChildren(...(conversation ? [this.#logOf(conversation).holder] : []));
        if (conversation) {
            const log = this.#logOf(conversation);
            log.entries.ariaLabel = `Messages in ${conversation.name}`;
            this.#scroller.scrollTop = log.isAtEnd ? this.#scroller.scrollHeight : log.scrollTop;
            this.#toLatest.hidden = log.isAtEnd;
        }
        document.dispatchEvent(new CustomEvent("conversation", { detail: conversation }));
    }

    append(conversation, entry) {
        this.#addToLog(conversation, this.#messageNode(conversation, entry), entry.timestamp);
    }

    pending(conversation, entry) {
        const log = this.#logOf(conversation);
        const node = this.#messageNode(conversation, entry);
        const previous = log.outbox.lastElementChild ?? log.entries.lastElementChild;
        log.outbox.append(node);
        group(node, previous);
        log.isAtEnd = true;
        this.#follow(conversation, log);
    }

    updated(entry) {
        const node = this.#nodes.get(entry);
        if (node) {
            node.dataset.status = entry.status;
            const note = noteOf(entry);
            node.querySelector(".note").textContent = note;
            node.querySelector(".foot").hidden = !note;
            node.querySelector(".actions").hidden = entry.status !== Status.FAILED && entry.status !== Status.UNCONFIRMED;
        }
    }

    placed(conversation, entry) {
        const node = this.#nodes.get(entry);
        node.querySelector("time").replaceWith(timeNode(entry.timestamp));
        node.dataset.timestamp = entry.timestamp;
        this.#addToLog(conversation, node, entry.timestamp);
    }

    removed(entry) {
        this.#nodes.get(entry)?.remove();
    }

    /** A line about the conversation; parts are strings and `{ name }`. */
    line(conversation, kind, parts, timestamp = Date.now()) {
        const content = parts.map((part) => (typeof part === "string" ? part : bdi(part.name)));
        const node = element("p", { className: `line ${kind}` }, element("span", {}, ...content), timeNode(timestamp));
        this.#addToLog(conversation, node, timestamp);
    }

    forget(conversation) {
        this.#logs.delete(conversation);
    }

    alert(text) {
        clearTimeout(this.#toastTimer);
        find("toast").textContent = text;
        this.#toastTimer = setTimeout(() => (find("toast").textContent = ""), TOAST_MS);
    }

    #logOf(conversation) {
        let log = this.#logs.get(conversation);
        if (!log) {
            const entries = element("div", { className: "entries", role: "log", ariaLive: "polite" });
            const outbox = element("div", { className: "outbox" });
            log = { entries, outbox, holder: element("div", { className: "log" }, entries, outbox), isAtEnd: true, scrollTop: 0, day: "" };
            this.#logs.set(conversation, log);
        }
        return log;
    }

    #addToLog(conversation, node, timestamp) {
        const log = this.#logOf(conversation);
        const today = day.format(timestamp);
        if (log.day !== today) {
            log.day = today;
            log.entries.append(element("p", { className: "line day" }, element("span", { textContent: today })));
        }
        const previous = log.entries.lastElementChild;
        log.entries.append(node);
        group(node, previous);
        group(log.outbox.firstElementChild, node);
        while (log.entries.childElementCount > LOG_MAX_NODES) {
            log.entries.firstElementChild.remove();
            group(log.entries.firstElementChild, null);
        }
        this.#follow(conversation, log);
    }

    #messageNode(conversation, entry) {
        const { sender, content, timestamp, isOwn } = entry;
        const name = isOwn ? bdi(sender, "sender") : element("button", { type: "button", className: "sender" }, bdi(sender));
        if (!isOwn) {
            name.title = `Write to ${sender} privately`;
            name.addEventListener("click", () => this.#chat.openPrivate(sender));
        }
        const node = element("article", { className: isOwn ? "message own" : "message" },
            avatar(sender),
            element("header", {}, name, timeNode(timestamp)),
            element("p", { className: "content", dir: "auto", textContent: content }));
        node.dataset.sender = sender;
        node.dataset.timestamp = timestamp;
        if (isOwn) {
            const again = element("button", { type: "button", textContent: "Send again" });
            again.addEventListener("click", () => this.#chat.resend(conversation, entry));
            const discard = element("button", { type: "button", textContent: "Discard" });
            discard.addEventListener("click", () => this.#chat.discard(conversation, entry));
            node.append(element("p", { className: "foot" },
                element("span", { className: "note" }), element("span", { className: "actions", hidden: true }, again, discard)));
            this.#nodes.set(entry, node);
            this.updated(entry);
        }
        return node;
    }

    // Scrolling: the end is followed while it is in sight, and left alone while somebody reads further up.

    #follow(conversation, log) {
        if (conversation !== this.#chat.current) {
            return;
        }
        if (log.isAtEnd) {
            this.#scrollToEnd();
        } else {
            this.#toLatest.hidden = false;
        }
    }

    #scrolled() {
        const log = this.#logs.get(this.#chat.current);
        // With a scroll of our own due, the end has run away from the view and nobody has scrolled away from it.
        if (log && !this.#isScrollDue) {
            const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
            log.isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_BOTTOM_PX;
            log.scrollTop = scrollTop;
            this.#toLatest.hidden = log.isAtEnd;
        }
    }

    /** A person who scrolls up means it, however fast messages come; `scrolled` finds out whether it was far enough. */
    #leaveEnd() {
        const log = this.#logs.get(this.#chat.current);
        if (log && this.#scroller.scrollTop > 0) {
            log.isAtEnd = false;
        }
    }

    #keepPlace() {
        if (this.#logs.get(this.#chat.current)?.isAtEnd) {
            this.#scrollToEnd();
        }
    }

    /** Asking for the height lays the page out, so it is asked once a frame and not once a message. */
    #scrollToEnd() {
        if (!this.#isScrollDue) {
            this.#isScrollDue = true;
            requestAnimationFrame(() => {
                this.#isScrollDue = false;
                const log = this.#logs.get(this.#chat.current);
                if (log?.isAtEnd) {
                    this.#scroller.scrollTop = this.#scroller.scrollHeight;
                    this.#toLatest.hidden = true;
                }
            });
        }
    }
}

/** Messages of one sender in a row share one head. */
function group(node, previous) {
    if (node?.dataset.sender !== undefined) {
        const isContinued = previous?.dataset.sender === node.dataset.sender
            && Number(node.dataset.timestamp) - Number(previous.dataset.timestamp) < GROUP_MS;
        node.classList.toggle("continued", isContinued);
    }
}

function timeNode(timestamp) {
    const at = new Date(timestamp);
    return element("time", { dateTime: at.toISOString(), title: full.format(at), textContent: clock.format(at) });
}

function noteOf({ status, note }) {
    switch (status) {
        case Status.QUEUED: return "Waiting for the connection";
        case Status.SENDING: return "Sending";
        case Status.UNCONFIRMED: return "The connection broke: it may not have arrived";
        case Status.FAILED: return `Not sent: ${note}`;
        default: return note;
    }
}

function subtitle(conversation, isOnline) {
    if (!conversation.isRoom) {
        return "Private conversation";
    }
    if (!conversation.isJoined) {
        return !isOnline ? "Not connected" : conversation.isJoining ? "Joining" : "Not in this room";
    }
    return conversation.memberCount === 1 ? "1 member" : `${conversation.memberCount} members`;
}
