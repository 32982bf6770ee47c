//! The sending node: checks what it was told, opens what it needs, and runs one task for each channel.
//!
//! Nothing is sent before everything was checked. All tasks belong to one set; when [`run`] returns, none is left
//! but a scan that cannot be interrupted.

mod doors;
mod pulls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use globset::{Glob, GlobMatcher, GlobSet, GlobSetBuilder};
use nackcast_common::clock::Clock;
use nackcast_common::control::Request;
use nackcast_common::epochs::Epochs;
use nackcast_common::ids::{ChannelId, ObjectId, StartNumber};
use nackcast_common::net::quic::{Limits, Server};
use nackcast_common::net::{GroupSocket, Interface, Lane, MulticastSender, SendOptions, UnicastSocket, interface};
use nackcast_common::units::RateLimit;
use nackcast_proto::pull::{Membership, Service};
use nackcast_proto::wire::{Role, Standing};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::doors::{Door, Doors};
use crate::config::{ChannelConfig, Config};
use crate::driver::caller::Caller;
use crate::driver::channel::{Channel, ChannelEnd, ChannelParts, ChannelPorts, new_session};
use crate::driver::nacks::{QUEUE_LEN, Route, Router};
use crate::driver::names::Names;
use crate::driver::outlet::Sockets;
use crate::driver::passes;
use crate::driver::peers;
use crate::driver::shelf::{SenderShelf, Served};
use crate::engine::{EngineConfig, RateBounds};
use crate::error::RunError;
use crate::follow::{self, FollowerConfig};
use crate::gate::Gate;
use crate::library::{Library, LibraryConfig};
use crate::node::{AdvertisementOpener, NodeConfig, SenderNode};
use crate::report::{ChannelProgress, Progress, Summary};
use crate::role::RoleConfig;
use crate::scanner::{self, ScannerConfig, ScannerPorts};
use crate::state::NodeState;

/// Threads that read and encode blocks.
const MAKERS: usize = 2;
/// Requests for scans that wait.
const SCANS_QUEUED: usize = 16;
/// The same of what an admin asks.
const ASKS_QUEUED: usize = 64;
/// Questions of other senders that wait.
const ASKERS_QUEUED: usize = 16;
/// Results that wait for a channel's task.
const RESULTS_QUEUED: usize = 16;

/// How a running node is steered and watched.
#[derive(Debug)]
pub struct Control {
    /// When cancelled, the node finishes what is under way (a few seconds at most) and ends.
    pub shutdown: CancellationToken,
    /// What an admin asks. One that waits for a busy channel for too long is dropped unanswered.
    pub requests: mpsc::Receiver<Request>,
    /// Gets a new value twice a second.
    pub progress: watch::Sender<Progress>,
}

/// Sends until done or told to end. Must be called inside a tokio runtime.
///
/// # Errors
/// When the configuration cannot be used (see [`RunError::is_usage`]), or the node fails for good.
pub async fn run(config: Config, control: Control) -> Result<Summary, RunError> {
    let opened = {
        let groups = groups(&config)?;
        let (config, opened) = blocking(move || open(config)).await??;
        Node::bind(config, groups, opened)?
    };
    opened.run(control).await
}

/// Finds what would keep a node from running as far as that shows without its state directory, and changes nothing.
/// Must be called inside a tokio runtime.
///
/// # Errors
/// As [`run`] would.
pub fn check(config: &Config) -> Result<(), RunError> {
    groups(config)?;
    patterns(&config.exclude)?;
    priorities(&config.priorities)?;
    UnicastSocket::bind(config.listen).map_err(RunError::Listen)?;
    let quic = quic_address(config.listen);
    UnicastSocket::bind(quic).map_err(|error| RunError::Unicast(error.into()))?;
    Ok(())
}

/// QUIC is on the port after that of NACKs.
fn quic_address(listen: SocketAddr) -> SocketAddr {
    let port = if listen.port() == 0 { 0 } else { listen.port().saturating_add(1) };
    SocketAddr::new(listen.ip(), port)
}

/// Runs something that waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RunError::Broken(error.to_string()))
}

/// A channel's way out.
#[derive(Debug)]
struct Group {
    interface: Interface,
    data_group: SocketAddr,
}

fn groups(config: &Config) -> Result<Vec<Group>, RunError> {
    if config.channels.is_empty() {
        return Err(RunError::NoChannel);
    }
    let group = |channel: &ChannelConfig| {
        let failed = |source| RunError::Group { channel: channel.name.clone(), source };
        let interface = interface::resolve(config.interface.as_deref(), channel.advertise.ip()).map_err(failed)?;
        let data_port = channel.advertise.port().checked_add(1);
        let data_port = data_port.ok_or_else(|| RunError::NoDataPort(channel.name.clone()))?;
        let mut data_group = channel.advertise;
        data_group.set_port(data_port);
        Ok(Group { interface, data_group })
    };
    config.channels.iter().map(group).collect()
}

/// What comes from the disk for one channel.
#[derive(Debug)]
struct Opened {
    /// None: a receiver's manifest is followed.
    library: Option<Library>,
    hold_off: Duration,
    start_number: StartNumber,
    passes: Vec<(ObjectId, u32)>,
}

/// Opens state and content. Blocks.
fn open(config: Config) -> Result<(Config, (NodeState, Vec<Opened>)), RunError> {
    let exclude = patterns(&config.exclude)?;
    let priorities = priorities(&config.priorities)?;
    let ids: Vec<(ChannelId, &str)> = config.channels.iter().map(|c| (c.channel, c.name.as_str())).collect();
    let state = NodeState::open(&config.state, &ids)?;
    let mut opened = Vec::new();
    for channel in &config.channels {
        let library = channel.follow.is_none().then(|| {
            Library::open(LibraryConfig {
                root: channel.directory.clone(),
                exclude: exclude.clone(),
                priorities: priorities.clone(),
                geometry: config.geometry,
                cache: config.state.join("cache"),
                channel: channel.channel,
                epoch: channel.admission.epoch,
            })
        });
        let library =
            library.transpose().map_err(|source| RunError::Library { channel: channel.name.clone(), source })?;
        let start_number = state.next_start_number(channel.channel, Clock::wall_ms())?;
        let passes = state.passes(channel.channel, config.schedule.round_quiet, Clock::wall_ms())?;
        let role = RoleConfig { drain_limit: config.drain_limit, ..RoleConfig::new(config.role, 0) };
        let hold_off = match config.role {
            Role::Primary => state.hold_off(channel.channel, role.hold_base(), Clock::wall_ms())?,
            Role::Backup => Duration::ZERO,
        };
        opened.push(Opened { library, hold_off, start_number, passes });
    }
    Ok((config, (state, opened)))
}

/// A star stands for slashes too, so that `*.tmp` means such files wherever they are.
fn glob(pattern: &str) -> Result<Glob, RunError> {
    Glob::new(pattern)
        .map_err(|error| RunError::Pattern { pattern: pattern.to_owned(), reason: error.kind().to_string() })
}

fn patterns(patterns: &[String]) -> Result<GlobSet, RunError> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(glob(pattern)?);
    }
    set.build().map_err(|error| RunError::Pattern { pattern: patterns.join(" "), reason: error.kind().to_string() })
}

fn priorities(rules: &[(String, i32)]) -> Result<Vec<(GlobMatcher, i32)>, RunError> {
    rules.iter().map(|(pattern, priority)| Ok((glob(pattern)?.compile_matcher(), *priority))).collect()
}

/// A node with everything open.
#[derive(Debug)]
struct Node {
    config: Config,
    state: NodeState,
    unicast: Arc<UnicastSocket>,
    pulls: Server,
    channels: Vec<(Opened, Ports)>,
    clock: Clock,
}

/// A channel's sockets, who may pull from it, and how other senders are met.
#[derive(Debug)]
struct Ports {
    sockets: Sockets,
    /// Hears other senders.
    others: GroupSocket,
    /// Asks them over QUIC.
    caller: Caller,
    shelf: Shelf,
}

/// Where a channel's task says what may be pulled, and hears how much was, and which senders ask.
#[derive(Debug)]
struct Shelf {
    served: watch::Sender<Served>,
    given: Arc<AtomicU64>,
    gate: Arc<Gate>,
    askers: mpsc::Receiver<Standing>,
}

impl Node {
    /// Opens the sockets.
    fn bind(config: Config, groups: Vec<Group>, (state, opened): (NodeState, Vec<Opened>)) -> Result<Self, RunError> {
        let unicast = Arc::new(UnicastSocket::bind(config.listen).map_err(RunError::Listen)?);
        let options = SendOptions { ttl: config.ttl, dscp: config.dscp };
        let mut channels = Vec::new();
        let mut service = Service::default();
        let clock = Clock::start();
        for ((channel, group), opened) in config.channels.iter().zip(groups).zip(opened) {
            let Group { interface, data_group } = group;
            let bind = || {
                MulticastSender::bind(channel.advertise.ip(), &interface, options)
                    .map_err(|source| RunError::Group { channel: channel.name.clone(), source })
            };
            let control = bind()?;
            let data = Lane::start(channel.advertise.ip(), data_group, &interface, options)
                .map_err(|source| RunError::Group { channel: channel.name.clone(), source })?;
            tracing::info!(
                channel = channel.name, interface = interface.name, group = %channel.advertise,
                nacks = %unicast.local_addr(), "sending"
            );
            let unicast = Arc::clone(&unicast);
            let others = GroupSocket::bind(channel.advertise, &interface, &[])
                .map_err(|source| RunError::Group { channel: channel.name.clone(), source })?;
            let gate = Arc::new(gate(channel));
            let caller = Caller::new(&config.identity, Arc::clone(gate.membership()), clock);
            let caller = caller.map_err(RunError::Unicast)?;
            let (served, shown) = watch::channel(Served::default());
            let (asking, askers) = mpsc::channel(ASKERS_QUEUED);
            let shelf = Shelf { served, given: Arc::default(), gate, askers };
            let (given, gate) = (Arc::clone(&shelf.given), Arc::clone(&shelf.gate));
            let membership = Arc::clone(gate.membership());
            service.add(membership, Arc::new(SenderShelf { served: shown, given, gate, askers: asking, clock }));
            let sockets = Sockets { control, data, unicast, group: channel.advertise, data_group };
            channels.push((opened, Ports { sockets, others, caller, shelf }));
        }
        let (at, limits) = (quic_address(config.listen), Limits::with_rate(config.unicast_rate));
        let pulls = Server::start(at, &config.identity, Arc::new(service), limits).map_err(RunError::Unicast)?;
        Ok(Self { config, state, unicast, pulls, channels, clock })
    }

    async fn run(self, control: Control) -> Result<Summary, RunError> {
        let Control { shutdown, mut requests, progress } = control;
        // Bound and silent until then: what arrives waits in the sockets.
        let names = Names::look_up(self.config.peers.clone()).await;
        let mut tasks = Tasks::start(self, names, &shutdown, &progress);
        loop {
            tokio::select! {
                joined = tasks.set.join_next() => match joined {
                    Some(Ok(Ok(Ended::Channel(index, end)))) => {
                        tasks.ends[index] = Some(end);
                        if tasks.ends.iter().all(Option::is_some) {
                            break;
                        }
                    }
                    Some(Ok(Ok(Ended::Service))) => {}
                    Some(Ok(Err(error))) => return Err(error),
                    Some(Err(error)) => return Err(RunError::Broken(error.to_string())),
                    None => return Err(RunError::Broken("no task is left".to_owned())),
                },
                Some(request) = requests.recv() => tasks.doors.ask(request),
                () = tokio::time::sleep(doors::AGAIN), if tasks.doors.is_waiting() => {}
            }
            tasks.doors.try_again();
        }
        let ends: Vec<_> = tasks.ends.drain(..).flatten().collect();
        // What they hold (the store's lock, the port) is free when this returns.
        tasks.set.shutdown().await;
        let success = ends.iter().all(|end| end.success);
        Ok(Summary { success, channels: ends.into_iter().map(|end| end.summary).collect() })
    }
}

/// The secrets of a channel, near the epoch of its key file.
fn epochs(channel: &ChannelConfig) -> Epochs {
    Epochs::of_master(channel.channel, channel.master.clone(), channel.admission.epoch)
}

/// Whether it makes generations, and begins epochs.
const fn publishes(channel: &ChannelConfig) -> bool {
    channel.publisher.is_some() && channel.follow.is_none()
}

/// What this node is to a channel, and whom it lets in.
fn gate(channel: &ChannelConfig) -> Gate {
    let (epochs, admission) = (epochs(channel), channel.admission.clone());
    let right = (channel.certificate, channel.sender.clone());
    let membership = Membership::new(epochs.clone(), admission.epoch, channel.publisher_key, Some(right));
    Gate::new(epochs, admission, Arc::new(membership), publishes(channel))
}

/// How a task ended.
#[derive(Debug)]
enum Ended {
    Channel(usize, Box<ChannelEnd>),
    Service,
}

/// Everything that runs.
#[derive(Debug)]
struct Tasks {
    set: JoinSet<Result<Ended, RunError>>,
    doors: Doors,
    ends: Vec<Option<Box<ChannelEnd>>>,
    /// Looks for other senders until then.
    _names: Names,
}

impl Tasks {
    fn start(node: Node, names: Names, shutdown: &CancellationToken, progress: &watch::Sender<Progress>) -> Self {
        let Node { config, state, unicast, pulls, channels, clock } = node;
        let starting = |channel: &ChannelConfig| ChannelProgress {
            name: channel.name.clone(),
            state: "starting".to_owned(),
            ..ChannelProgress::default()
        };
        progress.send_replace(Progress { channels: config.channels.iter().map(starting).collect() });
        let (unopened, unopened_here) = watch::channel(0);
        let common = Common {
            unopened: unopened_here,
            rate: config.rate.share(config.channels.len()),
            auto: config.auto,
            clock,
            makers: Arc::new(Semaphore::new(MAKERS)),
            nack_port: unicast.local_addr().port(),
            quic_port: pulls.local_addr().port(),
            state,
            shutdown: shutdown.clone(),
            progress: progress.clone(),
            addresses: names.found(),
            rank: config.rank,
            drain_limit: config.drain_limit,
            epoch_overlap: config.epoch_overlap,
            late_after: config.late_after,
        };
        let (set, doors, ends) = (JoinSet::new(), Doors::new(config.epoch_overlap), Vec::new());
        let mut tasks = Self { set, doors, ends, _names: names };
        let (most, seen) = (config.unicast_rate, progress.subscribe());
        tasks.set.spawn(async move {
            pulls::keep(pulls, most, seen).await;
            Ok(Ended::Service)
        });
        let mut routes = Vec::new();
        let Config { channels: configs, role, schedule, once, rescan, watch, .. } = config;
        for (index, (channel, (opened, ports))) in configs.into_iter().zip(channels).enumerate() {
            let settings = Settings { index, role, schedule, once, rescan, watch };
            let (route, door) = tasks.start_channel(&common, &settings, &channel, opened, ports);
            routes.push(route);
            tasks.doors.push(door);
            tasks.ends.push(None);
        }
        let router = Router::new(routes, unopened);
        tasks.set.spawn(async move {
            router.run(unicast).await;
            Ok(Ended::Service)
        });
        tasks
    }

    /// Starts a channel's tasks; gives where its NACKs go and where it is asked things.
    fn start_channel(
        &mut self,
        common: &Common,
        settings: &Settings,
        channel: &ChannelConfig,
        opened: Opened,
        Ports { sockets, others, caller, shelf }: Ports,
    ) -> (Route, Door) {
        let engine = EngineConfig {
            channel: channel.channel,
            session: new_session(),
            start_number: opened.start_number,
            epoch: channel.admission.epoch,
            role: settings.role,
            certificate: channel.certificate,
            data_group: sockets.data_group,
            nack_port: common.nack_port,
            quic_port: common.quic_port,
            rate: common.rate,
            auto: common.auto,
            schedule: settings.schedule,
            once: settings.once,
        };
        let (queue, nacks) = mpsc::channel(QUEUE_LEN);
        let (scans, requests) = mpsc::channel(SCANS_QUEUED);
        let (asks, asked) = mpsc::channel(ASKS_QUEUED);
        let (scanned_sender, scanned) = mpsc::channel(RESULTS_QUEUED);
        let (counts, counted) = mpsc::unbounded_channel();
        let (recorded_sender, recorded) = mpsc::channel(RESULTS_QUEUED);
        let (scan_progress_sender, scan_progress) = watch::channel(None);
        let (state, id) = (common.state.clone(), channel.channel);
        self.set.spawn(async move {
            passes::record(state, id, counted, recorded_sender).await;
            Ok(Ended::Service)
        });
        let ports = ScannerPorts { requests, scanned: scanned_sender, progress: scan_progress_sender };
        match opened.library {
            Some(library) => {
                let scanner = ScannerConfig {
                    name: channel.name.clone(),
                    library,
                    state: common.state.clone(),
                    publisher: channel.publisher.clone(),
                    publisher_key: channel.publisher_key,
                    rescan: settings.rescan,
                    watch: settings.watch,
                };
                self.set.spawn(async move { scanner::run(scanner, ports).await.map(|()| Ended::Service) });
            }
            None => {
                let follower = FollowerConfig {
                    name: channel.name.clone(),
                    channel: channel.channel,
                    publisher_key: channel.publisher_key,
                    directory: channel.directory.clone(),
                    state: channel.follow.clone().unwrap_or_default(),
                };
                self.set.spawn(async move { follow::run(follower, ports).await.map(|()| Ended::Service) });
            }
        }
        let (peer_sender, peers) = mpsc::channel(peers::QUEUE_LEN);
        let opener = AdvertisementOpener {
            epochs: epochs(channel),
            publisher: channel.publisher_key,
            own: channel.sender.verifying_key(),
        };
        self.set.spawn(async move {
            peers::listen(others, opener, peer_sender).await;
            Ok(Ended::Service)
        });
        let (progress, shutdown) = (common.progress.clone(), common.shutdown.clone());
        let Shelf { served, given, gate, askers } = shelf;
        let ports = ChannelPorts {
            nacks,
            peers,
            addresses: common.addresses.clone(),
            askers,
            asked,
            scanned,
            scans: scans.clone(),
            scan_progress,
            counts,
            recorded,
            progress,
            served,
            given,
            gate,
            epoch_overlap: common.epoch_overlap,
            shutdown,
            unopened: common.unopened.clone(),
        };
        let index = settings.index;
        let mut node = SenderNode::new(NodeConfig {
            name: channel.name.clone(),
            epochs: epochs(channel),
            signer: channel.sender.clone(),
            publisher: channel.publisher_key,
            role: RoleConfig {
                rank: common.rank,
                peers: common.addresses.borrow().clone(),
                drain_limit: common.drain_limit,
                hold_off: opened.hold_off,
                ..RoleConfig::new(settings.role, new_session().0)
            },
            engine,
        });
        node.set_limits(crate::node::Limits { late: common.late_after, ..Default::default() });
        node.set_wall_clock(common.clock.wall_origin_ms());
        let route = Route { opener: node.opener(), queue };
        let task = Channel::new(ChannelParts {
            index,
            id,
            name: channel.name.clone(),
            node,
            is_once: settings.once.is_some(),
            publishes: publishes(channel),
            caller,
            sockets,
            clock: common.clock,
            state: common.state.clone(),
            ports,
            passes: opened.passes,
            makers: Arc::clone(&common.makers),
        });
        self.set.spawn(async move { Ok(Ended::Channel(index, Box::new(task.run().await))) });
        (route, Door { scans, asks })
    }
}

/// What all channels of a node share.
#[derive(Debug)]
struct Common {
    /// Datagrams that no channel's key opened.
    unopened: watch::Receiver<u64>,
    rate: RateLimit,
    auto: RateBounds,
    clock: Clock,
    makers: Arc<Semaphore>,
    nack_port: u16,
    quic_port: u16,
    state: NodeState,
    shutdown: CancellationToken,
    progress: watch::Sender<Progress>,
    /// Of other senders.
    addresses: watch::Receiver<Vec<SocketAddr>>,
    rank: u32,
    drain_limit: Duration,
    epoch_overlap: Duration,
    late_after: Duration,
}

/// What the configuration says for every channel alike, and the channel's place.
#[derive(Debug)]
struct Settings {
    index: usize,
    role: Role,
    schedule: crate::config::ScheduleConfig,
    once: Option<crate::config::Once>,
    rescan: Duration,
    watch: bool,
}

#[cfg(test)]
mod tests;
