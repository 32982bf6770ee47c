//! HTTP on a node: `/metrics` and `/healthz` for machines that watch it, and a receiver's files below
//! `/content/CHANNEL/`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nackcast_receiver::VerifiedFiles;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::desk::Desk;
use super::guard::{Guard, IDLE_MAX};
use super::{content, metrics};

/// Clients at once.
const CONNECTIONS_MAX: usize = 256;
/// Files that are read at once.
const READERS_MAX: usize = 64;
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What handlers have.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) desk: Arc<Desk>,
    pub(super) files: watch::Receiver<Vec<VerifiedFiles>>,
    /// Places for those who read files.
    pub(super) readers: Arc<Semaphore>,
}

/// Serves as long as it is polled. Request heads have [`IDLE_MAX`], also the next one on the same connection.
pub(super) async fn serve(desk: Arc<Desk>, files: watch::Receiver<Vec<VerifiedFiles>>, mut listener: TcpListener) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        // Answers HEAD as well, without the bytes.
        .route("/content/{channel}/{*path}", get(content::file))
        .with_state(Site { desk, files, readers: Arc::new(Semaphore::new(READERS_MAX)) });
    let mut http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_MAX);
    let guard = Guard::new(CONNECTIONS_MAX);
    let mut clients = JoinSet::new();
    loop {
        let stream = guard.accept(&mut listener).await;
        while clients.try_join_next().is_some() {}
        let (http, service) = (http.clone(), TowerToHyperService::new(router.clone()));
        clients.spawn(async move {
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!("an HTTP connection ended: {error}");
            }
        });
    }
}

async fn metrics(State(site): State<Site>) -> Response {
    match metrics::page(&site.desk) {
        Ok(page) => ([(header::CONTENT_TYPE, METRICS_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// 200 unless something critical is wrong.
async fn health(State(site): State<Site>) -> (StatusCode, String) {
    match site.desk.wrong() {
        (_, 0) => (StatusCode::OK, "ok\n".to_owned()),
        (_, critical) => (StatusCode::SERVICE_UNAVAILABLE, format!("{critical} critical alerts\n")),
    }
}
