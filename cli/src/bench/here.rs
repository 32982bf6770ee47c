//! A bench on this machine: first plain datagrams, then sender and receivers as processes on the same network.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nackcast_common::clock::Clock;
use nackcast_common::net::interface;
use nackcast_common::units::RateLimit;

use super::means::Counters;
use super::outcome::{Outcome, Told};
use super::raw::{self, Raw};
use super::side::Report;
use super::{below, check_room, place};
use crate::App;
use crate::args::BenchArgs;
use crate::failure::{Failure, OrFail};
use crate::keyfile::KeyFile;
use crate::output::{print, print_json};
use crate::processes::{self, Ended, Plan};
use crate::progress::Mode;
use crate::stage::{Cables, Stage};
use crate::{channel, runtime, signals};

const SENDER: &str = "sender";
/// Receivers of plain datagrams are there when the sender begins: they say so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the command.
pub(super) fn run(args: &BenchArgs, app: &App) -> Result<(), Failure> {
    if args.interface.is_some() {
        return Err(Failure::usage("--interface is for --send and --receive: here a network is made"));
    }
    // First of all: a user namespace can only be entered with a single thread.
    let receivers: Vec<String> = (1..=args.receivers).map(|number| format!("receiver-{number}")).collect();
    let cables = args.loss.map_or(Cables::Bridge, |loss| Cables::Lossy(loss.share()));
    let stage = Stage::build(SENDER, &receivers, cables)?;
    if let (Some(_), Stage::Loopback { reason, .. }) = (args.loss, &stage) {
        let why = reason.as_deref().unwrap_or_default();
        return Err(Failure::running(format_args!(
            "--loss needs a network of namespaces, and none can be made: {why}"
        )));
    }
    app.terminal.line(&stage.describe(args.loss.unwrap_or_default(), receivers.len()));
    let directory = place(args)?;
    check_room(directory.path(), args.size.0, u64::from(args.receivers) + 1)?;
    let outcome = perform(args, app, &stage, directory.path(), &receivers);
    let root = directory.path().display().to_string();
    directory.close().or_running(format_args!("{root} cannot be removed"))?;
    let outcome = outcome?;
    if args.json {
        print_json(&outcome)?;
    } else {
        print(&outcome.to_text())?;
    }
    if outcome.success { Ok(()) } else { Err(Failure::Reported) }
}

fn perform(args: &BenchArgs, app: &App, stage: &Stage, root: &Path, receivers: &[String]) -> Result<Outcome, Failure> {
    let runtime = runtime()?;
    // From now on: a signal must not leave content behind.
    let shutdown = {
        let _inside = runtime.enter();
        signals::listen(app.terminal.clone())?.shutdown
    };
    let (key_file, ticket_file) = (below(root, "bench.key"), below(root, "bench.ticket"));
    channel::create("bench", stage.sender_address(), &key_file, &ticket_file)?;
    let raw = if args.no_raw {
        None
    } else {
        app.terminal.line("a second of plain datagrams");
        plain(stage, KeyFile::load(&key_file)?.advertise, receivers)?
    };
    let plans = plans(args, stage, root, receivers)?;
    app.terminal.line("starting the receivers, and the sender, which makes the content first");
    let mode = Mode::choose(app.verbosity, Default::default());
    let before = Counters::now("lo");
    let ended = runtime.block_on(processes::run(plans, mode, app.terminal.clone(), Clock::start(), shutdown))?;
    // What this process did meanwhile was to carry datagrams.
    let switch = stage.is_lossy().then(|| before.until(&Counters::now("lo")));
    let (sender, receivers) = reports(&ended)?;
    if !sender.success || receivers.iter().any(|receiver| !receiver.success) {
        app.terminal.line(&processes::log_tails(root));
    }
    let network = match stage {
        Stage::Bridged(_) => "bridge",
        Stage::Namespaces(_) => "switch",
        Stage::Loopback { .. } => "loopback",
    };
    let rate = args.rate.unwrap_or(RateLimit::Max);
    let loss = args.loss.unwrap_or_default().share();
    Ok(Outcome::new(Told { network, loss, rate, raw, switch }, sender, receivers))
}

/// Plain datagrams to all receivers: what the slowest of them got.
fn plain(stage: &Stage, advertise: SocketAddr, receivers: &[String]) -> Result<Option<Raw>, Failure> {
    let group = raw::group(advertise);
    let name = stage.interface();
    let (ready, there) = mpsc::channel();
    let results: Vec<Result<Option<Raw>, Failure>> = std::thread::scope(|scope| {
        let listening: Vec<_> = receivers
            .iter()
            .map(|receiver| {
                let ready = ready.clone();
                scope.spawn(move || {
                    stage.run(receiver, || {
                        let interface = interface::resolve(Some(name), group.ip()).or_running("plain datagrams")?;
                        single()?.block_on(async {
                            let socket = raw::listen(group, &interface)?;
                            // Whoever sends may have given up.
                            let _told = ready.send(());
                            Ok(raw::count(socket, PATIENCE).await)
                        })
                    })?
                })
            })
            .collect();
        let came = receivers.iter().all(|_| there.recv_timeout(PATIENCE).is_ok());
        let sent = stage.run(SENDER, || {
            let interface = interface::resolve(Some(name), group.ip()).or_running("plain datagrams")?;
            single()?.block_on(raw::send(group, &interface, 1, Duration::ZERO, came)).map(|()| None)
        });
        let mut results: Vec<_> = vec![sent.and_then(|sent| sent)];
        let joined = listening.into_iter().map(|thread| thread.join());
        results.extend(joined.map(|done| done.unwrap_or_else(|_| Err(Failure::running("a thread panicked")))));
        results
    });
    let mut slowest: Option<Raw> = None;
    for raw in results.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        slowest = match slowest {
            Some(other) if other.bps <= raw.bps => Some(other),
            _ => Some(raw),
        };
    }
    Ok(slowest)
}

fn single() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().or_running("no runtime can be made")
}

/// How each process is started: the receivers, and then the sender, which waits for all of them.
fn plans(args: &BenchArgs, stage: &Stage, root: &Path, receivers: &[String]) -> Result<Vec<Plan>, Failure> {
    let program = std::env::current_exe().or_running("this program cannot find itself")?;
    let plan = |name: &str, option: &str, value: OsString| {
        let mut command = stage.command(name, &program);
        command.arg("bench").arg(option).arg(value).arg("--dir").arg(root);
        command.args(["--interface", stage.interface(), "--no-raw", "--json", "--progress-json"]);
        Plan { name: name.to_owned(), command, log: below(root, &format!("{name}.log")) }
    };
    let mut ticket = OsString::from("@");
    ticket.push(below(root, "bench.ticket"));
    let mut plans: Vec<Plan> = receivers.iter().map(|name| plan(name, "--receive", ticket.clone())).collect();
    let mut sender = plan(SENDER, "--send", below(root, "bench.key").into());
    sender.command.args(["--listen", &stage.listen().to_string(), "--receivers", &args.receivers.to_string()]);
    sender.command.args(["--size", &args.size.0.to_string(), "--files", &args.files.to_string()]);
    sender.command.args(["--rate", &args.rate.unwrap_or(RateLimit::Max).to_string()]);
    plans.push(sender);
    Ok(plans)
}

/// What they printed.
fn reports(ended: &[Ended]) -> Result<(Report, Vec<Report>), Failure> {
    let mut sides: Vec<(bool, Report)> = Vec::new();
    for node in ended {
        let summary =
            node.summary.clone().ok_or_else(|| Failure::running(format_args!("{} told nothing", node.name)))?;
        let report = serde_json::from_value(summary).or_running(format_args!("{}'s result", node.name))?;
        sides.push((node.name == SENDER, report));
    }
    let sender = sides.iter().position(|(is_sender, _)| *is_sender);
    let sender = sender.ok_or_else(|| Failure::running("the sender's result is missing"))?;
    let (_, sender) = sides.remove(sender);
    Ok((sender, sides.into_iter().map(|(_, report)| report).collect()))
}
