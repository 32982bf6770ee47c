//! `nackcast pause`, `resume`, `drain`, `rate` and `resend`: what a sender is told.

use nackcast_common::units::counted;
use nackcast_proto::rpc::admin_client::AdminClient;
use nackcast_proto::rpc::{RateRequest, ResendRequest, SteerRequest, SteerResponse};
use serde::Serialize;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::with_node;
use crate::args::{RateArgs, ResendArgs, SteerArgs};
use crate::failure::Failure;
use crate::output::{print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Done {
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<u64>,
}

fn steer(
    args: SteerArgs,
    call: impl AsyncFnOnce(&mut AdminClient<Channel>, SteerRequest) -> Result<Response<SteerResponse>, Status>,
    text: &str,
) -> Result<(), Failure> {
    let request = SteerRequest { channel: args.channel.unwrap_or_default() };
    with_node(&args.node, async |node| call(&mut node.admin(), request).await.map_err(|status| node.refused(&status)))?;
    say(text, None, args.node.json)
}

fn say(text: &str, objects: Option<u64>, json: bool) -> Result<(), Failure> {
    if json { print_json(&Done { done: true, objects }) } else { print(text) }
}

/// `nackcast pause`.
pub(crate) fn pause(args: SteerArgs) -> Result<(), Failure> {
    steer(args, async |admin, request| admin.pause(request).await, "paused: `nackcast resume` goes on")
}

/// `nackcast resume`.
pub(crate) fn resume(args: SteerArgs) -> Result<(), Failure> {
    steer(args, async |admin, request| admin.resume(request).await, "resumed")
}

/// `nackcast drain`.
pub(crate) fn drain(args: SteerArgs) -> Result<(), Failure> {
    let text = "draining: running jobs are finished and none is started; `nackcast resume` goes on";
    steer(args, async |admin, request| admin.drain(request).await, text)
}

/// `nackcast rate`.
pub(crate) fn rate(args: RateArgs) -> Result<(), Failure> {
    let rate = args.rate.to_string();
    let request = RateRequest { channel: args.channel.unwrap_or_default(), rate: rate.clone() };
    with_node(&args.node, async |node| node.admin().rate(request).await.map_err(|status| node.refused(&status)))?;
    say(&format!("rate {rate}, until the node restarts"), None, args.node.json)
}

/// `nackcast resend`.
pub(crate) fn resend(args: ResendArgs) -> Result<(), Failure> {
    let request = ResendRequest { channel: args.channel.unwrap_or_default(), objects: args.objects };
    let response =
        with_node(&args.node, async |node| node.admin().resend(request).await.map_err(|status| node.refused(&status)));
    let objects = response?.into_inner().objects;
    say(&format!("a new round begins for {}", counted(objects, "object")), Some(objects), args.node.json)
}
