//! What a run used: processor time of this process, and what the machine counts beside it.
//!
//! Counters of the network and of the disk are those of the namespace and of the machine: other programs' traffic is in
//! them. In the namespaces that this program makes there is none.

use std::fs;

use nackcast_common::clock::Clock;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// All counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    wall_ms: u64,
    cpu_seconds: f64,
    /// Clock ticks, which only serve to tell user from system.
    user_ticks: u64,
    system_ticks: u64,
    machine_ticks: u64,
    machine_idle_ticks: u64,
    disk_stalled_us: Option<u64>,
    overruns: u64,
    sent_bytes: u64,
    received_packets: u64,
}

/// What was used between two moments. Names of fields are a contract with scripts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Means {
    /// From the wall clock, in milliseconds since 1970, so that reports of one machine fit together.
    pub(super) began_unix_ms: u64,
    pub(super) ended_unix_ms: u64,
    pub(super) user_seconds: f64,
    pub(super) system_seconds: f64,
    /// The most memory that was ever resident.
    pub(super) memory_bytes: u64,
    /// How much of all processors' time was used, by whomever.
    pub(super) machine_busy: f64,
    pub(super) machine_cores: u64,
    /// For how much of the time somebody waited for a disk; not known where the kernel does not say.
    pub(super) disk_stalled: Option<f64>,
    /// UDP datagrams that found a socket full.
    pub(super) overruns: u64,
    /// Of the interface, with all headers.
    pub(super) interface_sent_bytes: u64,
    pub(super) interface_received_packets: u64,
}

impl Means {
    pub(super) fn seconds(&self) -> f64 {
        since(self.began_unix_ms, self.ended_unix_ms)
    }

    pub(super) fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }

    /// Cores' worth of work, over a time.
    pub(super) fn cores(&self, seconds: f64) -> f64 {
        share(self.cpu_seconds(), seconds)
    }
}

/// Seconds between two readings of the wall clock.
pub(super) fn since(earlier_ms: u64, later_ms: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "runs are short")]
    let seconds = later_ms.saturating_sub(earlier_ms) as f64 / 1000.0;
    seconds
}

/// A part of a whole; nothing of nothing is none.
pub(super) fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// The same of counts.
#[expect(clippy::cast_precision_loss, reason = "a share is for reading")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    share(part as f64, whole as f64)
}

impl Counters {
    /// Reads them. `interface` is the one that content goes over.
    pub(super) fn now(interface: &str) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let [user_ticks, system_ticks] = process_ticks(&read("/proc/self/stat"));
        let (machine_ticks, machine_idle_ticks) = machine_ticks(&read("/proc/stat"));
        let (received_packets, sent_bytes) = interface_counters(&read("/proc/thread-self/net/dev"), interface);
        let overruns =
            snmp_errors(&read("/proc/thread-self/net/snmp")) + snmp6_errors(&read("/proc/thread-self/net/snmp6"));
        Self {
            wall_ms: Clock::wall_ms(),
            cpu_seconds: process_seconds(),
            user_ticks,
            system_ticks,
            machine_ticks,
            machine_idle_ticks,
            disk_stalled_us: stalled_us(&read("/proc/pressure/io")),
            overruns,
            sent_bytes,
            received_packets,
        }
    }

    /// What was used from then to now.
    pub(super) fn until(&self, now: &Self) -> Means {
        let cpu = now.cpu_seconds - self.cpu_seconds;
        let user_ticks = now.user_ticks.saturating_sub(self.user_ticks);
        let system_ticks = now.system_ticks.saturating_sub(self.system_ticks);
        // A run so short that no tick fell into it: then it does not matter whose it was.
        let user = if user_ticks + system_ticks == 0 { 1.0 } else { ratio(user_ticks, user_ticks + system_ticks) };
        let machine = now.machine_ticks.saturating_sub(self.machine_ticks);
        let idle = now.machine_idle_ticks.saturating_sub(self.machine_idle_ticks);
        let stalled = |us: u64| share(ratio(us, 1_000_000), since(self.wall_ms, now.wall_ms)).min(1.0);
        Means {
            began_unix_ms: self.wall_ms,
            ended_unix_ms: now.wall_ms,
            user_seconds: cpu * user,
            system_seconds: cpu * (1.0 - user),
            memory_bytes: most_memory(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
            machine_busy: ratio(machine.saturating_sub(idle), machine),
            machine_cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
            disk_stalled: now
                .disk_stalled_us
                .zip(self.disk_stalled_us)
                .map(|(now, then)| stalled(now.saturating_sub(then))),
            overruns: now.overruns.saturating_sub(self.overruns),
            interface_sent_bytes: now.sent_bytes.saturating_sub(self.sent_bytes),
            interface_received_packets: now.received_packets.saturating_sub(self.received_packets),
        }
    }
}

fn process_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "runs are short")]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    seconds
}

/// User and system ticks of `/proc/self/stat`; the program's name, in brackets, may hold anything.
fn process_ticks(stat: &str) -> [u64; 2] {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = rest.split_whitespace().skip(11).map(number);
    [fields.next().unwrap_or(0), fields.next().unwrap_or(0)]
}

/// All ticks of all processors, and those in which they had nothing to do.
fn machine_ticks(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    // User, nice, system, idle, waiting for a disk, and so on; what guests used is in the first two already.
    let fields: Vec<u64> = line.split_whitespace().take(8).map(number).collect();
    (fields.iter().sum(), fields.iter().skip(3).take(2).sum())
}

/// Packets received and bytes sent.
fn interface_counters(table: &str, interface: &str) -> (u64, u64) {
    let row = table.lines().find_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == interface));
    let fields: Vec<u64> = row.map_or("", |(_, row)| row).split_whitespace().map(number).collect();
    (fields.get(1).copied().unwrap_or(0), fields.get(8).copied().unwrap_or(0))
}

fn snmp_errors(table: &str) -> u64 {
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(str::split_whitespace);
    let (names, values) = (rows.next().into_iter().flatten(), rows.next().into_iter().flatten());
    names.zip(values).find(|(name, _)| *name == "RcvbufErrors").map_or(0, |(_, value)| number(value))
}

fn snmp6_errors(table: &str) -> u64 {
    let row = table.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    row.map_or(0, |value| number(value.trim()))
}

fn stalled_us(pressure: &str) -> Option<u64> {
    let row = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    row.split_whitespace().find_map(|field| field.strip_prefix("total="))?.parse().ok()
}

fn most_memory(status: &str) -> u64 {
    let row = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    number(row.trim().trim_end_matches(" kB")) * 1024
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(process_ticks("7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14"), [11, 12]);
        assert_eq!(machine_ticks("cpu  1 2 3 40 5 6 7 8 9 10\ncpu0 1 1"), (72, 45));
        let devices = "Inter-| Receive\n face |bytes\n    lo: 1 2 0 0 0 0 0 0 3 4\n  eth0:10 20 0 0 0 0 0 0 30 40 0\n";
        assert_eq!(interface_counters(devices, "eth0"), (20, 30));
        assert_eq!(interface_counters(devices, "eth1"), (0, 0));
        assert_eq!(
            snmp_errors("Udp: InDatagrams NoPorts RcvbufErrors\nUdp: 1 2 3\nUdpLite: RcvbufErrors\nUdpLite: 9"),
            3
        );
        assert_eq!(snmp6_errors("Udp6InDatagrams  5\nUdp6RcvbufErrors                \t4\n"), 4);
        assert_eq!(stalled_us("some avg10=0.45 avg60=0.85 total=1236\nfull avg10=0.00 total=7"), Some(1236));
        assert_eq!(stalled_us(""), None);
        assert_eq!(most_memory("VmPeak:\t 9 kB\nVmHWM:\t  2048 kB\n"), 2 << 20);
    }

    #[test]
    fn work_is_counted() {
        let before = Counters::now("lo");
        let mut hasher = blake3::Hasher::new();
        for _ in 0..200 {
            hasher.update(&[7; 1 << 16]);
        }
        assert_ne!(hasher.finalize().as_bytes()[..], [0; 32]);
        let means = before.until(&Counters::now("lo"));
        assert!(means.cpu_seconds() > 0.0 && means.memory_bytes > 0 && means.machine_cores > 0, "{means:?}");
    }
}
