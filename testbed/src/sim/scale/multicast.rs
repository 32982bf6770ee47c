//! A multicast datagram, or a run of symbols, on its way to every receiver.

use nackcast_proto::wire::{Advertisement, DigestBody};
use nackcast_sender::engine::SymbolRun;

use super::loss::Losses;

#[derive(Debug)]
pub(super) enum Content {
    Advertisement(Box<Advertisement>),
    Digest(DigestBody),
    Symbols(SymbolRun),
}

#[derive(Debug)]
pub(super) struct Multicast {
    pub(super) content: Content,
    pub(super) count: u16,
    /// What each shared link lost of it.
    links: Vec<Vec<u16>>,
}

impl Multicast {
    pub(super) fn new(content: Content, links: &mut [Losses]) -> Self {
        let count = match &content {
            Content::Advertisement(_) | Content::Digest(_) => 1,
            Content::Symbols(run) => run.esis.end - run.esis.start,
        };
        let lost = |link: &mut Losses| {
            let mut lost = Vec::new();
            link.draw(count, &mut lost);
            lost
        };
        Self { links: links.iter_mut().map(lost).collect(), content, count }
    }

    /// Adds what the receiver's link lost to what was lost on its own.
    pub(super) fn add_shared(&self, receiver: usize, lost: &mut Vec<u16>) {
        if self.links.is_empty() {
            return;
        }
        let shared = &self.links[receiver % self.links.len()];
        if !shared.is_empty() {
            lost.extend_from_slice(shared);
            lost.sort_unstable();
            lost.dedup();
        }
    }
}
