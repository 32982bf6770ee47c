//! `nackcast doctor`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::{HostPort, Listen};

/// `nackcast doctor`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast doctor --ticket @news.ticket              on a receiver
  nackcast doctor --ticket @news.ticket --interface eth1 --wait 130s
  nackcast doctor --channel news.key --to edge1:7701 on the sender

Run it as root to see what a firewall drops. It exits 1 when something is wrong.")]
pub(crate) struct DoctorArgs {
    /// On a receiver: its ticket, @FILE that holds one, or - for stdin [env: NACKCAST_TICKET]
    #[arg(long, value_name = "T|@FILE|-", allow_hyphen_values = true, conflicts_with = "channel")]
    pub(crate) ticket: Option<String>,
    /// On a sender: the channel's key file
    #[arg(long, value_name = "FILE")]
    pub(crate) channel: Option<PathBuf>,
    /// Name or address of the network interface [default: the default route's]
    #[arg(long, value_name = "NAME|ADDR")]
    pub(crate) interface: Option<String>,
    /// Nodes to look at the way to; a receiver looks at its ticket's senders anyway; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: Vec<HostPort>,
    // Brackets in a doc comment would be a link.
    #[arg(long, value_name = "ADDR:PORT", help = "On a sender: where NACKs arrive [default: [::]:7701]")]
    pub(crate) listen: Option<Listen>,
    /// On a sender: hops of multicast datagrams
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) ttl: u8,
    /// How long to listen; a querier may need 130s to be heard
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5s")]
    pub(crate) wait: Duration,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
