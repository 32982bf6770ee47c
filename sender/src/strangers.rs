//! Datagrams on the NACK port that no channel's key opens: somebody has a wrong ticket, or is no friend.

use std::time::Duration;

use nackcast_common::alerts::{Finding, Kind};
use nackcast_common::clock::Time;

/// So many in one span are no accident.
const MANY: u64 = 10;
const SPAN: Duration = Duration::from_secs(60);

/// Watches a counter.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// When the present span began, and the counter then.
    span: Option<(Time, u64)>,
    /// How many came in the span before.
    before: u64,
}

impl Strangers {
    /// What is wrong, when so many came until now.
    pub(crate) fn look(&mut self, now: Time, count: u64) -> Option<Finding> {
        let (began, from) = *self.span.get_or_insert((now, 0));
        let here = count.saturating_sub(from);
        let many = here.max(self.before);
        if now.since(began) >= SPAN {
            (self.span, self.before) = (Some((now, count)), here);
        }
        (many >= MANY).then(|| {
            let text = format!("{many} datagrams in a minute on the NACK port opened with no key of this node");
            Finding::lasting(Kind::KeyRejected, "NACK port", text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_strangers_are_told_until_a_quiet_minute() {
        let (mut strangers, at) = (Strangers::default(), |seconds| Time::ZERO + Duration::from_secs(seconds));
        assert_eq!(strangers.look(at(0), 0), None);
        assert_eq!(strangers.look(at(1), MANY - 1), None);
        assert_eq!(strangers.look(at(2), MANY).map(|f| f.kind), Some(Kind::KeyRejected));
        assert!(strangers.look(at(61), 12).is_some());
        assert!(strangers.look(at(100), 12).is_some(), "the minute before had many");
        assert!(strangers.look(at(122), 12).is_some(), "the quiet minute ends here");
        assert!(strangers.look(at(123), 12).is_none());
    }
}
