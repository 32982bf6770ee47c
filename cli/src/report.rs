//! What nodes report, as people read it.

use std::path::PathBuf;

use nackcast_common::report::{ChannelProgress, Progress};
use nackcast_common::units::{BitRate, ByteCount, counted};
use serde::Serialize;

use crate::failure::one_line;

/// How a node ended.
pub(crate) trait Summary: Serialize {
    /// For people.
    fn to_text(&self) -> String;
}

/// What `verify` found. Names of fields are a contract with scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct VerifySummary {
    /// Nothing is missing or damaged.
    pub(crate) success: bool,
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

impl Summary for nackcast_sender::Summary {
    fn to_text(&self) -> String {
        let mut lines = Vec::new();
        for channel in &self.channels {
            lines.push(format!(
                "{}: generation {}, {}, {}; sent {}, {}; {} of {} reported complete",
                channel.name,
                channel.generation,
                counted(channel.objects, "object"),
                ByteCount(channel.bytes),
                ByteCount(channel.sent_bytes),
                repair(channel.repair_bytes, channel.sent_bytes),
                channel.receivers_complete,
                counted(channel.receivers, "receiver"),
            ));
            if channel.unicast_bytes > 0 {
                lines.push(format!("  {} pulled by unicast", ByteCount(channel.unicast_bytes)));
            }
            lines.extend(channel.problems.iter().map(|problem| format!("  {}", one_line(problem))));
        }
        lines.join("\n")
    }
}

impl Summary for nackcast_receiver::Summary {
    fn to_text(&self) -> String {
        let mut lines = Vec::new();
        for channel in &self.channels {
            let state = if channel.complete { "complete and verified" } else { "not complete" };
            lines.push(format!(
                "{} in {}: {state}, generation {}, {}, {}; received {}, {}",
                channel.name,
                one_line(&channel.into),
                channel.generation,
                counted(channel.files, "file"),
                ByteCount(channel.bytes),
                ByteCount(channel.received_bytes),
                repair(channel.repair_bytes, channel.received_bytes),
            ));
            if channel.unicast_wanted > 0 {
                lines.push(format!(
                    "  objects that are no longer multicast, and that no source gave: {}; they are asked for again when \
                     the sender begins a new round",
                    channel.unicast_wanted
                ));
            }
            if channel.pulled_bytes > 0 {
                let (bytes, sources) = (ByteCount(channel.pulled_bytes), channel.pull_sources.join(", "));
                lines.push(format!("  {bytes} pulled by unicast from {sources}"));
            }
            if channel.unicast_bytes > 0 {
                lines.push(format!("  {} given to other receivers by unicast", ByteCount(channel.unicast_bytes)));
            }
            lines.extend(channel.problems.iter().map(|problem| format!("  {}", one_line(problem))));
        }
        lines.join("\n")
    }
}

impl VerifySummary {
    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let line = one_line;
        let mut lines: Vec<String> = self.missing.iter().map(|path| format!("missing: {}", line(path))).collect();
        lines.extend(self.damaged.iter().map(|path| format!("damaged: {}", line(path))));
        lines.push(format!(
            "{}: generation {}, entries: {}, missing: {}, damaged: {}; paths that are not in the dataset: {}",
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

/// One line about a channel, without its name. Where nothing is to be sent or received no numbers are shown.
pub(crate) fn progress_line(row: &ChannelProgress) -> String {
    let mut text = if row.state.is_empty() { "starting".to_owned() } else { row.state.clone() };
    if row.objects > 0 {
        text.push_str(&format!(
            ", {}/{}, {} of {} ({}), {}, {}",
            row.objects_done,
            counted(row.objects, "object"),
            ByteCount(row.bytes_done),
            ByteCount(row.bytes),
            whole_percent(row.bytes_done, row.bytes),
            rate(row.rate_bps),
            repair(row.repair_bytes, row.wire_bytes),
        ));
        let left = row.bytes.saturating_sub(row.bytes_done);
        if left > 0 && row.rate_bps > 0 {
            let seconds = std::time::Duration::from_secs(left.saturating_mul(8).div_ceil(row.rate_bps));
            text.push_str(&format!(", {} left", humantime::format_duration(seconds)));
        }
    }
    if row.pulled_bytes > 0 {
        text.push_str(&format!(
            ", {} pulled from {}",
            ByteCount(row.pulled_bytes),
            counted(row.pull_sources.len() as u64, "source")
        ));
    }
    if row.unicast_bytes > 0 {
        text.push_str(&format!(", {} given by unicast", ByteCount(row.unicast_bytes)));
    }
    if row.receivers > 0 {
        text.push_str(&format!(", {} of {} complete", row.receivers_complete, counted(row.receivers, "receiver")));
    }
    if let Some(note) = &row.note {
        text.push_str(&format!(" ({})", one_line(note)));
    }
    text
}

/// `2.1 %`; nothing of nothing is none.
pub(crate) fn share(part: u64, whole: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for reading only")]
    let percent = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    format!("{percent:.1} %")
}

/// Who starts again sends only what is asked for: then all of it is repair, which is no trouble.
pub(crate) fn repair(repair: u64, all: u64) -> String {
    if repair == all && all > 0 { "only repair".to_owned() } else { format!("repair {}", share(repair, all)) }
}

/// As people read it.
pub(crate) fn rate(bps: u64) -> String {
    format!("{}/s", BitRate(round_rate(bps)))
}

/// Rounded down: 100 % is said when all is there, and nothing of nothing is all.
fn whole_percent(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 100 } else { u128::from(part.min(whole)) * 100 / u128::from(whole) };
    format!("{percent} %")
}

/// Three digits are enough to read.
const fn round_rate(bps: u64) -> u64 {
    let digits = match bps.checked_ilog10() {
        Some(log) if log > 2 => log - 2,
        _ => 0,
    };
    let unit = 10_u64.pow(digits);
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
            progress_line(&channel),
            "sending, 12/400 objects, 30.0 MiB of 300.0 MiB (10 %), 19.8mbit/s, repair 2.1 %, 1m 54s left, \
             3 of 8 receivers complete"
        );
        let note = Some("no sender was heard".to_owned());
        let channel = ChannelProgress { note, ..ChannelProgress::default() };
        assert_eq!(progress_line(&channel), "starting (no sender was heard)");
        // A generation that only removes files.
        let channel = ChannelProgress { state: "finishing".to_owned(), wire_bytes: 9000, ..Default::default() };
        assert_eq!(progress_line(&channel), "finishing");
    }

    #[test]
    fn rates_have_few_digits_and_who_only_repairs_is_no_trouble() {
        let rates = [0, 999, 1234, 19_876_543, 123_456_789, 98_765_432_109, u64::MAX].map(rate);
        let read = ["0bit/s", "999bit/s", "1.23kbit/s", "19.8mbit/s", "123mbit/s", "98.7gbit/s", "18400000000gbit/s"];
        assert_eq!(rates, read);
        assert_eq!([repair(0, 0), repair(21, 1000), repair(7, 7)], ["repair 0.0 %", "repair 2.1 %", "only repair"]);
    }

    #[test]
    fn a_hundred_percent_is_said_only_when_all_is_there() {
        assert_eq!(whole_percent(999, 1000), "99 %");
        assert_eq!(whole_percent(u64::MAX, u64::MAX), "100 %");
    }
}
