//! A server and a client of the h2 crate, in memory: what one says the other hears.

use std::future::Future;

use h2::client::{self, ResponseFuture, SendRequest};

use super::*;

const SETTINGS: Settings = Settings {
    streams: 8,
    header_bytes: 4096,
    stream_window_bytes: 65_535,
    connection_window_bytes: 65_535,
    send_buffer_bytes: 16_384,
    pending_resets: 4,
    control_frames: 100,
    small_frames: 10_000,
};

/// As much of what is to be written as is taken at a time.
const OUTPUT_BYTES: usize = 16_384;

/// More rounds than any exchange here takes.
const ROUNDS_MAX: usize = 1000;

struct Pair {
    server: Server,
    client: client::Connection<Io, Bytes>,
    wire: Rc<RefCell<Wire>>,
    requests: SendRequest<Bytes>,
    opened: Vec<(Request<()>, Stream)>,
    /// What the server said when it was over.
    over: Option<Option<Failure>>,
    /// What ended the client's side, if it has ended.
    client_over: Option<Result<(), Option<Reason>>>,
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn wire() -> Rc<RefCell<Wire>> {
    Rc::new(RefCell::new(Wire { output_max: usize::MAX, ..Wire::default() }))
}

impl Pair {
    fn new() -> Pair {
        let mut pair = Pair::ungreeted();
        pair.talk();
        assert!(pair.server.is_greeted());
        pair
    }

    /// One of which the server has heard nothing yet.
    fn ungreeted() -> Pair {
        let wire = wire();
        let handshake = client::Builder::new().handshake(Io(wire.clone()));
        let Poll::Ready(Ok((requests, client))) = Box::pin(handshake).as_mut().poll(&mut context()) else {
            panic!("a client begins without waiting");
        };
        let server = Server::new(&SETTINGS);
        Pair { server, client, wire, requests, opened: Vec::new(), over: None, client_over: None }
    }

    /// Lets the client do what it can.
    fn turn_client(&mut self) {
        if self.client_over.is_none()
            && let Poll::Ready(end) = Pin::new(&mut self.client).poll(&mut context())
        {
            self.client_over = Some(end.map_err(|error| error.reason()));
        }
    }

    /// Lets the server do what it can.
    fn turn_server(&mut self) {
        while self.over.is_none() {
            match self.server.turn(OUTPUT_BYTES) {
                Turned::Opened(request, stream) => self.opened.push((*request, stream)),
                Turned::Waits => return,
                Turned::Over(failure) => self.over = Some(failure),
            }
        }
    }

    /// Carries what has been said to the other; says whether something was.
    fn carry(&mut self) -> bool {
        let said = mem::take(&mut self.wire.borrow_mut().output);
        if !said.is_empty() {
            self.server.receive(&said, 0).expect("no flood");
        }
        let mut answer = Vec::new();
        self.server.take_output(&mut answer);
        self.wire.borrow_mut().input.extend_from_slice(&answer);
        !said.is_empty() || !answer.is_empty()
    }

    /// Goes on until nobody has anything more to say.
    fn talk(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.turn_client();
            self.turn_server();
            if !self.carry() {
                return;
            }
        }
        panic!("they do not come to an end");
    }

    /// A call of which the head has been heard.
    fn call(&mut self) -> (ResponseFuture, SendStream<Bytes>, Stream) {
        assert!(matches!(self.requests.poll_ready(&mut context()), Poll::Ready(Ok(()))));
        let request = Request::builder().method("POST").uri("http://h/a.B/C").body(()).expect("a request");
        let (response, send) = self.requests.send_request(request, false).expect("it may call");
        self.talk();
        let (request, stream) = self.opened.pop().expect("a stream");
        assert_eq!(request.uri().path(), "/a.B/C");
        (response, send, stream)
    }

    /// A call whose answer has begun.
    fn answered_call(&mut self) -> (RecvStream, SendStream<Bytes>, Stream) {
        let (mut response, send, mut stream) = self.call();
        assert!(!stream.has_begun());
        stream.begin(Response::new(()));
        assert!(stream.has_begun());
        self.talk();
        let Poll::Ready(Ok(response)) = Pin::new(&mut response).poll(&mut context()) else {
            panic!("an answer has begun");
        };
        assert_eq!(response.status(), 200);
        (response.into_body(), send, stream)
    }

    /// What has come of an answer, and whether it goes on.
    fn heard(&mut self, body: &mut RecvStream) -> (Vec<u8>, bool) {
        let mut heard = Vec::new();
        loop {
            match body.poll_data(&mut context()) {
                Poll::Ready(Some(Ok(bytes))) => {
                    heard.extend_from_slice(&bytes);
                    body.flow_control().release_capacity(bytes.len()).expect("it was taken");
                }
                Poll::Ready(Some(Err(error))) => panic!("{error}"),
                Poll::Ready(None) => return (heard, false),
                Poll::Pending => return (heard, true),
            }
        }
    }
}

/// What is to be read from a stream now, and what is said at its end.
fn read(stream: &mut Stream) -> (Vec<u8>, Read) {
    let mut bytes = Vec::new();
    loop {
        match stream.read() {
            Read::Data(more) => bytes.extend_from_slice(&more),
            end => return (bytes, end),
        }
    }
}

/// The kinds of the frames in what was written.
fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [high, middle, low, kind, ..] = *bytes {
        kinds.push(kind);
        bytes = &bytes[9 + u32::from_be_bytes([0, high, middle, low]) as usize..];
    }
    kinds
}

fn some_bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

#[test]
fn more_than_the_windows_hold_goes_both_ways() {
    let mut pair = Pair::new();
    let (mut body, mut send, mut stream) = pair.answered_call();
    let (content, mut heard, mut answer) = (some_bytes(300_000), Vec::new(), Vec::new());
    send.send_data(content.clone().into(), true).expect("a stream");
    // What is said back is a part of something longer.
    let shared: Arc<[u8]> = [b"before", &content[..], b"behind"].concat().into();
    let (mut said, mut has_ended) = (0, false);
    for _ in 0..ROUNDS_MAX {
        pair.talk();
        let (bytes, end) = read(&mut stream);
        heard.extend(bytes);
        assert!(heard.len() == content.len() || matches!(end, Read::Waits), "{end:?}");
        let place = stream.place_for(content.len() - said);
        assert!(place <= SETTINGS.send_buffer_bytes.min(content.len() - said));
        if place > 0 {
            let start = 6 + said;
            said += place;
            stream.send(Chunk::Shared { bytes: shared.clone(), start, end: start + place });
        } else if said == content.len() && !has_ended {
            has_ended = true;
            stream.finish(HeaderMap::new());
        }
        let (bytes, goes_on) = pair.heard(&mut body);
        answer.extend(bytes);
        if !goes_on {
            break;
        }
    }
    assert!(heard == content && answer == content);
    assert!(matches!(stream.read(), Read::End));
}

/// A fault: h2 ends a connection by itself on which so many small messages wait that keeping each takes more than half of the window.
#[test]
fn a_window_of_the_smallest_messages_waits_until_it_is_read() {
    let mut pair = Pair::new();
    let (_, mut send, mut stream) = pair.answered_call();
    let (frame, frames) = (&b"\0\0\0\0\x02hi"[..], 65_535 / 7);
    for _ in 0..frames {
        send.send_data(frame.into(), false).expect("a stream");
    }
    pair.talk();
    assert_eq!((&pair.over, &pair.client_over), (&None, &None));
    let mut heard = Vec::new();
    while heard.len() < frames * frame.len() {
        let (bytes, end) = read(&mut stream);
        assert!(!bytes.is_empty() && matches!(end, Read::Waits), "{end:?} after {}", heard.len());
        heard.extend(bytes);
        pair.talk();
    }
    assert!(heard == frame.repeat(frames));
}

#[test]
fn more_small_frames_than_may_wait_end_the_connection() {
    let mut pair = Pair::new();
    let (_body, mut send, _stream) = pair.answered_call();
    for _ in 0..SETTINGS.small_frames + 100 {
        send.send_data(b"x".as_slice().into(), false).expect("a stream");
    }
    pair.talk();
    assert!(matches!(&pair.over, Some(Some(Failure { is_flood: true, .. }))), "{:?}", pair.over);
}

#[test]
fn a_chunk_is_what_is_left_of_it() {
    let mut chunk = Chunk::Shared { bytes: b"0123456789".as_slice().into(), start: 2, end: 7 };
    assert_eq!((chunk.remaining(), chunk.chunk()), (5, &b"23456"[..]));
    chunk.advance(3);
    assert_eq!((chunk.remaining(), chunk.chunk()), (2, &b"56"[..]));
    chunk.advance(2);
    assert!(!chunk.has_remaining());
    let mut chunk = Chunk::Own(Bytes::from_static(b"own"));
    chunk.advance(1);
    assert_eq!((chunk.remaining(), chunk.chunk()), (2, &b"wn"[..]));
}

#[test]
fn a_stream_that_is_watched_is_told_of_when_there_is_news() {
    let mut pair = Pair::new();
    let (_body, mut send, mut stream) = pair.answered_call();
    pair.server.watch(&mut stream, 7);
    assert!(matches!(stream.read(), Read::Waits));
    let mut ready = Vec::new();
    pair.server.take_ready(&mut ready);
    assert!(ready.is_empty());
    send.send_data(Bytes::from_static(b"news"), false).expect("a stream");
    pair.talk();
    pair.server.take_ready(&mut ready);
    assert_eq!(ready, [7]);
    assert_eq!(read(&mut stream).0, b"news");
    // Place that comes is news as well.
    while stream.place_for(1) > 0 {
        stream.send(Chunk::Own(Bytes::from_static(&[0; 1000])));
    }
    ready.clear();
    pair.talk();
    pair.server.take_ready(&mut ready);
    assert_eq!(ready.last(), Some(&7));
    ready.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "the same stream twice in a row"));
}

#[test]
fn a_stream_that_is_taken_back_is_reset() {
    let mut pair = Pair::new();
    for has_begun in [false, true] {
        let (_response, mut send, mut stream) = pair.call();
        if has_begun {
            stream.begin(Response::new(()));
        }
        assert!(!stream.is_reset());
        send.send_reset(Reason::CANCEL);
        pair.talk();
        assert!(stream.is_reset());
        assert!(matches!(stream.read(), Read::Reset));
    }
}

#[test]
fn a_stream_is_reset_for_a_reason() {
    let mut pair = Pair::new();
    let (mut response, _send, mut stream) = pair.call();
    stream.reset(Reason::REFUSED_STREAM);
    pair.talk();
    let Poll::Ready(Err(error)) = Pin::new(&mut response).poll(&mut context()) else { panic!("no answer") };
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
    let (mut body, _send, mut stream) = pair.answered_call();
    stream.reset(Reason::CANCEL);
    pair.talk();
    let Poll::Ready(Some(Err(error))) = body.poll_data(&mut context()) else { panic!("it goes on") };
    assert_eq!(error.reason(), Some(Reason::CANCEL));
}

#[test]
fn an_answer_may_be_a_head_alone() {
    let mut pair = Pair::new();
    let (mut response, _send, mut stream) = pair.call();
    assert_eq!(stream.place_for(10), 0, "there is no place in an answer that has not begun");
    stream.answer(Response::builder().status(404).body(()).expect("a head"));
    pair.talk();
    let Poll::Ready(Ok(response)) = Pin::new(&mut response).poll(&mut context()) else { panic!("no answer") };
    assert_eq!(response.status(), 404);
    assert!(response.body().is_end_stream());
}

#[test]
fn whoever_is_left_ends_what_is_open_and_begins_nothing() {
    let mut pair = Pair::new();
    let (mut body, _send, mut stream) = pair.answered_call();
    pair.server.leave();
    pair.talk();
    assert!(pair.over.is_none(), "a stream is open");
    let _ = pair.requests.poll_ready(&mut context());
    let request = Request::builder().uri("http://h/").body(()).expect("a request");
    let begun = pair.requests.send_request(request, true);
    pair.talk();
    assert!(begun.is_err() || pair.opened.is_empty());
    stream.finish(HeaderMap::new());
    drop(stream);
    pair.talk();
    assert!(!pair.heard(&mut body).1);
    drop((body, begun));
    pair.talk();
    assert_eq!((pair.over, pair.client_over), (Some(None), Some(Ok(()))));
}

#[test]
fn whoever_was_left_before_it_greeted_is_told_then() {
    let mut pair = Pair::ungreeted();
    assert!(!pair.server.is_greeted());
    pair.server.leave();
    pair.talk();
    assert_eq!((pair.over, pair.client_over), (Some(None), Some(Ok(()))));
}

#[test]
fn a_ping_is_one_at_a_time() {
    let mut pair = Pair::ungreeted();
    pair.server.ping();
    pair.talk();
    for _ in 0..2 {
        assert!(!pair.server.has_output());
        pair.server.ping();
        pair.server.ping();
        pair.turn_server();
        assert!(pair.server.has_output());
        // Behind what was there before.
        let mut out = b"\0\0\0\x04\x01\0\0\0\0".to_vec();
        pair.server.take_output(&mut out);
        assert_eq!(kinds(&out), [4, 6]);
        pair.wire.borrow_mut().input.extend_from_slice(&out[9..]);
        pair.talk();
    }
}

#[test]
fn the_end_of_the_input_is_the_end_of_the_connection() {
    let mut pair = Pair::new();
    pair.server.end_input();
    pair.turn_server();
    assert_eq!(pair.over, Some(None));
    assert!(matches!(pair.server.turn(OUTPUT_BYTES), Turned::Over(None)));
    let mut ungreeted = Server::new(&SETTINGS);
    ungreeted.end_input();
    assert!(matches!(ungreeted.turn(OUTPUT_BYTES), Turned::Over(Some(_))));
}

#[test]
fn no_more_is_written_than_there_is_place_for_nor_read_until_it_is_taken() {
    let mut pair = Pair::new();
    let (_body, mut send, mut stream) = pair.answered_call();
    assert!(!pair.server.has_unwritten() && !pair.server.has_unread());
    let place = stream.place_for(10_000);
    assert_eq!(place, 10_000);
    stream.send(Chunk::Own(some_bytes(place).into()));
    let mut written = Vec::new();
    for taken in 1..=10 {
        assert!(matches!(pair.server.turn(1000), Turned::Waits));
        let before = written.len();
        pair.server.take_output(&mut written);
        assert_eq!(written.len() - before, 1000);
        assert!(pair.server.has_unwritten(), "{taken}");
    }
    // It has something to answer, and no place for that: it does not read on.
    assert_eq!(pair.server.receive(&b"\0\0\x08\x06\0\0\0\0\0pingpong".repeat(20), 0), Ok(false));
    send.send_data(some_bytes(40_000).into(), false).expect("a stream");
    pair.turn_client();
    let said = mem::take(&mut pair.wire.borrow_mut().output);
    assert_eq!(pair.server.receive(&said, 0), Ok(true));
    assert!(matches!(pair.server.turn(0), Turned::Waits));
    assert!(pair.server.has_unread() && pair.server.has_unwritten() && !pair.server.has_output());
    assert!(matches!(pair.server.turn(OUTPUT_BYTES), Turned::Waits));
    assert!(!pair.server.has_unread() && !pair.server.has_unwritten());
    pair.server.take_output(&mut written);
    assert_eq!(kinds(&written), [&[0][..], &[6; 20]].concat());
}

#[test]
fn what_a_stream_says_is_told_from_what_is_about_the_connection() {
    let mut pair = Pair::new();
    let (_body, mut send, _stream) = pair.answered_call();
    send.send_data(Bytes::from_static(b"said"), false).expect("a stream");
    pair.turn_client();
    let said = mem::take(&mut pair.wire.borrow_mut().output);
    assert_eq!(pair.server.receive(&said, 0), Ok(true));
    assert_eq!(pair.server.receive(b"\0\0\x08\x06\0\0\0\0\0pingpong", 0), Ok(false));
}

#[test]
fn a_frame_that_cannot_be_ends_the_connection_behind_what_came_before_it() {
    for fault in [&b"\0\0\0\x06\0\0\0\0\0"[..], b"\0\0\x07\x06\0\0\0\0\0pingpon"] {
        let mut pair = Pair::new();
        let (body, mut send, mut stream) = pair.answered_call();
        send.send_data(some_bytes(40_000).into(), false).expect("a stream");
        pair.turn_client();
        let said = mem::take(&mut pair.wire.borrow_mut().output);
        // What is said to the client has no place yet, and so neither has the answer to a ping: what is behind that waits.
        let place = stream.place_for(1000);
        stream.send(Chunk::Own(some_bytes(place).into()));
        assert!(matches!(pair.server.turn(0), Turned::Waits));
        let said = [b"\0\0\x08\x06\0\0\0\0\0pingpong", &said[..], fault].concat();
        assert_eq!(pair.server.receive(&said, 0), Ok(true));
        assert_eq!(pair.server.receive(b"\0\0\x08\x06\0\0\0\0\0pingpong", 0), Ok(false));
        assert!(matches!(pair.server.turn(0), Turned::Waits));
        assert!(pair.server.has_unread());
        pair.turn_server();
        assert!(!pair.server.has_unread(), "nothing behind it is looked at");
        assert_eq!(read(&mut stream).0, some_bytes(40_000));
        drop((body, send, stream));
        pair.talk();
        assert_eq!(pair.over, Some(None));
        assert_eq!(pair.client_over, Some(Err(Some(Reason::FRAME_SIZE_ERROR))));
    }
}

#[test]
fn an_end_that_there_is_no_place_for_waits() {
    let mut pair = Pair::new();
    assert_eq!(pair.server.receive(b"\0\0\0\x06\0\0\0\0\0", 0), Ok(false));
    for _ in 0..2 {
        assert!(matches!(pair.server.turn(0), Turned::Waits));
    }
    pair.talk();
    assert_eq!((pair.over, pair.client_over), (Some(None), Some(Err(Some(Reason::FRAME_SIZE_ERROR)))));
}

#[test]
fn what_was_written_of_several_slices_is_told() {
    let wire = Rc::new(RefCell::new(Wire { output_max: 7, ..Wire::default() }));
    let mut io = Io(wire.clone());
    let slices = [&b""[..], b"one", b"", b"four", b"more"].map(io::IoSlice::new);
    let mut write =
        |slices: &[io::IoSlice<'_>]| Pin::new(&mut io).poll_write_vectored(&mut context(), slices);
    assert!(matches!(write(&slices), Poll::Ready(Ok(7))));
    assert!(write(&slices[4..]).is_pending());
    assert!(wire.borrow().was_full);
    assert_eq!(wire.borrow().output, b"onefour");
}

#[test]
fn a_connection_is_ended_for_a_reason() {
    let mut pair = Pair::new();
    pair.server.abort(Reason::ENHANCE_YOUR_CALM);
    pair.talk();
    assert!(pair.over.is_some());
    assert_eq!(pair.client_over, Some(Err(Some(Reason::ENHANCE_YOUR_CALM))));
}

#[test]
fn a_client_understands_that_there_is_no_place_for_it() {
    let mut pair = Pair::ungreeted();
    let refusal = refusal("full");
    assert_eq!(kinds(&refusal), [7]);
    assert!(refusal.ends_with(b"\0\0\0\x0bfull"));
    pair.wire.borrow_mut().input.extend_from_slice(b"\0\0\0\x04\0\0\0\0\0");
    pair.wire.borrow_mut().input.extend_from_slice(&refusal);
    pair.turn_client();
    assert_eq!(pair.client_over, Some(Err(Some(Reason::ENHANCE_YOUR_CALM))));
}

#[test]
fn what_is_still_said_on_streams_that_have_been_ended_ends_no_connection() {
    let mut pair = Pair::ungreeted();
    // h2's own limit is 1,024 in the life of a connection; it remembers 50 streams that were ended.
    pair.server = Server::new(&Settings { control_frames: 100_000, ..SETTINGS });
    pair.talk();
    let (_response, _send, mut lasting) = pair.call();
    for _ in 0..1200 {
        let (_response, mut send, mut stream) = pair.call();
        stream.begin(Response::new(()));
        stream.finish(HeaderMap::new());
        drop(stream);
        pair.turn_server();
        send.send_data(Bytes::from_static(b"on its way"), true).expect("it has not heard of it");
        pair.talk();
    }
    assert_eq!((&pair.over, &pair.client_over), (&None, &None));
    assert!(!lasting.is_reset());
}

#[test]
fn a_peer_that_has_us_write_resets_on_and_on_is_a_flood() {
    let mut pair = Pair::new();
    let _calls: Vec<_> = (0..SETTINGS.streams).map(|_| pair.call()).collect();
    // HEADERS of streams beyond those that it may have: what the first ones said is said again, by the table.
    let mut id = 2 * SETTINGS.streams + 1;
    let mut refused = 0;
    loop {
        let mut bytes = b"\0\0\x04\x01\x04".to_vec();
        bytes.extend(id.to_be_bytes());
        bytes.extend(b"\x82\x87\x84\x41"[..3].iter().chain(b"\x88"));
        id += 2;
        match pair.server.receive(&bytes, 0) {
            Ok(_) => {}
            Err(Flood) => break,
        }
        pair.turn_server();
        let mut answer = Vec::new();
        pair.server.take_output(&mut answer);
        refused += u32::from(kinds(&answer).contains(&3));
        assert!(refused < 1000 && pair.over.is_none(), "{refused}: {:?}", pair.over);
    }
    assert!((90..=SETTINGS.control_frames).contains(&refused), "{refused}");
}
