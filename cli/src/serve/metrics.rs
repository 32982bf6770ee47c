//! `/metrics`: the node's reports and alerts in the OpenMetrics text format.
//!
//! Names are a contract with dashboards; `docs/src/operators.md` lists them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use nackcast_common::alerts::Kind;
use nackcast_common::report::ChannelProgress;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::desk::Desk;

/// A number of a channel's report.
struct Number {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&ChannelProgress) -> u64,
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&ChannelProgress) -> u64) -> Number {
    Number { name, help, kind: MetricType::Gauge, value }
}

const fn counter(name: &'static str, help: &'static str, value: fn(&ChannelProgress) -> u64) -> Number {
    Number { name, help, kind: MetricType::Counter, value }
}

/// One line for each number.
const NUMBERS: &[Number] = &[
    gauge("nackcast_generation", "Generation served or followed", |row| row.generation),
    gauge("nackcast_objects", "Objects of the generation that are sent or wanted", |row| row.objects),
    gauge("nackcast_objects_done", "Objects sent once, or installed and verified", |row| row.objects_done),
    gauge("nackcast_content_bytes", "Bytes of these objects", |row| row.bytes),
    gauge("nackcast_content_bytes_done", "Bytes sent once, or received and verified", |row| row.bytes_done),
    counter("nackcast_wire_bytes", "Bytes on the data group, headers included", |row| row.wire_bytes),
    counter("nackcast_repair_bytes", "Bytes of these that were repair", |row| row.repair_bytes),
    counter("nackcast_unicast_given_bytes", "Bytes given by unicast to nodes that pulled", |row| row.unicast_bytes),
    counter("nackcast_unicast_pulled_bytes", "Bytes pulled by unicast (receiver)", |row| row.pulled_bytes),
    counter("nackcast_nacks", "NACK datagrams taken, or sent", |row| row.nacks),
    gauge("nackcast_rate_bps", "Bits per second on the data group", |row| row.rate_bps),
    gauge("nackcast_rate_limit_bps", "Bits per second at most; 0: no limit", |row| row.rate_limit_bps),
    gauge("nackcast_receivers", "Receivers heard lately (sender)", |row| row.receivers),
    gauge("nackcast_receivers_complete", "Receivers that are complete (sender)", |row| row.receivers_complete),
    gauge("nackcast_jobs", "Objects being multicast (sender)", |row| row.jobs),
    gauge("nackcast_pool", "Objects that wait for a job (sender)", |row| row.pool),
    gauge("nackcast_senders", "Senders heard (receiver)", |row| row.senders),
    gauge("nackcast_loss_ppm", "Loss on the data group in millionths", |row| row.loss_ppm.into()),
    gauge("nackcast_unicast_wanted", "Objects that multicast no longer brings", |row| row.unicast_wanted),
    gauge("nackcast_grtt_us", "Group round-trip time in microseconds (sender)", |row| row.grtt_us),
    gauge("nackcast_nack_window_us", "NACK window in microseconds (sender)", |row| row.nack_window_us),
    gauge("nackcast_serving", "1 when this node serves the channel (sender)", |row| {
        u64::from(row.role_state == "active")
    }),
    gauge("nackcast_complete", "1 when all of it is sent, or installed and verified", |row| {
        u64::from(row.generation > 0 && row.objects_done == row.objects)
    }),
];

#[derive(Debug)]
struct Reports(Arc<Desk>);

impl Collector for Reports {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let channels = self.0.channels();
        for number in NUMBERS {
            let mut family = encoder.encode_descriptor(number.name, number.help, None, number.kind)?;
            for (channel, row) in &channels {
                let labels = [("channel", channel.name.as_str()), ("role", self.0.role())];
                let value = (number.value)(row);
                let one = family.encode_family(&labels)?;
                match number.kind {
                    MetricType::Counter => ConstCounter::new(value).encode(one)?,
                    _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(one)?,
                }
            }
        }
        let help = "What a sender is for, and what its role does";
        let mut family = encoder.encode_descriptor("nackcast_sender_role", help, None, MetricType::Gauge)?;
        for (channel, row) in channels.iter().filter(|(_, row)| !row.sender_role.is_empty()) {
            let (role, state) = (row.sender_role.as_str(), row.role_state.as_str());
            let labels = [("channel", channel.name.as_str()), ("sender_role", role), ("state", state)];
            ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
        }
        let mut raised: BTreeMap<(Kind, String), i64> = BTreeMap::new();
        for alert in self.0.alerts(false) {
            *raised.entry((alert.kind, alert.channel)).or_default() += 1;
        }
        let help = "Alerts that are raised and not acknowledged";
        let mut family = encoder.encode_descriptor("nackcast_alerts", help, None, MetricType::Gauge)?;
        for ((kind, channel), count) in &raised {
            let severity = kind.severity().to_string();
            let labels = [("kind", kind.name()), ("severity", &severity), ("channel", channel)];
            ConstGauge::new(*count).encode(family.encode_family(&labels)?)?;
        }
        let mut family = encoder.encode_descriptor("nackcast_build", "Version and role", None, MetricType::Gauge)?;
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("role", self.0.role())];
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)
    }
}

/// The page.
pub(super) fn page(desk: &Arc<Desk>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Reports(Arc::clone(desk))));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}
