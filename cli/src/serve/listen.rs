//! Where admins are heard, and by what.
//!
//! - On `STATE/admin.sock`, for the owner of the state directory only. A node that cannot open it (a path too long for
//!   a socket) says so once and runs without.
//! - On TCP where `--admin` asks: off loopback only with TLS, and only for clients with a certificate of the given CA.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nackcast_proto::rpc::FILE_DESCRIPTOR_SET;
use nackcast_proto::rpc::admin_server::AdminServer;
use nackcast_proto::rpc::alerts_server::AlertsServer;
use tokio::net::{TcpListener, UnixListener};
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::admin::AdminService;
use super::alerts::AlertsService;
use super::desk::Desk;
use super::guard::{Guard, IDLE_MAX};
use super::{Offer, TlsFiles};
use crate::failure::{Failure, OrFail};
use crate::places::ADMIN_SOCKET;

/// Clients at once, on each of the two.
const CONNECTIONS_MAX: usize = 64;
/// Who has not shown a certificate by then has to go: until then it holds a place.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Requests that one connection may have open.
const STREAMS_MAX: u32 = 64;

/// Everything that was opened.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) unix: Option<UnixListener>,
    pub(super) tcp: Option<(TcpListener, Option<ServerTlsConfig>)>,
    pub(super) http: Option<TcpListener>,
    pub(super) socket: SocketFile,
}

/// Removes the Unix socket in the end.
#[derive(Debug, Default)]
pub(super) struct SocketFile(Option<PathBuf>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            drop(fs::remove_file(path)); // the next start removes what is left
        }
    }
}

impl Listeners {
    pub(super) async fn open(state: &Path, offer: &Offer) -> Result<Self, Failure> {
        let tcp = match offer.admin {
            Some(address) => {
                let tls = offer.tls.as_ref().map(tls_config).transpose()?;
                let listener = TcpListener::bind(address).await;
                Some((listener.or_usage(format_args!("--admin {address} cannot be listened on"))?, tls))
            }
            None => None,
        };
        let http = match offer.http {
            Some(address) => {
                let listener = TcpListener::bind(address).await;
                Some(listener.or_usage(format_args!("--http {address} cannot be listened on"))?)
            }
            None => None,
        };
        let path = state.join(ADMIN_SOCKET);
        let (unix, socket) = match listen(&path) {
            Ok(listener) => (Some(listener), SocketFile(Some(path))),
            Err(error) => {
                tracing::warn!("the admin socket {} cannot be opened: {error}; running without", path.display());
                (None, SocketFile::default())
            }
        };
        for (what, listener) in [("admin interface", tcp.as_ref().map(|(tcp, _)| tcp)), ("HTTP", http.as_ref())] {
            if let Some(address) = listener.and_then(|listener| listener.local_addr().ok()) {
                tracing::info!("{what} on {address}");
            }
        }
        Ok(Self { unix, tcp, http, socket })
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

/// Refuses what would let strangers in.
pub(super) fn check(offer: &Offer) -> Result<(), Failure> {
    match (&offer.admin, &offer.tls) {
        (Some(address), None) if !address.ip().is_loopback() => Err(Failure::usage(format_args!(
            "--admin {address}: off loopback the admin interface needs TLS and clients with certificates: give \
             --admin-cert, --admin-key and --admin-ca, or listen on 127.0.0.1 or [::1]"
        ))),
        (None, Some(_)) => Err(Failure::usage("--admin-cert is for --admin ADDR:PORT: give it, too")),
        (Some(_) | None, _) => Ok(()),
    }
}

fn tls_config(files: &TlsFiles) -> Result<ServerTlsConfig, Failure> {
    let read = |path: &Path| fs::read(path).or_usage(format_args!("{} cannot be read", path.display()));
    let identity = Identity::from_pem(read(&files.certificate)?, read(&files.key)?);
    Ok(ServerTlsConfig::new()
        .timeout(HANDSHAKE)
        .identity(identity)
        .client_ca_root(Certificate::from_pem(read(&files.ca)?)))
}

/// The services, with health and reflection.
pub(super) async fn services(desk: &Arc<Desk>) -> Result<Routes, Failure> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AdminServer<AdminService>>().await;
    health.set_serving::<AlertsServer<AlertsService>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let context = "reflection cannot be offered";
    Ok(Routes::new(AdminServer::new(AdminService::new(Arc::clone(desk))))
        .add_service(AlertsServer::new(AlertsService::new(Arc::clone(desk))))
        .add_service(health_service)
        .add_service(reflection().build_v1().or_running(context)?)
        // What many clients still speak.
        .add_service(reflection().build_v1alpha().or_running(context)?))
}

/// Serves as long as it is polled.
pub(super) async fn serve_unix(routes: Routes, listener: UnixListener) {
    let connections = Guard::new(CONNECTIONS_MAX).connections(listener);
    complain(server().add_routes(routes).serve_with_incoming(Box::pin(connections)).await);
}

/// Whoever waits for news is asked now and then whether it is still there.
fn server() -> Server {
    Server::builder().max_concurrent_streams(STREAMS_MAX).http2_keepalive_interval(Some(IDLE_MAX / 3))
}

/// The same on TCP.
pub(super) fn serve_tcp(
    routes: Routes,
    listener: TcpListener,
    tls: Option<ServerTlsConfig>,
) -> Result<impl Future<Output = ()> + Send + use<>, Failure> {
    let mut server = server();
    if let Some(tls) = tls {
        server = server.tls_config(tls).or_usage("--admin-cert, --admin-key and --admin-ca cannot be used")?;
    }
    let server = server.add_routes(routes);
    let connections = Guard::new(CONNECTIONS_MAX).connections(listener);
    Ok(async move { complain(server.serve_with_incoming(Box::pin(connections)).await) })
}

fn complain(served: Result<(), tonic::transport::Error>) {
    if let Err(error) = served {
        tracing::warn!("the admin interface ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(admin: Option<&str>, tls: bool) -> Offer {
        let file = PathBuf::from("/x.pem");
        let tls = tls.then(|| TlsFiles { certificate: file.clone(), key: file.clone(), ca: file });
        Offer { admin: admin.map(|address| address.parse().unwrap()), tls, ..Offer::default() }
    }

    #[test]
    fn off_loopback_only_with_tls() {
        for address in ["127.0.0.1:7800", "[::1]:7800"] {
            assert!(check(&offer(Some(address), false)).is_ok());
        }
        for address in ["0.0.0.0:7800", "[::]:7800", "192.0.2.1:7800"] {
            let failure = check(&offer(Some(address), false)).unwrap_err();
            assert!(failure.exit_code() == 2 && failure.line().unwrap().contains("--admin-ca"), "{address}");
            assert!(check(&offer(Some(address), true)).is_ok());
        }
        assert!(check(&offer(None, true)).is_err());
    }
}
