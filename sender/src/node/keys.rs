//! One session's keys and packet numbers: what leaves is sealed here, as bytes.
//!
//! Datagrams are built where they are sent from, in a buffer that is reused. A batch of symbols is built there too:
//! for each symbol header, prefix, bytes (the last source symbol padded with zeros) and tag, all of one size, so
//! that the whole batch is one GSO send.

use nackcast_common::epochs::Epochs;
use nackcast_common::ids::{Epoch, SessionId};
use nackcast_common::keys::Flow;
use nackcast_common::seal::{FlowKey, PacketNumbers};
use nackcast_proto::wire::header::{self, DatagramType, Header};
use nackcast_proto::wire::symbol::{self, PREFIX_LEN, SymbolId};

use super::blocks::Block;
use crate::engine::SymbolRun;

/// The keys and packet numbers of one session.
#[derive(Debug)]
pub(super) struct SessionKeys {
    pub(super) session: SessionId,
    epoch: Epoch,
    advertisement: FlowKey,
    data: FlowKey,
    answer: FlowKey,
    /// To other senders, as a receiver's run seals its NACKs.
    question: FlowKey,
    advertisements: PacketNumbers,
    answers: PacketNumbers,
    questions: PacketNumbers,
}

impl SessionKeys {
    /// Those of a session that nobody had before: its packet numbers begin at zero.
    /// None when the secret of the epoch is not at hand.
    pub(super) fn new(epochs: &Epochs, epoch: Epoch, session: SessionId) -> Option<Self> {
        let secret = epochs.secret(epoch)?;
        let key = |flow| secret.flow_key(epochs.channel(), session.0, flow);
        Some(Self {
            session,
            epoch,
            advertisement: key(Flow::Advertisement),
            data: key(Flow::Data),
            answer: key(Flow::ToReceiver),
            question: key(Flow::ToSender),
            advertisements: PacketNumbers::new(),
            answers: PacketNumbers::new(),
            questions: PacketNumbers::new(),
        })
    }

    /// Whether one of the control flows used its packet numbers up; the engine watches the data flow's.
    pub(super) const fn must_roll(&self) -> bool {
        self.advertisements.must_roll() || self.answers.must_roll() || self.questions.must_roll()
    }

    /// Makes `out` a datagram of the advertisement group.
    pub(super) fn seal_advertised(&mut self, datagram_type: DatagramType, body: &[u8], out: &mut Vec<u8>) {
        let number = self.advertisements.take(1).start;
        self.header(datagram_type, number).seal(&self.advertisement, body, out);
    }

    /// Makes `out` an answer to a receiver, or to another sender.
    pub(super) fn seal_answer(&mut self, datagram_type: DatagramType, body: &[u8], out: &mut Vec<u8>) {
        let number = self.answers.take(1).start;
        self.header(datagram_type, number).seal(&self.answer, body, out);
    }

    /// Makes `out` a question to another sender, or a NACK that is forwarded to it.
    pub(super) fn seal_question(&mut self, datagram_type: DatagramType, body: &[u8], out: &mut Vec<u8>) {
        let number = self.questions.take(1).start;
        self.header(datagram_type, number).seal(&self.question, body, out);
    }

    fn header(&self, datagram_type: DatagramType, packet_number: u64) -> Header {
        let session = self.session.0;
        Header { datagram_type, flow: datagram_type.flow(), epoch_low: self.epoch.low(), session, packet_number }
    }

    /// Fills `out` with the run's datagrams, and gives the size of each; none when the block has not all of them.
    pub(super) fn fill_batch(&self, run: &SymbolRun, block: &Block, out: &mut Vec<u8>) -> Option<usize> {
        let size = symbol::datagram_len(block.symbol_size);
        out.clear();
        // Padding and tags are the zeros that are not written over.
        out.resize(run.esis.len() * size, 0);
        for ((esi, packet_number), datagram) in run.esis.clone().zip(run.first_packet..).zip(out.chunks_exact_mut(size))
        {
            let bytes = block.symbol(esi)?;
            self.header(DatagramType::Symbol, packet_number).write(datagram.first_chunk_mut()?);
            let id = SymbolId { object: run.object, block: run.block, esi };
            id.write(datagram.get_mut(header::LEN..)?.first_chunk_mut()?);
            datagram.get_mut(header::LEN + PREFIX_LEN..)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
            self.data.seal_in_place(packet_number, header::LEN, datagram);
        }
        Some(size)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use nackcast_common::geometry::Geometry;
    use nackcast_common::ids::{ChannelId, ObjectId};
    use nackcast_common::keys::EpochSecret;
    use proptest::prelude::*;

    use super::*;
    use crate::node::blocks::{Blocks, Request};

    const CHANNEL: ChannelId = ChannelId([3; 16]);
    const SESSION: SessionId = SessionId(0x5e55);
    const OBJECT: ObjectId = ObjectId(0x0102_0304);

    fn keys(secret: &EpochSecret, epoch: Epoch) -> SessionKeys {
        SessionKeys::new(&Epochs::of_secret(CHANNEL, epoch, secret.clone()), epoch, SESSION).unwrap()
    }

    fn prepared(bytes: &[u8]) -> Block {
        let layout = Geometry::new(64, 4096, 1).unwrap().object(bytes.len() as u64).unwrap();
        let Request::Make(order) = Blocks::default().request((OBJECT, 0), true) else { panic!("nothing is at hand") };
        order.make(|_| Ok((layout, Bytes::copy_from_slice(bytes)))).result.unwrap()
    }

    proptest! {
        #[test]
        fn each_datagram_of_a_batch_opens_and_holds_its_symbol(
            bytes in proptest::collection::vec(any::<u8>(), 1..4096),
            repair: bool,
            start in 0_u16..200,
            count in 1_u16..40,
            first_packet in 0_u64..1 << 31,
        ) {
            let secret = EpochSecret::generate();
            let keys = keys(&secret, Epoch(0x1234));
            let block = prepared(&bytes);
            let k = block.source_symbols;
            let start = if repair { k + start } else { start % k };
            let end = if repair { start + count } else { (start + count).min(k) };
            let run = SymbolRun { object: OBJECT, block: 0, esis: start..end, first_packet };
            let mut out = vec![0xff; 100_000];
            let size = keys.fill_batch(&run, &block, &mut out).unwrap();
            prop_assert_eq!(out.len(), size * run.esis.len());
            let key = secret.flow_key(CHANNEL, SESSION.0, Flow::Data);
            for ((esi, number), datagram) in run.esis.zip(first_packet..).zip(out.chunks_exact_mut(size)) {
                let head = Header::read(datagram).unwrap();
                prop_assert_eq!((head.datagram_type, head.session), (DatagramType::Symbol, SESSION.0));
                prop_assert_eq!((head.packet_number, head.epoch_low), (number, 0x34));
                let body = key.open_in_place(number, header::LEN, datagram).unwrap();
                let (id, symbol) = SymbolId::read(body).unwrap();
                prop_assert_eq!(id, SymbolId { object: OBJECT, block: 0, esi });
                let expected = block.symbol(esi).unwrap();
                prop_assert_eq!(&symbol[..expected.len()], expected);
                prop_assert!(symbol.len() == 64 && symbol[expected.len()..].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn a_symbol_that_was_not_prepared_makes_no_batch() {
        let keys = keys(&EpochSecret::generate(), Epoch(1));
        let block = prepared(&[1; 100]);
        let run = SymbolRun { object: OBJECT, block: 0, esis: 257..260, first_packet: 0 };
        assert_eq!(keys.fill_batch(&run, &block, &mut Vec::new()), None);
    }

    #[test]
    fn control_datagrams_open_with_their_flows_and_numbers() {
        let secret = EpochSecret::generate();
        let mut keys = keys(&secret, Epoch(1));
        for number in 0..3 {
            // What the buffer held before is gone.
            let (mut digest, mut answer) = (vec![7; 3], vec![7; 3000]);
            keys.seal_advertised(DatagramType::Digest, b"body", &mut digest);
            keys.seal_answer(DatagramType::NackAnswer, b"body", &mut answer);
            for (mut datagram, flow) in [(digest, Flow::Advertisement), (answer, Flow::ToReceiver)] {
                let head = Header::read(&datagram).unwrap();
                assert_eq!((head.flow, head.packet_number), (flow, number));
                let key = secret.flow_key(CHANNEL, head.session, flow);
                assert_eq!(key.open_in_place(number, header::LEN, &mut datagram).unwrap(), b"body");
            }
        }
    }
}
