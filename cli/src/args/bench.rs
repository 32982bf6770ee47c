//! What `nackcast bench` is told.

use std::path::PathBuf;

use clap::Args;
use nackcast_common::units::{ByteCount, RateLimit};

use super::ReportArgs;
use super::values::{HostPort, Listen, Percent};

/// `nackcast bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  nackcast bench                                     one receiver, in namespaces of this machine
  nackcast bench --receivers 4 --size 1GiB --json
  nackcast bench --receivers 4 --loss 5% --rate 200mbit
  nackcast bench --files 10000 --size 300MiB         many small files

Between hosts, with a channel made for it:
  nackcast channel new test --sender cdn1.example.net:7701
  nackcast bench --receive @test.ticket --interface eth1
                                                     on each receiver, first
  nackcast bench --send test.key --receivers 2 --interface eth1 --rate 800mbit
                                                     on the sender: sends no faster than that

Without --loss the hosts here are joined by the kernel's bridge, with it by a switch in user
space, which is slower: compare runs of one kind only. --rate max between hosts sends as fast
as the sender can, also in a second of plain datagrams that shows the network's own limit.
Exits 0 when every receiver has everything, verified; else 1.")]
pub(crate) struct BenchArgs {
    /// How many receivers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) receivers: u16,
    /// How much is sent
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    pub(crate) size: ByteCount,
    /// In how many files of one size
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) files: u32,
    /// Datagrams lost on the way to each receiver, at random
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["send", "receive"])]
    pub(crate) loss: Option<Percent>,
    /// How fast to send [default: max; with --send 20mbit]
    #[arg(long, value_name = "RATE", conflicts_with = "receive")]
    pub(crate) rate: Option<RateLimit>,
    /// Where content lies while it is sent and received [default: /dev/shm, so that no disk plays a part]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Do not measure what plain datagrams would reach
    #[arg(long)]
    pub(crate) no_raw: bool,
    /// Be the sender, of the channel with this key file
    #[arg(long, value_name = "FILE", conflicts_with = "receive")]
    pub(crate) send: Option<PathBuf>,
    /// Be a receiver, with this ticket
    #[arg(long, value_name = "T|@FILE|-", conflicts_with_all = ["receivers", "size", "files"])]
    pub(crate) receive: Option<String>,
    /// Interface to use between hosts, by name or address [default: the default route's]
    #[arg(long, value_name = "NAME|ADDR")]
    pub(crate) interface: Option<String>,
    // Brackets in a doc comment would be a link.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        requires = "send",
        help = "With --send: where NACKs arrive [default: [::]:7701]"
    )]
    pub(crate) listen: Option<Listen>,
    /// With --receive: the sender, where the ticket names none
    #[arg(long, value_name = "HOST:PORT", requires = "receive")]
    pub(crate) source: Vec<HostPort>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}
