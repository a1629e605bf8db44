// What the page knows: rooms, private conversations, their members and what is still to be sent. It turns events into changes of
// that state and tells the view; it never touches the document.

const CONTENT_MAX_BYTES = 65_536;
const TYPING_SEND_MS = 3_000;
const TYPING_SHOW_MS = 4_000;
// Enough for any list a person reads; the count stays exact beyond it.
const MEMBERS_LISTED = 500;
// What a newcomer sees of what was said before.
const HISTORY_SHOWN = 50;

const LEAVE_PHRASES = {
    left: "left",
    quit: "left",
    timeout: "did not come back",
    lost: "lost the connection",
    kicked: "was removed",
    banned: "was banned",
    slow_consumer: "could not keep up",
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
    unread = 0;
    draft = "";
    /** Own messages without a place in the log yet, oldest first. */
    outbox = [];
    /** Nickname -> timer that ends the "is typing". */
    typing = new Map();
    typingSentAt = -Infinity;
    /** Nickname -> { nickname, role, connected }. */
    members = new Map();
    memberCount = 0;
    isJoined = false;
    isJoining = false;
    epoch = "";
    offset = 0;

    constructor(kind, name) {
        this.kind = kind;
        this.name = name;
    }

    get isRoom() {
        return this.kind === "room";
    }
}

export class Chat {
    rooms = new Map();
    privates = new Map();
    current = null;
    #isResumed = false;
    #connection;
    #view;

    /**
     * `view`: changed(), membersChanged(), selected(conversation), append(conversation, entry), pending(conversation, entry),
     * updated(entry), placed(conversation, entry), removed(entry), line(conversation, kind, parts, timestamp), forget(conversation),
     * alert(text).
     */
    constructor(connection, view) {
        this.#connection = connection;
        this.#view = view;
    }

    get nickname() {
        return this.#connection.nickname;
    }

    get isOnline() {
        return this.#connection.isOnline;
    }

    get conversations() {
        return [...this.rooms.values(), ...this.privates.values()];
    }

    /** Whether the server has put us out of this room: nothing but joining again leads back. */
    isOut(conversation) {
        return conversation.isRoom && this.isOnline && !conversation.isJoined && !conversation.isJoining;
    }

    // What the person does.

    openRoom(name) {
        const room = this.rooms.get(name) ?? this.#addRoom(name);
        this.select(room);
        this.rejoin(room);
    }

    openPrivate(name) {
        if (name !== this.nickname) {
            this.select(this.#privateWith(name));
        }
    }

    select(conversation) {
        this.current = conversation;
        conversation.unread = 0;
        this.#view.selected(conversation);
        this.#view.membersChanged();
        this.#view.changed();
    }

    /** Takes `conversation` off the list; a room is left on the server too. */
    close(conversation) {
        if (conversation.isRoom && conversation.isJoined) {
            this.#connection.request({ type: "leave", room: conversation.name }, () => {});
        }
        this.#remove(conversation);
    }

    /** Returns what is wrong with `content`, or an empty string when it is on its way. */
    send(conversation, content) {
        if (new TextEncoder().encode(content).length > CONTENT_MAX_BYTES) {
            return "This message is too long: 64 KiB is the most.";
        }
        if (this.isOut(conversation)) {
            return "You are not in this room. Join it again to write.";
        }
        const entry = { sender: this.nickname, content, timestamp: Date.now(), isOwn: true, status: Status.QUEUED, note: "" };
        conversation.outbox.push(entry);
        conversation.typingSentAt = -Infinity;
        this.#view.pending(conversation, entry);
        this.#transmit(conversation, entry);
        return "";
    }

    resend(conversation, entry) {
        this.#setStatus(entry, Status.QUEUED);
        this.#transmit(conversation, entry);
    }

    discard(conversation, entry) {
        conversation.outbox = conversation.outbox.filter((other) => other !== entry);
        this.#view.removed(entry);
    }

    typed(conversation) {
        const nowMs = performance.now();
        if (conversation.isJoined && nowMs - conversation.typingSentAt >= TYPING_SEND_MS) {
            conversation.typingSentAt = nowMs;
            this.#connection.tell({ type: "typing", room: conversation.name });
        }
    }

    /** Calls `onDone` with the error event, or with null once the new nickname holds. */
    rename(nickname, onDone) {
        const isAsked = this.#connection.request({ type: "nick", nickname }, (reply) => {
            if (reply?.type === "ack") {
                const from = this.nickname;
                this.#connection.rename(nickname);
                this.rooms.forEach((room) => this.#renameMember(room, from, nickname));
                this.#view.changed();
                onDone(null);
            } else {
                onDone(reply ?? { message: "The connection broke. Try again." });
            }
        });
        if (!isAsked) {
            onDone({ message: "You are offline. Try again when you are connected." });
        }
    }

    /** Calls `onDone` with the rooms of the server, busiest first, or with null when it cannot be asked. */
    browse(onDone) {
        const isAsked = this.#connection.request({ type: "rooms", limit: 1_000 }, (reply) => {
            onDone(reply?.type === "rooms" ? reply.rooms.toSorted((a, b) => b.members - a.members) : null);
        });
        if (!isAsked) {
            onDone(null);
        }
    }

    // What the connection does.

    /** Rooms are joined anew, from where they were left if the session is the same; then what has waited is sent. */
    welcomed(isResumed) {
        this.#isResumed = isResumed;
        this.rooms.forEach((room) => this.rejoin(room));
        this.privates.forEach((conversation) => this.#flush(conversation));
        this.#view.changed();
    }

    disconnected() {
        for (const conversation of this.conversations) {
            conversation.isJoined = false;
            conversation.typing.forEach((timer) => clearTimeout(timer));
            conversation.typing.clear();
        }
        this.#view.changed();
    }

    heard(event) {
        switch (event.type) {
            case "message": return this.#heardMessage(event);
            case "private": return this.#heardPrivate(event);
            case "presence": return this.#heardPresence(event);
            case "typing": return this.#heardTyping(event);
            case "left": return this.#heardLeft(event);
            case "system": return this.#heardSystem(event);
            case "error": return this.#view.alert(event.message);
            default: // An event of a newer server.
        }
    }

    #heardMessage(event) {
        const room = this.rooms.get(event.room);
        if (!room) {
            return;
        }
        const missed = event.offset - room.offset - 1;
        if (missed > 0) {
            this.#missed(room, missed);
        }
        room.offset = event.offset;
        this.#stopTyping(room, event.sender);
        const own = event.sender === this.nickname && this.#ownEntry(room, event);
        if (own) {
            this.#place(room, own, event);
        } else {
            this.#append(room, event);
        }
    }

    /**
     * The server sends one's own messages back in the room's order, without the id. They come in the order they were sent, so the
     * oldest with the same text is the one meant; an ack that came first has told the offset.
     */
    #ownEntry(room, event) {
        return room.outbox.find((entry) => entry.offset === event.offset
            || (this.#mayBeUnderWay(entry) && entry.content === event.content));
    }

    /** Whether the server may have a message that it has not answered yet. */
    #mayBeUnderWay(entry) {
        return entry.status === Status.SENDING || (this.#isResumed && entry.status === Status.UNCONFIRMED);
    }

    #heardPrivate(event) {
        if (event.offset) {
            // Kept while this page was away, and told again until it is known to have come.
            this.#connection.tell({ type: "received", offset: event.offset });
        }
        const conversation = this.#privateWith(event.sender);
        this.#append(conversation, event);
    }

    #append(conversation, event) {
        const { sender, content, timestamp } = event;
        this.#view.append(conversation, { sender, content, timestamp, isOwn: sender === this.nickname, status: Status.SENT });
        if (conversation !== this.current || document.hidden) {
            conversation.unread += 1;
        }
        this.#view.changed();
    }

    #heardPresence(event) {
        const room = this.rooms.get(event.room);
        if (!room) {
            return;
        }
        const { nickname } = event;
        const say = (...parts) => this.#view.line(room, "presence", parts, event.timestamp);
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
                say({ name: nickname }, ` is now a ${event.role}`);
                break;
            case "mute":
                say({ name: nickname }, " was muted");
                break;
            case "unmute":
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
        this.#view.line(room, "presence", [`${changes.join(", ") || "People came and went"}; ${members} are here now`], timestamp);
    }

    #heardTyping({ room: name, nickname }) {
        const room = this.rooms.get(name);
        if (room && nickname !== this.nickname) {
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

    /** A `left` that answers no command: somebody else has put us out. */
    #heardLeft({ room: name, reason }) {
        const room = this.rooms.get(name);
        if (room) {
            room.isJoined = false;
            room.members.clear();
            this.#view.line(room, "problem", [`You are no longer in this room (${reason})`]);
            this.#view.membersChanged();
            this.#view.changed();
        }
    }

    #heardSystem({ content, sender, timestamp }) {
        if (this.current) {
            this.#view.line(this.current, "system", [{ name: sender }, `: ${content}`], timestamp);
        }
    }

    // Joining.

    rejoin(room) {
        if (!room.isJoined && !room.isJoining) {
            const options = room.epoch
                ? { since: { epoch: room.epoch, offset: room.offset } }
                : { history: HISTORY_SHOWN };
            const command = { type: "join", room: room.name, ...options };
            room.isJoining = this.#connection.request(command, (reply) => this.#joined(room, reply));
        }
    }

    #joined(room, reply) {
        room.isJoining = false;
        if (reply?.type === "joined") {
            this.#adoptName(room, reply.room);
            room.isJoined = true;
            (reply.messages ?? []).forEach((message) => this.#showEarlier(room, message));
            if (!reply.recovered) {
                // Otherwise the messages that were missed come next, each with its offset.
                this.#noteRejoin(room, reply);
                room.offset = reply.offset;
            }
            room.epoch = reply.epoch;
            room.memberCount = reply.members;
            this.#connection.request({ type: "members", room: room.name, limit: MEMBERS_LISTED }, (members) => {
                this.#heardMembers(room, members);
            });
            this.#flush(room);
            this.#view.changed();
        } else if (reply?.reason === "already_joined") {
            this.#joinedUnderAnotherCase(room);
        } else if (reply) {
            this.#view.alert(reply.message);
            if (room.epoch) {
                this.#view.line(room, "problem", [reply.message]);
            } else {
                this.#remove(room);
            }
        }
    }

    #showEarlier(room, { sender, content, timestamp }) {
        this.#view.append(room, { sender, content, timestamp, isOwn: sender === this.nickname, status: Status.SENT });
    }

    /** Names that differ in case only are one room, and the server knows best which do. */
    #joinedUnderAnotherCase(room) {
        const folded = room.name.toLowerCase();
        const known = [...this.rooms.values()].find((other) => other !== room && other.name.toLowerCase() === folded);
        this.#remove(room);
        if (known) {
            this.select(known);
        }
    }

    /** A room is shown as it was first written, which may differ in case from what was asked for. */
    #adoptName(room, name) {
        if (room.name !== name) {
            this.rooms.delete(room.name);
            room.name = name;
            this.rooms.set(name, room);
            this.#view.selected(this.current);
        }
    }

    #noteRejoin(room, { epoch, offset }) {
        if (!room.epoch) {
            return;
        }
        if (room.epoch !== epoch) {
            this.#view.line(room, "gap", ["The room began anew while you were away; some messages may have been missed"]);
        } else if (offset > room.offset) {
            this.#missed(room, offset - room.offset);
        }
    }

    #missed(room, count) {
        this.#view.line(room, "gap", [count === 1 ? "1 message was missed" : `${count} messages were missed`]);
    }

    #heardMembers(room, reply) {
        if (reply?.type === "members") {
            room.members = new Map(reply.members.map((member) => [member.nickname, member]));
            room.memberCount = reply.total;
            this.#view.membersChanged();
            this.#view.changed();
        }
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

    // Sending.

    #transmit(conversation, entry) {
        if (conversation.isRoom && !conversation.isJoined) {
            return;
        }
        entry.id ??= this.#connection.newId();
        const command = conversation.isRoom
            ? { type: "message", room: conversation.name, content: entry.content, id: entry.id }
            : { type: "private", target: conversation.name, content: entry.content, id: entry.id };
        if (this.#connection.request(command, (reply) => this.#settle(conversation, entry, reply))) {
            this.#setStatus(entry, Status.SENDING);
        }
    }

    #settle(conversation, entry, reply) {
        if (reply?.type === "ack") {
            if (conversation.isRoom) {
                // The message itself, which comes in the room's order, gives the entry its place.
                entry.offset = reply.offset;
                this.#setStatus(entry, Status.SENT);
            } else {
                const note = reply.delivered === 0 && reply.stored ? "waits for them to come back" : "";
                this.#place(conversation, entry, reply, note);
            }
        } else if (conversation.outbox.includes(entry)) {
            // Without an answer nobody knows whether it arrived. If the session is resumed it is sent again under its id;
            // otherwise that might say it twice, so the person decides.
            this.#setStatus(entry, reply ? Status.FAILED : Status.UNCONFIRMED, reply?.message);
        }
    }

    #place(conversation, entry, { timestamp, offset }, note = "") {
        conversation.outbox = conversation.outbox.filter((other) => other !== entry);
        Object.assign(entry, { timestamp, offset });
        this.#setStatus(entry, Status.SENT, note);
        this.#view.placed(conversation, entry);
    }

    #setStatus(entry, status, note = "") {
        entry.status = status;
        entry.note = note;
        this.#view.updated(entry);
    }

    #flush(conversation) {
        for (const entry of [...conversation.outbox]) {
            if (entry.status === Status.SENT) {
                // It was acked, and the connection broke before the message itself came back.
                this.#place(conversation, entry, entry);
            } else if (entry.status === Status.QUEUED || (this.#isResumed && entry.status === Status.UNCONFIRMED)) {
                // Within one session the same id is obeyed once, whether it had arrived or not.
                this.#transmit(conversation, entry);
            }
        }
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
            this.#view.line(conversation, "presence", [{ name: from }, " is now ", { name: to }]);
            this.#view.selected(this.current);
        }
    }

    #remove(conversation) {
        (conversation.isRoom ? this.rooms : this.privates).delete(conversation.name);
        this.#view.forget(conversation);
        if (this.current === conversation) {
            const next = this.conversations[0];
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
