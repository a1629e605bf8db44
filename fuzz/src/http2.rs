//! HTTP/2: any frames behind a proper beginning, to a service that repeats what it is told, and reads gRPC's messages in it.

use starling::proto::grpc;
use starling::proto::http2::{Chunk, Read, Server, Settings, Stream, Turned};

use super::codec::CUTS;

const SETTINGS: Settings = Settings {
    streams: 8,
    header_bytes: 4096,
    stream_window_bytes: 65_535,
    connection_window_bytes: 65_535,
    send_buffer_bytes: 4096,
    pending_resets: 4,
    control_frames: 100,
    small_frames: 1000,
};

/// How a client begins, without what it then says: RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How much may wait to be written. One frame may go beyond it, and what is written for us by h2 when a connection ends.
const OUTPUT_BYTES: usize = 4096;
const OUTPUT_BYTES_MAX: usize = OUTPUT_BYTES + 16_384 + 4096;

/// More turns than a chunk can ask for.
const TURNS_MAX: usize = 100_000;

struct Call {
    stream: Stream,
    messages: grpc::Decoder,
    to_say: Vec<u8>,
    is_heard: bool,
}

/// However the frames are cut, the server neither panics nor spins, what it writes is whole frames and never much at a time, and there are never more
/// streams than were allowed.
pub fn run(input: &[u8]) {
    for cut in CUTS {
        let mut server = Server::new(&SETTINGS);
        let mut calls: Vec<Call> = Vec::new();
        let mut output = Vec::new();
        let whole = [PREFACE, input].concat();
        let mut goes_on = true;
        for (at, chunk) in cut.chunks(&whole).into_iter().enumerate() {
            if server.receive(chunk, at as u64).is_err() {
                goes_on = false;
                server.abort(starling::proto::http2::Reason::ENHANCE_YOUR_CALM);
            }
            goes_on &= serve(&mut server, &mut calls, &mut output);
            if !goes_on {
                break;
            }
        }
        if goes_on {
            server.end_input();
            serve(&mut server, &mut calls, &mut output);
        }
        drop(calls);
        check(&output);
    }
}

/// Goes on until there is nothing more to do; says whether the connection does.
fn serve(server: &mut Server, calls: &mut Vec<Call>, output: &mut Vec<u8>) -> bool {
    for _ in 0..TURNS_MAX {
        let turned = server.turn(OUTPUT_BYTES);
        let mut written = Vec::new();
        server.take_output(&mut written);
        assert!(written.len() <= OUTPUT_BYTES_MAX, "{} bytes at once", written.len());
        output.extend_from_slice(&written);
        match turned {
            Turned::Opened(request, stream) => {
                assert!(request.headers().len() <= SETTINGS.header_bytes as usize / 32);
                let _ = (grpc::is_call(request.headers()), grpc::timeout_ms(request.headers()));
                let _ = grpc::Method::at(request.uri().path());
                calls.push(Call {
                    stream,
                    messages: grpc::Decoder::new(4096),
                    to_say: Vec::new(),
                    is_heard: false,
                });
                assert!(calls.len() <= 2 * SETTINGS.streams as usize, "{} streams are open", calls.len());
            }
            Turned::Over(_) => return false,
            Turned::Waits => {
                let before = calls.len();
                let mut has_moved = false;
                calls.retain_mut(|call| advance(call, &mut has_moved));
                if before == calls.len() && !has_moved && !server.has_unwritten() && !server.has_output() {
                    return true;
                }
            }
        }
    }
    panic!("the connection does not come to rest");
}

/// Goes on with a call; says whether it does.
fn advance(call: &mut Call, has_moved: &mut bool) -> bool {
    if call.stream.is_reset() {
        return false;
    }
    while !call.is_heard {
        match call.stream.read() {
            Read::Data(bytes) => {
                *has_moved = true;
                let mut at = 0;
                while at < bytes.len() {
                    match call.messages.decode(&bytes[at..]) {
                        Ok((taken, message)) => {
                            at += taken;
                            if let Some(message) = message {
                                let _ = grpc::read_message(message);
                                grpc::put(&mut call.to_say, |out| out.extend_from_slice(message));
                            }
                        }
                        Err(_) => {
                            call.stream.answer(grpc::not_a_call());
                            return false;
                        }
                    }
                }
            }
            Read::Waits => break,
            Read::End => call.is_heard = true,
            Read::Reset => return false,
        }
    }
    if !call.stream.has_begun() && (call.is_heard || !call.to_say.is_empty()) {
        call.stream.begin(grpc::head());
        *has_moved = true;
    }
    let place = call.stream.place_for(call.to_say.len());
    if place > 0 {
        *has_moved = true;
        let part: Vec<u8> = call.to_say.drain(..place).collect();
        call.stream.send(Chunk::Own(part.into()));
    }
    if call.is_heard && call.to_say.is_empty() {
        call.stream.finish(grpc::Status::OK.trailers());
        return false;
    }
    true
}

fn check(mut output: &[u8]) {
    while !output.is_empty() {
        assert!(output.len() >= 9, "half a frame's header");
        let length = u32::from_be_bytes([0, output[0], output[1], output[2]]) as usize;
        assert!(output.len() >= 9 + length && output[3] <= 9, "no whole frame");
        output = &output[9 + length..];
    }
}
