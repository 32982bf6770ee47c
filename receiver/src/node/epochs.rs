//! Epochs at the node: which secrets it holds, what is told to people about the next one, and when to join.

use nackcast_common::clock::Time;
use nackcast_common::epochs::Epochs;
use nackcast_common::ids::Epoch;
use nackcast_common::keys::EpochSecret;
use nackcast_proto::pull::JoinRefusal;
use nackcast_proto::wire::NextEpoch;

use super::ReceiverNode;
use super::joining::Ended;

/// How a try to join ended, for [`ReceiverNode::handle_joined`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinEnd {
    /// A sender gave these.
    Secrets(Vec<(Epoch, EpochSecret)>),
    /// A sender refused.
    Refused {
        /// Which, HOST:PORT of its QUIC.
        by: String,
        /// Why.
        why: JoinRefusal,
        /// This node's key, for whoever may put it on the list.
        identity: String,
    },
    /// No sender could be asked: why.
    Unreached(String),
}

impl ReceiverNode {
    /// Secrets that the node has beside its ticket's: of an earlier run, or of the channel's master.
    pub fn hold_epochs(&mut self, now: Time, epochs: Epochs) {
        if self.joining.take().is_some() && !epochs.holds_all() {
            self.joining = Some(super::Joining::new(now, self.config.seed, epochs.newest().is_none()));
        }
        self.keys.replace(epochs);
    }

    /// The secrets that it holds.
    #[must_use]
    pub const fn epochs(&self) -> &Epochs {
        self.keys.epochs()
    }

    /// Whether to ask a sender for secrets now; answered by [`Self::handle_joined`].
    pub fn poll_join(&mut self, now: Time) -> bool {
        self.joining.as_mut().is_some_and(|joining| joining.take(now))
    }

    /// Senders were asked. True when there are new secrets, to be kept.
    pub fn handle_joined(&mut self, now: Time, end: JoinEnd) -> bool {
        let had_none = self.keys.epochs().newest().is_none();
        let ended = match end {
            JoinEnd::Secrets(secrets) => {
                let mut is_new = false;
                for (epoch, secret) in secrets {
                    if self.keys.hold(epoch, secret) {
                        self.notes.inform(&format!("let in: the secret of epoch {epoch} was given"));
                        is_new = true;
                    }
                }
                self.kept_out = None;
                if is_new { Ended::New } else { Ended::Known }
            }
            JoinEnd::Refused { by, why, identity } => {
                let text = refused(&by, why, &identity, had_none);
                self.notes.say(now, &text);
                self.kept_out = Some(text);
                Ended::Refused
            }
            JoinEnd::Unreached(why) => {
                if had_none {
                    self.notes.say(now, &format!("no sender could be asked to let this node in: {why}"));
                }
                Ended::Unreached
            }
        };
        let newest = self.keys.epochs().newest();
        if let Some(joining) = &mut self.joining {
            joining.on_ended(now, ended, newest.is_none() || newest < joining.announced(now));
        }
        if ended == Ended::New {
            self.notes.clear();
        }
        ended == Ended::New
    }

    /// A sender announces an epoch.
    pub(super) fn on_next_epoch(&mut self, now: Time, next: NextEpoch) {
        let NextEpoch { epoch, within } = next;
        // A recorded one says nothing new.
        let epochs = self.keys.epochs();
        if epochs.holds_all() || epochs.newest() >= Some(epoch) {
            return;
        }
        match &mut self.joining {
            Some(joining) => joining.on_announced(now, epoch, within),
            None if self.told_epoch != Some(epoch) => {
                self.told_epoch = Some(epoch);
                self.notes.say(
                    now,
                    &format!(
                        "the channel goes over to epoch {epoch} in {} s, which this ticket does not open: get a new one \
                         with `nackcast channel ticket`",
                        within.as_secs()
                    ),
                );
            }
            None => {}
        }
    }

    /// A source takes none of the secrets that are held: the channel may be in a later epoch. `line` is for people.
    pub fn handle_turned_away(&mut self, now: Time, line: &str) {
        self.notes.say(now, line);
        if let Some(joining) = &mut self.joining {
            joining.on_unopened(now);
        }
    }

    /// It was refused, and hears nothing that it can open.
    pub(super) fn is_kept_out(&self) -> bool {
        self.joining.as_ref().is_some_and(super::Joining::is_refused)
    }
}

/// What keeps this node out, for people.
fn refused(by: &str, why: JoinRefusal, identity: &str, had_none: bool) -> String {
    let keeps = if had_none { "" } else { "; what was received stays, and nothing newer can be read" };
    match why {
        JoinRefusal::NotListed => format!(
            "not let in by {by}: {why}{keeps}. If it should be, its admin runs `nackcast channel allow FILE {identity}`"
        ),
        JoinRefusal::ByTicket => {
            format!("not let in by {by}: {why}{keeps}. Get a new ticket with `nackcast channel ticket`")
        }
        JoinRefusal::OldList | JoinRefusal::NotHere => format!("not let in by {by}: {why}{keeps}"),
    }
}
