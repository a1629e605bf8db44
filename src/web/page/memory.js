// What the browser remembers. Storage may be forbidden or full, and the page works without.

// Rooms that have been read up to somewhere; those read longest ago are forgotten first.
const READ_MAX = 200;

/** One of the browser's storages as the client wants it, which never throws. */
function safe(name) {
    return {
        getItem(key) {
            try {
                return window[name].getItem(key);
            } catch {
                return null;
            }
        },
        setItem(key, value) {
            try {
                window[name].setItem(key, value);
            } catch {
                // Not remembered, then.
            }
        },
    };
}

/** Of this browser, and of this tab: two tabs are two people. */
export const browser = safe("localStorage");
export const tab = safe("sessionStorage");

export function recall(storage, key, otherwise) {
    try {
        return JSON.parse(storage.getItem(key)) ?? otherwise;
    } catch {
        return otherwise;
    }
}

export function remember(storage, key, value) {
    storage.setItem(key, JSON.stringify(value));
}

const DRAFTS_KEY = "starling.drafts";
// Of more of them, and of longer ones, nothing is kept over a reload.
const DRAFTS_MAX = 20;
const DRAFT_CHARS = 65_536;

/** What was not sent before a reload, by conversation; each is taken once. */
export class Drafts {
    #kept = new Map(Object.entries(recall(tab, DRAFTS_KEY, {})));

    take(key) {
        const draft = this.#kept.get(key);
        this.#kept.delete(key);
        return typeof draft === "string" ? draft : "";
    }

    /** Those that have not been taken stay. */
    save(conversations) {
        const drafts = [...this.#kept, ...conversations.map(({ key, draft }) => [key, draft])]
            .filter(([, draft]) => draft && draft.length <= DRAFT_CHARS);
        remember(tab, DRAFTS_KEY, Object.fromEntries(drafts.slice(-DRAFTS_MAX)));
    }
}

const PRIVATES_KEY = "starling.privates";

/** What `Chat` remembers. `nickname` tells who reads: others at the same browser have read other things. */
export function memoryOf(nickname) {
    const key = () => `starling.read.${nickname().toLowerCase()}`;
    return {
        readOf(room) {
            const marks = recall(browser, key(), {});
            return Object.hasOwn(marks, room) ? marks[room] : undefined;
        },
        setRead(room, place) {
            const { [room]: _, ...others } = recall(browser, key(), {});
            const kept = Object.entries(others).slice(-(READ_MAX - 1));
            remember(browser, key(), { ...Object.fromEntries(kept), [room]: place });
        },
        privates() {
            const { of, list } = recall(tab, PRIVATES_KEY, {});
            return of === nickname() && Array.isArray(list) ? list : [];
        },
        setPrivates: (list) => remember(tab, PRIVATES_KEY, { of: nickname(), list }),
    };
}
