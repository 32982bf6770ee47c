//! Datagrams in: opened with the key of their session and flow, parsed, verified, handed to the engine.
//!
//! Whatever does not fit is counted and dropped. Nothing is kept for a session before an advertisement of it
//! verified.

use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::SessionId;
use nackcast_common::keys::Flow;
use nackcast_proto::wire::symbol::SymbolId;
use nackcast_proto::wire::{Advertisement, DatagramType, DigestBody, Header, NackAnswer, header};

use super::ReceiverNode;
use crate::engine::Admission;

/// Nothing valid for so long, but datagrams that do not open: the ticket is probably wrong.
const WRONG_TICKET_AFTER: Duration = Duration::from_secs(3);

/// What was heard, in numbers, and what people were told of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Listening {
    /// Bytes of symbols that were kept.
    pub(super) received_bytes: u64,
    /// Of these, repair symbols.
    pub(super) repair_bytes: u64,
    /// Not used: no datagrams of ours.
    malformed: u64,
    /// Not used: no key opens them.
    unopened: u64,
    /// Not used: opened, but not acceptable.
    refused: u64,
    /// Not used: not signed by a sender of this channel.
    stranger: u64,
    pub(super) opened_at: Option<Time>,
    unopened_since: Option<Time>,
    pub(super) told_wrong_ticket: bool,
    told_other_channel: bool,
}

impl ReceiverNode {
    /// A datagram of the advertisement group.
    pub fn handle_advertisement_datagram(&mut self, now: Time, from: SocketAddr, datagram: &mut [u8]) {
        let header = Header::read(datagram).ok().filter(|header| header.flow == Flow::Advertisement);
        let Some(header) = header else {
            self.listening.malformed += 1;
            return;
        };
        let (packet, session) = (header.packet_number, SessionId(header.session));
        let opened = match self.keys.get(header.session) {
            Some(keys) => keys.advertisement.open_in_place(packet, header::LEN, datagram).ok(),
            None => self
                .keys
                .of_advertisements(header.epoch_low, header.session)
                .and_then(|(_, key)| key.open_in_place(packet, header::LEN, datagram).ok()),
        };
        let Some(body) = opened else {
            self.unopened(now, from, header.epoch_low);
            return;
        };
        let ticket = &self.config.ticket;
        match header.datagram_type {
            DatagramType::Advertisement => match Advertisement::decode(body, &ticket.publisher, ticket.channel) {
                Ok(advertisement)
                    if advertisement.session == session && advertisement.epoch.low() == header.epoch_low =>
                {
                    self.heard(now, from, &advertisement);
                }
                Ok(_) => self.listening.refused += 1,
                Err(error) => {
                    // Opened with our secret, but not signed by a sender of this channel.
                    self.listening.stranger += 1;
                    self.notes.say(now, &format!("ignored an advertisement from {from}: {error}"));
                    self.watch.on_stranger(now, from);
                }
            },
            DatagramType::Digest => {
                let key = self.engine.advertisement(session).map(|a| a.certificate.sender_key);
                match key.map(|key| DigestBody::decode(body, &key, ticket.channel)) {
                    Some(Ok(digest)) if digest.session == session => self.engine.handle_digest(now, &digest),
                    Some(_) | None => self.listening.refused += 1,
                }
            }
            DatagramType::Symbol
            | DatagramType::StreamSymbol
            | DatagramType::Nack
            | DatagramType::NackAnswer
            | DatagramType::Probe
            | DatagramType::ProbeAnswer => self.listening.malformed += 1,
        }
        self.drain(now);
    }

    fn heard(&mut self, now: Time, from: SocketAddr, advertisement: &Advertisement) {
        self.listening.opened_at = Some(now);
        (self.listening.unopened_since, self.listening.told_wrong_ticket) = (None, false);
        if self.config.own_sender == Some(advertisement.certificate.sender_key) {
            return; // whoever sends from what is received here has nothing for us
        }
        if let Some(reference) = advertisement.manifest
            && self.engine.would_follow(&reference, advertisement.generation)
        {
            self.pieces.want_root(reference);
        }
        self.keys.heard(advertisement.epoch);
        if let Some(next) = advertisement.next_epoch {
            self.on_next_epoch(now, next);
        }
        self.engine.handle_advertisement(now, from, advertisement);
        // Only of a session that the engine took: a recorded one must not push a live one's keys out.
        if self.engine.advertisement(advertisement.session).is_some_and(|a| a.sequence == advertisement.sequence) {
            self.keys.keep(advertisement.session, advertisement.epoch);
            self.watch.on_heard(now);
            self.watch.on_clock(now, advertisement.certificate.sender_key, from, advertisement.wall_ms);
            // A copy that a stranger sent from elsewhere names nobody.
            if advertisement.quic_port != 0 && self.engine.address_of(advertisement.session) == Some(from) {
                let mut quic = from;
                quic.set_port(advertisement.quic_port);
                self.add_source(&quic.to_string());
            }
            self.data_group = advertisement.data_group;
        }
    }

    fn unopened(&mut self, now: Time, from: SocketAddr, epoch_low: u8) {
        if let Some(joining) = &mut self.joining {
            // Else it is another channel's, or damaged.
            if self.keys.epochs().named(epoch_low).is_none() {
                joining.on_unopened(now);
            }
            // Whoever lets it in, or does not, says more.
            self.listening.unopened += 1;
            return;
        }
        let group = self.config.ticket.advertise;
        let listening = &mut self.listening;
        listening.unopened += 1;
        // Two channels may well share a group: it is worth a line, and no trouble.
        if !listening.told_other_channel && listening.opened_at.is_some() {
            listening.told_other_channel = true;
            self.notes.inform(&format!(
                "datagrams of another channel, or damaged ones, arrive on {group} from {from}: they are ignored"
            ));
        }
        let since = *listening.unopened_since.get_or_insert(now);
        let silent = listening.opened_at.is_none_or(|at| now.since(at) > WRONG_TICKET_AFTER);
        if !listening.told_wrong_ticket && silent && now.since(since) > WRONG_TICKET_AFTER {
            listening.told_wrong_ticket = true;
            self.notes.say(
                now,
                &format!(
                    "datagrams arrive on {group} but none opens with this ticket: they are of another channel, or the \
                     ticket is an old one; compare it with what `nackcast channel ticket FILE` prints at the sender"
                ),
            );
        }
    }

    /// A datagram of the data group.
    pub fn handle_data_datagram(&mut self, now: Time, arrived: Time, datagram: &mut [u8]) {
        let length = datagram.len() as u64;
        let Ok(header) = Header::read(datagram) else {
            self.listening.malformed += 1;
            return;
        };
        let Some(keys) = self.keys.get(header.session).filter(|_| header.datagram_type == DatagramType::Symbol) else {
            self.listening.unopened += 1;
            return;
        };
        let Ok(body) = keys.data.open_in_place(header.packet_number, header::LEN, datagram) else {
            self.listening.unopened += 1;
            return;
        };
        let Ok((id, symbol)) = SymbolId::read(body) else {
            self.listening.malformed += 1;
            return;
        };
        let session = SessionId(header.session);
        if let Admission::Keep(slot) = self.engine.handle_symbol(now, arrived, session, header.packet_number, id)
            && let Some(layout) = self.layout(id.object)
        {
            self.listening.received_bytes += length;
            if id.esi >= layout.source_symbols(id.block) {
                self.listening.repair_bytes += length;
            }
            self.arena.put(slot, layout, id.block, id.esi, symbol);
        }
        self.drain(now);
    }

    /// A datagram on the socket that sends NACKs.
    pub fn handle_answer_datagram(&mut self, now: Time, _from: SocketAddr, datagram: &mut [u8]) {
        let Ok(header) = Header::read(datagram) else {
            self.listening.malformed += 1;
            return;
        };
        let keys = self.keys.get(header.session).filter(|_| header.datagram_type == DatagramType::NackAnswer);
        let Some(keys) = keys else {
            self.listening.unopened += 1;
            return;
        };
        let Ok(body) = keys.answer.open_in_place(header.packet_number, header::LEN, datagram) else {
            self.listening.unopened += 1;
            return;
        };
        let session = SessionId(header.session);
        let sender = self.engine.advertisement(session).map(|a| a.certificate.sender_key);
        let signed = sender.and_then(|key| NackAnswer::decode(body, Some(&key)).ok());
        let is_signed = signed.is_some();
        match signed.map_or_else(|| NackAnswer::decode(body, None), Ok) {
            Ok(answer)
                if answer.session == session
                    && answer.channel == self.config.ticket.channel
                    && answer.run == self.config.run =>
            {
                self.engine.handle_answer(now, &answer, is_signed);
            }
            Ok(_) | Err(_) => self.listening.refused += 1,
        }
        self.drain(now);
    }
}
