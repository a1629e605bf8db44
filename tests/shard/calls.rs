//! Clients of gRPC: h2's side of a connection, in memory, and the calls on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::{io, mem};

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use starling::config::ListenKind;
use starling::proto::protobuf::schema;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::cores::{Client, Cores};

/// Rounds in which an exchange comes to rest.
const ROUNDS_MAX: usize = 1000;

const PREFIX_BYTES: usize = 5;

/// What is on its way between a client and its server.
#[derive(Default)]
struct Wire {
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    has_ended: bool,
}

struct Io(Rc<RefCell<Wire>>);

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        if wire.to_client.is_empty() && !wire.has_ended {
            return Poll::Pending;
        }
        let count = wire.to_client.len().min(buffer.remaining());
        buffer.put_slice(&wire.to_client.drain(..count).collect::<Vec<u8>>());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().to_server.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A connection of a client.
pub struct Caller {
    pub client: Client,
    wire: Rc<RefCell<Wire>>,
    connection: Connection<Io, Bytes>,
    requests: SendRequest<Bytes>,
    /// With which error the connection has ended, if it has.
    pub over: Option<Option<Reason>>,
    calls: Vec<Call>,
}

/// One of its calls.
#[derive(Default)]
struct Call {
    response: Option<ResponseFuture>,
    send: Option<SendStream<Bytes>>,
    body: Option<RecvStream>,
    partial: Vec<u8>,
    messages: Vec<Vec<u8>>,
    head: Option<HeaderMap>,
    http_status: u16,
    end: Option<End>,
    /// Whether nobody takes what has come.
    is_deaf: bool,
}

/// How a call has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With these trailers.
    Trailers(BTreeMap<String, String>),
    /// By a reset of its stream, or of the connection.
    Reset(Option<Reason>),
}

impl Caller {
    /// A client has connected, and both have greeted.
    pub fn new(cores: &mut Cores, core: usize) -> Caller {
        let client = cores.connect(core, ListenKind::Grpc);
        let wire = Rc::new(RefCell::new(Wire::default()));
        // A call that takes nothing is to be in nobody's way.
        let handshake = Builder::new().initial_connection_window_size(1 << 24).handshake(Io(wire.clone()));
        let Poll::Ready(Ok((requests, connection))) = Box::pin(handshake).as_mut().poll(&mut context())
        else {
            panic!("a client begins without waiting");
        };
        let mut caller = Caller { client, wire, connection, requests, over: None, calls: Vec::new() };
        caller.exchange(cores);
        caller
    }

    /// Goes on until nobody has more to say.
    pub fn exchange(&mut self, cores: &mut Cores) {
        for _ in 0..ROUNDS_MAX {
            self.go_on();
            for call in &mut self.calls {
                call.look();
            }
            self.go_on(); // what has been taken makes place for more
            let said = mem::take(&mut self.wire.borrow_mut().to_server);
            if !said.is_empty() {
                cores.receive(self.client, &said);
            }
            let is_unsent = cores.shards[self.client.core].has_unsent();
            if is_unsent {
                cores.settle(); // what calls have said reaches their connection in the turn after
            }
            let heard = cores.bytes(self.client);
            let mut wire = self.wire.borrow_mut();
            wire.to_client.extend_from_slice(&heard);
            let has_ended = mem::replace(&mut wire.has_ended, cores.is_over(self.client));
            if said.is_empty() && heard.is_empty() && !is_unsent && has_ended == wire.has_ended {
                return;
            }
        }
        panic!("they do not come to rest");
    }

    /// Lets the library do what it can.
    fn go_on(&mut self) {
        if self.over.is_none()
            && let Poll::Ready(end) = Pin::new(&mut self.connection).poll(&mut context())
        {
            self.over = Some(end.err().and_then(|error| error.reason()));
        }
    }

    /// Calls a method with this metadata, says these messages at once, and no more if that is all. The number of the call.
    pub fn call(
        &mut self,
        cores: &mut Cores,
        path: &str,
        metadata: &[(&str, &str)],
        messages: &[Vec<u8>],
        ends: bool,
    ) -> usize {
        let number = self.begin(request(path, metadata), messages, ends);
        self.exchange(cores);
        number
    }

    /// The same, of which the server hears when something is exchanged next.
    pub fn begin(&mut self, request: Request<()>, messages: &[Vec<u8>], ends: bool) -> usize {
        let _ = self.requests.poll_ready(&mut context());
        let is_all = ends && messages.is_empty();
        let (response, send) = self.requests.send_request(request, is_all).expect("it may call");
        self.calls.push(Call { response: Some(response), send: Some(send), ..Call::default() });
        let number = self.calls.len() - 1;
        if !messages.is_empty() {
            self.say_all(number, messages, ends);
        }
        number
    }

    fn say_all(&mut self, call: usize, messages: &[Vec<u8>], ends: bool) {
        let framed = |message: &Vec<u8>| [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        self.send(call, messages.iter().flat_map(framed).collect(), ends);
    }

    fn send(&mut self, call: usize, bytes: Vec<u8>, ends: bool) {
        let send = self.calls[call].send.as_mut().expect("it has begun");
        send.send_data(bytes.into(), ends).expect("it may say something");
    }

    /// Says a message.
    pub fn say(&mut self, cores: &mut Cores, call: usize, message: &impl Message) {
        self.say_all(call, &[message.encode_to_vec()], false);
        self.exchange(cores);
    }

    /// Says these bytes, which need not be messages.
    pub fn say_bytes(&mut self, cores: &mut Cores, call: usize, bytes: &[u8]) {
        self.send(call, bytes.to_vec(), false);
        self.exchange(cores);
    }

    /// Says no more.
    pub fn end(&mut self, cores: &mut Cores, call: usize) {
        self.send(call, Vec::new(), true);
        self.exchange(cores);
    }

    /// Takes a call back.
    pub fn cancel(&mut self, cores: &mut Cores, call: usize) {
        self.calls[call].send.as_mut().expect("it has begun").send_reset(Reason::CANCEL);
        self.exchange(cores);
    }

    /// Takes nothing any more of what a call hears, or does again.
    pub fn deafen(&mut self, call: usize, is_deaf: bool) {
        self.calls[call].is_deaf = is_deaf;
    }

    /// The messages that a call has heard since somebody looked, as bytes.
    pub fn heard_bytes(&mut self, cores: &mut Cores, call: usize) -> Vec<Vec<u8>> {
        self.exchange(cores);
        mem::take(&mut self.calls[call].messages)
    }

    /// The same, read.
    pub fn heard<M: Message + Default>(&mut self, cores: &mut Cores, call: usize) -> Vec<M> {
        let messages = self.heard_bytes(cores, call);
        messages.iter().map(|message| M::decode(&message[..]).expect("a message of this type")).collect()
    }

    /// How a call has ended, if it has.
    pub fn end_of(&mut self, cores: &mut Cores, call: usize) -> Option<End> {
        self.exchange(cores);
        self.calls[call].end.clone()
    }

    /// The status that a call has ended with, and the word for it; `None` while it goes on.
    pub fn status(&mut self, cores: &mut Cores, call: usize) -> Option<(u16, String)> {
        match self.end_of(cores, call)? {
            End::Trailers(trailers) => {
                let status = trailers["grpc-status"].parse().expect("a number");
                Some((status, trailers.get("reason").cloned().unwrap_or_default()))
            }
            End::Reset(reason) => panic!("reset: {reason:?}"),
        }
    }

    /// A field of the trailers of a call that has ended.
    pub fn trailer(&mut self, cores: &mut Cores, call: usize, name: &str) -> Option<String> {
        match self.end_of(cores, call) {
            Some(End::Trailers(trailers)) => trailers.get(name).cloned(),
            other => panic!("{other:?}"),
        }
    }

    /// The status of HTTP that a call's answer begins with, once it does.
    pub fn http_status(&mut self, cores: &mut Cores, call: usize) -> Option<u16> {
        self.exchange(cores);
        let call = &self.calls[call];
        call.head.is_some().then_some(call.http_status)
    }
}

impl Call {
    /// Takes what has come.
    fn look(&mut self) {
        if let Some(response) = &mut self.response
            && let Poll::Ready(answer) = Pin::new(response).poll(&mut context())
        {
            self.response = None;
            match answer {
                Ok(answer) => {
                    self.http_status = answer.status().as_u16();
                    self.head = Some(answer.headers().clone());
                    self.body = Some(answer.into_body());
                }
                Err(error) => self.end = Some(End::Reset(error.reason())),
            }
        }
        let Some(body) = self.body.as_mut().filter(|_| !self.is_deaf) else { return };
        loop {
            match body.poll_data(&mut context()) {
                Poll::Ready(Some(Ok(bytes))) => {
                    let _ = body.flow_control().release_capacity(bytes.len());
                    self.partial.extend_from_slice(&bytes);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end = Some(End::Reset(error.reason()));
                    self.body = None;
                    break;
                }
                Poll::Ready(None) => {
                    let trailers = match body.poll_trailers(&mut context()) {
                        Poll::Ready(Ok(Some(trailers))) => trailers,
                        // Nothing but a head, which is the trailers too.
                        _ => self.head.clone().expect("it has begun"),
                    };
                    let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
                    let fields = trailers.iter().map(|(name, value)| (name.to_string(), text(value)));
                    self.end = Some(End::Trailers(fields.collect()));
                    self.body = None;
                    break;
                }
                Poll::Pending => break,
            }
        }
        while let Some(prefix) = self.partial.first_chunk::<PREFIX_BYTES>() {
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            if self.partial.len() < PREFIX_BYTES + length {
                break;
            }
            let message: Vec<u8> = self.partial.drain(..PREFIX_BYTES + length).collect();
            assert_eq!(message[0], 0, "not compressed");
            self.messages.push(message[PREFIX_BYTES..].to_vec());
        }
    }
}

/// The request that calls a method with this metadata.
pub fn request(path: &str, metadata: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method("POST").uri(format!("http://localhost{path}"));
    if metadata.iter().all(|(name, _)| *name != "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in metadata {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}

/// What somebody says in a room.
pub fn said(user_id: &str, room: &str, content: &str) -> schema::Message {
    schema::Message {
        user_id: user_id.into(),
        room: room.into(),
        content: content.into(),
        ..schema::Message::default()
    }
}

/// One message to be sent, as a request.
pub fn sent(message: schema::Message) -> Vec<u8> {
    schema::SendMessageRequest { message: Some(message) }.encode_to_vec()
}

/// A status with the word for it.
pub fn status(code: u16, reason: &str) -> Option<(u16, String)> {
    Some((code, reason.to_owned()))
}
