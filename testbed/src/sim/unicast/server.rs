//! A node's side of unicast: the daemon's own service, and requests that it is answering.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::ids::Digest;
use nackcast_common::keys::{Side, VerifyingKey};
use nackcast_common::net::quic::{Replies, Service as _};
use nackcast_proto::pull::{Member, Membership, Service, Shelf};

use super::Call;

/// Whom TLS would find: it counts for those only that want to join, of whom there are none here.
const NOBODY: VerifyingKey = VerifyingKey([0; 32]);

/// Answers, as long as its process runs.
pub struct Server {
    service: Service,
    running: BTreeMap<Call, Replies>,
}

/// What comes next of a request.
#[derive(Debug)]
pub enum Replied {
    /// This.
    With(Bytes),
    /// All was said.
    Over,
    /// Nobody knows of it.
    Unknown,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.running.keys()).finish()
    }
}

impl Server {
    /// Gives what stands on a channel's shelf to its members.
    #[must_use]
    pub fn new(member: Member, shelf: Arc<dyn Shelf>) -> Self {
        let mut service = Service::default();
        service.add(Arc::new(Membership::of(member)), shelf);
        Self { service, running: BTreeMap::new() }
    }

    /// A caller connects, says who it is, and asks; false when one of the two refuses.
    pub fn begin(&mut self, call: Call, caller: &Member, request: &[u8]) -> bool {
        // What TLS would export: the same on both sides, and on no other connection.
        let binding = Digest::of(format!("{call:?}").as_bytes()).0;
        let hello = caller.hello(Side::Client, &binding);
        let Ok((reply, session)) = self.service.greet(&NOBODY, &binding, &hello) else { return false };
        let Some(replies) = session.answer(request).filter(|_| caller.check(Side::Server, &binding, &reply).is_ok())
        else {
            return false;
        };
        self.running.insert(call, replies);
        true
    }

    /// The next reply, made now.
    pub fn next(&mut self, call: Call) -> Replied {
        let Some(replies) = self.running.get_mut(&call) else { return Replied::Unknown };
        if let Some(reply) = replies.next() {
            return Replied::With(reply);
        }
        self.running.remove(&call);
        Replied::Over
    }
}
