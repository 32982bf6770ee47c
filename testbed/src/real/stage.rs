//! Hosts, cables, the channel and the commands of a scenario.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nackcast_common::ids::ChannelId;
use nackcast_common::keys::SigningKey;

use super::{RealError, source};
use crate::fabric::{Direction, Fabric};
use crate::network::{Host, Network};
use crate::process::Process;
use crate::sim::content::Publisher;
use crate::sim::receiver::SLOT_BYTES;
use crate::sim::scenario::{LinkSpec, Scenario};

const SENDER: &str = "sender";
const GROUP: &str = "239.192.7.7:7600";
const NACK_PORT: u16 = 7701;
/// What nodes log: what is looked for in their logs, and what explains a failure.
const LOG: [(&str, &str); 1] = [("RUST_LOG", "nackcast=info")];
/// Longer than anything takes that should take no time.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Where everything runs and lies.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    scenario: &'a Scenario,
    network: Network,
    program: &'a Path,
    place: &'a Path,
}

fn receiver_name(receiver: u32) -> String {
    format!("receiver-{receiver}")
}

impl<'a> Stage<'a> {
    /// Builds the network and lays out what is sent.
    pub(super) fn build(scenario: &'a Scenario, program: &'a Path, place: &'a Path) -> Result<Self, RealError> {
        let names: Vec<String> =
            std::iter::once(SENDER.to_owned()).chain((0..scenario.receivers).map(receiver_name)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let stage = Self { scenario, network: Network::build(&names, scenario.seed)?, program, place };
        stage.set_links(LinkSpec::clone)?;
        stage.lay_out()?;
        Ok(stage)
    }

    /// Gives every cable what the scenario says of it, changed by `change`.
    pub(super) fn set_links(&self, change: impl Fn(&LinkSpec) -> LinkSpec) -> Result<(), RealError> {
        for receiver in 0..self.scenario.receivers {
            let [down, up] = self.scenario.cable(receiver).map(|spec| change(spec).link());
            let name = receiver_name(receiver);
            self.fabric().set_link(&name, Direction::ToHost, down)?;
            self.fabric().set_link(&name, Direction::FromHost, up)?;
        }
        Ok(())
    }

    /// Cuts or mends a receiver's cable, from the sender or to it.
    pub(super) fn cut(&self, receiver: u32, is_down: bool, cut: bool) -> Result<(), RealError> {
        let name = receiver_name(receiver);
        let (from, to) = if is_down { (SENDER, &*name) } else { (&*name, SENDER) };
        Ok(self.fabric().partition(from, to, cut)?)
    }

    fn lay_out(&self) -> Result<(), RealError> {
        // What is random in the content comes from the scenario's seed alone, as in the simulator.
        let (key, channel) = (SigningKey::from_seed([1; 32]), ChannelId([9; 16]));
        let edition = Publisher::new(key, channel, &self.scenario.content, self.scenario.seed).publish();
        for directory in ["source", "logs"].map(|name| self.place.join(name)) {
            fs::create_dir(&directory).map_err(|source| RealError::Write { path: directory, source })?;
        }
        source::write(&edition, &self.place.join("source"))?;
        let at = format!("{}:{NACK_PORT}", self.network.host(SENDER).addr_v4());
        let mut new: Vec<OsString> =
            ["channel", "new", "sim", "--advertise", GROUP, "--sender", &at].map(Into::into).into();
        new.extend(["--out".into(), self.key().into_os_string()]);
        let mut made = self.spawn(SENDER, "channel", &new)?;
        if made.wait(PATIENCE)?.success() {
            return Ok(());
        }
        Err(RealError::Ended { name: "nackcast channel new".into(), tail: made.tail() })
    }

    fn key(&self) -> PathBuf {
        self.place.join("sim.key")
    }

    fn state(&self, node: &str) -> OsString {
        self.place.join(format!("state-{node}")).into_os_string()
    }

    fn spawn(&self, host: &str, name: &str, arguments: &[OsString]) -> Result<Process, RealError> {
        let host = self.network.host(host);
        Ok(Process::spawn(host, name, self.program, arguments, &LOG, &self.place.join("logs"))?)
    }

    pub(super) fn fabric(&self) -> &Fabric {
        self.network.fabric()
    }

    pub(super) const fn sender_name(&self) -> &'static str {
        SENDER
    }

    pub(super) fn hosts(&self) -> &[Host] {
        self.network.hosts()
    }

    /// Starts the sender.
    pub(super) fn send(&self) -> Result<Process, RealError> {
        let (spec, content) = (&self.scenario.sender, &self.scenario.content);
        let mut channel = self.key().into_os_string();
        channel.push("=");
        channel.push(self.place.join("source"));
        let mut arguments: Vec<OsString> = vec!["send".into(), "--channel".into(), channel];
        arguments.extend(["--state".into(), self.state(SENDER)]);
        arguments.extend(["--interface", "eth0", "--no-watch"].map(Into::into));
        let told = [
            ("--rate", if spec.auto { "auto".to_owned() } else { format!("{}bit", spec.rate_bps) }),
            ("--rate-ceiling", format!("{}bit", spec.rate_bps)),
            ("--max-jobs", spec.max_jobs.to_string()),
            ("--max-passes", spec.max_passes.to_string()),
            ("--period", format!("{}ms", spec.period_ms)),
            ("--round-quiet", format!("{}ms", spec.round_quiet_ms)),
            ("--symbol-size", content.symbol_size.to_string()),
            ("--block-size", content.block_size.to_string()),
        ];
        arguments.extend(told.into_iter().flat_map(|(option, value)| [option.into(), value.into()]));
        self.spawn(SENDER, SENDER, &arguments)
    }

    /// Starts a receiver.
    pub(super) fn receive(&self, receiver: u32) -> Result<Process, RealError> {
        let spec = &self.scenario.receiver;
        let name = receiver_name(receiver);
        let mut ticket = OsString::from("@");
        ticket.push(self.key().with_extension("ticket"));
        let mut arguments: Vec<OsString> = vec!["receive".into(), "--ticket".into(), ticket];
        arguments.extend(["--into".into(), self.place.join(&name).into_os_string()]);
        arguments.extend(["--state".into(), self.state(&name)]);
        arguments.extend(["--interface", "eth0"].map(Into::into));
        arguments.extend(spec.prune.then(|| "--prune".into()));
        let told = [
            ("--memory", (u64::from(spec.slots) * SLOT_BYTES).to_string()),
            ("--nack-retry", format!("{}ms", spec.nack_retry_ms)),
            ("--nack-budget", spec.nack_budget.to_string()),
            ("--scan", format!("{}ms", spec.scan_ms)),
        ];
        arguments.extend(told.into_iter().flat_map(|(option, value)| [option.into(), value.into()]));
        self.spawn(&name, &name, &arguments)
    }
}
