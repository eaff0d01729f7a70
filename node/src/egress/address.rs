//! Which addresses a task may reach: public ones, and those that the node's operator opened.
//!
//! An address can be written inside another (mapped, compatible, NAT64, 6to4, Teredo), and somebody on the way may unwrap it. So
//! a form that holds an IPv4 address is at best what that is, and where nobody needs the form it is refused whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Why an address is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    /// What it is, after the name of the host.
    pub(super) text: &'static str,
    /// Whether an operator may open it.
    pub(super) may_open: bool,
}

impl Closed {
    /// For an address that may be public and is the node's own all the same, where its own services listen.
    pub(super) const fn own_machine() -> Self {
        Self { text: "has an address of the node's own machine", may_open: true }
    }

    pub(super) const fn hint(self) -> &'static str {
        if self.may_open { ", unless the node's operator opens their range (--egress-allow)" } else { "" }
    }
}

const fn closed(text: &'static str) -> Option<Closed> {
    Some(Closed { text, may_open: true })
}

/// Not even for operators: where metadata services give credentials away, or where an address means something else than a host.
const fn never(text: &'static str) -> Option<Closed> {
    Some(Closed { text, may_open: false })
}

/// Whether tasks may not reach `address`, given the ranges that were opened.
pub(super) fn is_closed(address: IpAddr, opened: &[IpNet]) -> Option<Closed> {
    let address = address.to_canonical();
    let why = match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }?;
    (!why.may_open || !is_opened(address, opened)).then_some(why)
}

/// The host that `address` leads to: an IPv4 address can be reached in IPv6, too, through a translator (NAT64).
pub(super) fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => match address.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low).into(),
            _ => address.into(),
        },
        address @ IpAddr::V4(_) => address,
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

/// Whether one of the ranges that were opened holds `address`.
pub(super) fn is_opened(address: IpAddr, opened: &[IpNet]) -> bool {
    let address = address.to_canonical();
    opened.iter().any(|range| range.contains(&address))
}

fn v4(address: Ipv4Addr) -> Option<Closed> {
    match address.octets() {
        [0, ..] => never("has no address (0.0.0.0/8)"),
        [169, 254, ..] => never("has a link-local address, where metadata services are"),
        // Azure, Alibaba, Oracle: theirs are elsewhere.
        [168, 63, 129, 16] | [100, 100, 100, 200] | [192, 0, 0, 192] => never("is a metadata service"),
        [224..=239, ..] => never("has a multicast address"),
        [255, 255, 255, 255] => never("has the broadcast address"),
        [127, ..] => closed("has a loopback address"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => closed("has a private address"),
        [100, 64..=127, ..] => closed("has an address of a carrier's private range"),
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            closed("has an address that is reserved for documentation, tests or protocols")
        }
        [240..=255, ..] => closed("has a reserved address"),
        _ => None,
    }
}

fn v6(address: Ipv6Addr) -> Option<Closed> {
    const DISGUISE: &str = "has an IPv6 address that holds an IPv4 address";
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => never("has no address (::)"),
        [0, 0, 0, 0, 0, 0, 0, 1] => closed("has a loopback address"),
        // NAT64 with its well-known prefix, by which nodes without IPv4 reach public IPv4 hosts.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(embedded(high, low)).and(never(DISGUISE)),
        // IPv4-compatible and everything else before the first /32; local NAT64; Teredo; 6to4; ISATAP.
        [0, 0, ..]
        | [0x64, 0xff9b, ..]
        | [0x2001, 0, ..]
        | [0x2002, ..]
        | [_, _, _, _, 0 | 0x200, 0x5efe, ..] => never(DISGUISE),
        [0xfe80..=0xfebf, ..] => never("has a link-local address"),
        [0xff00..=0xffff, ..] => never("has a multicast address"),
        // Amazon and Google.
        [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => never("is a metadata service"),
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => closed("has a private address"),
        [0x2001, 1..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => {
            closed("has an address that is reserved for documentation, tests or protocols")
        }
        [0x2000..=0x3fff, ..] => None,
        _ => closed("has a reserved address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(address: &str, opened: &[&str]) -> Option<Closed> {
        let opened: Vec<IpNet> = opened.iter().map(|range| range.parse().unwrap()).collect();
        is_closed(address.parse().unwrap(), &opened)
    }

    /// Every address that is no public host, the last of each range and the tricky ones among them.
    const CLOSED: &[&str] = &[
        "0.0.0.0",
        "0.255.255.255",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.0.0",
        "169.254.169.254",
        "169.254.170.2",
        "169.254.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.254",
        "255.255.255.255",
        "::",
        "::1",
        "::2",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::a9fe:a9fe",
        "64:ff9b::7f00:1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::1:808:808",
        "64:ff9b:1::8.8.8.8",
        "100::1",
        "2001::1",
        "2001:0:7f00:1::",
        "2001:1::1",
        "2001:1ff:ffff::",
        "2001:db8::1",
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2002:a9fe:a9fe::",
        "2002:808:808::1",
        "2606:4700::5efe:7f00:1",
        "2606:4700::200:5efe:a00:1",
        "3fff::1",
        "3fff:fff:ffff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fdff:ffff::1",
        "fe80::1",
        "fe80::a9fe:a9fe",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "ffff::1",
    ];

    #[test]
    fn an_address_that_is_no_public_host_is_closed_in_every_form() {
        for address in CLOSED {
            assert!(closed(address, &[]).is_some(), "{address}");
        }
    }

    #[test]
    fn a_public_address_is_not_closed() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2000::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700::1111",
            "2a00:1450::1",
            "3ffe::1",
        ] {
            assert_eq!(closed(address, &[]), None, "{address}");
        }
    }

    #[test]
    fn an_operator_opens_a_range_and_only_that() {
        let opened = ["10.1.0.0/16", "127.0.0.0/8", "fd12::/16"];
        for address in ["10.1.0.1", "10.1.255.255", "127.0.0.1", "::ffff:10.1.0.1", "fd12::1"] {
            assert_eq!(closed(address, &opened), None, "{address}");
        }
        for address in
            ["10.0.255.255", "10.2.0.0", "::1", "fd13::1", "64:ff9b::10.1.0.1", "2002:a01:1::", "::10.1.0.1"]
        {
            assert!(closed(address, &opened).is_some(), "{address}");
        }
    }

    #[test]
    fn what_is_never_a_service_of_the_operators_stays_closed_whatever_is_opened() {
        let all = ["0.0.0.0/0", "::/0"];
        for address in [
            "0.0.0.0",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(closed(address, &all).is_some(), "{address}");
        }
        for address in ["10.0.0.1", "127.0.0.1", "::1", "100.64.0.1", "fd00::1", "240.0.0.1"] {
            assert_eq!(closed(address, &all), None, "{address}");
        }
    }
}
