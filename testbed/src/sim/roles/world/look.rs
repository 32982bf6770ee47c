//! The oracles' looks at a cast, and when it is over.

use nackcast_common::path::PART_DIRECTORY;
use nackcast_proto::wire::SenderState;
use nackcast_sender::role::{RoleEvent, State};

use super::World;
use crate::sim::oracle::bounds::{self, Bounded};
use crate::sim::oracle::take_over::Seen;
use crate::sim::receiver::INTO;
use crate::sim::scenario::ReceiverSpec;
use crate::sim::sender::Sender;

impl World {
    pub(super) fn on_role_event(&mut self, number: usize, event: &RoleEvent) {
        let RoleEvent::Changed { from, to, why } = event else {
            self.tell(format_args!("sender {number}: {event:?}"));
            if matches!(event, RoleEvent::OnlyBackupReached(_)) {
                let verdict = self.alert.on_alert(self.now, number);
                self.judge("alert", verdict);
            }
            return;
        };
        self.tell(format_args!("sender {number}: {from:?} -> {to:?}: {why}"));
        if *to == State::Active {
            let verdict = self.take_over.on_active(self.now, number, *from);
            self.judge("take over", verdict);
        }
    }

    /// What a sender does; none while its process does not run.
    pub(super) fn state(&self, number: usize) -> Option<State> {
        let sender = &self.senders[number];
        sender.node().filter(|_| !sender.is_paused()).map(nackcast_sender::node::SenderNode::role_state)
    }

    /// How it is between any two senders.
    pub(super) fn watch(&mut self) {
        let told: Vec<_> = (0..self.senders.len()).map(|number| self.state(number).map(State::told)).collect();
        let sends = |number: usize| matches!(told[number], Some(SenderState::Active | SenderState::Draining));
        for one in 0..told.len() {
            for other in (0..told.len()).filter(|other| *other != one) {
                let joined = told[one].is_some() && told[other].is_some() && self.wires.join(self.now, one, other);
                let can_read = self.now >= self.senders[other].blind_until;
                let serves = joined && can_read && told[other] == Some(SenderState::Active);
                self.take_over.look(self.now, (one, other), Seen { serves, sends: joined && sends(other) });
                if one < other {
                    let verdict = self.two_active.look(self.now, (one, other), joined && sends(one) && sends(other));
                    self.judge("two active", verdict);
                }
            }
        }
    }

    pub(super) fn is_complete(&self, number: usize) -> bool {
        let newest = self.editions.last().map(|edition| edition.manifest.head().generation);
        let whole = |node: &nackcast_receiver::node::ReceiverNode| {
            node.engine().is_complete() && Some(node.engine().snapshot().generation) == newest
        };
        self.receivers[number].node().is_some_and(whole)
    }

    /// The end: healed, everybody complete, exactly one sender serves.
    pub(super) fn look(&mut self) {
        let serving = (0..self.senders.len()).filter(|number| self.state(*number) == Some(State::Active)).count();
        let others_rest = (0..self.senders.len())
            .all(|number| matches!(self.state(number), Some(State::Active | State::Standby | State::Penalty { .. })));
        let all = (0..self.receivers.len()).all(|number| self.is_complete(number));
        let is_settled = if self.lost { serving == 0 } else { serving == 1 && others_rest };
        self.done = self.healed && is_settled && all;
        for number in 0..self.receivers.len() {
            self.look_at_pulls(number);
        }
        self.look_at_bounds();
        if !self.done {
            return;
        }
        let Some(edition) = self.editions.last().cloned() else { return };
        for number in 0..self.receivers.len() {
            let shown = self.receivers[number].disk.shown(INTO.as_bytes(), PART_DIRECTORY.as_bytes());
            let verdict = edition.compare(&self.receivers[number].disk, &shown, true);
            self.judge("whole", verdict);
        }
    }

    fn look_at_bounds(&mut self) {
        let spec = ReceiverSpec::default();
        let pulled_max = if self.pulls.is_some() { bounds::pulled_max(&spec, &self.cast.content) } else { 0 };
        let of_receiver = |receiver| bounds::of_receiver(receiver, &spec, &self.editions, pulled_max);
        let nodes = self.senders.iter().filter_map(Sender::node);
        let of_senders = nodes.flat_map(|node| node.bounds().map(|(name, len, most)| Bounded { name, len, most }));
        let all: Vec<_> = of_senders.chain(self.receivers.iter().flat_map(of_receiver)).collect();
        for one in all {
            self.judge("bounds", one.look());
        }
    }
}
