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
        /** Takes away what this page has kept. */
        clear() {
            try {
                Object.keys(window[name]).filter((key) => key.startsWith("starling.")).forEach((key) => window[name].removeItem(key));
            } catch {
                // There is nothing.
            }
        },
    };
}

/** Of this browser, and of this tab: two tabs are two people. */
export const browser = safe("localStorage");
export const tab = safe("sessionStorage");

const TAB_KEY = "starling.tab";
// So long another tab has to let go, as one that is loaded again does.
const CLAIM_MS = 300;
// So long it has to say that it is there, where there are no locks: it may be in the background of a busy machine.
const ANSWER_MS = 600;

/**
 * Makes what the tab remembers its own. A tab that was opened from another begins with a copy of its storage: if the other one lives,
 * this one forgets all, as two tabs are two people.
 */
export async function claimTab() {
    const id = tab.getItem(TAB_KEY);
    if (!id || !await hold(id)) {
        tab.clear();
        const own = Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
        tab.setItem(TAB_KEY, own);
        // Nobody else has it.
        hold(own);
    }
    // A page that went, and that the browser had kept, is back.
    window.addEventListener("pageshow", ({ persisted }) => persisted && hold(tab.getItem(TAB_KEY)));
}

/** Whether no other tab holds this id, which is held from then on until the page goes. */
function hold(id) {
    return navigator.locks ? holdLock(id) : holdByAsking(id);
}

const gone = () => new Promise((resolve) => window.addEventListener("pagehide", resolve, { once: true }));

function holdLock(id) {
    return new Promise((resolve) => {
        navigator.locks.request(`${TAB_KEY}.${id}`, { signal: AbortSignal.timeout(CLAIM_MS) }, () => {
            resolve(true);
            return gone();
        }).catch(() => resolve(false));
    });
}

/** Pages that came by plain http have no locks. */
function holdByAsking(id) {
    const channel = new BroadcastChannel(`${TAB_KEY}.${id}`);
    gone().then(() => channel.close());
    return new Promise((resolve) => {
        let isAsking = true;
        setTimeout(() => {
            isAsking = false;
            resolve(true);
        }, ANSWER_MS);
        channel.onmessage = ({ data }) => {
            if (data === "whose?") {
                // Also while this one waits itself: it has asked first.
                channel.postMessage("mine");
            } else if (isAsking) {
                channel.close();
                resolve(false);
            }
        };
        channel.postMessage("whose?");
    });
}

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
