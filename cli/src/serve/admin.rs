//! The gRPC service `Admin`: what the node says, and what it is told.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::control::{Ask, ROWS_MAX, Refusal, Reply, Scan, Steer};
use nackcast_common::units::RateLimit;
use nackcast_proto::rpc;
use nackcast_proto::rpc::admin_server::Admin;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::desk::{Desk, Unanswered};

/// Between two messages of a watch, at least and by default.
const WATCH_MIN: Duration = Duration::from_millis(500);
const WATCH_DEFAULT: Duration = Duration::from_secs(1);
/// Rows of a page, by default.
const OBJECTS_DEFAULT: usize = 1000;
const RECEIVERS_DEFAULT: usize = 20;

/// The service.
#[derive(Debug)]
pub(super) struct AdminService {
    desk: Arc<Desk>,
}

impl AdminService {
    pub(super) const fn new(desk: Arc<Desk>) -> Self {
        Self { desk }
    }

    fn chosen(&self, channel: &str) -> Result<Vec<usize>, Status> {
        self.desk.chosen(channel).map_err(|message| unknown("channel", channel, message))
    }

    /// The only channel that is meant.
    fn one(&self, channel: &str) -> Result<usize, Status> {
        match self.chosen(channel)?.as_slice() {
            [one] => Ok(*one),
            several => {
                let names: Vec<_> = several.iter().map(|at| self.desk.name(*at)).collect();
                Err(invalid("channel", format!("name one channel of: {}", names.join(", "))))
            }
        }
    }

    fn unanswered(&self, channel: usize, why: Unanswered) -> Status {
        let name = self.desk.name(channel);
        match why {
            Unanswered::Busy => Status::unavailable(format!("{name}: the node is ending, or has too much to do")),
            Unanswered::Refused(Refusal::NotHere(why)) => Status::unimplemented(why),
            Unanswered::Refused(Refusal::NotNow(why)) => {
                let details = ErrorDetails::with_precondition_failure_violation("STATE", name, why.clone());
                Status::with_error_details(Code::FailedPrecondition, format!("{name}: {why}"), details)
            }
            Unanswered::Refused(Refusal::Unknown(why)) => unknown("object", name, why),
        }
    }

    /// Scans one channel after the other is asked, all at once.
    async fn scan_all(&self, channel: &str, ask: impl Fn(Reply<Scan>) -> Ask) -> Result<rpc::ScanResponse, Status> {
        let (chosen, ask) = (self.chosen(channel)?, &ask);
        let scans = chosen.into_iter().map(|at| async move {
            let scan = self.desk.ask(at, ask).await;
            let scan = scan.map_err(|why| self.unanswered(at, why))?;
            Ok::<_, Status>(rpc::ScanResult {
                channel: self.desk.name(at).to_owned(),
                generation: scan.generation,
                changed: scan.changed,
                missing: scan.missing,
                damaged: scan.damaged,
                problems: scan.problems,
            })
        });
        let mut results = Vec::new();
        for result in futures_util::future::join_all(scans).await {
            results.push(result?);
        }
        Ok(rpc::ScanResponse { results })
    }

    async fn steer(
        &self,
        request: Request<rpc::SteerRequest>,
        steer: Steer,
    ) -> Result<Response<rpc::SteerResponse>, Status> {
        for at in self.chosen(&request.into_inner().channel)? {
            let steered = self.desk.ask(at, |reply| Ask::Steer(steer, reply)).await;
            steered.map_err(|why| self.unanswered(at, why))?;
        }
        Ok(Response::new(rpc::SteerResponse {}))
    }
}

/// Something that does not exist.
fn unknown(kind: &str, name: &str, message: String) -> Status {
    let details = ErrorDetails::with_resource_info(kind, name, "", message.clone());
    Status::with_error_details(Code::NotFound, message, details)
}

/// A field that cannot be used.
fn invalid(field: &str, message: String) -> Status {
    let details = ErrorDetails::with_bad_request_violation(field, message.clone());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// What a node says of itself now.
pub(super) fn status(desk: &Desk) -> rpc::StatusResponse {
    let channels = desk.channels().into_iter().map(|(channel, row)| rpc::ChannelStatus {
        channel: channel.channel,
        name: channel.name,
        directory: channel.directory.to_string_lossy().into_owned(),
        generation: row.generation,
        objects: row.objects,
        objects_done: row.objects_done,
        bytes: row.bytes,
        bytes_done: row.bytes_done,
        receivers: row.receivers,
        receivers_complete: row.receivers_complete,
        state: row.state,
        rate_bps: row.rate_bps,
        rate_limit_bps: row.rate_limit_bps,
        wire_bytes: row.wire_bytes,
        repair_bytes: row.repair_bytes,
        jobs: row.jobs,
        pool: row.pool,
        nacks: row.nacks,
        loss_ppm: row.loss_ppm,
        unicast_wanted: row.unicast_wanted,
        senders: row.senders,
        grtt_us: row.grtt_us,
        nack_window_us: row.nack_window_us,
        note: row.note.unwrap_or_default(),
        unicast_bytes: row.unicast_bytes,
        pulled_bytes: row.pulled_bytes,
        pull_sources: row.pull_sources,
        sender_role: row.sender_role,
        role_state: row.role_state,
        served_by: row.served_by,
    });
    let (alerts, alerts_critical) = desk.wrong();
    rpc::StatusResponse {
        role: desk.role().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        channels: channels.collect(),
        node: desk.host().to_owned(),
        started: desk.started_ms(),
        alerts,
        alerts_critical,
    }
}

/// What a page may have.
fn limit(wanted: u32, default: usize) -> usize {
    if wanted == 0 { default } else { (wanted as usize).min(ROWS_MAX) }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _: Request<rpc::StatusRequest>) -> Result<Response<rpc::StatusResponse>, Status> {
        Ok(Response::new(status(&self.desk)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<rpc::StatusResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<rpc::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let interval = match request.into_inner().interval_ms {
            0 => WATCH_DEFAULT,
            wanted => Duration::from_millis(wanted.into()).max(WATCH_MIN),
        };
        let (send, stream) = tokio::sync::mpsc::channel(1);
        let desk = Arc::clone(&self.desk);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(interval);
            loop {
                // Whoever watches may go at any time, and so may the node.
                tokio::select! {
                    () = send.closed() => return,
                    _ = tick.tick() => {}
                }
                if send.send(Ok(status(&desk))).await.is_err() || desk.progress().has_changed().is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn channels(&self, _: Request<rpc::ChannelsRequest>) -> Result<Response<rpc::ChannelsResponse>, Status> {
        let channels = self.desk.channels().into_iter().map(|(channel, row)| rpc::Channel {
            channel: channel.channel,
            name: channel.name,
            directory: channel.directory.to_string_lossy().into_owned(),
            generation: row.generation,
            state: row.state,
        });
        Ok(Response::new(rpc::ChannelsResponse { channels: channels.collect() }))
    }

    async fn objects(&self, request: Request<rpc::ObjectsRequest>) -> Result<Response<rpc::ObjectsResponse>, Status> {
        let rpc::ObjectsRequest { channel, after, limit: wanted, busy } = request.into_inner();
        let (at, limit) = (self.one(&channel)?, limit(wanted, OBJECTS_DEFAULT));
        let after = (after != 0).then_some(after);
        let rows = self.desk.ask(at, |reply| Ask::Objects { after, busy, limit, reply }).await;
        let rows = rows.map_err(|why| self.unanswered(at, why))?;
        let next = rows.last().filter(|_| rows.len() == limit).map_or(0, |row| row.id);
        let objects = rows.into_iter().map(|row| rpc::Object {
            object: format!("{:016x}", row.id),
            path: row.path,
            bytes: row.bytes,
            state: row.state,
            pass_count: row.passes,
            bytes_done: row.bytes_done,
        });
        Ok(Response::new(rpc::ObjectsResponse { objects: objects.collect(), next }))
    }

    async fn receivers(
        &self,
        request: Request<rpc::ReceiversRequest>,
    ) -> Result<Response<rpc::ReceiversResponse>, Status> {
        let rpc::ReceiversRequest { channel, limit: wanted } = request.into_inner();
        let (at, limit) = (self.one(&channel)?, limit(wanted, RECEIVERS_DEFAULT));
        let rows = self.desk.ask(at, |reply| Ask::Receivers { limit, reply }).await;
        let rows = rows.map_err(|why| self.unanswered(at, why))?;
        let receivers = rows.into_iter().map(|row| rpc::Receiver {
            run: format!("{:016x}", row.run),
            address: row.address,
            generation: row.generation,
            complete: row.complete,
            silent: row.silent,
            heard_ms: row.heard_ms,
            loss_ppm: row.loss_ppm,
            objects_missing: row.objects_missing,
            bytes_missing: row.bytes_missing,
        });
        Ok(Response::new(rpc::ReceiversResponse { receivers: receivers.collect() }))
    }

    async fn scan(&self, request: Request<rpc::ScanRequest>) -> Result<Response<rpc::ScanResponse>, Status> {
        let rpc::ScanRequest { channel, deep } = request.into_inner();
        if deep && self.desk.role() == "sender" {
            let why = "a sender has no deep scan: it checks each block that it sends";
            return Err(invalid("deep", why.to_owned()));
        }
        let ask = |reply| Ask::Scan { deep, publish: false, allow_empty: false, reply: Some(reply) };
        self.scan_all(&channel, ask).await.map(Response::new)
    }

    async fn publish(&self, request: Request<rpc::PublishRequest>) -> Result<Response<rpc::ScanResponse>, Status> {
        let rpc::PublishRequest { channel, allow_empty } = request.into_inner();
        if self.desk.role() != "sender" {
            return Err(Status::unimplemented("this node receives: only a sender publishes"));
        }
        let ask = |reply| Ask::Scan { deep: false, publish: true, allow_empty, reply: Some(reply) };
        self.scan_all(&channel, ask).await.map(Response::new)
    }

    async fn resend(&self, request: Request<rpc::ResendRequest>) -> Result<Response<rpc::ResendResponse>, Status> {
        let rpc::ResendRequest { channel, objects } = request.into_inner();
        let chosen = if objects.is_empty() { self.chosen(&channel)? } else { vec![self.one(&channel)?] };
        let mut count = 0;
        for at in chosen {
            let sent = self.desk.ask(at, |reply| Ask::Resend { objects: objects.clone(), reply }).await;
            count += sent.map_err(|why| self.unanswered(at, why))?;
        }
        Ok(Response::new(rpc::ResendResponse { objects: count }))
    }

    async fn rate(&self, request: Request<rpc::RateRequest>) -> Result<Response<rpc::RateResponse>, Status> {
        let rpc::RateRequest { channel, rate } = request.into_inner();
        let rate: RateLimit = rate.parse().map_err(|error| invalid("rate", format!("{error}")))?;
        let chosen = self.chosen(&channel)?;
        // All together, unless one is named.
        let share = if channel.is_empty() { rate.share(chosen.len()) } else { rate };
        for at in chosen {
            let set = self.desk.ask(at, |reply| Ask::Rate(share, reply)).await;
            set.map_err(|why| self.unanswered(at, why))?;
        }
        Ok(Response::new(rpc::RateResponse {}))
    }

    async fn pause(&self, request: Request<rpc::SteerRequest>) -> Result<Response<rpc::SteerResponse>, Status> {
        self.steer(request, Steer::Pause).await
    }

    async fn resume(&self, request: Request<rpc::SteerRequest>) -> Result<Response<rpc::SteerResponse>, Status> {
        self.steer(request, Steer::Resume).await
    }

    async fn drain(&self, request: Request<rpc::SteerRequest>) -> Result<Response<rpc::SteerResponse>, Status> {
        self.steer(request, Steer::Drain).await
    }
}
