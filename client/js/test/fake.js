// A clock and sockets that do what a test says, when it says so.

import { Client } from "../starling.js";

export class FakeClock {
    #now = 1_000_000;
    #timers = new Map();
    #count = 0;

    now() {
        return this.#now;
    }

    setTimeout(run, ms) {
        this.#timers.set(++this.#count, { run, at: this.#now + ms });
        return this.#count;
    }

    clearTimeout(timer) {
        this.#timers.delete(timer);
    }

    /** Lets time pass, and runs what is due, in its order. */
    pass(ms) {
        const end = this.#now + ms;
        for (;;) {
            const due = [...this.#timers].filter(([, { at }]) => at <= end).sort((a, b) => a[1].at - b[1].at)[0];
            if (!due) {
                break;
            }
            this.#timers.delete(due[0]);
            this.#now = due[1].at;
            due[1].run();
        }
        this.#now = end;
    }
}

/** A client, and the server's side of its sockets in the hands of the test. */
export function harness(options = {}) {
    const clock = new FakeClock();
    const sockets = [];
    class Socket {
        sent = [];
        isClosed = false;

        constructor(url, protocol) {
            Object.assign(this, { url, protocol });
            sockets.push(this);
        }

        send(text) {
            this.sent.push(JSON.parse(text));
        }

        close() {
            this.isClosed = true;
        }
    }
    const client = new Client({ url: "ws://test/ws", nickname: "ann", WebSocket: Socket, clock, random: () => 0.5, ...options });
    const events = [];
    for (const type of ["connection", "welcome", "refused", "joined", "left", "message", "gap", "reset", "private", "presence", "outbox"]) {
        client.on(type, (event) => events.push([type, event]));
    }
    const test = {
        client,
        clock,
        sockets,
        get socket() {
            return sockets.at(-1);
        },
        /** The events of a type, or one field of each. */
        heard: (type, field) => events.filter(([of]) => of === type).map(([, event]) => (field ? event[field] : event)),
        /** What the client has sent on the newest socket, of a type. */
        sent: (type) => test.socket.sent.filter((command) => command.type === type),
        say: (event) => test.socket.onmessage({ data: JSON.stringify(event) }),
        /** Answers the last command of a type. */
        reply: (type, event) => test.say({ id: test.sent(type).at(-1).id, ...event }),
        open: () => test.socket.onopen(),
        drop: (code = 1006) => test.socket.onclose({ code, reason: "" }),
        bye: (code, more = {}) => test.say({ type: "bye", code, reason: "x", resumable: true, after_ms: 0, ...more }),
        welcome(more = {}) {
            test.open();
            test.reply("hello", {
                type: "welcome", nickname: "ann", session: "s1", resume: "token-1", resumed: false, heartbeat_ms: 30_000, timeout_ms: 90_000, ...more,
            });
        },
        joined: (more = {}) => test.reply("join", { type: "joined", room: "den", epoch: "e", offset: 0, role: "member", members: 1, state: {}, ...more }),
        message: (offset, content = `m${offset}`, sender = "bob") => test.say({ type: "message", room: "den", sender, content, offset, timestamp: clock.now() }),
        /** Connected, and in the room `den`. */
        enter(joinOptions, more) {
            client.connect();
            test.welcome();
            client.join("den", joinOptions).catch(() => {});
            test.joined(more);
        },
        /** Lets the pause before the next attempt pass. */
        wait: () => clock.pass(test.heard("connection").at(-1).atMs - clock.now()),
        /** Comes back after the pause. */
        again(more = { resumed: true }) {
            test.wait();
            test.welcome(more);
        },
    };
    return test;
}

/** A storage that lives as long as the test. */
export function storage() {
    const kept = new Map();
    return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
}
