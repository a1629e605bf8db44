import assert from "node:assert/strict";
import { test } from "node:test";

import { NameMap, fold } from "../names.js";

/** The engine's own simple case folding, which it has for patterns alone. */
const isSame = (a, b) => new RegExp(`^\\u{${a.codePointAt(0).toString(16)}}$`, "iu").test(b);

test("every character is folded as Unicode's simple case folding has it", () => {
    for (let code = 0; code < 0x110000; code += 1) {
        if (code >= 0xd800 && code < 0xe000) {
            continue;
        }
        const character = String.fromCodePoint(code);
        const folded = fold(character);
        if (folded === character && character.toLowerCase() === character && character.toUpperCase() === character) {
            continue;
        }
        assert.equal(fold(folded), folded, character);
        assert.ok(folded === character || isSame(character, folded), character);
        const lower = character.toLowerCase();
        for (const other of new Set([lower, character.toUpperCase(), lower.toUpperCase()])) {
            if ([...other].length === 1 && isSame(character, other)) {
                assert.equal(fold(other), folded, `${character} ${other}`);
            }
        }
    }
});

test("a name is one however it is written", () => {
    assert.equal(fold("STRAẞE"), "straße");
    assert.equal(fold("ΣΊΣΥΦΟΣ"), fold("σίσυφος"));
    assert.notEqual(fold("strasse"), fold("straße"));
    assert.notEqual(fold("ı"), fold("i"));
    const map = new NameMap();
    map.set("Lobby", 1).set("LOBBY", 2);
    assert.equal(map.get("lobby"), 2);
    assert.equal(map.size, 1);
    assert.ok(map.has("lObby"));
    assert.ok(map.delete("LObby"));
    assert.equal(map.size, 0);
});
