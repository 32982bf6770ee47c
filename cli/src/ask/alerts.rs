//! `nackcast alerts` and `ack`.

use nackcast_common::units::counted;
use nackcast_proto::rpc::{AcknowledgeRequest, Alert, ListAlertsRequest, Severity};
use serde::Serialize;

use super::{Asked, ago, table, with_node};
use crate::args::{AckArgs, AlertsArgs};
use crate::failure::{Failure, one_line};
use crate::output::{Reader, print, print_event, print_json};

/// What `--json` prints: one object, or with `--follow` one alert to a line.
#[derive(Serialize)]
struct Printed {
    alerts: Vec<PrintedAlert>,
}

#[derive(Serialize)]
struct Acknowledged {
    acknowledged: u64,
}

#[derive(Serialize)]
pub(super) struct PrintedAlert {
    id: u64,
    kind: String,
    severity: &'static str,
    state: &'static str,
    node: String,
    channel: String,
    subject: String,
    text: String,
    check: String,
    first_ms: u64,
    last_ms: u64,
    count: u64,
    cleared_ms: Option<u64>,
    acknowledged_ms: Option<u64>,
}

impl From<Alert> for PrintedAlert {
    fn from(alert: Alert) -> Self {
        let severity = match alert.severity() {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Info | Severity::Unspecified => "info",
        };
        let state = match (alert.cleared, alert.acknowledged) {
            (0, 0) => "raised",
            (0, _) => "acknowledged",
            _ => "over",
        };
        let time = |ms: u64| (ms != 0).then_some(ms);
        Self {
            id: alert.id,
            severity,
            state,
            cleared_ms: time(alert.cleared),
            acknowledged_ms: time(alert.acknowledged),
            kind: alert.kind,
            node: alert.node,
            channel: alert.channel,
            subject: alert.subject,
            text: alert.text,
            check: alert.check,
            first_ms: alert.first,
            last_ms: alert.last,
            count: alert.count,
        }
    }
}

/// `nackcast alerts`.
pub(crate) fn run(args: AlertsArgs) -> Result<(), Failure> {
    let request = ListAlertsRequest { all: args.all };
    if args.follow {
        return with_node(&args.node, async |node| follow(&node, request, args.node.json).await);
    }
    let response =
        with_node(&args.node, async |node| node.alerts().list(request).await.map_err(|status| node.refused(&status)));
    let alerts: Vec<_> = response?.into_inner().alerts.into_iter().map(PrintedAlert::from).collect();
    if args.node.json {
        return print_json(&Printed { alerts });
    }
    if alerts.is_empty() {
        return print("nothing is wrong");
    }
    print(&shown(&alerts))
}

/// A table, and below it what to check.
pub(super) fn shown(alerts: &[PrintedAlert]) -> String {
    let mut table = table(["ID", "SEVERITY", "STATE", "KIND", "CHANNEL", "SINCE", "LAST", "COUNT"]);
    for alert in alerts {
        table.add_row([
            alert.id.to_string(),
            alert.severity.to_owned(),
            alert.state.to_owned(),
            alert.kind.clone(),
            one_line(&alert.channel),
            ago(alert.first_ms),
            ago(alert.last_ms),
            alert.count.to_string(),
        ]);
    }
    let texts = alerts.iter().map(|alert| format!("{:>4}  {}\n      {}", alert.id, one_line(&alert.text), alert.check));
    std::iter::once(table.trim_fmt()).chain(texts).collect::<Vec<_>>().join("\n")
}

async fn follow(node: &Asked, request: ListAlertsRequest, json: bool) -> Result<(), Failure> {
    let mut stream = node.alerts().follow(request).await.map_err(|status| node.refused(&status))?.into_inner();
    while let Some(alert) = stream.message().await.map_err(|status| node.refused(&status))? {
        let alert = PrintedAlert::from(alert);
        if json {
            if print_event(&alert)? == Reader::Gone {
                return Ok(());
            }
            continue;
        }
        let PrintedAlert { id, kind, severity, state, count, check, .. } = &alert;
        let (channel, text) = (one_line(&alert.channel), one_line(&alert.text));
        print(&format!("{id} {severity} {state} {kind} {channel} ({count}): {text}; {check}"))?;
    }
    Ok(())
}

/// `nackcast ack`.
pub(crate) fn acknowledge(args: AckArgs) -> Result<(), Failure> {
    let request = AcknowledgeRequest { ids: args.ids, all: args.all };
    let response = with_node(&args.node, async |node| {
        node.alerts().acknowledge(request).await.map_err(|status| node.refused(&status))
    });
    let acknowledged = response?.into_inner().acknowledged;
    if args.node.json {
        return print_json(&Acknowledged { acknowledged });
    }
    print(&format!("{} acknowledged", counted(acknowledged, "alert")))
}
