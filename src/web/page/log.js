// The messages of a conversation as a virtual list: only rows in view, and some beside them, are in the document. Heights are
// measured as rows come into view and guessed before; what is in view keeps its place whatever changes above it.

import { Status } from "./chat.js";
import { avatar, bdi, element, find } from "./nodes.js";

const GROUP_MS = 5 * 60_000;
const NEAR_END_PX = 80;
// Rows are drawn this far beyond the view, and older messages fetched when their end is so near.
const OVERSCAN_PX = 600;
const EARLIER_PX = 800;
// A row that has not been measured: a head, and a line for so many characters.
const GUESS_PX = 34;
const GUESS_LINE_PX = 22;
const GUESS_LINE_CHARS = 90;
// A message that has one line on a phone too.
const LINE_CHARS = 20;
// Measuring shows what the guesses were worth, and more rows may come into view by it.
const PASSES = 5;
const ENTRIES = new Set(["message", "line"]);
const UPWARD_KEYS = new Set(["ArrowUp", "PageUp", "Home"]);

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export class Log {
    #chat;
    #conversation = null;
    /** Of each conversation: where the person is in it, and its rows that are no entries. */
    #places = new WeakMap();
    #rows = [];
    #tops = [0];
    #drawn = new Map();
    #isStale = true;
    #isDue = false;
    /** What is drawn next has changed, and not only the place in it: the end is gone to, if it is followed. */
    #isPulled = true;
    /** What the first message of one line took that was measured: one with a head, and one without. */
    #lineHeights = [];
    /** Where the view was when it was looked at last. */
    #knownTop = NaN;
    #scroller = find("scroller");
    #toLatest = find("to-latest");
    #before = element("div", { className: "spacer" });
    #list = element("div", { className: "entries", role: "log" });
    #after = element("div", { className: "spacer" });

    attach(chat) {
        this.#chat = chat;
        const scroller = this.#scroller;
        // What is drawn because somebody scrolls is nothing new; what is new is announced elsewhere.
        this.#list.ariaLive = "off";
        scroller.append(element("div", { className: "log" }, this.#before, this.#list, this.#after));
        scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
        // With Ctrl the wheel changes the size of all, and with Alt a key goes to another conversation.
        scroller.addEventListener("wheel", ({ deltaY, ctrlKey }) => deltaY < 0 && !ctrlKey && this.#leaveEnd(), { passive: true });
        scroller.addEventListener("keydown", ({ key, altKey }) => UPWARD_KEYS.has(key) && !altKey && this.#leaveEnd());
        this.#toLatest.addEventListener("click", () => this.toEnd());
        new ResizeObserver(() => this.#pull()).observe(scroller);
        document.addEventListener("visibilitychange", () => this.#pull());
    }

    show(conversation) {
        if (conversation !== this.#conversation) {
            this.#conversation = conversation;
            this.#clear();
            const place = conversation && this.#placeOf(conversation);
            if (conversation?.firstUnread) {
                Object.assign(place, { isAtEnd: false, row: place.unread, within: -this.#scroller.clientHeight / 4 });
            }
        }
        if (conversation) {
            this.#list.ariaLabel = `Messages in ${conversation.name}`;
        }
        this.changed(conversation);
    }

    /** Something in the conversation is another: drawn once for many changes. */
    changed(conversation) {
        if (conversation === this.#conversation) {
            this.#isStale = true;
            this.#pull();
        }
    }

    updated(entry) {
        const row = this.#drawn.get(entry);
        if (row) {
            paintStatus(row, entry);
            this.#pull();
        }
    }

    toEnd(conversation = this.#conversation) {
        if (conversation) {
            this.#placeOf(conversation).isAtEnd = true;
            this.changed(conversation);
        }
    }

    /** By pages, for keys that are pressed elsewhere. */
    scrollPages(count) {
        if (count < 0) {
            this.#leaveEnd();
        }
        this.#scroller.scrollTop += count * this.#scroller.clientHeight * 0.9;
    }

    isSeen(conversation) {
        return conversation === this.#conversation && !document.hidden && this.#placeOf(conversation).isAtEnd;
    }

    #placeOf(conversation) {
        let place = this.#places.get(conversation);
        if (!place) {
            place = { isAtEnd: true, row: null, within: 0, days: new Map(), unread: { kind: "unread" }, top: { kind: "top" } };
            this.#places.set(conversation, place);
        }
        return place;
    }

    #clear() {
        this.#drawn.clear();
        this.#list.replaceChildren();
        this.#rows = [];
        this.#tops = [0];
        this.#knownTop = NaN;
    }

    #pull() {
        this.#isPulled = true;
        this.#schedule();
    }

    #schedule() {
        if (!this.#isDue) {
            this.#isDue = true;
            const draw = () => {
                this.#isDue = false;
                this.#draw();
            };
            // Frames stop in a background tab.
            document.hidden ? setTimeout(draw, 50) : requestAnimationFrame(draw);
        }
    }

    // Rows: the entries, a row for each new day, one before what is unread, and one above all.

    #build(conversation) {
        const { days, unread, top } = this.#placeOf(conversation);
        const rows = conversation.hasEarlier || conversation.isLoadingEarlier ? [top] : [];
        let today = null;
        for (const list of [conversation.entries, conversation.outbox]) {
            for (const entry of list) {
                const key = (entry.day ??= new Date(entry.timestamp).setHours(0, 0, 0, 0));
                // Clocks differ: a day that is over does not begin again.
                if (today === null || key > today) {
                    today = key;
                    const row = days.get(key) ?? { kind: "day", timestamp: key };
                    days.set(key, row);
                    rows.push(row);
                }
                if (entry === conversation.firstUnread) {
                    rows.push(unread);
                }
                rows.push(entry);
            }
        }
        this.#rows = rows;
    }

    #measureTops() {
        const tops = new Array(this.#rows.length + 1);
        tops[0] = 0;
        this.#rows.forEach((row, at) => (tops[at + 1] = tops[at] + (row.height ?? this.#guess(row, at))));
        this.#tops = tops;
    }

    /** A good one spares a jump when the row comes into view, which ends a smooth scrolling. */
    #guess(row, at) {
        if (row.kind !== "message") {
            return GUESS_PX;
        }
        const lines = Math.floor(row.content.length / GUESS_LINE_CHARS);
        return (this.#lineHeights[Number(isContinued(row, this.#rows[at - 1]))] ?? GUESS_PX) + GUESS_LINE_PX * lines;
    }

    /** The row that `px` from the top is in. */
    #rowAt(px) {
        let low = 0;
        let high = this.#rows.length - 1;
        while (low < high) {
            const middle = (low + high + 1) >> 1;
            if (this.#tops[middle] <= px) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        return Math.max(low, 0);
    }

    #draw() {
        const conversation = this.#conversation;
        if (!conversation) {
            this.#before.style.height = this.#after.style.height = "0";
            this.#toLatest.hidden = true;
            return;
        }
        const place = this.#placeOf(conversation);
        // While they scroll by themselves, down to the end too, a jump would end that, and a step up that follows at once.
        const isPulled = place.isAtEnd && this.#isPulled;
        this.#isPulled = false;
        if (!isPulled && Math.abs(this.#scroller.scrollTop - this.#knownTop) >= 1) {
            // Somebody has scrolled, and the event is yet to come: drawing must not take them back.
            this.#note(place);
        }
        if (this.#isStale) {
            this.#isStale = false;
            this.#build(conversation);
        }
        const { clientHeight } = this.#scroller;
        let top = 0;
        for (let pass = 0; pass < PASSES; pass += 1) {
            this.#measureTops();
            const total = this.#tops.at(-1);
            const anchor = isPulled ? -1 : this.#rows.indexOf(place.row);
            top = isPulled ? total - clientHeight : (anchor < 0 ? this.#scroller.scrollTop : this.#tops[anchor] + place.within);
            top = Math.max(top, 0);
            const first = this.#rowAt(top - OVERSCAN_PX);
            const last = this.#rowAt(top + clientHeight + OVERSCAN_PX);
            this.#drawRows(first, last);
            if (!this.#measureRows(first, last)) {
                break;
            }
        }
        if (isPulled) {
            top = this.#scroller.scrollHeight - clientHeight;
        }
        if (Math.abs(this.#scroller.scrollTop - top) >= 1) {
            this.#scroller.scrollTop = top;
        }
        this.#knownTop = this.#scroller.scrollTop;
        if (place.row === place.unread && this.#tops.at(-1) - clientHeight - top < NEAR_END_PX) {
            place.isAtEnd = true;
        }
        this.#settle(conversation, place);
    }

    /** What follows from where the person is now. */
    #settle(conversation, place) {
        this.#toLatest.hidden = place.isAtEnd;
        if (place.isAtEnd && !document.hidden) {
            this.#chat.seen(conversation);
        }
        if (this.#scroller.scrollTop < EARLIER_PX && conversation.hasEarlier) {
            this.#chat.loadEarlier(conversation);
        }
    }

    #drawRows(first, last) {
        const wanted = this.#rows.slice(first, last + 1);
        const stays = new Set(wanted);
        for (const [row, node] of this.#drawn) {
            if (!stays.has(row)) {
                if (node.contains(document.activeElement)) {
                    this.#scroller.focus({ preventScroll: true });
                }
                node.remove();
                this.#drawn.delete(row);
            }
        }
        let next = this.#list.firstChild;
        wanted.forEach((row, at) => {
            let node = this.#drawn.get(row);
            if (!node) {
                node = element("div", { className: "log-row" }, this.#nodeOf(row));
                this.#drawn.set(row, node);
            }
            if (node === next) {
                next = next.nextSibling;
            } else {
                this.#list.insertBefore(node, next);
            }
            if (row.kind === "message") {
                node.firstChild.classList.toggle("continued", isContinued(row, this.#rows[first + at - 1]));
            }
        });
        this.#before.style.height = `${this.#tops[first] ?? 0}px`;
        this.#after.style.height = `${Math.max(this.#tops.at(-1) - (this.#tops[last + 1] ?? 0), 0)}px`;
    }

    /** Whether any height was another than was thought. */
    #measureRows(first, last) {
        let isOther = false;
        for (let at = first; at <= last && at < this.#rows.length; at += 1) {
            const row = this.#rows[at];
            const { height } = this.#drawn.get(row).getBoundingClientRect();
            if (Math.abs(height - (row.height ?? -1)) > 0.1) {
                row.height = height;
                isOther = true;
                if (row.kind === "message" && row.content.length < LINE_CHARS && !row.content.includes("\n")) {
                    // Only once: a guess that changes moves all that was guessed by it.
                    this.#lineHeights[Number(isContinued(row, this.#rows[at - 1]))] ??= height;
                }
            }
        }
        return isOther;
    }

    // Nodes.

    #nodeOf(row) {
        switch (row.kind) {
            case "message": return this.#messageNode(row);
            case "day": return element("p", { className: "line day" }, element("span", { textContent: day.format(row.timestamp) }));
            case "unread": return element("p", { className: "line unread-line" }, element("span", { textContent: "New messages" }));
            case "top": return element("p", { className: "line earlier" }, element("span", { textContent: "Earlier messages are being fetched" }));
            default: {
                const content = row.parts.map((part) => (typeof part === "string" ? part : bdi(part.name)));
                return element("p", { className: `line ${row.look}` }, element("span", {}, ...content), timeNode(row.timestamp));
            }
        }
    }

    #messageNode(entry) {
        const conversation = this.#conversation;
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
        if (isOwn) {
            const again = element("button", { type: "button", textContent: "Send again" });
            again.addEventListener("click", () => this.#chat.resend(conversation, entry));
            const discard = element("button", { type: "button", textContent: "Discard" });
            discard.addEventListener("click", () => this.#chat.discard(conversation, entry));
            node.append(element("p", { className: "foot" },
                element("span", { className: "note" }), element("span", { className: "actions", hidden: true }, again, discard)));
            paintStatus(node, entry);
        }
        return node;
    }

    // Scrolling: the end is followed until somebody goes up, however little, and again when they have come down to it.

    #scrolled() {
        const place = this.#conversation && this.#placeOf(this.#conversation);
        // Before its first drawing a conversation has no place in the view.
        if (place && !Number.isNaN(this.#knownTop)) {
            this.#note(place);
            this.#schedule();
        }
    }

    #note(place) {
        const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
        const moved = scrollTop - this.#knownTop;
        const below = scrollHeight - scrollTop - clientHeight;
        this.#knownTop = scrollTop;
        if (moved < 0 && below > 1) {
            place.isAtEnd = false;
        } else if (moved > 0 && below < NEAR_END_PX) {
            place.isAtEnd = true;
        }
        // Rows of days and such move when something comes before them; entries stay where they are.
        let at = this.#rowAt(scrollTop);
        while (at < this.#rows.length - 1 && !ENTRIES.has(this.#rows[at].kind)) {
            at += 1;
        }
        // The first one loses its head when one of the same sender comes before it.
        if (at < this.#rows.length - 1 && !ENTRIES.has(this.#rows[at - 1]?.kind)) {
            at += 1;
        }
        place.row = this.#rows[at] ?? null;
        place.within = scrollTop - (this.#tops[at] ?? 0);
    }

    /** A person who scrolls up means it, however fast messages come: what is drawn before it is seen must not take them back. */
    #leaveEnd() {
        const place = this.#conversation && this.#placeOf(this.#conversation);
        if (place?.isAtEnd && this.#scroller.scrollTop > 0) {
            this.#note(place);
            place.isAtEnd = false;
        }
    }
}

/** Messages of one sender in a row share one head. */
function isContinued(entry, previous) {
    return previous?.kind === "message" && previous.sender === entry.sender && entry.timestamp - previous.timestamp < GROUP_MS;
}

function paintStatus(node, entry) {
    const message = node.closest(".message") ?? node.querySelector(".message");
    const note = noteOf(entry);
    message.dataset.status = entry.status;
    message.querySelector(".note").textContent = note;
    message.querySelector(".foot").hidden = !note;
    message.querySelector(".actions").hidden = entry.status !== Status.FAILED && entry.status !== Status.UNCONFIRMED;
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
