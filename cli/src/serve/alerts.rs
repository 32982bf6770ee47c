//! The gRPC service `Alerts`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use nackcast_common::alerts::{Alert, Severity};
use nackcast_proto::rpc;
use nackcast_proto::rpc::alerts_server::Alerts;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::desk::Desk;

/// Alerts that wait for a slow reader; more wait in the book.
const QUEUE: usize = 64;

/// The service.
#[derive(Debug)]
pub(super) struct AlertsService {
    desk: Arc<Desk>,
}

impl AlertsService {
    pub(super) const fn new(desk: Arc<Desk>) -> Self {
        Self { desk }
    }
}

fn to_message(alert: Alert) -> rpc::Alert {
    let severity = match alert.kind.severity() {
        Severity::Info => rpc::Severity::Info,
        Severity::Warning => rpc::Severity::Warning,
        Severity::Critical => rpc::Severity::Critical,
    };
    rpc::Alert {
        id: alert.id,
        kind: alert.kind.name().to_owned(),
        severity: severity.into(),
        node: alert.node,
        channel: alert.channel,
        subject: alert.subject,
        text: alert.text,
        check: alert.kind.check().to_owned(),
        first: alert.first_ms,
        last: alert.last_ms,
        count: alert.count,
        cleared: alert.cleared_ms.unwrap_or(0),
        acknowledged: alert.acknowledged_ms.unwrap_or(0),
    }
}

/// Sends what is raised, then every change, until nobody listens.
async fn follow(desk: Arc<Desk>, all: bool, send: mpsc::Sender<Result<rpc::Alert, Status>>) {
    let mut changes = desk.changes();
    let mut told: BTreeMap<u64, Alert> = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        let now: BTreeMap<u64, Alert> = desk.alerts(true).into_iter().map(|alert| (alert.id, alert)).collect();
        for (id, alert) in &now {
            let is_wanted = match told.get(id) {
                Some(before) => before != alert,
                // At first only what a list would have; later everything is news.
                None => all || alert.is_wrong(),
            };
            if is_wanted && send.send(Ok(to_message(alert.clone()))).await.is_err() {
                return;
            }
        }
        told = now;
        tokio::select! {
            () = send.closed() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl Alerts for AlertsService {
    async fn list(
        &self,
        request: Request<rpc::ListAlertsRequest>,
    ) -> Result<Response<rpc::ListAlertsResponse>, Status> {
        let alerts = self.desk.alerts(request.into_inner().all).into_iter().map(to_message).collect();
        Ok(Response::new(rpc::ListAlertsResponse { alerts }))
    }

    type FollowStream = Pin<Box<dyn Stream<Item = Result<rpc::Alert, Status>> + Send>>;

    async fn follow(&self, request: Request<rpc::ListAlertsRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let (send, stream) = mpsc::channel(QUEUE);
        tokio::spawn(follow(Arc::clone(&self.desk), request.into_inner().all, send));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn acknowledge(
        &self,
        request: Request<rpc::AcknowledgeRequest>,
    ) -> Result<Response<rpc::AcknowledgeResponse>, Status> {
        let rpc::AcknowledgeRequest { ids, all } = request.into_inner();
        let ids = if all { self.desk.alerts(false).iter().map(|alert| alert.id).collect() } else { ids };
        let unknown = self.desk.acknowledge(&ids).await;
        if let Some(first) = unknown.first() {
            let message = format!("there is no alert {first}: `nackcast alerts --all` lists those there are");
            let details = ErrorDetails::with_resource_info("alert", first.to_string(), "", message.clone());
            return Err(Status::with_error_details(Code::NotFound, message, details));
        }
        Ok(Response::new(rpc::AcknowledgeResponse { acknowledged: ids.len() as u64 }))
    }
}
