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

use std::collections::BTreeSet;

use nackcast_common::net::interface;
use nackcast_proto::ticket::Ticket;
use serde::Serialize;

use self::facts::Part;
use self::judge::{Finding, Verdict};
use crate::App;
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
pub(crate) fn run(args: &DoctorArgs, app: &App) -> Result<(), Failure> {
    let (ticket, part) = match &args.channel {
        Some(path) => (KeyFile::load(path)?.sender_ticket(), Part::Sends),
        None => (crate::receive::one_ticket(args.ticket.as_deref())?, Part::Receives),
    };
    let channel = ticket.name.clone();
    let mut report = Report { app, json: args.json, findings: Vec::new() };
    crate::block_on(examine(args, &ticket, part, &mut report))??;
    let findings = report.findings;
    let ok = findings.iter().all(|finding| finding.verdict != Verdict::Wrong);
    if args.json {
        print_json(&Printed { ok, channel, findings })?;
    }
    if ok { Ok(()) } else { Err(Failure::Reported) }
}

/// Tells people what is found as soon as it is, and programs all of it at the end.
#[derive(Debug)]
struct Report<'a> {
    app: &'a App,
    json: bool,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn tell(&mut self, found: Vec<Finding>) -> Result<(), Failure> {
        if !self.json {
            found.iter().try_for_each(|finding| print(&to_text(finding)))?;
        }
        self.findings.extend(found);
        Ok(())
    }

    /// What takes a while now.
    fn doing(&self, what: &str) {
        if !self.app.verbosity.quiet && !self.json {
            self.app.terminal.line(what);
        }
    }
}

async fn examine(args: &DoctorArgs, ticket: &Ticket, part: Part, report: &mut Report<'_>) -> Result<(), Failure> {
    let interface = interface::resolve(args.interface.as_deref(), ticket.advertise.ip());
    let mut facts = machine::look(ticket, part, interface.as_ref().ok(), args);
    let interface = match interface {
        Ok(interface) => interface,
        Err(error) => {
            facts.interface = Err(error.to_string());
            return report.tell(judge::of_machine(&facts));
        }
    };
    if part == Part::Sends {
        if facts.port.is_some() {
            facts.port_is_ours = reach::is_ours(ticket, machine::listen(args), args.wait).await;
        }
        facts.sent = Some(machine::send_one(ticket, &interface, args.ttl).await);
    }
    report.tell(judge::of_machine(&facts))?;
    let wait = humantime::format_duration(args.wait);
    report.doing(&format!("listening to {} on {} for {wait} ...", ticket.advertise, interface.name));
    facts.heard = listen::listen(ticket, &interface, args.wait).await;
    let mut ways: Vec<String> = args.to.iter().map(|to| to.0.clone()).collect();
    if part == Part::Receives {
        ways.extend(ticket.senders.iter().cloned());
        // Who is heard can be asked, named or not.
        ways.extend(facts.heard.advertisement.as_ref().map(|told| told.takes_nacks_at.to_string()));
        let mut seen = BTreeSet::new();
        ways.retain(|way| seen.insert(way.clone()));
    }
    for way in ways {
        report.doing(&format!("asking {way} ..."));
        for reached in reach::reach(ticket, part, &way, &interface, args).await {
            if facts.reached.iter().all(|known| known.address != reached.address || reached.address.is_none()) {
                report.tell(judge::of_way(&facts, &reached))?;
                facts.reached.push(reached);
            }
        }
    }
    report.tell(judge::of_hearing(&facts))
}

fn to_text(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Fine => "ok   ",
        Verdict::Note => "note ",
        Verdict::Wrong => "WRONG",
    };
    let mend = finding.mend.iter().map(|mend| format!("\n      mend it: {mend}")).collect::<String>();
    format!("{mark} {}{mend}", finding.text)
}
