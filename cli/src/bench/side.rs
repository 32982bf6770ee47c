//! One side of a bench: the ordinary node, and what it used.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::net::{GroupSocket, Interface, interface};
use nackcast_common::report::{ChannelProgress, Progress};
use nackcast_common::units::{BitRate, ByteCount, RateLimit, counted};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::bottleneck::{Bottleneck, Facts, judge};
use super::means::{Counters, Means, ratio, share};
use super::raw::{self, Raw};
use super::{below, check_room, content, place};
use crate::App;
use crate::args::BenchArgs;
use crate::args::options::{ReceiveOptions, SendOptions};
use crate::args::values::ChannelSource;
use crate::failure::{Failure, OrFail};
use crate::keyfile::KeyFile;
use crate::node::{self, Daemon, Ports, Show};
use crate::report::{Summary, rate};
use crate::serve::Offer;

/// What `nackcast send` does without `--rate`.
const DEFAULT_RATE: RateLimit = RateLimit::Fixed(BitRate(20_000_000));
/// A sender gives receivers so long to come to listen to plain datagrams, which takes them a moment.
const PAUSE: Duration = Duration::from_secs(1);
/// A receiver waits so long for a sender that has not heard yet that all is done.
const PATIENCE: Duration = Duration::from_secs(20);
const TTL: u8 = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    #[default]
    Sender,
    Receiver,
}

/// How a side went. Names of fields are a contract with scripts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(super) role: Role,
    /// A receiver has everything, verified; a sender heard so from all that it waited for.
    pub(super) success: bool,
    pub(super) files: u64,
    /// Of files.
    pub(super) bytes: u64,
    /// From the first bytes of data to the end, to half a second.
    pub(super) seconds: f64,
    pub(super) goodput_bps: u64,
    /// Sent to the data group, or kept from it, with our headers.
    pub(super) data_bytes: u64,
    pub(super) repair_bytes: u64,
    /// The data group's rate between the first and the last data that the progress showed; none: too short a run.
    pub(super) data_bps: Option<u64>,
    /// Of a sender: what left its interface, with all headers, as a multiple of the content.
    pub(super) overhead: Option<f64>,
    pub(super) receivers_complete: u64,
    pub(super) cpu_seconds_per_gb: f64,
    pub(super) means: Means,
    pub(super) raw: Option<Raw>,
    pub(super) bottleneck: Bottleneck,
}

/// Runs `nackcast bench --send`.
pub(super) fn send(key_file: &Path, args: &BenchArgs, app: &App) -> Result<(), Failure> {
    let advertise = KeyFile::load(key_file)?.advertise;
    let interface = resolve(args, advertise)?;
    let place = place(args)?;
    check_room(place.path(), args.size.0, 1)?;
    let directory = below(place.path(), "content");
    app.terminal.line(&format!("making {} of content in {}", args.size, directory.display()));
    content::make(&directory, args.size.0, args.files.into()).or_running("content cannot be written")?;
    let limit = args.rate.unwrap_or(DEFAULT_RATE);
    let options = SendOptions {
        channel: vec![ChannelSource { key_file: key_file.to_owned(), directory }],
        interface: args.interface.clone(),
        listen: args.listen,
        rate: Some(limit),
        ttl: Some(TTL),
        no_watch: Some(true),
        state: Some(below(place.path(), "state")),
        once: Some(true),
        expect: Some(args.receivers.into()),
        linger: Some(Duration::ZERO),
        ..SendOptions::default()
    };
    let (inner, node) = crate::send::configure(options)?;
    let plan = Plan {
        role: Role::Sender,
        content: Some((args.size.0, args.files.into())),
        expect: args.receivers.into(),
        limit: Some(limit),
        advertise,
        interface,
        raw: !args.no_raw,
    };
    run(Measured { inner, plan }, &node, args, app)
}

/// Runs `nackcast bench --receive`.
pub(super) fn receive(ticket: &str, args: &BenchArgs, app: &App) -> Result<(), Failure> {
    let place = place(args)?;
    let options = ReceiveOptions {
        ticket: vec![ticket.to_owned()],
        into: vec![below(place.path(), "content")],
        interface: args.interface.clone(),
        source: args.source.clone(),
        state: Some(below(place.path(), "state")),
        once: Some(true),
        ..ReceiveOptions::default()
    };
    let (inner, node) = crate::receive::configure(options)?;
    let advertise = inner.subscriptions[0].ticket.advertise;
    let interface = resolve(args, advertise)?;
    let plan =
        Plan { role: Role::Receiver, content: None, expect: 0, limit: None, advertise, interface, raw: !args.no_raw };
    run(Measured { inner, plan }, &node, args, app)
}

fn resolve(args: &BenchArgs, group: SocketAddr) -> Result<Interface, Failure> {
    interface::resolve(args.interface.as_deref(), group.ip()).or_usage("--interface")
}

fn run<D>(daemon: Measured<D>, node: &crate::places::Node, args: &BenchArgs, app: &App) -> Result<(), Failure>
where
    D: Daemon<Summary: Told>,
{
    let show = Show { report: args.report, json: args.json };
    let report = node::run(daemon, node, &Offer::default(), show, app)?;
    if report.success { Ok(()) } else { Err(Failure::Reported) }
}

/// What a node's summary tells a bench.
trait Told: Summary {
    fn told(&self) -> Report;
}

impl Told for nackcast_sender::Summary {
    fn told(&self) -> Report {
        let channel = self.channels.first().cloned().unwrap_or_default();
        Report {
            role: Role::Sender,
            success: self.success,
            data_bytes: channel.sent_bytes,
            repair_bytes: channel.repair_bytes,
            receivers_complete: channel.receivers_complete,
            ..Report::default()
        }
    }
}

impl Told for nackcast_receiver::Summary {
    fn told(&self) -> Report {
        let channel = self.channels.first().cloned().unwrap_or_default();
        Report {
            role: Role::Receiver,
            success: self.success,
            files: channel.files,
            bytes: channel.bytes,
            data_bytes: channel.received_bytes,
            repair_bytes: channel.repair_bytes,
            receivers_complete: channel.complete.into(),
            ..Report::default()
        }
    }
}

/// What the node is for.
#[derive(Clone, Debug)]
struct Plan {
    role: Role,
    /// Bytes and files that are sent.
    content: Option<(u64, u64)>,
    /// Receivers that a sender waits for.
    expect: u64,
    limit: Option<RateLimit>,
    advertise: SocketAddr,
    interface: Interface,
    raw: bool,
}

/// A node with a look at what it uses.
struct Measured<D> {
    inner: D,
    plan: Plan,
}

impl<D: Daemon<Summary: Told>> Daemon for Measured<D> {
    type Summary = Report;

    fn check(&self) -> Result<(), Failure> {
        self.inner.check()
    }

    fn state(&self) -> &Path {
        self.inner.state()
    }

    fn interface(&self) -> Option<&str> {
        self.inner.interface()
    }

    fn groups(&self) -> Vec<std::net::IpAddr> {
        self.inner.groups()
    }

    async fn run(self, ports: Ports) -> Result<Report, Failure> {
        let Self { inner, plan } = self;
        let listens = plan.raw && plan.role == Role::Receiver;
        let listening = listens.then(|| raw::listen(raw::group(plan.advertise), &plan.interface)).transpose()?;
        let moments = tokio::spawn(Moments::watch(ports.progress.subscribe(), plan.expect));
        let shutdown = ports.shutdown.clone();
        let before = Counters::now(&plan.interface.name);
        let summary = inner.run(ports).await?;
        let means = before.until(&Counters::now(&plan.interface.name));
        let moments = moments.await.or_running("the progress")?;
        let told = Report { seconds: moments.seconds(), data_bps: moments.data_bps(), ..summary.told() };
        let raw = async { if told.success { plan.plain(listening).await } else { Ok(None) } };
        let raw = shutdown.run_until_cancelled(raw).await.transpose()?.flatten();
        Ok(plan.report(told, means, raw))
    }
}

impl Plan {
    /// Plain datagrams, when everything else is over. Where a rate was given nothing is sent faster than that.
    async fn plain(&self, listening: Option<GroupSocket>) -> Result<Option<Raw>, Failure> {
        match (self.role, listening) {
            (Role::Sender, _) if self.raw => {
                let is_free = self.limit == Some(RateLimit::Max);
                raw::send(raw::group(self.advertise), &self.interface, TTL, PAUSE, is_free).await.map(|()| None)
            }
            (Role::Receiver, Some(socket)) => Ok(raw::count(socket, PATIENCE).await),
            _ => Ok(None),
        }
    }

    fn report(&self, told: Report, means: Means, raw: Option<Raw>) -> Report {
        let (bytes, files) = self.content.unwrap_or((told.bytes, told.files));
        let is_sender = self.role == Role::Sender;
        let goodput_bps = per_second(bytes, told.seconds);
        let cores = means.cores(means.seconds());
        let facts = Facts {
            of_rate: self.limit.zip(told.data_bps).and_then(|(limit, bps)| of_rate(limit, bps)),
            overruns: ratio(means.overruns, means.interface_received_packets + means.overruns),
            disk_stalled: means.disk_stalled,
            of_raw: raw.as_ref().map(|raw| ratio(goodput_bps, raw.bps)),
            machine_busy: means.machine_busy,
            sender: is_sender.then_some(cores),
            receiver: (!is_sender).then_some(cores),
            switch: None,
            all: cores,
            cores: means.machine_cores,
        };
        Report {
            bytes,
            files,
            goodput_bps,
            overhead: is_sender.then(|| ratio(means.interface_sent_bytes, bytes)),
            cpu_seconds_per_gb: per_gb(means.cpu_seconds(), bytes),
            means,
            raw,
            bottleneck: judge(&facts),
            ..told
        }
    }
}

/// How near to its limit a sender was; none: it has none. The limit also counts headers below ours, which is little.
pub(super) fn of_rate(limit: RateLimit, data_bps: u64) -> Option<f64> {
    match limit {
        RateLimit::Fixed(BitRate(bps)) => Some(ratio(data_bps, bps)),
        RateLimit::Max | RateLimit::Auto => None,
    }
}

/// Seconds for each 10^9 bytes of content.
pub(super) fn per_gb(seconds: f64, bytes: u64) -> f64 {
    share(seconds, ratio(bytes, 1_000_000_000))
}

/// Bits a second.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "no network is that fast")]
pub(super) fn per_second(bytes: u64, seconds: f64) -> u64 {
    share(ratio(bytes.saturating_mul(8), 1), seconds) as u64
}

/// When what was seen in the progress, which comes twice a second.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    /// When nothing had come yet, the last time that this was seen: no run looks faster than it was.
    silent: Time,
    /// When data was seen first, and last before all was complete, and how many bytes that were.
    first: Option<(Time, u64)>,
    last: (Time, u64),
    complete: Option<Time>,
    ended: Time,
}

impl Moments {
    /// Looks until the node ends.
    async fn watch(mut progress: watch::Receiver<Progress>, expect: u64) -> Self {
        let (clock, mut moments) = (Clock::start(), Self::default());
        while progress.changed().await.is_ok() {
            if let Some(channel) = progress.borrow().channels.first() {
                moments.look(clock.now(), channel, expect);
            }
        }
        Self { ended: clock.now(), ..moments }
    }

    fn look(&mut self, now: Time, channel: &ChannelProgress, expect: u64) {
        let seen = (now, channel.wire_bytes);
        if channel.wire_bytes == 0 {
            self.silent = now;
        } else {
            self.first.get_or_insert(seen);
        }
        if self.complete.is_none() && channel.wire_bytes > self.last.1 {
            self.last = seen;
        }
        if expect > 0 && channel.receivers_complete >= expect {
            self.complete.get_or_insert(now);
        }
    }

    fn data_bps(self) -> Option<u64> {
        let (first, before) = self.first?;
        let (last, bytes) = self.last;
        (last > first).then(|| per_second(bytes - before, last.since(first).as_secs_f64()))
    }

    fn seconds(self) -> f64 {
        self.complete.unwrap_or(self.ended).since(self.silent).as_secs_f64()
    }
}

impl Summary for Report {
    fn to_text(&self) -> String {
        let sent = self.overhead.map(|overhead| {
            format!(
                "sent        {overhead:.3} times the content, all headers counted; repair {}\n",
                crate::report::share(self.repair_bytes, self.data_bytes)
            )
        });
        let raw = self.raw.as_ref().map(|raw| {
            format!(
                "raw limit   {}, {:.1} % lost; goodput is {:.2} of it\n",
                rate(raw.bps),
                raw.lost * 100.0,
                ratio(self.goodput_bps, raw.bps)
            )
        });
        format!(
            "{}, {}, in {:.1} s\ngoodput     {}\n{}{}cpu         {:.2} s/GB: user {:.2} s, system {:.2} s\nmemory      \
             {} at most\noverruns    {} at sockets\nbottleneck  {}: {}",
            counted(self.files, "file"),
            ByteCount(self.bytes),
            self.seconds,
            rate(self.goodput_bps),
            sent.unwrap_or_default(),
            raw.unwrap_or_default(),
            self.cpu_seconds_per_gb,
            self.means.user_seconds,
            self.means.system_seconds,
            ByteCount(self.means.memory_bytes),
            counted(self.means.overruns, "datagram"),
            self.bottleneck.what,
            self.bottleneck.why,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_from_the_first_data_until_all_are_complete() {
        let at =
            |wire_bytes, receivers_complete| ChannelProgress { wire_bytes, receivers_complete, ..Default::default() };
        let second = |n: u64| Time(n * 1_000_000);
        let mut moments = Moments::default();
        for (n, channel) in [(1, at(0, 0)), (2, at(7, 0)), (4, at(9, 1)), (5, at(9, 2)), (6, at(11, 2))] {
            moments.look(second(n), &channel, 2);
        }
        moments.ended = second(9);
        assert!((moments.seconds() - 4.0).abs() < 1e-9);
        assert_eq!(moments.data_bps(), Some(8));
        assert!((Moments { complete: None, ..moments }.seconds() - 8.0).abs() < 1e-9);
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = Report { bytes: 7, raw: Some(Raw { bps: 5, lost: 0.5 }), ..Report::default() };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
