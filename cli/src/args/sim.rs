//! What `nackcast sim` is told.

use std::path::PathBuf;

use clap::Args;
use nackcast_common::ids::ObjectId;

use super::values::{Percent, Seeds};

/// `nackcast sim`.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "\
Examples:
  nackcast sim --seed 7                              one run; says its trace hash
  nackcast sim --seeds 0..1000                       a thousand; the first failure is shrunk and kept
  nackcast sim --seeds 20000 --keep-going            a soak, with seeds that nobody ran before
  nackcast sim --seed 7 --receiver 2 --report 7.html what happened, with a plot
  nackcast sim --scenario sim-7.toml                 a scenario from a file
  nackcast sim --scenario lossy.toml --real          the same with real processes, and both compared
  nackcast sim --cast 7                              primaries and backups that fail; says what each did, and why
  nackcast sim --casts 0..1000                       a thousand of these")]
pub(crate) struct SimArgs {
    /// The seed [default: 1]
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "cast", "casts"])]
    pub(crate) seed: Option<u64>,
    /// Several seeds: a range, or how many new ones
    #[arg(long, value_name = "A..B|COUNT", conflicts_with_all = ["scenario", "cast", "casts"])]
    pub(crate) seeds: Option<Seeds>,
    /// The cast of a seed: senders with roles, in a world of their own
    #[arg(long, value_name = "N", conflicts_with_all = OF_SCENARIOS)]
    pub(crate) cast: Option<u64>,
    /// Several casts: a range, or how many new ones
    #[arg(long, value_name = "A..B|COUNT", conflicts_with = "cast", conflicts_with_all = OF_SCENARIOS)]
    pub(crate) casts: Option<Seeds>,
    /// So many receivers, whatever the seed says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) receivers: Option<u32>,
    /// Datagrams lost on the way to each receiver, whatever the seed says
    #[arg(long, value_name = "PERCENT")]
    pub(crate) loss: Option<Percent>,
    /// Run this scenario, instead of one that a seed makes
    #[arg(long, value_name = "FILE")]
    pub(crate) scenario: Option<PathBuf>,
    /// Run it with real processes in network namespaces, too, and compare
    #[arg(long, requires = "scenario", conflicts_with_all = ["report", "receiver", "object"])]
    pub(crate) real: bool,
    /// Write what happened: FILE.svg gets the plot, any other a page with plot, scenario and timeline
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// The timeline is of this receiver only
    #[arg(long, value_name = "N")]
    pub(crate) receiver: Option<u32>,
    /// The timeline is of this object only
    #[arg(long, value_name = "ID", value_parser = parse_object)]
    pub(crate) object: Option<ObjectId>,
    /// Run all seeds, even after one failed
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Do not look for a smaller scenario that fails in the same way
    #[arg(long)]
    pub(crate) no_shrink: bool,
    /// Print the results as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a cast does not know.
const OF_SCENARIOS: [&str; 8] = ["receivers", "loss", "scenario", "real", "report", "receiver", "object", "no_shrink"];

fn parse_object(text: &str) -> Result<ObjectId, String> {
    let id = u64::from_str_radix(text, 16).map_err(|_| format!("`{text}` is no object id: give 16 hex digits"))?;
    Ok(ObjectId(id))
}
