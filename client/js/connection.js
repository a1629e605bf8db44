// The wire under a client: one logical connection that outlives its sockets. It says hello, answers the server's `bye` as the
// protocol asks, reconnects and resumes its session, and hands each reply to the caller that asked. It knows nothing of rooms.

/** Every bound of this module. Others can be set by `options.limits`. */
export const LIMITS = Object.freeze({
    /** Bytes of UTF-8 that a message has at most; the server's default. */
    contentBytes: 65_536,
    /** Messages that wait or are under way, and the bytes of their content: one more is refused with `queue_full`. */
    queueMessages: 1_000,
    queueBytes: 1_048_576,
    /** Messages under way at once. After a refusal there is one, and one more with each that is acknowledged. */
    inFlight: 16,
    /** How often a message that the server refuses for the moment is sent in all. */
    sendTries: 8,
    /** Of a gap that is filled, the last so many messages are fetched; `gap` tells of those before. */
    fillMessages: 1_000,
    /** Messages that are held back while a gap is filled; with more it is told instead. */
    heldMessages: 10_000,
    /** A pause before the next attempt is anything up to `backoffBaseMs` doubled for each failure, up to `backoffCapMs`. */
    backoffBaseMs: 500,
    backoffCapMs: 30_000,
    /** A connection that has lasted this long ends the doubling: a server that welcomes and then throws out is not hammered. */
    stableMs: 10_000,
    /** From the opening of a socket to the welcome. */
    connectTimeoutMs: 15_000,
    /** A nickname that this client held a moment ago may still belong to its own broken connection: so often it is asked for again. */
    nicknameTries: 8,
    nicknameBackoffCapMs: 4_000,
    /** A room is told of typing once in this time. */
    typingMs: 3_000,
});

/** The states of a connection. */
export const State = Object.freeze({
    IDLE: "idle",
    CONNECTING: "connecting",
    ONLINE: "online",
    RETRY: "retry",
    STOPPED: "stopped",
});

/**
 * Why something was not done. `code` and `reason` are the server's, or 0 and one of this package's own: `offline` (not connected),
 * `connection_lost` (it broke before the reply came), `unconfirmed` (a message may or may not have arrived), `queue_full`,
 * `discarded`, `closed`, `bad_url` (no socket can be made for it, or there is no WebSocket).
 */
export class StarlingError extends Error {
    constructor({ code = 0, reason, message, retryable = false, retry_after_ms: retryAfterMs = 0 }) {
        super(message || reason);
        this.name = "StarlingError";
        this.code = code;
        this.reason = reason;
        this.retryable = retryable;
        this.retryAfterMs = retryAfterMs;
    }
}

export const local = (reason, message) => new StarlingError({ reason, message });

export const SYSTEM_CLOCK = {
    now: () => Date.now(),
    setTimeout: (run, ms) => setTimeout(run, ms),
    clearTimeout: (timer) => clearTimeout(timer),
};

export class Connection {
    state = State.IDLE;
    nickname = "";
    /** Whether this client had the nickname a moment ago, so that "in use" is worth some patience. */
    isHeld = false;
    session = "";
    resume = null;
    #options;
    #limits;
    #clock;
    #random;
    #handlers;
    #socket = null;
    #opening = 0;
    #attempts = 0;
    #nicknameTries = 0;
    #timer = null;
    #stableTimer = null;
    #heartbeatTimer = null;
    #heardAt = 0;
    #probedAt = 0;
    #replies = new Map();
    // Ids must not repeat within a session, which may outlive a reload.
    #idPrefix;
    #idCount = 0;

    /**
     * `options`: url, token, WebSocket; `handlers`: onState(state, details), onWelcome(event), onEvent(event), onRefused(error) for
     * a hello that is refused for good, onDropped() when a socket is gone, before replies that have not come are given up.
     */
    constructor(options, limits, clock, random, handlers) {
        this.#options = options;
        this.#limits = limits;
        this.#clock = clock;
        this.#random = random;
        this.#handlers = handlers;
        this.#idPrefix = Math.floor(random() * 36 ** 8).toString(36).padStart(8, "0");
    }

    get isOnline() {
        return this.state === State.ONLINE;
    }

    open() {
        this.#dropSocket();
        this.#nicknameTries = 0;
        this.#attempts = 0;
        this.#open();
    }

    retryNow() {
        if (this.state === State.RETRY) {
            this.#clock.clearTimeout(this.#timer);
            this.#open();
        }
    }

    /** Leaves for good, freeing the nickname at once. While offline nobody can be told, and the session waits for a resume. */
    quit() {
        if (this.isOnline) {
            this.tell({ type: "quit" });
            this.resume = null;
        }
        this.#dropSocket();
        this.#report(State.IDLE);
    }

    /** Calls `onReply` once: with the reply, or with null if the connection broke before it came. False while there is none. */
    request(command, onReply) {
        if (!this.isOnline) {
            return false;
        }
        this.#send(command, onReply);
        return true;
    }

    /** Sends a command whose reply nobody waits for; while offline it is forgotten. */
    tell(command) {
        if (this.isOnline) {
            this.#socket.send(JSON.stringify(command));
        }
    }

    newId() {
        return `${this.#idPrefix}-${++this.#idCount}`;
    }

    /** Full jitter: anything between nothing and the doubled bound, so that many clients do not come back together. */
    jitter(capMs, attempts) {
        return this.#random() * Math.min(capMs, this.#limits.backoffBaseMs * 2 ** attempts);
    }

    async #open() {
        const opening = ++this.#opening;
        this.#report(State.CONNECTING);
        let { token } = this.#options;
        if (typeof token === "function") {
            try {
                token = await token();
            } catch {
                token = null;
            }
            if (opening !== this.#opening) {
                return;
            }
            if (!token) {
                // There is none at the moment; there may be one later.
                this.#retryIn(this.#backoff());
                return;
            }
        }
        const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
        let socket;
        try {
            if (!Socket) {
                throw new Error("there is no WebSocket here: Node has one from version 22 on; give one as options.WebSocket");
            }
            socket = new Socket(this.#options.url, "starling.json.v1");
        } catch ({ message }) {
            this.#report(State.IDLE);
            this.#handlers.onRefused(local("bad_url", message));
            return;
        }
        this.#socket = socket;
        // An end follows, which is listened to; and without a listener some of these classes throw, also later.
        socket.onerror = () => {};
        this.#timer = this.#clock.setTimeout(() => this.#lost(), this.#limits.connectTimeoutMs);
        const hello = { type: "hello", nickname: token ? undefined : this.nickname, token, resume: this.resume ?? undefined };
        socket.onopen = () => this.#send(hello, (reply) => this.#greeted(reply));
        socket.onmessage = (message) => this.#heard(message.data);
        socket.onclose = (close) => this.#closed(close.code, close.reason, 0, true);
    }

    #send(command, onReply) {
        const id = command.id ?? this.newId();
        this.#replies.set(id, onReply);
        this.#socket.send(JSON.stringify({ ...command, id }));
    }

    #heard(text) {
        this.#heardAt = this.#clock.now();
        this.#probedAt = 0;
        let event;
        try {
            event = JSON.parse(text);
        } catch {
            return;
        }
        const onReply = this.#replies.get(event.id);
        if (event.type === "bye") {
            this.#closed(event.code, event.reason, event.after_ms, event.resumable);
        } else if (onReply) {
            this.#replies.delete(event.id);
            onReply(event);
        } else if (event.type === "ping") {
            this.#socket.send('{"type":"pong"}');
        } else {
            this.#handlers.onEvent(event);
        }
    }

    #greeted(reply) {
        if (reply?.type === "welcome") {
            this.#clock.clearTimeout(this.#timer);
            this.isHeld = true;
            this.#nicknameTries = 0;
            this.nickname = reply.nickname;
            this.session = reply.session;
            this.resume = reply.resume || null;
            // Only a connection that lasts ends the backoff: a server that welcomes and then throws out is not hammered.
            this.#stableTimer = this.#clock.setTimeout(() => (this.#attempts = 0), this.#limits.stableMs);
            this.#startHeartbeat(reply.heartbeat_ms, reply.timeout_ms);
            this.#report(State.ONLINE);
            this.#handlers.onWelcome(reply);
        } else if (reply?.type === "error") {
            this.#notGreeted(reply);
        }
    }

    #notGreeted(reply) {
        // The socket goes too: an unwelcome connection would be closed by the server while somebody still types.
        this.#dropSocket();
        if (this.resume && reply.reason === "bad_token") {
            // The server is another one, or has begun anew.
            this.resume = null;
            this.#retryIn(this.#backoff());
        } else if (reply.reason === "nickname_in_use" && this.isHeld && this.#nicknameTries < this.#limits.nicknameTries) {
            this.#nicknameTries += 1;
            this.#retryIn(this.jitter(this.#limits.nicknameBackoffCapMs, this.#nicknameTries));
        } else if (reply.retryable) {
            this.#retryIn(Math.max(reply.retry_after_ms ?? 0, this.#backoff()));
        } else {
            this.#report(State.IDLE);
            this.#handlers.onRefused(new StarlingError(reply));
        }
    }

    /** A browser hides the server's pings from a page, so silence is broken with a ping of our own. */
    #startHeartbeat(heartbeatMs, timeoutMs) {
        const patienceMs = Math.max(timeoutMs - heartbeatMs, 1_000);
        const everyMs = Math.max(heartbeatMs / 4, 250);
        const beat = () => {
            this.#heartbeatTimer = this.#clock.setTimeout(beat, everyMs);
            const now = this.#clock.now();
            if (this.#probedAt && now - this.#probedAt > patienceMs) {
                this.#lost();
            } else if (!this.#probedAt && now - this.#heardAt >= heartbeatMs) {
                this.#probedAt = now;
                this.#socket.send('{"type":"ping"}');
            }
        };
        this.#heartbeatTimer = this.#clock.setTimeout(beat, everyMs);
    }

    #lost() {
        this.#closed(1006, "", 0, true);
    }

    /** The hundreds of the code are the client's duty. */
    #closed(code, reason, afterMs, isResumable) {
        this.#dropSocket();
        if (!isResumable) {
            this.resume = null;
        }
        if (code >= 4100 && code < 4200) {
            this.#report(State.STOPPED, { code, reason });
        } else if (code >= 4300 && code < 4400) {
            this.#retryIn(afterMs);
        } else {
            this.#retryIn(this.#backoff());
        }
    }

    #backoff() {
        this.#attempts += 1;
        return this.jitter(this.#limits.backoffCapMs, this.#attempts);
    }

    #retryIn(delayMs) {
        this.#timer = this.#clock.setTimeout(() => this.#open(), delayMs);
        this.#report(State.RETRY, { atMs: this.#clock.now() + delayMs });
    }

    /** Forgets the socket and all that hangs on it. Its handlers go first, so that a late event finds nobody. */
    #dropSocket() {
        this.#opening += 1;
        for (const timer of [this.#timer, this.#stableTimer, this.#heartbeatTimer]) {
            this.#clock.clearTimeout(timer);
        }
        this.#probedAt = 0;
        const socket = this.#socket;
        this.#socket = null;
        if (socket) {
            socket.onopen = socket.onmessage = socket.onclose = null;
            socket.close(1000);
        }
        if (this.isOnline) {
            // Told with what follows; whoever is called meanwhile must not send.
            this.state = State.RETRY;
        }
        this.#handlers.onDropped();
        const orphans = [...this.#replies.values()];
        this.#replies.clear();
        orphans.forEach((onReply) => onReply(null));
    }

    #report(state, details = {}) {
        this.state = state;
        this.#handlers.onState(state, details);
    }
}
