//! What held a run back, judged from what was measured: the first rule that fits.
//!
//! | name | when |
//! |---|---|
//! | `rate` | it was sent nearly as fast as `--rate` allows |
//! | `overruns` | sockets were too full for a hundredth of the datagrams: the receivers' programs were too slow |
//! | `disk` | somebody waited for a disk for a third of the time |
//! | `link` | goodput was near what plain datagrams reach |
//! | `machine-cpu` | all processors were busy, with this run or with other work |
//! | `sender-cpu`, `receiver-cpu`, `switch-cpu` | one of them kept at least one processor busy |
//! | `waiting` | nothing of these: answers were waited for, or repair |

use serde::{Deserialize, Serialize};

use super::means::ratio;

const NEAR_RATE: f64 = 0.9;
const MANY_OVERRUNS: f64 = 0.01;
const LONG_STALLED: f64 = 0.33;
const NEAR_RAW: f64 = 0.85;
const BUSY_MACHINE: f64 = 0.9;
const BUSY_CORE: f64 = 0.85;

/// What is known of a run. Of what one side cannot know there is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// Sent, as a share of what `--rate` allows; none: it allows everything.
    pub(super) of_rate: Option<f64>,
    /// Datagrams that found a socket full, as a share of all.
    pub(super) overruns: f64,
    pub(super) disk_stalled: Option<f64>,
    /// Goodput, as a share of the raw limit.
    pub(super) of_raw: Option<f64>,
    /// Share of all processors' time.
    pub(super) machine_busy: f64,
    /// In processors.
    pub(super) sender: Option<f64>,
    /// The busiest.
    pub(super) receiver: Option<f64>,
    pub(super) switch: Option<f64>,
    /// All that are known, together.
    pub(super) all: f64,
    /// Processors of the machine.
    pub(super) cores: u64,
}

/// The answer. Names of fields, and the words of `what`, are a contract with scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bottleneck {
    pub(super) what: String,
    /// For people.
    pub(super) why: String,
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Bottleneck {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let at_least = |share: Option<f64>, least: f64| share.filter(|share| *share >= least);
    let busy = |who: Option<f64>| at_least(who, BUSY_CORE);
    let (what, why) = if let Some(share) = at_least(facts.of_rate, NEAR_RATE) {
        ("rate", format!("it was sent at {} of --rate", percent(share)))
    } else if facts.overruns >= MANY_OVERRUNS {
        let why = format!(
            "{:.1} % of the datagrams found a receiver's socket full: receivers are slower than what is sent, or their \
             buffers too small (net.core.rmem_max)",
            facts.overruns * 100.0
        );
        ("overruns", why)
    } else if let Some(share) = at_least(facts.disk_stalled, LONG_STALLED) {
        ("disk", format!("a disk was waited for in {} of the time", percent(share)))
    } else if let Some(share) = at_least(facts.of_raw, NEAR_RAW) {
        ("link", format!("goodput is {} of what plain datagrams reach", percent(share)))
    } else if facts.machine_busy >= BUSY_MACHINE {
        let parts = [("the sender", facts.sender), ("a receiver", facts.receiver), ("the switch", facts.switch)];
        let parts = parts.into_iter().filter_map(|(name, cores)| Some(format!("{name} {:.2}", cores?)));
        let parts = parts.collect::<Vec<_>>().join(", ");
        let is_other = facts.all < ratio(facts.cores, 2);
        let others = if is_other { ", mostly with other programs' work" } else { "" };
        ("machine-cpu", format!("all processors were busy{others}; of {}: {parts}", facts.cores))
    } else if let Some(cores) = busy(facts.sender) {
        ("sender-cpu", format!("the sender kept {cores:.2} processors busy"))
    } else if let Some(cores) = busy(facts.receiver) {
        ("receiver-cpu", format!("a receiver kept {cores:.2} processors busy"))
    } else if let Some(cores) = busy(facts.switch) {
        ("switch-cpu", format!("the switch in user space kept {cores:.2} processors busy"))
    } else {
        ("waiting", "nobody was busy: answers were waited for, or repair".to_owned())
    };
    Bottleneck { what: what.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_counts() {
        let facts = Facts {
            of_rate: Some(0.95),
            overruns: 0.02,
            disk_stalled: Some(0.5),
            of_raw: Some(0.9),
            machine_busy: 0.97,
            sender: Some(0.9),
            receiver: Some(0.9),
            switch: Some(0.9),
            all: 2.7,
            cores: 3,
        };
        let what = |facts: Facts| judge(&facts).what;
        assert_eq!(what(facts), "rate");
        let facts = Facts { of_rate: None, ..facts };
        assert_eq!(what(facts), "overruns");
        let facts = Facts { overruns: 0.0, ..facts };
        assert_eq!(what(facts), "disk");
        let facts = Facts { disk_stalled: None, ..facts };
        assert_eq!(what(facts), "link");
        let facts = Facts { of_raw: Some(0.5), ..facts };
        assert_eq!(what(facts), "machine-cpu");
        let parts = "of 3: the sender 0.90, a receiver 0.90, the switch 0.90";
        assert_eq!(judge(&facts).why, format!("all processors were busy; {parts}"));
        let others = judge(&Facts { all: 1.4, ..facts }).why;
        assert_eq!(others, format!("all processors were busy, mostly with other programs' work; {parts}"));
        let facts = Facts { machine_busy: 0.6, ..facts };
        assert_eq!(what(facts), "sender-cpu");
        let facts = Facts { sender: Some(0.2), ..facts };
        assert_eq!(what(facts), "receiver-cpu");
        let facts = Facts { receiver: Some(0.2), ..facts };
        assert_eq!(what(facts), "switch-cpu");
        assert_eq!(what(Facts::default()), "waiting");
    }
}
