use nackcast_common::geometry::Geometry;

use super::*;

const SESSION: SessionId = SessionId(1);

/// One block of 11 source symbols, in memory, with these symbols.
fn short_of(esis: impl IntoIterator<Item = u16>) -> Reception {
    let layout = Geometry::new(100, 1024, 1).unwrap().object(1024).unwrap();
    let mut reception = Reception::new(layout, Class::Manifest, RangeSet::new());
    for esi in esis {
        assert!(matches!(reception.on_symbol(Time::ZERO, 0, esi, Some(Slot(0))), Taken::Kept { .. }));
    }
    reception.on_pass_over(1);
    reception
}

fn asked(reception: &Reception) -> Vec<(u32, u16)> {
    reception.short_blocks(Time(1)).0
}

#[test]
fn what_is_held_and_comes_first_is_asked_for_as_well() {
    // Repair symbols are 11 to 266.
    let mut reception = short_of((0..5).chain([11, 12, 14, 266]));
    assert_eq!(asked(&reception), [(0, 2)]);
    reception.on_packet(SESSION, 20, 0, 266);
    assert_eq!(asked(&reception), [(0, 5)], "11, 12, new, 14, new");
    reception.on_packet(SESSION, 21, 0, 12);
    assert_eq!(asked(&reception), [(0, 3)], "new, 14, new");
    reception.on_packet(SESSION, 20, 0, 266);
    assert_eq!(asked(&reception), [(0, 3)], "delivered twice, it was sent once");
    // After all repair come the source symbols.
    reception.on_packet(SESSION, 22, 0, 2);
    assert_eq!(asked(&reception), [(0, 4)], "3, 4, new, new");
    reception.on_packet(SESSION, 23, 0, 10);
    assert_eq!(asked(&reception), [(0, 2)], "what follows the last is not known");
    reception.on_packet(SESSION, 24, 0, 266);
    reception.void_promises();
    assert_eq!(asked(&reception), [(0, 2)], "another session begins elsewhere");
}

#[test]
fn never_more_than_the_block_is_asked_for() {
    let mut reception = short_of(11..21);
    reception.on_packet(SESSION, 20, 0, 266);
    assert_eq!(asked(&reception), [(0, 11)]);
}

#[test]
fn a_promise_of_what_is_held_already_is_not_enough() {
    let mut reception = short_of((0..8).chain([11, 12]));
    reception.on_packet(SESSION, 20, 0, 11);
    reception.on_promise(0, 1, Time(100));
    assert_eq!(asked(&reception), [(0, 2)]);
    reception.on_promise(0, 2, Time(100));
    assert_eq!(asked(&reception), []);
}
