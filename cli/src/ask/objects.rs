//! `nackcast objects`.

use nackcast_common::units::ByteCount;
use nackcast_proto::rpc::{Object, ObjectsRequest};
use serde::Serialize;

use super::{table, with_node};
use crate::args::ObjectsArgs;
use crate::failure::{Failure, one_line};
use crate::output::{print, print_json};

/// Rows asked for at once.
const PAGE: u32 = 1000;

/// What `--json` prints.
#[derive(Serialize)]
struct Printed {
    objects: Vec<PrintedObject>,
}

#[derive(Serialize)]
struct PrintedObject {
    object: String,
    path: String,
    bytes: u64,
    bytes_done: u64,
    state: String,
    pass_count: u32,
}

impl From<Object> for PrintedObject {
    fn from(object: Object) -> Self {
        let Object { object, path, bytes, state, pass_count, bytes_done } = object;
        Self { object, path, bytes, bytes_done, state, pass_count }
    }
}

/// Runs the command.
pub(crate) fn run(args: ObjectsArgs) -> Result<(), Failure> {
    let channel = args.channel.unwrap_or_default();
    let objects = with_node(&args.node, async |node| {
        let (mut objects, mut after) = (Vec::new(), 0);
        while (objects.len() as u64) < args.limit {
            let limit = u32::try_from(args.limit - objects.len() as u64).map_or(PAGE, |left| left.min(PAGE));
            let request = ObjectsRequest { channel: channel.clone(), after, limit, busy: args.busy };
            let page = node.admin().objects(request).await.map_err(|status| node.refused(&status))?.into_inner();
            objects.extend(page.objects.into_iter().map(PrintedObject::from));
            after = page.next;
            if after == 0 {
                break;
            }
        }
        Ok(objects)
    })?;
    if args.node.json {
        return print_json(&Printed { objects });
    }
    let mut table = table(["OBJECT", "STATE", "PASSES", "SIZE", "HERE", "PATH"]);
    for object in &objects {
        table.add_row([
            object.object.clone(),
            object.state.clone(),
            object.pass_count.to_string(),
            ByteCount(object.bytes).to_string(),
            ByteCount(object.bytes_done).to_string(),
            one_line(&object.path),
        ]);
    }
    print(&table.trim_fmt())
}
