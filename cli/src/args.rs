//! The command line, as clap sees it.
//!
//! - The verbs and their options are a contract with scripts (`docs/`, command line): change neither name nor meaning.
//! - What a node is told lives in [`options`], one struct for the command line and for the TOML file, so that every
//!   option is also a key.
//! - Every command shows examples at the end of its `--help`.

pub(crate) mod options;
pub(crate) mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use nackcast_common::units::{ByteCount, RateLimit};

use self::options::{ReceiveOptions, SendOptions};
use self::values::{GroupPort, HostPort, Percent, Seeds};

/// Pre-positions files on many machines by reliable multicast.
#[derive(Debug, Parser)]
#[command(
    name = "nackcast",
    version,
    after_help = "\
Examples:
  nackcast demo                                      see it work on this machine, nothing configured
  nackcast channel new news                          make news.key and news.ticket
  nackcast send --channel news.key=/srv/news         on the sender
  nackcast receive --ticket @news.ticket --into /srv/cache/news
                                                     on each receiver

Exit codes: 0 done, 1 failed while running, 2 bad usage or configuration."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How much is logged; `RUST_LOG` overrides both.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Verbosity {
    /// Log more (twice: even more); RUST_LOG gives finer control
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    pub(crate) verbose: u8,
    /// Log errors only, and show no progress
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 901)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show everything on this machine: one sender, some receivers, real sockets, packet loss
    Demo(DemoArgs),
    /// Make channels and tickets
    #[command(
        subcommand,
        after_help = "\
Examples:
  nackcast channel new news --sender cdn1.example.net:7701
  nackcast channel ticket news.key"
    )]
    Channel(ChannelCommand),
    /// Multicast directories to receivers
    Send(Box<SendArgs>),
    /// Receive channels into directories, and keep them complete
    Receive(Box<ReceiveArgs>),
    /// Ask a running node to scan its directories now
    Scan(ScanArgs),
    /// Compare a received directory with the manifest in the state
    Verify(VerifyArgs),
    /// Run the simulator: whole networks in virtual time, with faults that a seed chooses
    Sim(SimArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them
    Man(ManArgs),
    /// Print the version
    Version(VersionArgs),
}

/// `nackcast sim`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  nackcast sim --seed 7                              one run; says its trace hash
  nackcast sim --seeds 0..1000                       a thousand; the first failure is shrunk and kept
  nackcast sim --seeds 20000 --keep-going            a soak, with seeds that nobody ran before
  nackcast sim --seed 7 --receiver 2 --report 7.html what happened, with a plot
  nackcast sim --scenario sim-7.toml                 a scenario from a file
  nackcast sim --scenario lossy.toml --real          the same with real processes, and both compared")]
pub(crate) struct SimArgs {
    /// The seed [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    pub(crate) seed: Option<u64>,
    /// Several seeds: a range, or how many new ones
    #[arg(long, value_name = "A..B|COUNT", conflicts_with = "scenario")]
    pub(crate) seeds: Option<Seeds>,
    /// So many receivers, whatever the seed says
    #[arg(long, value_name = "N")]
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
    pub(crate) object: Option<nackcast_common::ids::ObjectId>,
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

fn parse_object(text: &str) -> Result<nackcast_common::ids::ObjectId, String> {
    let id = u64::from_str_radix(text, 16).map_err(|_| format!("`{text}` is no object id: give 16 hex digits"))?;
    Ok(nackcast_common::ids::ObjectId(id))
}

/// `nackcast demo`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  nackcast demo
  nackcast demo --receivers 8 --loss 5% --dir /usr/share/doc
  nackcast demo --rate 500mbit --size 1GiB --keep")]
pub(crate) struct DemoArgs {
    /// How many receivers
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) receivers: u16,
    /// What to send [default: a directory found here, such as /usr/share]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// At most this much of it is copied and sent
    #[arg(long, default_value = "200MiB", value_name = "SIZE")]
    pub(crate) size: ByteCount,
    /// Datagrams lost on the way to each receiver, at random
    #[arg(long, default_value = "2%", value_name = "PERCENT")]
    pub(crate) loss: Percent,
    /// How fast to send
    #[arg(long, default_value = "200mbit", value_name = "RATE")]
    pub(crate) rate: RateLimit,
    /// Keep the directories and logs, and say where they are
    #[arg(long)]
    pub(crate) keep: bool,
    /// Use loopback multicast without loss even where namespaces can be made
    #[arg(long)]
    pub(crate) loopback: bool,
    /// Print the results as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast channel`.
#[derive(Debug, Subcommand)]
pub(crate) enum ChannelCommand {
    /// Make a channel: NAME.key for its sender, NAME.ticket for its receivers
    New(ChannelNewArgs),
    /// Print the ticket of a key file
    Ticket(ChannelTicketArgs),
    /// Make a key file that may serve the channel but not publish
    Delegate(ChannelDelegateArgs),
}

/// `nackcast channel new`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast channel new news
  nackcast channel new news --sender cdn1.example.net:7701
  nackcast channel new news --advertise 239.200.1.1:7600
  nackcast channel new news --out /etc/nackcast/news.key

NAME.key is the right to publish: keep it where only the sender reads it.
NAME.ticket is the right to receive: give it to receivers only.
Neither is ever overwritten.")]
pub(crate) struct ChannelNewArgs {
    /// The channel's name, for people
    pub(crate) name: String,
    /// Multicast group and port of advertisements; data uses the next port
    /// [default: a group in 239.192.0.0/14 derived from the channel, port 7600]
    #[arg(long, value_name = "GROUP:PORT")]
    pub(crate) advertise: Option<GroupPort>,
    /// Where receivers find senders, best first; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) sender: Vec<HostPort>,
    /// The key file [default: NAME.key]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast channel ticket`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast channel ticket news.key
  nackcast channel ticket news.key | ssh cache1 'umask 077; cat > news.ticket'")]
pub(crate) struct ChannelTicketArgs {
    /// The key file
    pub(crate) file: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast channel delegate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast channel delegate news.key --out news-backup.key")]
pub(crate) struct ChannelDelegateArgs {
    /// The publisher's key file
    pub(crate) file: PathBuf,
    /// The new key file
    #[arg(long, value_name = "BACKUP.key")]
    pub(crate) out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast send`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast send --channel news.key=/srv/news
  nackcast send --channel news.key=/srv/news --interface eth1 --rate 200mbit
  nackcast send --channel news.key=/srv/news --once --expect 40
  nackcast send --config /etc/nackcast/send.toml

SIGTERM and SIGINT finish the running jobs and end (a second one ends at once);
SIGHUP rescans.")]
pub(crate) struct SendArgs {
    /// TOML file whose keys are these options; what the command line gives counts more
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: SendOptions,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// `nackcast receive`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast receive --ticket @news.ticket --into /srv/cache/news
  nackcast receive --ticket @a.ticket --into a --ticket @b.ticket --into b
  nackcast receive --ticket - --into /srv/cache/news --once < news.ticket
  NACKCAST_TICKET=... nackcast receive --into /srv/cache/news
  nackcast receive --config /etc/nackcast/receive.toml

The n-th --ticket goes with the n-th --into. Prefer @FILE: arguments show in process lists.
SIGTERM and SIGINT save what was received and end (a second one ends at once);
SIGHUP rescans. A receiver that is ended so before everything is there says
`success: false` in its --json summary; it exits with 0, as asked, or with 1
when --once asked for more.")]
pub(crate) struct ReceiveArgs {
    /// TOML file whose keys are these options; what the command line gives counts more
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: ReceiveOptions,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// For programs that watch a node.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct ReportArgs {
    /// One JSON object per second on stdout
    #[arg(long, hide = true)]
    pub(crate) progress_json: bool,
}

/// `nackcast scan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast scan
  nackcast scan --deep --channel news
  nackcast scan --node unix:/var/lib/nackcast/receive-0123abcd/admin.sock --json")]
pub(crate) struct ScanArgs {
    /// The node: unix:PATH of its admin socket, or its state directory [default: the only one that runs here]
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Only this channel, by name or id
    #[arg(long, value_name = "NAME")]
    pub(crate) channel: Option<String>,
    /// Read and hash every file
    #[arg(long)]
    pub(crate) deep: bool,
    /// Print the results as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast verify`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast verify /srv/cache/news
  nackcast verify /srv/cache/news --deep --state /var/lib/nackcast/receive-0123abcd

Exits 0 when everything is there and sound, else 1 after printing what is not.")]
pub(crate) struct VerifyArgs {
    /// The received directory
    pub(crate) dir: PathBuf,
    /// Read and hash every file
    #[arg(long)]
    pub(crate) deep: bool,
    /// The receiver's state directory [default: the one that last received into DIR]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast completions`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast completions bash > /etc/bash_completion.d/nackcast
  nackcast completions zsh > ~/.zfunc/_nackcast")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `nackcast man`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast man | man -l -
  nackcast man --out /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Write one page per command into this directory, which is made when missing
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// `nackcast version`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast version
  nackcast version --json")]
pub(crate) struct VersionArgs {
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n  "), "`{}` shows no example", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
