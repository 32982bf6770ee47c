//! The command line, as clap sees it.
//!
//! - The verbs and their options are a contract with scripts (`docs/`, command line): change neither name nor meaning.
//! - What a node is told lives in [`options`], one struct for the command line and for the TOML file, so that every
//!   option is also a key.
//! - Every command shows examples at the end of its `--help`.

pub(crate) mod asking;
pub(crate) mod bench;
pub(crate) mod doctor;
pub(crate) mod options;
pub(crate) mod sim;
pub(crate) mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use nackcast_common::units::{ByteCount, RateLimit};

pub(crate) use self::asking::{
    AckArgs, AlertsArgs, NodeArgs, ObjectsArgs, PublishArgs, RateArgs, ResendArgs, ScanArgs, StatusArgs, SteerArgs,
    TopArgs,
};
pub(crate) use self::bench::BenchArgs;
pub(crate) use self::doctor::DoctorArgs;
use self::options::{ReceiveOptions, SendOptions};
pub(crate) use self::sim::SimArgs;
use self::values::{GroupPort, HostPort, Identity, Percent};
use crate::keyfile::AdmissionMode;

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
    /// Make channels and tickets, and say who may receive
    #[command(
        subcommand,
        after_help = "\
Examples:
  nackcast channel new news --sender cdn1.example.net:7701
  nackcast channel ticket news.key
  nackcast channel rotate news.key                   outdate every ticket"
    )]
    Channel(ChannelCommand),
    /// Multicast directories to receivers
    Send(Box<SendArgs>),
    /// Receive channels, and serve them to other receivers while no primary does
    #[command(after_help = "\
Examples:
  nackcast channel delegate news.key --out backup.key
                                                     a key file that serves and cannot publish
  nackcast standby --channel backup.key=/srv/copy --peer cdn1.example.net:7701
                                                     the same as `nackcast send --role backup ...`")]
    Standby(Box<SendArgs>),
    /// Receive channels into directories, and keep them complete
    Receive(Box<ReceiveArgs>),
    /// Show what a running node does, and whether something is wrong
    Status(StatusArgs),
    /// Show what is wrong with a running node, or was
    Alerts(AlertsArgs),
    /// Take note of alerts: they no longer count as wrong until they come back
    Ack(AckArgs),
    /// Show a running node's objects with state and pass count
    Objects(ObjectsArgs),
    /// Show a running node live on the terminal
    Top(TopArgs),
    /// Find out why nothing arrives: interface, route, firewall, MTU, TTL, querier, the way back
    Doctor(DoctorArgs),
    /// Ask a running node to scan its directories now
    Scan(ScanArgs),
    /// Ask a running sender to scan and publish what changed
    Publish(PublishArgs),
    /// Ask a running sender to begin a new round for objects, and send them to everybody once more
    Resend(ResendArgs),
    /// Let a running sender send nothing but advertisements and answers
    Pause(SteerArgs),
    /// Let a paused or drained sender go on
    Resume(SteerArgs),
    /// Let a running sender finish its jobs and start none, until it is resumed
    Drain(SteerArgs),
    /// Let a running sender send at another rate
    Rate(RateArgs),
    /// Print the key by which this node is known to others
    Identity(IdentityArgs),
    /// Compare a received directory with the manifest in the state
    Verify(VerifyArgs),
    /// Run the simulator: whole networks in virtual time, with faults that a seed chooses
    Sim(SimArgs),
    /// Measure goodput, CPU and overhead, here or between hosts, and say what the bottleneck is
    Bench(Box<BenchArgs>),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them
    Man(ManArgs),
    /// Print the version
    Version(VersionArgs),
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
    /// Put a receiver on the list of a channel that has one
    Allow(ChannelAllowArgs),
    /// Take a receiver off the list, and begin an epoch of which it can read nothing
    Revoke(ChannelRevokeArgs),
    /// Begin an epoch, for which every receiver needs a new secret
    Rotate(ChannelRotateArgs),
}

/// `nackcast channel new`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast channel new news
  nackcast channel new news --sender cdn1.example.net:7701
  nackcast channel new news --advertise 239.200.1.1:7600
  nackcast channel new news --out /etc/nackcast/news.key
  nackcast channel new news --admission allow-list --sender cdn1.example.net:7701

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
    /// Who may receive: ticket (whoever has it), or allow-list (those that `nackcast channel allow` names, with it)
    #[arg(long, value_enum, default_value = "ticket", value_name = "WAY", hide_possible_values = true)]
    pub(crate) admission: AdmissionMode,
    /// The key file [default: NAME.key]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast channel allow`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast identity --state /var/lib/nackcast/news   at the receiver: prints its key
  nackcast channel allow news.key 0c1f...7e --name cache1
                                                     at the sender, with that key
  systemctl reload nackcast-send                     the sender reads the list again

The key file is replaced in one step. Each sender of the channel has its own: run
this at each.")]
pub(crate) struct ChannelAllowArgs {
    /// The key file
    pub(crate) file: PathBuf,
    /// The receiver's key, as `nackcast identity` prints it there
    pub(crate) key: Identity,
    /// Its name, for people
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast channel revoke`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast channel revoke news.key 0c1f...7e
  systemctl reload nackcast-send                     the next epoch is announced, then begins

What the receiver has already stays readable to it. Run this at each sender of the
channel: one whose key file is older serves, but lets nobody in.")]
pub(crate) struct ChannelRevokeArgs {
    /// The key file
    pub(crate) file: PathBuf,
    /// The receiver's key
    pub(crate) key: Identity,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast channel rotate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast channel rotate news.key > news.ticket     every ticket from before opens nothing newer
  systemctl reload nackcast-send                     the next epoch is announced, then begins

Without a list this prints the new ticket: give it to all receivers before the epoch
begins, `--epoch-overlap` after the reload. With a list they get the secret by themselves.")]
pub(crate) struct ChannelRotateArgs {
    /// The key file
    pub(crate) file: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nackcast identity`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nackcast identity --ticket @news.ticket            of the receiver that will use this ticket
  nackcast identity --state /var/lib/nackcast/news --json

It is made at the first run of this command or of the node, kept in the state directory,
and shown to those whom the node calls.")]
pub(crate) struct IdentityArgs {
    /// The node's state directory [default: the receiver's of --ticket, or of the only channel that is received here]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// The ticket of the channel that it receives: T, @FILE or -
    #[arg(long, value_name = "T|@FILE|-", conflicts_with = "state")]
    pub(crate) ticket: Option<String>,
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
SIGHUP reads the key files again (who is let in, and the epoch) and rescans.")]
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
