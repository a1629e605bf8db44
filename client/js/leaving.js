// Rooms that are to be left, until the server has let go of them: a session that resumes is still a member, and a server that is busy
// refuses for a while.

import { NameMap } from "./names.js";

export class Leaving {
    /** name -> how often it was refused, and the timer of the next attempt. */
    #rooms = new NameMap();
    #connection;
    #limits;
    #clock;

    constructor(connection, limits, clock) {
        this.#connection = connection;
        this.#limits = limits;
        this.#clock = clock;
    }

    /** Resolves when the room is left; or at once while there is no connection, and when it breaks: then the next one is told. */
    leave(name) {
        const leave = { name, tries: 0, timer: null, resolve: null };
        this.#stop(name);
        this.#rooms.set(name, leave);
        return new Promise((resolve) => {
            leave.resolve = resolve;
            this.#ask(leave);
        });
    }

    /** A room is wanted again. Returns whether the server may not have let go of it. */
    cancel(name) {
        return this.#stop(name);
    }

    /** There is a connection again: `isResumed` if the session is the one that was in the rooms. */
    welcomed(isResumed) {
        for (const leave of [...this.#rooms.values()]) {
            isResumed ? this.#ask(leave) : this.#stop(leave.name);
        }
    }

    dropped() {
        for (const leave of this.#rooms.values()) {
            this.#clock.clearTimeout(leave.timer);
            leave.resolve();
        }
    }

    #stop(name) {
        const leave = this.#rooms.get(name);
        this.#clock.clearTimeout(leave?.timer);
        leave?.resolve();
        return this.#rooms.delete(name);
    }

    #ask(leave) {
        const { name } = leave;
        const isAsked = this.#connection.request({ type: "leave", room: name }, (reply) => {
            if (this.#rooms.get(name) !== leave) {
                // It is wanted again, or was left anew.
            } else if (!reply) {
                leave.resolve();
            } else if (reply.type === "error" && reply.retryable) {
                leave.tries += 1;
                const pauseMs = Math.max(reply.retry_after_ms ?? 0, this.#connection.jitter(this.#limits.backoffCapMs, leave.tries));
                leave.timer = this.#clock.setTimeout(() => this.#ask(leave), pauseMs);
            } else {
                this.#stop(name);
            }
        });
        isAsked || leave.resolve();
    }
}
