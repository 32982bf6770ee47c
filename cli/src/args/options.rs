//! What a node is told, on the command line or in a TOML file: one struct for both, so that every option is a key.
//!
//! Every field is optional here; defaults are filled in when the configuration is made ([`crate::send`],
//! [`crate::receive`]), after the two sources were merged.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use nackcast_common::units::{BitRate, ByteCount, RateLimit};
use nackcast_proto::wire::Role;
use serde::Deserialize;

use super::values::{ChannelSource, HostPort, Listen, ModeMask, PriorityRule, from_text, list_from_text};

/// Primary or backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RoleOption {
    /// Publishes and sends
    Primary,
    /// Receives what the primary sends, and serves it while no primary does
    Backup,
}

impl RoleOption {
    /// As it stands on the wire.
    pub(crate) const fn role(self) -> Role {
        match self {
            Self::Primary => Role::Primary,
            Self::Backup => Role::Backup,
        }
    }
}

/// What becomes of receivers that are slower than others, where the rate is not fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SlowReceivers {
    /// Wait for the slowest, if it gets on at all
    Wait,
    /// Leave one in ten, at least one, to later passes
    Leave,
}

/// When a receiver pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PullOption {
    /// Never
    Never,
    /// When the sender has no passes left for an object, or no sender answers
    Last,
    /// Also when the sender does not have it
    Unknown,
}

/// Options of `nackcast send`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SendOptions {
    /// A channel's key file and the directory to send; may be repeated
    #[arg(long, value_name = "FILE=DIR", value_parser = OsStringValueParser::new().try_map(ChannelSource::from_os))]
    #[serde(deserialize_with = "list_from_text")]
    pub(crate) channel: Vec<ChannelSource>,
    /// What this sender is for: primary, or backup, as `nackcast standby` is [default: primary]
    #[arg(long, value_enum, hide_possible_values = true)]
    pub(crate) role: Option<RoleOption>,
    /// Another sender of these channels, which is asked before this one takes over; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(deserialize_with = "list_from_text")]
    pub(crate) peer: Vec<HostPort>,
    /// Order among several backups, the best has 0; each needs its own [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) rank: Option<u32>,
    /// How long a sender that yields to another one may finish its blocks [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub(crate) drain_limit: Option<Duration>,
    /// How long the next epoch is announced, for receivers to get its secret, before it begins [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub(crate) epoch_overlap: Option<Duration>,
    /// Backup: replace differing files in a directory that nackcast did not fill
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) overwrite: Option<bool>,
    /// Name or address of the network interface [default: the default route's]
    #[arg(long, value_name = "NAME|ADDR")]
    pub(crate) interface: Option<String>,
    // Brackets in a doc comment would be a link.
    #[arg(long, value_name = "ADDR:PORT", help = "Where NACKs arrive [default: [::]:7701]")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) listen: Option<Listen>,
    /// How fast all channels together are sent, as in 800mbit; max; or auto, which finds out [default: 20mbit]
    #[arg(long, value_name = "RATE")]
    pub(crate) rate: Option<RateLimit>,
    /// With --rate auto: never slower [default: 64kbit]
    #[arg(long, value_name = "RATE")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) rate_floor: Option<BitRate>,
    /// With --rate auto: never faster [default: 100gbit]
    #[arg(long, value_name = "RATE")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) rate_ceiling: Option<BitRate>,
    /// Without a fixed rate: wait for the slowest receiver, or leave one in ten (at least one) to later passes
    /// [default: wait]
    #[arg(long, value_name = "WHAT")]
    pub(crate) slow_receivers: Option<SlowReceivers>,
    /// How fast blocks are given to those who pull by unicast, all together [default: as --rate, or 100mbit without one]
    #[arg(long, value_name = "RATE")]
    pub(crate) unicast_rate: Option<RateLimit>,
    /// Hops of multicast datagrams [default: 8]
    #[arg(long, value_name = "N")]
    pub(crate) ttl: Option<u8>,
    /// DSCP of multicast datagrams, 0 to 63 [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) dscp: Option<u8>,
    /// How often an object is multicast in a round at most [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) max_passes: Option<u32>,
    /// Least time between two passes of one object [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub(crate) period: Option<Duration>,
    /// Objects that are sent at once [default: 4]
    #[arg(long, value_name = "N")]
    pub(crate) max_jobs: Option<usize>,
    /// A round ends when nobody asked for the object for so long [default: 10min]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub(crate) round_quiet: Option<Duration>,
    /// A generation that receivers lack for so long, and twice the time that sending it takes, is an alert [default: 10min]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub(crate) late_after: Option<Duration>,
    /// Paths that are not sent, as in '*.tmp'; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Priority of paths, others have 0, higher goes first; may be repeated, the first match counts
    #[arg(long, value_name = "GLOB=N")]
    #[serde(deserialize_with = "list_from_text")]
    pub(crate) priority: Vec<PriorityRule>,
    /// Time between rescans of the directories; 0s: never by time [default: 10min]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub(crate) rescan: Option<Duration>,
    /// Do not rescan when the file system says that something changed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) no_watch: Option<bool>,
    /// Bytes in a symbol, even; lower it where the path's MTU is below 1,500 [default: 1400]
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) symbol_size: Option<ByteCount>,
    /// Bytes in a block, a power of two [default: 256KiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) block_size: Option<ByteCount>,
    // Brackets in a doc comment would be a link.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        help = "gRPC for admins on TCP, too; off loopback with TLS only [default: off]"
    )]
    pub(crate) admin: Option<SocketAddr>,
    /// Certificate of this node for --admin, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_key: Option<PathBuf>,
    /// Who signs the certificates of admins, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_ca: Option<PathBuf>,
    /// HTTP for /metrics and /healthz [default: off]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) http: Option<SocketAddr>,
    /// State directory [default: below $STATE_DIRECTORY, /var/lib/nackcast or $XDG_STATE_HOME/nackcast]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// End when everything was sent once and no NACK came for --linger
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) once: Option<bool>,
    /// With --once: wait for N receivers first, and fail unless N reported complete
    #[arg(long, value_name = "N")]
    pub(crate) expect: Option<u32>,
    /// With --once: how long no NACK must come [default: 3s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub(crate) linger: Option<Duration>,
    /// Print the summary as JSON
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) json: Option<bool>,
}

/// Options of `nackcast receive`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ReceiveOptions {
    /// A ticket, @FILE that holds one, or - for stdin; may be repeated [env: NACKCAST_TICKET]
    #[arg(long, value_name = "T|@FILE|-", allow_hyphen_values = true)]
    pub(crate) ticket: Vec<String>,
    /// Where the channel of the ticket at the same place goes; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) into: Vec<PathBuf>,
    /// Name or address of the network interface [default: the default route's]
    #[arg(long, value_name = "NAME|ADDR")]
    pub(crate) interface: Option<String>,
    /// Senders to ask, and nodes to pull from as the last resort, best first, before those of the ticket; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(deserialize_with = "list_from_text")]
    pub(crate) source: Vec<HostPort>,
    // Brackets in a doc comment would be a link.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        help = "gRPC for admins on TCP, too; off loopback with TLS only [default: off]"
    )]
    pub(crate) admin: Option<SocketAddr>,
    /// Certificate of this node for --admin, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_key: Option<PathBuf>,
    /// Who signs the certificates of admins, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_ca: Option<PathBuf>,
    /// HTTP for /metrics and /healthz [default: off]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) http: Option<SocketAddr>,
    /// A shell command to run for each generation that is installed and verified, once; it finds NACKCAST_CHANNEL,
    /// NACKCAST_GENERATION and NACKCAST_DIRECTORY in its environment
    #[arg(long, value_name = "CMD")]
    pub(crate) on_complete: Option<String>,
    /// State directory [default: below $STATE_DIRECTORY, /var/lib/nackcast or $XDG_STATE_HOME/nackcast]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// When blocks are pulled by unicast: never, last (the sender has no passes left, or no sender answers) or unknown
    /// (also when the sender does not have them) [default: last]
    #[arg(long, value_enum, value_name = "WHEN", hide_possible_values = true)]
    pub(crate) pull: Option<PullOption>,
    /// Give verified blocks to other receivers, whose --source names this node
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) serve_peers: Option<bool>,
    #[arg(
        long,
        value_name = "ADDR:PORT",
        help = "With --serve-peers: where others find this node; QUIC is on the next port [default: [::]:7701]"
    )]
    #[serde(deserialize_with = "from_text")]
    pub(crate) listen: Option<Listen>,
    /// With --serve-peers: how fast, to all together [default: 20mbit]
    #[arg(long, value_name = "RATE")]
    pub(crate) unicast_rate: Option<RateLimit>,
    /// Time between scans of what was received [default: 10min]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub(crate) scan: Option<Duration>,
    /// Remove what left the dataset
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) prune: Option<bool>,
    /// Replace differing files in a directory that nackcast did not fill
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) overwrite: Option<bool>,
    /// End when everything is installed and verified
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) once: Option<bool>,
    /// Mode bits that are kept, octal [default: 0777]
    #[arg(long, value_name = "OCTAL")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) mode_mask: Option<ModeMask>,
    /// How long to wait for a NACK's answer [default: 200ms]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub(crate) nack_retry: Option<Duration>,
    /// NACK datagrams in a window at most [default: 4]
    #[arg(long, value_name = "N")]
    pub(crate) nack_budget: Option<usize>,
    /// From so many hundredths on, what comes by unicast is an alert [default: 5]
    #[arg(long, value_name = "PERCENT")]
    pub(crate) unicast_alert: Option<u8>,
    /// Memory for unfinished blocks [default: 32MiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) memory: Option<ByteCount>,
    /// Print the summary as JSON
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) json: Option<bool>,
}

/// Field by field: what stands above, else what stands below. A field that is missing here does not compile.
macro_rules! merge {
    ($above:ident, $below:ident, values: $($value:ident)*, lists: $($list:ident)*) => {
        Self {
            $($value: $above.$value.or($below.$value),)*
            $($list: if $above.$list.is_empty() { $below.$list } else { $above.$list },)*
        }
    };
}

impl SendOptions {
    /// These options, and `below` where nothing is given.
    pub(crate) fn or(self, below: Self) -> Self {
        merge!(self, below,
            values: role rank drain_limit epoch_overlap overwrite interface listen rate rate_floor rate_ceiling slow_receivers unicast_rate ttl dscp max_passes period max_jobs
                round_quiet late_after rescan no_watch symbol_size block_size admin admin_cert admin_key admin_ca http state once
                expect linger json,
            lists: channel peer exclude priority)
    }
}

impl ReceiveOptions {
    /// These options, and `below` where nothing is given.
    pub(crate) fn or(self, below: Self) -> Self {
        merge!(self, below,
            values: interface pull serve_peers listen unicast_rate admin admin_cert admin_key admin_ca http on_complete
                state scan prune overwrite once mode_mask nack_retry nack_budget unicast_alert memory json,
            lists: ticket into source)
    }
}
