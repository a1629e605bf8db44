//! What a kernel knows of a connection by TCP, as numbers.

/// A few of the figures of tcp(7)'s `TCP_INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// The round trip, smoothed, in microseconds.
    pub rtt_us: u32,
    /// How much that varies, in microseconds.
    pub rtt_var_us: u32,
    /// Segments sent again, since the connection began.
    pub retransmits: u32,
    /// Segments that are on their way or lost: sent, and not acknowledged.
    pub unacked: u32,
}
