//! The command that runs a failure again.

use std::fmt;
use std::path::Path;

use crate::args::SimArgs;
use crate::args::values::Percent;

/// A scenario, as this command was told to make it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replay<'a> {
    scenario: Option<&'a Path>,
    seed: Option<u64>,
    receivers: Option<u32>,
    loss: Option<Percent>,
}

impl<'a> Replay<'a> {
    /// Of a run with this seed.
    pub(super) fn of(args: &'a SimArgs, seed: u64) -> Self {
        let scenario = args.scenario.as_deref();
        let seed = if scenario.is_some() { args.seed } else { Some(seed) };
        Self { scenario, seed, receivers: args.receivers, loss: args.loss }
    }
}

impl fmt::Display for Replay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nackcast sim")?;
        if let Some(path) = self.scenario {
            write!(f, " --scenario {}", quoted(&path.to_string_lossy()))?;
        }
        if let Some(seed) = self.seed {
            write!(f, " --seed {seed}")?;
        }
        if let Some(receivers) = self.receivers {
            write!(f, " --receivers {receivers}")?;
        }
        // Without the space that people like: a shell takes it for the next word.
        self.loss.map_or(Ok(()), |loss| write!(f, " --loss {}%", loss.0))
    }
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &str) -> SimArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Sim(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_printed_says_all_that_was_told() {
        for line in [
            "nackcast sim --seed 7",
            "nackcast sim --seed 7 --receivers 3 --loss 7%",
            "nackcast sim --seed 7 --loss 28.999%",
            "nackcast sim --scenario a/b.toml",
            "nackcast sim --scenario a.toml --seed 9 --receivers 2 --loss 0.1%",
        ] {
            assert_eq!(Replay::of(&parsed(line), 7).to_string(), line);
        }
        let many = parsed("nackcast sim --seeds 0..100 --receivers 3 --loss 5 --json");
        assert_eq!(Replay::of(&many, 41).to_string(), "nackcast sim --seed 41 --receivers 3 --loss 5%");
        assert_eq!(quoted("it's here.toml"), r"'it'\''s here.toml'");
    }
}
