//! Makes a failing scenario smaller: fewer happenings, fewer nodes, fewer faults, less content, an earlier end.
//!
//! A smaller scenario is kept when it still fails, and by the same oracle: another fault is another story.

use super::scenario::{DiskSpec, LinkSpec, PullSpec, Scenario, What, When};

/// Runs at most, so that shrinking ends.
pub const RUNS_MAX: usize = 400;

/// Shrinks while `fails` says that a smaller scenario still fails in the same way.
pub fn shrink(scenario: &Scenario, mut fails: impl FnMut(&Scenario) -> bool) -> Scenario {
    let mut best = scenario.clone();
    let mut runs = 0;
    loop {
        let before = best.clone();
        for candidate in Candidates::of(&before) {
            if runs >= RUNS_MAX {
                return best;
            }
            // Made from the best so far, not from where this round began.
            let Some(smaller) = candidate.apply(&best) else { continue };
            runs += 1;
            if fails(&smaller) {
                best = smaller;
            }
        }
        if best == before {
            return best;
        }
    }
}

/// One way to make a scenario smaller.
#[derive(Clone, Debug)]
enum Candidate {
    /// Without this share of the happenings: (parts, which).
    Without(usize, usize),
    /// With fewer receivers.
    Receivers(u32),
    /// Without one fault of a link, or of the disks.
    Calm(fn(&mut Scenario)),
    /// With an earlier heal.
    Sooner,
}

struct Candidates;

impl Candidates {
    fn of(scenario: &Scenario) -> Vec<Candidate> {
        let mut all = Vec::new();
        let count = scenario.happenings.len();
        let mut parts = 1;
        while parts <= count {
            all.extend((0..parts).map(|which| Candidate::Without(parts, which)));
            parts = if parts == count { count + 1 } else { (parts * 2).min(count) };
        }
        all.extend([1, scenario.receivers / 2, scenario.receivers.saturating_sub(1)].map(Candidate::Receivers));
        all.extend(CALM.map(Candidate::Calm));
        all.push(Candidate::Sooner);
        all
    }
}

const CALM: [fn(&mut Scenario); 22] = [
    |s| s.cables.clear(),
    |s| drop(s.cables.pop()),
    |s| s.down = LinkSpec { loss: 0.0, ..LinkSpec::default() },
    |s| s.up = LinkSpec { loss: 0.0, ..LinkSpec::default() },
    |s| s.disk = DiskSpec::default(),
    |s| s.down.loss = 0.0,
    |s| s.down.burst_loss = 0.0,
    |s| s.down.corrupt = 0.0,
    |s| s.down.duplicate = 0.0,
    |s| (s.down.reorder, s.down.jitter_us) = (0.0, 0),
    |s| s.down.rate_bps = 0,
    |s| (s.down.mtu, s.up.mtu) = (LinkSpec::default().mtu, LinkSpec::default().mtu),
    |s| (s.up.loss, s.up.burst_loss, s.up.corrupt) = (0.0, 0.0, 0.0),
    |s| (s.up.duplicate, s.up.reorder, s.up.jitter_us, s.up.rate_bps) = (0.0, 0.0, 0, 0),
    |s| (s.disk.errors_ppm, s.disk.lies_ppm) = (0, 0),
    |s| s.pull.when = When::Never,
    |s| s.pull.peers = false,
    |s| s.pull = PullSpec { when: s.pull.when, sender: s.pull.sender, peers: s.pull.peers, ..PullSpec::default() },
    |s| s.content.small_files /= 2,
    |s| s.content.large_files /= 2,
    |s| s.content.large_bytes = (s.content.large_bytes / 2).max(1),
    |s| s.receiver.scan_ms = 0,
];

impl Candidate {
    /// The smaller scenario; none when it is the same.
    fn apply(&self, of: &Scenario) -> Option<Scenario> {
        let mut scenario = of.clone();
        match self {
            Self::Without(parts, which) => {
                let len = of.happenings.len();
                let (from, to) = (len * which / parts, (len * (which + 1) / parts).min(len));
                scenario.happenings.drain(from.min(to)..to);
            }
            Self::Receivers(count) => {
                scenario.receivers = (*count).clamp(1, of.receivers);
                let left = scenario.receivers;
                scenario.happenings.retain(|happening| happening.what.receiver().is_none_or(|r| r < left));
                let cut = scenario.happenings.iter_mut().filter_map(|happening| match &mut happening.what {
                    What::Cut { receivers, .. } => Some(receivers),
                    _ => None,
                });
                let cabled = scenario.cables.iter_mut().map(|cable| &mut cable.receivers);
                cut.chain(cabled).for_each(|receivers| receivers.retain(|receiver| *receiver < left));
                scenario.cables.retain(|cable| !cable.receivers.is_empty());
            }
            Self::Calm(calm) => calm(&mut scenario),
            Self::Sooner => {
                scenario.heal_at_ms = of.happenings.last().map_or(1, |last| last.at_ms + 1).min(of.heal_at_ms);
            }
        }
        (scenario != *of).then_some(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::swarm;

    #[test]
    fn what_does_not_matter_goes() {
        let is_pause = |s: &Scenario| s.happenings.iter().any(|h| matches!(h.what, What::Pause { .. }));
        let seed = (0..).find(|seed| is_pause(&swarm::scenario(*seed, swarm::Fixed::default()))).unwrap();
        let small = shrink(&swarm::scenario(seed, swarm::Fixed::default()), is_pause);
        assert_eq!(small.happenings.len(), 1);
        assert!(matches!(small.happenings[0].what, What::Pause { .. }));
        assert_eq!((small.down.loss, small.disk.errors_ppm, small.content.large_bytes), (0.0, 0, 1));
        assert_eq!((small.down.mtu, small.cables.len()), (1_500, 0));
    }
}
