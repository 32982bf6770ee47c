//! `nackcast send` and `nackcast standby`: options to a configuration that was checked, then the node.
//!
//! A backup is two nodes in one process: a receiver that keeps the directory whole and follows the manifest, and a
//! sender that serves from both. They share nothing but the directory and the receiver's state.

mod beside;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nackcast_common::geometry::{FecScheme, Geometry};
use nackcast_common::ids::ChannelId;
use nackcast_common::keys::SigningKey;
use nackcast_common::units::{BitRate, ByteCount, RateLimit};
use nackcast_proto::wire::{Role, SenderCertificate};
use nackcast_receiver::Subscription;
use nackcast_sender::{ChannelConfig, Config, Control, Once, RateBounds, ScheduleConfig, Summary};

use crate::App;
use crate::args::SendArgs;
use crate::args::options::{RoleOption, SendOptions, SlowReceivers};
use crate::args::values::ChannelSource;
use crate::failure::{Failure, OrFail};
use crate::keyfile::{Authority, KeyFile};
use crate::node::{self, Daemon, Ports, Reload, Reloaded, Show};
use crate::places::{self, Node, NodeChannel, NodeRole};
use crate::receive::beside_sender;
use crate::serve::Offer;
use crate::{config_file, node_key};

pub(crate) const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7701);
const DEFAULT_RATE: RateLimit = RateLimit::Fixed(BitRate(20_000_000));
/// Where multicast is not limited.
const DEFAULT_UNICAST_RATE: RateLimit = RateLimit::Fixed(BitRate(100_000_000));
const DEFAULT_TTL: u8 = 8;
const DEFAULT_RESCAN: Duration = Duration::from_secs(600);
const DEFAULT_LINGER: Duration = Duration::from_secs(3);
const DSCP_MAX: u8 = 63;
const DEFAULT_DRAIN_LIMIT: Duration = Duration::from_secs(10);
const DEFAULT_LATE_AFTER: Duration = Duration::from_secs(600);
const DEFAULT_EPOCH_OVERLAP: Duration = Duration::from_secs(30);
const EPOCH_OVERLAP_MAX: Duration = Duration::from_hours(1);
/// State of the receiver beside a backup, in the backup's.
const RECEIVER: &str = "receiver";

/// Runs the command.
pub(crate) fn run(args: SendArgs, app: &App) -> Result<(), Failure> {
    // What the command line gives counts more than the file, whatever that says later.
    let reload = args.config.clone().filter(|_| args.options.rate.is_none());
    let options = match &args.config {
        Some(path) => args.options.or(config_file::load(path)?),
        None => args.options,
    };
    let show = Show { report: args.report, json: options.json.unwrap_or(false) };
    let offer = Offer::of(options.admin, [&options.admin_cert, &options.admin_key, &options.admin_ca], options.http)?;
    let (mut sender, node) = configure(options)?;
    sender.reload.rate = reload;
    let summary = node::run(sender, &node, &offer, show, app)?;
    if summary.success { Ok(()) } else { Err(Failure::Reported) }
}

/// Runs `nackcast standby`: a backup.
pub(crate) fn run_standby(mut args: SendArgs, app: &App) -> Result<(), Failure> {
    args.options.role = Some(RoleOption::Backup);
    run(args, app)
}

/// A sender and the key that its state directory keeps; of a backup, the receiver beside it.
pub(crate) struct Sender {
    config: Config,
    key: SigningKey,
    receiver: Option<nackcast_receiver::Config>,
    /// What is read again at SIGHUP.
    reload: Files,
}

/// Files that a running sender reads again.
#[derive(Clone)]
struct Files {
    /// The configuration file, when the rate is its to give.
    rate: Option<PathBuf>,
    /// The key file of each channel.
    keys: Vec<(ChannelId, PathBuf)>,
}

impl Files {
    fn read(&self) -> Result<Reloaded, Failure> {
        let rate = match &self.rate {
            Some(path) => Some(config_file::load::<SendOptions>(path)?.rate.unwrap_or(DEFAULT_RATE)),
            None => None,
        };
        let admission = |(channel, path): &(ChannelId, PathBuf)| {
            let file = KeyFile::load(path)?;
            if file.channel != *channel {
                let path = path.display();
                return Err(Failure::usage(format_args!("key file {path} is of another channel now")));
            }
            Ok(file.admission)
        };
        Ok(Reloaded { rate, admissions: self.keys.iter().map(admission).collect::<Result<_, _>>()? })
    }
}

impl Daemon for Sender {
    type Summary = Summary;

    fn check(&self) -> Result<(), Failure> {
        if let Some(receiver) = &self.receiver {
            nackcast_receiver::check(receiver).map_err(|error| node::fail(error.is_usage(), error))?;
        }
        nackcast_sender::check(&self.config).map_err(|error| node::fail(error.is_usage(), error))
    }

    fn state(&self) -> &Path {
        &self.config.state
    }

    fn interface(&self) -> Option<&str> {
        self.config.interface.as_deref()
    }

    fn groups(&self) -> Vec<IpAddr> {
        self.config.channels.iter().map(|channel| channel.advertise.ip()).collect()
    }

    fn reload(&self) -> Option<Reload> {
        let files = self.reload.clone();
        Some(Box::new(move || files.read()))
    }

    async fn run(self, ports: Ports) -> Result<Summary, Failure> {
        node_key::keep(&self.config.state, node_key::OF_SENDER, &self.key)?;
        match self.receiver {
            Some(receiver) => beside::run(self.config, receiver, ports).await,
            None => {
                let Ports { shutdown, requests, progress, files: _ } = ports;
                let control = Control { shutdown, requests, progress };
                nackcast_sender::run(self.config, control).await.map_err(|error| node::fail(error.is_usage(), error))
            }
        }
    }
}

/// Checks what the options alone tell.
pub(crate) fn configure(options: SendOptions) -> Result<(Sender, Node), Failure> {
    check_options(&options)?;
    let files: Vec<KeyFile> =
        options.channel.iter().map(|source| KeyFile::load(&source.key_file)).collect::<Result<_, _>>()?;
    check_channels(&options.channel, &files, options.role == Some(RoleOption::Backup))?;
    let auto = rate_bounds(&options);
    let listen = options.listen.map_or(DEFAULT_LISTEN, |listen| listen.0);
    check_ports(listen, &files)?;
    let geometry = geometry(&options)?;
    let state = places::state_dir(options.state.as_deref(), NodeRole::Send, files[0].channel)?;
    check_state_outside(&state, &options.channel)?;
    let key = node_key::load_or_generate(&state, node_key::OF_SENDER)?;
    let node = describe(&options.channel, &files);
    let key_files = options.channel.iter().map(|source| &source.key_file);
    let keys = files.iter().map(|file| file.channel).zip(key_files.cloned()).collect();
    let role = options.role.map_or(Role::Primary, RoleOption::role);
    let beside = (role == Role::Backup).then(|| state.join(RECEIVER));
    let peers: Vec<String> = options.peer.into_iter().map(|peer| peer.0).collect();
    let tickets: Vec<_> = files.iter().map(KeyFile::ticket).collect();
    let channels: Vec<ChannelConfig> = options
        .channel
        .into_iter()
        .zip(files)
        .map(|(source, file)| channel(source, file, &key, beside.as_deref()))
        .collect();
    let receiver = beside.map(|state| {
        let subscriptions = channels.iter().zip(tickets).map(|(channel, ticket)| Subscription {
            ticket,
            into: channel.directory.clone(),
            own_sender: Some(channel.sender.verifying_key()),
            master: Some(channel.master.clone()),
        });
        let overwrite = options.overwrite.unwrap_or(false);
        beside_sender(subscriptions.collect(), options.interface.clone(), peers.clone(), key.clone(), state, overwrite)
    });
    let schedule = ScheduleConfig::default();
    let config = Config {
        channels,
        role,
        rank: options.rank.unwrap_or(0),
        peers,
        drain_limit: options.drain_limit.unwrap_or(DEFAULT_DRAIN_LIMIT),
        epoch_overlap: options.epoch_overlap.unwrap_or(DEFAULT_EPOCH_OVERLAP),
        late_after: options.late_after.unwrap_or(DEFAULT_LATE_AFTER),
        interface: options.interface,
        listen,
        identity: key.clone(),
        unicast_rate: options.unicast_rate.unwrap_or(match options.rate {
            Some(RateLimit::Max | RateLimit::Auto) => DEFAULT_UNICAST_RATE,
            Some(rate) => rate,
            None => DEFAULT_RATE,
        }),
        rate: options.rate.unwrap_or(DEFAULT_RATE),
        auto,
        ttl: options.ttl.unwrap_or(DEFAULT_TTL),
        dscp: options.dscp.unwrap_or(0),
        schedule: ScheduleConfig {
            max_jobs: options.max_jobs.unwrap_or(schedule.max_jobs),
            max_passes: options.max_passes.unwrap_or(schedule.max_passes),
            period: options.period.unwrap_or(schedule.period),
            round_quiet: options.round_quiet.unwrap_or(schedule.round_quiet),
            ..schedule
        },
        exclude: options.exclude,
        priorities: options.priority.into_iter().map(|rule| (rule.glob, rule.priority)).collect(),
        geometry,
        state,
        rescan: options.rescan.unwrap_or(DEFAULT_RESCAN),
        watch: !options.no_watch.unwrap_or(false),
        once: options
            .once
            .unwrap_or(false)
            .then(|| Once { expect: options.expect, linger: options.linger.unwrap_or(DEFAULT_LINGER) }),
    };
    Ok((Sender { config, key, receiver, reload: Files { rate: None, keys } }, node))
}

fn check_options(options: &SendOptions) -> Result<(), Failure> {
    let once = options.once.unwrap_or(false);
    let problem = if options.channel.is_empty() {
        "nothing to send: give --channel FILE=DIR, or the key `channel` in the --config file"
    } else if options.role == Some(RoleOption::Backup) && once {
        "--once: a backup waits until it is needed, so it never ends by itself: leave --once out"
    } else if options.role != Some(RoleOption::Backup) && options.overwrite.is_some() {
        "--overwrite is for a backup, which receives: a primary only reads its directory"
    } else if options.expect.is_some() && !once {
        "--expect says how --once ends: give --once, too"
    } else if options.linger.is_some() && !once {
        "--linger says how --once ends: give --once, too"
    } else if options.epoch_overlap.is_some_and(|overlap| overlap > EPOCH_OVERLAP_MAX) {
        "--epoch-overlap: an hour at most, since somebody who was taken off reads until then"
    } else if options.dscp.is_some_and(|dscp| dscp > DSCP_MAX) {
        "--dscp: a DSCP is a number from 0 to 63"
    } else if options.max_passes == Some(0) {
        "--max-passes 0 would send nothing: give at least 1"
    } else if options.max_jobs == Some(0) {
        "--max-jobs 0 would send nothing: give at least 1"
    } else {
        return Ok(());
    };
    Err(Failure::usage(problem))
}

/// Directories that can be read, and each channel once. That of a backup, which fills it, is made, as `receive` does.
fn check_channels(sources: &[ChannelSource], files: &[KeyFile], fills: bool) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for (source, file) in sources.iter().zip(files) {
        let directory = source.directory.display();
        if !seen.insert(file.channel) {
            return Err(Failure::usage(format_args!(
                "--channel {}={directory}: channel {} is given twice: a channel has one directory",
                source.key_file.display(),
                file.name
            )));
        }
        if fills && !source.directory.exists() {
            std::fs::create_dir(&source.directory).or_usage(format_args!(
                "--channel {}={directory}: directory {directory} cannot be made",
                source.key_file.display()
            ))?;
        }
        std::fs::read_dir(&source.directory).or_usage(format_args!(
            "--channel {}={directory}: directory {directory} cannot be read",
            source.key_file.display()
        ))?;
    }
    Ok(())
}

/// Groups and the listening sockets must not meet on a port.
fn check_ports(listen: SocketAddr, files: &[KeyFile]) -> Result<(), Failure> {
    let port = listen.port();
    if port == u16::MAX {
        return Err(Failure::usage(format_args!(
            "--listen {listen}: the next port is reserved, so give at most 65534"
        )));
    }
    if listen.ip().is_multicast() {
        return Err(Failure::usage(format_args!(
            "--listen {listen}: NACKs are unicast: give a local address, or [::]"
        )));
    }
    for file in files {
        let group = file.advertise.port();
        if port != 0 && (port == group || port == group + 1 || port + 1 == group) {
            return Err(Failure::usage(format_args!(
                "--listen {listen}: channel {} uses ports {group} and {} for its groups: listen on another port",
                file.name,
                group + 1
            )));
        }
    }
    Ok(())
}

/// What `--rate auto` may choose.
fn rate_bounds(options: &SendOptions) -> RateBounds {
    let usual = RateBounds::default();
    RateBounds {
        floor: options.rate_floor.unwrap_or(usual.floor),
        ceiling: options.rate_ceiling.unwrap_or(usual.ceiling),
        leave_slow: options.slow_receivers == Some(SlowReceivers::Leave),
    }
}

fn geometry(options: &SendOptions) -> Result<Geometry, Failure> {
    let default = Geometry::default();
    let size = |given: Option<ByteCount>, default: u32| {
        given.map_or(default, |size| u32::try_from(size.0).unwrap_or(u32::MAX))
    };
    let symbol_size = size(options.symbol_size, default.symbol_size().into());
    let block_size = size(options.block_size, default.block_size());
    Geometry::new(symbol_size, block_size, FecScheme::ReedSolomonLow.id().into())
        .or_usage("--symbol-size, --block-size")
}

/// State inside the content would be sent, and change with every pass.
fn check_state_outside(state: &Path, sources: &[ChannelSource]) -> Result<(), Failure> {
    let state = places::resolved(state);
    for source in sources {
        if state.starts_with(places::resolved(&source.directory)) {
            return Err(Failure::usage(format_args!(
                "state directory {} lies in {}, which is sent: give another one with --state",
                state.display(),
                source.directory.display()
            )));
        }
    }
    Ok(())
}

fn describe(sources: &[ChannelSource], files: &[KeyFile]) -> Node {
    let channels = sources.iter().zip(files).map(|(source, file)| NodeChannel {
        channel: file.channel.to_string(),
        name: file.name.clone(),
        directory: places::resolved(&source.directory).into_os_string(),
    });
    Node { role: NodeRole::Send, channels: channels.collect() }
}

fn channel(source: ChannelSource, file: KeyFile, own_key: &SigningKey, beside: Option<&Path>) -> ChannelConfig {
    let publisher_key = file.publisher_key();
    let (publisher, sender, certificate) = match file.authority {
        Authority::Publisher(publisher) => {
            let certificate = SenderCertificate::issue(&publisher, file.channel, own_key.verifying_key());
            (Some(publisher), own_key.clone(), certificate)
        }
        Authority::Delegated { sender, certificate, .. } => (None, sender, certificate),
    };
    ChannelConfig {
        channel: file.channel,
        name: file.name,
        directory: source.directory,
        follow: beside.map(|state| state.join(file.channel.to_string())),
        advertise: file.advertise,
        publisher,
        publisher_key,
        sender,
        certificate,
        master: file.master,
        admission: file.admission,
    }
}
