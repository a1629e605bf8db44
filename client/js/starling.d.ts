/** Every bound of the module; times in ms. */
export interface Limits {
    contentBytes: number;
    queueMessages: number;
    queueBytes: number;
    inFlight: number;
    sendTries: number;
    fillMessages: number;
    heldMessages: number;
    backoffBaseMs: number;
    backoffCapMs: number;
    stableMs: number;
    connectTimeoutMs: number;
    nicknameTries: number;
    nicknameBackoffCapMs: number;
    typingMs: number;
}

export const LIMITS: Readonly<Limits>;

export type ConnectionState = "idle" | "connecting" | "online" | "retry" | "stopped";

export const State: Readonly<{
    IDLE: "idle";
    CONNECTING: "connecting";
    ONLINE: "online";
    RETRY: "retry";
    STOPPED: "stopped";
}>;

/**
 * Why something was not done. `code` and `reason` are the server's, or 0 and one of: `offline`, `connection_lost`, `unconfirmed`,
 * `queue_full`, `discarded`, `closed`, `bad_url`.
 */
export class StarlingError extends Error {
    readonly code: number;
    readonly reason: string;
    readonly retryable: boolean;
    readonly retryAfterMs: number;
}

export type Role = "host" | "member" | "guest";
export type AckLevel = "sequenced" | "stored" | "synced";
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Position {
    epoch: string;
    offset: number;
}

export interface Message {
    sender: string;
    content: string;
    offset: number;
    timestamp: number;
}

export interface MessageEvent extends Message {
    type: "message";
    room: string;
    /** Of a message of one's own: the id that it was sent under. */
    id?: string;
}

export interface PrivateEvent {
    type: "private";
    sender: string;
    target: string;
    content: string;
    timestamp: number;
    offset?: number;
}

export interface Welcome {
    type: "welcome";
    nickname: string;
    session: string;
    resume: string;
    resumed: boolean;
    heartbeat_ms: number;
    timeout_ms: number;
    server: string;
}

export interface Joined {
    type: "joined";
    room: string;
    epoch: string;
    offset: number;
    role: Role;
    members: number;
    state: { [key: string]: { value: Json; version: number } };
    messages?: Message[];
    recovered?: boolean;
    /** Whether this client had been in the room before, and joined it again after a reconnect. */
    isAgain: boolean;
}

export interface Member {
    nickname: string;
    role: Role;
    connected: boolean;
    last_active: number;
}

export interface RoomAck extends Position {
    type: "ack";
    id: string;
    room: string;
    timestamp: number;
    level: AckLevel;
}

export interface PrivateAck {
    type: "ack";
    id: string;
    target: string;
    delivered: number;
    stored: boolean;
    timestamp: number;
}

export interface StateAck {
    type: "ack";
    room: string;
    key: string;
    version: number;
}

export interface OutboxEntry {
    id: string;
    room?: string;
    target?: string;
    content: string;
    /** When it was written, by this machine's clock. */
    timestamp: number;
    status: "queued" | "sending" | "sent" | "failed";
    settled: Promise<RoomAck | PrivateAck>;
}

export interface OutboxEvent extends OutboxEntry {
    /** With `sent`. */
    ack?: RoomAck | PrivateAck;
    /** With `failed`. */
    error?: StarlingError;
}

export type PresenceEvent = { type: "presence"; room: string; timestamp: number } & (
    | { event: "join" | "away" | "back" | "mute" | "unmute"; nickname: string }
    | { event: "leave"; nickname: string; reason: string }
    | { event: "nick"; nickname: string; from: string }
    | { event: "role"; nickname: string; role: Role }
    | { event: "batch"; joined?: string[]; left?: string[]; members: number }
);

export interface Events {
    connection: { state: ConnectionState; atMs?: number; code?: number; reason?: string };
    welcome: Welcome;
    refused: StarlingError;
    joined: Joined;
    left: { type: "left"; room: string; reason: string; error?: StarlingError };
    message: MessageEvent;
    gap: { type: "gap"; room: string; epoch: string; from: number; to: number };
    reset: { type: "reset"; room: string } & Position;
    private: PrivateEvent;
    presence: PresenceEvent;
    state: { type: "state"; room: string; key: string; value: Json; version: number; sender: string };
    typing: { type: "typing"; room: string; nickname: string };
    system: { type: "system"; content: string; sender: string; timestamp: number };
    error: { type: "error"; code: number; reason: string; message: string; retryable: boolean };
    outbox: OutboxEvent;
}

export interface Options {
    url: string;
    nickname?: string;
    token?: string | (() => string | Promise<string>);
    isHeld?: boolean;
    storage?: { getItem(key: string): string | null; setItem(key: string, value: string): void };
    storageKey?: string;
    limits?: Partial<Limits>;
    WebSocket?: new (url: string, protocol: string) => unknown;
    clock?: { now(): number; setTimeout(run: () => void, ms: number): unknown; clearTimeout(timer: unknown): void };
    random?: () => number;
}

export interface JoinOptions {
    history?: number;
    since?: Position;
    echo?: boolean;
    overflow?: "close" | "gap";
    fill?: boolean;
}

export class Client {
    constructor(options: Options);
    readonly state: ConnectionState;
    readonly isOnline: boolean;
    readonly nickname: string;
    readonly outbox: OutboxEntry[];
    position(room: string): Position | undefined;
    on<Type extends keyof Events>(type: Type, listener: (event: Events[Type]) => void): () => void;
    connect(as?: { nickname?: string; isHeld?: boolean }): Promise<Welcome>;
    retryNow(): void;
    close(): void;
    nick(nickname: string): Promise<unknown>;
    ask(command: { type: string; [field: string]: unknown }): Promise<any>;
    newId(): string;
    join(room: string, options?: JoinOptions): Promise<Joined>;
    leave(room: string): Promise<void>;
    members(room: string, page?: { limit?: number; after?: string }): Promise<{ total: number; members: Member[] }>;
    rooms(page?: { limit?: number; after?: string }): Promise<{ room: string; members: number; offset: number }[]>;
    history(room: string, page?: { before?: number; after?: number; limit?: number }): Promise<{ epoch: string; messages: Message[] }>;
    setState(room: string, key: string, value: Json): Promise<StateAck>;
    typing(room: string): Promise<boolean>;
    role(room: string, target: string, role: Role): Promise<unknown>;
    kick(room: string, target: string, options?: { reason?: string }): Promise<unknown>;
    ban(room: string, target: string, options?: { reason?: string; seconds?: number }): Promise<unknown>;
    unban(room: string, target: string): Promise<unknown>;
    mute(room: string, target: string, options?: { reason?: string; seconds?: number }): Promise<unknown>;
    unmute(room: string, target: string): Promise<unknown>;
    send(room: string, content: string, options?: { id?: string; ack?: AckLevel }): Promise<RoomAck>;
    private(target: string, content: string, options?: { id?: string }): Promise<PrivateAck>;
    discard(id: string): boolean;
}
