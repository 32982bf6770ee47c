//! Blocks that are ready to be sent, or being made ready.
//!
//! [`Blocks`] keeps the book: a block is read once however many preparations of it run, and is dropped with the
//! last. [`Order::make`] does the work, wherever the driver wants it done: it reads, and encodes.

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use nackcast_common::fec::Encoder;
use nackcast_common::geometry::{FecScheme, Layout, REPAIR_SYMBOLS};
use nackcast_common::ids::ObjectId;

use crate::library::BlockError;

/// A block of an object.
pub type BlockId = (ObjectId, u32);

/// A verified block with its repair symbols, if they were wanted.
#[derive(Clone, Debug)]
pub(super) struct Block {
    scheme: FecScheme,
    pub(super) symbol_size: u16,
    /// K.
    pub(super) source_symbols: u16,
    source: Bytes,
    repair: Option<Bytes>,
}

impl Block {
    /// A symbol's bytes; the last source symbol may be short, to be padded with zeros.
    pub(super) fn symbol(&self, esi: u16) -> Option<&[u8]> {
        let size = usize::from(self.symbol_size);
        let (bytes, place) = match esi.checked_sub(self.source_symbols) {
            None => (&self.source, esi),
            Some(index) => (self.repair.as_ref()?, index),
        };
        let start = usize::from(place) * size;
        bytes.get(start..bytes.len().min(start + size)).filter(|symbol| !symbol.is_empty())
    }
}

/// A block to make ready: see [`Order::make`].
#[derive(Clone, Debug)]
pub struct Order {
    id: BlockId,
    repair: bool,
    /// Its source symbols, when they were read before.
    have: Option<Block>,
    ticket: u64,
}

/// An order that was carried out, for [`super::SenderNode::handle_made`].
#[derive(Debug)]
pub struct Made {
    pub(super) id: BlockId,
    pub(super) ticket: u64,
    pub(super) result: Result<Block, MakeError>,
}

/// Why a block cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// Its bytes are not to be had, or are not what the manifest says.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Only while a new generation takes over.
    #[error("the object is in no manifest that is served")]
    NoSuchObject,
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Request {
    /// It is at hand.
    Ready,
    /// Carry this out.
    Make(Order),
    /// It is being made.
    Wait,
}

/// What is prepared, and for how many.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    entries: HashMap<BlockId, Entry>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Entry {
    /// Preparations that were answered and not released.
    answered: usize,
    /// Preparations that wait; true: with repair symbols.
    waiting: Vec<bool>,
    block: Option<Block>,
    /// The order under way.
    ticket: Option<u64>,
}

impl Entry {
    fn serves(&self, repair: bool) -> bool {
        self.block.as_ref().is_some_and(|block| !repair || block.repair.is_some())
    }
}

impl Blocks {
    /// One more preparation.
    pub(super) fn request(&mut self, id: BlockId, repair: bool) -> Request {
        let entry = self.entries.entry(id).or_insert_with(|| Entry {
            answered: 0,
            waiting: Vec::new(),
            block: None,
            ticket: None,
        });
        if entry.serves(repair) {
            entry.answered += 1;
            return Request::Ready;
        }
        entry.waiting.push(repair);
        match entry.ticket {
            Some(_) => Request::Wait,
            None => Request::Make(self.order(id)),
        }
    }

    fn order(&mut self, id: BlockId) -> Order {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let entry = self.entries.get_mut(&id).expect("an order is made for an entry");
        entry.ticket = Some(ticket);
        Order { id, repair: entry.waiting.contains(&true), have: entry.block.clone(), ticket }
    }

    /// Takes what was made: how many preparations it answers, and what to make next of this block.
    pub(super) fn take(&mut self, made: Made) -> (usize, Option<Order>) {
        let Some(entry) = self.entries.get_mut(&made.id).filter(|entry| entry.ticket == Some(made.ticket)) else {
            // Released meanwhile.
            return (0, None);
        };
        entry.ticket = None;
        let Ok(block) = made.result else {
            let count = entry.waiting.len();
            entry.waiting.clear();
            entry.answered += count;
            return (count, None);
        };
        entry.block = Some(block);
        let with_repair = entry.serves(true);
        let before = entry.waiting.len();
        entry.waiting.retain(|repair| *repair && !with_repair);
        let count = before - entry.waiting.len();
        entry.answered += count;
        let more = !entry.waiting.is_empty();
        (count, more.then(|| self.order(made.id)))
    }

    /// One preparation is no longer needed; the block goes with the last.
    pub(super) fn release(&mut self, id: BlockId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        // A job releases what it sent, or everything that it asked for: then the order does not matter.
        if entry.answered > 0 {
            entry.answered -= 1;
        } else {
            entry.waiting.pop();
        }
        if entry.answered == 0 && entry.waiting.is_empty() {
            self.entries.remove(&id);
        }
    }

    pub(super) fn get(&self, id: BlockId) -> Option<&Block> {
        self.entries.get(&id)?.block.as_ref()
    }
}

thread_local! {
    /// Its work memory is kept between blocks.
    static ENCODER: RefCell<Encoder> = RefCell::new(Encoder::new());
}

impl Order {
    /// Which block it is.
    #[must_use]
    pub const fn id(&self) -> BlockId {
        self.id
    }

    pub(super) const fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Carries it out. `read` gives the object's layout and the block's bytes, which it has checked; it is not
    /// called when the bytes were read before and only repair symbols are wanted. Takes as long as reading and
    /// encoding a block do.
    pub fn make(self, read: impl FnOnce(BlockId) -> Result<(Layout, Bytes), MakeError>) -> Made {
        let Self { id, repair, have, ticket } = self;
        let source = match have {
            Some(block) => Ok(block),
            None => read(id).map(|(layout, bytes)| plain(layout, id.1, bytes)),
        };
        let result = source.map(|block| if repair { with_repair(block) } else { block });
        Made { id, ticket, result }
    }
}

fn plain(layout: Layout, block: u32, source: Bytes) -> Block {
    let (symbol_size, scheme) = (layout.geometry().symbol_size(), layout.geometry().fec());
    Block { scheme, symbol_size, source_symbols: layout.source_symbols(block), source, repair: None }
}

fn with_repair(mut block: Block) -> Block {
    if block.repair.is_none() && block.source_symbols > 0 {
        let scheme = block.scheme;
        let symbols = ENCODER.with_borrow_mut(|encoder| {
            encoder.encode(scheme, &block.source, block.source_symbols, block.symbol_size, 0..REPAIR_SYMBOLS)
        });
        block.repair = Some(symbols.into());
    }
    block
}

#[cfg(test)]
mod tests {
    use nackcast_common::geometry::Geometry;
    use nackcast_common::ids::Digest;

    use super::*;

    const PART: ObjectId = ObjectId(7);

    fn read(bytes: &'static [u8]) -> impl Fn(BlockId) -> Result<(Layout, Bytes), MakeError> {
        let layout = Geometry::new(64, 1024, 1).unwrap().object(bytes.len() as u64).unwrap();
        move |(object, _)| match object {
            PART => Ok((layout, Bytes::from_static(bytes))),
            _ => Err(MakeError::NoSuchObject),
        }
    }

    fn order(request: Request) -> Order {
        match request {
            Request::Make(order) => order,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_part_of_the_manifest_is_prepared_from_memory_with_its_repair_symbols() {
        let read = read(&[9; 1000]);
        let mut blocks = Blocks::default();
        let made = order(blocks.request((PART, 0), true)).make(&read);
        assert_eq!(blocks.take(made).0, 1);
        let block = blocks.get((PART, 0)).unwrap();
        assert_eq!(block.source_symbols, 16);
        assert_eq!(block.symbol(0).unwrap(), [9; 64]);
        assert_eq!(block.symbol(15).unwrap(), [9; 40], "the last one is short");
        let encoded = Encoder::new().encode(FecScheme::ReedSolomonLow, &[9; 1000], 16, 64, 0..REPAIR_SYMBOLS);
        assert_eq!(block.symbol(16 + 255).unwrap(), &encoded[255 * 64..]);
        assert_eq!(block.symbol(16 + 256), None);
    }

    #[test]
    fn a_block_is_made_once_for_several_and_goes_with_the_last() {
        let read = read(&[1; 100]);
        let mut blocks = Blocks::default();
        let first = order(blocks.request((PART, 0), false));
        assert!(matches!(blocks.request((PART, 0), false), Request::Wait));
        assert!(matches!(blocks.request((PART, 0), true), Request::Wait));
        let (answered, next) = blocks.take(first.make(&read));
        assert_eq!(answered, 2, "the third needs repair symbols");
        assert_eq!(blocks.take(next.unwrap().make(&read)).0, 1);
        assert!(matches!(blocks.request((PART, 0), true), Request::Ready));
        for left in (0..4).rev() {
            blocks.release((PART, 0));
            assert_eq!(blocks.get((PART, 0)).is_some(), left > 0);
        }
        blocks.release((PART, 0));
    }

    #[test]
    fn what_was_released_while_it_was_made_answers_nobody() {
        let read = read(&[1; 100]);
        let mut blocks = Blocks::default();
        let old = order(blocks.request((PART, 0), false));
        blocks.release((PART, 0));
        let new = order(blocks.request((PART, 0), false));
        assert_eq!(blocks.take(old.make(&read)).0, 0);
        assert!(blocks.get((PART, 0)).is_none());
        assert_eq!(blocks.take(new.make(&read)).0, 1);
    }

    #[test]
    fn what_is_not_there_fails_every_preparation_that_waits() {
        let mut blocks = Blocks::default();
        let missing = (ObjectId(Digest::of(b"other").prefix()), 0);
        let first = order(blocks.request(missing, false));
        assert!(matches!(blocks.request(missing, true), Request::Wait));
        let made = first.make(read(b"x"));
        assert!(made.result.is_err());
        assert!(matches!(blocks.take(made), (2, None)));
        blocks.release(missing);
        blocks.release(missing);
        assert!(blocks.entries.is_empty());
    }
}
