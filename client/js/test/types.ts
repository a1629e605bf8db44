// Compiled, never run: what the types let through, and what they do not.

import { Client, LIMITS, State, StarlingError, type Joined, type MessageEvent, type RoomAck } from "starling-client";

const client = new Client({
    url: "ws://127.0.0.1:8080/ws",
    token: async () => "jwt",
    storage: { getItem: () => null, setItem: () => {} },
    limits: { queueMessages: LIMITS.queueMessages * 2 },
});

const off: () => void = client.on("message", ({ sender, content, offset, id }: MessageEvent) => {
    const text: string = `${sender}: ${content.trim()} ${offset + 1} ${id ?? ""}`;
    void text;
});
client.on("connection", ({ state, atMs }) => {
    if (state === State.RETRY) {
        void new Date(atMs ?? 0);
    }
});
client.on("presence", (event) => {
    const name: string = event.event === "batch" ? `${event.members}` : event.nickname;
    void name;
});

export async function main(): Promise<void> {
    await client.connect();
    const joined: Joined = await client.join("lobby", { history: 50, fill: true });
    const ack: RoomAck = await client.send(joined.room, "hi", { ack: "stored" });
    await client.setState("lobby", "topic", { text: "birds", by: [ack.offset] });
    await client.mute("lobby", "bob", { seconds: 60, reason: "loud" });
    try {
        await client.private("bob", "psst");
    } catch (error) {
        if (error instanceof StarlingError) {
            const after: number = error.retryAfterMs;
            void after;
        }
    }
    // @ts-expect-error there is no such event
    client.on("nothing", () => {});
    // @ts-expect-error a room has a name
    await client.send(5, "hi");
    off();
    client.close();
}
