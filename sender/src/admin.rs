//! The admin interface of a sender: gRPC on `STATE/admin.sock`, for the owner of the state directory only.
//!
//! A node that cannot open it (a path too long for a socket) says so once and runs without.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nackcast_common::ids::ChannelId;
use nackcast_proto::rpc::admin_server::{Admin, AdminServer};
use nackcast_proto::rpc::{ChannelStatus, ScanRequest, ScanResponse, ScanResult, StatusRequest, StatusResponse};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Response, Status};

use crate::report::Progress;
use crate::scanner::Request;

/// In the state directory.
const SOCKET: &str = "admin.sock";

/// A channel as an admin sees it.
#[derive(Debug)]
pub(crate) struct AdminChannel {
    pub(crate) id: ChannelId,
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    pub(crate) scans: mpsc::Sender<Request>,
}

/// Serves until it is dropped.
pub(crate) async fn serve(state: &Path, channels: Vec<AdminChannel>, progress: watch::Receiver<Progress>) {
    let path = state.join(SOCKET);
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("the admin socket {} cannot be opened: {error}; running without", path.display());
            return;
        }
    };
    let _removed = Removed(path);
    let service = AdminServer::new(SenderAdmin { channels, progress });
    let served =
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener));
    if let Err(error) = served.await {
        tracing::warn!(%error, "the admin interface ended");
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    // The state's lock is ours, so whoever made this socket is gone.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Removes the socket's file in the end.
#[derive(Debug)]
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0)); // the next start removes what is left
    }
}

#[derive(Debug)]
struct SenderAdmin {
    channels: Vec<AdminChannel>,
    progress: watch::Receiver<Progress>,
}

impl SenderAdmin {
    /// Those that a request means, by name or by id or its beginning; all without either.
    fn chosen(&self, wanted: &str) -> Result<Vec<&AdminChannel>, Status> {
        let is_wanted = |channel: &&AdminChannel| {
            wanted.is_empty()
                || channel.name == wanted
                || (wanted.len() >= 8 && channel.id.to_string().starts_with(wanted))
        };
        let chosen: Vec<_> = self.channels.iter().filter(is_wanted).collect();
        if chosen.is_empty() {
            let names: Vec<_> = self.channels.iter().map(|channel| channel.name.as_str()).collect();
            return Err(Status::not_found(format!(
                "no channel {wanted} is sent here; there are: {}",
                names.join(", ")
            )));
        }
        Ok(chosen)
    }
}

#[tonic::async_trait]
impl Admin for SenderAdmin {
    async fn status(&self, _: tonic::Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let progress = self.progress.borrow().clone();
        let channels = self.channels.iter().zip(progress.channels).map(|(channel, now)| ChannelStatus {
            channel: channel.id.to_string(),
            name: channel.name.clone(),
            directory: channel.directory.to_string_lossy().into_owned(),
            generation: now.generation,
            objects: now.objects,
            objects_done: now.objects_done,
            bytes: now.bytes,
            bytes_done: now.bytes_done,
            receivers: now.receivers,
            receivers_complete: now.receivers_complete,
            state: now.state,
        });
        let channels = channels.collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Response::new(StatusResponse { role: "sender".to_owned(), version, channels }))
    }

    async fn scan(&self, request: tonic::Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        let ScanRequest { channel, deep } = request.into_inner();
        if deep {
            // A sender verifies every block that it sends; what was hashed before is trusted by its times.
            return Err(Status::invalid_argument("a sender has no deep scan: it checks each block that it sends"));
        }
        let mut waiting = Vec::new();
        for channel in self.chosen(&channel)? {
            let (reply, answer) = oneshot::channel();
            let gone = |_| Status::unavailable("the node is ending");
            channel.scans.send(Request::Now(Some(reply))).await.map_err(gone)?;
            waiting.push((channel, answer));
        }
        let mut results = Vec::new();
        for (channel, answer) in waiting {
            let outcome = answer.await.map_err(|_| Status::unavailable("the node is ending"))?;
            results.push(ScanResult {
                channel: channel.name.clone(),
                generation: outcome.generation,
                changed: outcome.changed,
                missing: 0,
                damaged: 0,
                problems: outcome.problems,
            });
        }
        Ok(Response::new(ScanResponse { results }))
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use nackcast_proto::rpc::admin_client::AdminClient;
    use tonic::transport::Endpoint;

    use super::*;
    use crate::report::ChannelProgress;
    use crate::scanner::Outcome;

    fn channel(name: &str, id: u8) -> (AdminChannel, mpsc::Receiver<Request>) {
        let (scans, asked) = mpsc::channel(1);
        let (name, directory) = (name.to_owned(), PathBuf::from("/srv").join(name));
        (AdminChannel { id: ChannelId([id; 16]), name, directory, scans }, asked)
    }

    #[tokio::test]
    async fn an_admin_sees_what_runs_and_makes_it_scan() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET);
        fs::write(&path, "left by another run").unwrap();
        let ((news, mut asked), (films, _films_asked)) = (channel("news", 1), channel("films", 2));
        let now = |generation| ChannelProgress { generation, ..ChannelProgress::default() };
        let (_progress, shown) = watch::channel(Progress { channels: vec![now(3), now(4)] });
        let state = dir.path().to_owned();
        let served = tokio::spawn(async move { serve(&state, vec![news, films], shown).await });
        let scanner = tokio::spawn(async move {
            let Some(Request::Now(Some(reply))) = asked.recv().await else { panic!("asked for at once") };
            let problems = vec!["x changed".to_owned()];
            reply.send(Outcome { generation: 5, changed: true, problems }).unwrap();
        });
        while tokio::net::UnixStream::connect(&path).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let socket = path.clone();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let connected = Endpoint::from_static("http://node.invalid").connect_with_connector(connector).await.unwrap();
        let mut client = AdminClient::new(connected);
        let status = client.status(StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.role, "sender");
        let seen: Vec<_> = status.channels.iter().map(|c| (c.name.as_str(), c.generation)).collect();
        assert_eq!(seen, [("news", 3), ("films", 4)]);
        let request = ScanRequest { channel: "news".to_owned(), deep: false };
        let results = client.scan(request).await.unwrap().into_inner().results;
        assert_eq!((results.len(), results[0].generation, results[0].changed), (1, 5, true));
        scanner.await.unwrap();
        let request = ScanRequest { channel: "music".to_owned(), deep: false };
        let refused = client.scan(request).await.unwrap_err();
        assert!(refused.code() == tonic::Code::NotFound && refused.message().contains("news, films"));
        served.abort();
        assert!(served.await.unwrap_err().is_cancelled() && !path.exists());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_no_reason_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        serve(&deep, Vec::new(), watch::channel(Progress::default()).1).await;
    }
}
