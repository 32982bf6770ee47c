//! What `send` and `receive` have in common: from a configuration to the printed result.
//!
//! Nothing is made on disk before everything was checked that can be checked: a command that ends with exit code 2
//! has changed nothing.

use std::net::IpAddr;
use std::path::Path;

use nackcast_common::admission::Admission;
use nackcast_common::control::{Ask, Request};
use nackcast_common::net::interface;
use nackcast_common::report::Progress;
use nackcast_common::units::RateLimit;
use nackcast_receiver::VerifiedFiles;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::App;
use crate::args::ReportArgs;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::places::{self, Node, Registration};
use crate::progress::{Display, Mode};
use crate::report::Summary;
use crate::serve::{Offer, Services};
use crate::signals::{self, Signals};

/// A node that could be started.
pub(crate) trait Daemon {
    /// How it ends.
    type Summary: Summary;
    /// Finds what would keep it from running, and changes nothing. Called inside a runtime.
    fn check(&self) -> Result<(), Failure>;
    /// Its state directory.
    fn state(&self) -> &Path;
    /// The interface that it was given.
    fn interface(&self) -> Option<&str>;
    /// The groups of its channels.
    fn groups(&self) -> Vec<IpAddr>;
    /// What of its files it takes up again while it runs; by default nothing.
    fn reload(&self) -> Option<Reload> {
        None
    }
    /// Runs until it is done or told to end. The state directory is there.
    async fn run(self, ports: Ports) -> Result<Self::Summary, Failure>;
}

/// Reads its files again: what they say now.
pub(crate) type Reload = Box<dyn Fn() -> Result<Reloaded, Failure> + Send>;

/// What a node's files say now.
#[derive(Debug, Default)]
pub(crate) struct Reloaded {
    /// All channels together; none: it is not the file's to give.
    pub(crate) rate: Option<RateLimit>,
    /// Of each channel.
    pub(crate) admissions: Vec<Admission>,
}

/// The ways into a running node, and out of it.
#[derive(Debug)]
pub(crate) struct Ports {
    /// When cancelled, the node ends.
    pub(crate) shutdown: CancellationToken,
    /// What admins ask.
    pub(crate) requests: mpsc::Receiver<Request>,
    /// What it does.
    pub(crate) progress: watch::Sender<Progress>,
    /// A receiver's files.
    pub(crate) files: watch::Sender<Vec<VerifiedFiles>>,
}

/// Requests of admins that wait for the node.
const REQUESTS_MAX: usize = 64;

/// How its result is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Show {
    pub(crate) report: ReportArgs,
    pub(crate) json: bool,
}

/// Checks and runs a node, and prints how it ended.
pub(crate) fn run<D: Daemon>(
    daemon: D,
    node: &Node,
    offer: &Offer,
    show: Show,
    app: &App,
) -> Result<D::Summary, Failure> {
    let mode = Mode::choose(app.verbosity, show.report);
    let summary = crate::block_on(async {
        daemon.check()?;
        let state = daemon.state().to_owned();
        places::check_neighbours(&state, node)?;
        places::prepare_state(&state, node.role)?;
        let _registration = Registration::new(&state, node)?;
        if daemon.interface().is_none() {
            daemon.groups().into_iter().filter_map(trouble_of_routes).for_each(|line| tracing::warn!("{line}"));
        }
        let Signals { shutdown, rescan } = signals::listen(app.terminal.clone())?;
        let (progress, shown) = watch::channel(Progress::default());
        let (asking, requests) = mpsc::channel(REQUESTS_MAX);
        let (files, offered) = watch::channel(Vec::new());
        let services = Services::start(&state, node, offer, shown.clone(), asking.clone(), offered).await?;
        let rescans = tokio::spawn(reload_on(rescan, daemon.reload(), node.channels.len(), asking));
        let display = Display::start(mode, app.terminal.clone(), shown, shutdown.clone());
        let result = daemon.run(Ports { shutdown, requests, progress, files }).await;
        rescans.abort();
        display.finish().await;
        services.finish().await;
        result
    })??;
    if show.json {
        print_json(&summary)?;
    } else {
        print(&summary.to_text())?;
    }
    Ok(summary)
}

/// SIGHUP: all channels scan, and take up what their files say now. An epoch that begins comes before the scan, so that
/// nothing new is published in the one that ends.
async fn reload_on(
    mut hangups: mpsc::Receiver<()>,
    reload: Option<Reload>,
    channels: usize,
    asking: mpsc::Sender<Request>,
) {
    while let Some(()) = hangups.recv().await {
        let Reloaded { rate, admissions } = match reload.as_ref().map(|reload| reload()).transpose() {
            Ok(reloaded) => reloaded.unwrap_or_default(),
            Err(failure) => {
                tracing::warn!("not reloaded: {}", failure.line().unwrap_or_default());
                Reloaded::default()
            }
        };
        let mut admissions = admissions.into_iter();
        for channel in 0..channels {
            if let Some(rate) = rate {
                let (reply, _nobody) = oneshot::channel();
                let ask = Ask::Rate(rate.share(channels), reply);
                if asking.send(Request { channel, ask }).await.is_err() {
                    return;
                }
            }
            if let Some(admission) = admissions.next() {
                let (reply, _nobody) = oneshot::channel();
                if asking.send(Request { channel, ask: Ask::Admit(admission, reply) }).await.is_err() {
                    return;
                }
            }
            let ask = Ask::Scan { deep: false, publish: false, allow_empty: false, reply: None };
            if asking.send(Request { channel, ask }).await.is_err() {
                return;
            }
        }
    }
}

/// A machine that would keep multicast to itself, or is told to: what is to be said where no interface was named.
fn trouble_of_routes(group: IpAddr) -> Option<String> {
    let chosen = interface::resolve(None, group).ok()?;
    let name = &chosen.name;
    match (interface::loopback_route(group), chosen.loopback) {
        (Some(route), true) => Some(format!(
            "the route {route} keeps multicast on this machine, and there is no other: give --interface NAME, or: ip \
             route replace {} dev NAME",
            route.split(' ').next().unwrap_or_default()
        )),
        (Some(route), false) => Some(format!(
            "the route {route} would keep multicast on this machine; it is not used, and {name} is, which has the default \
             route: give --interface lo if only this machine is meant, else: ip route del {route}"
        )),
        (None, true) => Some(format!(
            "no default route and no multicast route was found, so {name} is used, which reaches this machine only: give \
             --interface NAME"
        )),
        (None, false) => None,
    }
}

/// Says whose fault a node's error is.
pub(crate) fn fail(is_usage: bool, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    if is_usage { Failure::Usage(error.into()) } else { Failure::Running(error.into()) }
}
