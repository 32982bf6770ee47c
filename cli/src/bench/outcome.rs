//! The result of a bench on this machine: both sides' reports put together.

use nackcast_common::units::{ByteCount, RateLimit, counted};
use serde::Serialize;

use super::bottleneck::{Bottleneck, Facts, judge};
use super::means::{Means, ratio, share, since};
use super::raw::Raw;
use super::side::{Report, of_rate, per_gb, per_second};
use crate::report::rate;

/// What the sides do not know.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) network: &'static str,
    pub(super) loss: f64,
    pub(super) rate: RateLimit,
    pub(super) raw: Option<Raw>,
    /// What the switch in user space used.
    pub(super) switch: Option<Means>,
}

/// How it went. Names of fields are a contract with scripts.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) success: bool,
    /// `bridge`, `switch` or `loopback`.
    network: &'static str,
    /// Share of datagrams lost on purpose.
    loss: f64,
    rate: String,
    files: u64,
    bytes: u64,
    /// From the start of the sender, whose content is there by then, until the last receiver ended.
    seconds: f64,
    goodput_bps: u64,
    /// What left the sender's interface, with all headers, as a multiple of the content.
    overhead: f64,
    /// Of all programs together, with the switch in user space; content counts once.
    cpu_seconds_per_gb: f64,
    user_seconds_per_gb: f64,
    sender_cpu_seconds_per_gb: f64,
    /// The mean of all.
    receiver_cpu_seconds_per_gb: f64,
    switch_cpu_seconds_per_gb: f64,
    overruns: u64,
    raw: Option<Raw>,
    /// Goodput, as a share of the raw limit.
    of_raw: Option<f64>,
    bottleneck: Bottleneck,
    sender: Report,
    receivers: Vec<Report>,
}

impl Outcome {
    pub(super) fn new(told: Told, sender: Report, receivers: Vec<Report>) -> Self {
        let Told { network, loss, rate, raw, switch } = told;
        let bytes = sender.bytes;
        let ended = receivers.iter().map(|receiver| receiver.means.ended_unix_ms).max().unwrap_or(0);
        let seconds = since(sender.means.began_unix_ms, ended);
        let goodput_bps = per_second(bytes, seconds);
        let all = || receivers.iter().chain([&sender]).map(|side| &side.means).chain(&switch);
        let receiving: f64 = receivers.iter().map(|receiver| receiver.means.cpu_seconds()).sum();
        let counters = receivers.iter().map(|receiver| receiver.means.overruns);
        // On loopback all have the same counter.
        let overruns = if network == "loopback" { counters.max().unwrap_or(0) } else { counters.sum() };
        let came: u64 = receivers.iter().map(|receiver| receiver.means.interface_received_packets).sum();
        let of_raw = raw.as_ref().map(|raw| ratio(goodput_bps, raw.bps));
        let cores = |means: &Means| means.cores(seconds);
        let facts = Facts {
            of_rate: sender.data_bps.and_then(|bps| of_rate(rate, bps)),
            overruns: ratio(overruns, came + overruns),
            disk_stalled: sender.means.disk_stalled,
            of_raw,
            machine_busy: sender.means.machine_busy,
            sender: Some(cores(&sender.means)),
            receiver: receivers.iter().map(|receiver| cores(&receiver.means)).reduce(f64::max),
            switch: switch.as_ref().map(cores),
            all: all().map(cores).sum(),
            cores: sender.means.machine_cores,
        };
        let verified = receivers.iter().all(|receiver| receiver.success && receiver.bytes == bytes);
        Self {
            success: sender.success && verified && !receivers.is_empty(),
            network,
            loss,
            rate: rate.to_string(),
            files: sender.files,
            bytes,
            seconds,
            goodput_bps,
            overhead: sender.overhead.unwrap_or_default(),
            cpu_seconds_per_gb: per_gb(all().map(Means::cpu_seconds).sum(), bytes),
            user_seconds_per_gb: per_gb(all().map(|means| means.user_seconds).sum(), bytes),
            sender_cpu_seconds_per_gb: sender.cpu_seconds_per_gb,
            receiver_cpu_seconds_per_gb: share(per_gb(receiving, bytes), ratio(receivers.len() as u64, 1)),
            switch_cpu_seconds_per_gb: per_gb(switch.as_ref().map_or(0.0, Means::cpu_seconds), bytes),
            overruns,
            raw,
            of_raw,
            bottleneck: judge(&facts),
            sender,
            receivers,
        }
    }

    /// For people.
    pub(super) fn to_text(&self) -> String {
        let raw = self
            .raw
            .as_ref()
            .zip(self.of_raw)
            .map(|(raw, of_raw)| format!("\nraw limit   {}; goodput is {of_raw:.2} of it", rate(raw.bps)));
        let switch = match self.network {
            "switch" => format!(", the switch {:.2}", self.switch_cpu_seconds_per_gb),
            _ => String::new(),
        };
        let memory = self.receivers.iter().map(|receiver| receiver.means.memory_bytes).max().unwrap_or(0);
        format!(
            "{}, {}, to {} in {:.2} s\ngoodput     {} ({:.1} MB/s){}\nsent        {:.3} times the content, all headers \
             counted; repair {}\ncpu s/GB    {:.2} in all, {:.2} of them user; sender {:.2}, each receiver \
             {:.2}{switch}\nmemory      sender {}, a receiver {} at most\noverruns    {} at sockets\nbottleneck  {}: {}",
            counted(self.files, "file"),
            ByteCount(self.bytes),
            counted(self.receivers.len() as u64, "receiver"),
            self.seconds,
            rate(self.goodput_bps),
            ratio(self.goodput_bps, 8_000_000),
            raw.unwrap_or_default(),
            self.overhead,
            crate::report::share(self.sender.repair_bytes, self.sender.data_bytes),
            self.cpu_seconds_per_gb,
            self.user_seconds_per_gb,
            self.sender_cpu_seconds_per_gb,
            self.receiver_cpu_seconds_per_gb,
            ByteCount(self.sender.means.memory_bytes),
            ByteCount(memory),
            counted(self.overruns, "datagram"),
            self.bottleneck.what,
            self.bottleneck.why,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::side::Role;
    use super::*;

    fn side(role: Role, began: u64, ended: u64, cpu: f64) -> Report {
        let means = Means {
            began_unix_ms: began,
            ended_unix_ms: ended,
            user_seconds: cpu,
            system_seconds: cpu,
            interface_sent_bytes: 1_100_000_000,
            interface_received_packets: 990,
            overruns: 5,
            ..Means::default()
        };
        let overhead = (role == Role::Sender).then_some(1.1);
        let (bytes, cpu_seconds_per_gb) = (1_000_000_000, cpu * 2.0);
        Report { role, success: true, files: 1, bytes, overhead, means, cpu_seconds_per_gb, ..Report::default() }
    }

    #[test]
    fn both_sides_are_put_together() {
        let told = || Told {
            network: "bridge",
            loss: 0.0,
            rate: RateLimit::Max,
            raw: Some(Raw { bps: 8_000_000_000, lost: 0.0 }),
            switch: None,
        };
        let receivers = || vec![side(Role::Receiver, 0, 2_500, 1.0), side(Role::Receiver, 0, 3_000, 2.0)];
        let outcome = Outcome::new(told(), side(Role::Sender, 1_000, 9_000, 0.5), receivers());
        assert!(outcome.success && outcome.overruns == 10);
        assert_eq!((outcome.goodput_bps, outcome.of_raw), (4_000_000_000, Some(0.5)));
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(outcome.seconds, 2.0) && near(outcome.cpu_seconds_per_gb, 7.0));
        assert!(near(outcome.user_seconds_per_gb, 3.5) && near(outcome.receiver_cpu_seconds_per_gb, 3.0));
        assert_eq!(outcome.to_text().lines().count(), 8, "{}", outcome.to_text());
        // Who has less than was sent has not all.
        let mut short = receivers();
        short[1].bytes -= 1;
        assert!(!Outcome::new(told(), side(Role::Sender, 1_000, 9_000, 0.5), short).success);
    }
}
