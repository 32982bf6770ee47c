//! What single receivers have for themselves: cables of their own, what fits through these, when they come, and whether
//! they leave for good.

use super::{Dice, link, who};
use crate::sim::scenario::{CableSpec, Happening, LinkSpec, Scenario, What};

/// Some receivers have cables of their own in one seed of so many.
const CABLES_ONE_IN: u64 = 3;
/// Not all that Ethernet takes passes, in one seed of so many.
const MTU_ONE_IN: u64 = 6;
/// Somebody joins late in one seed of so many.
const LATE_ONE_IN: u64 = 4;
/// Somebody leaves for good in one seed of so many.
const LEAVE_ONE_IN: u64 = 6;

/// Longest datagrams: of tunnels, those that hold up symbols but not what is short, and almost nothing.
const MTUS: [usize; 5] = [1_450, 1_280, 600, 300, 120];

pub(super) fn draw(dice: &mut Dice, scenario: &mut Scenario) {
    let receivers = scenario.receivers;
    if receivers > 1 && dice.number(0..CABLES_ONE_IN) == 0 {
        scenario.cables = (0..dice.number(1..4)).map(|_| cable(dice, receivers)).collect();
    }
    if dice.number(0..MTU_ONE_IN) == 0 {
        // The heal ends it: nobody completes over a cable that no symbol passes.
        let mtu = dice.pick(&MTUS);
        let [down, up] = any_link(dice, scenario);
        down.into_iter().chain(up).for_each(|link| link.mtu = mtu);
    }
    let heal_at_ms = scenario.heal_at_ms;
    let mut happens = |at_ms, what| scenario.happenings.push(Happening { at_ms, what });
    if dice.number(0..LATE_ONE_IN) == 0 {
        for _ in 0..dice.number(1..4) {
            happens(0, What::Absent { receiver: who(dice, receivers), for_ms: dice.number(100..heal_at_ms) });
        }
    }
    if receivers > 1 && dice.number(0..LEAVE_ONE_IN) == 0 {
        // Fewer than there are: somebody stays.
        for _ in 0..dice.number(1..u64::from(receivers).min(4)) {
            happens(dice.number(0..heal_at_ms), What::Leave { receiver: who(dice, receivers) });
        }
    }
    scenario.happenings.sort_by_key(|happening| happening.at_ms);
}

/// Of some receivers, one way or both.
fn cable(dice: &mut Dice, receivers: u32) -> CableSpec {
    let first = who(dice, receivers);
    let whose = (0..receivers).filter(|receiver| *receiver == first || dice.number(0..3) == 0).collect();
    let ways = dice.number(0..4);
    let mut way = |is_so: bool| is_so.then(|| link(dice));
    CableSpec { receivers: whose, down: way(ways != 0), up: way(ways < 2) }
}

/// Of those of all receivers, or of a cable.
fn any_link<'a>(dice: &mut Dice, scenario: &'a mut Scenario) -> [Option<&'a mut LinkSpec>; 2] {
    let nth = usize::try_from(dice.number(0..scenario.cables.len() as u64 + 1)).unwrap_or(0);
    let [down, up] = match scenario.cables.get_mut(nth) {
        Some(cable) => [cable.down.as_mut(), cable.up.as_mut()],
        None => [Some(&mut scenario.down), Some(&mut scenario.up)],
    };
    match dice.number(0..3) {
        0 if up.is_some() => [None, up],
        1 if down.is_some() => [down, None],
        _ => [down, up],
    }
}
