//! `nackcast scan`: asks a running node, through its admin socket, to scan now.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use nackcast_proto::rpc::admin_client::AdminClient;
use nackcast_proto::rpc::{ScanRequest, ScanResult};
use serde::Serialize;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::args::ScanArgs;
use crate::failure::{Failure, OrFail, one_line};
use crate::output::{print, print_json};
use crate::places::{self, ADMIN_SOCKET};
use crate::runtime;

/// What `--json` prints.
#[derive(Serialize)]
struct Printed {
    results: Vec<PrintedResult>,
}

#[derive(Serialize)]
struct PrintedResult {
    channel: String,
    generation: u64,
    changed: bool,
    missing: u64,
    damaged: u64,
    problems: Vec<String>,
}

impl From<ScanResult> for PrintedResult {
    fn from(result: ScanResult) -> Self {
        let ScanResult { channel, generation, changed, missing, damaged, problems } = result;
        Self { channel, generation, changed, missing, damaged, problems }
    }
}

/// Runs the command.
pub(crate) fn run(args: ScanArgs) -> Result<(), Failure> {
    let socket = socket(args.node.as_deref())?;
    let results: Vec<PrintedResult> = runtime()?.block_on(async {
        let mut client = connect(socket.clone()).await?;
        let request = ScanRequest { channel: args.channel.unwrap_or_default(), deep: args.deep };
        let response = client.scan(request).await.map_err(|status| refused(&status, &socket))?;
        Ok(response.into_inner().results.into_iter().map(PrintedResult::from).collect())
    })?;
    if args.json {
        return print_json(&Printed { results });
    }
    print(&results.iter().map(to_text).collect::<Vec<_>>().join("\n"))
}

fn to_text(result: &PrintedResult) -> String {
    let changed = if result.changed { "changed" } else { "unchanged" };
    let mut text = format!(
        "{}: generation {}, {changed}, {} missing, {} damaged",
        one_line(&result.channel),
        result.generation,
        result.missing,
        result.damaged
    );
    for problem in &result.problems {
        text.push_str("\n  ");
        text.push_str(&one_line(problem));
    }
    text
}

/// A node that does not know the channel: the user's mistake. All else: the node's.
fn refused(status: &tonic::Status, socket: &std::path::Path) -> Failure {
    let message = format!("node at {}: {}", socket.display(), status.message());
    match status.code() {
        tonic::Code::NotFound | tonic::Code::InvalidArgument => Failure::usage(message),
        _ => Failure::running(message),
    }
}

async fn connect(socket: PathBuf) -> Result<AdminClient<Channel>, Failure> {
    let context = format!("no node answers at {}: is it running? --node says which one to ask", socket.display());
    // The address is not used: the connector goes to the socket.
    let endpoint = Endpoint::from_static("http://node.invalid");
    let connector = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connector).await.or_running(context)?;
    Ok(AdminClient::new(channel))
}

/// The admin socket of the node that is meant.
fn socket(node: Option<&str>) -> Result<PathBuf, Failure> {
    match node {
        Some(node) => match node.strip_prefix("unix:") {
            Some(path) => Ok(PathBuf::from(path)),
            None if node.contains("://") => Err(Failure::usage(format_args!(
                "--node {node}: this version reaches nodes on this machine only: give unix:PATH or a state directory"
            ))),
            None => Ok(PathBuf::from(node).join(ADMIN_SOCKET)),
        },
        None => only_node(),
    }
}

fn only_node() -> Result<PathBuf, Failure> {
    let answers =
        |found: &places::Found| std::os::unix::net::UnixStream::connect(found.state.join(ADMIN_SOCKET)).is_ok();
    let running: Vec<places::Found> = places::found().into_iter().filter(answers).collect();
    match running.as_slice() {
        [one] => Ok(one.state.join(ADMIN_SOCKET)),
        [] => Err(Failure::usage("no node was found running here: start one, or give its state directory with --node")),
        several => {
            let states: Vec<String> = several.iter().map(|found| found.state.display().to_string()).collect();
            Err(Failure::usage(format_args!("several nodes run here: choose one with --node: {}", states.join(", "))))
        }
    }
}
