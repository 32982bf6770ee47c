//! How a command fails: one line on stderr, and an exit code that says whose fault it is.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | done |
//! | 1 | failed while running |
//! | 2 | bad usage or configuration: nothing was started |

use std::fmt;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked cannot be done as asked; exit code 2.
    Usage(anyhow::Error),
    /// It began, and failed; exit code 1.
    Running(anyhow::Error),
    /// The result was bad and has been printed already; exit code 1.
    Reported,
}

impl Failure {
    /// A usage failure from a message.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(anyhow::anyhow!("{message}"))
    }

    /// A failure while running, from a message.
    pub(crate) fn running(message: impl fmt::Display) -> Self {
        Self::Running(anyhow::anyhow!("{message}"))
    }

    /// The same as something that failed while running: for a check, a node that is not there is the finding.
    pub(crate) fn while_running(self) -> Self {
        match self {
            Self::Usage(error) => Self::Running(error),
            other => other,
        }
    }

    /// What the shell sees.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Running(_) | Self::Reported => 1,
        }
    }

    /// The line for people, causes joined by `: `; none when all was said.
    pub(crate) fn line(&self) -> Option<String> {
        match self {
            Self::Usage(error) | Self::Running(error) => Some(with_causes(error)),
            Self::Reported => None,
        }
    }
}

/// Says whose fault an error is.
pub(crate) trait OrFail<T> {
    /// The user's: exit code 2.
    fn or_usage(self, context: impl fmt::Display) -> Result<T, Failure>;
    /// The circumstances': exit code 1.
    fn or_running(self, context: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_usage(self, context: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::Usage(error.into().context(context.to_string())))
    }

    fn or_running(self, context: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::Running(error.into().context(context.to_string())))
    }
}

/// An error and its causes; a cause that the error before it quotes already is not said twice.
fn with_causes(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for part in error.chain().map(|cause| one_line(&cause.to_string())) {
        if line.is_empty() {
            line = part;
        } else if !line.contains(&part) {
            line = format!("{line}: {part}");
        }
    }
    line
}

/// Text on one line, whatever it contains: a path may hold newlines and terminal controls.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_on_one_line_and_controls_are_shown() {
        let io = std::io::Error::other("disk\non fire\u{1b}[2J");
        let failure = Err::<(), _>(io).or_running("/srv/a").unwrap_err();
        assert_eq!(failure.line().as_deref(), Some("/srv/a: disk on fire\\u{1b}[2J"));
        assert_eq!(failure.exit_code(), 1);
        assert_eq!(Failure::usage("x").exit_code(), 2);
        assert_eq!(Failure::Reported.line(), None);
        let quoting = anyhow::anyhow!("no space").context("part 3: no space; make room").context("news");
        assert_eq!(Failure::Running(quoting).line().as_deref(), Some("news: part 3: no space; make room"));
    }
}
