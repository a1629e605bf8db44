// The JavaScript module in the hands of a test: calls come as lines of JSON, events, results and errors go out as such.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [module, url, nickname] = process.argv.slice(2);
const { Client } = await import(pathToFileURL(module));

let socket;
class Socket extends WebSocket {
    constructor(...how) {
        super(...how);
        socket = this;
    }
}

const tell = (line) => console.log(JSON.stringify(line));
const client = new Client({ url, nickname, WebSocket: Socket });
for (const event of ["connection", "joined", "message", "gap", "private", "presence", "state", "left"]) {
    client.on(event, (details) => tell({ ...details, heard: event }));
}
client.on("outbox", ({ content, status }) => tell({ heard: "outbox", content, status }));

createInterface({ input: process.stdin }).on("line", (line) => {
    const { call, args } = JSON.parse(line);
    if (call === "break") {
        // As a network does it: the client hears of the end, the server of nothing said.
        socket.close();
        return;
    }
    Promise.resolve(client[call](...args)).then(
        (result) => tell({ heard: "result", call, result }),
        ({ reason, code, message }) => tell({ heard: "failure", call, reason, code, message }),
    );
}).on("close", () => {
    client.close();
    process.exit(0);
});
