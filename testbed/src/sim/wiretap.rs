//! What the sender's datagrams say, for oracles: opened with the channel's secret, where they leave the sender.
//!
//! An oracle must not ask a node what was promised or answered; it reads along.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use nackcast_common::ids::{ChannelId, ObjectId, ObjectIndex};
use nackcast_common::keys::{EpochSecret, Flow, VerifyingKey};
use nackcast_common::manifest::Manifest;
use nackcast_common::seal::FlowKey;
use nackcast_proto::wire::symbol::SymbolId;
use nackcast_proto::wire::{Advertisement, DatagramType, DigestBody, Header, Nack, NackAnswer, header};

/// Signed datagrams that may still be under way, with what they say.
const KEPT_MAX: usize = 4096;
/// Keys of so many flows are kept: those of the last sessions.
const KEYS_MAX: usize = 16;

/// What a datagram of the sender says.
#[derive(Debug)]
pub enum Said {
    /// Who sends what.
    Advertisement(Box<Advertisement>),
    /// What is going to be sent.
    Digest(DigestBody),
    /// What becomes of a NACK.
    Answer(NackAnswer),
    /// Which symbol it is.
    Symbol(SymbolId),
}

/// Objects that a NACK asks for; `manifest` is the one that it speaks of.
#[must_use]
pub fn asked_for(nack: &Nack, manifest: Option<&Manifest>) -> Vec<ObjectId> {
    let object = |index| manifest.and_then(|m| m.object(ObjectIndex(index))).map(|object| object.id);
    let count = manifest.map_or(0, |m| u32::try_from(m.objects().len()).unwrap_or(u32::MAX));
    let places = nack.missing.iter().take_while(|index| *index < count).filter_map(object);
    let short = nack.short.iter().map(|short| short.object);
    places.chain(short).chain(nack.missing_ids.iter().copied()).collect()
}

/// Reads along.
#[derive(Debug)]
pub struct Wiretap {
    channel: ChannelId,
    secret: EpochSecret,
    publisher: VerifyingKey,
    sender: VerifyingKey,
    keys: VecDeque<((u64, Flow), FlowKey)>,
    /// By their bytes, so that nothing is taken for heard that was damaged on the way.
    kept: BTreeMap<Bytes, Arc<Said>>,
    order: VecDeque<Bytes>,
}

impl Wiretap {
    /// On a channel's only sender.
    #[must_use]
    pub const fn new(channel: ChannelId, secret: EpochSecret, publisher: VerifyingKey, sender: VerifyingKey) -> Self {
        Self {
            channel,
            secret,
            publisher,
            sender,
            keys: VecDeque::new(),
            kept: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// A datagram leaves the sender. Of what it says, all but symbols is kept for [`Wiretap::heard`].
    pub fn on_sent(&mut self, datagram: &Bytes) -> Option<Arc<Said>> {
        let said = Arc::new(self.open(datagram)?);
        if !matches!(*said, Said::Symbol(_)) {
            self.kept.insert(datagram.clone(), Arc::clone(&said));
            self.order.push_back(datagram.clone());
            if self.order.len() > KEPT_MAX
                && let Some(old) = self.order.pop_front()
            {
                self.kept.remove(&old);
            }
        }
        Some(said)
    }

    /// What a datagram that a receiver read says, if it is one of those that left the sender lately.
    #[must_use]
    pub fn heard(&self, datagram: &Bytes) -> Option<Arc<Said>> {
        self.kept.get(datagram).cloned()
    }

    fn open(&mut self, datagram: &Bytes) -> Option<Said> {
        let head = Header::read(datagram).ok()?;
        let mut copy = BytesMut::from(&datagram[..]);
        let (channel, publisher, sender) = (self.channel, self.publisher, self.sender);
        let body = self.key(head.session, head.flow).open_in_place(head.packet_number, header::LEN, &mut copy).ok()?;
        match head.datagram_type {
            DatagramType::Advertisement => {
                Some(Said::Advertisement(Box::new(Advertisement::decode(body, &publisher, channel).ok()?)))
            }
            DatagramType::Digest => Some(Said::Digest(DigestBody::decode(body, &sender, channel).ok()?)),
            DatagramType::NackAnswer => {
                let signed = NackAnswer::decode(body, Some(&sender));
                Some(Said::Answer(signed.or_else(|_| NackAnswer::decode(body, None)).ok()?))
            }
            DatagramType::Symbol => Some(Said::Symbol(SymbolId::read(body).ok()?.0)),
            DatagramType::StreamSymbol | DatagramType::Nack | DatagramType::Probe | DatagramType::ProbeAnswer => None,
        }
    }

    fn key(&mut self, session: u64, flow: Flow) -> &FlowKey {
        let of = (session, flow);
        let at = self.keys.iter().position(|(known, _)| *known == of).unwrap_or_else(|| {
            if self.keys.len() >= KEYS_MAX {
                self.keys.pop_front();
            }
            self.keys.push_back((of, self.secret.flow_key(self.channel, session, flow)));
            self.keys.len() - 1
        });
        &self.keys[at].1
    }
}
