//! Every bound in the program: what a peer can make the server hold, wait for or do in one go ends at one of these.

use super::key::section;

section! {
    /// Bounds. A name ends in its unit: bytes, ms (milliseconds); all others are counts.
    Limits in limits {
        /// Connections at a time, all listeners together; a call of gRPC counts as one. 0: as many as the open-file limit leaves
        /// room for.
        connections: usize = 0, 0..=10_000_000;
        /// Connections at a time from one IP address, so that one peer cannot take all of them. 0: no limit, which
        /// suits a server behind a proxy, where all come from one address.
        connections_per_address: usize = 0, 0..=10_000_000;
        /// Bytes of one message's content; longer content is refused and the connection stays.
        content_bytes: usize = 65_536, 1..=16_777_216;
        /// Bytes of a whole inbound line, frame or WebSocket message: the most that a connection can make the server
        /// buffer. JSON escapes can make content several times longer than it is.
        inbound_bytes: usize = 262_144, 64..=67_108_864;
        /// Bytes that wait for one connection to take them; one that falls further behind is closed as a slow
        /// consumer, because nobody else is to wait for it and memory is to stay bounded.
        send_queue_bytes: usize = 1_048_576, 1024..=1_073_741_824;
        /// Bytes waiting for a connection beyond which no further command of it is looked at, until it has taken all of
        /// them: whoever asks without reading the answers must not make the server hold them.
        output_pause_bytes: usize = 131_072, 1024..=1_073_741_824;
        /// Rooms that one session is in at a time.
        rooms_per_session: usize = 128, 1..=65_536;
        /// Milliseconds from the connection to its hello (gRPC: to its first call); an unknown peer holds a slot no longer.
        hello_ms: u64 = 10_000, 1..=3_600_000;
        /// The same for text lines, where a person types a nickname.
        hello_line_ms: u64 = 60_000, 1..=3_600_000;
        /// Milliseconds that the line listener waits for a first byte to tell programs from people before it greets.
        detect_ms: u64 = 200, 1..=10_000;
        /// Bytes of an HTTP request's head; longer is a 431.
        http_head_bytes: usize = 32_768, 256..=1_048_576;
        /// Bytes of an HTTP request's target; longer is a 414.
        http_target_bytes: usize = 8192, 64..=65_536;
        /// Bytes of an HTTP request's body; longer is a 413.
        http_body_bytes: usize = 262_144, 1..=67_108_864;
        /// Milliseconds from a request's first byte to the end of its head; slower is a 408, so that a trickle of
        /// bytes does not hold a connection.
        http_head_ms: u64 = 10_000, 1..=3_600_000;
        /// Milliseconds that an HTTP connection is kept without a request.
        http_idle_ms: u64 = 75_000, 1..=3_600_000;
        /// Streams of HTTP/2 that one connection may have open, each a call of gRPC; more are refused (REFUSED_STREAM).
        http2_streams: usize = 100, 1..=65_536;
        /// Bytes of the header fields of a call, each counted with 32 more (RFC 9113, 6.5.2).
        http2_header_bytes: usize = 16_384, 1024..=1_048_576;
        /// Bytes that a stream may send before they have been looked at. Not less than the protocol's own beginning: a client
        /// that has used that up before it hears of less would wait for an update that never comes.
        http2_stream_bytes: usize = 65_535, 65_535..=16_777_216;
        /// Bytes that all streams of a connection may send before they have been looked at.
        http2_connection_bytes: usize = 1_048_576, 65_535..=1_073_741_824;
        /// Bytes of frames that are made ahead of what the socket takes, and bytes of one stream ahead of what its windows take.
        http2_output_bytes: usize = 65_536, 16_384..=16_777_216;
        /// Streams that a peer may reset before they have been looked at (rapid reset); more end the connection.
        http2_pending_resets: usize = 20, 1..=65_536;
        /// Frames that carry nothing (PING, SETTINGS, PRIORITY, RST_STREAM, CONTINUATION, empty DATA, WINDOW_UPDATE without a
        /// reason), and RST_STREAM that is written, in 10 s; more end the connection. Clients that measure the bandwidth send a
        /// PING a round trip, thousands a second where that is short.
        http2_control_frames: usize = 100_000, 100..=4_294_967_295;
        /// DATA frames of less than 256 bytes that a connection may send before they have been looked at; more end it. Each takes
        /// some 200 bytes to keep. As many fit into a stream's window as commands do, which have seven bytes or more.
        http2_small_frames: usize = 16_384, 100..=16_777_216;
        /// Bytes of one message at /echo, which conformance suites drive with large ones.
        echo_message_bytes: usize = 16_777_216, 1..=268_435_456;
        /// Fragments of one message at /echo; a peer could send empty ones without end.
        echo_fragments: usize = 65_536, 1..=1_048_576;
        /// Bytes of a WebSocket message from which on it is compressed, where that is agreed on: a shorter one takes the time
        /// and saves less than the packet's own headers take.
        deflate_min_bytes: usize = 256, 0..=1_073_741_824;
        /// WebSockets of one core whose compression may refer to earlier messages, if they offer it. Each takes up to 400 KiB
        /// and is compressed for alone; past it the others are told to do without.
        deflate_contexts: usize = 0, 0..=1_000_000;
        /// Milliseconds for which a closing connection is still read and discarded, so that unread input does not
        /// turn the last words into a reset.
        linger_ms: u64 = 2000, 1..=60_000;
        /// The same for a client there was no room for: in a storm of them each holds one of the few places kept for
        /// telling them so.
        refused_linger_ms: u64 = 250, 1..=60_000;
        /// Milliseconds that a slow consumer gets to take the last words before it is cut off.
        close_ms: u64 = 5000, 1..=60_000;
        /// Malformed commands that a connection may send within a window; the next one closes it.
        errors_per_window: usize = 10, 1..=1_000_000;
        /// Milliseconds of that window.
        errors_window_ms: u64 = 10_000, 1..=3_600_000;
        /// Commands of one session that are under way on other cores; past it the connection is not read, so that
        /// what it sends waits in its own socket.
        commands_in_flight: usize = 256, 1..=65_536;
        /// Commands under way from one core to another; past it the sender's connections wait, and the receiver's
        /// memory stays bounded.
        peer_window: usize = 8192, 1..=1_048_576;
        /// Parcels in a core's mailbox. It is allocated at the start; a full one is retried, nothing is dropped.
        mailbox_parcels: usize = 1024, 1..=1_048_576;
        /// Connections accepted in one turn of a loop, so that a storm of them does not starve those that are there.
        accepts_per_turn: usize = 64, 1..=65_536;
        /// Connections closed in one turn of a loop, which also closes for a millisecond at most: for one that has stopped
        /// reading the kernel frees megabytes, which takes half of that.
        closes_per_turn: usize = 64, 1..=65_536;
        /// Milliseconds from accept to the end of what a proxy says first, and from there to the end of the TLS
        /// handshake; what is awaited after that has its time from there.
        tls_handshake_ms: u64 = 10_000, 1..=3_600_000;
        /// Steps of TLS handshakes in one turn of a loop. One takes 0.1 to 0.2 ms of public-key work, for which those
        /// that are there wait; further ones wait for the next turn, in order. More than one saves turns in a storm.
        tls_handshakes_per_turn: usize = 1, 1..=65_536;
        /// Milliseconds until accept is tried again after it failed, as it does when descriptors run out.
        accept_backoff_ms: u64 = 100, 1..=60_000;
        /// Bytes read from one connection in one turn, so that a fast sender does not starve the others.
        read_bytes_per_turn: usize = 262_144, 1024..=67_108_864;
        /// Bytes of a core's one read buffer, which all of its connections share.
        read_buffer_bytes: usize = 65_536, 4096..=16_777_216;
        /// Events taken from the kernel in one turn; the others stay there for the next.
        events_per_turn: usize = 1024, 1..=65_536;
        /// Timers that fire in one turn; the others are due in the next.
        timers_per_turn: usize = 1024, 1..=1_048_576;
        /// Parcels taken from the mailbox in one turn.
        parcels_per_turn: usize = 256, 1..=65_536;
        /// Rooms that one core is home to: anybody can make rooms, and each costs memory. Past it those without members are
        /// forgotten, longest idle first; the lobby does not count.
        rooms: usize = 100_000, 1..=10_000_000;
        /// Lines that wait for each of the log's writers; a loop never waits for a terminal or a disk, lines past
        /// this are left out and counted.
        log_lines: usize = 8192, 1..=1_048_576;
        /// Entries in one answer to a query; a higher limit in the query is lowered to it.
        query_limit_max: usize = 1000, 1..=100_000;
        /// Entries in an answer where the query names no limit.
        query_limit_default: usize = 50, 1..=100_000;
        /// Sessions of one user with a token at a time: each is told everything that is said to the user.
        sessions_per_user: usize = 64, 1..=65_536;
        /// Private messages kept for one session that is away; past it their senders are refused, so that nobody can fill
        /// the memory with mail for who does not come back.
        private_kept: usize = 1000, 0..=1_000_000;
        /// Bytes of those messages.
        private_kept_bytes: usize = 1_048_576, 0..=1_073_741_824;
        /// Keys of one room's state; all of them are in each answer to a join, so few must do.
        state_keys: usize = 64, 0..=65_536;
        /// Bytes of a key of a room's state; it is repeated in each event about it.
        state_key_bytes: usize = 64, 1..=4096;
        /// Bytes of a value of a room's state (JSON); with state_keys it bounds what one join is answered.
        state_value_bytes: usize = 4096, 1..=1_048_576;
        /// Bans, mutes and guests that one room remembers. They stay while the room lives, so a moderator must not be
        /// able to add them without end.
        restrictions_per_room: usize = 1000, 0..=1_000_000;
        /// Bytes of a moderator's free text; it goes to every member.
        reason_bytes: usize = 256, 0..=65_536;
        /// Bytes of content in one answer about history; a page with more is cut, so that it fits the send queue.
        history_page_bytes: usize = 262_144, 1024..=67_108_864;
        /// Bytes of missed messages that are sent to a resuming member before it has to take them: what was missed may be
        /// more than its send queue holds.
        replay_page_bytes: usize = 262_144, 1024..=67_108_864;
        /// Ids of commands that one session remembers with their answers, so that a repeated command is not done twice.
        idempotency_ids: usize = 1024, 1..=1_048_576;
        /// Milliseconds for which an id is remembered; a repetition comes soon after its first or never.
        idempotency_ms: u64 = 300_000, 1..=86_400_000;
        /// Idempotency keys of HTTP requests that one core remembers with their answers, for the rooms that it is home to; the
        /// oldest are forgotten first. They are kept for idempotency_ms.
        idempotency_keys: usize = 65_536, 1..=10_000_000;
        /// Bytes of a token in a hello or request; longer is refused before anything is computed with it.
        token_bytes: usize = 8192, 64..=1_048_576;
        /// Threads that check and hash passwords, some dozens a second each; each takes 19 MiB while it works.
        password_threads: usize = 1, 1..=64;
        /// Registrations and logins that wait for one of these threads; past it they are refused, because whoever has to wait
        /// much longer tries again anyway.
        password_queue: usize = 64, 1..=65_536;
        /// Milliseconds for which a connection may go on in spite of 429s, less those for which it waits as it is told; after
        /// them it is closed with 4202, because each refusal costs an answer.
        rate_ignored_ms: u64 = 10_000, 1..=3_600_000;
        /// Rooms and tags that one broadcast names: every session is compared with each.
        broadcast_patterns: usize = 64, 1..=65_536;
        /// Names and addresses whose attempts to log in or register are counted, all cores together; past it those that
        /// tried least are forgotten first.
        login_buckets: usize = 65_536, 64..=10_000_000;
        /// Dashboards that are open at a time, `starling top` among them; each is sent some kilobytes a second.
        dashboard_watchers: usize = 16, 0..=1024;
        /// Connections that the kernel completes and holds until they are accepted; it may cap the value itself.
        listen_backlog: usize = 4096, 1..=65_535;
    }
}
