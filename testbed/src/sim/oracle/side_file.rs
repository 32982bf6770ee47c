//! No map on a disk names a repair symbol that its side file lacks: a kill at this moment would make the next run
//! believe it.

use std::collections::BTreeMap;

use bytes::Bytes;
use nackcast_common::fec::Encoder;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;
use nackcast_common::manifest::Manifest;
use nackcast_common::path::PART_DIRECTORY;
use nackcast_receiver::disk::part::{RepairPlace, repair_places};

use super::Verdict;
use crate::sim::disk::{Disk, Shown, Stands};
use crate::sim::receiver::INTO;

/// The oracle, which knows the true bytes of all objects.
#[derive(Debug, Default)]
pub struct SideFile {
    truth: BTreeMap<ObjectId, (Layout, Bytes)>,
    /// Repair symbols that were made once, by object, block and index.
    made: BTreeMap<(ObjectId, u32, u16), Box<[u8]>>,
    /// Receiver and object: map and side file as they were looked at last.
    seen: BTreeMap<(u32, ObjectId), [Option<Stands>; 2]>,
    encoder: Encoder,
}

impl SideFile {
    /// A generation was published.
    pub fn learn(&mut self, manifest: &Manifest, objects: &BTreeMap<ObjectId, Bytes>) {
        for record in manifest.objects() {
            if let Some(bytes) = objects.get(&record.id) {
                self.truth.insert(record.id, (record.layout, bytes.clone()));
            }
        }
    }

    /// A look at a receiver's disk, which never rotted and never lied, and whose sender never lied.
    ///
    /// # Errors
    /// When a map names what is not there.
    pub fn look(&mut self, receiver: u32, disk: &Disk) -> Verdict {
        let directory = format!("{INTO}/{PART_DIRECTORY}");
        // No name begins with a slash: nothing is hidden.
        let shown = disk.shown(directory.as_bytes(), b"/");
        let ids: Vec<_> = shown.iter().filter_map(|one| object_of(&one.path)).collect();
        for id in ids {
            let stands = |suffix: &str| stands(&shown, &format!("{id}.{suffix}"));
            let now = [stands("map"), stands("repair")];
            if self.seen.get(&(receiver, id)) == Some(&now) {
                continue;
            }
            self.seen.insert((receiver, id), now);
            let bytes = |suffix: &str| disk.bytes_at(format!("{directory}/{id}.{suffix}").as_bytes());
            let places = bytes("map").and_then(|map| repair_places(id, &map)).unwrap_or_default();
            if places.is_empty() {
                continue;
            }
            let side = bytes("repair").unwrap_or_default();
            if let Some(wrong) = self.first_wrong(id, &places, &side) {
                let RepairPlace { block, esi, slot } = wrong;
                return Err(format!(
                    "receiver {receiver}: the map of object {id} names symbol {esi} of block {block}, and place {slot} \
                     of the side file has other bytes"
                ));
            }
        }
        Ok(())
    }

    fn first_wrong(&mut self, id: ObjectId, places: &[RepairPlace], side: &[u8]) -> Option<RepairPlace> {
        let (layout, bytes) = self.truth.get(&id)?;
        for place in places {
            let RepairPlace { block, esi, slot } = *place;
            let k = layout.source_symbols(block);
            let (size, index) = (layout.geometry().symbol_size(), esi.checked_sub(k)?);
            let key = (id, block, index);
            if !self.made.contains_key(&key) {
                let from = usize::try_from(layout.block_offset(block)).ok()?;
                let source = bytes.get(from..from + layout.block_len(block) as usize)?;
                // Those of a block stand side by side.
                let end = places.iter().filter(|p| p.block == block).map(|p| p.esi - k).max()? + 1;
                let made = self.encoder.encode(layout.geometry().fec(), source, k, size, index..end);
                for (index, symbol) in (index..end).zip(made.chunks(size.into())) {
                    self.made.insert((id, block, index), symbol.into());
                }
            }
            let start = slot as usize * usize::from(size);
            if side.get(start..start + usize::from(size)) != self.made.get(&key).map(|symbol| &symbol[..]) {
                return Some(*place);
            }
        }
        None
    }
}

fn object_of(name: &[u8]) -> Option<ObjectId> {
    let name = std::str::from_utf8(name).ok()?.strip_suffix(".map")?;
    u64::from_str_radix(name, 16).ok().map(ObjectId)
}

fn stands(shown: &[Shown], name: &str) -> Option<Stands> {
    shown.iter().find(|one| one.path == name.as_bytes()).map(|one| one.stands.clone())
}
