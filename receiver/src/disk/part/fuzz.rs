//! Fuzz target of the map of a partial object.

use std::collections::BTreeMap;

use fixedbitset::FixedBitSet;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{Digest, ObjectId};

use super::map::{Map, OpenBlock};

const ID: ObjectId = ObjectId(7);
const CHECKSUM_LEN: usize = 32;

/// A map: the input as it is, and with the checksum that makes it whole.
pub fn part_map(input: &[u8]) {
    let _as_it_is = Map::decode(ID, input).is_ok();
    let sealed = [input, &Digest::of(input).0].concat();
    if let Ok((layout, map)) = Map::decode(ID, &sealed) {
        // By ranges: few bytes can name more blocks than there is time to visit.
        assert!(map.verified.ranges().all(|range| range.end <= layout.block_count()), "no block beyond the end");
        assert!(map.open.keys().all(|block| !map.verified.contains(*block)), "no open block is verified");
        assert_eq!(map.encode(ID, &layout), sealed, "a map comes back as it was");
    }
}

/// Small valid maps without their checksum.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let layout = Geometry::new(100, 1024, 1).and_then(|g| g.object(20 * 1024 - 50)).expect("a sound layout");
    let mut source = FixedBitSet::with_capacity(layout.source_symbols(5).into());
    source.insert(2);
    let repair = BTreeMap::from([(layout.source_symbols(5), 0), (layout.source_symbols(5) + 3, 1)]);
    let open = BTreeMap::from([(5, OpenBlock { source, repair })]);
    let maps = [Map::default(), Map { verified: [0, 1, 2, 9].into_iter().collect(), open }];
    maps.iter()
        .map(|map| {
            let mut bytes = map.encode(ID, &layout);
            bytes.truncate(bytes.len() - CHECKSUM_LEN);
            bytes
        })
        .collect()
}
