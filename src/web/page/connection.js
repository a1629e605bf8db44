// The wire: one logical connection that outlives its sockets. It says hello, answers the server's `bye` as the protocol asks,
// reconnects and resumes its session, and hands each reply to the caller that asked. It knows nothing of rooms or of the page.

const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 30_000;
// Only a connection that has lasted this long resets the backoff: a server that welcomes and then throws out is not hammered.
const STABLE_MS = 10_000;
const CONNECT_TIMEOUT_MS = 15_000;
// A nickname that this page held a moment ago may still belong to its own broken connection.
const NICKNAME_RETRIES = 8;
const NICKNAME_BACKOFF_CAP_MS = 4_000;

/** The states that `onState` reports: `retry` carries `atMs`, `stopped` carries `reason`. */
export const State = Object.freeze({
    IDLE: "idle",
    CONNECTING: "connecting",
    ONLINE: "online",
    RETRY: "retry",
    STOPPED: "stopped",
});

export class Connection {
    #url;
    #handlers;
    #socket = null;
    #nickname = "";
    #resumeToken = null;
    #isHeld = false;
    #isWelcome = false;
    #attempts = 0;
    #nicknameTries = 0;
    #timer = 0;
    #stableTimer = 0;
    #heartbeatTimer = 0;
    #heardAt = 0;
    #probedAt = 0;
    #replies = new Map();
    // Ids must not repeat within a server session, which may outlive a reload of the page.
    #idPrefix = Math.random().toString(36).slice(2, 10);
    #idCount = 0;

    /** `handlers`: onState(state, details), onWelcome(event), onEvent(event), onRefused(error). */
    constructor(url, handlers) {
        this.#url = url;
        this.#handlers = handlers;
        window.addEventListener("online", () => this.#retryNow());
    }

    get isOnline() {
        return this.#isWelcome;
    }

    get nickname() {
        return this.#nickname;
    }

    /** Connects under `nickname`. `isHeld` says that this page had it before, so that "in use" is worth some patience. */
    connect(nickname, isHeld = false) {
        this.#dropSocket();
        if (nickname !== this.#nickname) {
            this.#resumeToken = null;
        }
        this.#nickname = nickname;
        this.#isHeld = isHeld;
        this.#nicknameTries = 0;
        this.#attempts = 0;
        this.#open();
    }

    /** Takes over the nickname that the server has confirmed, for the next hello. */
    rename(nickname) {
        this.#nickname = nickname;
    }

    /**
     * Sends a command. `onReply` is called exactly once: with the reply, or with null if the connection broke before it came.
     * Returns false, without calling it, while there is no connection.
     */
    request(command, onReply) {
        if (!this.#isWelcome) {
            return false;
        }
        this.#send(command, onReply);
        return true;
    }

    /** An id for a command that may have to be sent again: under the same id the server obeys it once. */
    newId() {
        return `${this.#idPrefix}-${++this.#idCount}`;
    }

    /** Sends a command whose reply nobody waits for; while offline it is forgotten. */
    tell(command) {
        if (this.#isWelcome) {
            this.#socket.send(JSON.stringify(command));
        }
    }

    /** Leaves for good, freeing the nickname at once. */
    quit() {
        if (this.#socket?.readyState === WebSocket.OPEN) {
            this.#socket.send('{"type":"quit"}');
        }
        this.#resumeToken = null;
        this.#dropSocket();
        this.#report(State.IDLE);
    }

    #open() {
        this.#report(State.CONNECTING);
        const socket = new WebSocket(this.#url, "starling.json.v1");
        this.#socket = socket;
        this.#timer = setTimeout(() => this.#lost(), CONNECT_TIMEOUT_MS);
        const hello = { type: "hello", nickname: this.#nickname, resume: this.#resumeToken };
        socket.onopen = () => this.#send(hello, (reply) => this.#greeted(reply));
        socket.onmessage = (message) => this.#heard(message.data);
        socket.onclose = (close) => this.#closed(close.code, close.reason, 0);
    }

    #send(command, onReply) {
        const id = command.id ?? this.newId();
        this.#replies.set(id, onReply);
        this.#socket.send(JSON.stringify({ ...command, id }));
    }

    #heard(text) {
        this.#heardAt = performance.now();
        this.#probedAt = 0;
        let event;
        try {
            event = JSON.parse(text);
        } catch {
            return;
        }
        if (event.type === "bye") {
            this.#closed(event.code, event.reason, event.after_ms);
            return;
        }
        const onReply = this.#replies.get(event.id);
        if (onReply) {
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
            clearTimeout(this.#timer);
            this.#isWelcome = true;
            this.#isHeld = true;
            this.#nicknameTries = 0;
            this.#nickname = reply.nickname;
            this.#resumeToken = reply.resume || null;
            this.#stableTimer = setTimeout(() => (this.#attempts = 0), STABLE_MS);
            this.#startHeartbeat(reply.heartbeat_ms, reply.timeout_ms);
            this.#report(State.ONLINE);
            this.#handlers.onWelcome(reply);
        } else if (reply?.type === "error") {
            // The socket goes too: an unwelcome connection would be closed by the server while the person still types.
            this.#dropSocket();
            if (this.#resumeToken && reply.reason === "bad_token") {
                // The server is another one, or has begun anew: so does this page.
                this.#resumeToken = null;
                this.#retryIn(this.#backoff());
            } else if (reply.reason === "nickname_in_use" && this.#isHeld && this.#nicknameTries < NICKNAME_RETRIES) {
                this.#nicknameTries += 1;
                this.#retryIn(jitter(NICKNAME_BACKOFF_CAP_MS, this.#nicknameTries));
            } else if (reply.retryable) {
                this.#retryIn(Math.max(reply.retry_after_ms ?? 0, this.#backoff()));
            } else {
                this.#report(State.IDLE);
                this.#handlers.onRefused(reply);
            }
        }
    }

    /** The server's pings are invisible to a page, so silence is broken with a ping of our own. */
    #startHeartbeat(heartbeatMs, timeoutMs) {
        const patienceMs = Math.max(timeoutMs - heartbeatMs, 1_000);
        this.#heartbeatTimer = setInterval(() => {
            const nowMs = performance.now();
            if (this.#probedAt && nowMs - this.#probedAt > patienceMs) {
                this.#lost();
            } else if (!this.#probedAt && nowMs - this.#heardAt > heartbeatMs) {
                this.#probedAt = nowMs;
                this.#socket.send('{"type":"ping"}');
            }
        }, Math.max(heartbeatMs / 4, 250));
    }

    #lost() {
        this.#closed(1006, "", 0);
    }

    /** The hundreds digit of the code is the client's duty. */
    #closed(code, reason, afterMs) {
        this.#dropSocket();
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
        return jitter(BACKOFF_CAP_MS, this.#attempts);
    }

    #retryIn(delayMs) {
        this.#timer = setTimeout(() => this.#open(), delayMs);
        this.#report(State.RETRY, { atMs: Date.now() + delayMs });
    }

    #retryNow() {
        if (this.#timer && !this.#socket) {
            clearTimeout(this.#timer);
            this.#open();
        }
    }

    /** Forgets the socket and all that hangs on it. Its handlers go first, so that a late event finds nobody. */
    #dropSocket() {
        clearTimeout(this.#timer);
        clearTimeout(this.#stableTimer);
        clearInterval(this.#heartbeatTimer);
        this.#timer = 0;
        this.#probedAt = 0;
        this.#isWelcome = false;
        const socket = this.#socket;
        this.#socket = null;
        if (socket) {
            socket.onopen = socket.onmessage = socket.onclose = null;
            socket.close(1000);
        }
        const orphans = [...this.#replies.values()];
        this.#replies.clear();
        orphans.forEach((onReply) => onReply(null));
    }

    #report(state, details = {}) {
        this.#handlers.onState(state, details);
    }
}

/** Full jitter: anything between nothing and the doubled bound, so that many clients do not come back together. */
function jitter(capMs, attempts) {
    return Math.random() * Math.min(capMs, BACKOFF_BASE_MS * 2 ** attempts);
}
