//! What an admin asks of a receiver.

use std::collections::{BTreeMap, BTreeSet};

use nackcast_common::control::{Ask, ObjectRow, ROWS_MAX, Refusal};
use nackcast_common::ids::{ObjectId, ObjectIndex};
use nackcast_common::manifest::{Content, EntryKind, Manifest};

use super::{ReceiverNode, ScanRequest};

/// What only a sender does.
const SENDERS_ONLY: Refusal = Refusal::NotHere("this node receives: only a sender can do that");

impl ReceiverNode {
    /// What an admin asks. Whoever asked may be gone by now.
    pub fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Scan { deep, reply, .. } => self.scan(ScanRequest { deep, answer: reply }),
            Ask::Objects { after, busy, limit, reply } => {
                drop(reply.send(Ok(self.objects(after, busy, limit.min(ROWS_MAX)))));
            }
            Ask::Resend { reply, .. } => drop(reply.send(Err(SENDERS_ONLY))),
            Ask::Rate(_, reply) | Ask::Steer(_, reply) | Ask::Admit(_, reply) => drop(reply.send(Err(SENDERS_ONLY))),
            Ask::Receivers { reply, .. } => drop(reply.send(Err(SENDERS_ONLY))),
        }
    }

    /// Objects behind `after`, in the order of the manifest.
    fn objects(&self, after: Option<u64>, busy: bool, limit: usize) -> Vec<ObjectRow> {
        let Some(manifest) = &self.manifest else { return Vec::new() };
        let from = after.and_then(|id| manifest.index_of(ObjectId(id))).map_or(0, |index| index.as_usize() + 1);
        let objects = (0_u32..).map(ObjectIndex).zip(manifest.objects()).skip(from);
        let row = |(index, object): (ObjectIndex, &nackcast_common::manifest::ObjectRecord)| {
            let (state, bytes_done) = self.engine.object_state(index, object.id, object.layout.size());
            let row = ObjectRow {
                id: object.id.0,
                path: String::new(),
                bytes: object.layout.size(),
                state: state.to_owned(),
                passes: 0,
                bytes_done,
            };
            (!busy || state != "installed").then_some((index, row))
        };
        let rows: Vec<_> = objects.filter_map(row).take(limit).collect();
        let paths = paths(manifest, &rows.iter().map(|(index, _)| *index).collect());
        let named = |(index, row): (ObjectIndex, ObjectRow)| ObjectRow {
            path: paths.get(&index).cloned().unwrap_or_else(|| "(hash list)".to_owned()),
            ..row
        };
        rows.into_iter().map(named).collect()
    }
}

/// A file of each of these objects.
fn paths(manifest: &Manifest, wanted: &BTreeSet<ObjectIndex>) -> BTreeMap<ObjectIndex, String> {
    let mut paths = BTreeMap::new();
    for entry in manifest.entries() {
        if let EntryKind::File { content: Content::Object(index) | Content::Slice { pack: index, .. }, .. } =
            &entry.kind
            && wanted.contains(index)
        {
            paths.entry(*index).or_insert_with(|| entry.path.to_string());
        }
    }
    paths
}
