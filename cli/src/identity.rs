//! `nackcast identity`: the key by which a node is known to others, for the lists of channels.

use std::path::PathBuf;

use serde::Serialize;

use crate::args::IdentityArgs;
use crate::failure::{Failure, OrFail};
use crate::output::{print, print_json};
use crate::places::{self, NodeRole};
use crate::{node_key, receive};

/// What `--json` prints.
#[derive(Serialize)]
struct Printed {
    key: String,
    state: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &IdentityArgs) -> Result<(), Failure> {
    let state = match (&args.state, &args.ticket) {
        (Some(state), _) => std::path::absolute(state).or_usage(format_args!("state directory {}", state.display()))?,
        (None, Some(ticket)) => places::state_dir(None, NodeRole::Receive, receive::one_ticket(Some(ticket))?.channel)?,
        (None, None) => places::only_receiver()?,
    };
    // A sender has one, too: it is what receivers see.
    let file = if state.join(node_key::OF_SENDER).exists() { node_key::OF_SENDER } else { node_key::OF_RECEIVER };
    let key = node_key::load_or_generate(&state, file)?;
    if file == node_key::OF_RECEIVER {
        places::prepare_state(&state, NodeRole::Receive)?;
        node_key::keep(&state, file, &key)?;
    }
    let key = key.verifying_key().to_string();
    if args.json { print_json(&Printed { key, state }) } else { print(&key) }
}
