//! What packagers and shells ask for: completions, manual pages, the version.

use std::path::Path;

use clap::{Command, CommandFactory};
use serde::Serialize;

use crate::args::{Cli, CompletionsArgs, ManArgs, VersionArgs};
use crate::failure::{Failure, OrFail};
use crate::output::{print, print_json};

/// `nackcast completions`.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nackcast", &mut script);
    print_bytes(&script)
}

/// `nackcast man`.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    // `nackcast help` has no page: the list of commands must not name one.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(directory) = &args.out else {
        return print(page(&command)?.trim_end());
    };
    let context = format!("manual pages cannot be written into {}", directory.display());
    std::fs::create_dir_all(directory).or_usage(&context)?;
    write_pages(&command, directory, &context)
}

/// The page of a command, and those of the commands in it.
fn write_pages(command: &Command, directory: &Path, context: &str) -> Result<(), Failure> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = directory.join(format!("{name}.1"));
    std::fs::write(path, page(command)?).or_usage(context)?;
    let shown = |command: &&Command| !command.is_hide_set();
    command.get_subcommands().filter(shown).try_for_each(|command| write_pages(command, directory, context))
}

fn page(command: &Command) -> Result<String, Failure> {
    // The options stand below with their values: in one line they would only be hard to read.
    let usage = command.clone().render_usage().to_string();
    let command = command.clone().override_usage(usage.trim_start_matches("Usage: ").to_owned());
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command).source(concat!("nackcast ", env!("CARGO_PKG_VERSION")));
    man.render(&mut page).or_running("the manual page cannot be made")?;
    // The examples stand as they are, under their own name.
    let page = String::from_utf8_lossy(&page).replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n.nf\n");
    Ok(page.replace("\n.SH VERSION\n", "\n.fi\n.SH VERSION\n"))
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
    wire_version: u8,
}

/// `nackcast version`.
pub(crate) fn version(args: &VersionArgs) -> Result<(), Failure> {
    let version =
        Version { name: "nackcast", version: env!("CARGO_PKG_VERSION"), wire_version: nackcast_proto::WIRE_VERSION };
    if args.json {
        return print_json(&version);
    }
    print(&format!("nackcast {}, wire version {}", version.version, version.wire_version))
}

fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    print(String::from_utf8_lossy(bytes).trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_whose_examples_stand_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        man(&ManArgs { out: Some(directory.path().to_owned()) }).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        for name in ["nackcast.1", "nackcast-send.1", "nackcast-channel-new.1"] {
            let page = read(name);
            assert!(page.contains(".SH EXAMPLES\n.nf\n  nackcast"), "{name}: {page}");
            assert!(!page.contains("EXTRA"), "{name}");
            assert!(page.contains(concat!("\"nackcast ", env!("CARGO_PKG_VERSION"), "\"")), "{name}: {page}");
        }
        assert!(read("nackcast-send.1").contains("SYNOPSIS\n\\fBnackcast send\\fR [OPTIONS]\n"));
        // No page names one that is not there.
        for page in std::fs::read_dir(directory.path()).unwrap() {
            let text = std::fs::read_to_string(page.unwrap().path()).unwrap().replace("\\-", "-");
            for other in text.lines().filter_map(|line| line.strip_suffix("(1)")) {
                assert!(directory.path().join(format!("{other}.1")).exists(), "{other}(1)");
            }
        }
        assert!(read("nackcast.1").contains(".fi\n.SH VERSION"));
    }
}
