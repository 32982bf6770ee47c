//! `nackcast verify`: compares a received directory with the manifest in the state.

use std::path::{Path, PathBuf};

use crate::args::VerifyArgs;
use crate::failure::Failure;
use crate::node;
use crate::output::{print, print_json};
use crate::places::{self, NodeRole};
use crate::report::VerifySummary;

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    if !args.dir.is_dir() {
        return Err(Failure::usage(format_args!(
            "{} is no directory: give one that a channel was received into",
            args.dir.display()
        )));
    }
    let state = match &args.state {
        Some(state) => state.clone(),
        None => state_of(&args.dir)?,
    };
    let found = nackcast_receiver::verify(&args.dir, &state, args.deep);
    let found = found.map_err(|error| node::fail(error.is_usage(), error))?;
    let summary = VerifySummary {
        success: found.missing.is_empty() && found.damaged.is_empty(),
        directory: args.dir.clone(),
        generation: found.generation,
        entries: found.entries,
        missing: found.missing,
        damaged: found.damaged,
        extra: found.extra,
    };
    if args.json {
        print_json(&summary)?;
    } else {
        print(&summary.to_text())?;
    }
    if summary.success { Ok(()) } else { Err(Failure::Reported) }
}

/// The state of the receiver that fills the directory.
fn state_of(directory: &Path) -> Result<PathBuf, Failure> {
    let directory = places::resolved(directory);
    let receives_into = |found: &places::Found| {
        found.node.role == NodeRole::Receive
            && found.node.channels.iter().any(|channel| Path::new(&channel.directory) == directory)
    };
    places::found().into_iter().find(receives_into).map(|found| found.state).ok_or_else(|| {
        Failure::usage(format_args!(
            "no receiver's state for {} was found here: give its state directory with --state",
            directory.display()
        ))
    })
}
