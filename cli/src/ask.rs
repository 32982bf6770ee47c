//! Commands that ask a running node, through its admin interface.
//!
//! Whose fault a refusal is decides the exit code: what does not exist, cannot be understood, or is not for this kind
//! of node is the user's (2); all else the node's (1).

pub(crate) mod alerts;
pub(crate) mod objects;
pub(crate) mod scan;
pub(crate) mod status;
pub(crate) mod steer;
pub(crate) mod top;

use std::path::PathBuf;

use comfy_table::{Row, Table};
use hyper_util::rt::TokioIo;
use nackcast_proto::rpc::admin_client::AdminClient;
use nackcast_proto::rpc::alerts_client::AlertsClient;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tower::service_fn;

use crate::args::NodeArgs;
use crate::block_on;
use crate::failure::{Failure, OrFail};
use crate::places::{self, ADMIN_SOCKET};

/// Messages are small, except pages of objects with long paths.
const MESSAGE_MAX: usize = 64 << 20;

/// A node that can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    channel: Channel,
    /// For people.
    name: String,
}

impl Asked {
    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub(crate) fn alerts(&self) -> AlertsClient<Channel> {
        AlertsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// What the node said instead of an answer.
    pub(crate) fn refused(&self, status: &tonic::Status) -> Failure {
        let message = format!("node at {}: {}", self.name, status.message());
        match status.code() {
            tonic::Code::NotFound | tonic::Code::InvalidArgument | tonic::Code::Unimplemented => {
                Failure::usage(message)
            }
            _ => Failure::running(message),
        }
    }
}

/// What a node is; of a sender also what for. All its channels have the same role.
pub(super) fn role_in_words(role: &str, sender_role: &str) -> String {
    if sender_role.is_empty() { role.to_owned() } else { format!("{sender_role} {role}") }
}

/// Reaches the node that is meant and does something with it.
fn with_node<T>(args: &NodeArgs, work: impl AsyncFnOnce(Asked) -> Result<T, Failure>) -> Result<T, Failure> {
    let place = Place::of(args.node.as_deref())?;
    block_on(async { work(connect(place, args).await?).await })?
}

/// Where a node is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Unix(PathBuf),
    Url(String),
}

impl Place {
    fn of(node: Option<&str>) -> Result<Self, Failure> {
        match node {
            Some(node) => match (node.strip_prefix("unix:"), node.split_once("://")) {
                (Some(path), _) => Ok(Self::Unix(PathBuf::from(path))),
                (None, Some(("http" | "https", _))) => Ok(Self::Url(node.to_owned())),
                (None, Some(_)) => Err(Failure::usage(format_args!(
                    "--node {node}: give unix:PATH, a state directory, or http(s)://HOST:PORT"
                ))),
                (None, None) => Ok(Self::Unix(PathBuf::from(node).join(ADMIN_SOCKET))),
            },
            None => only_node().map(Self::Unix),
        }
    }
}

async fn connect(place: Place, args: &NodeArgs) -> Result<Asked, Failure> {
    let (channel, name) = match place {
        Place::Unix(socket) => {
            let name = socket.display().to_string();
            // The address is not used: the connector goes to the socket.
            let endpoint = Endpoint::from_static("http://node.invalid");
            let connector = service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            });
            (endpoint.connect_with_connector(connector).await, name)
        }
        Place::Url(url) => {
            let endpoint = Endpoint::from_shared(url.clone()).or_usage(format_args!("--node {url}"))?;
            let endpoint = match url.starts_with("https:") {
                true => endpoint.tls_config(tls(args)?).or_usage("--cert, --key or --ca cannot be used")?,
                false => endpoint,
            };
            (endpoint.connect().await, url)
        }
    };
    let context = format!("no node answers at {name}: is it running? --node says which one to ask");
    Ok(Asked { channel: channel.or_running(context)?, name })
}

fn tls(args: &NodeArgs) -> Result<ClientTlsConfig, Failure> {
    let read = |path: &PathBuf| std::fs::read(path).or_usage(format_args!("{} cannot be read", path.display()));
    let Some(ca) = &args.ca else {
        return Err(Failure::usage("https:// needs --ca FILE: who signed the node's certificate"));
    };
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    Ok(match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => config.identity(Identity::from_pem(read(cert)?, read(key)?)),
        _ => config,
    })
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

/// A table without lines, which scripts can cut as well.
fn table<H: Into<Row>>(header: H) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    table
}

/// A share in millionths, for people.
fn percent(ppm: u32) -> String {
    format!("{:.2} %", f64::from(ppm) / 10_000.0)
}

/// How long ago, from milliseconds since 1970.
fn ago(then_ms: u64) -> String {
    let seconds = nackcast_common::clock::Clock::wall_ms().saturating_sub(then_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_socket_a_directory_or_an_address() {
        assert_eq!(Place::of(Some("unix:/a/b.sock")).unwrap(), Place::Unix("/a/b.sock".into()));
        assert_eq!(Place::of(Some("/var/state")).unwrap(), Place::Unix("/var/state/admin.sock".into()));
        assert_eq!(Place::of(Some("https://a:1")).unwrap(), Place::Url("https://a:1".to_owned()));
        assert_eq!(Place::of(Some("ftp://a:1")).unwrap_err().exit_code(), 2);
    }
}
