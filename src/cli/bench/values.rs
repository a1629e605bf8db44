//! Values of flags that are more than a number.

use std::net::{IpAddr, Ipv4Addr};

/// Addresses that one range may name.
const ADDRESSES_MAX: u32 = 65_536;

/// Reads `1` or `0,2-3`.
pub fn cpus(flag: &str, text: &str) -> Result<Vec<usize>, String> {
    let wrong = || format!("{flag}: {text:?} is no list of processors: write 0 or 0,2-3");
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|cpu| *cpu < 1024);
        let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
        if last < first {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// Reads `127.0.0.2-127.0.0.20`, or addresses with commas between.
pub fn sources(text: &str) -> Result<Vec<IpAddr>, String> {
    let wrong = || {
        format!(
            "--sources: {text:?} is no range of addresses: write 127.0.0.2-127.0.0.20, or some with commas between"
        )
    };
    let mut addresses = Vec::new();
    for part in text.split(',') {
        let part = part.trim();
        if let Some((first, last)) = part.split_once('-') {
            let number = |text: &str| text.trim().parse::<Ipv4Addr>().ok().map(u32::from);
            let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
            if last < first || last - first >= ADDRESSES_MAX {
                return Err(wrong());
            }
            addresses.extend((first..=last).map(|number| IpAddr::V4(number.into())));
        } else {
            addresses.push(part.parse().map_err(|_| wrong())?);
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(cpus("--cpus", "0,2-4").unwrap(), [0, 2, 3, 4]);
        assert_eq!(sources("127.0.0.254-127.0.1.1,::1").unwrap().len(), 5);
        for text in ["", "a", "3-1", "1-", "-1", "99999"] {
            assert!(cpus("--cpus", text).unwrap_err().contains("--cpus"), "{text}");
        }
        for text in ["", "127.0.0.1-", "127.0.0.9-127.0.0.1", "0.0.0.0-255.255.255.255"] {
            assert!(sources(text).is_err(), "{text}");
        }
    }
}
