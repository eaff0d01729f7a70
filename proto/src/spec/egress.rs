//! What a task may reach by name: the entries of `network.egress`, the destinations that programs ask for, and which
//! entry covers which destination.
//!
//! Entries are written in one way only: who reads a list must not have to think of spellings. Programs write
//! destinations as they like, so those are brought into the same form first. Whatever is neither a name nor a plain
//! address in that form (`2130706433`, `0x7f.1`, a zone id) is refused: resolvers would each make something else of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The ports of an entry that names none.
pub const USUAL_PORTS: [u16; 2] = [443, 80];

/// Bytes of a whole name, and of one of its labels (RFC 1035).
const NAME: usize = 253;
const LABEL: usize = 63;
/// Bytes of the longest text that can be a host and a port.
const TEXT: usize = NAME + 1 + ":65535".len();

const NO_PORT: &str = "the port must be a number from 1 to 65535";
const NO_NAME: &str = "must be a name of letters, digits, '-' and '_' in labels of 1 to 63, at most 253 in all, or an IP address";
const NUMBERS: &str = "ends in a number, but is not an IPv4 address of four decimal numbers";
const BARE_V6: &str = "an IPv6 address stands in brackets and has no zone: [2001:db8::1]:443";

/// A host, in its one spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name: lowercase, ASCII, without a dot at its end.
    Name(String),
    /// An address. Never an IPv4 address that is mapped into IPv6.
    Address(IpAddr),
}

/// A host and a port that a program wants to reach.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The host.
    pub host: Host,
    /// The port; not 0.
    pub port: u16,
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    host: Pattern,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Only(Host),
    /// All names that end in this, which begins with a dot.
    Below(String),
}

impl EgressRule {
    /// Reads an entry: `HOST` or `HOST:PORT`, where the host is a name, `*.NAME` for all names below that one (at any
    /// depth, and not that name itself), an IPv4 address, or an IPv6 address in brackets. Without a port, 443 and 80.
    ///
    /// # Errors
    /// What is wrong with it, to be read after the entry's place.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains('/') {
            return Err("must be HOST or HOST:PORT, without scheme, path or prefix length");
        }
        if text.contains('@') {
            return Err("must not hold credentials");
        }
        if !text.is_ascii() {
            return Err("must be ASCII; write an international name in its xn-- form");
        }
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err("must be lowercase");
        }
        let (host, port) = split(text)?;
        let port = port.map(read_port).transpose()?;
        if let Some(name) = host.strip_prefix("*.") {
            return match plain_host(name)? {
                Host::Name(name) if name.contains('.') => {
                    Ok(Self { host: Pattern::Below(format!(".{name}")), port })
                }
                Host::Name(_) => Err("a wildcard needs at least two labels after it, as in *.example.com"),
                Host::Address(_) => Err("a wildcard stands before a name, not before an address"),
            };
        }
        if host.contains('*') {
            return Err("a wildcard stands only for whole labels in front, as in *.example.com");
        }
        let read = plain_host(host)?;
        let spelt = match &read {
            Host::Name(name) => name == host,
            Host::Address(IpAddr::V4(address)) => address.to_string() == host,
            Host::Address(IpAddr::V6(address)) => format!("[{address}]") == host,
        };
        if !spelt {
            return Err(
                "an address must be in its shortest form, and an IPv4 address is not mapped into IPv6",
            );
        }
        Ok(Self { host: Pattern::Only(read), port })
    }

    /// Whether the entries `list` together cover whatever this one does.
    pub(super) fn is_within(&self, list: &[Self]) -> bool {
        let ports = self.port.map_or(USUAL_PORTS.to_vec(), |port| vec![port]);
        ports
            .iter()
            .all(|port| list.iter().any(|other| other.has_port(*port) && other.host.includes(&self.host)))
    }

    fn has_port(&self, port: u16) -> bool {
        self.port.map_or(USUAL_PORTS.contains(&port), |own| own == port)
    }

    /// Whether the entry covers `destination`.
    #[must_use]
    pub fn covers(&self, destination: &Destination) -> bool {
        self.has_port(destination.port) && self.host.covers(&destination.host)
    }
}

impl Pattern {
    fn covers(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Only(only), host) => only == host,
            (Self::Below(end), Host::Name(name)) => name.len() > end.len() && name.ends_with(end.as_str()),
            (Self::Below(_), Host::Address(_)) => false,
        }
    }

    fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Only(host)) => self.covers(host),
            (Self::Below(end), Self::Below(deeper)) => deeper.ends_with(end.as_str()),
            (Self::Only(_), Self::Below(_)) => false,
        }
    }
}

impl FromStr for Destination {
    type Err = &'static str;

    /// Reads `HOST:PORT` as a program writes it: letters of any case, with or without a dot at a name's end.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') {
            return Err("must not hold credentials");
        }
        let (host, port) = split(text)?;
        let port = read_port(port.ok_or("must be HOST:PORT")?)?;
        let mut host = host.to_ascii_lowercase();
        if host.ends_with('.') {
            host.pop();
        }
        Ok(Self { host: plain_host(&host)?, port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Host and port, neither read yet. The host of an IPv6 address keeps its brackets.
fn split(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    if text.is_empty() {
        return Err("must not be empty");
    }
    if text.len() > TEXT {
        return Err(NO_NAME);
    }
    let end = if text.starts_with('[') {
        text.find(']').ok_or(BARE_V6)? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, rest) = text.split_at(end);
    match rest.strip_prefix(':') {
        Some(port) if port.contains(':') => Err(BARE_V6),
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(BARE_V6),
    }
}

fn read_port(text: &str) -> Result<u16, &'static str> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port != 0).ok_or(NO_PORT)
}

/// A host in lowercase and without a dot at its end; anything else is refused.
fn plain_host(text: &str) -> Result<Host, &'static str> {
    if let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = inside.parse().map_err(|_| BARE_V6)?;
        return Ok(Host::Address(IpAddr::V6(address).to_canonical()));
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Address(address.into()));
    }
    if text.is_empty() || text.len() > NAME || !text.split('.').all(is_label) {
        return Err(NO_NAME);
    }
    // What ends in a number is read as an IPv4 address by many (WHATWG URL, `inet_aton`), each in its own way.
    let last = text.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if hex || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NUMBERS);
    }
    Ok(Host::Name(text.to_owned()))
}

fn is_label(label: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=LABEL).contains(&label.len())
        && label.bytes().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(rule: &str, destination: &str) -> bool {
        EgressRule::parse(rule).unwrap().covers(&destination.parse().unwrap())
    }

    #[test]
    fn an_entry_is_a_host_with_or_without_a_port_in_its_one_spelling() {
        let longest =
            format!("{}.com", ["a".repeat(62), "b".repeat(62), "c".repeat(62), "d".repeat(60)].join("."));
        assert_eq!(longest.len(), NAME);
        for good in [
            "api.example.com",
            "api.example.com:1",
            "api.example.com:65535",
            "*.example.com:8443",
            "*.a.b.example.com",
            "xn--bcher-kva.example",
            "my_bucket.s3.example.com",
            "localhost:8080",
            "1password.com",
            "0x.example",
            "203.0.113.7:443",
            "[2606:4700::1111]",
            "[2606:4700::1111]:853",
            &longest,
            &format!("{longest}:65535"),
        ] {
            assert!(EgressRule::parse(good).is_ok(), "{good}: {:?}", EgressRule::parse(good));
        }
        for bad in [
            "",
            "https://example.com",
            "example.com/path",
            "10.0.0.0/8",
            "user@example.com",
            "user:password@example.com:443",
            "Example.com",
            "bücher.example",
            "example.com.",
            ".example.com",
            "a..b",
            "-a.example",
            "a-.example",
            "exa mple.com",
            "example.com\r\nx: y",
            "example.com\0",
            "example.com%00",
            "example.com?x",
            "example.com#x",
            "example.com:",
            "example.com:0",
            "example.com:065",
            "example.com:+80",
            "example.com:65536",
            "example.com:99999999999",
            "example.com:http",
            "example.com:80:80",
            ":443",
            "*",
            "*:443",
            "*.com",
            "*.*.com",
            "*example.com",
            "a.*.example.com",
            "*.203.0.113.7",
            "*.[2606:4700::1]",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "127.1",
            "127.0.0.0x1",
            "0177.0.0.1",
            "1.2.3.4.5",
            "256.0.0.1",
            "example.1",
            "0x",
            "2606:4700::1111",
            "[2606:4700::1111",
            "[2606:4700::1111]443",
            "[2606:4700:0:0::1111]",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]:443",
            "[::ffff:203.0.113.7]",
            "[example.com]:443",
            "[]",
            &format!("a{longest}"),
            &"a".repeat(64),
            &"a".repeat(1 << 20),
        ] {
            assert!(EgressRule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_entry_without_a_port_is_for_the_two_of_the_web() {
        assert!(covers("example.com", "example.com:443") && covers("example.com", "example.com:80"));
        assert!(!covers("example.com", "example.com:22") && !covers("example.com", "example.com:8443"));
        assert!(covers("example.com:22", "example.com:22") && !covers("example.com:22", "example.com:443"));
    }

    #[test]
    fn a_wildcard_is_for_what_is_below_and_for_nothing_beside_it() {
        for inside in ["a.example.com:443", "b.a.example.com:443", "A.EXAMPLE.com.:443"] {
            assert!(covers("*.example.com", inside), "{inside}");
        }
        for outside in [
            "example.com:443",
            "badexample.com:443",
            "example.com.evil.test:443",
            "203.0.113.7:443",
            "a.example.com:22",
        ] {
            assert!(!covers("*.example.com", outside), "{outside}");
        }
    }

    #[test]
    fn a_destination_is_the_same_however_it_is_spelt() {
        for spelling in ["example.com:443", "EXAMPLE.com:443", "Example.Com.:443"] {
            assert!(covers("example.com", spelling), "{spelling}");
            assert_eq!(spelling.parse::<Destination>().unwrap().to_string(), "example.com:443");
        }
        for spelling in ["[2606:4700:0::1111]:443", "[2606:4700:0000:0:0:0:0:1111]:443"] {
            assert!(covers("[2606:4700::1111]", spelling), "{spelling}");
        }
        assert!(covers("203.0.113.7", "[::ffff:203.0.113.7]:443"));
        assert!(covers("203.0.113.7", "[::ffff:cb00:7107]:443"));
    }

    #[test]
    fn what_could_be_understood_in_two_ways_is_no_destination() {
        for bad in [
            "",
            "example.com",
            "example.com:",
            "example.com:0",
            "example.com:-1",
            "example.com:65536",
            "example.com..:443",
            ".:443",
            ":443",
            "*.example.com:443",
            "user@example.com:443",
            "user:pw@example.com:443",
            "example.com:443@evil.test:443",
            "example.com:443/x",
            "example.com\r\nhost: x:443",
            "example.com%2eevil.test:443",
            "2130706433:80",
            "0x7f.1:80",
            "0x7f000001:80",
            "127.1:80",
            "0177.0.0.1:80",
            "127.0.0.01:80",
            "127.0.0.1.:80\u{0}",
            "[::1%lo]:80",
            "[fe80::1%25eth0]:80",
            "::1:80",
            "[::1]80",
            "①②⑦.0.0.1:80",
            "example。com:80",
        ] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
