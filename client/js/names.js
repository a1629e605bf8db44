// Names as the server compares them: by simple case folding of each character (C and S of Unicode's CaseFolding.txt).

/** `name` in the form that all spellings of it share. */
export function fold(name) {
    return Array.from(name, foldOne).join("");
}

/** By way of upper case, where letters meet that have several lower ones. What has no upper case of one character keeps its own. */
function foldOne(character) {
    // Its upper case is I, which is folded to the letter with a dot.
    if (character === "ı") {
        return character;
    }
    const upper = character.toUpperCase();
    const lower = (isOne(upper) ? upper : character).toLowerCase();
    return isOne(lower) ? lower : character;
}

const isOne = (text) => [...text].length === 1;

/** A map by names, in whatever case they are written. */
export class NameMap extends Map {
    get(name) {
        return super.get(fold(name));
    }

    has(name) {
        return super.has(fold(name));
    }

    set(name, value) {
        return super.set(fold(name), value);
    }

    delete(name) {
        return super.delete(fold(name));
    }
}
