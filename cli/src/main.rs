//! The `nackcast` program: reads the command line, runs one command, and says how it ended.
//!
//! Results go to stdout; logs, progress and the one line of an error to stderr. Exit codes: [`failure`].

mod args;
mod ask;
mod bench;
mod channel;
mod config_file;
mod demo;
mod doctor;
mod failure;
mod identity;
mod keyfile;
mod logging;
mod node;
mod node_key;
mod output;
mod places;
mod private_file;
mod processes;
mod progress;
mod receive;
mod report;
mod send;
mod serve;
mod shell;
mod signals;
mod sim;
mod stage;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command, Verbosity};
use crate::failure::{Failure, OrFail, one_line};
use crate::logging::Terminal;

/// What every command may need.
#[derive(Debug)]
pub(crate) struct App {
    verbosity: Verbosity,
    terminal: Terminal,
}

fn main() -> ExitCode {
    let terminal = Terminal::default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error, &terminal),
    };
    logging::init(cli.verbosity, &terminal);
    let app = App { verbosity: cli.verbosity, terminal };
    match run(cli.command, &app) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(line) = failure.line() {
                app.terminal.line(&format!("nackcast: {line}"));
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command, app: &App) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::run(&args, app),
        Command::Channel(command) => channel::run(command),
        Command::Send(args) => send::run(*args, app),
        Command::Standby(args) => send::run_standby(*args, app),
        Command::Receive(args) => receive::run(*args, app),
        Command::Status(args) => ask::status::run(args),
        Command::Alerts(args) => ask::alerts::run(args),
        Command::Ack(args) => ask::alerts::acknowledge(args),
        Command::Objects(args) => ask::objects::run(args),
        Command::Top(args) => ask::top::run(&args),
        Command::Doctor(args) => doctor::run(&args, app),
        Command::Scan(args) => ask::scan::scan(args),
        Command::Publish(args) => ask::scan::publish(args),
        Command::Resend(args) => ask::steer::resend(args),
        Command::Pause(args) => ask::steer::pause(args),
        Command::Resume(args) => ask::steer::resume(args),
        Command::Drain(args) => ask::steer::drain(args),
        Command::Rate(args) => ask::steer::rate(args),
        Command::Identity(args) => identity::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Sim(args) => sim::run(&args, app),
        Command::Bench(args) => bench::run(&args, app),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        Command::Version(args) => shell::version(&args),
    }
}

/// The runtime of commands that need one; made late, since the demo must begin with a single thread.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().or_running("threads cannot be started")
}

/// How long threads that wait for a name server or a disk may hold up the end of a command. What they write is whole, or as
/// if it had never been begun.
const ENDING: Duration = Duration::from_secs(2);

/// Does something in a runtime, and ends that: nobody waits for what is still looked up then.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = runtime()?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(ENDING);
    Ok(done)
}

/// Help and version as they are, an error as one line.
fn refused(error: &clap::Error, terminal: &Terminal) -> ExitCode {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match output::print(text.trim_end()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => ExitCode::from(failure.exit_code()),
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            terminal.write(text.as_bytes());
            ExitCode::from(2)
        }
        _ => {
            terminal.line(&format!("nackcast: {}", compact(&text, &command_named(std::env::args_os()))));
            ExitCode::from(2)
        }
    }
}

/// clap's paragraphs on one line: the error, its tips, and where to read more.
fn compact(text: &str, command: &str) -> String {
    let mut line = String::new();
    let parts = text.lines().map(str::trim).filter(|part| !part.is_empty());
    for part in parts.take_while(|part| !part.starts_with("Usage: ") && !part.starts_with("For more information")) {
        let part = part.strip_prefix("error: ").unwrap_or(part);
        if !line.is_empty() {
            line.push_str(if part.starts_with("tip: ") || part.starts_with('[') { "; " } else { " " });
        }
        line.push_str(part);
    }
    one_line(&format!("{line}; see `{command} --help`"))
}

/// The command that the arguments name, as in `nackcast channel new`.
fn command_named(arguments: impl Iterator<Item = OsString>) -> String {
    let root = Cli::command();
    let (mut command, mut path) = (&root, root.get_name().to_owned());
    for argument in arguments.skip(1) {
        let Some(next) = argument.to_str().and_then(|name| command.find_subcommand(name)) else {
            continue; // an option, its value, or a name that is none
        };
        path = format!("{path} {}", next.get_name());
        command = next;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(arguments: &[&str]) -> String {
        let text = Cli::try_parse_from(arguments).unwrap_err().render().to_string();
        compact(&text, &command_named(arguments.iter().map(OsString::from)))
    }

    #[test]
    fn a_thread_that_waits_for_ever_holds_up_no_end() {
        let (ends, waits) = std::sync::mpsc::channel::<()>();
        let done = block_on(async {
            tokio::task::spawn_blocking(move || waits.recv());
            7
        });
        // Else this is never reached.
        assert!(done.is_ok_and(|done| done == 7) && ends.send(()).is_ok());
    }

    #[test]
    fn usage_errors_are_one_line() {
        assert_eq!(
            error(&["nackcast", "send", "--chanel", "x"]),
            "unexpected argument '--chanel' found; tip: a similar argument exists: '--channel'; \
             see `nackcast send --help`"
        );
        assert_eq!(
            error(&["nackcast", "channel", "new"]),
            "the following required arguments were not provided: <NAME>; see `nackcast channel new --help`"
        );
        let wrong = error(&["nackcast", "send", "--channel", "a.key"]);
        assert!(wrong.contains("`a.key` is not FILE=DIR") && !wrong.contains('\n'), "{wrong}");
        assert!(error(&["nackcast", "-v", "channel", "new", "--json=x"]).ends_with("`nackcast channel new --help`"));
    }
}
