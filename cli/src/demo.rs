//! `nackcast demo`: everything on this machine, with nothing configured.

use crate::App;
use crate::args::DemoArgs;
use crate::failure::Failure;

/// Runs the command.
pub(crate) fn run(args: &DemoArgs, app: &App) -> Result<(), Failure> {
    let _ = (args, app);
    Err(Failure::running("the demo is not in this build"))
}
