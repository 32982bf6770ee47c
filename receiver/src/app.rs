//! A receiving node: checks its configuration, opens its state, and runs its channels.
//!
//! State directory, one for each node:
//!
//! | path | what |
//! |---|---|
//! | `CHANNEL/store/` | stamps of verified files |
//! | `CHANNEL/manifest/` | the manifest in force |
//! | `CHANNEL/chaining/` | block hashes of large objects |
//! | `CHANNEL/into` | the directory that it is about |
//! | `CHANNEL/epochs` | secrets that were given to this node |
//! | `identity.key` | the node's own key, for unicast |

use std::fs;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nackcast_common::archive::Archive;
use nackcast_common::clock::Clock;
use nackcast_common::control::{Ask, Request};
use nackcast_common::epochs::Epochs;
use nackcast_common::files::linux;
use nackcast_common::ids::{ChannelId, Epoch, RunId};
use nackcast_common::keys::fill_random;
use nackcast_common::net::quic::{Limits, QuicError, Server};
use nackcast_common::net::{NetError, interface};
use nackcast_common::store::{Store, StoreError};
use nackcast_proto::pull::{Membership, Service};
use nackcast_proto::ticket::Ticket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use walkdir::WalkDir;

use crate::config::{Config, Subscription};
use crate::dataset::{AdoptError, CompareError, Record, ScanReport, Settings, load_manifest, shown};
use crate::disk::DiskError;
use crate::disk::scan::{Depth, Options, Progress as ScanProgress, scan};
use crate::disk::target::TargetDir;
use crate::disks::Disks;
use crate::driver::{self, Network, PullSetup, Setup};
use crate::node::{NodeConfig, OpenError, ReceiverNode, Workers};
use crate::report::{ChannelProgress, Progress, Summary};
use crate::secrets;
use crate::silence::Silence;
use crate::verified::VerifiedFiles;

/// What an admin asks, and waits to be taken.
const ASKS_MAX: usize = 64;

/// How a node is told things while it runs.
#[derive(Debug)]
pub struct Control {
    /// Ends the node.
    pub shutdown: CancellationToken,
    /// What an admin asks. One that waits for a busy channel for too long is dropped unanswered.
    pub requests: mpsc::Receiver<Request>,
    /// Where progress goes.
    pub progress: watch::Sender<Progress>,
    /// Where the channels' verified files are to be had, once the node runs.
    pub files: watch::Sender<Vec<VerifiedFiles>>,
}

/// Why a node did not run, or stopped. One line each: what, where, what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A socket could not be had.
    #[error(transparent)]
    Network(NetError),
    /// The directory could not be used.
    #[error(transparent)]
    Disk(DiskError),
    /// Nothing could be installed there.
    #[error("target directory {path} cannot be written: {cause}; change its owner or mode, or give another --into")]
    NotWritable {
        /// The directory.
        path: String,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The state could not be used.
    #[error(transparent)]
    Store(StoreError),
    /// The state directory could not be used.
    #[error("cannot use the state directory {path}: {source}")]
    State {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The state is of other channels.
    #[error("state directory {path} belongs to channel {other}, not to `{name}`: use another --state")]
    OtherChannel {
        /// Where.
        path: String,
        /// Whose it is.
        other: String,
        /// What was asked for.
        name: String,
    },
    /// The state knows another directory.
    #[error(
        "channel `{name}` goes into {other}, so says the state in {state}: give --into {other}, or another --state. If \
         {other} was a mistake, remove {state} and start again: content stays, and is compared anew"
    )]
    OtherDirectory {
        /// The channel.
        name: String,
        /// The directory on record.
        other: String,
        /// Where it is on record: the channel's part of the state directory.
        state: String,
    },
    /// The directory holds another channel's dataset.
    #[error("{into} already takes another channel of this node: give each channel a directory of its own")]
    SharedDirectory {
        /// The directory.
        into: String,
    },
    /// The directory lies in another receiver's.
    #[error("target directory {into} lies in {outer}, which another receiver fills: choose a directory outside")]
    Inside {
        /// The directory.
        into: String,
        /// The other one's.
        outer: String,
    },
    /// Files that are not ours stand in the way.
    #[error("the target holds other files under the dataset's names; nothing was touched. Move them away or give --overwrite:\n  {}", paths.join("\n  "))]
    NotOurs {
        /// Which.
        paths: Vec<String>,
    },
    /// The ticket holds no secret, and names no sender.
    #[error(
        "the ticket of channel `{0}` holds no secret, which a sender gives, and names no sender: give --source HOST:PORT"
    )]
    NobodyToAsk(String),
    /// Unicast cannot be had.
    #[error(transparent)]
    Unicast(QuicError),
    /// There is no manifest of the directory.
    #[error("{0} is not known to the state at {1}: receive into it first, or name its state with --state")]
    NotReceived(String, String),
    /// The manifest on record is damaged.
    #[error("the manifest in {path} is not usable: {why}")]
    Manifest {
        /// Where.
        path: String,
        /// Why.
        why: String,
    },
    /// Nothing that a user could mend.
    #[error("internal error in {0}")]
    Internal(&'static str),
}

impl From<OpenError> for RunError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Disk(error) => Self::Disk(error),
            OpenError::Store(error) => Self::Store(error),
        }
    }
}

impl RunError {
    /// A mistake in what was asked for, found before anything was received.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::Network(_)
            | Self::Unicast(QuicError::Net(_))
            | Self::Disk(_)
            | Self::NotWritable { .. }
            | Self::OtherChannel { .. }
            | Self::OtherDirectory { .. }
            | Self::SharedDirectory { .. }
            | Self::Inside { .. }
            | Self::NotOurs { .. }
            | Self::State { .. }
            | Self::Store(_)
            | Self::NotReceived(..)
            | Self::NobodyToAsk(_) => true,
            Self::Manifest { .. } | Self::Unicast(_) | Self::Internal(_) => false,
        }
    }
}

/// Receives until everything is complete (`once`) or the node is told to end.
///
/// # Errors
/// When the configuration cannot work, or something that cannot be mended while running fails.
pub async fn run(config: Config, control: Control) -> Result<Summary, RunError> {
    let clock = Clock::start();
    let Control { shutdown, mut requests, progress, files } = control;
    check_directories(&config)?;
    check_ways_in(&config)?;
    make_private(&config.state)?;
    check_channels(&config)?;
    let mut tasks = JoinSet::new();
    let mut rows = Vec::new();
    let mut doors: Vec<mpsc::Sender<Ask>> = Vec::new();
    let mut disks = Disks::default();
    let mut service = Service::default();
    let mut silence = Silence::new(clock.now());
    for (at, subscription) in config.subscriptions.iter().enumerate() {
        let (row, watched) = watch::channel(ChannelProgress::default());
        let (door, asked) = mpsc::channel(ASKS_MAX);
        let setup = prepare(&config, subscription, clock, shutdown.clone(), row, asked)?;
        silence.add(&subscription.ticket, &setup.network.interface);
        service.add(Arc::clone(&setup.pull.membership), setup.shelf.clone());
        rows.push(watched);
        files.send_modify(|files| files.push(setup.dataset.files()));
        doors.push(door);
        tasks.spawn(async move { (at, driver::run(setup).await) });
    }
    let pulls = serve_peers(&config, service)?;
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(500));
    let mut rates = Rates::default();
    let mut results = Vec::new();
    loop {
        tokio::select! {
            Some(result) = tasks.join_next() => {
                let (at, result) = result.map_err(|_| RunError::Internal("a channel"))?;
                match result {
                    Ok(channel) => results.push((at, channel)),
                    Err(error) => {
                        shutdown.cancel();
                        while tasks.join_next().await.is_some() {}
                        return Err(error);
                    }
                }
                if tasks.is_empty() {
                    break;
                }
            }
            Some(Request { channel, ask }) = requests.recv() => {
                // Whoever asks a channel that takes no more loses the answer, and so hears of it.
                if doors.get(channel).is_none_or(|door| door.try_send(ask).is_err()) {
                    tracing::debug!(channel, "asked for too much at once");
                }
            }
            _ = tick.tick() => {
                let mut collected = rates.collect(clock, &rows);
                disks.look(clock.now(), &config, &mut collected);
                silence.look(clock.now(), &collected).iter().for_each(|hint| tracing::warn!("{hint}"));
                progress.send_replace(collected);
            }
        }
    }
    progress.send_replace(rates.collect(clock, &rows));
    drop(pulls);
    results.sort_by_key(|(at, _)| *at);
    let channels: Vec<_> = results.into_iter().map(|(_, channel)| channel).collect();
    let success = channels.iter().all(|c| c.complete);
    Ok(Summary { channels, success })
}

/// The secrets of a channel that this node has: the master's, or the ticket's and those of earlier runs.
fn epochs(subscription: &Subscription, state: &Path) -> Result<Epochs, RunError> {
    let ticket = &subscription.ticket;
    if let Some(master) = &subscription.master {
        return Ok(Epochs::of_master(ticket.channel, master.clone(), ticket.epoch));
    }
    let mut epochs = Epochs::none(ticket.channel);
    secrets::load(state, &mut epochs);
    if let Some(secret) = &ticket.secret
        && epochs.hold(ticket.epoch, secret.clone())
    {
        // With the next ticket this one's epoch may still be in force.
        secrets::save(state, &epochs).map_err(|source| RunError::State { path: shown(state), source })?;
    }
    Ok(epochs)
}

/// A ticket without a secret is of no use when nobody can be asked for it.
pub(crate) fn check_ways_in(config: &Config) -> Result<(), RunError> {
    let is_cut_off = |subscription: &&Subscription| {
        let Subscription { ticket, master, .. } = subscription;
        ticket.secret.is_none() && master.is_none() && ticket.senders.is_empty() && config.sources.is_empty()
    };
    match config.subscriptions.iter().find(is_cut_off) {
        Some(subscription) => Err(RunError::NobodyToAsk(subscription.ticket.name.clone())),
        None => Ok(()),
    }
}

/// Gives blocks to other receivers, where that is wanted.
fn serve_peers(config: &Config, service: Service) -> Result<Option<Server>, RunError> {
    let Some(peers) = config.peers else { return Ok(None) };
    let mut at = peers.listen;
    at.set_port(if at.port() == 0 { 0 } else { at.port().saturating_add(1) });
    let server = Server::start(at, &config.identity, Arc::new(service), Limits::with_rate(peers.rate));
    let server = server.map_err(RunError::Unicast)?;
    tracing::info!("giving blocks to other receivers at {}", server.local_addr());
    Ok(Some(server))
}

/// HOST:PORT of a node's QUIC, which is on the port after that by which the node is known.
fn quic_of(source: &str) -> Option<String> {
    let (host, port) = source.rsplit_once(':')?;
    Some(format!("{host}:{}", port.parse::<u16>().ok()?.checked_add(1)?))
}

/// Rates, from what arrived between two looks.
#[derive(Default)]
struct Rates {
    last: Vec<(u64, nackcast_common::clock::Time)>,
}

impl Rates {
    fn collect(&mut self, clock: Clock, rows: &[watch::Receiver<ChannelProgress>]) -> Progress {
        let now = clock.now();
        self.last.resize(rows.len(), (0, now));
        let channels = rows.iter().zip(&mut self.last).map(|(row, last)| {
            let mut row = row.borrow().clone();
            let passed = nackcast_common::clock::micros(now.since(last.1)).max(1);
            let came = row.wire_bytes + row.pulled_bytes;
            row.rate_bps = came.saturating_sub(last.0).saturating_mul(8_000_000) / passed;
            *last = (came, now);
            row
        });
        Progress { channels: channels.collect() }
    }
}

/// Two channels may not share a directory, nor one lie in the other.
pub(crate) fn check_directories(config: &Config) -> Result<(), RunError> {
    let place = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let places: Vec<_> = config.subscriptions.iter().map(|s| place(&s.into)).collect();
    for (at, one) in places.iter().enumerate() {
        if places.iter().skip(at + 1).any(|other| one.starts_with(other) || other.starts_with(one)) {
            return Err(RunError::SharedDirectory { into: shown(one) });
        }
    }
    Ok(())
}

fn make_private(path: &Path) -> Result<(), RunError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| RunError::State { path: shown(path), source })
}

/// An explicit state directory of other channels is a mistake.
pub(crate) fn check_channels(config: &Config) -> Result<(), RunError> {
    let io = |source| RunError::State { path: shown(&config.state), source };
    let mut others = Vec::new();
    for entry in fs::read_dir(&config.state).map_err(io)? {
        let entry = entry.map_err(io)?;
        let is_channel = entry.path().join("into").exists();
        if let (true, Ok(name)) = (is_channel, entry.file_name().into_string()) {
            if config.subscriptions.iter().any(|s| s.ticket.channel.to_string() == name) {
                return Ok(());
            }
            others.push(name);
        }
    }
    match (others.pop(), config.subscriptions.first()) {
        (Some(other), Some(first)) => {
            Err(RunError::OtherChannel { path: shown(&config.state), other, name: first.ticket.name.clone() })
        }
        _ => Ok(()),
    }
}

fn channel_directory(state: &Path, channel: ChannelId) -> PathBuf {
    state.join(channel.to_string())
}

fn prepare(
    config: &Config,
    subscription: &Subscription,
    clock: Clock,
    shutdown: CancellationToken,
    progress: watch::Sender<ChannelProgress>,
    asked: mpsc::Receiver<Ask>,
) -> Result<Setup, RunError> {
    let ticket = &subscription.ticket;
    let interface =
        interface::resolve(config.interface.as_deref(), ticket.advertise.ip()).map_err(RunError::Network)?;
    let sources = resolve(config.sources.iter().chain(&ticket.senders));
    let target = TargetDir::open(linux(), &subscription.into).map_err(RunError::Disk)?;
    check_writable(&subscription.into)?;
    let state = channel_directory(&config.state, ticket.channel);
    make_private(&state)?;
    remember_directory(&state, &subscription.into, ticket)?;
    let (store, warning) = Store::open(&state.join("store")).map_err(RunError::Store)?;
    let settings = Settings {
        channel: ticket.channel,
        publisher: ticket.publisher,
        mode_mask: config.mode_mask,
        overwrite: config.overwrite,
        prune: config.prune,
    };
    let into = shown(target.path());
    let Workers { blocks, dataset, shelf, remembered, warnings } = Workers::open(settings, target, store, &state)?;
    // Said when the directory is locked: from now on others are refused.
    tracing::info!("{}: receiving on interface {}", ticket.name, interface.name);
    for warning in warning.map(|w| w.to_string()).into_iter().chain(warnings) {
        tracing::warn!("{}: {warning}", ticket.name);
    }
    let node = NodeConfig {
        ticket: ticket.clone(),
        into,
        run: RunId(random()),
        seed: random(),
        remembered,
        nack_retry: config.nack_retry,
        nack_budget: config.nack_budget,
        memory: config.memory,
        scan: config.scan,
        once: config.once,
        own_sender: subscription.own_sender,
    };
    let mut node = ReceiverNode::new(clock.now(), node);
    let epochs = epochs(subscription, &state)?;
    let membership = Arc::new(Membership::new(epochs.clone(), Epoch(0), ticket.publisher, None));
    node.hold_epochs(clock.now(), epochs);
    node.set_unicast_alert(config.unicast_alert);
    node.set_wall_clock(clock.wall_origin_ms());
    let pull_from = config.sources.iter().chain(&ticket.senders).filter_map(|source| quic_of(source));
    node.allow_pull(clock.now(), config.pull, pull_from);
    let pull = PullSetup { identity: config.identity.clone(), membership, state };
    let network = Network { advertise: ticket.advertise, interface, sources };
    Ok(Setup { node, blocks, dataset, pull, shelf: Arc::new(shelf), network, clock, shutdown, progress, asked })
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
    u64::from_be_bytes(bytes)
}

/// Else this would only show when the first file is to be installed, perhaps hours later.
pub(crate) fn check_writable(into: &Path) -> Result<(), RunError> {
    let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(into, wanted).map_err(|errno| RunError::NotWritable { path: shown(into), cause: errno.into() })
}

/// Addresses of senders, as far as they have one now: names may come up after this node, and who pulls looks again.
fn resolve<'a>(senders: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for sender in senders {
        match sender.to_socket_addrs() {
            Ok(found) => addresses.extend(found.map(|address| address.ip())),
            Err(error) => {
                tracing::warn!("{sender} has no address now ({error}); if it stays so, check --source and the ticket");
            }
        }
    }
    addresses
}

/// One state is about one directory of a channel.
fn remember_directory(state: &Path, into: &Path, ticket: &Ticket) -> Result<(), RunError> {
    let io = |source| RunError::State { path: shown(state), source };
    let place = fs::canonicalize(into).map_err(io)?;
    let file = state.join("into");
    match fs::read(&file) {
        Ok(bytes) => {
            let known = PathBuf::from(std::ffi::OsString::from_vec(bytes));
            if known == place || !known.exists() {
                return fs::write(&file, place.as_os_str().as_bytes()).map_err(io);
            }
            Err(RunError::OtherDirectory { name: ticket.name.clone(), other: shown(&known), state: shown(state) })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::write(state.join("publisher"), ticket.publisher.0).map_err(io)?;
            fs::write(&file, place.as_os_str().as_bytes()).map_err(io)
        }
        Err(error) => Err(io(error)),
    }
}

/// Compares a directory with the manifest in the state; nothing is changed. A running receiver may use both.
///
/// # Errors
/// When the directory was never received into with this state, or cannot be read.
pub fn verify(directory: &Path, state: &Path, deep: bool) -> Result<ScanReport, RunError> {
    let io = |source| RunError::State { path: shown(state), source };
    let not_received = || RunError::NotReceived(shown(directory), shown(state));
    let place = fs::canonicalize(directory).map_err(|_| not_received())?;
    let mut found = None;
    for entry in fs::read_dir(state).map_err(|_| not_received())? {
        let path = entry.map_err(io)?.path();
        if fs::read(path.join("into")).is_ok_and(|bytes| bytes == place.as_os_str().as_bytes()) {
            found = Some(path);
        }
    }
    let home = found.ok_or_else(not_received)?;
    let damaged = |why: String| RunError::Manifest { path: shown(&home), why };
    let publisher = fs::read(home.join("publisher")).map_err(io)?;
    let publisher = publisher.try_into().map_err(|_| damaged("the publisher's key is cut".into()))?;
    let publisher = nackcast_common::keys::VerifyingKey(publisher);
    let name = home.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let channel = parse_channel(name).ok_or_else(|| damaged("its name is no channel".into()))?;
    let archive = Archive::new(linux(), home.join("manifest"));
    let (_, manifest) = load_manifest(&archive, &publisher, channel)
        .map_err(|error: AdoptError| damaged(error.to_string()))?
        .ok_or_else(not_received)?;
    let target = TargetDir::open(linux(), directory).map_err(RunError::Disk)?;
    // A running receiver holds the store: without its stamps every file is read, which is slower, not worse.
    let record = Store::open(&home.join("store"))
        .ok()
        .and_then(|(store, _)| Record::new(store, linux(), home.join("chaining")).ok());
    let known = |path: &nackcast_common::path::DatasetPath| record.as_ref()?.stamp(path);
    let options = Options {
        depth: if deep { Depth::Deep } else { Depth::Quick },
        mode_mask: 0o777,
        known: &known,
        chaining: &|_| None,
        make_chaining: false,
        progress: &ScanProgress::default(),
    };
    let comparison = scan(&target, &manifest, options).map_err(|error| match CompareError::from(error) {
        CompareError::Disk(error) => RunError::Disk(error),
        other => damaged(other.to_string()),
    })?;
    let extra = comparison.extra.iter().map(|extra| count_below(&place, &extra.path)).sum();
    Ok(ScanReport { extra, ..ScanReport::new(&manifest, &comparison) })
}

/// How many paths a path stands for: itself, and what is in it. What cannot be read counts as nothing.
fn count_below(target: &Path, path: &[u8]) -> u64 {
    let root = target.join(std::ffi::OsStr::from_bytes(path));
    WalkDir::new(root).into_iter().filter_map(Result::ok).count() as u64
}

fn parse_channel(hex: &str) -> Option<ChannelId> {
    if hex.len() != 32 || !hex.is_ascii() {
        return None;
    }
    let mut id = [0; 16];
    for (byte, at) in id.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(ChannelId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_counts_with_all_that_is_in_it() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("old/inner")).unwrap();
        for file in ["one", "old/two", "old/inner/three"] {
            fs::write(place.path().join(file), "x").unwrap();
        }
        let count = |path: &str| count_below(place.path(), path.as_bytes());
        assert_eq!((count("one"), count("old"), count("gone")), (1, 4, 0));
    }
}
