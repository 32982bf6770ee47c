//! Requests, each on a stream of its own, and their replies.

use std::ops::Range;

use bytes::Bytes;
use nackcast_common::ids::{Digest, Generation, ObjectId};
use prost::Message;

use super::hello::Peer;
use super::{BLOCKS_MAX, REQUEST_LEN_MAX};
use crate::pb;
use crate::pb::pull_request::What;
use crate::wire::{ManifestRef, Standing, WireError, require};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The manifest in force: answered by one [`Offer`].
    Manifest,
    /// Blocks of an object: answered by a [`Block`] for each that is there.
    Blocks {
        /// The object: of the table, a part of the manifest, or its root.
        object: ObjectId,
        /// Which of its blocks; not empty.
        blocks: Range<u32>,
    },
    /// What does the sender there do? Answered by one [`ProbeReply`].
    Probe {
        /// Of a sender that asks.
        asker: Option<Standing>,
    },
}

impl Request {
    /// As it goes on the stream.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let what = match self {
            Self::Manifest => What::Manifest(pb::ManifestRequest {}),
            Self::Blocks { object, blocks } => What::Blocks(pb::BlocksRequest {
                object: object.0,
                first: blocks.start,
                count: blocks.end.saturating_sub(blocks.start),
            }),
            Self::Probe { asker } => What::Probe(pb::ProbeRequest { standing: asker.map(Standing::to_pb) }),
        };
        pb::PullRequest { what: Some(what) }.encode_to_vec()
    }

    /// Parses a request.
    ///
    /// # Errors
    /// When it does not parse, asks for nothing, or for more than one request may.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        require(bytes.len() <= REQUEST_LEN_MAX, "request")?;
        match pb::PullRequest::decode(bytes)?.what.ok_or(WireError::Field("what"))? {
            What::Manifest(_) => Ok(Self::Manifest),
            What::Blocks(pb::BlocksRequest { object, first, count }) => {
                require((1..=BLOCKS_MAX).contains(&count), "count")?;
                let end = first.checked_add(count).ok_or(WireError::Field("first"))?;
                Ok(Self::Blocks { object: ObjectId(object), blocks: first..end })
            }
            What::Probe(probe) => Ok(Self::Probe { asker: probe.standing.map(Standing::from_pb).transpose()? }),
        }
    }
}

/// The manifest that a peer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its generation, as the peer says; the signed root tells.
    pub generation: Generation,
    /// How its root is named and cut.
    pub reference: ManifestRef,
    /// The signed root.
    pub root: Bytes,
}

impl Offer {
    /// The reply of a peer that has it, or has none.
    #[must_use]
    pub fn encode(offer: Option<&Self>) -> Vec<u8> {
        let message = offer.map_or_else(pb::ManifestReply::default, |offer| pb::ManifestReply {
            generation: offer.generation.0,
            manifest: Some(offer.reference.to_pb()),
            root: offer.root.clone(),
        });
        message.encode_to_vec()
    }

    /// Parses a reply; a root has the hash by which it is named.
    ///
    /// # Errors
    /// When it does not parse, or the root is another.
    pub fn decode(bytes: Bytes) -> Result<Option<Self>, WireError> {
        let message = pb::ManifestReply::decode(bytes)?;
        let Some(reference) = message.manifest.map(ManifestRef::from_pb).transpose()? else { return Ok(None) };
        require(message.root.len() == reference.length as usize, "root")?;
        require(Digest::of(&message.root) == reference.hash, "root")?;
        Ok(Some(Self { generation: Generation(message.generation), reference, root: message.root }))
    }
}

/// A block, as a peer has it: to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub block: u32,
    /// Its bytes.
    pub data: Bytes,
}

impl Block {
    /// As it goes on the stream.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        pb::BlockReply { block: self.block, data: self.data }.encode_to_vec()
    }

    /// Parses a reply.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let message = pb::BlockReply::decode(bytes)?;
        Ok(Self { block: message.block, data: message.data })
    }
}

/// What a peer says of itself when it is asked what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReply {
    /// None: a receiver, or a sender that does not go on.
    pub standing: Option<Standing>,
}

impl ProbeReply {
    /// As it goes on the stream.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        pb::ProbeReply { standing: self.standing.map(Standing::to_pb) }.encode_to_vec()
    }

    /// Parses a reply of `peer`.
    ///
    /// # Errors
    /// When it does not parse, or speaks for another sender than the one that the connection proved.
    pub fn decode(bytes: &[u8], peer: &Peer) -> Result<Self, WireError> {
        let message = pb::ProbeReply::decode(bytes)?;
        let standing = message.standing.map(Standing::from_pb).transpose()?;
        require(standing.is_none_or(|standing| peer.is(&standing)), "standing")?;
        Ok(Self { standing })
    }
}
