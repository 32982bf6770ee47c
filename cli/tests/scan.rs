//! `nackcast scan` against a node's admin socket.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Command, Output};

use nackcast_proto::rpc::admin_server::{Admin, AdminServer};
use nackcast_proto::rpc::{ScanRequest, ScanResponse, ScanResult, StatusRequest, StatusResponse};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// Answers as a receiver of the channel `news` would.
struct Node;

#[tonic::async_trait]
impl Admin for Node {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        let ScanRequest { channel, deep } = request.into_inner();
        if !channel.is_empty() && channel != "news" {
            return Err(Status::not_found(format!("no channel `{channel}` here: it has news")));
        }
        let result = ScanResult {
            channel: "news".to_owned(),
            generation: 7,
            damaged: u64::from(deep),
            problems: vec!["a\nb: flipped".to_owned()],
            ..Default::default()
        };
        Ok(Response::new(ScanResponse { results: vec![result] }))
    }
}

async fn scan(base: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nackcast"));
    command.arg("scan").args(arguments).env("STATE_DIRECTORY", base).current_dir(base);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_node_scans_when_asked() {
    let base = tempfile::tempdir().unwrap();
    let state = base.path().join("receive-00000000");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("node.json"), r#"{"role":"receive","channels":[]}"#).unwrap();
    let none = scan(base.path(), &[]).await;
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).starts_with("nackcast: no node was found running here"));

    let listener = UnixListener::bind(state.join("admin.sock")).unwrap();
    let served = tonic::transport::Server::builder().add_service(AdminServer::new(Node));
    tokio::spawn(served.serve_with_incoming(UnixListenerStream::new(listener)));

    let found = scan(base.path(), &[]).await;
    assert_eq!(
        String::from_utf8_lossy(&found.stdout),
        "news: generation 7, unchanged, 0 missing, 0 damaged\n  a b: flipped\n",
        "{found:?}"
    );
    let named = scan(base.path(), &["--node", "receive-00000000", "--deep", "--json", "--channel", "news"]).await;
    let json: serde_json::Value = serde_json::from_slice(&named.stdout).unwrap();
    assert_eq!((&json["results"][0]["damaged"], &json["results"][0]["generation"]), (&1.into(), &7.into()));
    let unknown = scan(base.path(), &["--node", "unix:receive-00000000/admin.sock", "--channel", "sport"]).await;
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no channel `sport` here: it has news"));
}
