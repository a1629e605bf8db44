import assert from "node:assert/strict";
import { test } from "node:test";

import { LIMITS } from "../starling.js";
import { harness, storage } from "./fake.js";

const offsets = (t) => t.heard("message", "offset");

test("a room is joined again with since, and the replay goes on where it was", () => {
    const t = harness();
    t.enter({ history: 50 });
    assert.equal(t.sent("join")[0].history, 50);
    t.message(1);
    t.message(2);
    t.drop();
    t.again();
    assert.deepEqual(t.sent("join")[0].since, { epoch: "e", offset: 2 });
    assert.equal("history" in t.sent("join")[0], false);
    t.joined({ offset: 4, recovered: true });
    assert.equal(t.heard("joined").at(-1).isAgain, true);
    t.message(3);
    t.message(4);
    assert.deepEqual(offsets(t), [1, 2, 3, 4]);
    assert.deepEqual(t.client.position("den"), { epoch: "e", offset: 4 });
});

test("a message that was told already is told once", () => {
    const t = harness();
    t.enter();
    t.message(1);
    t.message(1);
    t.message(2);
    t.message(1);
    assert.deepEqual(offsets(t), [1, 2]);
});

test("what is missing after a reconnect is told as a gap, and another epoch as a reset", () => {
    const t = harness();
    t.enter();
    t.message(1);
    t.drop();
    t.again();
    t.joined({ offset: 9, recovered: false });
    assert.deepEqual(t.heard("gap"), [{ type: "gap", room: "den", epoch: "e", from: 2, to: 9 }]);
    t.message(10);
    t.drop();
    t.again();
    t.joined({ epoch: "f", offset: 3, recovered: false });
    assert.deepEqual(t.heard("reset"), [{ type: "reset", room: "den", epoch: "f", offset: 3 }]);
    t.message(4);
    assert.deepEqual(offsets(t), [1, 10, 4]);
});

test("the server's gap is passed on, and what follows is no other one", () => {
    const t = harness();
    t.enter({ overflow: "gap" });
    assert.equal(t.sent("join")[0].overflow, "gap");
    t.message(1);
    t.say({ type: "gap", room: "den", epoch: "e", from: 2, to: 5 });
    t.message(6);
    assert.equal(t.heard("gap").length, 1);
    assert.deepEqual(offsets(t), [1, 6]);
});

test("a gap is filled from history, in order, while live messages wait", () => {
    const t = harness();
    t.enter({ fill: true });
    t.message(1);
    t.say({ type: "gap", room: "den", epoch: "e", from: 2, to: 4 });
    t.message(5);
    assert.deepEqual(offsets(t), [1]);
    assert.equal(t.sent("history")[0].after, 1);
    const page = (...at) => t.reply("history", {
        type: "history", room: "den", epoch: "e", messages: at.map((offset) => ({ sender: "bob", content: "", offset, timestamp: 1 })),
    });
    page(2, 3);
    page(4, 5);
    assert.deepEqual(offsets(t), [1, 2, 3, 4, 5]);
    assert.equal(t.heard("gap").length, 0);
});

test("what history has no more stays a gap", () => {
    const t = harness({ limits: { fillMessages: 3 } });
    t.enter({ fill: true });
    t.message(1);
    t.say({ type: "gap", room: "den", epoch: "e", from: 2, to: 10 });
    assert.equal(t.sent("history")[0].after, 7);
    t.reply("history", { type: "history", room: "den", epoch: "e", messages: [{ sender: "bob", content: "", offset: 10, timestamp: 1 }] });
    assert.deepEqual(t.heard("gap").map(({ from, to }) => [from, to]), [[2, 7], [8, 9]]);
    assert.deepEqual(offsets(t), [1, 10]);
});

test("a connection that breaks while a gap is filled goes on from the last message told", () => {
    const t = harness();
    t.enter({ fill: true });
    t.message(1);
    t.say({ type: "gap", room: "den", epoch: "e", from: 2, to: 4 });
    t.message(5);
    t.drop();
    t.again();
    assert.deepEqual(t.sent("join")[0].since, { epoch: "e", offset: 1 });
    t.joined({ offset: 5, recovered: true });
    [2, 3, 4, 5].forEach((offset) => t.message(offset));
    assert.deepEqual(offsets(t), [1, 2, 3, 4, 5]);
});

test("join waits for a connection, takes over the room's spelling, and tells a refusal", async () => {
    const t = harness();
    const joined = t.client.join("DEN");
    t.client.connect();
    t.welcome();
    t.joined();
    assert.equal((await joined).room, "den");
    assert.ok(t.client.position("den"));
    const other = t.client.join("closed");
    t.reply("join", { type: "error", code: 403, reason: "banned", message: "no", retryable: false });
    await assert.rejects(other, { reason: "banned" });
    assert.equal(t.heard("left").length, 1);
});

test("a refusal for the moment is waited out", () => {
    const t = harness();
    t.client.connect();
    t.welcome();
    t.client.join("den");
    t.reply("join", { type: "error", code: 429, reason: "rate_limited", message: "", retryable: true, retry_after_ms: 2_000 });
    t.clock.pass(1_999);
    assert.equal(t.sent("join").length, 1);
    t.clock.pass(1);
    assert.equal(t.sent("join").length, 2);
});

test("a room that is left offline is left when the session resumes", async () => {
    const t = harness();
    t.enter();
    t.drop();
    await t.client.leave("den");
    t.again();
    assert.deepEqual(t.sent("leave").map(({ room }) => room), ["den"]);
    assert.equal(t.sent("join").length, 0);
    t.drop();
    t.again();
    assert.equal(t.sent("leave").length, 1, "there was no answer");
    t.reply("leave", { type: "left", room: "den", reason: "left" });
    t.drop();
    t.again();
    assert.equal(t.sent("leave").length, 0);
});

const BUSY = { type: "error", code: 429, reason: "rate_limited", message: "", retryable: true, retry_after_ms: 2_000 };

test("a leave that is refused for a while is asked for again, until it is obeyed", async () => {
    const t = harness();
    t.enter();
    let isLeft = false;
    const left = t.client.leave("den").then(() => (isLeft = true));
    t.reply("leave", BUSY);
    t.clock.pass(1_999);
    await null;
    assert.equal(isLeft, false);
    assert.equal(t.sent("leave").length, 1);
    t.clock.pass(1);
    assert.equal(t.sent("leave").length, 2);
    t.reply("leave", BUSY);
    t.clock.pass(60_000);
    t.reply("leave", { type: "left", room: "den", reason: "left" });
    await left;
    t.clock.pass(20_000);
    t.drop();
    t.again();
    assert.equal(t.sent("leave").length, 0);
});

test("a leave that is refused for a while when the connection breaks is asked for once in the next one", async () => {
    const t = harness();
    t.enter();
    const left = t.client.leave("den");
    t.reply("leave", BUSY);
    t.drop();
    await left;
    t.again();
    assert.equal(t.sent("leave").length, 1);
    t.reply("leave", { type: "left", room: "den", reason: "left" });
    t.clock.pass(20_000);
    assert.equal(t.sent("leave").length, 1);
});

test("a room whose leave was refused, and that is joined at once, is left and joined anew", async () => {
    const t = harness();
    t.enter();
    t.client.leave("den");
    const joined = t.client.join("den");
    t.reply("leave", BUSY);
    t.reply("join", { type: "error", code: 409, reason: "already_joined", message: "", retryable: false });
    assert.equal(t.sent("leave").length, 2);
    t.reply("leave", { type: "left", room: "den", reason: "left" });
    t.clock.pass(1_000);
    assert.equal(t.sent("join").length, 3);
    t.joined({ offset: 7 });
    assert.equal((await joined).offset, 7);
    assert.equal(t.heard("left").length, 0);
    t.message(8);
    assert.deepEqual(offsets(t), [8]);
    t.clock.pass(20_000);
    assert.equal(t.sent("leave").length, 2);
});

test("a room is one in whatever case it is written", async () => {
    const t = harness();
    t.client.connect();
    t.welcome();
    const early = t.client.send("Den", "early");
    await assert.rejects(early, { reason: "not_a_member" });
    t.client.join("Den");
    t.client.send("dEN", "while joining");
    t.joined();
    assert.equal((await t.client.join("DEN")).room, "den");
    assert.equal(t.sent("join").length, 1);
    assert.equal(t.heard("left").length, 0);
    t.message(1);
    for (const name of ["den", "Den", "DEN"]) {
        assert.deepEqual(t.client.position(name), { epoch: "e", offset: 1 });
    }
    t.client.send("DEN", "hello");
    assert.deepEqual(t.sent("message").map(({ room, content }) => [room, content]), [["den", "while joining"], ["den", "hello"]]);
    assert.deepEqual(t.heard("outbox", "room"), ["Den", "den", "den", "den"]);
    assert.equal(await t.client.typing("Den"), true);
    t.client.leave("DEn");
    assert.deepEqual(t.sent("leave").map(({ room }) => room), ["den"]);
    t.reply("leave", { type: "left", room: "den", reason: "left" });
    assert.equal(t.client.position("den"), undefined);
});

test("what waits from before a reload goes to its room, in whatever case that is joined", () => {
    const kept = storage();
    const first = harness({ storage: kept });
    first.enter();
    first.drop();
    first.client.send("den", "kept");
    const t = harness({ storage: kept });
    t.client.connect();
    t.welcome({ resumed: true });
    t.client.join("DEN");
    t.joined();
    assert.deepEqual(t.sent("message").map(({ room, content }) => [room, content]), [["den", "kept"]]);
    t.message(1, "kept", "ann");
    assert.equal(t.heard("message")[0].id, t.sent("message")[0].id);
});

test("what was written before a token said who one is, is sent", () => {
    const t = harness({ nickname: "", token: "jwt" });
    t.client.private("bob", "early");
    t.client.connect();
    t.welcome();
    assert.equal(t.sent("private").length, 1);
});

test("whoever is put out does not come back by itself", () => {
    const t = harness();
    t.enter();
    t.say({ type: "left", room: "den", reason: "kicked" });
    assert.equal(t.heard("left")[0].reason, "kicked");
    t.drop();
    t.again();
    assert.equal(t.sent("join").length, 0);
});

test("a message is acknowledged, and its echo has the id", async () => {
    const t = harness();
    t.enter();
    const first = t.client.send("den", "one");
    const [{ id }] = t.sent("message");
    t.reply("message", { type: "ack", room: "den", epoch: "e", offset: 1, timestamp: 5, level: "sequenced" });
    assert.equal((await first).offset, 1);
    t.message(1, "one", "ann");
    t.client.send("den", "two");
    const other = t.sent("message")[1].id;
    // The echo may come before the ack.
    t.message(2, "two", "ann");
    t.message(3, "one", "ann");
    assert.deepEqual(t.heard("message", "id"), [id, other, undefined]);
});

test("what is written offline waits in order, and is sent once", async () => {
    const t = harness();
    t.enter();
    t.drop();
    const sent = [t.client.send("den", "a"), t.client.send("den", "b"), t.client.private("bob", "c")];
    assert.deepEqual(t.client.outbox.map(({ status }) => status), ["queued", "queued", "queued"]);
    t.again();
    assert.deepEqual(t.sent("private").map(({ content }) => content), ["c"]);
    assert.equal(t.sent("message").length, 0, "not before the room is joined");
    t.joined({ recovered: true });
    assert.deepEqual(t.sent("message").map(({ content }) => content), ["a", "b"]);
    t.sent("message").forEach(({ id }, at) => t.say({ type: "ack", id, room: "den", epoch: "e", offset: at + 1, timestamp: 1, level: "sequenced" }));
    t.reply("private", { type: "ack", target: "bob", delivered: 1, stored: false, timestamp: 1 });
    await Promise.all(sent);
    assert.deepEqual(t.client.outbox, []);
});

test("a message without an answer is sent again under its id when the session resumes", async () => {
    const t = harness();
    t.enter();
    const sent = t.client.send("den", "a");
    const [{ id }] = t.sent("message");
    t.drop();
    t.again();
    t.joined({ offset: 1, recovered: true });
    assert.deepEqual(t.sent("message").map((command) => command.id), [id]);
    t.message(1, "a", "ann");
    assert.equal(t.heard("message")[0].id, id);
    t.reply("message", { type: "ack", room: "den", epoch: "e", offset: 1, timestamp: 1, level: "sequenced" });
    assert.equal((await sent).offset, 1);
});

test("in a new session the replay tells which messages had arrived, and the others are sent", async () => {
    const t = harness();
    t.enter();
    const arrived = t.client.send("den", "a");
    const lost = t.client.send("den", "b");
    t.drop();
    t.again({ resumed: false, session: "s2" });
    t.joined({ offset: 2, recovered: true });
    assert.equal(t.sent("message").length, 0);
    t.message(1, "a", "ann");
    assert.equal((await arrived).offset, 1);
    t.message(2, "x", "bob");
    assert.deepEqual(t.sent("message").map(({ content }) => content), ["b"]);
    t.reply("message", { type: "ack", room: "den", epoch: "e", offset: 3, timestamp: 1, level: "sequenced" });
    assert.equal((await lost).offset, 3);
});

test("where nothing can tell, a message is unconfirmed and not sent twice", async () => {
    const t = harness();
    t.enter();
    const room = t.client.send("den", "a");
    const personal = t.client.private("bob", "b");
    t.drop();
    t.again({ resumed: false, session: "s2" });
    t.joined({ epoch: "f", offset: 0, recovered: false });
    await assert.rejects(room, { reason: "unconfirmed" });
    await assert.rejects(personal, { reason: "unconfirmed" });
    assert.equal(t.sent("message").length + t.sent("private").length, 0);
});

test("a refusal for the moment holds up those behind, and they are sent in order", () => {
    const t = harness({ limits: { inFlight: 1 } });
    t.enter();
    ["a", "b"].forEach((content) => t.client.send("den", content));
    const [{ id }] = t.sent("message");
    t.reply("message", { type: "error", code: 429, reason: "rate_limited", message: "", retryable: true, retry_after_ms: 3_000 });
    t.clock.pass(2_999);
    assert.equal(t.sent("message").length, 1);
    t.clock.pass(1);
    assert.equal(t.sent("message")[1].id, id);
    t.reply("message", { type: "ack", room: "den", epoch: "e", offset: 1, timestamp: 1, level: "sequenced" });
    assert.equal(t.sent("message")[2].content, "b");
});

test("a refusal for good is told, and so is one that lasts too long", async () => {
    const t = harness({ limits: { sendTries: 2 } });
    t.enter();
    const muted = t.client.send("den", "a");
    t.reply("message", { type: "error", code: 403, reason: "muted", message: "you are muted", retryable: false });
    await assert.rejects(muted, { reason: "muted", message: "you are muted" });
    const never = t.client.send("den", "b");
    const down = { type: "error", code: 503, reason: "store_down", message: "", retryable: true };
    t.reply("message", down);
    t.clock.pass(60_000);
    t.reply("message", down);
    await assert.rejects(never, { reason: "store_down" });
});

test("the queue is bounded in messages and bytes, and content in bytes", async () => {
    const t = harness({ limits: { queueMessages: 2, queueBytes: 70_000 } });
    t.enter();
    t.drop();
    await assert.rejects(t.client.send("den", "é".repeat(LIMITS.contentBytes / 2 + 1)), { reason: "too_large" });
    await assert.rejects(t.client.send("attic", "a"), { reason: "not_a_member" });
    t.client.send("den", "é".repeat(LIMITS.contentBytes / 2));
    await assert.rejects(t.client.send("den", "a".repeat(5_000)), { reason: "queue_full" });
    t.client.send("den", "a");
    await assert.rejects(t.client.send("den", "b"), { reason: "queue_full" });
    assert.equal(t.client.discard(t.client.outbox[1].id), true);
    t.client.send("den", "b");
});

test("what was written offline survives a reload, with the session", async () => {
    const kept = storage();
    const before = harness({ storage: kept });
    before.enter();
    before.drop();
    before.client.send("den", "later");
    const [{ id }] = before.client.outbox;

    const t = harness({ storage: kept });
    assert.deepEqual(t.client.outbox.map(({ content }) => content), ["later"]);
    const [{ settled }] = t.client.outbox;
    t.client.join("den", { history: 5 });
    t.client.connect();
    t.welcome({ resumed: true });
    assert.equal(t.sent("hello")[0].resume, "token-1");
    t.joined();
    assert.deepEqual(t.sent("message").map((command) => [command.id, command.content]), [[id, "later"]]);
    t.reply("message", { type: "ack", room: "den", epoch: "e", offset: 1, timestamp: 1, level: "sequenced" });
    assert.equal((await settled).offset, 1);
    t.clock.pass(1_000);
    assert.deepEqual(harness({ storage: kept }).client.outbox, []);
});

test("what was under way at a reload is found in the history, or is unconfirmed", async () => {
    const kept = storage();
    const before = harness({ storage: kept });
    before.enter();
    ["a", "b"].forEach((content) => before.client.send("den", content));
    before.client.close();

    const t = harness({ storage: kept });
    const [a, b] = t.client.outbox;
    t.client.join("den", { history: 5 });
    t.client.connect();
    t.welcome({ session: "s2" });
    t.joined({ offset: 1, messages: [{ sender: "ann", content: "a", offset: 1, timestamp: t.clock.now() }] });
    assert.equal((await a.settled).offset, 1);
    await assert.rejects(b.settled, { reason: "unconfirmed" });
});

test("a damaged or forbidden storage is none", () => {
    const damaged = { getItem: () => "{", setItem: () => { throw new Error("full"); } };
    const t = harness({ storage: damaged });
    t.enter();
    t.client.send("den", "a");
    assert.equal(t.sent("message").length, 1);
});

test("a private message is told once, and known to have come", () => {
    const t = harness();
    t.enter();
    const event = { type: "private", sender: "bob", target: "ann", content: "psst", timestamp: 7 };
    t.say(event);
    t.say({ ...event, offset: 1 });
    assert.equal(t.heard("private").length, 1);
    assert.deepEqual(t.sent("received"), [{ type: "received", offset: 1 }]);
});

test("typing is told at most once in a while", async () => {
    const t = harness();
    t.enter();
    assert.equal(await t.client.typing("den"), true);
    assert.equal(await t.client.typing("den"), false);
    t.clock.pass(LIMITS.typingMs);
    assert.equal(await t.client.typing("den"), true);
    assert.equal(t.sent("typing").length, 2);
});

test("a nickname that has changed is the one that is said hello with", async () => {
    const t = harness();
    t.enter();
    const renamed = t.client.nick("eve");
    t.reply("nick", { type: "ack" });
    await renamed;
    assert.equal(t.client.nickname, "eve");
    t.drop();
    t.wait();
    t.open();
    assert.equal(t.sent("hello")[0].nickname, "eve");
});
