//! HTTP for machines that watch the node: `/metrics` and `/healthz`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::desk::Desk;
use super::metrics;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves as long as it is polled.
pub(super) async fn serve(desk: Arc<Desk>, listener: TcpListener) {
    let router = Router::new().route("/metrics", get(metrics)).route("/healthz", get(health)).with_state(desk);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!("HTTP ended: {error}");
    }
}

async fn metrics(State(desk): State<Arc<Desk>>) -> Response {
    match metrics::page(&desk) {
        Ok(page) => ([(header::CONTENT_TYPE, METRICS_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// 200 while the node reports and nothing critical is wrong.
async fn health(State(desk): State<Arc<Desk>>) -> (StatusCode, String) {
    match desk.wrong() {
        (_, 0) => (StatusCode::OK, "ok\n".to_owned()),
        (_, critical) => (StatusCode::SERVICE_UNAVAILABLE, format!("{critical} critical alerts\n")),
    }
}
