//! Commands that ask a running node.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nackcast_common::units::RateLimit;

/// Which node is meant, and how to reach it.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeArgs {
    /// The node: unix:PATH of its admin socket, its state directory, or http(s)://HOST:PORT of its --admin
    /// [default: the only one that runs here]
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// This client's certificate, PEM, for https://
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Who signed the node's certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast status
  nackcast status --receivers 10
  nackcast status --check || mail -s 'nackcast' root < /dev/null

With --check it exits 1 when an alert of a warning or worse is raised that
nobody acknowledged, or when no node answers.")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Exit 1 when something is wrong
    #[arg(long)]
    pub(crate) check: bool,
    /// Show so many receivers of each channel, those that lag most first (senders only)
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20")]
    pub(crate) receivers: Option<u32>,
}

/// `nackcast alerts`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast alerts
  nackcast alerts --follow --json
  nackcast alerts --all
  nackcast alerts --node https://cdn1:7800 --cert a.pem --key a.key --ca ca.pem")]
pub(crate) struct AlertsArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Those, too, that are over or acknowledged
    #[arg(long)]
    pub(crate) all: bool,
    /// Go on, and show every change
    #[arg(long)]
    pub(crate) follow: bool,
}

/// `nackcast top`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast top
  nackcast top --node /var/lib/nackcast/send-0123abcd

q, Esc or Ctrl-C ends it.")]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Time between two pictures, at least 500ms
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1s")]
    pub(crate) every: Duration,
}

/// `nackcast ack`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast ack 17 18
  nackcast ack --all")]
pub(crate) struct AckArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Numbers of alerts, as `nackcast alerts` shows them
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub(crate) ids: Vec<u64>,
    /// All that are raised
    #[arg(long, conflicts_with = "ids")]
    pub(crate) all: bool,
}

/// `nackcast objects`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast objects
  nackcast objects --busy
  nackcast objects --channel news --limit 100 --json")]
pub(crate) struct ObjectsArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// This channel, by name or id; needed when the node has several
    #[arg(long, value_name = "NAME")]
    pub(crate) channel: Option<String>,
    /// Only objects that are sent, wait, or are missing
    #[arg(long)]
    pub(crate) busy: bool,
    /// So many at most
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: u64,
}

/// `nackcast scan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast scan
  nackcast scan --deep --channel news
  nackcast scan --node unix:/var/lib/nackcast/receive-0123abcd/admin.sock --json")]
pub(crate) struct ScanArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Only this channel, by name or id
    #[arg(long, value_name = "NAME")]
    pub(crate) channel: Option<String>,
    /// Read and hash every file
    #[arg(long)]
    pub(crate) deep: bool,
}

/// `nackcast publish`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast publish
  nackcast publish --channel news --allow-empty")]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Only this channel, by name or id
    #[arg(long, value_name = "NAME")]
    pub(crate) channel: Option<String>,
    /// Also where the directory became empty, which looks like a file system that is not mounted
    #[arg(long)]
    pub(crate) allow_empty: bool,
}

/// `nackcast resend`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast resend films/a.mkv
  nackcast resend --channel news 0123456789abcdef
  nackcast resend --all")]
pub(crate) struct ResendArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Paths or object ids
    #[arg(value_name = "PATH|OBJECT", required_unless_present = "all")]
    pub(crate) objects: Vec<String>,
    /// Everything
    #[arg(long, conflicts_with = "objects")]
    pub(crate) all: bool,
    /// This channel, by name or id; needed when the node has several
    #[arg(long, value_name = "NAME")]
    pub(crate) channel: Option<String>,
}

/// `nackcast pause`, `resume` and `drain`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast pause
  nackcast drain --channel news
  nackcast resume

It holds until `nackcast resume`, or until the node restarts.")]
pub(crate) struct SteerArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Only this channel, by name or id
    #[arg(long, value_name = "NAME")]
    pub(crate) channel: Option<String>,
}

/// `nackcast rate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast rate 50mbit
  nackcast rate max --channel news

It holds until the node restarts. Without --channel all channels share it.")]
pub(crate) struct RateArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// As in 800mbit, or max
    #[arg(value_name = "RATE")]
    pub(crate) rate: RateLimit,
    /// Only this channel, by name or id
    #[arg(long, value_name = "NAME")]
    pub(crate) channel: Option<String>,
}
