// Making nodes. All text that anybody wrote is set as text, never as markup, and sits in an element of its own direction, so that
// it can neither become code nor reorder its neighbours.

const TINTS = 8;

export const find = (id) => document.getElementById(id);

/** Makes an element; strings among the children become text. */
export function element(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
}

export function bdi(text, className = "") {
    return element("bdi", { className, textContent: text });
}

export function avatar(name) {
    let hash = 2_166_136_261;
    for (const character of name) {
        hash = Math.imul(hash ^ character.codePointAt(0), 16_777_619);
    }
    // A whole grapheme: half of a joined emoji or a bare letter without its marks would show somebody else's sign.
    const [first] = new Intl.Segmenter().segment(name);
    const node = element("span", { className: `avatar tint-${(hash >>> 16) % TINTS}`, textContent: first?.segment.toUpperCase() ?? "" });
    node.setAttribute("aria-hidden", "true");
    return node;
}

/** Makes the children of `list` those of `items`, keeping the nodes, and with them the focus, of those that stay. */
export function sync(list, items, keyOf, create, update) {
    const known = new Map([...list.children].map((node) => [node.dataset.key, node]));
    items.forEach((item, index) => {
        const key = keyOf(item);
        const node = known.get(key) ?? create(item);
        node.dataset.key = key;
        known.delete(key);
        update(node, item);
        if (list.children[index] !== node) {
            list.insertBefore(node, list.children[index] ?? null);
        }
    });
    known.forEach((node) => node.remove());
}
