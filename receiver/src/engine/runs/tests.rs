//! A run is the same as its symbols one by one: two engines get the same inputs, one of them in runs.

use std::ops::Range;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_proto::wire::Promise;
use nackcast_proto::wire::symbol::SymbolId;
use proptest::prelude::*;

use super::Run;
use crate::engine::BlockOutcome;
use crate::engine::testing::{OBJECTS, Rig};
use crate::testing::SESSION;

/// What happens to both engines.
#[derive(Clone, Debug)]
enum Input {
    Run {
        object: u32,
        block: u32,
        esis: Range<u16>,
        skipped: u64,
        lost: Vec<u16>,
    },
    Promise {
        object: u32,
        block: u32,
        count: u16,
    },
    Wait(u64),
    /// The block turns out wrong, or cannot be kept.
    Outcome(BlockOutcome),
}

impl Rig {
    fn apply(&mut self, in_runs: bool, now: &mut Time, first_packet: u64, input: &Input) {
        match input {
            Input::Run { object, block, esis, lost, .. } => {
                let (object, block, esis) = (self.object(*object).id, *block, esis.clone());
                if in_runs {
                    let run = Run { session: SESSION, first_packet, object, block, esis };
                    self.engine.handle_run(*now, &run, lost);
                } else {
                    for (place, esi) in (0_u16..).zip(esis).filter(|(place, _)| !lost.contains(place)) {
                        let symbol = SymbolId { object, block, esi };
                        self.engine.handle_symbol(*now, *now, SESSION, first_packet + u64::from(place), symbol);
                    }
                }
            }
            Input::Promise { object, block, count } => {
                let promises = vec![Promise::Blocks(self.object(*object).id, vec![(*block, *count)])];
                self.promise(*now, promises);
            }
            Input::Wait(micros) => {
                *now += Duration::from_micros(*micros);
                self.engine.handle_timeout(*now);
            }
            Input::Outcome(outcome) => self.outcome = *outcome,
        }
        self.drain(*now);
    }
}

fn input() -> impl Strategy<Value = Input> {
    let run = (0..OBJECTS, 0_u32..5, 0_u16..30, 1_u16..40, 0_u64..700, prop::collection::btree_set(0_u16..40, 0..4));
    let run = run.prop_map(|(object, block, start, count, skipped, lost)| {
        // Source symbols 0..11 (the last block has 8), or repair symbols behind them.
        let k = if block == 3 { 8 } else { 11 };
        let esis = if start < k { start..(start + count).min(k) } else { start..start + count };
        let count = esis.end - esis.start;
        Input::Run { object, block, esis, skipped, lost: lost.into_iter().filter(|at| *at < count).collect() }
    });
    let promise = (0..OBJECTS, 0_u32..4, 1_u16..12);
    let outcome = prop_oneof![
        4 => Just(BlockOutcome::Sound),
        1 => Just(BlockOutcome::Unsound),
        1 => Just(BlockOutcome::NotKept),
    ];
    prop_oneof![
        12 => run,
        2 => promise.prop_map(|(object, block, count)| Input::Promise { object, block, count }),
        4 => (0_u64..60_000).prop_map(Input::Wait),
        1 => outcome.prop_map(Input::Outcome),
    ]
}

proptest! {
    #[test]
    fn a_run_is_its_symbols_one_by_one(inputs in prop::collection::vec(input(), 1..120), slots in 4_u32..12) {
        let mut sides = [(true, Rig::new(slots)), (false, Rig::new(slots))];
        let mut times = [Time(1), Time(1)];
        let mut packet = 0;
        for (number, input) in inputs.iter().enumerate() {
            if let Input::Run { skipped, .. } = input {
                // Sometimes a window of the loss estimate ends in the middle of a run.
                packet += skipped;
            }
            for ((in_runs, side), now) in sides.iter_mut().zip(&mut times) {
                if number % 7 == 0 {
                    side.advertise(*now, packet);
                }
                side.apply(*in_runs, now, packet, input);
            }
            if let Input::Run { esis, .. } = input {
                packet += u64::from(esis.end - esis.start);
            }
            let [(_, runs), (_, symbols)] = &sides;
            prop_assert_eq!(runs.engine.snapshot(), symbols.engine.snapshot(), "after input {}", number);
            prop_assert_eq!(&runs.work, &symbols.work);
            prop_assert_eq!(&runs.sent, &symbols.sent);
            prop_assert_eq!(runs.engine.poll_deadline(), symbols.engine.poll_deadline());
        }
    }
}
