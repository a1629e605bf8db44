/** The operator's page: takes a snapshot a second from the server, and shows it as figures, plots and tables. */

import { Plot } from "./plot.js";

/** When no snapshot has come for so long, what is shown is called stale; when longer, the connection is given up. */
const STALE_MS = 3_000;
const LOST_MS = 10_000;

const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 15_000;

/** A connection that has lasted so long ends the backoff. */
const STABLE_MS = 5_000;

const find = (id) => document.getElementById(id);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

const count = (value) => (value === null ? "–" : Math.abs(value) < 100_000 ? whole.format(value) : compact.format(value));
const rate = (value) => (value > 0 && value < 10 ? value.toFixed(1) : count(value));
const percent = (value) => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;

function bytes(value) {
    if (value === null || value === undefined) {
        return "–";
    }
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (value >= 1024 && unit < units.length - 1) {
        value /= 1024;
        unit += 1;
    }
    return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

function micros(value) {
    if (value === null || value === undefined) {
        return "–";
    }
    return value < 1_000 ? `${value.toFixed(value < 10 ? 1 : 0)} µs` : `${(value / 1_000).toFixed(value < 10_000 ? 1 : 0)} ms`;
}

const millis = (value) => (value === null || value === undefined ? "–" : micros(value * 1_000));

function duration(ms) {
    const minutes = Math.floor(ms / 60_000);
    const [days, hours] = [Math.floor(minutes / 1_440), Math.floor(minutes / 60) % 24];
    if (days) {
        return `${days} d ${hours} h`;
    }
    return minutes >= 60 ? `${hours} h ${minutes % 60} min` : minutes ? `${minutes} min` : `${Math.floor(ms / 1000)} s`;
}

/* The plots. */

const plots = {};

/** Made before anything is known, so that what follows does not move. */
function makePlots() {
    const parent = find("plots");
    plots.busy = new Plot(parent, { title: "Busy, each core", format: percent, ceiling: 1, isFixed: true });
    plots.messages = new Plot(parent, { title: "Messages a second", format: rate, ceiling: 10 });
    plots.deliveries = new Plot(parent, { title: "Deliveries a second", format: rate, ceiling: 10 });
    plots.connections = new Plot(parent, { title: "Connections", format: count, ceiling: 10 });
    plots.traffic = new Plot(parent, { title: "Bytes a second", format: bytes, ceiling: 1024, base: 2, names: ["out", "in"] });
    plots.memory = new Plot(parent, {
        title: "Memory", format: bytes, ceiling: 1024 * 1024, base: 2, names: ["process", "histories", "send queues"],
    });
    plots.mailbox = new Plot(parent, { title: "Parcels in mailboxes, each core", format: count, ceiling: 10 });
    plots.turn = new Plot(parent, { title: "Longest turn, each core", format: micros, ceiling: 1_000 });
}

function addToPlots(snapshot, atMs) {
    const { cores } = snapshot;
    plots.busy.names = plots.mailbox.names = plots.turn.names = cores.length > 1 ? cores.map(({ core }) => `core ${core}`) : [];
    const ofCores = (name) => cores.map((core) => core[name] ?? undefined);
    const busy = ofCores("busy");
    const mean = busy.reduce((sum, share) => sum + share, 0) / busy.length;
    plots.busy.add(atMs, busy, busy.length > 1 ? `${percent(mean)} on average` : percent(mean));
    plots.messages.add(atMs, [snapshot.rates.messages]);
    plots.deliveries.add(atMs, [snapshot.rates.deliveries]);
    plots.connections.add(atMs, [snapshot.connections.all]);
    plots.traffic.add(atMs, [snapshot.rates.sent_bytes, snapshot.rates.received_bytes], bytes(snapshot.rates.sent_bytes));
    const { resident_bytes: resident, classes } = snapshot.memory;
    plots.memory.add(atMs, [resident ?? undefined, classes.histories, classes.send_queues], bytes(resident ?? classes.histories));
    plots.mailbox.add(atMs, ofCores("mailbox"));
    plots.turn.add(atMs, ofCores("turn_max_us").map((us) => us ?? 0));
}

const drawPlots = () => Object.values(plots).forEach((plot) => plot.draw(performance.now()));

/* Figures and tables: elements are made once and only their text changes, so that nothing jumps and selections stay. */

const totals = new Map();

const TOTALS = ["Connections", "Sessions", "Rooms", "Messages / s", "Deliveries / s", "In / s", "Out / s", "Errors / s", "HTTP / s",
    "Memory", "In histories", "In send queues", "In input", "In tables", "In journals"];

function total(name, value, note = "") {
    let parts = totals.get(name);
    if (!parts) {
        const [group, term, figure] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
        const [text, small] = [document.createTextNode(""), document.createElement("small")];
        term.textContent = name;
        figure.append(text, small);
        group.append(term, figure);
        find("totals").append(group);
        parts = { text, small };
        totals.set(name, parts);
    }
    parts.text.data = value;
    parts.small.textContent = note;
    parts.small.title = note;
}

function showTotals(snapshot) {
    const { connections, rates, memory, http } = snapshot;
    const kinds = ["web", "line", "frame", "grpc"].filter((kind) => connections[kind]).map((kind) => `${kind} ${count(connections[kind])}`);
    const calls = connections.grpc_calls ? [`calls ${count(connections.grpc_calls)}`] : [];
    const streams = connections.event_streams ? [`event streams ${count(connections.event_streams)}`] : [];
    total("Connections", count(connections.all), [...kinds, ...calls, ...streams].join(", "));
    total("Sessions", count(snapshot.sessions), snapshot.away ? `${count(snapshot.away)} away` : "");
    total("Rooms", count(snapshot.rooms), `${count(snapshot.nicknames)} nicknames`);
    total("Messages / s", rate(rates.messages));
    total("Deliveries / s", rate(rates.deliveries));
    total("In / s", bytes(rates.received_bytes));
    total("Out / s", bytes(rates.sent_bytes));
    total("Errors / s", rate(rates.errors));
    total("HTTP / s", rate(rates.http_requests), http.count ? `p50 ${millis(http.p50_ms)}, p99 ${millis(http.p99_ms)}` : "");
    total("Memory", bytes(memory.resident_bytes));
    const { classes } = memory;
    total("In histories", bytes(classes.histories));
    total("In send queues", bytes(classes.send_queues));
    total("In input", bytes(classes.input));
    total("In tables", bytes(classes.connections + classes.sessions), `sessions ${bytes(classes.sessions)}`);
    total("In journals", bytes(classes.journals));
}

/** Shows `rows` under `columns`: [heading, cell(row), class] each, where a cell is text or a node. */
function table(id, columns, rows, nothing) {
    const shown = find(id);
    if (!shown.tHead) {
        const head = shown.createTHead().insertRow();
        for (const [heading, , kind] of columns) {
            const cell = document.createElement("th");
            cell.scope = "col";
            cell.textContent = heading;
            cell.className = kind ? "is-text" : "";
            head.append(cell);
        }
        shown.createTBody();
    }
    const body = shown.tBodies[0];
    if (!rows.length) {
        if (!body.querySelector(".is-none")) {
            body.replaceChildren();
            const cell = body.insertRow().insertCell();
            cell.colSpan = columns.length;
            cell.className = "is-none";
            cell.textContent = nothing;
        }
        return;
    }
    body.querySelector(".is-none")?.closest("tr").remove();
    while (body.rows.length > rows.length) {
        body.deleteRow(-1);
    }
    rows.forEach((row, index) => {
        const line = body.rows[index] ?? body.insertRow();
        line.className = row.is_silent ? "is-silent" : "";
        columns.forEach(([, cellOf, kind], place) => {
            const cell = line.cells[place] ?? line.insertCell();
            cell.className = kind ? `is-text ${kind}` : "";
            const content = cellOf(row, cell);
            if (typeof content === "string" && cell.textContent !== content) {
                cell.textContent = content;
            }
        });
    });
}

/** A bar and its figure, kept from one snapshot to the next. */
function busyCell(core, cell) {
    if (!cell.firstElementChild) {
        const meter = document.createElement("meter");
        const figure = document.createElement("span");
        [meter.min, meter.max, meter.low, meter.high, meter.optimum] = [0, 1, 0.7, 0.9, 0];
        meter.setAttribute("aria-hidden", "true");
        figure.className = "figure";
        cell.append(meter, figure);
    }
    cell.firstElementChild.value = core.busy;
    cell.lastElementChild.textContent = percent(core.busy);
    return cell;
}

function showTables(snapshot) {
    table("cores", [
        ["core", (core) => (core.is_silent ? `${core.core} does not answer` : String(core.core))],
        ["busy", busyCell],
        ["turns / s", (core) => count(core.turns)],
        ["events a turn", (core) => core.events_per_turn.toFixed(2)],
        ["mean turn", (core) => micros(core.turn_us)],
        ["longest turn", (core) => micros(core.turn_max_us)],
        ["connections", (core) => count(core.connections)],
        ["sessions", (core) => count(core.sessions)],
        ["rooms", (core) => count(core.rooms)],
        ["mailbox", (core) => count(core.mailbox)],
        ["deferred", (core) => count(core.deferred)],
        ["timers", (core) => count(core.timers)],
    ], snapshot.cores, "");
    table("latency", [
        ["part of the way", (hop) => hop.hop.replaceAll("_", " "), "is-name"],
        ["p50", (hop) => micros(hop.p50_us)],
        ["p99", (hop) => micros(hop.p99_us)],
        ["p99.9", (hop) => micros(hop.p999_us)],
        ["followed", (hop) => count(hop.count)],
    ], snapshot.latency, "");
    table("slow", [
        ["nickname", (client) => client.nickname ?? "–", "is-name"],
        ["transport", (client) => client.transport, "is-name"],
        ["from", (client) => client.peer, "is-name"],
        ["waits", (client) => bytes(client.queued_bytes)],
        ["round trip", (client) => (client.tcp ? `${millis(client.tcp.rtt_ms)} ± ${millis(client.tcp.rtt_var_ms)}` : "–")],
        ["sent again", (client) => (client.tcp ? count(client.tcp.retransmits) : "–")],
        ["on its way", (client) => (client.tcp ? count(client.tcp.unacked) : "–")],
    ], snapshot.slow, "Every client has taken what it was sent.");
    table("limits", [
        ["limit", (limit) => limit.name, "is-name"],
        ["new", (limit) => count(limit.new)],
        ["since the start", (limit) => count(limit.all)],
        ["what it is", (limit) => limit.about, "is-about"],
    ], snapshot.limits, "None since the server was started.");
    const rooms = [
        ["room", (room) => room.room, "is-name"],
        ["members", (room) => count(room.members)],
        ["messages / s", (room) => rate(room.messages)],
    ];
    table("busy-rooms", rooms, snapshot.rooms_by_messages, "No messages at the moment.");
    table("large-rooms", rooms, snapshot.rooms_by_members, "No room has members.");
}

function showHealth(snapshot) {
    const parts = [];
    const { store, backplane } = snapshot;
    if (store) {
        parts.push(store.is_down ? "store down" : `store up${store.acks_waiting ? `, ${count(store.acks_waiting)} acks wait` : ""}`);
    }
    if (backplane) {
        parts.push(backplane.is_down ? `backplane down: ${backplane.why}` : "backplane up");
    }
    const text = parts.join(" · ") || "no store, no backplane";
    const health = find("health");
    if (health.textContent !== text) {
        health.textContent = text;
    }
    health.classList.toggle("is-down", Boolean(store?.is_down || backplane?.is_down));
    const node = snapshot.node ? ` · node ${snapshot.node}` : "";
    find("about").textContent = `${snapshot.version}${node} · up ${duration(snapshot.time_ms - snapshot.started_ms)}`;
}

function show(snapshot) {
    showHealth(snapshot);
    showTotals(snapshot);
    showTables(snapshot);
    addToPlots(snapshot, performance.now());
    drawPlots();
}

/* The connection. */

let socket = null;
let timer = 0;
let attempts = 0;
let openedAt = 0;
let heardAt = 0;
let token = sessionToken();

/** The token stays in this tab; where even that is forbidden it is asked for again. */
function sessionToken(value) {
    try {
        if (value !== undefined) {
            sessionStorage.setItem("starling-admin-token", value);
        }
        return sessionStorage.getItem("starling-admin-token") || value || "";
    } catch {
        return value ?? "";
    }
}

function setState(state, text) {
    document.body.dataset.state = state;
    const shown = find("state-text");
    if (shown.textContent !== text) {
        shown.textContent = text;
    }
}

function connect() {
    clearTimeout(timer);
    timer = 0;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const query = token ? `?token=${encodeURIComponent(token)}` : "";
    let isOpen = false;
    heardAt = performance.now();
    socket = new WebSocket(`${scheme}//${location.host}/dashboard/live${query}`);
    socket.onopen = () => {
        isOpen = true;
        openedAt = heardAt = performance.now();
        find("token-form").hidden = true;
    };
    socket.onmessage = (message) => {
        heardAt = performance.now();
        if (heardAt - openedAt > STABLE_MS) {
            attempts = 0;
        }
        setState("live", "Live");
        show(JSON.parse(message.data));
    };
    socket.onclose = () => {
        socket = null;
        if (isOpen) {
            retry("The connection is lost");
        } else {
            askWhy();
        }
    };
}

/** A socket that is refused does not say why; the same request without being a WebSocket does. */
async function askWhy() {
    let status = 0;
    let message = "";
    try {
        const headers = token ? { Authorization: `Bearer ${token}` } : {};
        const response = await fetch("/dashboard/live", { headers, cache: "no-store" });
        status = response.status;
        message = (await response.json()).message ?? "";
    } catch {
        // Nobody is there, or somebody who is no starling.
    }
    if (status === 401 || status === 403) {
        refuse(token ? message : "");
    } else {
        retry(status === 503 ? message || "The server is busy" : "The server cannot be reached");
    }
}

function refuse(why) {
    setState("refused", "This needs an admin's token");
    find("token-problem").textContent = why;
    find("token-form").hidden = false;
    find("token").focus();
}

function retry(why) {
    attempts += 1;
    const delayMs = Math.max(250, Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** attempts));
    setState("retry", `${why}; trying again in ${Math.ceil(delayMs / 1000)} s`);
    timer = setTimeout(connect, delayMs);
}

find("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token = sessionToken(find("token").value.trim());
    find("token").value = "";
    setState("connecting", "Connecting");
    connect();
});

window.addEventListener("online", () => timer && connect());
window.addEventListener("resize", drawPlots);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPlots);

setInterval(() => {
    const silentMs = performance.now() - heardAt;
    if (!socket || silentMs < STALE_MS || document.body.dataset.state === "refused") {
        return;
    }
    if (silentMs > LOST_MS) {
        const lost = socket;
        lost.onopen = lost.onmessage = lost.onclose = null;
        lost.close();
        socket = null;
        retry("Nothing is heard from the server");
    } else if (document.body.dataset.state === "live") {
        setState("stale", `Stale: nothing has come for ${Math.floor(silentMs / 1000)} s`);
    }
    drawPlots();
}, 1_000);

setState("connecting", "Connecting");
TOTALS.forEach((name) => total(name, "–"));
makePlots();
drawPlots();
connect();
