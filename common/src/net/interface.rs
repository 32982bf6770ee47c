//! Which interface carries the groups: the one that the user names, else that of the default route.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_indextoname, if_nametoindex};

use super::{NetError, family, require_multicast};

/// A network interface, as far as multicast is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, as `ip link` shows it.
    pub name: String,
    /// Its number in this network namespace.
    pub index: u32,
    /// Its IPv4 address: the one that the user named, else the first.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address: the one that the user named, else a link-local one, else the first.
    pub v6: Option<Ipv6Addr>,
    /// Whether it is loopback.
    pub loopback: bool,
    /// Whether the user named one address of it: then datagrams leave from that.
    pub pinned: bool,
}

impl Interface {
    /// Whether it has an address of the group's family.
    #[must_use]
    pub const fn serves(&self, group: IpAddr) -> bool {
        match group {
            IpAddr::V4(_) => self.v4.is_some(),
            IpAddr::V6(_) => self.v6.is_some(),
        }
    }
}

/// The interface for `group`: `spec` is a name or an address of one. Without it that of the default route, else of
/// a route that covers the group, else loopback.
///
/// # Errors
/// When `group` is no group, `spec` names no interface, or the interface is down or of the wrong family.
pub fn resolve(spec: Option<&str>, group: IpAddr) -> Result<Interface, NetError> {
    require_multicast(group)?;
    let links = list()?;
    match spec {
        Some(spec) => named(&links, &routes(group), spec, group),
        None => automatic(&links, &routes(group), group),
    }
}

/// The route, as `ip route` writes it, by which this machine sends the group to itself only; none: there is no such
/// route. It holds for programs that name no interface. Ours do: see [`resolve`].
#[must_use]
pub fn loopback_route(group: IpAddr) -> Option<String> {
    only_loopback(&list().ok()?, &routes(group), group)
}

fn only_loopback(links: &[Link], routes: &[Route], group: IpAddr) -> Option<String> {
    let is_loopback = |name: &str| links.iter().any(|link| link.name == name && link.loopback);
    let mut by_group = routes.iter().filter(|route| route.prefix_len > 0).peekable();
    let best = by_group.peek().copied()?.clone();
    by_group.all(|route| is_loopback(&route.interface)).then(|| {
        let Route { prefix_len, interface, .. } = best;
        let network = match group {
            IpAddr::V4(group) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix_len)).unwrap_or(0);
                IpAddr::V4((u32::from(group) & mask).into())
            }
            IpAddr::V6(group) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix_len)).unwrap_or(0);
                IpAddr::V6((u128::from(group) & mask).into())
            }
        };
        format!("{network}/{prefix_len} dev {interface}")
    })
}

/// The name of the interface with this number.
#[must_use]
pub fn name_of(index: u32) -> Option<String> {
    if_indextoname(index).ok()?.into_string().ok()
}

/// The interface by which this machine sends to `address`; none: by none.
#[must_use]
pub fn toward(address: IpAddr) -> Option<String> {
    let any = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    // Nothing is sent: the kernel only chooses the way.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((address, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    list().ok()?.into_iter().find(|link| link.addresses.contains(&own)).map(|link| link.name)
}

/// What the system says of one interface.
#[derive(Clone, Debug, Default)]
struct Link {
    name: String,
    index: u32,
    addresses: Vec<IpAddr>,
    up: bool,
    multicast: bool,
    loopback: bool,
}

impl Link {
    fn interface(&self, pinned: Option<IpAddr>) -> Interface {
        let mut v4 = self.addresses.iter().find_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None });
        let all_v6 = || self.addresses.iter().filter_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None });
        let mut v6 = all_v6().find(Ipv6Addr::is_unicast_link_local).or_else(|| all_v6().next());
        match pinned {
            Some(IpAddr::V4(address)) => v4 = Some(address),
            Some(IpAddr::V6(address)) => v6 = Some(address),
            None => {}
        }
        Interface {
            name: self.name.clone(),
            index: self.index,
            v4,
            v6,
            loopback: self.loopback,
            pinned: pinned.is_some(),
        }
    }
}

fn list() -> Result<Vec<Link>, NetError> {
    let mut links: BTreeMap<String, Link> = BTreeMap::new();
    for entry in getifaddrs().map_err(|e| NetError::Listing(e.into()))? {
        // Gone since the list was made: as if it had never been there.
        let Ok(index) = if_nametoindex(entry.interface_name.as_str()) else { continue };
        let link = links.entry(entry.interface_name.clone()).or_default();
        link.name = entry.interface_name;
        link.index = index;
        link.up = entry.flags.contains(InterfaceFlags::IFF_UP);
        link.multicast = entry.flags.contains(InterfaceFlags::IFF_MULTICAST);
        link.loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        if let Some(address) = &entry.address {
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            link.addresses.extend(v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()))));
        }
    }
    let mut links: Vec<_> = links.into_values().collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// All interfaces, for a message: `lo (127.0.0.1, ::1), eth1 (down)`.
fn known(links: &[Link]) -> String {
    let describe = |link: &Link| {
        let mut facts: Vec<String> = link.addresses.iter().map(ToString::to_string).collect();
        if !link.up {
            facts.push("down".to_owned());
        }
        if facts.is_empty() { link.name.clone() } else { format!("{} ({})", link.name, facts.join(", ")) }
    };
    if links.is_empty() { "none".to_owned() } else { links.iter().map(describe).collect::<Vec<_>>().join(", ") }
}

/// Whether datagrams to the group can leave there. IPv4 sends to any group through any interface, IPv6 by route only.
fn reaches(interface: &str, routes: &[Route], group: IpAddr) -> bool {
    group.is_ipv4() || routes.iter().any(|route| route.interface == interface)
}

fn named(links: &[Link], routes: &[Route], spec: &str, group: IpAddr) -> Result<Interface, NetError> {
    let address: Option<IpAddr> = spec.parse().ok();
    let found = links.iter().find(|link| link.name == spec || address.is_some_and(|a| link.addresses.contains(&a)));
    let Some(link) = found else {
        return Err(NetError::NoSuchInterface { asked: spec.to_owned(), known: known(links) });
    };
    if !link.up {
        return Err(NetError::InterfaceDown(link.name.clone()));
    }
    // An address of the other family names the interface, but cannot be the source.
    let interface = link.interface(address.filter(|a| a.is_ipv4() == group.is_ipv4()));
    if !interface.serves(group) {
        return Err(NetError::FamilyMismatch { group, interface: interface.name, family: family(group) });
    }
    if !reaches(&interface.name, routes, group) {
        // Linux turns a multicast route on loopback into one that rejects.
        let kind = if interface.loopback { "local" } else { "multicast" };
        return Err(NetError::NoMulticastRoute { group, interface: interface.name, kind });
    }
    Ok(interface)
}

fn automatic(links: &[Link], routes: &[Route], group: IpAddr) -> Result<Interface, NetError> {
    let usable = |name: &str| {
        let link = links.iter().find(|link| link.name == name && link.up && link.multicast && !link.loopback)?;
        Some(link.interface(None)).filter(|interface| interface.serves(group))
    };
    let loopback = links.iter().find(|link| link.up && link.loopback).map(|link| link.interface(None));
    let by_default = routes.iter().filter(|route| route.prefix_len == 0);
    let by_group = routes.iter().filter(|route| route.prefix_len > 0);
    by_default
        .chain(by_group)
        .find_map(|route| usable(&route.interface))
        .or_else(|| loopback.filter(|lo| lo.serves(group) && reaches(&lo.name, routes, group)))
        .ok_or_else(|| NetError::NoInterface { group, family: family(group), known: known(links) })
}

/// A route that covers the group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    prefix_len: u32,
    metric: u32,
    interface: String,
}

/// `RTF_UP` and `RTF_REJECT` of the kernel's `route.h`.
const ROUTE_UP: u32 = 0x0001;
const ROUTE_REJECT: u32 = 0x0200;

/// The routes that cover the group, best first: longest prefix, then least metric. A table that is not there
/// (a kernel without that family) has none.
fn routes(group: IpAddr) -> Vec<Route> {
    // Of this thread: a thread may stand in another network namespace than its process.
    let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let mut routes: Vec<Route> = match group {
        IpAddr::V4(group) => read("route").lines().filter_map(|line| route_v4(line, group)).collect(),
        IpAddr::V6(group) => read("ipv6_route").lines().filter_map(|line| route_v6(line, group)).collect(),
    };
    routes.sort_by_key(|route| (u32::MAX - route.prefix_len, route.metric));
    routes
}

/// A line of `/proc/net/route`: interface, destination, gateway, flags, references, use, metric, mask, ...
fn route_v4(line: &str, group: Ipv4Addr) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let hex = |field: usize| u32::from_str_radix(fields.get(field)?, 16).ok();
    // Addresses are printed as the machine's integer over bytes in network order.
    let (destination, mask) = (u32::from_be(hex(1)?), u32::from_be(hex(7)?));
    let flags = hex(3)?;
    let covers = u32::from(group) & mask == destination;
    (covers && flags & ROUTE_UP != 0 && flags & ROUTE_REJECT == 0).then_some(Route {
        prefix_len: mask.count_ones(),
        metric: fields.get(6)?.parse().ok()?,
        interface: (*fields.first()?).to_owned(),
    })
}

/// A line of `/proc/net/ipv6_route`: destination, prefix length, source, its length, next hop, metric, references,
/// use, flags, interface; all hexadecimal.
fn route_v6(line: &str, group: Ipv6Addr) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let hex = |field: usize| u32::from_str_radix(fields.get(field)?, 16).ok();
    let destination = u128::from_str_radix(fields.first()?, 16).ok()?;
    let prefix_len = hex(1).filter(|&length| length <= 128)?;
    let flags = hex(8)?;
    let mask = u128::MAX.checked_shl(128 - prefix_len).unwrap_or(0);
    let covers = u128::from(group) & mask == destination;
    (covers && flags & ROUTE_UP != 0 && flags & ROUTE_REJECT == 0).then_some(Route {
        prefix_len,
        metric: hex(5)?,
        interface: (*fields.get(9)?).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 1));

    fn link(name: &str, index: u32, addresses: &[&str]) -> Link {
        Link {
            name: name.to_owned(),
            index,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            up: true,
            multicast: name != "lo",
            loopback: name == "lo",
        }
    }

    fn links() -> Vec<Link> {
        let mut down = link("eth9", 9, &["10.9.0.1"]);
        down.up = false;
        vec![
            link("lo", 1, &["127.0.0.1", "::1"]),
            link("eth0", 2, &["192.0.2.2", "192.0.2.3", "fd00::2", "fe80::1"]),
            link("eth1", 3, &["10.1.0.1"]),
            down,
        ]
    }

    fn route(interface: &str, prefix_len: u32) -> Route {
        Route { prefix_len, metric: 0, interface: interface.to_owned() }
    }

    fn all() -> Vec<Route> {
        vec![route("eth0", 8), route("eth1", 8)]
    }

    #[test]
    fn an_interface_is_found_by_name_and_by_address() {
        let by_name = named(&links(), &all(), "eth0", V4).unwrap();
        assert_eq!((by_name.index, by_name.v4, by_name.pinned), (2, Some(Ipv4Addr::new(192, 0, 2, 2)), false));
        assert_eq!(by_name.v6, Some("fe80::1".parse().unwrap()));
        let by_address = named(&links(), &all(), "192.0.2.3", V4).unwrap();
        assert_eq!((by_address.index, by_address.v4, by_address.pinned), (2, Some(Ipv4Addr::new(192, 0, 2, 3)), true));
        assert_eq!(named(&links(), &all(), "fd00::2", V6).unwrap().v6, Some("fd00::2".parse().unwrap()));
        assert!(!named(&links(), &all(), "fd00::2", V4).unwrap().pinned);
    }

    #[test]
    fn a_wrong_interface_is_an_error_that_lists_the_right_ones() {
        let error = named(&links(), &all(), "eth7", V4).unwrap_err().to_string();
        assert!(error.contains("`eth7`") && error.contains("lo (127.0.0.1, ::1), eth0 (192.0.2.2"), "{error}");
        assert!(error.contains("eth9 (10.9.0.1, down)"), "{error}");
        assert!(matches!(named(&links(), &all(), "eth9", V4), Err(NetError::InterfaceDown(_))));
        assert!(matches!(named(&links(), &all(), "eth1", V6), Err(NetError::FamilyMismatch { .. })));
        assert!(matches!(named(&links(), &all(), "lo", V6), Err(NetError::NoMulticastRoute { .. })));
        assert!(matches!(resolve(None, "192.0.2.1".parse().unwrap()), Err(NetError::NotMulticast(_))));
    }

    #[test]
    fn without_a_name_the_default_route_decides_then_a_multicast_route_then_loopback() {
        let pick = |routes: &[Route], group| automatic(&links(), routes, group).map(|i| i.name).ok();
        assert_eq!(pick(&[route("eth1", 4), route("eth0", 0)], V4).as_deref(), Some("eth0"));
        assert_eq!(pick(&[route("eth1", 4)], V4).as_deref(), Some("eth1"));
        assert_eq!(pick(&[route("eth1", 0)], V6).as_deref(), None, "eth1 has no IPv6 address, lo no route");
        assert_eq!(pick(&[route("eth1", 0), route("lo", 8)], V6).as_deref(), Some("lo"));
        assert_eq!(pick(&[route("eth9", 0)], V4).as_deref(), Some("lo"), "eth9 is down");
        assert_eq!(pick(&[], V4).as_deref(), Some("lo"));
        assert!(matches!(automatic(&[], &[], V4), Err(NetError::NoInterface { .. })));
    }

    #[test]
    fn a_route_that_sends_the_group_to_this_machine_only_is_named() {
        let named = |routes: &[Route], group| only_loopback(&links(), routes, group);
        assert_eq!(named(&[route("lo", 4), route("eth0", 0)], V4).as_deref(), Some("224.0.0.0/4 dev lo"));
        assert_eq!(named(&[route("lo", 8)], V6).as_deref(), Some("ff00::/8 dev lo"));
        assert_eq!(named(&[route("eth1", 8), route("lo", 4)], V4), None, "the longer one counts");
        assert_eq!(named(&[route("eth0", 0)], V4), None);
        assert_eq!(named(&[], V4), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_of_the_ipv4_table_are_read() {
        let group = Ipv4Addr::new(239, 1, 2, 3);
        let read = |line| route_v4(line, group);
        assert_eq!(read("eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0"), {
            Some(Route { prefix_len: 0, metric: 100, interface: "eth0".to_owned() })
        });
        assert_eq!(read("eth1 000000E0 00000000 0001 0 0 0 000000F0 0 0 0"), Some(route("eth1", 4)));
        assert_eq!(read("eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0"), None);
        assert_eq!(read("eth0 00000000 00000000 0201 0 0 0 00000000 0 0 0"), None, "a reject route");
        assert_eq!(read("Iface Destination Gateway Flags RefCnt Use Metric Mask"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn routes_of_the_ipv6_table_are_read() {
        let IpAddr::V6(group) = V6 else { unreachable!() };
        let zero = "0".repeat(32);
        let line = |destination: &str, length: &str, metric: &str, flags: &str, interface: &str| {
            format!("{destination} {length} {zero} 00 {zero} {metric} 00000001 00000000 {flags} {interface}")
        };
        let read = |line: String| route_v6(&line, group);
        assert_eq!(read(line(&zero, "00", "00000400", "00000003", "eth0")), {
            Some(Route { prefix_len: 0, metric: 0x400, interface: "eth0".to_owned() })
        });
        let multicast = format!("ff{}", "0".repeat(30));
        assert_eq!(read(line(&multicast, "08", "00000000", "00000001", "eth0")), Some(route("eth0", 8)));
        assert_eq!(read(line(&zero, "00", "ffffffff", "00200200", "lo")), None, "a reject route");
        assert_eq!(read(line(&zero, "ff", "00000000", "00000001", "eth0")), None);
    }

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let lo = resolve(Some("127.0.0.1"), V4).unwrap();
        assert!(lo.loopback && lo.pinned);
        assert!(resolve(None, V4).is_ok());
    }
}
