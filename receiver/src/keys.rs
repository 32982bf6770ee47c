//! The keys of the sessions that are heard, derived when first needed.
//!
//! A key is kept only for a session whose advertisement verified; the table is bounded.

use std::collections::BTreeMap;

use nackcast_common::ids::{ChannelId, SessionId};
use nackcast_common::keys::{EpochSecret, Flow};
use nackcast_common::seal::FlowKey;

const SESSIONS_MAX: usize = 16;

/// One session's keys.
#[derive(Debug)]
pub(crate) struct SessionKeys {
    pub(crate) advertisement: FlowKey,
    pub(crate) data: FlowKey,
    pub(crate) answer: FlowKey,
}

#[derive(Debug)]
pub(crate) struct Keys {
    channel: ChannelId,
    secret: EpochSecret,
    sessions: BTreeMap<SessionId, (SessionKeys, u64)>,
    used: u64,
}

impl Keys {
    pub(crate) const fn new(channel: ChannelId, secret: EpochSecret) -> Self {
        Self { channel, secret, sessions: BTreeMap::new(), used: 0 }
    }

    /// The key of one flow of a session.
    pub(crate) fn derive(&self, session: u64, flow: Flow) -> FlowKey {
        self.secret.flow_key(self.channel, session, flow)
    }

    /// The keys of a known session.
    pub(crate) fn get(&self, session: u64) -> Option<&SessionKeys> {
        self.sessions.get(&SessionId(session)).map(|(keys, _)| keys)
    }

    /// The session's advertisement verified: its keys are kept.
    pub(crate) fn keep(&mut self, session: SessionId) {
        self.used += 1;
        if let Some((_, used)) = self.sessions.get_mut(&session) {
            *used = self.used;
            return;
        }
        if self.sessions.len() >= SESSIONS_MAX {
            let oldest = self.sessions.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            oldest.and_then(|id| self.sessions.remove(&id));
        }
        let keys = SessionKeys {
            advertisement: self.derive(session.0, Flow::Advertisement),
            data: self.derive(session.0, Flow::Data),
            answer: self.derive(session.0, Flow::ToReceiver),
        };
        self.sessions.insert(session, (keys, self.used));
    }
}
