/**
 * A client of a starling server: one logical connection that outlives its sockets. One ES module without dependencies and without
 * a document, for browsers and for Node >= 22 (which has WebSocket; elsewhere one is given by `options.WebSocket`).
 *
 * The words are those of the protocol: a room has messages under (epoch, offset), a session is resumed, a room is joined with
 * `since`. Times are in milliseconds. Nothing here knows HTML: content is text, and is to be shown as text.
 */

import { Connection, LIMITS, SYSTEM_CLOCK, State, StarlingError, local } from "./connection.js";
import { Leaving } from "./leaving.js";
import { NameMap, fold } from "./names.js";

export { LIMITS, State, StarlingError };

const RECENT_PRIVATES = 256;
const ECHOES_MAX = 1_024;
const FILL_PAGE = 200;
const SAVE_DELAY_MS = 50;
// A message found in a room's history is one's own of a moment ago unless clocks differ by more than this.
const CLOCK_SKEW_MS = 5 * 60_000;

/** A room that is to be joined, and how far it has been heard. */
class Room {
    epoch = "";
    offset = 0;
    isJoined = false;
    isJoining = false;
    joined = null;
    /** Until this offset messages are told that were missed. */
    replayTo = 0;
    filling = null;
    waiters = [];
    tries = 0;
    timer = null;
    /** It was left a moment ago, and the server may not have let go of it. */
    isStillIn = false;
    typingAt = -Infinity;

    constructor(name, options) {
        this.name = name;
        this.options = options;
    }
}

export class Client {
    #options;
    #limits;
    #clock;
    #listeners = new Map();
    #connection;
    #rooms = new NameMap();
    #outbox = [];
    #inFlight = 0;
    #window;
    #pauseTimer = null;
    #saveTimer = null;
    /** `room offset` -> id of one's own message that is acknowledged and has not come yet. */
    #echoes = new Map();
    #recentPrivates = new Set();
    #leaving;
    #ready = null;

    /**
     * @param {object} options
     * @param {string} options.url of the server's WebSocket, such as `ws://127.0.0.1:8080/ws`
     * @param {string} [options.nickname]
     * @param {string | (() => string | Promise<string>)} [options.token] a user's token; a function is asked before each connection
     * @param {boolean} [options.isHeld] this client had the nickname a moment ago, so that "in use" is worth some patience
     * @param {object} [options.storage] `getItem` and `setItem`, as localStorage has them: what is queued and the
     *     session survive a reload
     * @param {string} [options.storageKey] `starling.client` if not given
     * @param {object} [options.limits] other values for `LIMITS`
     * @param {Function} [options.WebSocket] the class, where there is no global one
     * @param {object} [options.clock] `now`, `setTimeout` and `clearTimeout`, for tests
     * @param {() => number} [options.random] for tests
     */
    constructor(options) {
        this.#options = { storageKey: "starling.client", ...options };
        this.#limits = { ...LIMITS, ...options.limits };
        this.#clock = options.clock ?? SYSTEM_CLOCK;
        this.#window = this.#limits.inFlight;
        this.#connection = new Connection(this.#options, this.#limits, this.#clock, options.random ?? Math.random, {
            onState: (state, details) => this.#changed(state, details),
            onWelcome: (reply) => this.#welcomed(reply),
            onEvent: (event) => this.#heard(event),
            onRefused: (error) => {
                this.#emit("refused", error);
                this.#refuse(error);
            },
            onDropped: () => this.#dropped(),
        });
        this.#leaving = new Leaving(this.#connection, this.#limits, this.#clock);
        this.#connection.nickname = options.nickname ?? "";
        this.#connection.isHeld = options.isHeld ?? false;
        this.#load();
    }

    /** One of `State`. */
    get state() {
        return this.#connection.state;
    }

    get isOnline() {
        return this.#connection.isOnline;
    }

    /** The nickname that the server has confirmed last, or the one that is asked for. */
    get nickname() {
        return this.#connection.nickname;
    }

    /** The messages that wait or are under way, oldest first: copies, each with `settled`, the promise of its ack. */
    get outbox() {
        return this.#outbox.map(publicEntry);
    }

    /** Where a room has been heard up to, as `{epoch, offset}`; undefined if it has not been joined. */
    position(room) {
        const { epoch, offset } = this.#rooms.get(room) ?? {};
        return epoch ? { epoch, offset } : undefined;
    }

    /** Calls `listener` for each event of this type; the function returned ends that. */
    on(type, listener) {
        const listeners = this.#listeners.get(type) ?? new Set();
        this.#listeners.set(type, listeners.add(listener));
        return () => listeners.delete(listener);
    }

    // The connection.

    /**
     * Connects, and stays connected until `close`. Resolves with the first welcome; rejects with the server's error if the hello
     * is refused, and with the code of `bye` if the server does not want this client back.
     * @param {{ nickname?: string, isHeld?: boolean }} [as] to connect under another nickname
     */
    connect({ nickname, isHeld } = {}) {
        this.#refuse(local("closed", "another connection was asked for"));
        const connection = this.#connection;
        if (nickname !== undefined && nickname !== connection.nickname) {
            connection.resume = null;
            connection.nickname = nickname;
        }
        connection.isHeld = isHeld ?? connection.isHeld;
        const ready = new Promise((resolve, reject) => (this.#ready = { resolve, reject }));
        // Whoever listens to events need not look at the promise too.
        ready.catch(() => {});
        connection.open();
        return ready;
    }

    /** Tries at once while a pause is waited out, for whoever knows that the network is back. */
    retryNow() {
        this.#connection.retryNow();
    }

    /** Says quit, which frees the nickname at once. What waits stays in the outbox for the next `connect`. */
    close() {
        this.#connection.quit();
        this.#saveNow();
        this.#refuse(local("closed", "the client was closed"));
    }

    /** Renames; not for users with a token. */
    async nick(nickname) {
        const reply = await this.ask({ type: "nick", nickname });
        this.#connection.nickname = nickname;
        this.#outbox.forEach((entry) => (entry.nickname = nickname));
        this.#save();
        return reply;
    }

    /** Any command of the protocol: resolves with its reply, rejects with its error, or with `offline` or `connection_lost`. */
    ask(command) {
        return new Promise((resolve, reject) => {
            const isAsked = this.#connection.request(command, (reply) => {
                if (!reply) {
                    reject(local("connection_lost", "the connection broke before the reply came"));
                } else if (reply.type === "error") {
                    reject(new StarlingError(reply));
                } else {
                    resolve(reply);
                }
            });
            if (!isAsked) {
                reject(local("offline", "there is no connection"));
            }
        });
    }

    /** An id that this session has not had yet. */
    newId() {
        return this.#connection.newId();
    }

    // Rooms.

    /**
     * Joins `room`, and joins it again from where it was heard after each reconnect, until `leave`. Resolves with the event
     * `joined`, at once if one is in it; while offline that is when there is a connection. A refusal that is for the moment is waited
     * out. Here and below a room may be written in any case.
     * @param {string} room
     * @param {{ history?: number, echo?: boolean, overflow?: "close" | "gap", fill?: boolean, since?: { epoch: string, offset: number } }} [options]
     *     `fill`: what is missing is fetched and told in its place, instead of `gap`
     */
    join(room, options = {}) {
        let known = this.#rooms.get(room);
        if (!known) {
            known = new Room(room, options);
            known.isStillIn = this.#leaving.cancel(room);
            Object.assign(known, options.since);
            this.#rooms.set(room, known);
        }
        if (known.isJoined) {
            return Promise.resolve(known.joined);
        }
        return new Promise((resolve, reject) => {
            known.waiters.push({ resolve, reject });
            this.#join(known);
        });
    }

    /** Leaves a room; messages that wait for it are discarded. */
    async leave(room) {
        const known = this.#rooms.get(room);
        if (known) {
            this.#forget(known, local("discarded", "the room was left"));
            await this.#leaving.leave(known.name);
        }
    }

    /** `{ members, total }`, in the order of nicknames; `page`: `limit`, and `after`, the last nickname of the page before. */
    members(room, page) {
        return this.ask({ type: "members", room, ...page });
    }

    /** The rooms of the server, in the order of names. */
    async rooms({ limit, after } = {}) {
        return (await this.ask({ type: "rooms", limit, after })).rooms;
    }

    /** `{ epoch, messages }`, ascending: the last ones before `before`, or the first ones after `after` (offsets, exclusive). */
    history(room, { before, after, limit } = {}) {
        return this.ask({ type: "history", room, before, after, limit });
    }

    /** Sets a key of the room's state to any JSON; null deletes it. */
    setState(room, key, value) {
        return this.ask({ type: "state", room, key, value });
    }

    /** Tells a room that something is being typed, at most once in `typingMs`. Resolves with whether it was told. */
    async typing(room) {
        const known = this.#rooms.get(room);
        const now = this.#clock.now();
        if (!known?.isJoined || now - known.typingAt < this.#limits.typingMs) {
            return false;
        }
        known.typingAt = now;
        this.#connection.tell({ type: "typing", room: known.name });
        return true;
    }

    role(room, target, role) {
        return this.ask({ type: "role", room, target, role });
    }

    /** `options` here and below: `reason`, and `seconds` for a ban or a mute, which lasts until it is undone without them. */
    kick(room, target, options) {
        return this.ask({ type: "kick", room, target, ...options });
    }

    ban(room, target, options) {
        return this.ask({ type: "ban", room, target, ...options });
    }

    unban(room, target) {
        return this.ask({ type: "unban", room, target });
    }

    mute(room, target, options) {
        return this.ask({ type: "mute", room, target, ...options });
    }

    unmute(room, target) {
        return this.ask({ type: "unmute", room, target });
    }

    // Messages.

    /**
     * Sends a message to a room that has been joined or is being joined. Resolves with the ack: `{ epoch, offset, timestamp }`.
     * It waits while there is no connection, and is sent again under its id until there is an answer, so that it is published
     * once. Rejects with `unconfirmed` if the session ended and the room cannot tell whether it had arrived.
     * @param {string} room
     * @param {string} content 1 to 65,536 bytes
     * @param {{ id?: string, ack?: "sequenced" | "stored" | "synced" }} [options]
     */
    send(room, content, { id, ack } = {}) {
        const known = this.#rooms.get(room);
        if (!known) {
            return Promise.reject(new StarlingError({ code: 403, reason: "not_a_member", message: "join the room first" }));
        }
        return this.#enqueue({ id, room: known.name, content, ack });
    }

    /** Sends a private message. Resolves with the ack: `{ delivered, stored, timestamp }`. It waits as `send` does. */
    private(target, content, { id } = {}) {
        return this.#enqueue({ id, target, content });
    }

    /** Takes a message that waits out of the outbox. Returns false if it is under way, or not there. */
    discard(id) {
        const entry = this.#outbox.find((other) => other.id === id);
        if (!entry || entry.status !== "queued") {
            return false;
        }
        this.#settle(entry, null, local("discarded", "the message was discarded"));
        return true;
    }

    // What the connection tells.

    #changed(state, details) {
        this.#emit("connection", { state, ...details });
        if (state === State.STOPPED) {
            this.#refuse(new StarlingError(details));
        }
    }

    #welcomed(reply) {
        this.#window = this.#limits.inFlight;
        this.#doubtOldSessions();
        this.#save();
        this.#emit("welcome", reply);
        this.#ready?.resolve(reply);
        this.#ready = null;
        this.#leaving.welcomed(reply.resumed);
        this.#rooms.forEach((room) => this.#join(room));
        this.#flush();
    }

    #refuse(error) {
        this.#ready?.reject(error);
        this.#ready = null;
    }

    #dropped() {
        this.#clock.clearTimeout(this.#pauseTimer);
        this.#pauseTimer = null;
        this.#rooms.forEach((room) => {
            this.#clock.clearTimeout(room.timer);
            room.isJoined = room.isJoining = false;
            room.filling = null;
            room.replayTo = 0;
        });
        this.#leaving.dropped();
        this.#echoes.clear();
    }

    #heard(event) {
        switch (event.type) {
            case "message": this.#heardMessage(event); break;
            case "gap": this.#heardGap(event); break;
            case "private": this.#heardPrivate(event); break;
            case "left": this.#heardLeft(event); break;
            default: this.#emit(event.type, event);
        }
    }

    #emit(type, event) {
        for (const listener of [...(this.#listeners.get(type) ?? [])]) {
            try {
                listener(event);
            } catch (error) {
                // A listener's fault is its own; the others hear the event all the same.
                (globalThis.reportError ?? console.error)(error);
            }
        }
    }

    // Rooms: joining, and what is heard of them.

    #join(room) {
        if (room.isJoined || room.isJoining || !this.isOnline) {
            return;
        }
        const { history, echo, overflow } = room.options;
        const from = room.epoch ? { since: { epoch: room.epoch, offset: room.offset } } : { history };
        room.isJoining = true;
        this.#connection.request({ type: "join", room: room.name, echo, overflow, ...from }, (reply) => this.#joined(room, reply));
    }

    #joined(room, reply) {
        room.isJoining = false;
        if (!reply || this.#rooms.get(room.name) !== room) {
            // The connection broke: it is joined with the next one. Or it has been left meanwhile.
            return;
        }
        if (reply.type === "error") {
            this.#notJoined(room, reply);
            return;
        }
        this.#adoptName(room, reply.room);
        room.isJoined = true;
        room.isStillIn = false;
        room.tries = 0;
        const { epoch, offset } = room;
        const isAgain = epoch !== "";
        room.joined = { ...reply, isAgain };
        room.epoch = reply.epoch;
        if (!reply.recovered && (!isAgain || epoch !== reply.epoch || reply.offset <= offset)) {
            room.offset = reply.offset;
        }
        this.#emit("joined", room.joined);
        room.waiters.splice(0).forEach(({ resolve }) => resolve(room.joined));
        if (reply.recovered && reply.offset > offset) {
            room.replayTo = reply.offset;
        } else {
            this.#resolveDoubts(room, reply.messages ?? [], reply.recovered);
        }
        if (isAgain && !reply.recovered) {
            if (epoch !== reply.epoch || reply.offset < offset) {
                this.#emit("reset", { type: "reset", room: room.name, epoch: reply.epoch, offset: reply.offset });
            } else if (reply.offset > offset) {
                this.#missing(room, offset + 1, reply.offset);
            }
        }
        this.#flush();
    }

    #notJoined(room, reply) {
        const isStillIn = room.isStillIn && reply.reason === "already_joined";
        if (isStillIn) {
            // What was said since it was left is not known: it is left before it is joined anew.
            this.#connection.request({ type: "leave", room: room.name }, () => {});
        }
        if (isStillIn || reply.retryable) {
            room.tries += 1;
            const pauseMs = Math.max(reply.retry_after_ms ?? 0, this.#connection.jitter(this.#limits.backoffCapMs, room.tries));
            room.timer = this.#clock.setTimeout(() => this.#join(room), pauseMs);
            return;
        }
        const error = new StarlingError(reply);
        this.#forget(room, error);
        this.#emit("left", { type: "left", room: room.name, reason: reply.reason, error });
    }

    #forget(room, error) {
        this.#clock.clearTimeout(room.timer);
        this.#rooms.delete(room.name);
        room.waiters.splice(0).forEach(({ reject }) => reject(error));
        this.#outbox.filter((entry) => entry.room === room.name && entry.status === "queued")
            .forEach((entry) => this.#settle(entry, null, error));
    }

    /** A room is called as it was first written, which may differ in case from what was asked for. */
    #adoptName(room, name) {
        const folded = fold(room.name);
        this.#outbox.filter((entry) => entry.room && fold(entry.room) === folded).forEach((entry) => (entry.room = name));
        this.#rooms.delete(room.name);
        this.#rooms.set(name, room);
        room.name = name;
    }

    #heardMessage(event) {
        const room = this.#rooms.get(event.room);
        if (!room?.isJoined || event.offset <= room.offset) {
            // Of a room that was left, or one that has been told already.
            return;
        }
        if (!room.filling && event.offset > room.offset + 1 && room.options.echo !== false) {
            this.#missing(room, room.offset + 1, event.offset - 1);
        }
        if (room.filling) {
            room.filling.held.push(event);
            if (room.filling.held.length > this.#limits.heldMessages) {
                this.#stopFilling(room);
            }
            return;
        }
        this.#deliver(room, event);
    }

    #deliver(room, event) {
        room.offset = event.offset;
        const id = event.sender === this.nickname ? this.#ownId(room, event) : undefined;
        this.#emit("message", id === undefined ? event : { ...event, id });
        if (room.replayTo && room.offset >= room.replayTo) {
            room.replayTo = 0;
            this.#resolveDoubts(room, [], true);
            this.#flush();
        }
    }

    /**
     * The server sends one's own messages back in the room's order, without the id. An ack that came first has told the offset;
     * otherwise the oldest under way with the same content is the one meant, as they come in the order they were sent.
     */
    #ownId(room, event) {
        const key = `${room.name} ${event.offset}`;
        const acked = this.#echoes.get(key);
        if (acked !== undefined) {
            this.#echoes.delete(key);
            return acked;
        }
        const entry = this.#outbox.find((other) => other.room === room.name && other.content === event.content && !other.isHeard
            && (other.status === "sending" || other.isDoubtful));
        if (!entry) {
            return undefined;
        }
        entry.isHeard = true;
        if (entry.isDoubtful) {
            this.#settle(entry, placeOf(entry, room, event));
        }
        return entry.id;
    }

    #heardGap({ room: name, from, to }) {
        const room = this.#rooms.get(name);
        if (room?.isJoined && to > room.offset && !room.filling) {
            this.#missing(room, Math.max(from, room.offset + 1), to);
        }
    }

    #missing(room, from, to) {
        if (!room.options.fill) {
            room.offset = to;
            this.#tellGap(room, from, to);
            return;
        }
        const first = Math.max(from, to - this.#limits.fillMessages + 1);
        if (first > from) {
            this.#tellGap(room, from, first - 1);
        }
        room.offset = first - 1;
        room.filling = { to, held: [] };
        this.#fill(room, room.filling);
    }

    #tellGap(room, from, to) {
        this.#emit("gap", { type: "gap", room: room.name, epoch: room.epoch, from, to });
    }

    #fill(room, filling) {
        this.#connection.request({ type: "history", room: room.name, after: room.offset, limit: FILL_PAGE }, (reply) => {
            if (!reply || room.filling !== filling) {
                // After a reconnect `since` says where the room was heard up to.
                return;
            }
            const isSame = reply.type === "history" && reply.epoch === room.epoch;
            const messages = isSame ? reply.messages.filter(({ offset }) => offset > room.offset && offset <= filling.to) : [];
            for (const message of messages) {
                if (message.offset > room.offset + 1) {
                    this.#tellGap(room, room.offset + 1, message.offset - 1);
                }
                this.#deliver(room, { type: "message", room: room.name, ...message });
            }
            if (messages.length > 0 && room.offset < filling.to) {
                this.#fill(room, filling);
            } else {
                this.#stopFilling(room);
            }
        });
    }

    #stopFilling(room) {
        const { to, held } = room.filling;
        room.filling = null;
        if (room.offset < to) {
            this.#tellGap(room, room.offset + 1, to);
            room.offset = to;
        }
        held.forEach((event) => this.#heardMessage(event));
    }

    #heardPrivate(event) {
        // One that was on its way when a connection broke may come again, with the same three.
        const key = JSON.stringify([event.sender, event.timestamp, event.content]);
        const isKnown = this.#recentPrivates.has(key);
        this.#recentPrivates.add(key);
        if (this.#recentPrivates.size > RECENT_PRIVATES) {
            this.#recentPrivates.delete(this.#recentPrivates.values().next().value);
        }
        if (!isKnown) {
            this.#emit("private", event);
        }
        if (event.offset) {
            // It was kept, and is told again until it is known to have come.
            this.#connection.tell({ type: "received", offset: event.offset });
        }
    }

    /** A `left` that answers no command: somebody else has put us out. */
    #heardLeft(event) {
        const room = this.#rooms.get(event.room);
        if (room) {
            room.isJoined = false;
            this.#forget(room, new StarlingError({ code: 403, reason: event.reason, message: `no longer in the room: ${event.reason}` }));
            this.#emit("left", event);
        }
    }

    // The outbox.

    #enqueue({ id = this.newId(), room, target, content, ack }) {
        const bytes = new TextEncoder().encode(content).length;
        if (bytes > this.#limits.contentBytes) {
            return Promise.reject(new StarlingError({ code: 413, reason: "too_large", message: `more than ${this.#limits.contentBytes} bytes` }));
        }
        const waiting = this.#outbox.reduce((sum, entry) => sum + entry.bytes, 0);
        if (this.#outbox.length >= this.#limits.queueMessages || waiting + bytes > this.#limits.queueBytes) {
            return Promise.reject(local("queue_full", "too many messages wait to be sent"));
        }
        const entry = { id, room, target, content, ack, nickname: this.nickname, timestamp: this.#clock.now(), sentIn: "" };
        this.#keep(entry);
        this.#saveNow();
        this.#tellOutbox(entry);
        this.#flush();
        return entry.settled;
    }

    #keep(entry) {
        Object.assign(entry, { status: "queued", bytes: new TextEncoder().encode(entry.content).length, tries: 0 });
        entry.settled = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
        // The event `outbox` tells it too, for whoever does not look at the promise.
        entry.settled.catch(() => {});
        this.#outbox.push(entry);
    }

    #flush() {
        if (!this.isOnline || this.#pauseTimer) {
            return;
        }
        for (const entry of [...this.#outbox]) {
            if (this.#inFlight >= this.#window) {
                return;
            }
            if (entry.status === "queued" && !entry.isDoubtful && (!entry.room || this.#rooms.get(entry.room)?.isJoined)) {
                this.#sendEntry(entry);
            }
        }
    }

    #sendEntry(entry) {
        const { id, room, target, content, ack } = entry;
        entry.status = "sending";
        entry.sentIn = this.#connection.session;
        entry.isHeard = false;
        entry.tries += 1;
        this.#inFlight += 1;
        this.#save();
        this.#connection.request(room ? { type: "message", room, content, ack, id } : { type: "private", target, content, id },
            (reply) => this.#answered(entry, reply));
        this.#tellOutbox(entry);
    }

    #answered(entry, reply) {
        this.#inFlight -= 1;
        if (!reply) {
            entry.status = "queued";
            entry.tries -= 1;
            this.#tellOutbox(entry);
        } else if (reply.type === "error" && reply.retryable && entry.tries < this.#limits.sendTries) {
            entry.status = "queued";
            this.#tellOutbox(entry);
            this.#pause(Math.max(reply.retry_after_ms ?? 0, this.#connection.jitter(this.#limits.backoffCapMs, entry.tries)));
        } else if (reply.type === "error") {
            this.#settle(entry, null, new StarlingError(reply));
        } else {
            this.#window = Math.min(this.#window + 1, this.#limits.inFlight);
            this.#rememberEcho(entry, reply);
            this.#settle(entry, reply);
        }
        this.#flush();
    }

    /** Those behind wait too, so that the order stays. */
    #pause(ms) {
        this.#window = 1;
        this.#clock.clearTimeout(this.#pauseTimer);
        this.#pauseTimer = this.#clock.setTimeout(() => {
            this.#pauseTimer = null;
            this.#flush();
        }, ms);
    }

    #rememberEcho(entry, { offset }) {
        const room = entry.room && this.#rooms.get(entry.room);
        if (room && room.options.echo !== false && !entry.isHeard && offset > room.offset) {
            this.#echoes.set(`${room.name} ${offset}`, entry.id);
            if (this.#echoes.size > ECHOES_MAX) {
                this.#echoes.delete(this.#echoes.keys().next().value);
            }
        }
    }

    #settle(entry, ack, error) {
        const at = this.#outbox.indexOf(entry);
        if (at < 0) {
            return;
        }
        this.#outbox.splice(at, 1);
        entry.status = ack ? "sent" : "failed";
        this.#save();
        this.#tellOutbox(entry, ack, error);
        ack ? entry.resolve(ack) : entry.reject(error);
    }

    #tellOutbox(entry, ack, error) {
        this.#emit("outbox", { ...publicEntry(entry), ack, error });
    }

    /** What was under way in a session that has ended may have arrived or not; within one session the same id is obeyed once. */
    #doubtOldSessions() {
        for (const entry of [...this.#outbox]) {
            entry.nickname ||= this.nickname;
            if (entry.nickname.toLowerCase() !== this.nickname.toLowerCase()) {
                this.#settle(entry, null, local("discarded", `it was written as ${entry.nickname}`));
            } else if (entry.sentIn && entry.sentIn !== this.#connection.session) {
                entry.isDoubtful = true;
                if (!entry.room) {
                    this.#unconfirmed(entry);
                }
            }
        }
    }

    /** `messages` are of the room's history; if it `isComplete`, what has not come back by now had not arrived, and is sent. */
    #resolveDoubts(room, messages, isComplete) {
        const own = messages.filter(({ sender }) => sender === this.nickname);
        for (const entry of this.#outbox.filter((other) => other.isDoubtful && other.room === room.name)) {
            const at = own.findIndex(({ content, timestamp }) => content === entry.content && timestamp >= entry.timestamp - CLOCK_SKEW_MS);
            if (at >= 0) {
                this.#settle(entry, placeOf(entry, room, own.splice(at, 1)[0]));
            } else if (isComplete) {
                entry.isDoubtful = false;
            } else {
                this.#unconfirmed(entry);
            }
        }
    }

    #unconfirmed(entry) {
        this.#settle(entry, null, local("unconfirmed", "the connection broke: it may have arrived or not"));
    }

    // What survives a reload.

    #load() {
        const { storage, storageKey } = this.#options;
        let kept;
        try {
            kept = JSON.parse(storage?.getItem(storageKey) ?? "null");
        } catch {
            // Damaged, or forbidden: there is nothing, then.
        }
        if (kept?.nickname && (!this.nickname || kept.nickname === this.nickname)) {
            this.#connection.nickname = kept.nickname;
            this.#connection.isHeld = true;
            this.#connection.resume = kept.resume;
            (Array.isArray(kept.outbox) ? kept.outbox : []).forEach((entry) => this.#keep(entry));
        }
    }

    /** Soon, once for many changes: an ack that is forgotten costs a question under the same id. */
    #save() {
        if (this.#options.storage && this.isOnline) {
            this.#saveTimer ??= this.#clock.setTimeout(() => this.#saveNow(), SAVE_DELAY_MS);
        } else {
            this.#saveNow();
        }
    }

    #saveNow() {
        const { storage, storageKey } = this.#options;
        this.#clock.clearTimeout(this.#saveTimer);
        this.#saveTimer = null;
        if (!storage) {
            return;
        }
        const outbox = this.#outbox.map(({ id, room, target, content, ack, nickname, timestamp, sentIn }) =>
            ({ id, room, target, content, ack, nickname, timestamp, sentIn }));
        const { isHeld, resume } = this.#connection;
        try {
            storage.setItem(storageKey, JSON.stringify({ nickname: isHeld ? this.nickname : "", resume, outbox }));
        } catch {
            // No place: what is queued lives as long as the page.
        }
    }
}

function publicEntry({ id, room, target, content, timestamp, status, settled }) {
    return { id, room, target, content, timestamp, status, settled };
}

function placeOf(entry, room, { offset, timestamp }) {
    return { type: "ack", id: entry.id, room: room.name, epoch: room.epoch, offset, timestamp, level: "sequenced" };
}
