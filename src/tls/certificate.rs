//! When a certificate ends: the one thing of X.509 that the server itself wants to know. Everything else is checked by those whom
//! it is shown to.

/// Tags of X.690: those that are walked by on the way to the end of the validity, and its two forms.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The second, since the Unix epoch, after which a certificate (DER) is not valid any more: `notAfter` of RFC 5280 section 4.1.2.5.
/// `None` where it cannot be found.
pub fn not_after(certificate: &[u8]) -> Option<u64> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (fields, _) = expect(SEQUENCE, certificate)?;
    let fields = expect(VERSION, fields).map_or(fields, |(_, rest)| rest);
    let (_, _, fields) = element(fields)?; // serialNumber
    let (_, fields) = expect(SEQUENCE, fields)?; // signature
    let (_, fields) = expect(SEQUENCE, fields)?; // issuer
    let (validity, _) = expect(SEQUENCE, fields)?;
    let (_, _, validity) = element(validity)?; // notBefore
    let (tag, text, _) = element(validity)?;
    seconds(tag, text)
}

fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(found, _, _)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// Tag, content and what comes behind the first element of `der` (X.690 section 8.1, definite lengths).
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`, the only forms that RFC 5280 allows.
fn seconds(tag: u8, text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => match number(&digits[..2]) {
            year @ 0..50 => (2000 + year, &digits[2..]),
            year => (1900 + year, &digits[2..]),
        },
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = std::array::from_fn(|nth| number(&rest[2 * nth..2 * nth + 2]));
    if !(1..=12).contains(&month) || !(1970..=9999).contains(&year) {
        return None;
    }
    // Days from a year that begins in March, whose last day alone varies.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_end_is_found() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        for (year, month, day, end) in [
            (1970, 1, 2, 86_400),
            (2026, 11, 20, 1_795_132_800),
            (2049, 12, 31, 2_524_521_600),
            (2100, 3, 1, 4_107_542_400),
        ] {
            let mut parameters = rcgen::CertificateParams::new(["chat.example".to_owned()]).unwrap();
            parameters.not_after = rcgen::date_time_ymd(year, month, day);
            assert_eq!(not_after(parameters.self_signed(&key).unwrap().der()), Some(end), "{year}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>, at: usize, byte: u8) {
            let _ = not_after(&bytes);
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
            let parameters = rcgen::CertificateParams::new(["chat.example".to_owned()]).unwrap();
            let mut certificate = parameters.self_signed(&key).unwrap().der().to_vec();
            let at = at % certificate.len();
            certificate[at] = byte;
            let _ = not_after(&certificate);
        }
    }
}
