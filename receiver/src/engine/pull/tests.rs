use nackcast_common::geometry::Geometry;

use super::*;

const A: SourceId = SourceId(0);
const B: SourceId = SourceId(1);
const OBJECT: ObjectId = ObjectId(7);
/// Requests of two blocks.
const BLOCK: u32 = 1 << 20;

fn layout(blocks: u64) -> Layout {
    Geometry::new(1400, BLOCK, 1).unwrap().object(blocks * u64::from(BLOCK)).unwrap()
}

fn pull(bytes_max: u64) -> Pull {
    let mut pull = Pull::new();
    pull.set_up(PullWhen::Last, bytes_max);
    pull.add_source(A);
    pull.add_source(B);
    pull
}

/// Orders whatever there is to order, of an object with these blocks missing.
fn order(pull: &mut Pull, now: Time, gaps: &[(u32, u32)]) -> Vec<PullOrder> {
    while pull.has_room()
        && let Some(source) = pull.usable(now, Some(OBJECT))
        && pull.fetch(now, source, OBJECT, layout(20), gaps.iter().map(|(start, end)| *start..*end))
    {}
    std::iter::from_fn(|| pull.poll()).collect()
}

fn fetches(orders: &[PullOrder]) -> Vec<(u64, u32, Range<u32>)> {
    let fetch = |order: &PullOrder| match order {
        PullOrder::Fetch { request, source, blocks, .. } => Some((request.0, source.0, blocks.clone())),
        PullOrder::Manifest { .. } | PullOrder::Cancel { .. } => None,
    };
    orders.iter().filter_map(fetch).collect()
}

#[test]
fn sources_share_the_work_and_what_is_under_way_is_bounded() {
    let mut pull = pull(5 << 20);
    let orders = order(&mut pull, Time(1), &[(0, 1), (4, 20)]);
    // Five blocks are the bound; the request that passes it is the last.
    assert_eq!(fetches(&orders), [(0, 0, 0..1), (1, 1, 4..6), (2, 0, 6..8)]);
    // What arrived counts until it is verified.
    assert_eq!(pull.on_block(Time(2), RequestId(1), 4), Some((OBJECT, layout(20))));
    assert!(order(&mut pull, Time(2), &[(0, 1), (4, 20)]).is_empty());
    assert_eq!(pull.on_checked(OBJECT, 4, Some(true)), Some(B));
    assert_eq!(fetches(&order(&mut pull, Time(2), &[(0, 1), (5, 20)])), [(3, 1, 8..10)]);
    assert_eq!(pull.pulled().collect::<Vec<_>>(), [(A, 0), (B, 1 << 20)]);
}

#[test]
fn a_broken_request_is_taken_up_where_it_broke_by_another_source() {
    let mut pull = pull(4 << 20);
    assert_eq!(fetches(&order(&mut pull, Time(1), &[(0, 4)])), [(0, 0, 0..2), (1, 1, 2..4)]);
    assert!(pull.on_block(Time(2), RequestId(0), 0).is_some());
    pull.on_over(Time(3), RequestId(0), PullEnd::Broken);
    // Block 0 is being verified, and is not asked for again.
    assert_eq!(fetches(&order(&mut pull, Time(3), &[(0, 4)])), [(2, 1, 1..2)]);
    // The first source backs off, each time twice as long.
    assert_eq!(pull.usable(Time(3), None), Some(B));
    let back = Time(3) + BACKOFF.0;
    assert_eq!(pull.next_usable(Time(3)), Some(back));
    pull.on_over(Time(4), RequestId(2), PullEnd::Broken);
    assert_eq!(fetches(&order(&mut pull, back, &[(0, 4)])), [(3, 0, 1..2)]);
    pull.on_over(back, RequestId(3), PullEnd::Broken);
    assert_eq!(pull.next_usable(back).unwrap(), Time(4) + BACKOFF.0, "that of the second");
    assert!(pull.usable(back + BACKOFF.0, None) == Some(B), "the first waits twice as long now");
    assert!(pull.on_block(back, RequestId(3), 1).is_none(), "too late");
}

#[test]
fn a_wrong_block_is_the_last_of_its_source() {
    let mut pull = pull(8 << 20);
    assert_eq!(fetches(&order(&mut pull, Time(1), &[(0, 4)])).len(), 2);
    assert!(pull.on_block(Time(2), RequestId(0), 0).is_some());
    assert_eq!(pull.on_checked(OBJECT, 0, Some(false)), Some(A));
    let orders = order(&mut pull, Time::NEVER, &[(0, 2)]);
    assert!(orders.contains(&PullOrder::Cancel { request: RequestId(0) }));
    assert_eq!(fetches(&orders), [(2, 1, 0..2)], "only from the other, for ever");
    assert_eq!(pull.pulled().next(), Some((A, 0)));
}

#[test]
fn a_source_that_lacks_the_object_is_not_asked_for_it_for_a_while() {
    let mut pull = pull(8 << 20);
    assert_eq!(fetches(&order(&mut pull, Time(1), &[(0, 2)])), [(0, 0, 0..2)]);
    // It has the second block only.
    assert!(pull.on_block(Time(2), RequestId(0), 1).is_some());
    assert!(pull.on_block(Time(2), RequestId(0), 0).is_none(), "blocks come in order, once");
    pull.on_over(Time(3), RequestId(0), PullEnd::Over);
    assert_eq!(fetches(&order(&mut pull, Time(3), &[(0, 2)])), [(1, 1, 0..1)]);
    pull.on_over(Time(4), RequestId(1), PullEnd::Over);
    assert!(order(&mut pull, Time(4), &[(0, 1)]).is_empty());
    assert_eq!(pull.usable(Time(4), Some(ObjectId(8))), Some(A), "another object it may have");
    assert_eq!(fetches(&order(&mut pull, Time(2) + LACKS, &[(0, 1)])), [(2, 0, 0..1)]);
}

#[test]
fn an_order_that_nobody_took_yet_is_taken_back() {
    let mut pull = pull(8 << 20);
    assert!(pull.fetch(Time(1), A, OBJECT, layout(20), std::iter::once(0..4)));
    pull.keep(|_| false, false);
    assert_eq!(pull.poll(), None);
}

#[test]
fn a_block_may_take_long_but_not_for_ever() {
    let mut pull = pull(8 << 20);
    order(&mut pull, Time(1), &[(0, 1)]);
    // Two kilobytes a second are slow, and yet something.
    pull.expire(Time(1) + STALL + Duration::from_secs(500));
    assert_eq!(pull.poll(), None);
    let late = Time(1) + STALL + Duration::from_secs(512);
    assert_eq!(pull.stalls_at(), Some(late));
    pull.expire(late);
    assert_eq!(pull.poll(), Some(PullOrder::Cancel { request: RequestId(0) }));
    assert_eq!(pull.usable(late, None), Some(B));
}

#[test]
fn a_manifest_that_does_not_come_is_asked_for_elsewhere() {
    let mut pull = pull(8 << 20);
    pull.ask_manifest(Time(1), false);
    pull.ask_manifest(Time(1), false);
    assert_eq!(pull.next_manifest(Time(1)), Some(Time(1) + REACHED_IN));
    pull.ask_manifest(Time(1) + REACHED_IN, false);
    pull.expire(Time(1) + STALL);
    let orders: Vec<_> = std::iter::from_fn(|| pull.poll()).collect();
    let ask = |request, source| PullOrder::Manifest { request: RequestId(request), source };
    assert_eq!(orders, [ask(0, A), ask(1, B), PullOrder::Cancel { request: RequestId(0) }], "one after the other");
}

#[test]
fn each_is_asked_for_the_manifest_now_and_then_and_for_blocks_meanwhile() {
    let mut pull = pull(8 << 20);
    let mut ask = |at, has_one| {
        pull.ask_manifest(at, has_one);
        let asked = match pull.poll() {
            Some(PullOrder::Manifest { request, source }) => {
                pull.on_over(at, request, PullEnd::Over);
                Some(source)
            }
            _ => None,
        };
        (asked, pull.usable(at, None))
    };
    assert_eq!(ask(Time(1), false), (Some(A), Some(A)));
    assert_eq!(ask(Time(2), false), (Some(B), Some(A)));
    assert_eq!(ask(Time(3), false), (None, Some(A)));
    let again = Time(1) + MANIFEST_AGAIN[0];
    assert_eq!(ask(again, true), (Some(A), Some(A)));
    assert_eq!(ask(Time(2) + MANIFEST_AGAIN[0], true), (Some(B), Some(A)));
    assert_eq!(ask(again + MANIFEST_AGAIN[0], true), (None, Some(A)), "who has one asks more seldom");
    assert_eq!(ask(again + MANIFEST_AGAIN[1], true), (Some(A), Some(A)));
}

#[test]
fn what_is_no_longer_wanted_is_cancelled() {
    let mut pull = pull(8 << 20);
    order(&mut pull, Time(1), &[(0, 1)]);
    pull.keep(|_| true, false);
    assert_eq!(pull.poll(), None);
    pull.keep(|id| id != OBJECT, false);
    assert_eq!(pull.poll(), Some(PullOrder::Cancel { request: RequestId(0) }));
    assert!(pull.on_block(Time(2), RequestId(0), 0).is_none());
}

#[test]
fn who_is_not_there_holds_nothing_up_where_another_one_is() {
    let mut pull = pull(8 << 20);
    assert_eq!(fetches(&order(&mut pull, Time(1), &[(0, 4)])), [(0, 0, 0..2), (1, 1, 2..4)]);
    // The ways may be slow: while nobody was reached, each has its time.
    pull.expire(Time(1) + REACHED_IN);
    assert_eq!(pull.poll(), None);
    pull.on_reached(B);
    assert_eq!(pull.stalls_at(), Some(Time(1) + REACHED_IN));
    pull.expire(Time(1) + REACHED_IN);
    assert_eq!(pull.poll(), Some(PullOrder::Cancel { request: RequestId(0) }), "and not that of who is there");
    assert_eq!(fetches(&order(&mut pull, Time(1) + REACHED_IN, &[(0, 4)])), [(2, 1, 0..2)]);
    // Who fails is not there any more: the other one gets its time again.
    pull.on_over(Time(1) + REACHED_IN, RequestId(2), PullEnd::Broken);
    let later = Time(1) + REACHED_IN + BACKOFF.0;
    assert_eq!(fetches(&order(&mut pull, later, &[(0, 2)])), [(3, 0, 0..2)]);
    pull.expire(later + REACHED_IN);
    assert_eq!(pull.poll(), None);
}
