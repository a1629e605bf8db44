/** Lines over the last five minutes, drawn by hand on a canvas, with the figures of the moment as text beside it. */

/** How much is kept and shown. */
export const SPAN_MS = 300_000;

/** A gap between two points that is longer than this is shown as one: nothing is known of what lies between. */
const GAP_MS = 3_500;

/** Colours repeat after so many lines; the page's style knows as many. */
const COLOURS = 8;

const PADDING = 4;

export class Plot {
    #canvas = document.createElement("canvas");
    #now = document.createElement("span");
    #key = document.createElement("div");
    #points = [];
    #lines;
    #keyed = "";

    /**
     * `title` says what is drawn; `format(value)` makes text of a value; `ceiling` is the least that the highest mark stands for, and
     * where `isFixed` it is always that. With `names` the lines have a key. Marks are round to `base`, 10 or 2.
     */
    constructor(parent, { title, format, ceiling, isFixed = false, names = [], base = 10 }) {
        this.title = title;
        this.format = format;
        this.ceiling = ceiling;
        this.isFixed = isFixed;
        this.names = names;
        this.base = base;
        this.#lines = 0;
        const figure = document.createElement("figure");
        figure.className = "plot";
        const caption = document.createElement("figcaption");
        const name = document.createElement("span");
        name.textContent = title;
        this.#now.className = "now";
        this.#key.className = "key";
        this.#canvas.setAttribute("role", "img");
        caption.append(name, this.#now);
        figure.append(caption, this.#canvas, this.#key);
        parent.append(figure);
    }

    /** Adds what was so at `atMs`: a value for each line. */
    add(atMs, values, now) {
        this.#points.push({ atMs, values });
        while (this.#points.length && this.#points[0].atMs < atMs - SPAN_MS) {
            this.#points.shift();
        }
        this.#lines = values.length;
        this.#now.textContent = now ?? this.format(Math.max(0, ...values));
    }

    /** Draws everything anew, as it is `atMs`. */
    draw(atMs) {
        const ratio = window.devicePixelRatio || 1;
        const { clientWidth: width, clientHeight: height } = this.#canvas;
        if (!width) {
            return;
        }
        const [pixelWidth, pixelHeight] = [Math.round(width * ratio), Math.round(height * ratio)];
        if (this.#canvas.width !== pixelWidth || this.#canvas.height !== pixelHeight) {
            this.#canvas.width = pixelWidth;
            this.#canvas.height = pixelHeight;
        }
        const style = getComputedStyle(this.#canvas);
        const colour = (name) => style.getPropertyValue(name).trim();
        const pen = this.#canvas.getContext("2d");
        pen.setTransform(ratio, 0, 0, ratio, 0, 0);
        pen.clearRect(0, 0, width, height);
        const highest = Math.max(0, ...this.#points.flatMap((point) => point.values));
        const top = this.isFixed ? this.ceiling : roundUp(Math.max(highest, this.ceiling), this.base);
        const bottom = height - 16;
        const x = (ms) => width - ((atMs - ms) / SPAN_MS) * width;
        const y = (value) => bottom - (Math.min(value, top) / top) * (bottom - PADDING - 10);

        pen.strokeStyle = colour("--line");
        pen.lineWidth = 1;
        pen.font = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
        pen.fillStyle = colour("--text-soft");
        for (const mark of [0, top / 2, top]) {
            const at = Math.round(y(mark)) + 0.5;
            pen.beginPath();
            pen.moveTo(0, at);
            pen.lineTo(width, at);
            pen.stroke();
        }
        pen.textBaseline = "bottom";
        pen.fillText(this.format(top), 0, y(top) - 1);
        pen.textBaseline = "top";
        pen.fillText("5 min ago", 0, bottom + 4);
        pen.textAlign = "right";
        pen.fillText("now", width, bottom + 4);
        pen.textAlign = "left";

        pen.lineJoin = "round";
        for (let line = 0; line < this.#lines; line += 1) {
            pen.strokeStyle = colour(`--plot-${line % COLOURS}`);
            pen.fillStyle = pen.strokeStyle;
            pen.lineWidth = 1.6;
            pen.beginPath();
            let lastMs = -Infinity;
            for (const { atMs: ms, values } of this.#points) {
                if (values[line] === undefined) {
                    continue;
                }
                if (ms - lastMs > GAP_MS) {
                    pen.moveTo(x(ms), y(values[line]));
                } else {
                    pen.lineTo(x(ms), y(values[line]));
                }
                lastMs = ms;
            }
            pen.stroke();
            const last = this.#points.at(-1);
            if (last?.values[line] !== undefined) {
                pen.beginPath();
                pen.arc(Math.min(x(last.atMs), width - 2.5), y(last.values[line]), 2.5, 0, 2 * Math.PI);
                pen.fill();
            }
        }
        this.#canvas.setAttribute("aria-label",
            `${this.title}: now ${this.#now.textContent}, at most ${this.format(highest)} in the last five minutes`);
        this.#drawKey();
    }

    #drawKey() {
        const names = this.names.length ? this.names.slice(0, this.#lines) : [];
        const shown = names.slice(0, COLOURS);
        if (shown.join() === this.#keyed) {
            return;
        }
        this.#keyed = shown.join();
        this.#key.replaceChildren(...shown.map((name, index) => {
            const entry = document.createElement("span");
            const mark = document.createElement("i");
            mark.className = `is-${index}`;
            entry.append(mark, name);
            return entry;
        }));
    }
}

/** The next of 1, 2, 5, 10, 20, ... that is not less; to the base of 2 that of 1, 2, 4, 8, ... */
function roundUp(value, base) {
    if (base === 2) {
        return 2 ** Math.ceil(Math.log2(value) - 1e-9);
    }
    const decade = 10 ** Math.floor(Math.log10(value));
    return [1, 2, 5, 10].map((step) => step * decade).find((step) => step >= value * 0.9999) ?? value;
}
