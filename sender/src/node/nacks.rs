//! Opens what comes to a channel's NACK port: NACKs of receivers, probes of other senders and their answers.
//!
//! A flood does no harm: what is not ours costs one look or one try to open. Keys are kept of runs whose NACK
//! opened, and of no others, so that garbage cannot push them out.
//!
//! Senders hold the secrets of all epochs, and take what is near theirs: while an epoch begins, one may be ahead of
//! another. Which NACKs still count is the node's to say.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nackcast_common::epochs::Epochs;
use nackcast_common::ids::{Epoch, RunId};
use nackcast_common::keys::Flow;
use nackcast_common::seal::FlowKey;
use nackcast_proto::wire::header::{self, DatagramType, Header};
use nackcast_proto::wire::limits::DATAGRAM_LEN_MAX;
use nackcast_proto::wire::{Nack, ProbeKind};

/// Runs of receivers whose key is kept.
const KEYS_MAX: usize = 4096;

/// A NACK that opened and parsed, for [`super::SenderNode::handle_nack`].
#[derive(Clone, Debug)]
pub struct HeardNack {
    /// Where it came from.
    pub from: SocketAddr,
    /// The receiver's run that sealed it.
    pub run: RunId,
    /// Its packet number.
    pub packet: u64,
    /// The epoch that sealed it.
    pub epoch: Epoch,
    /// What it says.
    pub nack: Nack,
}

/// A probe or its answer that opened. It is not verified yet.
#[derive(Clone, Debug)]
pub struct HeardProbe {
    /// Where it came from.
    pub from: SocketAddr,
    /// Which of the two.
    pub kind: ProbeKind,
    /// The run that sealed it.
    pub session: u64,
    /// The signed message.
    pub body: Vec<u8>,
}

/// What opened.
#[derive(Clone, Debug)]
pub enum Heard {
    /// Of a receiver.
    Nack(Box<HeardNack>),
    /// Of another sender.
    Probe(HeardProbe),
}

/// Why a datagram came to nothing. The caller counts it and drops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// By its header it is not for this port.
    #[error("the datagram is neither NACK nor probe")]
    Malformed,
    /// The channel's key does not open it; another channel's may.
    #[error("the channel's key does not open the datagram")]
    Unopened,
    /// It opened, and does not parse or names another channel.
    #[error("the NACK does not parse, or names another channel")]
    Invalid,
}

/// What opens a channel's NACKs. It stands beside the node, so that one socket may serve the openers of several
/// channels, on a task of its own.
#[derive(Debug)]
pub struct NackOpener {
    epochs: Epochs,
    keys: BTreeMap<(RunId, Epoch), Known>,
    clock: u64,
}

#[derive(Debug)]
struct Known {
    key: FlowKey,
    used: u64,
}

impl NackOpener {
    /// One that knows no receiver yet.
    #[must_use]
    pub const fn new(epochs: Epochs) -> Self {
        Self { epochs, keys: BTreeMap::new(), clock: 0 }
    }

    /// Opens a datagram from the NACK port. Its bytes are worth nothing afterwards.
    ///
    /// # Errors
    /// When it is nothing that this channel takes on its NACK port.
    pub fn open(&mut self, from: SocketAddr, datagram: &mut [u8]) -> Result<Heard, Refused> {
        let head = Header::read(datagram).map_err(|_| Refused::Malformed)?;
        if datagram.len() > DATAGRAM_LEN_MAX {
            return Err(Refused::Malformed);
        }
        let (run, session) = (RunId(head.session), head.session);
        match head.datagram_type {
            DatagramType::Nack => {
                let channel = self.epochs.channel();
                let (epoch, body) = self.unseal(run, &head, datagram).ok_or(Refused::Unopened)?;
                match Nack::decode(body) {
                    Ok(nack) if nack.channel == channel => {
                        let nack = HeardNack { from, run, packet: head.packet_number, epoch, nack };
                        Ok(Heard::Nack(Box::new(nack)))
                    }
                    Ok(_) | Err(_) => Err(Refused::Invalid),
                }
            }
            DatagramType::Probe => {
                let body = self.unseal(run, &head, datagram).ok_or(Refused::Unopened)?.1.to_vec();
                Ok(Heard::Probe(HeardProbe { from, kind: ProbeKind::Question, session, body }))
            }
            DatagramType::ProbeAnswer => {
                let (_, secret) = self.epochs.by_low(head.epoch_low).ok_or(Refused::Unopened)?;
                let key = secret.flow_key(self.epochs.channel(), session, Flow::ToReceiver);
                let body = key.open_in_place(head.packet_number, header::LEN, datagram);
                let body = body.map_err(|_| Refused::Unopened)?.to_vec();
                Ok(Heard::Probe(HeardProbe { from, kind: ProbeKind::Answer, session, body }))
            }
            DatagramType::Advertisement
            | DatagramType::Digest
            | DatagramType::Symbol
            | DatagramType::StreamSymbol
            | DatagramType::NackAnswer => Err(Refused::Malformed),
        }
    }

    fn unseal<'a>(&mut self, run: RunId, head: &Header, datagram: &'a mut [u8]) -> Option<(Epoch, &'a [u8])> {
        self.clock += 1;
        let epoch = self.epochs.named(head.epoch_low)?;
        if let Some(known) = self.keys.get_mut(&(run, epoch)) {
            let body = known.key.open_in_place(head.packet_number, header::LEN, datagram).ok()?;
            known.used = self.clock;
            return Some((epoch, body));
        }
        let key = self.epochs.secret(epoch)?.flow_key(self.epochs.channel(), run.0, Flow::ToSender);
        let body = key.open_in_place(head.packet_number, header::LEN, datagram).ok()?;
        self.epochs.heard(epoch);
        self.remember((run, epoch), key);
        Some((epoch, body))
    }

    fn remember(&mut self, run: (RunId, Epoch), key: FlowKey) {
        if self.keys.len() >= KEYS_MAX {
            let oldest = self.keys.iter().min_by_key(|(_, known)| known.used).map(|(run, _)| *run);
            oldest.and_then(|oldest| self.keys.remove(&oldest));
        }
        self.keys.insert(run, Known { key, used: self.clock });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use nackcast_common::ids::ChannelId;
    use nackcast_common::keys::{EpochSecret, SenderMaster};

    use super::*;

    /// A NACK as a receiver's run seals it.
    pub(crate) fn sealed(secret: &EpochSecret, channel: ChannelId, run: u64, number: u64) -> Vec<u8> {
        let head = Header {
            datagram_type: DatagramType::Nack,
            flow: Flow::ToSender,
            epoch_low: 1,
            session: run,
            packet_number: number,
        };
        let body = Nack { channel, time: number, ..Nack::default() }.encode();
        let mut datagram = Vec::new();
        head.seal(&secret.flow_key(channel, run, Flow::ToSender), &body, &mut datagram);
        datagram
    }

    fn from() -> SocketAddr {
        "192.0.2.1:4000".parse().unwrap()
    }

    #[test]
    fn keys_are_kept_of_so_many_runs_and_the_oldest_goes() {
        let (secret, channel) = (EpochSecret::generate(), ChannelId([1; 16]));
        let mut opener = NackOpener::new(Epochs::of_secret(channel, Epoch(1), secret.clone()));
        for run in 0..KEYS_MAX as u64 + 10 {
            opener.open(from(), &mut sealed(&secret, channel, run, 0)).unwrap();
        }
        assert_eq!(opener.keys.len(), KEYS_MAX);
        let knows = |run| opener.keys.contains_key(&(RunId(run), Epoch(1)));
        assert!(!knows(0) && knows(4000));
        opener.open(from(), &mut sealed(&secret, channel, 0, 1)).unwrap();
    }

    #[test]
    fn a_run_has_a_key_in_each_epoch_and_the_node_hears_which() {
        let (master, channel) = (SenderMaster::generate(), ChannelId([1; 16]));
        let mut opener = NackOpener::new(Epochs::of_master(channel, master.clone(), Epoch(0x101)));
        let Heard::Nack(heard) =
            opener.open(from(), &mut sealed(&master.epoch(channel, Epoch(0x101)), channel, 5, 0)).unwrap()
        else {
            panic!("a NACK")
        };
        assert_eq!(heard.epoch, Epoch(0x101));
        let head = Header {
            datagram_type: DatagramType::Nack,
            flow: Flow::ToSender,
            epoch_low: 2,
            session: 5,
            packet_number: 1,
        };
        let key = master.epoch(channel, Epoch(0x102)).flow_key(channel, 5, Flow::ToSender);
        let mut next = Vec::new();
        head.seal(&key, &Nack { channel, ..Nack::default() }.encode(), &mut next);
        let Heard::Nack(heard) = opener.open(from(), &mut next).unwrap() else { panic!("a NACK") };
        assert_eq!((heard.epoch, opener.keys.len()), (Epoch(0x102), 2));
    }

    #[test]
    fn what_is_not_ours_is_refused_and_leaves_no_key() {
        let (secret, channel) = (EpochSecret::generate(), ChannelId([1; 16]));
        let mut opener = NackOpener::new(Epochs::of_secret(channel, Epoch(0x101), secret.clone()));
        let mut bent = sealed(&secret, channel, 78, 1);
        bent[30] ^= 1;
        let stranger = sealed(&EpochSecret::generate(), channel, 78, 1);
        let too_long = vec![0; DATAGRAM_LEN_MAX + 1];
        for (mut datagram, refused) in [
            (Vec::new(), Refused::Malformed),
            (vec![0x55; 300], Refused::Malformed),
            (too_long, Refused::Malformed),
            (bent, Refused::Unopened),
            (stranger, Refused::Unopened),
        ] {
            assert_eq!(opener.open(from(), &mut datagram).unwrap_err(), refused);
        }
        assert!(opener.keys.is_empty());
    }
}
