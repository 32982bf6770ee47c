//! `nackcast status`: what a node does, who lags, and what is wrong.

use nackcast_common::units::{ByteCount, counted};
use nackcast_proto::rpc::{
    ChannelStatus, ListAlertsRequest, Receiver, ReceiversRequest, StatusRequest, StatusResponse,
};
use serde::Serialize;

use super::alerts::{PrintedAlert, shown};
use super::{ago, percent, role_in_words, table, with_node};
use crate::args::StatusArgs;
use crate::failure::{Failure, one_line};
use crate::output::{print, print_json};
use crate::report::{rate, share};

/// What `--json` prints.
#[derive(Serialize)]
struct Printed {
    ok: bool,
    node: String,
    role: String,
    version: String,
    started_ms: u64,
    channels: Vec<PrintedChannel>,
    alerts: Vec<PrintedAlert>,
}

#[derive(Serialize)]
struct PrintedChannel {
    id: String,
    name: String,
    directory: String,
    state: String,
    generation: u64,
    objects: u64,
    objects_done: u64,
    bytes: u64,
    bytes_done: u64,
    wire_bytes: u64,
    repair_bytes: u64,
    rate_bps: u64,
    rate_limit_bps: u64,
    receivers: u64,
    receivers_complete: u64,
    jobs: u64,
    pool: u64,
    nacks: u64,
    loss_ppm: u32,
    unicast_wanted: u64,
    senders: u64,
    grtt_us: u64,
    nack_window_us: u64,
    unicast_bytes: u64,
    pulled_bytes: u64,
    pull_sources: Vec<String>,
    sender_role: String,
    role_state: String,
    served_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slowest: Vec<PrintedReceiver>,
}

#[derive(Serialize)]
struct PrintedReceiver {
    run: String,
    address: String,
    generation: u64,
    complete: bool,
    silent: bool,
    heard_ms: u64,
    loss_ppm: u32,
    objects_missing: u64,
    bytes_missing: u64,
}

impl PrintedChannel {
    fn new(channel: ChannelStatus, receivers: Vec<Receiver>) -> Self {
        let slowest = receivers.into_iter().map(|r| PrintedReceiver {
            run: r.run,
            address: r.address,
            generation: r.generation,
            complete: r.complete,
            silent: r.silent,
            heard_ms: r.heard_ms,
            loss_ppm: r.loss_ppm,
            objects_missing: r.objects_missing,
            bytes_missing: r.bytes_missing,
        });
        Self {
            slowest: slowest.collect(),
            id: channel.channel,
            name: channel.name,
            directory: channel.directory,
            state: channel.state,
            generation: channel.generation,
            objects: channel.objects,
            objects_done: channel.objects_done,
            bytes: channel.bytes,
            bytes_done: channel.bytes_done,
            wire_bytes: channel.wire_bytes,
            repair_bytes: channel.repair_bytes,
            rate_bps: channel.rate_bps,
            rate_limit_bps: channel.rate_limit_bps,
            receivers: channel.receivers,
            receivers_complete: channel.receivers_complete,
            jobs: channel.jobs,
            pool: channel.pool,
            nacks: channel.nacks,
            loss_ppm: channel.loss_ppm,
            unicast_wanted: channel.unicast_wanted,
            senders: channel.senders,
            grtt_us: channel.grtt_us,
            nack_window_us: channel.nack_window_us,
            unicast_bytes: channel.unicast_bytes,
            pulled_bytes: channel.pulled_bytes,
            pull_sources: channel.pull_sources,
            sender_role: channel.sender_role,
            role_state: channel.role_state,
            served_by: channel.served_by,
            note: channel.note,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: StatusArgs) -> Result<(), Failure> {
    let asked = with_node(&args.node, async |node| {
        let refused = |status| node.refused(&status);
        let status = node.admin().status(StatusRequest {}).await.map_err(refused)?.into_inner();
        let alerts = node.alerts().list(ListAlertsRequest { all: false }).await.map_err(refused)?.into_inner();
        let mut receivers = Vec::new();
        for channel in &status.channels {
            receivers.push(match args.receivers.filter(|_| status.role == "sender") {
                Some(limit) => {
                    let request = ReceiversRequest { channel: channel.channel.clone(), limit };
                    node.admin().receivers(request).await.map_err(refused)?.into_inner().receivers
                }
                None => Vec::new(),
            });
        }
        Ok((status, alerts.alerts, receivers))
    });
    // A check finds a node that does not answer to be wrong, and not itself to be misused.
    let (status, alerts, receivers) =
        asked.map_err(|failure| if args.check { failure.while_running() } else { failure })?;
    let StatusResponse { role, version, channels, node, started, alerts: wrong, .. } = status;
    let printed = Printed {
        ok: wrong == 0,
        node,
        role,
        version,
        started_ms: started,
        channels: channels.into_iter().zip(receivers).map(|(c, r)| PrintedChannel::new(c, r)).collect(),
        alerts: alerts.into_iter().map(PrintedAlert::from).collect(),
    };
    if args.node.json {
        print_json(&printed)?;
    } else {
        print(&to_text(&printed))?;
    }
    if args.check && !printed.ok { Err(Failure::Reported) } else { Ok(()) }
}

fn to_text(status: &Printed) -> String {
    let role = role_in_words(&status.role, status.channels.first().map_or("", |channel| &channel.sender_role));
    let mut parts =
        vec![format!("{role} on {}, version {}, up {}", status.node, status.version, ago(status.started_ms))];
    let is_sender = status.role == "sender";
    let last = if is_sender { "COMPLETE" } else { "LOSS" };
    let mut channels = table(["CHANNEL", "STATE", "GENERATION", "OBJECTS", "SIZE", "RATE", "REPAIR", last]);
    for channel in &status.channels {
        channels.add_row([
            one_line(&channel.name),
            channel.state.clone(),
            channel.generation.to_string(),
            format!("{} of {}", channel.objects_done, channel.objects),
            format!("{} of {}", ByteCount(channel.bytes_done), ByteCount(channel.bytes)),
            rate(channel.rate_bps),
            match channel.wire_bytes {
                // Who started again: only what was asked for.
                all if all > 0 && all == channel.repair_bytes => "all".to_owned(),
                all => share(channel.repair_bytes, all),
            },
            if is_sender {
                format!("{} of {}", channel.receivers_complete, channel.receivers)
            } else {
                percent(channel.loss_ppm)
            },
        ]);
    }
    parts.push(channels.trim_fmt());
    for channel in &status.channels {
        let name = one_line(&channel.name);
        if channel.sender_role == "backup" && channel.role_state == "active" {
            parts.push(format!("{name}: this backup serves"));
        } else if !channel.served_by.is_empty() {
            parts.push(format!("{name}: served by {}", one_line(&channel.served_by)));
        }
        if channel.pulled_bytes > 0 {
            let (bytes, sources) = (ByteCount(channel.pulled_bytes), channel.pull_sources.join(", "));
            parts.push(format!("{name}: {bytes} pulled by unicast from {}", one_line(&sources)));
        }
        if channel.unicast_bytes > 0 {
            parts.push(format!("{name}: {} given by unicast", ByteCount(channel.unicast_bytes)));
        }
        if !channel.note.is_empty() {
            parts.push(format!("{name}: {}", one_line(&channel.note)));
        }
        if !channel.slowest.is_empty() {
            let mut receivers = table(["RECEIVER", "STATE", "GENERATION", "LACKS", "LOSS", "HEARD"]);
            for receiver in &channel.slowest {
                let state = match (receiver.complete, receiver.silent) {
                    (_, true) => "silent",
                    (true, false) => "complete",
                    (false, false) => "receiving",
                };
                receivers.add_row([
                    receiver.address.clone(),
                    state.to_owned(),
                    receiver.generation.to_string(),
                    format!("{}, {}", counted(receiver.objects_missing, "object"), ByteCount(receiver.bytes_missing)),
                    percent(receiver.loss_ppm),
                    format!("{} s ago", receiver.heard_ms / 1000),
                ]);
            }
            parts.push(receivers.trim_fmt());
        }
    }
    parts.push(match status.alerts.as_slice() {
        [] => "nothing is wrong".to_owned(),
        alerts => shown(alerts),
    });
    parts.join("\n")
}
