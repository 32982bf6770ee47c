//! HTTP on a node: `/metrics` and `/healthz` for machines that watch it, and a receiver's files below
//! `/content/CHANNEL/`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nackcast_receiver::VerifiedFiles;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::desk::Desk;
use super::{content, metrics};

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

/// Serves as long as it is polled.
pub(super) async fn serve(desk: Arc<Desk>, files: watch::Receiver<Vec<VerifiedFiles>>, listener: TcpListener) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        // Answers HEAD as well, without the bytes.
        .route("/content/{channel}/{*path}", get(content::file))
        .with_state(Site { desk, files, readers: Arc::new(Semaphore::new(READERS_MAX)) });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!("HTTP ended: {error}");
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
