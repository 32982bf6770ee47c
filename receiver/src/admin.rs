//! The admin interface of a receiving node: gRPC over a Unix socket in the state directory, for its owner only.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nackcast_common::ids::ChannelId;
use nackcast_proto::rpc::admin_server::{Admin, AdminServer};
use nackcast_proto::rpc::{
    ChannelStatus, ScanRequest as ScanCall, ScanResponse, ScanResult, StatusRequest, StatusResponse,
};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::node::ScanRequest;
use crate::report::ChannelProgress;

/// Name of the socket in the state directory.
const SOCKET: &str = "admin.sock";

type Scanner = (String, ChannelId, mpsc::Sender<ScanRequest>);

struct Node {
    scanners: Vec<Scanner>,
    rows: Vec<watch::Receiver<ChannelProgress>>,
    directories: Vec<String>,
}

/// Serves while it lives.
#[derive(Debug)]
pub(crate) struct Serving {
    task: tokio::task::JoinHandle<()>,
    socket: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(%error, "the admin socket stays");
        }
    }
}

/// Begins to serve. A node without admin interface still receives: what prevents it is only told.
pub(crate) fn serve(
    state: &Path,
    scanners: Vec<Scanner>,
    rows: Vec<watch::Receiver<ChannelProgress>>,
    directories: Vec<String>,
) -> Option<Serving> {
    let socket = state.join(SOCKET);
    let bound = match std::fs::remove_file(&socket) {
        Ok(()) => UnixListener::bind(&socket),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => UnixListener::bind(&socket),
        Err(error) => Err(error),
    };
    let private = |listener: UnixListener| {
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
        Ok::<_, std::io::Error>(listener)
    };
    let listener = match bound.and_then(private) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("no admin interface at {}: {error}", socket.display());
            return None;
        }
    };
    let node = Node { scanners, rows, directories };
    let task = tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(AdminServer::new(node));
        if let Err(error) = server.serve_with_incoming(UnixListenerStream::new(listener)).await {
            tracing::warn!("the admin interface ended: {error}");
        }
    });
    Some(Serving { task, socket })
}

#[tonic::async_trait]
impl Admin for Node {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let rows = self.rows.iter().zip(&self.scanners).zip(&self.directories);
        let channels = rows.map(|((row, (name, channel, _)), directory)| {
            let row = row.borrow();
            ChannelStatus {
                channel: channel.to_string(),
                name: name.clone(),
                directory: directory.clone(),
                generation: row.generation,
                objects: row.objects,
                objects_done: row.objects_done,
                bytes: row.bytes,
                bytes_done: row.bytes_done,
                receivers: 0,
                receivers_complete: 0,
                state: row.state.clone(),
            }
        });
        Ok(Response::new(StatusResponse {
            role: "receiver".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            channels: channels.collect(),
        }))
    }

    async fn scan(&self, request: Request<ScanCall>) -> Result<Response<ScanResponse>, Status> {
        let ScanCall { channel, deep } = request.into_inner();
        let mut results = Vec::new();
        for (name, id, scanner) in &self.scanners {
            if !(channel.is_empty() || channel == *name || channel == id.to_string()) {
                continue;
            }
            let (answer, answered) = oneshot::channel();
            let request = ScanRequest { deep, answer: Some(answer) };
            scanner.send(request).await.map_err(|_| Status::unavailable("the channel ends"))?;
            let report = answered.await.map_err(|_| Status::unavailable("the scan did not end"))?;
            let problems = report.missing.iter().map(|p| format!("missing: {p}"));
            let problems = problems.chain(report.damaged.iter().map(|p| format!("damaged: {p}")));
            results.push(ScanResult {
                channel: name.clone(),
                generation: report.generation,
                changed: !(report.missing.is_empty() && report.damaged.is_empty()),
                missing: report.missing.len() as u64,
                damaged: report.damaged.len() as u64,
                problems: problems.take(1000).collect(),
            });
        }
        if results.is_empty() {
            return Err(Status::not_found(format!("this node has no channel `{channel}`")));
        }
        Ok(Response::new(ScanResponse { results }))
    }
}
