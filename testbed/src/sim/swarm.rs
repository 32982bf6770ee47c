//! From a seed to a scenario.
//!
//! Each kind of fault is off, mild or wild, chosen anew for every seed: a run with everything at once hides faults
//! that show only where most things work, so about half of all kinds are off in any one run.

mod single;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::scenario::{
    ContentSpec, DiskSpec, Happening, LinkSpec, PullSpec, ReceiverSpec, Scenario, SenderSpec, Side, What, When,
};

/// Receivers pull in one seed of so many.
/// How many seeds find the rate by themselves: one in so many.
const AUTO_ONE_IN: u64 = 6;
const PULL_ONE_IN: u64 = 3;

/// How bad one kind of fault is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    Off,
    Mild,
    Wild,
}

/// What a caller fixes; the seed chooses the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fixed {
    /// How many receivers.
    pub receivers: Option<u32>,
    /// Share of datagrams lost on the way to each.
    pub loss: Option<f64>,
}

struct Dice(Xoshiro256PlusPlus);

impl Dice {
    fn weather(&mut self) -> Weather {
        match self.0.random_range(0..100) {
            0..50 => Weather::Off,
            50..85 => Weather::Mild,
            _ => Weather::Wild,
        }
    }

    /// Zero, or a share up to one of the bounds.
    fn share(&mut self, mild: f64, wild: f64) -> f64 {
        let most = match self.weather() {
            Weather::Off => return 0.0,
            Weather::Mild => mild,
            Weather::Wild => wild,
        };
        (self.0.random_range(0.0..most) * 1e4_f64).round() / 1e4
    }

    fn number(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// How often something happens.
    fn count(&mut self, mild: u64, wild: u64) -> u64 {
        match self.weather() {
            Weather::Off => 0,
            Weather::Mild => self.number(1..mild + 1),
            Weather::Wild => self.number(1..wild + 1),
        }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.random_range(0..of.len())]
    }
}

/// The scenario of a seed.
#[must_use]
pub fn scenario(seed: u64, fixed: Fixed) -> Scenario {
    let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed));
    let receivers = match dice.number(0..10) {
        0..2 => 1,
        2..7 => dice.number(2..5),
        7..9 => dice.number(5..9),
        _ => dice.number(9..21),
    };
    let receivers = fixed.receivers.unwrap_or_else(|| u32::try_from(receivers).unwrap_or(1));
    let content = content(&mut dice, receivers);
    let sender = sender(&mut dice);
    let receiver = receiver(&mut dice);
    let down = link(&mut dice);
    let up = link(&mut dice);
    let disk = disk(&mut dice);
    let heal_at_ms = dice.number(1_000..12_000);
    let happenings = happenings(&mut dice, receivers, heal_at_ms);
    let mut scenario = Scenario {
        seed,
        receivers,
        content,
        sender,
        receiver,
        down,
        up,
        cables: Vec::new(),
        disk,
        pull: PullSpec::default(),
        happenings,
        heal_at_ms,
        liveness_ms: 180_000,
    };
    // Dice of its own: what else a seed says does not depend on unicast.
    let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x9011));
    if dice.number(0..PULL_ONE_IN) == 0 {
        pull(&mut dice, &mut scenario);
    }
    // Likewise.
    single::draw(&mut Dice(Xoshiro256PlusPlus::seed_from_u64(seed ^ 0xCAB1)), &mut scenario);
    scenario.sender.auto = Dice(Xoshiro256PlusPlus::seed_from_u64(seed ^ 0xA071)).number(0..AUTO_ONE_IN) == 0;
    fixed.apply_loss(&mut scenario);
    scenario
}

impl Fixed {
    /// Every receiver loses what is fixed, whatever its cable.
    pub fn apply_loss(self, scenario: &mut Scenario) {
        let Some(loss) = self.loss else { return };
        let cables = scenario.cables.iter_mut().filter_map(|cable| cable.down.as_mut());
        cables.chain([&mut scenario.down]).for_each(|down| down.loss = loss);
    }
}

/// Some of it comes by unicast.
fn pull(dice: &mut Dice, scenario: &mut Scenario) {
    let sender = scenario.receivers == 1 || dice.number(0..4) > 0;
    scenario.pull = PullSpec {
        when: dice.pick(&[When::Last, When::Last, When::Unknown]),
        sender,
        peers: !sender || dice.number(0..4) > 0,
        rate_bps: dice.pick(&[200_000, 2_000_000, 20_000_000]),
        delay_us: dice.pick(&[100, 10_000, 100_000]),
        breaks: dice.share(0.02, 0.3),
    };
    scenario.sender.max_passes = dice.pick(&[1, 2, 2, 3]);
    let source = |dice: &mut Dice, n| (dice.number(0..2) == 0).then(|| who(dice, n));
    let mut add = |at_ms, what| scenario.happenings.push(Happening { at_ms, what });
    let heal_at_ms = scenario.heal_at_ms;
    for _ in 0..dice.count(1, 3) {
        let (receiver, for_ms) = (source(dice, scenario.receivers), dice.number(100..8_000));
        add(dice.number(0..heal_at_ms), What::Spoil { receiver, for_ms });
    }
    for _ in 0..dice.count(1, 3) {
        let (receiver, for_ms) = (source(dice, scenario.receivers), dice.number(100..8_000));
        add(dice.number(0..heal_at_ms), What::Mute { receiver, for_ms });
    }
    for _ in 0..dice.count(2, 8) {
        add(dice.number(0..heal_at_ms), What::BreakPulls);
    }
    if scenario.pull.peers && dice.number(0..2) == 0 {
        add(dice.number(heal_at_ms / 4..heal_at_ms), What::LoseSender);
    }
    for _ in 0..dice.count(1, 3) {
        let (receiver, for_ms) = (source(dice, scenario.receivers), dice.number(1_000..12_000));
        add(dice.number(0..heal_at_ms), What::Bar { receiver, for_ms });
    }
    if dice.number(0..3) == 0 {
        drought(dice, scenario);
    }
    scenario.happenings.sort_by_key(|happening| happening.at_ms);
}

/// What has no passes left is lacked until its round is over: sources come back when the sender is asked again.
fn drought(dice: &mut Dice, scenario: &mut Scenario) {
    scenario.sender.round_quiet_ms = 3_000;
    scenario.heal_at_ms += 12_000;
    for source in std::iter::once(None).chain((0..scenario.receivers).map(Some)) {
        let for_ms = dice.number(8_000..scenario.heal_at_ms.max(9_000));
        scenario.happenings.push(Happening { at_ms: 0, what: What::Bar { receiver: source, for_ms } });
    }
}

fn content(dice: &mut Dice, receivers: u32) -> ContentSpec {
    // Large groups get little, so that no seed takes long.
    let share = u64::from(8_u32.div_ceil(receivers.max(1))).clamp(1, 4);
    let block_size = dice.pick(&[64 << 10, 64 << 10, 128 << 10, 256 << 10]);
    ContentSpec {
        small_files: u32::try_from(dice.number(0..40)).unwrap_or(0),
        large_files: u32::try_from(dice.number(0..4)).unwrap_or(0),
        large_bytes: dice.number(1..400_000 * share),
        block_size,
        symbol_size: dice.pick(&[512, 1024, 1400, 1400, 1400]),
    }
}

fn sender(dice: &mut Dice) -> SenderSpec {
    SenderSpec {
        rate_bps: dice.pick(&[2_000_000, 8_000_000, 20_000_000, 100_000_000]),
        auto: false,
        max_jobs: dice.pick(&[1, 2, 4, 8]),
        // With fewer only unicast helps those who lost much.
        max_passes: dice.pick(&[4, 8, 16, 16, 16]),
        period_ms: dice.pick(&[50, 500, 2_000]),
        round_quiet_ms: dice.pick(&[3_000, 10_000, 30_000]),
        inbox: dice.pick(&[4, 64, 256]),
        read_us: dice.pick(&[5, 50, 500]),
    }
}

fn receiver(dice: &mut Dice) -> ReceiverSpec {
    ReceiverSpec {
        slots: dice.pick(&[8, 12, 64, 64]),
        nack_retry_ms: dice.pick(&[50, 200, 200]),
        nack_budget: dice.pick(&[1, 4, 4]),
        scan_ms: dice.pick(&[0, 0, 2_000]),
        prune: dice.pick(&[true, true, false]),
        socket_bytes: dice.pick(&[64 << 10, 1 << 20]),
    }
}

fn link(dice: &mut Dice) -> LinkSpec {
    LinkSpec {
        loss: dice.share(0.03, 0.3),
        burst_loss: dice.share(0.02, 0.2),
        burst_length: dice.pick(&[3.0, 10.0, 60.0]),
        delay_us: dice.pick(&[50, 1_000, 20_000, 300_000]),
        jitter_us: match dice.weather() {
            Weather::Off => 0,
            Weather::Mild => dice.number(1..3_000),
            Weather::Wild => dice.number(1..80_000),
        },
        reorder: dice.share(0.01, 0.3),
        duplicate: dice.share(0.01, 0.3),
        corrupt: dice.share(0.005, 0.1),
        rate_bps: match dice.weather() {
            Weather::Off => 0,
            Weather::Mild => 30_000_000,
            Weather::Wild => 3_000_000,
        },
        queue_bytes: dice.pick(&[16 << 10, 256 << 10]),
        mtu: 1_500,
    }
}

fn disk(dice: &mut Dice) -> DiskSpec {
    let slow = dice.weather();
    DiskSpec {
        call_us: if slow == Weather::Wild { 500 } else { 5 },
        sync_us: match slow {
            Weather::Off => 200,
            Weather::Mild => 5_000,
            Weather::Wild => 80_000,
        },
        bytes_per_second: match slow {
            Weather::Off => 0,
            Weather::Mild => 50_000_000,
            Weather::Wild => 2_000_000,
        },
        errors_ppm: match dice.weather() {
            Weather::Off => 0,
            Weather::Mild => 200,
            Weather::Wild => 5_000,
        },
        lies_ppm: match dice.number(0..12) {
            0 => 50_000,
            1 => 1_000_000,
            _ => 0,
        },
    }
}

/// How often something happens in mild and in wild weather, and what.
type Sort = (u64, u64, fn(&mut Dice, u32) -> What);

fn happenings(dice: &mut Dice, receivers: u32, heal_at_ms: u64) -> Vec<Happening> {
    let mut all = Vec::new();
    let kinds: [Sort; 13] = [
        (2, 8, |dice, n| What::Cut {
            receivers: (0..n).filter(|_| dice.number(0..3) == 0).collect(),
            side: dice.pick(&[Side::Down, Side::Up, Side::Both]),
            for_ms: dice.number(10..4_000),
        }),
        (2, 6, |dice, n| What::Kill { receiver: who(dice, n), for_ms: dice.number(1..2_000) }),
        (2, 8, |dice, n| What::PowerCut {
            receiver: who(dice, n),
            after_calls: u32::try_from(dice.number(0..200)).unwrap_or(0),
            for_ms: dice.number(1..2_000),
        }),
        (1, 4, |dice, n| What::Absent { receiver: who(dice, n), for_ms: dice.number(100..6_000) }),
        (1, 4, |dice, n| What::Pause { receiver: who(dice, n), for_ms: dice.number(10..3_000) }),
        (1, 3, |dice, n| What::Skew {
            receiver: who(dice, n),
            ppm: i32::try_from(dice.number(0..200_000)).unwrap_or(0) - 100_000,
        }),
        (1, 2, |dice, n| What::Full { receiver: who(dice, n), bytes_left: dice.number(0..300_000) }),
        (1, 3, |dice, n| What::Rot { receiver: who(dice, n), bits: u32::try_from(dice.number(1..40)).unwrap_or(1) }),
        (1, 3, |dice, n| What::WriteBackError { receiver: who(dice, n), for_ms: dice.number(1..500) }),
        (1, 3, |_, _| What::Publish),
        (1, 4, |dice, _| What::KillSender { for_ms: dice.number(1..3_000) }),
        (1, 3, |dice, _| What::PauseSender { for_ms: dice.number(10..3_000) }),
        (1, 2, |_, _| What::RollSender),
    ];
    for (mild, wild, make) in kinds {
        for _ in 0..dice.count(mild, wild) {
            let at_ms = dice.number(0..heal_at_ms);
            all.push(Happening { at_ms, what: make(dice, receivers) });
        }
    }
    if dice.number(0..6) == 0 {
        let by_ms = i64::try_from(dice.number(0..7_200_000)).unwrap_or(0) - 3_600_000;
        all.push(Happening { at_ms: dice.number(0..heal_at_ms), what: What::StepSenderClock { by_ms } });
    }
    if dice.number(0..6) == 0 {
        let for_ms = dice.number(10..2_000);
        all.push(Happening { at_ms: dice.number(0..heal_at_ms), what: What::SenderBlind { for_ms } });
    }
    if dice.number(0..6) == 0 {
        let for_ms = dice.number(10..1_000);
        all.push(Happening { at_ms: dice.number(0..heal_at_ms), what: What::BadMemory { for_ms } });
    }
    if dice.number(0..5) == 0 {
        // Late, when there are files; and what was changed may leave the dataset, or move within it.
        for _ in 0..dice.number(1..4) {
            let (receiver, files) = (who(dice, receivers), u32::try_from(dice.number(1..8)).unwrap_or(1));
            let what = What::Edit { receiver, files, keep_time: dice.number(0..2) == 0 };
            all.push(Happening { at_ms: dice.number(heal_at_ms / 2..heal_at_ms), what });
        }
        if dice.number(0..2) == 0 {
            all.push(Happening { at_ms: dice.number(heal_at_ms * 3 / 4..heal_at_ms), what: What::Publish });
        }
    }
    all.sort_by_key(|happening| happening.at_ms);
    all
}

fn who(dice: &mut Dice, receivers: u32) -> u32 {
    u32::try_from(dice.number(0..u64::from(receivers))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_a_scenario_that_can_be_run_and_always_the_same() {
        for seed in 0..2_000 {
            let one = scenario(seed, Fixed::default());
            one.check().unwrap();
            assert_eq!(one, scenario(seed, Fixed::default()));
        }
    }

    #[test]
    fn what_is_fixed_stays() {
        for seed in 0..100 {
            let one = scenario(seed, Fixed { receivers: Some(3), loss: Some(0.5) });
            assert_eq!(one.receivers, 3);
            assert!((0..3).all(|receiver| one.cable(receiver)[0].loss == 0.5));
        }
    }

    /// What no seed draws, no oracle ever sees.
    #[test]
    fn every_kind_of_fault_is_drawn_by_some_seed() {
        let seeds: Vec<_> = (0..500).map(|seed| scenario(seed, Fixed::default())).collect();
        let links = |s: &Scenario| (0..s.receivers).map(|r| s.cable(r).map(Clone::clone)).collect::<Vec<_>>();
        let some = |is_so: fn(&What) -> bool| seeds.iter().any(|s| s.happenings.iter().any(|h| is_so(&h.what)));
        assert!(seeds.iter().any(|s| links(s).windows(2).any(|two| two[0][0] != two[1][0])), "cables from the sender");
        assert!(seeds.iter().any(|s| links(s).windows(2).any(|two| two[0][1] != two[1][1])), "cables to the sender");
        for way in [0, 1] {
            assert!(seeds.iter().any(|s| links(s).iter().any(|link| link[way].mtu < 600)), "a small MTU, way {way}");
        }
        assert!(
            seeds.iter().any(|s| s.happenings.iter().any(|h| h.at_ms == 0 && matches!(h.what, What::Absent { .. })))
        );
        assert!(some(|what| matches!(what, What::Leave { .. })));
        for one in seeds {
            let left: std::collections::BTreeSet<_> = one
                .happenings
                .iter()
                .filter(|h| matches!(h.what, What::Leave { .. }))
                .map(|h| h.what.receiver())
                .collect();
            assert!(left.len() < one.receivers as usize, "somebody stays");
        }
    }
}
