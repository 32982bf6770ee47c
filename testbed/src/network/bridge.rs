//! The same hosts joined by the kernel's own bridge: no faults, no counters, and nearly as fast as it gets.
//!
//! Whoever sends carries each frame to every host within its own system call, so nothing is lost on the way, however fast
//! it sends: only a host's own socket can be too full.

use rtnetlink::{LinkBridge, LinkUnspec};

use super::{Host, NetworkError, asking, hub_end, make_hosts, with_netlink};
use crate::netns::NetworkNamespace;

const BRIDGE: &str = "bridge";

/// Hosts and the bridge between them. All of it ends with the last process on it.
#[derive(Debug)]
pub struct Bridged {
    hosts: Vec<Host>,
    _hub: NetworkNamespace,
}

impl Bridged {
    /// Builds a network of hosts with these names.
    ///
    /// # Errors
    /// As [`super::Network::build`].
    pub fn build(names: &[&str]) -> Result<Self, NetworkError> {
        let (hub, hosts) = make_hosts(names)?;
        hub.run(|| {
            with_netlink(async |netlink| {
                let bridge = LinkBridge::new(BRIDGE).build();
                netlink.link().add(bridge).execute().await.map_err(asking(|| "make a bridge".to_owned()))?;
                let index = nix::net::if_::if_nametoindex(BRIDGE).map_err(|errno| NetworkError::Interface {
                    what: "find the bridge".into(),
                    source: errno.into(),
                })?;
                for host in &hosts {
                    let port = LinkUnspec::new_with_name(&hub_end(host.number)).controller(index).up().build();
                    let joined = netlink.link().change(port).execute().await;
                    joined.map_err(asking(|| format!("join host `{}` to the bridge", host.name)))?;
                }
                Ok(())
            })
        })??;
        Ok(Self { hosts, _hub: hub })
    }

    /// All hosts, in the order given to [`Bridged::build`].
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use super::*;
    use crate::netns::with_namespaces;

    #[test]
    fn a_datagram_to_a_group_reaches_all_others_once() {
        with_namespaces(|| {
            let network = Bridged::build(&["one", "two", "three"]).unwrap();
            let [one, two, three] = network.hosts() else { panic!("three hosts") };
            let group = Ipv4Addr::new(239, 1, 1, 1);
            let joined = [two, three].map(|host| {
                let socket = host.run(|| {
                    let socket = std::net::UdpSocket::bind((group, 7600)).unwrap();
                    socket.join_multicast_v4(&group, &host.addr_v4()).unwrap();
                    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                    socket
                });
                socket.unwrap()
            });
            one.run(|| {
                let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.send_to(b"first", (group, 7600)).unwrap();
                socket.send_to(b"second", (group, 7600)).unwrap();
            })
            .unwrap();
            for socket in joined {
                for wanted in [&b"first"[..], b"second"] {
                    let mut bytes = [0; 8];
                    let (length, from) = socket.recv_from(&mut bytes).unwrap();
                    assert_eq!((&bytes[..length], from.ip()), (wanted, one.addr_v4().into()));
                    assert!(matches!(from, SocketAddr::V4(_)));
                }
            }
        });
    }
}
