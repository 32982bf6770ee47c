//! `nackcast doctor`: why does nothing arrive?
//!
//! It looks at this machine, listens where the channel is advertised, asks the senders, and says in plain words what
//! is wrong and what mends it. It changes nothing and joins as a receiver does; a node may run beside it.
//!
//! | module | does |
//! |---|---|
//! | `facts` | everything that was seen, as plain values |
//! | `machine` | this machine: interface, settings, ports |
//! | `listen` | what arrives, before and behind the firewall |
//! | `reach` | the way to the senders and back |
//! | `judge` | from facts to findings; knows no sockets |

mod facts;
mod judge;
mod listen;
mod machine;
mod reach;

use nackcast_common::net::interface;
use nackcast_proto::ticket::Ticket;
use serde::Serialize;

use self::facts::{Facts, Part};
use self::judge::{Finding, Verdict};
use crate::args::DoctorArgs;
use crate::failure::Failure;
use crate::keyfile::KeyFile;
use crate::output::{print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Printed {
    ok: bool,
    channel: String,
    findings: Vec<Finding>,
}

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let (ticket, part) = match &args.channel {
        Some(path) => (KeyFile::load(path)?.sender_ticket(), Part::Sends),
        None => (crate::receive::one_ticket(args.ticket.as_deref())?, Part::Receives),
    };
    let channel = ticket.name.clone();
    let facts = crate::runtime()?.block_on(examine(args, ticket, part));
    let findings = judge::judge(&facts);
    let ok = findings.iter().all(|finding| finding.verdict != Verdict::Wrong);
    if args.json {
        print_json(&Printed { ok, channel, findings })?;
    } else {
        print(&to_text(&findings))?;
    }
    if ok { Ok(()) } else { Err(Failure::Reported) }
}

async fn examine(args: &DoctorArgs, ticket: Ticket, part: Part) -> Facts {
    let interface = interface::resolve(args.interface.as_deref(), ticket.advertise.ip());
    let mut facts = machine::look(&ticket, part, interface.as_ref().ok(), args);
    let interface = match interface {
        Ok(interface) => interface,
        Err(error) => {
            facts.interface = Err(error.to_string());
            return facts;
        }
    };
    if part == Part::Sends {
        facts.sent = Some(machine::send_one(&ticket, &interface, args.ttl).await);
    }
    facts.heard = listen::listen(&ticket, &interface, args.wait).await;
    let mut ways: Vec<String> = args.to.iter().map(|to| to.0.clone()).collect();
    if part == Part::Receives {
        ways.extend(ticket.senders.iter().cloned());
        // Who is heard can be asked, named or not.
        ways.extend(facts.heard.advertisement.as_ref().map(|told| told.takes_nacks_at.to_string()));
    }
    for way in ways {
        for reached in reach::reach(&ticket, part, &way, &interface, args).await {
            if facts.reached.iter().all(|known| known.address != reached.address || reached.address.is_none()) {
                facts.reached.push(reached);
            }
        }
    }
    facts
}

fn to_text(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let mark = match finding.verdict {
            Verdict::Fine => "ok   ",
            Verdict::Note => "note ",
            Verdict::Wrong => "WRONG",
        };
        let mend = finding.mend.iter().map(|mend| format!("\n      mend it: {mend}")).collect::<String>();
        format!("{mark} {}{mend}", finding.text)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}
