//! The map of a partial object: which blocks are verified, which symbols of open blocks are on disk.
//!
//! Its bytes, integers big-endian: magic, version u16, object id u64, size u64, symbol size u32, block size
//! u32, FEC u32; count u32 of verified ranges, each start u32 and end u32; count u32 of open blocks, each
//! block u32, a bitmap of its K source symbols (bit 0 of the first byte is ESI 0), count u16 of repair
//! symbols, each ESI u16 and slot u32; then BLAKE3 of all before. Nothing in them is trusted when read:
//! every number is checked against the layout.

use std::collections::BTreeMap;

use fixedbitset::FixedBitSet;
use nackcast_common::geometry::{Geometry, Layout};
use nackcast_common::ids::{Digest, ObjectId};
use nackcast_common::ranges::RangeSet;

const MAGIC: &[u8; 8] = b"nackpart";
const VERSION: u16 = 1;
const CHECKSUM_LEN: usize = 32;
/// Most repair symbols that the side file of one object holds; the store bounds all of them together.
pub(super) const SLOTS_MAX: u32 = 1 << 20;

/// The symbols on disk of a block that is not verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OpenBlock {
    /// Source symbols at their place.
    pub(super) source: FixedBitSet,
    /// Repair symbols: ESI, and place in the side file.
    pub(super) repair: BTreeMap<u16, u32>,
}

/// What a map says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) verified: RangeSet,
    pub(super) open: BTreeMap<u32, OpenBlock>,
}

/// A repair symbol that a map names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairPlace {
    /// Its block.
    pub block: u32,
    /// Which symbol it is.
    pub esi: u16,
    /// Its place in the side file, in symbols.
    pub slot: u32,
}

/// The repair symbols that a map's bytes name, for whoever checks that the side file has them; none when it is no map.
#[must_use]
pub fn repair_places(id: ObjectId, bytes: &[u8]) -> Option<Vec<RepairPlace>> {
    let (_, map) = Map::decode(id, bytes).ok()?;
    let of = |(block, open): (&u32, &OpenBlock)| {
        let block = *block;
        open.repair.iter().map(move |(esi, slot)| RepairPlace { block, esi: *esi, slot: *slot }).collect::<Vec<_>>()
    };
    Some(map.open.iter().flat_map(of).collect())
}

/// Why bytes are no map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Cut off, or changed since it was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// Written by another version.
    #[error("it has version {0}, which this nackcast does not read")]
    Version(u16),
    /// It speaks of another object.
    #[error("it belongs to another object")]
    OtherObject,
    /// It claims what cannot be.
    #[error("it claims what such an object cannot have")]
    Impossible,
    /// The data file it speaks of has another size or is no file.
    #[error("its data file is not the one it was written for")]
    Data,
}

impl Map {
    /// Every slot of the side file that the map names.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.open.values().flat_map(|b| b.repair.values().copied())
    }

    pub(super) fn encode(&self, id: ObjectId, layout: &Layout) -> Vec<u8> {
        let geometry = layout.geometry();
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&id.0.to_be_bytes());
        out.extend_from_slice(&layout.size().to_be_bytes());
        out.extend_from_slice(&u32::from(geometry.symbol_size()).to_be_bytes());
        out.extend_from_slice(&geometry.block_size().to_be_bytes());
        out.extend_from_slice(&u32::from(geometry.fec().id()).to_be_bytes());
        put_count(&mut out, self.verified.ranges().len());
        for range in self.verified.ranges() {
            out.extend_from_slice(&range.start.to_be_bytes());
            out.extend_from_slice(&range.end.to_be_bytes());
        }
        put_count(&mut out, self.open.len());
        for (block, open) in &self.open {
            out.extend_from_slice(&block.to_be_bytes());
            put_bits(&mut out, &open.source, usize::from(layout.source_symbols(*block)));
            let count = u16::try_from(open.repair.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&count.to_be_bytes());
            for (esi, slot) in open.repair.iter().take(count.into()) {
                out.extend_from_slice(&esi.to_be_bytes());
                out.extend_from_slice(&slot.to_be_bytes());
            }
        }
        let checksum = Digest::of(&out);
        out.extend_from_slice(&checksum.0);
        out
    }

    pub(super) fn decode(id: ObjectId, bytes: &[u8]) -> Result<(Layout, Self), MapError> {
        let end = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(MapError::Checksum)?;
        let (body, checksum) = bytes.split_at(end);
        if Digest::of(body).0 != checksum {
            return Err(MapError::Checksum);
        }
        let mut from = Reader { left: body };
        if from.take(MAGIC.len())? != MAGIC {
            return Err(MapError::Impossible);
        }
        let version = from.u16()?;
        if version != VERSION {
            return Err(MapError::Version(version));
        }
        if ObjectId(from.u64()?) != id {
            return Err(MapError::OtherObject);
        }
        let size = from.u64()?;
        let layout = Geometry::new(from.u32()?, from.u32()?, from.u32()?).and_then(|g| g.object(size));
        let layout = layout.map_err(|_| MapError::Impossible)?;
        let verified = read_verified(&mut from, &layout)?;
        let open = read_open(&mut from, &layout, &verified)?;
        if from.left.is_empty() { Ok((layout, Self { verified, open })) } else { Err(MapError::Impossible) }
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // Neither has more members than the object has blocks, and those are numbered by u32.
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_bits(out: &mut Vec<u8>, bits: &FixedBitSet, count: usize) {
    let start = out.len();
    out.resize(start + count.div_ceil(8), 0);
    for bit in bits.ones().take_while(|bit| *bit < count) {
        out[start + bit / 8] |= 1 << (bit % 8);
    }
}

fn read_verified(from: &mut Reader<'_>, layout: &Layout) -> Result<RangeSet, MapError> {
    let mut verified = RangeSet::new();
    let mut least = 0;
    for _ in 0..from.u32()? {
        let (start, end) = (from.u32()?, from.u32()?);
        if start < least || start >= end || end > layout.block_count() {
            return Err(MapError::Impossible);
        }
        // Ranges that touch would be one.
        least = end.saturating_add(1);
        verified.insert(start..end);
    }
    Ok(verified)
}

fn read_open(
    from: &mut Reader<'_>,
    layout: &Layout,
    verified: &RangeSet,
) -> Result<BTreeMap<u32, OpenBlock>, MapError> {
    let mut open = BTreeMap::new();
    let mut slots = std::collections::HashSet::new();
    for _ in 0..from.u32()? {
        let block = from.u32()?;
        let in_order = open.last_key_value().is_none_or(|(last, _)| *last < block);
        if !in_order || block >= layout.block_count() || verified.contains(block) {
            return Err(MapError::Impossible);
        }
        let source_count = layout.source_symbols(block);
        let source = from.bits(source_count.into())?;
        let mut repair = BTreeMap::new();
        for _ in 0..from.u16()? {
            let (esi, slot) = (from.u16()?, from.u32()?);
            let in_order = repair.last_key_value().is_none_or(|(last, _)| *last < esi);
            let sound = (source_count..layout.esi_end(block)).contains(&esi) && slot < SLOTS_MAX;
            if !in_order || !sound || !slots.insert(slot) {
                return Err(MapError::Impossible);
            }
            repair.insert(esi, slot);
        }
        open.insert(block, OpenBlock { source, repair });
    }
    Ok(open)
}

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], MapError> {
        let (taken, left) = self.left.split_at_checked(count).ok_or(MapError::Impossible)?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MapError> {
        self.take(N)?.try_into().map_err(|_| MapError::Impossible)
    }

    fn u16(&mut self) -> Result<u16, MapError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, MapError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, MapError> {
        self.array().map(u64::from_be_bytes)
    }

    fn bits(&mut self, count: usize) -> Result<FixedBitSet, MapError> {
        let bytes = self.take(count.div_ceil(8))?;
        let mut bits = FixedBitSet::with_capacity(count);
        for bit in (0..bytes.len() * 8).filter(|bit| bytes[bit / 8] & (1 << (bit % 8)) != 0) {
            if bit >= count {
                return Err(MapError::Impossible);
            }
            bits.insert(bit);
        }
        Ok(bits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: ObjectId = ObjectId(7);

    fn layout() -> Layout {
        Geometry::new(100, 1024, 1).unwrap().object(20 * 1024 - 50).unwrap()
    }

    prop_compose! {
        fn any_map()(
            verified in prop::collection::btree_set(0_u32..20, 0..20),
            open in prop::collection::btree_map(0_u32..20, prop::collection::btree_set(0_u16..40, 0..20), 0..20),
        ) -> Map {
            let layout = layout();
            let mut map = Map { verified: verified.into_iter().collect(), open: BTreeMap::new() };
            let mut slot = 0;
            for (block, esis) in open {
                let source_count = layout.source_symbols(block);
                if map.verified.contains(block) {
                    continue;
                }
                let source = FixedBitSet::with_capacity(source_count.into());
                let mut symbols = OpenBlock { source, repair: BTreeMap::new() };
                for esi in esis {
                    if esi < source_count {
                        symbols.source.insert(esi.into());
                    } else {
                        symbols.repair.insert(esi, slot);
                        slot += 3;
                    }
                }
                map.open.insert(block, symbols);
            }
            map
        }
    }

    proptest! {
        #[test]
        fn maps_survive_the_disk(map in any_map()) {
            let bytes = map.encode(ID, &layout());
            prop_assert_eq!(Map::decode(ID, &bytes), Ok((layout(), map)));
            prop_assert_eq!(Map::decode(ObjectId(8), &bytes), Err(MapError::OtherObject));
        }

        #[test]
        fn any_changed_byte_is_noticed(map in any_map(), at: prop::sample::Index, by in 1_u8..) {
            let mut bytes = map.encode(ID, &layout());
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert_eq!(Map::decode(ID, &bytes), Err(MapError::Checksum));
            bytes.truncate(at);
            prop_assert_eq!(Map::decode(ID, &bytes), Err(MapError::Checksum));
        }

        #[test]
        fn a_well_sealed_lie_is_refused_or_possible(map in any_map(), at: prop::sample::Index, by in 1_u8..) {
            let mut bytes = map.encode(ID, &layout());
            bytes.truncate(bytes.len() - CHECKSUM_LEN);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            let checksum = Digest::of(&bytes);
            bytes.extend_from_slice(&checksum.0);
            if let Ok((layout, map)) = Map::decode(ID, &bytes) {
                prop_assert!(map.verified.iter().all(|b| b < layout.block_count()));
                prop_assert!(map.open.keys().all(|b| *b < layout.block_count() && !map.verified.contains(*b)));
                prop_assert_eq!(map.encode(ID, &layout), bytes);
            }
        }
    }
}
