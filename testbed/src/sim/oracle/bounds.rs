//! Every queue and table keeps to its bound.

use std::sync::Arc;

use nackcast_common::path::PART_DIRECTORY;

use super::Verdict;
use crate::sim::content::Edition;
use crate::sim::receiver::{INTO, Receiver, SLOT_BYTES, STATE};
use crate::sim::scenario::{ContentSpec, ReceiverSpec};

/// One thing that is bounded.
#[derive(Clone, Copy, Debug)]
pub struct Bounded {
    /// What it is.
    pub name: &'static str,
    /// How many there are.
    pub len: usize,
    /// How many there may be.
    pub most: usize,
}

impl Bounded {
    /// A look at it.
    ///
    /// # Errors
    /// When there is more of it than there may be.
    pub fn look(self) -> Verdict {
        let Self { name, len, most } = self;
        if len > most { Err(format!("{name}: {len} where {most} are allowed")) } else { Ok(()) }
    }
}

/// What a receiver keeps, in memory and on its disk; nothing while it does not run.
#[must_use]
pub fn of_receiver(
    receiver: &Receiver,
    spec: &ReceiverSpec,
    editions: &[Arc<Edition>],
    pulled_max: usize,
) -> Vec<Bounded> {
    let Some(node) = receiver.node() else { return Vec::new() };
    let most = |of: fn(&Edition) -> usize| editions.iter().map(|edition| of(edition)).max().unwrap_or(0);
    let objects = most(|edition| edition.manifest.objects().len());
    let entries = most(|edition| edition.manifest.entries().len());
    let files = |path: String| receiver.disk.shown(path.as_bytes(), b"\0").len();
    let mut all = vec![
        Bounded {
            name: "orders that wait for a receiver's workers",
            len: receiver.orders_waiting(),
            // Each slot's block has one order at most, each object one install; scans and looks beside; and pulled blocks.
            most: 2 * spec.slots as usize + objects + 16 + pulled_max,
        },
        Bounded {
            name: "files of what is partial",
            len: files(format!("{INTO}/{PART_DIRECTORY}")),
            // Of each object data, map, side file and the next map; of each entry a temporary.
            most: 4 * objects + entries,
        },
        Bounded {
            name: "files of a receiver's state",
            len: files(STATE.to_owned()),
            // Block hashes of each object; a root and its parts, of this manifest and of the next; directories.
            most: objects + 2 * entries + 16,
        },
    ];
    all.extend(node.engine().bounds().into_iter().map(|(name, len, most)| Bounded { name, len, most }));
    all
}

/// Blocks that may wait to be verified where receivers pull: a quarter of the memory, and what the last request adds.
#[must_use]
pub fn pulled_max(spec: &ReceiverSpec, content: &ContentSpec) -> usize {
    let memory = u64::from(spec.slots) * SLOT_BYTES / 4 + (2 << 20);
    usize::try_from(memory / u64::from(content.block_size)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_is_found() {
        let of = |len| Bounded { name: "things", len, most: 3 }.look();
        assert!(of(3).is_ok());
        assert_eq!(of(4), Err("things: 4 where 3 are allowed".to_owned()));
    }
}
