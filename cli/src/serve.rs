//! What a running node offers to admins: gRPC, HTTP, alerts that are kept, a word to systemd.
//!
//! It stands beside the node and knows it only by its reports and by requests ([`nackcast_common::control`]): no
//! engine is locked, and a node that is busy answers when it has time.
//!
//! | module | does |
//! |---|---|
//! | `desk` | what all of them share: reports, requests, the book of alerts |
//! | `guard` | how many connections there may be, and how long they may stand still |
//! | `listen` | where admins are heard: a Unix socket, TCP with or without TLS |
//! | `admin`, `alerts` | the gRPC services |
//! | `complete` | runs a command when a generation is complete |
//! | `http`, `metrics`, `content` | `/metrics`, `/healthz`, a receiver's files |
//! | `systemd` | ready, status, watchdog |

mod admin;
mod alerts;
mod complete;
mod content;
mod desk;
mod guard;
mod http;
mod listen;
mod metrics;
mod systemd;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nackcast_common::control::Request;
use nackcast_common::report::Progress;
use nackcast_receiver::VerifiedFiles;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use self::complete::Hook;
use self::desk::Desk;
use self::listen::Listeners;
use crate::failure::Failure;
use crate::places::Node;

/// Where admins are heard beside the Unix socket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offer {
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) http: Option<SocketAddr>,
    /// To be run when a generation is complete.
    pub(crate) on_complete: Option<String>,
}

impl Offer {
    /// Of options: where, certificate with key and CA, and HTTP.
    ///
    /// # Errors
    /// When files are missing, or strangers would be let in.
    pub(crate) fn of(
        admin: Option<SocketAddr>,
        files: [&Option<PathBuf>; 3],
        http: Option<SocketAddr>,
    ) -> Result<Self, Failure> {
        let tls = match files {
            [Some(certificate), Some(key), Some(ca)] => {
                Some(TlsFiles { certificate: certificate.clone(), key: key.clone(), ca: ca.clone() })
            }
            [None, None, None] => None,
            _ => {
                return Err(Failure::usage("--admin-cert, --admin-key and --admin-ca belong together: give all three"));
            }
        };
        let offer = Self { admin, tls, http, on_complete: None };
        listen::check(&offer)?;
        Ok(offer)
    }
}

/// PEM files for TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    /// Certificate chain and key of this side.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Who signs the other side's certificate.
    pub(crate) ca: PathBuf,
}

/// Serves while it lives.
#[derive(Debug)]
pub(crate) struct Services {
    desk: Arc<Desk>,
    tasks: JoinSet<()>,
    hook: Option<JoinHandle<()>>,
    _socket: listen::SocketFile,
}

impl Services {
    /// Opens everything and begins. The state directory is there.
    pub(crate) async fn start(
        state: &Path,
        node: &Node,
        offer: &Offer,
        progress: watch::Receiver<Progress>,
        requests: mpsc::Sender<Request>,
        files: watch::Receiver<Vec<VerifiedFiles>>,
    ) -> Result<Self, Failure> {
        // First what only one node can have: the socket of another that runs is not to be removed.
        let desk = Arc::new(Desk::open(state, node, progress, requests).await?);
        let Listeners { unix, tcp, http, socket } = Listeners::open(state, offer).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&desk).keep());
        let router = listen::services(&desk).await?;
        if let Some(unix) = unix {
            tasks.spawn(listen::serve_unix(router.clone(), unix));
        }
        if let Some((incoming, tls)) = tcp {
            tasks.spawn(listen::serve_tcp(router, incoming, tls)?);
        }
        if let Some(http) = http {
            tasks.spawn(http::serve(Arc::clone(&desk), files, http));
        }
        tasks.spawn(systemd::tell(Arc::clone(&desk)));
        let hook = offer.on_complete.clone().map(|command| Hook::new(command, state, node));
        let hook = hook.map(|hook| tokio::spawn(hook.watch(desk.progress())));
        Ok(Self { desk, tasks, hook, _socket: socket })
    }

    /// Ends: what is to be kept is kept, and a command that runs may end. The node sends no reports any more.
    pub(crate) async fn finish(mut self) {
        systemd::stopping();
        if let Some(hook) = self.hook.take()
            && let Err(error) = hook.await
        {
            tracing::warn!("--on-complete: {error}");
        }
        self.tasks.shutdown().await;
        self.desk.save().await;
    }
}
