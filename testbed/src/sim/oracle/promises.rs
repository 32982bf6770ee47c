//! A promise is not waited for beyond its time, and a sender that fell silent is neither waited for nor asked.
//!
//! What was promised, and until when, is read from the Digests that the receiver read, by the receiver's own clock.
//! When the promises of an object lapsed, and the receiver is short of it, it asks within its own spacing of NACKs:
//! for this object, or for others if those fill its budget.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, SessionId};
use nackcast_proto::wire::{Advertisement, Promise};

use super::Verdict;
use crate::sim::wiretap::Said;

/// Intervals without an advertisement after which a sender is gone, and the least time.
const SILENT_INTERVALS: u32 = 3;
const SILENT_MIN: Duration = Duration::from_millis(1500);
/// Between two looks, and what rounding adds.
const AIR: Duration = Duration::from_millis(500);

/// How long a sender that advertises so often may be silent until it is gone.
pub(super) fn silent_after(interval: Duration) -> Duration {
    (interval * SILENT_INTERVALS).max(SILENT_MIN)
}

/// The oracle. Times are those of each receiver's own clock.
#[derive(Debug)]
pub struct Promises {
    nack_retry: Duration,
    receivers: BTreeMap<u32, Heard>,
}

/// What a receiver heard.
#[derive(Debug, Default)]
struct Heard {
    session: Option<SessionId>,
    /// Of any session, and for how long that counts.
    last: Time,
    silent: Duration,
    /// Until when it may be silent after it asked, or was told to wait.
    quiet_until: Time,
    /// Its own spacing, by the longest window that this session announced.
    spacing: Duration,
    promised: BTreeMap<ObjectId, Time>,
    short_since: BTreeMap<ObjectId, Time>,
}

impl Promises {
    /// With the receivers' wait for an answer.
    #[must_use]
    pub const fn new(nack_retry: Duration) -> Self {
        Self { nack_retry, receivers: BTreeMap::new() }
    }

    /// The receiver's process is a new one, with a new clock.
    pub fn on_start(&mut self, receiver: u32) {
        self.receivers.remove(&receiver);
    }

    /// The receiver read this.
    pub fn on_heard(&mut self, now: Time, receiver: u32, said: &Said) {
        let nack_retry = self.nack_retry;
        let heard = self.receivers.entry(receiver).or_default();
        match said {
            Said::Advertisement(advertisement) => heard.on_advertisement(now, advertisement, nack_retry),
            Said::Digest(digest) if heard.session == Some(digest.session) => {
                for promise in &digest.promises {
                    let (Promise::Whole(id) | Promise::Blocks(id, _)) = promise;
                    let until = heard.promised.entry(*id).or_default();
                    *until = (now + digest.lapse).max(*until);
                }
            }
            Said::Answer(answer) => heard.quiet_until = heard.quiet_until.max(now + answer.wait),
            Said::Digest(_) | Said::Symbol(_) => {}
        }
    }

    /// The receiver sent a NACK, or a report.
    ///
    /// # Errors
    /// When it is to a sender that fell silent.
    pub fn on_nack(&mut self, now: Time, receiver: u32) -> Verdict {
        let heard = self.receivers.entry(receiver).or_default();
        heard.quiet_until = heard.quiet_until.max(now);
        let silence = now.since(heard.last);
        if silence > heard.silent {
            return Err(format!("receiver {receiver} asks a sender that it has not heard for {silence:?}"));
        }
        Ok(())
    }

    /// The receiver stands still: it can do nothing.
    pub fn on_pause(&mut self, now: Time, receiver: u32) {
        let heard = self.receivers.entry(receiver).or_default();
        heard.quiet_until = heard.quiet_until.max(now);
    }

    /// A look at a receiver; `is_short` says of which objects it is short and could ask.
    ///
    /// # Errors
    /// When it waits for a promise that has lapsed.
    pub fn look(&mut self, now: Time, receiver: u32, is_short: impl Fn(ObjectId) -> bool) -> Verdict {
        let Some(heard) = self.receivers.get_mut(&receiver) else { return Ok(()) };
        if now.since(heard.last) > heard.silent {
            heard.forget(now);
            return Ok(());
        }
        for (id, until) in &heard.promised {
            if !is_short(*id) {
                heard.short_since.remove(id);
                continue;
            }
            let since = *heard.short_since.entry(*id).or_insert(now);
            let due = since.max(*until).max(heard.quiet_until) + heard.spacing;
            if now > due {
                let late = now.since(*until);
                return Err(format!(
                    "receiver {receiver} still waits for object {id}, {late:?} after its promise lapsed"
                ));
            }
        }
        Ok(())
    }
}

impl Heard {
    fn on_advertisement(&mut self, now: Time, advertisement: &Advertisement, nack_retry: Duration) {
        if self.session != Some(advertisement.session) || now.since(self.last) > self.silent {
            // Nothing that was promised before will come.
            self.session = Some(advertisement.session);
            self.spacing = Duration::ZERO;
            self.forget(now);
        }
        self.last = now;
        self.silent = silent_after(advertisement.interval);
        // Quiet after the last NACK, one window of holding back, and the backoff.
        let quiet = nack_retry.max(advertisement.nack_window).max(advertisement.grtt);
        self.spacing = self.spacing.max(quiet + advertisement.nack_window * 2 + AIR);
    }

    fn forget(&mut self, now: Time) {
        self.promised.clear();
        self.short_since.clear();
        self.quiet_until = now;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use nackcast_common::ids::{ChannelId, Epoch, StartNumber};
    use nackcast_common::keys::SigningKey;
    use nackcast_proto::wire::{DigestBody, NackAnswer, Role, SenderCertificate, SenderState};

    use super::*;

    const CHANNEL: ChannelId = ChannelId([1; 16]);
    const OBJECT: ObjectId = ObjectId(7);

    /// A sender announces this NACK window.
    pub(in crate::sim::oracle) fn advertisement_with(nack_window: Duration) -> Said {
        match advertisement(1) {
            Said::Advertisement(said) => Said::Advertisement(Box::new(Advertisement { nack_window, ..*said })),
            other => other,
        }
    }

    fn advertisement(session: u64) -> Said {
        let key = SigningKey::from_seed([1; 32]);
        Said::Advertisement(Box::new(Advertisement {
            channel: CHANNEL,
            session: SessionId(session),
            epoch: Epoch(1),
            sequence: 1,
            start_number: StartNumber(1),
            time: 0,
            interval: Duration::from_millis(250),
            generation: Default::default(),
            manifest: None,
            certificate: SenderCertificate::issue(&key, CHANNEL, key.verifying_key()),
            role: Role::Primary,
            state: SenderState::Active,
            data_group: ([239, 1, 1, 1], 7601).into(),
            nack_port: 7701,
            quic_port: 0,
            grtt: Duration::from_millis(20),
            nack_window: Duration::from_millis(100),
            group_size: 1,
            max_passes: 16,
            rate_bps: 0,
            first_pass_cursor: u32::MAX,
            first_pass_since: Default::default(),
            finished: Vec::new(),
            data_packets: 0,
            manifest_sent: true,
            list: 0,
            rank: 0,
            wall_ms: 0,
            next_epoch: None,
            reading_every: Duration::ZERO,
        }))
    }

    fn digest(lapse: Duration) -> Said {
        Said::Digest(DigestBody {
            channel: CHANNEL,
            session: SessionId(1),
            epoch: Epoch(1),
            sequence: 2,
            time: 0,
            lapse,
            promises: vec![Promise::Whole(OBJECT)],
        })
    }

    fn at(ms: u64) -> Time {
        Time(ms * 1000)
    }

    /// Hears advertisements all the time, and is short of the object; when it is found to wait in vain.
    fn found(promises: &mut Promises) -> Option<u64> {
        (0..200).map(|n| n * 100).find(|ms| {
            promises.on_heard(at(*ms), 0, &advertisement(1));
            promises.look(at(*ms), 0, |_| true).is_err()
        })
    }

    #[test]
    fn who_waits_beyond_the_promise_is_found() {
        let mut promises = Promises::new(Duration::from_millis(200));
        promises.on_heard(at(0), 0, &advertisement(1));
        promises.on_heard(at(0), 0, &digest(Duration::from_secs(3)));
        let found = found(&mut promises).unwrap();
        assert!((3_000..5_000).contains(&found), "{found}");
    }

    #[test]
    fn who_was_told_to_wait_may_wait_and_who_was_promised_nothing_is_not_looked_at() {
        let mut promises = Promises::new(Duration::from_millis(200));
        assert_eq!(found(&mut promises), None);
        promises.on_start(0);
        promises.on_heard(at(0), 0, &advertisement(1));
        promises.on_heard(at(0), 0, &digest(Duration::from_secs(3)));
        let wait = Duration::from_secs(10);
        promises.on_heard(at(0), 0, &Said::Answer(NackAnswer { wait, ..NackAnswer::default() }));
        assert!(found(&mut promises).unwrap() > 10_000);
    }

    #[test]
    fn a_silent_sender_is_not_asked() {
        let mut promises = Promises::new(Duration::from_millis(200));
        promises.on_heard(at(0), 0, &advertisement(1));
        assert!(promises.on_nack(at(1_500), 0).is_ok());
        assert!(promises.on_nack(at(1_501), 0).is_err());
        promises.on_heard(at(1_600), 0, &advertisement(1));
        assert!(promises.on_nack(at(1_601), 0).is_ok());
    }
}
