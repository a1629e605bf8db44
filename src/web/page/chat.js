// What the page knows: rooms, private conversations, their members, what was said and what is still to be sent. It turns the
// client's events into changes of that state and tells the view; it never touches the document.

import { NameMap } from "./names.js";
import { LIMITS } from "./starling.js";

const TYPING_SHOW_MS = 4_000;
// Enough for any list a person reads; the count stays exact beyond it.
const MEMBERS_LISTED = 500;
// What a newcomer sees of what was said before, and what comes with each further look back.
const HISTORY_SHOWN = 50;
const HISTORY_PAGE = 100;
// Entries of a conversation that are kept; older ones are fetched again when somebody scrolls there.
const ENTRIES_MAX = 20_000;
const PRIVATES_KEPT = 20;
const PRIVATE_ENTRIES_KEPT = 100;
export const TOPIC = "topic";

const LEAVE_PHRASES = {
    left: "left",
    quit: "left",
    timeout: "did not come back",
    lost: "lost the connection",
    kicked: "was removed",
    banned: "was banned",
    slow_consumer: "could not keep up",
};

const LEFT_PHRASES = {
    kicked: "You were removed from this room",
    banned: "You are banned from this room",
};

/** How a message of one's own fares. */
export const Status = Object.freeze({
    QUEUED: "queued",
    SENDING: "sending",
    SENT: "sent",
    UNCONFIRMED: "unconfirmed",
    FAILED: "failed",
});

/** A room or a private conversation. */
class Conversation {
    draft = "";
    /** What was said and what happened, oldest first: messages and lines. */
    entries = [];
    /** Own messages without a place among the entries yet, oldest first. */
    outbox = [];
    /** Nickname -> timer that ends the "is typing". */
    typing = new Map();
    /** Nickname -> { nickname, role, connected }. */
    members = new Map();
    memberCount = 0;
    muted = new Set();
    isJoined = false;
    isJoining = false;
    /** The server has put us out, or did not let us in again. */
    isOutside = false;
    role = "member";
    topic = "";
    epoch = "";
    /** The last message that was told, and the last one that was seen. */
    offset = 0;
    read = 0;
    /** The entry that "new messages" stands before, and what had been read then. */
    firstUnread = null;
    readBefore = 0;
    /** Of a private conversation, which has no offsets. */
    unreadPrivates = 0;
    hasEarlier = false;
    isLoadingEarlier = false;

    constructor(kind, name) {
        this.kind = kind;
        this.name = name;
    }

    get isRoom() {
        return this.kind === "room";
    }

    get key() {
        return `${this.kind}:${this.name}`;
    }

    get unread() {
        return this.isRoom ? Math.max(this.offset - this.read, 0) : this.unreadPrivates;
    }
}

export class Chat {
    rooms = new NameMap();
    privates = new Map();
    current = null;
    #client;
    #view;
    #memory;

    /**
     * `view`: changed(), membersChanged(), selected(conversation), logChanged(conversation), sentOwn(conversation), updated(entry),
     * isSeen(conversation), heard(conversation, entry), alert(text). `memory`: readOf(room), setRead(room, place), privates(),
     * setPrivates(list).
     */
    constructor(client, view, memory) {
        this.#client = client;
        this.#view = view;
        this.#memory = memory;
        const handlers = {
            connection: ({ state }) => state !== "online" && this.#disconnected(),
            joined: (event) => this.#joined(event),
            left: (event) => this.#heardLeft(event),
            message: (event) => this.#heardMessage(event),
            gap: ({ room, from, to }) => this.#inRoom(room, (known) => this.#missed(known, to - from + 1, to)),
            reset: (event) => this.#inRoom(event.room, (room) => this.#beganAnew(room, event)),
            private: (event) => this.#heardPrivate(event),
            presence: (event) => this.#inRoom(event.room, (room) => this.#heardPresence(room, event)),
            state: (event) => this.#inRoom(event.room, (room) => this.#heardState(room, event)),
            typing: ({ room, nickname }) => this.#inRoom(room, (known) => this.#heardTyping(known, nickname)),
            system: (event) => this.#heardSystem(event),
            error: ({ message }) => this.#view.alert(message),
            outbox: (event) => this.#heardOutbox(event),
        };
        Object.entries(handlers).forEach(([type, handler]) => client.on(type, handler));
    }

    get nickname() {
        return this.#client.nickname;
    }

    get isOnline() {
        return this.#client.isOnline;
    }

    get conversations() {
        return [...this.rooms.values(), ...this.privates.values()];
    }

    /** Whether the server has put us out of this room: nothing but joining again leads back. */
    isOut(conversation) {
        return conversation.isRoom && this.isOnline && !conversation.isJoined && !conversation.isJoining;
    }

    isHost(conversation) {
        return Boolean(conversation?.isRoom && conversation.isJoined && conversation.role === "host");
    }

    // What the person does.

    openRoom(name) {
        const room = this.rooms.get(name) ?? this.#addRoom(name);
        this.select(room);
        this.rejoin(room);
    }

    /** Rooms that are joined without being looked at; they are listed in this order. */
    openBehind(names) {
        for (const name of names) {
            this.rejoin(this.rooms.get(name) ?? this.#addRoom(name));
        }
    }

    openPrivate(name) {
        if (name !== this.nickname) {
            this.select(this.#privateWith(name));
        }
    }

    /** What was left by a reload: private conversations, and messages that have not been sent. */
    restore() {
        for (const { name, entries, unread = 0 } of this.#memory.privates()) {
            Object.assign(this.#privateWith(name), { entries, unreadPrivates: unread });
        }
        for (const { id, room, target, content, timestamp } of this.#client.outbox) {
            const conversation = room ? this.rooms.get(room) ?? this.#addRoom(room) : this.#privateWith(target);
            conversation.outbox.push(this.#ownEntry(content, timestamp, id));
        }
    }

    select(conversation) {
        if (conversation !== this.current) {
            this.#markUnread(conversation);
        }
        this.current = conversation;
        this.#view.selected(conversation);
        this.#view.membersChanged();
        this.#view.changed();
    }

    #markUnread(conversation) {
        const { isRoom, entries, unread } = conversation;
        conversation.readBefore = conversation.read;
        conversation.firstUnread = !unread ? null
            : isRoom ? this.#firstAfter(conversation) : entries.filter(({ kind }) => kind === "message").at(-unread) ?? null;
    }

    #firstAfter({ entries, epoch, readBefore }) {
        return entries.find((entry) => entry.epoch === epoch && entry.offset > readBefore) ?? null;
    }

    /** The person has the end of the conversation in view. */
    seen(conversation) {
        if (conversation.unread) {
            conversation.read = conversation.offset;
            conversation.unreadPrivates = 0;
            conversation.isRoom ? this.#rememberRead(conversation) : this.#rememberPrivates();
            this.#view.changed();
        }
    }

    #rememberRead(room) {
        if (room.isRoom && room.epoch) {
            this.#memory.setRead(room.name, { epoch: room.epoch, offset: room.read });
        }
    }

    /** Takes `conversation` off the list; a room is left on the server too. */
    close(conversation) {
        if (conversation.isRoom) {
            this.#client.leave(conversation.name).catch(() => {});
        }
        this.#remove(conversation);
    }

    /** Returns what is wrong with `content`, or an empty string when it is on its way. */
    send(conversation, content) {
        if (new TextEncoder().encode(content).length > LIMITS.contentBytes) {
            return "This message is too long: 64 KiB is the most.";
        }
        if (this.isOut(conversation)) {
            return "You are not in this room. Join it again to write.";
        }
        if (this.#client.outbox.length >= LIMITS.queueMessages) {
            return "Too many messages wait to be sent.";
        }
        const entry = this.#ownEntry(content, Date.now(), this.#client.newId());
        conversation.outbox.push(entry);
        conversation.firstUnread = null;
        this.#view.sentOwn(conversation);
        this.#transmit(conversation, entry);
        return "";
    }

    resend(conversation, entry) {
        entry.id = this.#client.newId();
        this.#transmit(conversation, entry);
    }

    discard(conversation, entry) {
        this.#client.discard(entry.id);
        conversation.outbox = conversation.outbox.filter((other) => other !== entry);
        this.#view.logChanged(conversation);
    }

    #ownEntry(content, timestamp, id) {
        return { kind: "message", sender: this.nickname, content, timestamp, isOwn: true, status: Status.QUEUED, note: "", id };
    }

    #transmit(conversation, entry) {
        const { id, content } = entry;
        // How it fares is told by the client's events.
        const sent = conversation.isRoom
            ? this.#client.send(conversation.name, content, { id })
            : this.#client.private(conversation.name, content, { id });
        sent.catch((error) => this.#notSent(conversation, entry, error));
    }

    typed(conversation) {
        this.#client.typing(conversation.name);
    }

    /** Fails with what the person may do about it. */
    async rename(nickname) {
        const from = this.nickname;
        await this.#client.nick(nickname);
        this.rooms.forEach((room) => this.#renameMember(room, from, nickname));
        this.#view.changed();
    }

    /** The rooms of the server, busiest first. */
    async browse() {
        const rooms = await this.#client.rooms({ limit: 1_000 });
        return rooms.toSorted((a, b) => b.members - a.members);
    }

    setTopic(room, topic) {
        return this.#client.setState(room.name, TOPIC, topic || null);
    }

    /** `action`: kick, ban, unban, mute, unmute, or role with `options.role`. */
    moderate(room, action, target, options = {}) {
        return action === "role" ? this.#client.role(room.name, target, options.role) : this.#client[action](room.name, target, options);
    }

    /** Fetches what was said before the oldest entry there is. */
    async loadEarlier(room) {
        if (!room.isRoom || !room.hasEarlier || room.isLoadingEarlier || !room.isJoined) {
            return;
        }
        room.isLoadingEarlier = true;
        const { epoch } = room;
        const first = room.entries.find((entry) => entry.offset !== undefined && entry.epoch === epoch)?.offset ?? room.offset + 1;
        try {
            const page = await this.#client.history(room.name, { before: first, limit: HISTORY_PAGE });
            if (page.epoch === epoch && room.epoch === epoch) {
                room.entries.unshift(...page.messages.map((message) => this.#entryOf(message, epoch)));
                room.hasEarlier = page.messages.length > 0 && page.messages[0].offset > 1;
                room.firstUnread &&= this.#firstAfter(room);
            }
        } catch {
            // There is another time: whoever scrolls asks again.
        }
        room.isLoadingEarlier = false;
        this.#view.logChanged(room);
    }

    // What the client tells.

    #inRoom(name, then) {
        const room = this.rooms.get(name);
        if (room) {
            then(room);
        }
    }

    #disconnected() {
        for (const conversation of this.conversations) {
            conversation.isJoined = false;
            conversation.isJoining = conversation.isRoom && !conversation.isOutside;
            conversation.typing.forEach((timer) => clearTimeout(timer));
            conversation.typing.clear();
        }
        this.#view.changed();
    }

    #heardMessage(event) {
        const room = this.rooms.get(event.room);
        if (!room) {
            return;
        }
        const wasRead = room.unread === 0;
        room.offset = event.offset;
        this.#stopTyping(room, event.sender);
        const own = room.outbox.find(({ id, offset }) => id === event.id || offset === event.offset);
        if (own) {
            this.#place(room, own, event);
        } else {
            this.#append(room, this.#entryOf(event, room.epoch), wasRead);
        }
    }

    #heardPrivate(event) {
        const conversation = this.#privateWith(event.sender);
        const wasRead = conversation.unread === 0;
        conversation.unreadPrivates += 1;
        this.#append(conversation, this.#entryOf(event), wasRead);
        this.#rememberPrivates();
    }

    #entryOf({ sender, content, timestamp, offset }, epoch) {
        return { kind: "message", sender, content, timestamp, isOwn: sender === this.nickname, status: Status.SENT, note: "", offset: epoch && offset, epoch };
    }

    #append(conversation, entry, wasRead) {
        if (wasRead && !entry.isOwn && !this.#view.isSeen(conversation)) {
            conversation.firstUnread = entry;
            conversation.readBefore = conversation.read;
        }
        this.#add(conversation, entry);
        this.#view.heard(conversation, entry);
        this.#view.changed();
    }

    #add(conversation, entry) {
        conversation.entries.push(entry);
        if (conversation.entries.length > ENTRIES_MAX) {
            conversation.entries.splice(0, HISTORY_PAGE);
            conversation.hasEarlier = conversation.isRoom;
        }
        this.#view.logChanged(conversation);
    }

    /** A line about the conversation; parts are strings and `{ name }`. */
    #line(conversation, look, parts, timestamp = Date.now()) {
        this.#add(conversation, { kind: "line", look, parts, timestamp });
    }

    #heardPresence(room, event) {
        const { nickname } = event;
        const say = (...parts) => this.#line(room, "presence", parts, event.timestamp);
        switch (event.event) {
            case "join":
                this.#addMember(room, nickname);
                say({ name: nickname }, " joined");
                break;
            case "leave":
                this.#removeMember(room, nickname);
                say({ name: nickname }, ` ${LEAVE_PHRASES[event.reason] ?? "left"}`);
                break;
            case "nick":
                this.#renameMember(room, event.from, nickname);
                say({ name: event.from }, " is now ", { name: nickname });
                this.#renamePrivate(event.from, nickname);
                break;
            case "away":
            case "back":
                this.#setMember(room, nickname, { connected: event.event === "back" });
                say({ name: nickname }, event.event === "back" ? " is back" : " is away");
                break;
            case "role":
                this.#setMember(room, nickname, { role: event.role });
                room.role = nickname === this.nickname ? event.role : room.role;
                say({ name: nickname }, ` is now a ${event.role}`);
                break;
            case "mute":
                room.muted.add(nickname);
                say({ name: nickname }, " was muted");
                break;
            case "unmute":
                room.muted.delete(nickname);
                say({ name: nickname }, " may speak again");
                break;
            case "batch":
                this.#heardBatch(room, event);
                break;
            default:
                return;
        }
        this.#view.membersChanged();
        this.#view.changed();
    }

    /** The lists are capped by the server and the count is not, so the count is taken from the event. */
    #heardBatch(room, { joined = [], left = [], members, timestamp }) {
        left.forEach((nickname) => this.#removeMember(room, nickname));
        joined.forEach((nickname) => this.#addMember(room, nickname));
        room.memberCount = members;
        const changes = [joined.length && `${joined.length} joined`, left.length && `${left.length} left`].filter(Boolean);
        this.#line(room, "presence", [`${changes.join(", ") || "People came and went"}; ${members} are here now`], timestamp);
    }

    #heardState(room, { key, value, sender }) {
        if (key === TOPIC) {
            room.topic = typeof value === "string" ? value : "";
            const what = room.topic ? [" set the topic: ", { name: room.topic }] : [" cleared the topic"];
            this.#line(room, "presence", [{ name: sender }, ...what]);
            this.#view.changed();
        }
    }

    #heardTyping(room, nickname) {
        if (nickname !== this.nickname) {
            clearTimeout(room.typing.get(nickname));
            room.typing.set(nickname, setTimeout(() => this.#stopTyping(room, nickname), TYPING_SHOW_MS));
            this.#view.changed();
        }
    }

    #stopTyping(room, nickname) {
        clearTimeout(room.typing.get(nickname));
        if (room.typing.delete(nickname)) {
            this.#view.changed();
        }
    }

    #heardLeft({ room: name, reason, error }) {
        const room = this.rooms.get(name);
        if (room?.epoch) {
            room.isJoined = room.isJoining = false;
            room.isOutside = true;
            room.members.clear();
            this.#line(room, "problem", [LEFT_PHRASES[reason] ?? `You are no longer in this room (${error?.message ?? reason})`]);
            this.#view.membersChanged();
            this.#view.changed();
        }
    }

    #heardSystem({ content, sender, timestamp }) {
        if (this.current) {
            this.#line(this.current, "system", [{ name: sender }, `: ${content}`], timestamp);
        }
    }

    // Joining.

    rejoin(room) {
        if (room.isJoined) {
            return;
        }
        room.isJoining = true;
        room.isOutside = false;
        const since = room.epoch ? { epoch: room.epoch, offset: room.offset } : undefined;
        this.#client.join(room.name, { history: HISTORY_SHOWN, fill: true, since }).catch((error) => this.#notJoined(room, error));
        this.#view.changed();
    }

    #notJoined(room, error) {
        room.isJoining = false;
        if (error.reason !== "discarded") {
            this.#view.alert(error.message);
            if (!room.epoch) {
                this.#remove(room);
            }
        }
    }

    #joined(event) {
        const room = this.rooms.get(event.room);
        if (!room) {
            return;
        }
        this.#adoptName(room, event.room);
        Object.assign(room, { isJoined: true, isJoining: false, isOutside: false, role: event.role, memberCount: event.members });
        room.topic = typeof event.state?.[TOPIC]?.value === "string" ? event.state[TOPIC].value : "";
        if (!event.isAgain) {
            this.#joinedFirst(room, event);
        } else if (!event.recovered) {
            // Own messages that were acknowledged, and whose return was missed.
            room.outbox.filter(({ status }) => status === Status.SENT).forEach((entry) => this.#place(room, entry, entry));
        }
        this.#client.members(room.name, { limit: MEMBERS_LISTED }).then((members) => this.#heardMembers(room, members), () => {});
        this.#view.changed();
    }

    #joinedFirst(room, { epoch, offset, messages = [] }) {
        room.epoch = epoch;
        room.offset = offset;
        const mark = this.#memory.readOf(room.name);
        // A room that was never read begins to be unread now; one that has begun anew is unread as a whole.
        room.read = !mark ? offset : mark.epoch === epoch ? Math.min(mark.offset, offset) : 0;
        room.entries.unshift(...messages.map((message) => this.#entryOf(message, epoch)));
        room.hasEarlier = messages.length > 0 && messages[0].offset > 1;
        this.#markUnread(room);
        if (!mark) {
            this.#rememberRead(room);
        }
        this.#view.logChanged(room);
    }

    /** A room is shown as it was first written, which may differ in case from what was asked for. */
    #adoptName(room, name) {
        if (room.name !== name) {
            room.name = name;
            if (this.current) {
                this.#view.selected(this.current);
            }
        }
    }

    #beganAnew(room, { epoch, offset }) {
        Object.assign(room, { epoch, offset, read: offset, hasEarlier: false });
        this.#rememberRead(room);
        this.#line(room, "gap", ["The room began anew while you were away; some messages may have been missed"]);
    }

    #missed(room, count, to) {
        room.offset = to;
        this.#line(room, "gap", [count === 1 ? "1 message was missed" : `${count} messages were missed`]);
    }

    #heardMembers(room, { members, total }) {
        room.members = new Map(members.map((member) => [member.nickname, member]));
        room.memberCount = total;
        this.#view.membersChanged();
        this.#view.changed();
    }

    #addMember(room, nickname) {
        if (!room.members.has(nickname)) {
            room.memberCount += 1;
            if (room.members.size < MEMBERS_LISTED) {
                room.members.set(nickname, { nickname, role: "member", connected: true });
            }
        }
    }

    #removeMember(room, nickname) {
        room.members.delete(nickname);
        room.memberCount = Math.max(room.memberCount - 1, 0);
    }

    #renameMember(room, from, to) {
        const member = room.members.get(from);
        if (member) {
            room.members.delete(from);
            room.members.set(to, { ...member, nickname: to });
            this.#view.membersChanged();
        }
    }

    #setMember(room, nickname, changes) {
        const member = room.members.get(nickname);
        if (member) {
            room.members.set(nickname, { ...member, ...changes });
        }
    }

    /** Of somebody in any room that we share: true, false, or undefined if nobody knows. */
    isConnected(nickname) {
        const known = [...this.rooms.values()].map((room) => room.members.get(nickname)).find(Boolean);
        return known?.connected;
    }

    // Own messages.

    #heardOutbox({ id, room, target, status, ack, error }) {
        const conversation = room ? this.rooms.get(room) : this.privates.get(target);
        const entry = conversation?.outbox.find((other) => other.id === id);
        if (!entry) {
            return;
        }
        if (status === Status.SENT && conversation.isRoom) {
            entry.offset = ack.offset;
            if (ack.offset <= conversation.offset) {
                // It is there already, as one of the messages that were said before.
                conversation.outbox = conversation.outbox.filter((other) => other !== entry);
                this.#view.logChanged(conversation);
            } else {
                // The message itself, which comes in the room's order, gives the entry its place.
                this.#setStatus(entry, Status.SENT);
            }
        } else if (status === Status.SENT) {
            this.#place(conversation, entry, ack, ack.delivered === 0 && ack.stored ? "waits for them to come back" : "");
            this.#rememberPrivates();
        } else if (status !== Status.FAILED) {
            this.#setStatus(entry, status);
        } else {
            this.#notSent(conversation, entry, error);
        }
    }

    #notSent(conversation, entry, { reason, message }) {
        if (conversation.outbox.includes(entry)) {
            this.#setStatus(entry, reason === "unconfirmed" ? Status.UNCONFIRMED : Status.FAILED, message);
        }
    }

    #place(conversation, entry, { timestamp, offset }, note = "") {
        conversation.outbox = conversation.outbox.filter((other) => other !== entry);
        Object.assign(entry, { timestamp, offset: conversation.isRoom ? offset : undefined, epoch: conversation.epoch });
        this.#setStatus(entry, Status.SENT, note);
        this.#add(conversation, entry);
        this.#view.changed();
    }

    #setStatus(entry, status, note = "") {
        entry.status = status;
        entry.note = note;
        this.#view.updated(entry);
    }

    // The lists.

    #addRoom(name) {
        const room = new Conversation("room", name);
        this.rooms.set(name, room);
        return room;
    }

    #privateWith(name) {
        let conversation = this.privates.get(name);
        if (!conversation) {
            conversation = new Conversation("private", name);
            this.privates.set(name, conversation);
            this.#view.changed();
        }
        return conversation;
    }

    #renamePrivate(from, to) {
        const conversation = this.privates.get(from);
        if (conversation && !this.privates.has(to)) {
            this.privates.delete(from);
            conversation.name = to;
            this.privates.set(to, conversation);
            this.#line(conversation, "presence", [{ name: from }, " is now ", { name: to }]);
            if (this.current) {
                this.#view.selected(this.current);
            }
        }
    }

    /** They are nowhere but here: the server keeps no history of them. */
    #rememberPrivates() {
        const kept = [...this.privates.values()].slice(-PRIVATES_KEPT).map(({ name, entries, unread }) => ({
            name,
            unread,
            entries: entries.filter(({ kind }) => kind === "message").slice(-PRIVATE_ENTRIES_KEPT)
                .map(({ kind, sender, content, timestamp, isOwn, status, note }) => ({ kind, sender, content, timestamp, isOwn, status, note })),
        }));
        this.#memory.setPrivates(kept);
    }

    #remove(conversation) {
        (conversation.isRoom ? this.rooms : this.privates).delete(conversation.name);
        this.#rememberPrivates();
        if (this.current === conversation) {
            const [next] = this.conversations;
            this.current = null;
            if (next) {
                this.select(next);
            } else {
                this.#view.selected(null);
            }
        }
        this.#view.membersChanged();
        this.#view.changed();
    }
}
