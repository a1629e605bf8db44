import assert from "node:assert/strict";
import { test } from "node:test";

import { LIMITS } from "../starling.js";
import { harness } from "./fake.js";

test("hello has the nickname, and the welcome ends the waiting", async () => {
    const t = harness();
    const ready = t.client.connect();
    assert.equal(t.client.state, "connecting");
    assert.equal(t.socket.protocol, "starling.json.v1");
    t.welcome();
    assert.equal((await ready).session, "s1");
    assert.equal(t.sent("hello")[0].nickname, "ann");
    assert.equal(t.client.state, "online");
});

test("a token is asked for before each connection, and no nickname said beside it", async () => {
    let count = 0;
    const t = harness({ nickname: "", token: () => Promise.resolve(`jwt-${++count}`) });
    t.client.connect();
    await Promise.resolve();
    await Promise.resolve();
    t.welcome();
    assert.equal(t.sent("hello")[0].token, "jwt-1");
    assert.equal("nickname" in t.sent("hello")[0], false);
    t.bye(4205);
    t.wait();
    await Promise.resolve();
    await Promise.resolve();
    t.open();
    assert.equal(t.sent("hello")[0].token, "jwt-2");
    assert.equal(t.sent("hello")[0].resume, "token-1");
});

test("a bye of 41xx stops, and only connect leads back", () => {
    const t = harness();
    t.client.connect();
    t.welcome();
    t.bye(4103, { resumable: false });
    assert.equal(t.client.state, "stopped");
    t.clock.pass(3_600_000);
    assert.equal(t.sockets.length, 1);
    t.client.connect();
    assert.equal(t.sockets.length, 2);
});

test("a bye of 42xx comes back with doubling pauses up to the cap, each anything below it", () => {
    const t = harness();
    t.client.connect();
    const pauses = [];
    for (let round = 1; round <= 9; round += 1) {
        t.welcome();
        t.bye(4200);
        pauses.push(t.heard("connection").at(-1).atMs - t.clock.now());
        t.clock.pass(pauses.at(-1));
        assert.equal(t.sockets.length, round + 1);
    }
    // The harness's dice say a half.
    assert.deepEqual(pauses.slice(0, 4), [500, 1_000, 2_000, 4_000]);
    assert.equal(pauses.at(-1), LIMITS.backoffCapMs / 2);
});

test("a connection that has lasted ends the doubling", () => {
    const t = harness();
    t.client.connect();
    for (let round = 0; round < 4; round += 1) {
        t.welcome();
        t.bye(4200);
        t.wait();
    }
    t.welcome();
    t.clock.pass(LIMITS.stableMs);
    t.bye(4200);
    assert.equal(t.heard("connection").at(-1).atMs - t.clock.now(), 500);
});

test("a bye of 43xx comes back after after_ms, no sooner", () => {
    const t = harness();
    t.client.connect();
    t.welcome();
    t.bye(4300, { after_ms: 1_234 });
    t.clock.pass(1_233);
    assert.equal(t.sockets.length, 1);
    t.clock.pass(1);
    assert.equal(t.sockets.length, 2);
    t.open();
    assert.equal(t.sent("hello")[0].resume, "token-1");
});

test("what is not resumable is not resumed", () => {
    const t = harness();
    t.client.connect();
    t.welcome();
    t.bye(4300, { after_ms: 1, resumable: false });
    t.clock.pass(1);
    t.open();
    assert.equal("resume" in t.sent("hello")[0], false);
});

test("a resume token of another server is forgotten", () => {
    const t = harness();
    t.client.connect();
    t.welcome();
    t.drop();
    t.wait();
    t.open();
    t.reply("hello", { type: "error", code: 401, reason: "bad_token", message: "", retryable: false });
    t.wait();
    t.open();
    assert.equal("resume" in t.sent("hello")[0], false);
});

test("a nickname that is taken is refused at once, or after some patience if it was held", async () => {
    const taken = { type: "error", code: 409, reason: "nickname_in_use", message: "taken", retryable: false };
    const t = harness();
    const ready = t.client.connect();
    t.open();
    t.reply("hello", taken);
    await assert.rejects(ready, { reason: "nickname_in_use", code: 409 });
    assert.equal(t.client.state, "idle");

    t.client.connect({ isHeld: true });
    for (let round = 0; round < LIMITS.nicknameTries; round += 1) {
        t.open();
        t.reply("hello", taken);
        assert.equal(t.client.state, "retry");
        t.clock.pass(LIMITS.nicknameBackoffCapMs);
    }
    t.open();
    t.reply("hello", taken);
    assert.equal(t.client.state, "idle");
    assert.equal(t.heard("refused").length, 2);
});

test("a server that takes nobody for the moment is asked again", () => {
    const t = harness();
    t.client.connect();
    t.open();
    t.reply("hello", { type: "error", code: 503, reason: "draining", message: "", retryable: true, retry_after_ms: 9_000 });
    t.clock.pass(8_999);
    assert.equal(t.sockets.length, 1);
    t.clock.pass(1);
    assert.equal(t.sockets.length, 2);
});

test("silence is broken by a ping, and ends the connection when nothing comes", () => {
    const t = harness();
    t.client.connect();
    t.welcome();
    t.clock.pass(30_000);
    assert.equal(t.sent("ping").length, 1);
    t.say({ type: "pong", timestamp: 1 });
    t.clock.pass(30_000);
    assert.equal(t.sent("ping").length, 2);
    t.clock.pass(75_000);
    assert.equal(t.client.state === "online", false);
    assert.equal(t.sockets[0].isClosed, true);
});

test("the server's ping is answered", () => {
    const t = harness();
    t.client.connect();
    t.welcome();
    t.say({ type: "ping" });
    assert.equal(t.sent("pong").length, 1);
});

test("a socket that does not open in time is given up", () => {
    const t = harness();
    t.client.connect();
    t.clock.pass(LIMITS.connectTimeoutMs);
    assert.equal(t.client.state, "retry");
});

test("whoever knows that the network is back need not wait", () => {
    const t = harness();
    t.client.connect();
    t.drop();
    assert.equal(t.client.state, "retry");
    t.client.retryNow();
    assert.equal(t.sockets.length, 2);
    t.clock.pass(3_600_000);
    assert.equal(t.sockets.at(-1).isClosed || t.sockets.length > 1, true);
});

test("a socket's error is heard, also after it was given up", () => {
    const t = harness();
    t.client.connect();
    t.clock.pass(LIMITS.connectTimeoutMs);
    assert.equal(typeof t.sockets[0].onerror, "function");
});

test("an address that no socket can be made for is refused", async () => {
    const t = harness({ WebSocket: class { constructor() { throw new SyntaxError("no scheme"); } } });
    await assert.rejects(t.client.connect(), { reason: "bad_url", message: "no scheme" });
    assert.equal(t.client.state, "idle");
    t.clock.pass(3_600_000);
    assert.equal(t.heard("refused").length, 1);
});

test("close says quit, and does not come back", () => {
    const t = harness();
    t.client.connect();
    t.welcome();
    t.client.close();
    assert.equal(t.sent("quit").length, 1);
    t.clock.pass(3_600_000);
    assert.equal(t.sockets.length, 1);
    assert.equal(t.client.state, "idle");
});

test("close while offline leaves a session that the next connect resumes", () => {
    const t = harness();
    t.client.connect();
    t.welcome();
    t.drop();
    t.client.close();
    t.client.connect();
    t.open();
    assert.equal(t.sent("hello")[0].resume, "token-1");
});

test("questions are answered by id, refused by error, and given up with the connection", async () => {
    const t = harness();
    await assert.rejects(t.client.rooms(), { reason: "offline" });
    t.client.connect();
    t.welcome();
    const rooms = t.client.rooms({ limit: 5 });
    t.reply("rooms", { type: "rooms", rooms: [{ room: "den", members: 1, offset: 0 }] });
    assert.equal((await rooms)[0].room, "den");
    const state = t.client.setState("den", "topic", "birds");
    t.reply("state", { type: "error", code: 403, reason: "not_a_member", message: "no", retryable: false });
    await assert.rejects(state, { reason: "not_a_member", code: 403 });
    const history = t.client.history("den", { before: 5 });
    t.drop();
    await assert.rejects(history, { reason: "connection_lost" });
});

test("a listener that throws keeps no other from hearing", () => {
    const t = harness();
    const faults = [];
    globalThis.reportError = (error) => faults.push(error.message);
    t.client.on("welcome", () => {
        throw new Error("mine");
    });
    let heard = 0;
    t.client.on("welcome", () => (heard += 1));
    t.client.connect();
    t.welcome();
    assert.equal(heard, 1);
    assert.deepEqual(faults, ["mine"]);
    delete globalThis.reportError;
});

test("where there is no WebSocket, it is told what is missing", async () => {
    const own = globalThis.WebSocket;
    delete globalThis.WebSocket;
    try {
        const t = harness({ WebSocket: undefined });
        await assert.rejects(t.client.connect(), { reason: "bad_url", message: /no WebSocket here: Node has one from version 22 on.*options\.WebSocket/ });
        assert.equal(t.client.state, "idle");
    } finally {
        if (own) {
            globalThis.WebSocket = own;
        }
    }
});
