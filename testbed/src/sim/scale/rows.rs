//! Rows of the table: what runs came to, kept in a file, so that a long table is made in several calls.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Outcome, Scenario};

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Receivers.
    pub receivers: u32,
    /// How datagrams were lost, by the name that the bench gives it.
    pub loss: String,
    /// Millions of bytes of content.
    pub megabytes: u64,
    /// Files of it.
    pub files: u32,
    /// Mbit/s.
    pub rate: u64,
    /// The run's seed.
    pub seed: u64,
    /// Receivers that became complete.
    pub complete: u32,
    /// Symbols of content sent, over source symbols.
    pub symbols: f64,
    /// The least of this by theory, expected.
    pub least: f64,
    /// Bytes of content symbols sent, over bytes of content.
    pub payload: f64,
    /// The same with the manifest's symbols.
    pub payload_with_manifest: f64,
    /// Symbols of the manifest sent, over what it has.
    pub manifest: f64,
    /// Everything multicast with all headers, over bytes of content.
    pub wire: f64,
    /// NACK datagrams.
    pub nacks: u64,
    /// Of these, reports.
    pub reports: u64,
    /// Their bytes, and those of a second while content was sent.
    #[serde(default)]
    pub report_bytes: u64,
    /// See `report_bytes`.
    #[serde(default)]
    pub report_bytes_per_second: f64,
    /// NACK datagrams a second, mean and most.
    pub nacks_per_second: f64,
    /// Most in one second.
    pub nacks_peak: u64,
    /// Bytes of NACKs and reports with all headers.
    #[serde(default)]
    pub nack_bytes: u64,
    /// NACK bytes over multicast bytes.
    pub nack_share: f64,
    /// NACKs that found the socket full.
    pub nacks_dropped: u64,
    /// Seconds until the last receiver was complete.
    pub time: f64,
    /// Until half of them were.
    pub time_median: f64,
    /// Until content began.
    pub began: f64,
    /// What the content's source symbols alone take at the rate.
    pub ideal: f64,
    /// Most bytes that the sender held.
    pub sender_bytes: u64,
    /// Most bytes that a receiver held, mean over receivers: ever, and once content had begun.
    pub receiver_bytes: u64,
    /// After the manifest was received.
    pub receiver_bytes_content: u64,
    /// Seconds that the run took.
    pub wall: f64,
}

impl Row {
    /// The row of a run.
    #[must_use]
    pub fn new(loss: &str, scenario: &Scenario, o: &Outcome, wall: f64) -> Self {
        let part = o.symbol_size.max(1);
        Self {
            receivers: o.receivers,
            loss: loss.to_owned(),
            megabytes: scenario.bytes / 1_000_000,
            files: scenario.files,
            rate: scenario.rate / 1_000_000,
            seed: scenario.seed,
            complete: o.complete,
            symbols: o.symbol_ratio(),
            least: o.least_ratio(),
            payload: o.payload_ratio(),
            payload_with_manifest: o.payload_ratio_with_manifest(),
            manifest: o.manifest_symbols as f64 / o.manifest_bytes.div_ceil(part).max(1) as f64,
            wire: o.wire_ratio(),
            nacks: o.nacks,
            reports: o.reports,
            report_bytes: o.report_bytes,
            report_bytes_per_second: o.report_bytes_per_second(),
            nacks_per_second: o.nacks_per_second(),
            nacks_peak: o.nacks_peak,
            nack_bytes: o.nack_bytes,
            nack_share: o.nack_share(),
            nacks_dropped: o.nacks_dropped,
            time: o.time.as_secs_f64(),
            time_median: o.time_median.as_secs_f64(),
            began: o.content_began.as_secs_f64(),
            ideal: o.ideal.as_secs_f64(),
            sender_bytes: o.sender_bytes,
            receiver_bytes: o.receiver_bytes,
            receiver_bytes_content: o.receiver_bytes_content,
            wall,
        }
    }

    /// Head of the table, in Markdown.
    pub const HEAD: &str = "\
| MB | receivers | loss | complete | symbols | least | payload | with manifest | manifest | on the wire \
| NACKs/s (peak) | reports (B/s) | NACK MB | NACK share | dropped | time s (median, began) | time / ideal | sender MB \
| receiver KB (content) | wall s |
| --: | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |";

    /// Its line in the table.
    #[must_use]
    pub fn line(&self) -> String {
        let numbers = [
            format!("{:.4} | {:.4} | {:.4}", self.symbols, self.least, self.payload),
            format!("{:.4} | {:.2} | {:.4}", self.payload_with_manifest, self.manifest, self.wire),
            format!("{:.0} ({}) | {} of {}", self.nacks_per_second, self.nacks_peak, self.reports, self.nacks)
                + &format!(" ({:.0})", self.report_bytes_per_second),
            format!("{:.3} | {:.3} % | {}", self.nack_bytes as f64 / 1e6, self.nack_share * 100.0, self.nacks_dropped),
            format!("{:.1} ({:.1}, {:.1}) | {:.3}", self.time, self.time_median, self.began, self.time_ratio()),
            format!("{:.3}", self.sender_bytes as f64 / 1e6),
            format!("{:.1} ({:.1})", self.receiver_bytes as f64 / 1e3, self.receiver_bytes_content as f64 / 1e3),
            format!("{:.0}", self.wall),
        ];
        let (mb, receivers, loss, complete) = (self.megabytes, self.receivers, &self.loss, self.complete);
        format!("| {mb} | {receivers} | {loss} | {complete} | {} |", numbers.join(" | "))
    }

    /// Time over the ideal.
    #[must_use]
    pub fn time_ratio(&self) -> f64 {
        self.time / self.ideal.max(1e-9)
    }

    /// What was simulated, in the order of the table.
    fn what(&self) -> (u64, &str, u32, u32, u64, u64) {
        (u64::MAX - self.megabytes, &self.loss, self.receivers, self.files, self.rate, self.seed)
    }
}

/// Rows in a file.
///
/// # Errors
/// When the file cannot be read as rows; one that is not there has none.
pub fn read_rows(path: &Path) -> Result<Vec<Row>> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{}: these are no rows", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Adds a row to a file, in place of an earlier one of the same scenario; returns all of them.
///
/// # Errors
/// When the file cannot be read as rows, or not be written.
pub fn keep_row(path: &Path, row: Row) -> Result<Vec<Row>> {
    let mut rows = read_rows(path)?;
    rows.retain(|other| other.what() != row.what());
    rows.push(row);
    rows.sort_by(|a, b| a.what().cmp(&b.what()));
    // A line for each, so that a change shows as one.
    let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_replaces_that_of_the_same_scenario() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.json");
        let row = |receivers, symbols| Row { receivers, symbols, loss: "1".to_owned(), ..Row::default() };
        keep_row(&path, row(100, 1.1)).unwrap();
        keep_row(&path, row(10, 1.2)).unwrap();
        let rows = keep_row(&path, row(100, 1.3)).unwrap();
        assert_eq!(rows, [row(10, 1.2), row(100, 1.3)]);
        assert_eq!(read_rows(&path).unwrap(), rows);
        let columns = |line: &str| line.matches('|').count();
        assert!(Row::HEAD.lines().chain([rows[0].line().as_str()]).map(columns).all(|n| n == 21));
    }
}
