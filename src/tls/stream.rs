//! One encrypted connection.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::{Connection, Error, HandshakeKind, ServerConfig, ServerConnection};

use super::ClientSettings;

/// The most plaintext of one record (RFC 8446 section 5.1), and the most that a record is longer than that on the wire (5.2, and RFC
/// 5246 section 6.2.3, with the head of 5 bytes).
const RECORD_BYTES: usize = 16_384;
const RECORD_OVERHEAD: usize = 2048 + 5;

/// How much more plaintext than ciphertext one call of [`Tls::decrypt`] can give: the rest of one record came before.
pub const INPUT_OVERHEAD: usize = RECORD_BYTES + RECORD_OVERHEAD;

/// How many bytes of plaintext are encrypted ahead of what the socket takes. One record: what a slow reader does not take waits in
/// the queue, in bytes that it shares with others, and not here in bytes of its own.
const OUTPUT_BYTES: usize = RECORD_BYTES;

/// The most ciphertext that can wait here: that record, and a handshake or what is said beside the data.
const OUTPUT_BYTES_MAX: usize = 2 * INPUT_OVERHEAD;

/// One end of an encrypted connection.
#[derive(Debug)]
pub struct Tls {
    connection: Connection,
    failure: Option<Error>,
    has_heard_end: bool,
    /// Whether the end of our side has been said.
    has_said_end: bool,
    /// Whether what has been said is behind us: nothing more may be written.
    pub is_output_over: bool,
}

impl Tls {
    /// The server's end of a connection that has just been accepted.
    ///
    /// # Errors
    /// When the settings contradict themselves.
    pub fn accept(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::new(Connection::Server(ServerConnection::new(config)?)))
    }

    /// The client's end of a connection that is being made. It has something to say at once.
    ///
    /// # Errors
    /// When the settings contradict themselves.
    pub fn connect(settings: &ClientSettings) -> Result<Self, Error> {
        let connection = rustls::ClientConnection::new(settings.config.clone(), settings.name.clone())?;
        Ok(Self::new(Connection::Client(connection)))
    }

    fn new(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(OUTPUT_BYTES));
        Tls { connection, failure: None, has_heard_end: false, has_said_end: false, is_output_over: false }
    }

    /// Whether both ends have not agreed yet: nothing can be said before they have.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the handshake went on from an earlier connection, without a certificate.
    pub fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Takes all of `ciphertext`, and puts what it says into `plaintext`, which has place for [`INPUT_OVERHEAD`] bytes more than that.
    /// Returns how many bytes that were. What comes behind a failure, or behind the end of the peer's side, is passed over.
    ///
    /// # Panics
    /// Where `plaintext` is too short.
    pub fn decrypt(&mut self, mut ciphertext: &[u8], plaintext: &mut [u8]) -> usize {
        assert!(plaintext.len() >= ciphertext.len() + INPUT_OVERHEAD, "no place for what may come");
        let mut filled = 0;
        while !ciphertext.is_empty() && self.failure.is_none() {
            match self.connection.read_tls(&mut ciphertext) {
                Ok(0) => break, // the peer has ended its side
                Ok(_) => {}
                Err(error) => {
                    self.failure = Some(Error::General(error.to_string()));
                    break;
                }
            }
            match self.connection.process_new_packets() {
                Ok(state) => self.has_heard_end = state.peer_has_closed(),
                Err(error) => self.failure = Some(error),
            }
            // Ends with `WouldBlock`, or with 0 behind the end of the peer's side.
            while let Ok(bytes @ 1..) = self.connection.reader().read(&mut plaintext[filled..]) {
                filled += bytes;
            }
        }
        // A buffer that has grown for a long record is given back: most connections are silent for long.
        let _ = self.connection.read_tls(&mut Silence);
        filled
    }

    /// Why nothing that comes can be understood any more. The alert that tells the peer waits to be written.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Whether the peer has said that its side has ended (`close_notify`).
    pub fn has_heard_end(&self) -> bool {
        self.has_heard_end
    }

    /// Encrypts from `slices`, in order, as much as may wait here, and returns how many bytes.
    pub fn encrypt(&mut self, slices: &[IoSlice<'_>]) -> usize {
        // Fails only where the connection has, and says nothing then.
        self.connection.writer().write_vectored(slices).unwrap_or(0)
    }

    /// Says that our side ends, once. What was said before it goes before it.
    pub fn say_end(&mut self) {
        if !std::mem::replace(&mut self.has_said_end, true) {
            self.connection.send_close_notify();
        }
    }

    /// Whether that has been said.
    pub fn has_said_end(&self) -> bool {
        self.has_said_end
    }

    /// Whether ciphertext waits to be written.
    pub fn has_output(&self) -> bool {
        self.connection.wants_write()
    }

    /// Writes ciphertext to `out`, once, and returns how many bytes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_output(&mut self, out: &mut impl Write) -> io::Result<usize> {
        self.connection.write_tls(out)
    }

    /// How many of the bytes that went through [`Tls::encrypt`] the peer may not have, at the most, where its kernel has not acknowledged
    /// so many bytes of ciphertext. A record of which the last byte is missing is missing as a whole.
    pub fn unacknowledged(&self, ciphertext: usize) -> usize {
        let waiting = if self.has_output() { OUTPUT_BYTES_MAX } else { 0 };
        match ciphertext + waiting {
            0 => 0,
            bytes => bytes + RECORD_BYTES,
        }
    }
}

/// A source that has nothing now.
struct Silence;

impl Read for Silence {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}
