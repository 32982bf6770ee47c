//! No nonce is used twice under one key.
//!
//! A key belongs to a session (or a receiver's run) and a flow; the nonce is the packet number. Sealed datagrams are
//! seen where they leave a node, so the number must grow from one to the next.

use std::collections::BTreeMap;

use nackcast_common::keys::Flow;
use nackcast_proto::wire::Header;

use super::Verdict;

/// The oracle.
#[derive(Debug, Default)]
pub struct Nonce {
    /// Session and flow: the number that may come next.
    next: BTreeMap<(u64, u8), u64>,
}

impl Nonce {
    /// A sealed datagram left a node.
    ///
    /// # Errors
    /// When its number was used before under its key.
    pub fn on_sealed(&mut self, datagram: &[u8]) -> Verdict {
        let header = Header::read(datagram).map_err(|error| format!("a node sent what is no datagram: {error}"))?;
        let flow = match header.flow {
            Flow::Advertisement => 0,
            Flow::Data => 1,
            Flow::ToReceiver => 2,
            Flow::ToSender => 3,
        };
        let next = self.next.entry((header.session, flow)).or_insert(0);
        if header.packet_number < *next {
            let (session, number) = (header.session, header.packet_number);
            return Err(format!(
                "session {session:016x} sealed a second datagram with number {number} ({:?})",
                header.flow
            ));
        }
        *next = header.packet_number + 1;
        Ok(())
    }
}
