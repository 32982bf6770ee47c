//! A network of hosts: one namespace each, one hub in the middle, one veth pair per host.
//!
//! Host number N (from 1, in the order given) has `eth0` with 10.77.0.N/24 and fd77::N/64, MTU 1500, and
//! sends everything else there too, multicast included. The hub's ends have no addresses; the
//! [`Fabric`] carries every frame between them, or, where speed counts and no fault is wanted, the kernel ([`Bridged`]).

mod bridge;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

pub use self::bridge::Bridged;
use crate::fabric::{Fabric, FabricError};
use crate::netns::{NetnsError, NetworkNamespace};
use crate::sys;

/// The interface of every host.
const INTERFACE: &str = "eth0";
/// The MTU of every interface.
const MTU: u32 = 1500;
/// Host numbers are the last byte of an IPv4 address, and 255 is the broadcast address.
const MAX_HOSTS: usize = 254;

/// Why a network could not be built.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A namespace could not be made or entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// The switch did not start.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// There is no room for so many hosts.
    #[error("{0} hosts do not fit into one network: give at most 254")]
    TooManyHosts(usize),
    /// Two hosts would have one name.
    #[error("two hosts are called `{0}`: give each its own name")]
    SameName(String),
    /// The kernel refused a link, an address or a route.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// What was asked.
        what: String,
        /// What the kernel answered.
        source: rtnetlink::Error,
    },
    /// A setting of the network stack could not be written.
    #[error("cannot set {path} to {value}: {source}")]
    Setting {
        /// The file under `/proc/sys`.
        path: String,
        /// The value wanted.
        value: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// An operation on an interface or its runtime failed.
    #[error("cannot {what}: {source}")]
    Interface {
        /// What was tried.
        what: String,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// One host of a [`Network`].
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u8,
    namespace: NetworkNamespace,
}

impl Host {
    /// The name given to [`Network::build`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The IPv4 address of `eth0`.
    #[must_use]
    pub fn addr_v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    /// The IPv6 address of `eth0`.
    #[must_use]
    pub fn addr_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.number.into())
    }

    /// The name of the host's only interface beside loopback.
    #[must_use]
    pub fn interface(&self) -> &'static str {
        INTERFACE
    }

    /// A command that will run `program` on this host.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.namespace.command(&mut command);
        command
    }

    /// Runs `work` on this host, on a thread of its own. Sockets that it makes stay on the host.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        self.namespace.run(work)
    }

    /// Datagrams that a program here was too slow to take from its sockets: loss that nobody asked for.
    pub fn overflows(&self) -> Result<u64, NetworkError> {
        let text = self.namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
        let text = text.map_err(|source| NetworkError::Interface { what: "read UDP's counters".into(), source })?;
        let mut rows = text.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(str::split_whitespace);
        let (names, values) = (rows.next().into_iter().flatten(), rows.next().into_iter().flatten());
        let found = names.zip(values).find(|(name, _)| *name == "RcvbufErrors");
        Ok(found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0))
    }

    /// The host's namespace.
    #[must_use]
    pub fn namespace(&self) -> &NetworkNamespace {
        &self.namespace
    }

    fn mac(&self) -> Vec<u8> {
        vec![0x02, 0, 10, 77, 0, self.number]
    }
}

/// Hosts and the fabric between them. Dropping it ends the fabric; namespaces end with their last process.
#[derive(Debug)]
pub struct Network {
    fabric: Fabric,
    hosts: Vec<Host>,
}

impl Network {
    /// Builds a network of hosts with these names; `seed` decides every random fault.
    pub fn build(names: &[&str], seed: u64) -> Result<Self, NetworkError> {
        let (hub, hosts) = make_hosts(names)?;
        let ends = hosts.iter().map(|host| (host.name.clone(), hub_end(host.number))).collect();
        let fabric = hub.run(|| Fabric::start(ends, seed))??;
        Ok(Self { fabric, hosts })
    }

    /// The switch between the hosts.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// All hosts, in the order given to [`Network::build`].
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host called `name`.
    ///
    /// # Panics
    /// If there is none: the names were given by the caller.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        let found = self.hosts.iter().find(|host| host.name == name);
        found.unwrap_or_else(|| panic!("this network has no host `{name}`"))
    }
}

/// Hosts, and the hub where the other ends of their cables are.
fn make_hosts(names: &[&str]) -> Result<(NetworkNamespace, Vec<Host>), NetworkError> {
    if names.len() > MAX_HOSTS {
        return Err(NetworkError::TooManyHosts(names.len()));
    }
    if let Some((_, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        return Err(NetworkError::SameName((*twice).to_owned()));
    }
    let hub = NetworkNamespace::new()?;
    hub.run(|| setting("net/ipv6/conf/default/disable_ipv6", "1"))??;
    let mut hosts = Vec::with_capacity(names.len());
    for (number, name) in (1..=u8::MAX).zip(names) {
        let host = Host { name: (*name).to_owned(), number, namespace: NetworkNamespace::new()? };
        hub.run(|| with_netlink(|netlink| add_pair(netlink, &host)))??;
        host.run(|| configure(&host))??;
        hosts.push(host);
    }
    Ok((hub, hosts))
}

fn hub_end(number: u8) -> String {
    format!("hub{number}")
}

/// Makes a veth pair: one end here in the hub, the other as `eth0` of the host.
async fn add_pair(netlink: Handle, host: &Host) -> Result<(), NetworkError> {
    let name = hub_end(host.number);
    // A batch sent with UDP segmentation offload is cut up by the host's kernel: with at most one segment
    // per frame no large frame may reach the link.
    let far = LinkUnspec::new_with_name(INTERFACE)
        .mtu(MTU)
        .address(host.mac())
        .append_extra_attribute(LinkAttribute::GsoMaxSegs(1))
        .append_extra_attribute(LinkAttribute::NetNsFd(host.namespace.file().as_raw_fd()))
        .build();
    let near = LinkVeth::new(&name, INTERFACE).mtu(MTU).set_info_data(InfoData::Veth(InfoVeth::Peer(far))).up().build();
    netlink.link().add(near).execute().await.map_err(asking(|| format!("make the veth pair of host `{}`", host.name)))
}

/// Gives the host's `eth0` its settings, addresses and routes, from within the host's namespace.
fn configure(host: &Host) -> Result<(), NetworkError> {
    setting("net/ipv4/conf/all/rp_filter", "0")?;
    setting("net/ipv4/conf/eth0/rp_filter", "0")?;
    setting("net/ipv6/conf/all/disable_ipv6", "0")?;
    setting("net/ipv6/conf/eth0/disable_ipv6", "0")?;
    // Nobody else can have these addresses: usable at once.
    setting("net/ipv6/conf/eth0/accept_dad", "0")?;
    setting("net/ipv6/conf/eth0/router_solicitations", "0")?;
    sys::disable_receive_offload(INTERFACE)
        .map_err(|source| NetworkError::Interface { what: "switch receive offload off".into(), source })?;
    with_netlink(|netlink| add_addresses_and_routes(netlink, host))
}

async fn add_addresses_and_routes(netlink: Handle, host: &Host) -> Result<(), NetworkError> {
    let index = nix::net::if_::if_nametoindex(INTERFACE)
        .map_err(|errno| NetworkError::Interface { what: format!("find {INTERFACE}"), source: errno.into() })?;
    set_up(&netlink, INTERFACE).await?;
    let wanted = |what: &'static str| asking(move || format!("{what} host `{}`", host.name));
    netlink.address().add(index, host.addr_v4().into(), 24).execute().await.map_err(wanted("give an address to"))?;
    for (address, length) in [(Ipv4Addr::new(224, 0, 0, 0), 4), (Ipv4Addr::UNSPECIFIED, 0)] {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().scope(RouteScope::Link);
        let route = route.destination_prefix(address, length).output_interface(index).build();
        netlink.route().add(route).execute().await.map_err(wanted("give a route to"))?;
    }
    if !has_ipv6() {
        return Ok(());
    }
    let mut address = netlink.address().add(index, host.addr_v6().into(), 64);
    address.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    address.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    address.execute().await.map_err(wanted("give an IPv6 address to"))?;
    let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(Ipv6Addr::UNSPECIFIED, 0);
    let route = route.output_interface(index).build();
    netlink.route().add(route).execute().await.map_err(wanted("give an IPv6 route to"))
}

/// Whether the kernel has IPv6 at all; without it, hosts have IPv4 only.
fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

async fn set_up(netlink: &Handle, interface: &str) -> Result<(), NetworkError> {
    let message = LinkUnspec::new_with_name(interface).up().build();
    netlink.link().change(message).execute().await.map_err(asking(|| format!("bring up {interface}")))
}

/// Brings up `lo` of the calling thread's namespace.
pub(crate) fn bring_up_loopback() -> Result<(), NetworkError> {
    with_netlink(async |netlink| set_up(&netlink, "lo").await)
}

fn asking(what: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    move |source| NetworkError::Netlink { what: what(), source }
}

/// Runs netlink requests to their end in the calling thread's namespace.
fn with_netlink<F: Future<Output = Result<(), NetworkError>>>(
    requests: impl FnOnce(Handle) -> F,
) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Interface { what: "talk to the kernel by netlink".into(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _messages) = rtnetlink::new_connection().map_err(failed)?;
        let serving = tokio::spawn(connection);
        let result = requests(handle).await;
        serving.abort();
        result
    })
}

/// Writes a setting below `/proc/sys` for the calling thread's namespace; skips what the kernel does not
/// have or already says, so that it also works where `/proc/sys` is read-only.
fn setting(path: &str, value: &'static str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/{path}");
    match std::fs::read_to_string(&path) {
        Ok(now) if now.trim() == value => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => std::fs::write(&path, value).map_err(|source| NetworkError::Setting { path, value, source }),
    }
}
