use super::*;
use crate::sim::scenario::{Happening, What};

fn run(what: &[(u64, What)]) -> Outcome {
    let happenings = what.iter().map(|(at_ms, what)| Happening { at_ms: *at_ms, what: what.clone() }).collect();
    let outcome = crate::sim::run(&Scenario { happenings, ..Scenario::default() }, None);
    assert_eq!(outcome.failure, None);
    outcome
}

#[test]
fn what_was_sent_before_a_restart_was_sent() {
    let outcome = run(&[(300, What::KillSender { for_ms: 100 }), (700, What::KillSender { for_ms: 100 })]);
    assert_eq!(outcome.sent_bytes, outcome.figures.symbols().bytes);
    let grows = |pair: &[crate::sim::trace::Sample]| {
        pair[0].sent_bytes <= pair[1].sent_bytes && pair[0].repair_bytes <= pair[1].repair_bytes
    };
    assert!(outcome.samples.windows(2).all(grows));
}

#[test]
fn nobody_waits_for_who_left() {
    let outcome = run(&[(200, What::Leave { receiver: 1 }), (900, What::Kill { receiver: 1, for_ms: 1 })]);
    let complete: Vec<_> = outcome.figures.complete_at.iter().map(Option::is_some).collect();
    assert_eq!(complete, [true, false, true]);
}
