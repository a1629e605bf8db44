//! The PROXY protocol (haproxy.org, "The PROXY protocol", versions 1 and 2): the first bytes on a connection by which a proxy tells
//! for whom it connects.

use std::net::IpAddr;

use ppp::{v1, v2};

/// The longest header of version 1, as the protocol has it (section 2.1).
const V1_BYTES_MAX: usize = 107;

/// How version 2 begins, and what is of the same length in every header of it (section 2.2).
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;

/// The most bytes behind these that are taken: addresses, and what a proxy adds to them, such as the name that TLS asked for.
const V2_REST_BYTES_MAX: usize = 4096;

/// What does not begin like a header, or is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation;

/// For whom a proxy connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A client with this address.
    Client(IpAddr),
    /// The proxy itself, to see whether we are there; or a client of which it does not tell.
    Proxy,
}

/// Reads the header of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    kept: Vec<u8>,
}

impl Decoder {
    /// Takes bytes from the front of `input` up to the end of the header; returns how many, and what it says. Without it all of
    /// `input` was taken.
    pub fn decode(&mut self, input: &[u8]) -> Result<(usize, Option<Source>), Violation> {
        let mut taken = 0;
        loop {
            let wanted = wanted(&self.kept)?;
            let part = &input[taken..][..(wanted - self.kept.len()).min(input.len() - taken)];
            if part.is_empty() {
                if wanted > self.kept.len() {
                    return Ok((taken, None));
                }
                let header = std::mem::take(&mut self.kept);
                return Ok((taken, Some(read(&header)?)));
            }
            self.kept.extend_from_slice(part);
            taken += part.len();
        }
    }
}

/// How many bytes a header has that begins with `bytes`, as far as that is known: at least one more than `bytes` until it is whole.
fn wanted(bytes: &[u8]) -> Result<usize, Violation> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, other)| byte == other);
    if bytes.is_empty() {
        return Ok(1); // which tells the version
    }
    if begins(&V2_SIGNATURE) {
        let Some(fixed) = bytes.first_chunk::<V2_FIXED_BYTES>() else { return Ok(V2_FIXED_BYTES) };
        let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        return if rest > V2_REST_BYTES_MAX { Err(Violation) } else { Ok(V2_FIXED_BYTES + rest) };
    }
    if !begins(b"PROXY ") || bytes.len() > V1_BYTES_MAX {
        return Err(Violation);
    }
    // A byte at a time: what comes behind the line is not the header's.
    Ok(if bytes.ends_with(b"\r\n") { bytes.len() } else { bytes.len() + 1 })
}

fn read(header: &[u8]) -> Result<Source, Violation> {
    if header.first() == Some(&b'P') {
        // The crate takes a number with a sign before it.
        if header.starts_with(b"PROXY TCP") && header.contains(&b'+') {
            return Err(Violation);
        }
        let header = v1::Header::try_from(header).map_err(|_| Violation)?;
        return Ok(match header.addresses {
            v1::Addresses::Tcp4(addresses) => Source::Client(addresses.source_address.into()),
            v1::Addresses::Tcp6(addresses) => Source::Client(canonical(addresses.source_address.into())),
            v1::Addresses::Unknown => Source::Proxy,
        });
    }
    let header = v2::Header::try_from(header).map_err(|_| Violation)?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => {
            Source::Client(addresses.source_address.into())
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => {
            Source::Client(canonical(addresses.source_address.into()))
        }
        _ => Source::Proxy,
    })
}

/// An IPv4 address as one, also where a proxy writes it as IPv6.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(bytes: &[u8], chunk: usize) -> Result<(usize, Option<Source>), Violation> {
        let mut decoder = Decoder::default();
        let mut at = 0;
        for part in bytes.chunks(chunk) {
            let (taken, source) = decoder.decode(part)?;
            at += taken;
            if source.is_some() {
                return Ok((at, source));
            }
        }
        Ok((at, None))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn headers_of_both_versions_in_any_pieces() {
        let client = |text: &str| Some(Source::Client(text.parse().unwrap()));
        let four = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        let mut six = [0; 36];
        six[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        six[15] = 7;
        let mut with_more = four.to_vec();
        with_more.extend([0x02, 0, 4, b'h', b'o', b's', b't']);
        let headers = [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n".to_vec(), client("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::7 ::1 4660 80\r\n".to_vec(), client("2001:db8::7")),
            (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4660 80\r\n".to_vec(), client("192.0.2.1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Some(Source::Proxy)),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), Some(Source::Proxy)),
            (v2(1, 0x11, &four), client("192.0.2.1")),
            (v2(1, 0x11, &with_more), client("192.0.2.1")),
            (v2(1, 0x21, &six), client("2001:db8::7")),
            (v2(0, 0x11, &four), Some(Source::Proxy)),
            (v2(0, 0x00, &[]), Some(Source::Proxy)),
            (v2(1, 0x31, &[b'x'; 216]), Some(Source::Proxy)),
        ];
        for (header, source) in headers {
            for chunk in [1, 2, 7, 1000] {
                let mut bytes = header.clone();
                bytes.extend_from_slice(b"\xffGET / HTTP/1.1\r\n\r\n");
                assert_eq!(decoded(&bytes, chunk), Ok((header.len(), source)), "{}", header.escape_ascii());
                for cut in 0..header.len() {
                    assert_eq!(decoded(&header[..cut], chunk), Ok((cut, None)));
                }
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.1\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 99999\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 +4660 80\r\n",
            b"PROXY TCP5 192.0.2.1 10.0.0.1 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\r",
            &v2(1, 0x11, &[0; 11]),
            &v2(7, 0x11, &[0; 12]),
            &v2(1, 0x11, &[0; 5000]),
            &[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(),
        ] {
            for chunk in [1, 1000] {
                assert_eq!(decoded(bytes, chunk), Err(Violation), "{}", bytes.escape_ascii());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused_alike(
            begin in prop_oneof![Just(b"PROXY TCP4 ".to_vec()), Just(v2(1, 0x11, &[1; 12])), Just(Vec::new())],
            rest in prop::collection::vec(any::<u8>(), 0..300),
            chunk in 1usize..50,
        ) {
            let bytes = [begin, rest].concat();
            prop_assert_eq!(decoded(&bytes, chunk), decoded(&bytes, 1));
        }
    }
}
