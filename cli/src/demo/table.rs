//! The demo's result, as a table and as JSON.

use std::collections::BTreeMap;

use nackcast_common::units::{ByteCount, counted};
use serde::Serialize;

use super::content::Content;
use crate::processes::Ended;
use crate::report::share;
use crate::stage::Traffic;

/// How the demo went.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) success: bool,
    files: u64,
    content_bytes: u64,
    sent_bytes: u64,
    repair_bytes: u64,
    seconds: f64,
    all_identical: bool,
    loss_injected: bool,
    sender_complete: bool,
    receivers: Vec<ReceiverRow>,
}

/// One receiver.
#[derive(Debug, Serialize)]
pub(super) struct ReceiverRow {
    name: String,
    files: u64,
    objects: u64,
    bytes: u64,
    /// Datagrams that the fabric lost, as a share; not known on loopback.
    loss: Option<f64>,
    nack_bytes: Option<u64>,
    repair_bytes: u64,
    seconds: f64,
    identical: bool,
    difference: Option<String>,
}

impl ReceiverRow {
    /// What is known of a receiver at the end.
    pub(super) fn new(node: Ended, difference: Option<String>, traffic: &BTreeMap<String, Traffic>) -> Self {
        let summary: nackcast_receiver::Summary =
            node.summary.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
        let channel = summary.channels.first().cloned().unwrap_or_default();
        let traffic = traffic.get(&node.name);
        #[expect(clippy::cast_precision_loss, reason = "for reading only")]
        let loss = |traffic: &Traffic| traffic.lost as f64 / (traffic.lost + traffic.given).max(1) as f64;
        Self {
            name: node.name,
            files: channel.files,
            objects: node.last.objects_done,
            bytes: channel.bytes,
            loss: traffic.map(loss),
            nack_bytes: traffic.map(|traffic| traffic.nack_bytes),
            repair_bytes: channel.repair_bytes,
            seconds: node.time.as_secs_f64(),
            identical: node.success && difference.is_none(),
            difference,
        }
    }

    fn cells(&self) -> [String; COLUMNS] {
        let unknown = || "-".to_owned();
        [
            self.name.clone(),
            self.files.to_string(),
            self.objects.to_string(),
            ByteCount(self.bytes).to_string(),
            self.loss.map_or_else(unknown, |loss| format!("{:.2} %", loss * 100.0)),
            self.nack_bytes.map_or_else(unknown, |bytes| ByteCount(bytes).to_string()),
            ByteCount(self.repair_bytes).to_string(),
            format!("{:.1} s", self.seconds),
            if self.identical { "yes".to_owned() } else { "NO".to_owned() },
        ]
    }
}

const COLUMNS: usize = 9;
const HEAD: [&str; COLUMNS] =
    ["receiver", "files", "objects", "bytes", "lost", "NACKs sent", "repair", "time", "all hashes verified"];
const LEGEND: &str = "\
objects: the units that are multicast; a large file is one, its block hashes may be another, small files share one
lost: datagrams that the network dropped on purpose; repair: FEC symbols received for what was lost";

impl Outcome {
    /// Puts the result together.
    pub(super) fn new(content: &Content, loss_injected: bool, sender: &Ended, receivers: Vec<ReceiverRow>) -> Self {
        let summary: Option<nackcast_sender::Summary> =
            sender.summary.clone().and_then(|value| serde_json::from_value(value).ok());
        let channel = summary.and_then(|summary| summary.channels.into_iter().next()).unwrap_or_default();
        let all_identical = !receivers.is_empty() && receivers.iter().all(|row| row.identical);
        Self {
            success: all_identical && sender.success,
            files: content.files,
            content_bytes: content.bytes,
            sent_bytes: channel.sent_bytes,
            repair_bytes: channel.repair_bytes,
            seconds: receivers.iter().map(|row| row.seconds).fold(0.0, f64::max),
            all_identical,
            loss_injected,
            sender_complete: sender.success,
            receivers,
        }
    }

    /// For people.
    pub(super) fn to_text(&self) -> String {
        let rows: Vec<[String; COLUMNS]> =
            std::iter::once(HEAD.map(str::to_owned)).chain(self.receivers.iter().map(ReceiverRow::cells)).collect();
        let mut text = aligned(&rows);
        for row in &self.receivers {
            if let Some(difference) = &row.difference {
                text.push_str(&format!("\n{}: {difference}", row.name));
            }
        }
        text.push_str(&format!(
            "\n{LEGEND}\n\n{}, {}, to {} in {:.1} s\nsent {} by multicast: {} times the content; repair {}\n\
             all identical: {}",
            counted(self.files, "file"),
            ByteCount(self.content_bytes),
            counted(self.receivers.len() as u64, "receiver"),
            self.seconds,
            ByteCount(self.sent_bytes),
            times(self.sent_bytes, self.content_bytes),
            share(self.repair_bytes, self.sent_bytes),
            if self.all_identical { "yes" } else { "NO" }
        ));
        if !self.sender_complete {
            text.push_str("\nthe sender did not end well; --keep keeps its log");
        }
        text
    }
}

fn times(part: u64, whole: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for reading only")]
    let times = part as f64 / whole.max(1) as f64;
    format!("{times:.3}")
}

/// Columns, the first to the left, the others to the right.
fn aligned(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nackcast_common::report::ChannelProgress;
    use nackcast_receiver::{ReceivedChannel, Summary};

    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_receiver() {
        let summary = Summary {
            success: true,
            channels: vec![ReceivedChannel { files: 34, bytes: 5 << 20, repair_bytes: 4096, ..Default::default() }],
        };
        let ended = Ended {
            name: "receiver-1".to_owned(),
            success: true,
            time: Duration::from_millis(1500),
            summary: serde_json::to_value(summary).ok(),
            last: ChannelProgress { objects_done: 12, ..Default::default() },
            log: std::path::PathBuf::new(),
        };
        let traffic = BTreeMap::from([(ended.name.clone(), Traffic { given: 98, lost: 2, nack_bytes: 1024 })]);
        let row = ReceiverRow::new(ended, None, &traffic);
        let text = aligned(&[HEAD.map(str::to_owned), row.cells()]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1],
            "receiver-1 34 12 5.0 MiB 2.00 % 1.0 KiB 4.0 KiB 1.5 s yes".split(' ').collect::<Vec<_>>()
        );
    }
}
