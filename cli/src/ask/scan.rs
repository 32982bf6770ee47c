//! `nackcast scan` and `publish`.

use nackcast_proto::rpc::{PublishRequest, ScanRequest, ScanResponse, ScanResult};
use serde::Serialize;

use super::with_node;
use crate::args::{PublishArgs, ScanArgs};
use crate::failure::{Failure, one_line};
use crate::output::{print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Printed {
    results: Vec<PrintedResult>,
}

#[derive(Serialize)]
struct PrintedResult {
    channel: String,
    generation: u64,
    changed: bool,
    missing: u64,
    damaged: u64,
    problems: Vec<String>,
}

impl From<ScanResult> for PrintedResult {
    fn from(result: ScanResult) -> Self {
        let ScanResult { channel, generation, changed, missing, damaged, problems } = result;
        Self { channel, generation, changed, missing, damaged, problems }
    }
}

/// `nackcast scan`.
pub(crate) fn scan(args: ScanArgs) -> Result<(), Failure> {
    let request = ScanRequest { channel: args.channel.unwrap_or_default(), deep: args.deep };
    let response =
        with_node(&args.node, async |node| node.admin().scan(request).await.map_err(|status| node.refused(&status)));
    show(response?.into_inner(), args.node.json)
}

/// `nackcast publish`.
pub(crate) fn publish(args: PublishArgs) -> Result<(), Failure> {
    let request = PublishRequest { channel: args.channel.unwrap_or_default(), allow_empty: args.allow_empty };
    let response =
        with_node(&args.node, async |node| node.admin().publish(request).await.map_err(|status| node.refused(&status)));
    show(response?.into_inner(), args.node.json)
}

fn show(response: ScanResponse, json: bool) -> Result<(), Failure> {
    let results: Vec<_> = response.results.into_iter().map(PrintedResult::from).collect();
    if json {
        return print_json(&Printed { results });
    }
    print(&results.iter().map(to_text).collect::<Vec<_>>().join("\n"))
}

fn to_text(result: &PrintedResult) -> String {
    let changed = if result.changed { "changed" } else { "unchanged" };
    let mut text = format!(
        "{}: generation {}, {changed}, {} missing, {} damaged",
        one_line(&result.channel),
        result.generation,
        result.missing,
        result.damaged
    );
    for problem in &result.problems {
        text.push_str("\n  ");
        text.push_str(&one_line(problem));
    }
    text
}
