// A hub with ws, for one Node process.
//
//     node hub.js 127.0.0.1:PORT
//
// At /ws the first text message names the room, and each one after it goes to every member of the room, its sender included, as it
// came. /echo sends back what it gets. /health answers OK.
//
// A message is framed once, and its bytes go to each member's socket as they are. That is what ws does itself, less the framing,
// as long as there is no compression. Messages that arrive in one turn of the loop leave in one write(2) a member: each
// socket is corked until the turn ends.

import { createServer } from "node:http";
import { Sender, WebSocketServer } from "ws";

const BEHIND_BYTES = 16 << 20; // that a member may be behind before it is closed

const [address, port] = (process.argv[2] ?? "").split(":");
if (!port) {
  console.error("usage: node hub.js ADDRESS:PORT");
  process.exit(2);
}

const rooms = new Map(); // name -> set of sockets; lives while it has members
const corked = new Set();

function chat(websocket, socket) {
  let name;
  websocket.on("message", (content, isBinary) => {
    if (name === undefined) {
      name = content.toString();
      if (!rooms.has(name)) rooms.set(name, new Set());
      rooms.get(name).add(socket);
    } else {
      publish(rooms.get(name), content, isBinary);
    }
  });
  websocket.on("close", () => {
    const members = rooms.get(name);
    members?.delete(socket);
    if (members?.size === 0) rooms.delete(name);
  });
  websocket.on("error", () => {}); // "close" follows
}

function publish(members, content, isBinary) {
  const frame = Buffer.concat(
    Sender.frame(content, { fin: true, opcode: isBinary ? 2 : 1, mask: false, readOnly: true, rsv1: false }),
  );
  if (corked.size === 0) setImmediate(uncork);
  for (const socket of members) {
    if (socket.writableLength > BEHIND_BYTES) {
      socket.destroy();
      continue;
    }
    if (!corked.has(socket)) {
      corked.add(socket);
      socket.cork();
    }
    socket.write(frame);
  }
}

function uncork() {
  for (const socket of corked) socket.uncork();
  corked.clear();
}

function echo(websocket) {
  websocket.on("message", (content, isBinary) => websocket.send(content, { binary: isBinary }));
  websocket.on("error", () => {});
}

const server = createServer((request, response) => {
  response.writeHead(request.url === "/health" ? 200 : 404, { "content-type": "text/plain" });
  response.end(request.url === "/health" ? "OK" : "no such page");
});
const upgrader = new WebSocketServer({ noServer: true, perMessageDeflate: false });
server.on("upgrade", (request, socket, head) => {
  socket.setNoDelay(true);
  upgrader.handleUpgrade(request, socket, head, (websocket) =>
    request.url === "/echo" ? echo(websocket) : chat(websocket, socket),
  );
});
server.listen({ host: address, port: Number(port), backlog: 65535 });
