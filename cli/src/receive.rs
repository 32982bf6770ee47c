//! `nackcast receive`: options and tickets to a configuration that was checked, then the node.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nackcast_common::keys::SigningKey;
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::ticket::Ticket;
use nackcast_receiver::{Config, Control, Peers, PullWhen, Subscription, Summary};

use crate::App;
use crate::args::ReceiveArgs;
use crate::args::options::{PullOption, ReceiveOptions};
use crate::failure::{Failure, OrFail};
use crate::keyfile::KeyFile;
use crate::node::{self, Daemon, Ports, Show};
use crate::places::{self, Node, NodeChannel, NodeRole};
use crate::serve::Offer;
use crate::{config_file, node_key, private_file};

const TICKET_VARIABLE: &str = "NACKCAST_TICKET";
const DEFAULT_SCAN: Duration = Duration::from_secs(600);
const DEFAULT_MODE_MASK: u32 = 0o777;
const DEFAULT_NACK_RETRY: Duration = Duration::from_millis(200);
const DEFAULT_NACK_BUDGET: usize = 4;
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7701);
const DEFAULT_UNICAST_RATE: RateLimit = RateLimit::Fixed(BitRate(20_000_000));
const DEFAULT_MEMORY: u64 = 32 << 20;
const DEFAULT_UNICAST_ALERT: u8 = 5;
/// Blocks of the default size for each of two channels fit, and little more makes no sense.
const MEMORY_MIN: u64 = 1 << 20;
/// A ticket is much shorter.
const STDIN_MAX: u64 = 1 << 16;

/// Runs the command.
pub(crate) fn run(args: ReceiveArgs, app: &App) -> Result<(), Failure> {
    let mut options = match &args.config {
        Some(path) => args.options.or(config_file::load(path)?),
        None => args.options,
    };
    if options.ticket.is_empty() {
        options.ticket = tickets_of_environment()?;
    }
    let show = Show { report: args.report, json: options.json.unwrap_or(false) };
    let mut offer =
        Offer::of(options.admin, [&options.admin_cert, &options.admin_key, &options.admin_ca], options.http)?;
    offer.on_complete = options.on_complete.clone();
    let (config, node) = configure(options)?;
    let once = config.once;
    let summary = node::run(config, &node, &offer, show, app)?;
    // A node that runs until it is told to end did what it was asked for when it ends.
    if summary.success || !once { Ok(()) } else { Err(Failure::Reported) }
}

impl Daemon for Config {
    type Summary = Summary;

    fn check(&self) -> Result<(), Failure> {
        nackcast_receiver::check(self).map_err(|error| node::fail(error.is_usage(), error))
    }

    fn state(&self) -> &Path {
        &self.state
    }

    fn interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    fn groups(&self) -> Vec<IpAddr> {
        self.subscriptions.iter().map(|subscription| subscription.ticket.advertise.ip()).collect()
    }

    async fn run(self, ports: Ports) -> Result<Summary, Failure> {
        node_key::keep(&self.state, node_key::OF_RECEIVER, &self.identity)?;
        let Ports { shutdown, requests, progress, files } = ports;
        let control = Control { shutdown, requests, progress, files };
        nackcast_receiver::run(self, control).await.map_err(|error| node::fail(error.is_usage(), error))
    }
}

/// Checks what the options alone tell.
pub(crate) fn configure(options: ReceiveOptions) -> Result<(Config, Node), Failure> {
    check_options(&options)?;
    let tickets = read_tickets(&options.ticket)?;
    let state = places::state_dir(options.state.as_deref(), NodeRole::Receive, tickets[0].channel)?;
    check_directories(&options.into, &tickets, &state)?;
    let subscriptions: Vec<Subscription> = tickets
        .into_iter()
        .zip(options.into)
        .map(|(ticket, into)| Subscription { ticket, into, own_sender: None, master: None })
        .collect();
    let node = describe(&subscriptions);
    let identity = node_key::load_or_generate(&state, node_key::OF_RECEIVER)?;
    let peers = options.serve_peers.unwrap_or(false).then(|| Peers {
        listen: options.listen.map_or(DEFAULT_LISTEN, |listen| listen.0),
        rate: options.unicast_rate.unwrap_or(DEFAULT_UNICAST_RATE),
    });
    let config = Config {
        subscriptions,
        interface: options.interface,
        sources: options.source.into_iter().map(|source| source.0).collect(),
        identity,
        pull: match options.pull {
            Some(PullOption::Never) => PullWhen::Never,
            Some(PullOption::Last) | None => PullWhen::Last,
            Some(PullOption::Unknown) => PullWhen::Unknown,
        },
        peers,
        state,
        scan: options.scan.unwrap_or(DEFAULT_SCAN),
        prune: options.prune.unwrap_or(false),
        overwrite: options.overwrite.unwrap_or(false),
        once: options.once.unwrap_or(false),
        mode_mask: options.mode_mask.map_or(DEFAULT_MODE_MASK, |mask| mask.0),
        nack_retry: options.nack_retry.unwrap_or(DEFAULT_NACK_RETRY),
        nack_budget: options.nack_budget.unwrap_or(DEFAULT_NACK_BUDGET),
        memory: options.memory.map_or(DEFAULT_MEMORY, |size| size.0),
        unicast_alert: options.unicast_alert.unwrap_or(DEFAULT_UNICAST_ALERT),
    };
    Ok((config, node))
}

/// The receiver beside a backup sender, whose key it shows: with the defaults, and never done.
pub(crate) fn beside_sender(
    subscriptions: Vec<Subscription>,
    interface: Option<String>,
    sources: Vec<String>,
    identity: SigningKey,
    state: PathBuf,
    overwrite: bool,
) -> Config {
    Config {
        subscriptions,
        interface,
        sources,
        identity,
        pull: PullWhen::Last,
        peers: None,
        state,
        scan: DEFAULT_SCAN,
        prune: false,
        overwrite,
        once: false,
        mode_mask: DEFAULT_MODE_MASK,
        nack_retry: DEFAULT_NACK_RETRY,
        nack_budget: DEFAULT_NACK_BUDGET,
        memory: DEFAULT_MEMORY,
        unicast_alert: DEFAULT_UNICAST_ALERT,
    }
}

fn check_options(options: &ReceiveOptions) -> Result<(), Failure> {
    let (tickets, directories) = (options.ticket.len(), options.into.len());
    if tickets == 0 {
        return Err(Failure::usage(format_args!(
            "no ticket: give --ticket @FILE, the key `ticket` in the --config file, or {TICKET_VARIABLE}"
        )));
    }
    if tickets != directories {
        return Err(Failure::usage(format_args!(
            "{tickets} --ticket but {directories} --into: the n-th ticket goes with the n-th directory, so give as many"
        )));
    }
    if !options.serve_peers.unwrap_or(false) && (options.listen.is_some() || options.unicast_rate.is_some()) {
        return Err(Failure::usage(
            "--listen and --unicast-rate say how --serve-peers serves: give --serve-peers, too",
        ));
    }
    if options.listen.is_some_and(|listen| listen.0.port() == u16::MAX) {
        return Err(Failure::usage("--listen: the next port is needed too, so give at most 65534"));
    }
    if options.nack_budget == Some(0) {
        return Err(Failure::usage("--nack-budget 0 would never ask for anything: give at least 1"));
    }
    if options.nack_retry == Some(Duration::ZERO) {
        return Err(Failure::usage("--nack-retry 0 would ask without end: give a time, such as 200ms"));
    }
    if options.unicast_alert.is_some_and(|percent| !(1..=100).contains(&percent)) {
        return Err(Failure::usage("--unicast-alert: give hundredths, from 1 to 100"));
    }
    if options.memory.is_some_and(|size| size.0 < MEMORY_MIN) {
        return Err(Failure::usage("--memory: give at least 1MiB"));
    }
    Ok(())
}

/// Several tickets may stand there, with white space between them.
fn tickets_of_environment() -> Result<Vec<String>, Failure> {
    match std::env::var(TICKET_VARIABLE) {
        Ok(text) => Ok(text.split_whitespace().map(str::to_owned).collect()),
        Err(std::env::VarError::NotPresent) => Ok(Vec::new()),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::usage(format_args!("{TICKET_VARIABLE} holds no ticket")))
        }
    }
}

fn read_tickets(texts: &[String]) -> Result<Vec<Ticket>, Failure> {
    if texts.iter().filter(|text| *text == "-").count() > 1 {
        return Err(Failure::usage("--ticket - is given twice: stdin holds one ticket"));
    }
    let mut seen = BTreeSet::new();
    let mut tickets = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let ticket = read_ticket(text, index)?;
        if !seen.insert(ticket.channel) {
            return Err(Failure::usage(format_args!(
                "--ticket number {}: channel {} is given twice: a channel goes into one directory",
                index + 1,
                ticket.name
            )));
        }
        tickets.push(ticket);
    }
    Ok(tickets)
}

/// The one ticket that is given, or that the environment holds.
pub(crate) fn one_ticket(text: Option<&str>) -> Result<Ticket, Failure> {
    let texts = match text {
        Some(text) => vec![text.to_owned()],
        None => tickets_of_environment()?,
    };
    match texts.as_slice() {
        [one] => read_ticket(one, 0),
        [] => Err(Failure::usage("which channel? On a receiver give --ticket T, on a sender --channel FILE")),
        _ => Err(Failure::usage(format_args!("{TICKET_VARIABLE} holds several tickets: give one with --ticket"))),
    }
}

/// T, @FILE or -. The text of a ticket is a secret: messages name its place only.
fn read_ticket(text: &str, index: usize) -> Result<Ticket, Failure> {
    let parse = |text: &str, place: &str| text.parse::<Ticket>().or_usage(format_args!("--ticket {place}"));
    if text == "-" {
        let mut read = String::new();
        std::io::stdin().take(STDIN_MAX).read_to_string(&mut read).or_usage("--ticket -: stdin cannot be read")?;
        return parse(&read, "-");
    }
    if let Some(path) = text.strip_prefix('@') {
        let read = private_file::read(Path::new(path), "ticket file")?;
        if KeyFile::looks_like(&read) {
            return Err(Failure::usage(format_args!(
                "--ticket {text}: this is a key file, which is for senders: give the ticket, which `nackcast channel \
                 ticket {path}` prints"
            )));
        }
        return parse(&read, text);
    }
    if names_a_file(text) {
        return Err(Failure::usage(format_args!(
            "--ticket {text}: this is a file's name and no ticket: write --ticket @{text}"
        )));
    }
    parse(text, &format!("number {}", index + 1))
}

/// What stands where a ticket should, and cannot be one.
fn names_a_file(text: &str) -> bool {
    let path = Path::new(text);
    path.extension().is_some_and(|end| end == "ticket" || end == "key") || path.is_file()
}

/// Targets and state apart from each other: what lies in a target may be removed or replaced.
fn check_directories(into: &[PathBuf], tickets: &[Ticket], state: &Path) -> Result<(), Failure> {
    let targets: Vec<PathBuf> = into.iter().map(|path| places::resolved(path)).collect();
    let state = places::resolved(state);
    for (index, target) in targets.iter().enumerate() {
        if target.exists() && !target.is_dir() {
            return Err(Failure::usage(format_args!(
                "--into {}: it is no directory: give a directory, which is made when it does not exist",
                target.display()
            )));
        }
        if state.starts_with(target) {
            return Err(Failure::usage(format_args!(
                "state directory {} lies in the target directory {}: give another one with --state",
                state.display(),
                target.display()
            )));
        }
        for (other, name) in targets[..index].iter().zip(tickets.iter().map(|ticket| &ticket.name)) {
            if places::overlap(target, other) {
                return Err(Failure::usage(format_args!(
                    "--into {}: it overlaps {}, where channel {name} goes: each channel needs a directory of its own",
                    target.display(),
                    other.display()
                )));
            }
        }
    }
    Ok(())
}

fn describe(subscriptions: &[Subscription]) -> Node {
    let channels = subscriptions.iter().map(|subscription| NodeChannel {
        channel: subscription.ticket.channel.to_string(),
        name: subscription.ticket.name.clone(),
        directory: places::resolved(&subscription.into).into_os_string(),
    });
    Node { role: NodeRole::Receive, channels: channels.collect() }
}
