//! `nackcast demo`: everything on this machine, with nothing configured.
//!
//! One sender and some receivers run as processes of this same program, each on a host of its own in a network of
//! namespaces whose fabric loses datagrams; where namespaces cannot be made, on the loopback interface and without
//! loss. At the end every receiver's directory is compared with the sender's, by hash and by metadata.

mod compare;
mod content;
mod table;

use std::path::{Path, PathBuf};

use nackcast_common::clock::Clock;

use self::content::Content;
use self::table::{Outcome, ReceiverRow};
use crate::App;
use crate::args::DemoArgs;
use crate::failure::{Failure, OrFail};
use crate::output::{print, print_json};
use crate::processes::{Ended, Plan};
use crate::progress::Mode;
use crate::stage::{Cables, Stage};
use crate::{channel, processes, runtime, signals};

const SENDER: &str = "sender";

/// Where everything of one demo lies.
struct Site {
    root: PathBuf,
}

impl Site {
    fn source(&self) -> PathBuf {
        self.root.join("source")
    }

    fn key_file(&self) -> PathBuf {
        self.root.join("demo.key")
    }

    fn ticket_file(&self) -> PathBuf {
        self.root.join("demo.ticket")
    }

    fn target(&self, receiver: &str) -> PathBuf {
        self.root.join(receiver)
    }

    fn state(&self, node: &str) -> PathBuf {
        self.root.join("state").join(node)
    }

    fn log(&self, node: &str) -> PathBuf {
        self.root.join(format!("{node}.log"))
    }
}

/// Runs the command.
pub(crate) fn run(args: &DemoArgs, app: &App) -> Result<(), Failure> {
    // First of all: a user namespace can only be entered with a single thread.
    let receivers: Vec<String> = (1..=args.receivers).map(|number| format!("receiver-{number}")).collect();
    let cables = if args.loopback { Cables::Loopback } else { Cables::Lossy(args.loss.share()) };
    let stage = Stage::build(SENDER, &receivers, cables)?;
    app.terminal.line(&stage.describe(args.loss, receivers.len()));
    let directory = tempfile::Builder::new().prefix("nackcast-demo-").tempdir();
    let directory = directory.or_running("a temporary directory cannot be made")?;
    let site = Site { root: directory.path().to_owned() };
    let outcome = perform(args, app, &stage, &site, &receivers);
    let shown = outcome.and_then(|outcome| show(args, &outcome));
    if args.keep {
        let kept = directory.keep();
        app.terminal.line(&format!("kept: {}", kept.display()));
    } else {
        let root = site.root.display();
        app.terminal.line(&format!("removing {root}, thousands of files"));
        remove_below(directory.path());
        directory.close().or_running(format_args!("{root} cannot be removed"))?;
    }
    shown
}

/// Removes one node's files beside the other's: some disks make who removes wait for every single file. Of what fails,
/// whoever removes the rest hears.
fn remove_below(root: &Path) {
    let entries = std::fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
    let directories: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    std::thread::scope(|scope| {
        for directory in &directories {
            scope.spawn(move || std::fs::remove_dir_all(directory));
        }
    });
}

fn show(args: &DemoArgs, outcome: &Outcome) -> Result<(), Failure> {
    if args.json {
        print_json(outcome)?;
    } else {
        print(&outcome.to_text())?;
    }
    if outcome.success { Ok(()) } else { Err(Failure::Reported) }
}

fn perform(args: &DemoArgs, app: &App, stage: &Stage, site: &Site, receivers: &[String]) -> Result<Outcome, Failure> {
    let runtime = runtime()?;
    // From now on: a signal must not leave what was copied behind.
    let shutdown = {
        let _inside = runtime.enter();
        signals::listen(app.terminal.clone())?.shutdown
    };
    app.terminal.line(&format!("copying files to send, {} at most, from this machine", args.size));
    let content = content::gather(args.dir.as_deref(), args.size.0, &site.source(), &shutdown)?;
    app.terminal.line(&content.describe());
    channel::create("demo", stage.sender_address(), &site.key_file(), &site.ticket_file())?;
    let program = std::env::current_exe().or_running("this program cannot find itself")?;
    let plans = plans(args, stage, site, receivers, &program);
    app.terminal.line("starting the receivers, and the sender, which hashes the content before it sends");
    let clock = Clock::start();
    let mode = Mode::choose(app.verbosity, Default::default());
    let ended = runtime.block_on(processes::run(plans, mode, app.terminal.clone(), clock, shutdown))?;
    app.terminal.line("comparing every receiver's directory with the sender's, by hash");
    let outcome = judge(stage, site, &content, ended)?;
    if !outcome.success {
        app.terminal.line(&processes::log_tails(&site.root));
    }
    Ok(outcome)
}

/// How each process is started: the receivers, and then the sender, which waits for all of them.
fn plans(args: &DemoArgs, stage: &Stage, site: &Site, receivers: &[String], program: &Path) -> Vec<Plan> {
    let mut plans: Vec<Plan> = receivers
        .iter()
        .map(|name| {
            let mut command = stage.command(name, program);
            command.arg("receive").arg("--ticket").arg(format!("@{}", site.ticket_file().display()));
            command.arg("--into").arg(site.target(name)).arg("--state").arg(site.state(name));
            command.args(["--interface", stage.interface(), "--once", "--json", "--progress-json"]);
            Plan { name: name.clone(), command, log: site.log(name) }
        })
        .collect();
    let mut command = stage.command(SENDER, program);
    let mut source = site.key_file().into_os_string();
    source.push("=");
    source.push(site.source());
    command.arg("send").arg("--channel").arg(source).arg("--state").arg(site.state(SENDER));
    command.args(["--interface", stage.interface(), "--listen", &stage.listen().to_string()]);
    command.args(["--rate", &args.rate.to_string(), "--no-watch", "--json", "--progress-json"]);
    command.args(["--once", "--expect", &receivers.len().to_string()]);
    plans.push(Plan { name: SENDER.to_owned(), command, log: site.log(SENDER) });
    plans
}

fn judge(stage: &Stage, site: &Site, content: &Content, ended: Vec<Ended>) -> Result<Outcome, Failure> {
    let source = compare::tree(&site.source()).or_running("the source cannot be read")?;
    let (mut rows, mut sender) = (Vec::new(), None);
    for node in ended {
        if node.name == SENDER {
            sender = Some(node);
            continue;
        }
        let target = compare::tree(&site.target(&node.name)).unwrap_or_default();
        let difference = compare::first_difference(&source, &target);
        rows.push(ReceiverRow::new(node, difference, &stage.traffic()));
    }
    let sender = sender.ok_or_else(|| Failure::running("the sender's result is missing"))?;
    Ok(Outcome::new(content, stage.is_lossy(), &sender, rows))
}
