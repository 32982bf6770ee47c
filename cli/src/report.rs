//! What nodes report, as the command line shows it: the same shape for senders and receivers, and the JSON of
//! `--json` and `--progress-json`. Names of fields are a contract with scripts.

use std::path::PathBuf;

use nackcast_common::units::{BitRate, ByteCount};
use serde::{Deserialize, Serialize};

/// What a node does now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) channels: Vec<ChannelProgress>,
}

/// One channel of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChannelProgress {
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) objects: u64,
    pub(crate) objects_done: u64,
    pub(crate) bytes: u64,
    pub(crate) bytes_done: u64,
    /// Sent or received on the data group, headers included.
    pub(crate) wire_bytes: u64,
    /// How much of that was repair.
    pub(crate) repair_bytes: u64,
    pub(crate) rate_bps: u64,
    /// Known to a sender only.
    pub(crate) receivers: u64,
    pub(crate) receivers_complete: u64,
    pub(crate) state: String,
    pub(crate) note: Option<String>,
}

/// How a sender ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SendSummary {
    pub(crate) success: bool,
    pub(crate) channels: Vec<SentChannel>,
}

/// One channel of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SentChannel {
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) repair_bytes: u64,
    pub(crate) receivers: u64,
    pub(crate) receivers_complete: u64,
    pub(crate) problems: Vec<String>,
}

/// How a receiver ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReceiveSummary {
    pub(crate) success: bool,
    pub(crate) channels: Vec<ReceivedChannel>,
}

/// One channel of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReceivedChannel {
    pub(crate) name: String,
    /// Not UTF-8 parts are replaced: it is for people and logs.
    pub(crate) into: String,
    pub(crate) generation: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) repair_bytes: u64,
    pub(crate) complete: bool,
    /// Objects that a sender will no longer multicast.
    pub(crate) unicast_wanted: u64,
    pub(crate) problems: Vec<String>,
}

/// What `verify` found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VerifySummary {
    pub(crate) directory: PathBuf,
    pub(crate) generation: u64,
    pub(crate) entries: u64,
    pub(crate) missing: Vec<String>,
    pub(crate) damaged: Vec<String>,
    pub(crate) extra: u64,
}

/// What `--progress-json` prints, one to a line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event<'a> {
    /// Once a second.
    Progress(&'a Progress),
}

impl SendSummary {
    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let mut lines = Vec::new();
        for channel in &self.channels {
            lines.push(format!(
                "{}: generation {}, {} objects, {}; sent {}, repair {}; {} of {} receivers reported complete",
                channel.name,
                channel.generation,
                channel.objects,
                ByteCount(channel.bytes),
                ByteCount(channel.sent_bytes),
                share(channel.repair_bytes, channel.sent_bytes),
                channel.receivers_complete,
                channel.receivers,
            ));
            lines.extend(channel.problems.iter().map(|problem| format!("  {}", crate::failure::one_line(problem))));
        }
        lines.join("\n")
    }
}

impl ReceiveSummary {
    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let mut lines = Vec::new();
        for channel in &self.channels {
            let state = if channel.complete { "complete and verified" } else { "not complete" };
            lines.push(format!(
                "{} in {}: {state}, generation {}, {} files, {}; received {}, repair {}",
                channel.name,
                crate::failure::one_line(&channel.into),
                channel.generation,
                channel.files,
                ByteCount(channel.bytes),
                ByteCount(channel.received_bytes),
                share(channel.repair_bytes, channel.received_bytes),
            ));
            if channel.unicast_wanted > 0 {
                lines.push(format!(
                    "  {} objects are no longer multicast: they are asked for again when the sender begins a new round",
                    channel.unicast_wanted
                ));
            }
            lines.extend(channel.problems.iter().map(|problem| format!("  {}", crate::failure::one_line(problem))));
        }
        lines.join("\n")
    }
}

impl VerifySummary {
    /// Nothing missing or damaged.
    pub(crate) const fn is_sound(&self) -> bool {
        self.missing.is_empty() && self.damaged.is_empty()
    }

    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let line = crate::failure::one_line;
        let mut lines: Vec<String> = self.missing.iter().map(|path| format!("missing: {}", line(path))).collect();
        lines.extend(self.damaged.iter().map(|path| format!("damaged: {}", line(path))));
        lines.push(format!(
            "{}: generation {}, {} entries, {} missing, {} damaged, {} that are not in the dataset",
            line(&self.directory.to_string_lossy()),
            self.generation,
            self.entries,
            self.missing.len(),
            self.damaged.len(),
            self.extra
        ));
        lines.join("\n")
    }
}

impl ChannelProgress {
    /// What is left at the present rate, in whole seconds; none when that cannot be said.
    pub(crate) fn seconds_left(&self) -> Option<u64> {
        let left = self.bytes.saturating_sub(self.bytes_done);
        (left > 0 && self.rate_bps > 0).then(|| left.saturating_mul(8).div_ceil(self.rate_bps))
    }

    /// One line for people, without the name.
    pub(crate) fn to_text(&self) -> String {
        let state = if self.state.is_empty() { "starting" } else { &self.state };
        let note = self.note.as_ref().map(|note| format!(" ({})", crate::failure::one_line(note))).unwrap_or_default();
        if self.objects == 0 && self.wire_bytes == 0 {
            return format!("{state}{note}"); // nothing is known yet
        }
        let mut text = format!(
            "{state}, {}/{} objects, {} of {} ({}), {}/s, repair {}",
            self.objects_done,
            self.objects,
            ByteCount(self.bytes_done),
            ByteCount(self.bytes),
            whole_percent(self.bytes_done, self.bytes),
            BitRate(round_rate(self.rate_bps)),
            share(self.repair_bytes, self.wire_bytes),
        );
        if let Some(seconds) = self.seconds_left() {
            let left = humantime::format_duration(std::time::Duration::from_secs(seconds));
            text.push_str(&format!(", {left} left"));
        }
        if self.receivers > 0 {
            text.push_str(&format!(", {} of {} receivers complete", self.receivers_complete, self.receivers));
        }
        text + &note
    }
}

/// `2.1 %`; nothing of nothing is none.
pub(crate) fn share(part: u64, whole: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for reading only")]
    let percent = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    format!("{percent:.1} %")
}

/// Rounded down: 100 % is said when all is there, and nothing of nothing is all.
fn whole_percent(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 100 } else { u128::from(part.min(whole)) * 100 / u128::from(whole) };
    format!("{percent} %")
}

/// Four digits are enough to read.
const fn round_rate(bps: u64) -> u64 {
    let unit = match bps {
        0..10_000 => 1,
        10_000..10_000_000 => 1_000,
        10_000_000..10_000_000_000 => 100_000,
        _ => 100_000_000,
    };
    bps / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_well() {
        let channel = ChannelProgress {
            name: "news".to_owned(),
            objects: 400,
            objects_done: 12,
            bytes: 300 << 20,
            bytes_done: 30 << 20,
            wire_bytes: 1000,
            repair_bytes: 21,
            rate_bps: 19_876_543,
            receivers: 8,
            receivers_complete: 3,
            state: "sending".to_owned(),
            ..ChannelProgress::default()
        };
        assert_eq!(
            channel.to_text(),
            "sending, 12/400 objects, 30.0 MiB of 300.0 MiB (10 %), 19.800mbit/s, repair 2.1 %, 1m 54s left, \
             3 of 8 receivers complete"
        );
        let note = Some("no sender was heard".to_owned());
        let channel = ChannelProgress { note, ..ChannelProgress::default() };
        assert_eq!(channel.to_text(), "starting (no sender was heard)");
    }

    #[test]
    fn a_hundred_percent_is_said_only_when_all_is_there() {
        assert_eq!(whole_percent(999, 1000), "99 %");
        assert_eq!(whole_percent(u64::MAX, u64::MAX), "100 %");
    }
}
