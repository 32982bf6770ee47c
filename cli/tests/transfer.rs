//! Real processes in a network of namespaces: what is sent arrives, whole and once, whoever comes late or is killed.
//!
//! Judged by bytes on cables, by exit codes and by the trees that result; never by the clock.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/site.rs"]
mod site;
#[path = "common/tree.rs"]
mod tree;

#[path = "transfer/answers.rs"]
mod answers;
#[path = "transfer/content.rs"]
mod content;
#[path = "transfer/crash.rs"]
mod crash;
#[path = "transfer/crowd.rs"]
mod crowd;
#[path = "transfer/target.rs"]
mod target;

/// A share of bytes, for reading and for bounds.
#[expect(clippy::cast_precision_loss, reason = "byte counts here are far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// So many times these bytes.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bound")]
fn times(bytes: u64, factor: f64) -> u64 {
    (bytes as f64 * factor) as u64
}
