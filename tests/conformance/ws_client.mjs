// The cases of the judge `ws`: a line of JSON for each, {"name", "failure"}. Takes the address of /echo and where the package `ws` is.
import { createRequire } from "node:module";

const [url, packages] = process.argv.slice(2);
const WebSocket = createRequire(`${packages}/`)("ws");
const TIMEOUT_MS = 20_000;
const SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000];
const CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
// Without a threshold everything is compressed; with contexts kept, if the server agrees.
const DEFLATES = [false, { threshold: 0 }, { threshold: 0, serverNoContextTakeover: true, clientNoContextTakeover: true },
  { threshold: 0, clientMaxWindowBits: 9, serverMaxWindowBits: 9 }];

function fail(message) {
  throw new Error(message);
}

// A connection with what it hears in a queue. An error of the library's, which tells what is wrong with a frame, rejects whatever waits.
async function connected(options = {}, protocols = [], address = url) {
  const socket = new WebSocket(address, protocols, { perMessageDeflate: false, maxPayload: 0, handshakeTimeout: TIMEOUT_MS, ...options });
  const heard = [];
  const waiting = [];
  const put = (event) => (waiting.length ? waiting.shift()(event) : heard.push(event));
  socket.on("message", (data, isBinary) => put({ type: "message", data, isBinary }));
  socket.on("pong", (data) => put({ type: "pong", data }));
  socket.on("error", (error) => put({ type: "error", error }));
  socket.on("unexpected-response", (_, response) => { response.resume(); put({ type: "response", status: response.statusCode }); });
  socket.on("open", () => put({ type: "open" }));
  socket.on("close", (code, reason) => put({ type: "close", code, reason: reason.toString() }));
  const next = async (type) => {
    const event = await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`in vain waited for ${type}`)), TIMEOUT_MS);
      const take = (taken) => { clearTimeout(timer); resolve(taken); };
      heard.length ? take(heard.shift()) : waiting.push(take);
    });
    if (event.type === "error") throw event.error;
    if (event.type !== type) fail(`${event.type} ${event.code ?? event.status ?? ""} came instead of ${type}`);
    return event;
  };
  const end = async (code = 1000, reason = "") => {
    socket.close(code, reason);
    const closed = await next("close");
    if (closed.code !== code) fail(`closed with ${closed.code}`);
  };
  return { socket, next, end };
}

async function open(...options) {
  const client = await connected(...options);
  await client.next("open");
  return client;
}

async function comesBack({ socket, next }, data) {
  socket.send(data);
  const got = await next("message");
  const sent = Buffer.from(data);
  if (!got.data.equals(sent)) fail(`${got.data.length} bytes came, ${sent.length} were sent`);
  if (got.isBinary !== (typeof data !== "string")) fail("text came for bytes, or bytes for text");
}

const cases = [];
for (const [number, perMessageDeflate] of DEFLATES.entries()) {
  for (const size of SIZES) {
    for (const [what, data] of [["text", "ä🦆x ".repeat(size / 4 + 1).slice(0, size).replace(/[\ud800-\udbff]$/, "x")],
      ["bytes", Buffer.alloc(size, (index) => index)]]) {
      cases.push([`${what} of ${size}, compression ${number}`, async () => {
        const client = await open({ perMessageDeflate });
        if (perMessageDeflate && !client.socket.extensions.includes("permessage-deflate")) fail("no compression was agreed on");
        // The second may refer to the first.
        await comesBack(client, data);
        await comesBack(client, data);
        await client.end();
      }]);
    }
  }
}
for (const code of CODES) {
  cases.push([`closing with ${code}`, async () => (await open()).end(code, "because")]);
}
cases.push(["text in fragments", async () => {
  const client = await open();
  for (const [part, fin] of [["frag", false], ["", false], ["ments", true]]) client.socket.send(part, { fin });
  const got = await client.next("message");
  if (got.data.toString() !== "fragments" || got.isBinary) fail(`${got.data} came`);
  await client.end();
}]);
cases.push(["a ping between fragments", async () => {
  const client = await open();
  client.socket.send("before ", { fin: false });
  client.socket.ping("between");
  client.socket.send("after", { fin: true });
  const pong = await client.next("pong");
  if (pong.data.toString() !== "between") fail(`a pong with ${pong.data} came`);
  if ((await client.next("message")).data.toString() !== "before after") fail("something else came back");
  await client.end();
}]);
cases.push(["a ping of 125 bytes", async () => {
  const client = await open();
  client.socket.ping("x".repeat(125));
  if ((await client.next("pong")).data.length !== 125) fail("another pong came");
  await client.end();
}]);
cases.push(["a thousand messages", async () => {
  const client = await open();
  for (let n = 0; n < 1000; n++) client.socket.send(String(n));
  for (let n = 0; n < 1000; n++) if ((await client.next("message")).data.toString() !== String(n)) fail(`${n} did not come back`);
  await client.end();
}]);
cases.push(["a subprotocol that is spoken", async () => {
  const client = await open({}, ["x", "starling.proto.v1"], url.replace("/echo", "/ws"));
  if (client.socket.protocol !== "starling.proto.v1") fail(`${client.socket.protocol} was chosen`);
  client.socket.terminate();
}]);
cases.push(["no upgrade where there is no WebSocket", async () => {
  const client = await connected({}, [], url.replace("/echo", "/health"));
  await client.next("response"); // Whatever is there; an upgrade may be ignored (RFC 9110, 7.8).
}]);

for (const [name, ask] of cases) {
  let failure = null;
  try {
    await ask();
  } catch (error) {
    failure = error.message;
  }
  console.log(JSON.stringify({ name, failure }));
}
process.exit(0);
