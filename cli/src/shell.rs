//! What packagers and shells ask for: completions, manual pages, the version.

use clap::CommandFactory;
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
    if let Some(directory) = &args.out {
        let context = format!("manual pages cannot be written into {}", directory.display());
        std::fs::create_dir_all(directory).or_usage(&context)?;
        return clap_mangen::generate_to(Cli::command(), directory).or_usage(context);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).or_running("the manual page cannot be made")?;
    print_bytes(&page)
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
