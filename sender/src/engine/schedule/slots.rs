//! Who gets a slot of the being-multicast list: `max_jobs` slots, and one more for the manifest alone.
//!
//! In this order:
//! 1. The manifest, since receivers drop what they hear without it.
//! 2. Passes that were over and are asked for again, then the pool. While first passes wait these get at most half of
//!    the slots, so that late joiners do not hold up the rest.
//! 3. First passes. While nothing that was asked for runs, the last free slot is not for one that takes long: what is
//!    asked meanwhile would wait for it.

use nackcast_common::clock::Time;
use nackcast_common::ids::ObjectId;
use nackcast_common::mutation::{Mutation, planted};

use super::super::job::{Job, Phase, Proactive};
use super::{FirstPassMay, Order, Schedule, State, leave};

/// A first pass of more blocks takes long.
const SHORT_BLOCKS: u32 = 4;

/// What gets the next slot.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// The job at this place, which was over.
    Again(usize),
    /// A pass of an object in the pool.
    Pool(Order, ObjectId),
    First(Order, ObjectId),
}

impl Schedule {
    /// Fills the free slots; returns the passes to record. Without `may` no pass begins, and those under way go on.
    pub(in super::super) fn fill(
        &mut self,
        now: Time,
        may: Option<FirstPassMay>,
        proactive: impl Fn(Order) -> Proactive,
    ) -> Vec<(ObjectId, u32)> {
        while let Some((eligible, id)) = self.waiting.first().copied().filter(|(eligible, _)| *eligible <= now) {
            self.waiting.remove(&(eligible, id));
            if let Some(object) = self.objects.get(&id) {
                self.pool.insert((object.order, id));
            }
        }
        let mut begun = Vec::new();
        while let Some(next) = self.next(may) {
            match next {
                Next::Again(at) => self.jobs[at].phase = Phase::Running,
                Next::Pool(order, id) => {
                    self.pool.remove(&(order, id));
                    begun.extend(self.begin(now, id, None));
                }
                Next::First(order, id) => {
                    self.first.remove(&(order, id));
                    begun.extend(self.begin(now, id, Some(proactive(order))));
                }
            }
        }
        begun
    }

    fn next(&self, may: Option<FirstPassMay>) -> Option<Next> {
        let used = self.running();
        if used >= self.running_max() {
            return None;
        }
        let asked_again = |(at, job): (usize, &Job)| {
            let object = self.objects.get(&job.object).filter(|_| job.phase == Phase::AskedAgain)?;
            Some((object.order, Next::Again(at)))
        };
        let again = self.jobs.iter().enumerate().filter_map(asked_again).min_by_key(|(order, _)| *order);
        let pool = self.pool.first().filter(|_| may.is_some()).map(|(order, id)| (*order, Next::Pool(*order, *id)));
        let first = self.first.first().filter(|(order, _)| may.is_some_and(|may| may.begin(*order)));
        let first = first.map(|(order, id)| (*order, Next::First(*order, *id)));
        let is_manifest = |(order, _): &(Order, Next)| matches!(order, Order::Manifest(_));
        if let Some((_, next)) = [first, again, pool].into_iter().flatten().find(is_manifest) {
            return Some(next);
        }
        let max = self.config.max_jobs;
        if used >= max {
            return None;
        }
        let repairs = self.jobs.iter().filter(|job| job.has_slot() && job.is_repair()).count();
        let is_last = max > 1 && used + 1 == max && repairs == 0;
        let waits = first.is_some();
        let is_short = |next: &Next| match next {
            Next::First(_, id) => self.objects.get(id).is_some_and(|o| o.layout.block_count() <= SHORT_BLOCKS),
            Next::Again(_) | Next::Pool(..) => true,
        };
        let first = first.map(|(_, next)| next).filter(|next| !is_last || is_short(next));
        let repair = again.or(pool).map(|(_, next)| next).filter(|_| !waits || repairs < max.div_ceil(2));
        repair.or(first)
    }

    /// A first pass, with so many repair symbols unasked, or a repair pass.
    fn begin(&mut self, now: Time, id: ObjectId, first: Option<Proactive>) -> Option<(ObjectId, u32)> {
        let object = self.objects.get_mut(&id)?;
        leave(&mut self.covered, &mut self.pool_symbols, object);
        self.exhausted.remove(&id);
        let mut demand = std::mem::take(&mut object.demand);
        object.passes += u32::from(!planted(Mutation::PassNotCounted) || object.passes == 0);
        demand.insist(object.passes);
        object.last_start = Some(now);
        object.last_asked = now;
        object.state = State::Sending;
        let next_pass_at = now + self.config.period;
        self.jobs.push(match first {
            Some(proactive) => Job::first_pass(id, object.layout, next_pass_at, proactive),
            None => Job::repair_pass(id, object.layout, next_pass_at, demand),
        });
        Some((id, object.passes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use nackcast_common::geometry::Geometry;
    use nackcast_common::ids::{Generation, ObjectIndex, SessionId};

    use nackcast_proto::wire::NackStatus;

    use super::super::super::demand::Demand;
    use super::*;
    use crate::config::ScheduleConfig;
    use crate::engine::foresight::Foresight;
    use crate::engine::schedule::Object;

    /// Objects of so many blocks each, in the order of the table, all of which wait for their first pass.
    fn schedule(max_jobs: usize, blocks: &[u64]) -> Schedule {
        let mut schedule = Schedule::new(ScheduleConfig { max_jobs, ..ScheduleConfig::default() });
        let object = |place: u32, blocks: u64| {
            let layout = Geometry::default().object(blocks * 262_144).unwrap();
            Object::new(layout, Order::Table(ObjectIndex(place)), Generation::default())
        };
        let ids: Vec<_> = (0..blocks.len() as u64).map(ObjectId).collect();
        let objects: BTreeMap<_, _> =
            (0..).zip(blocks).map(|(at, blocks)| (ids[at as usize], object(at, *blocks))).collect();
        schedule.replace(Time::ZERO, objects, &ids);
        schedule
    }

    fn fill(schedule: &mut Schedule) -> Vec<u64> {
        let begun = schedule.fill(Time(0), Some(FirstPassMay::All), |_| Proactive::default());
        begun.iter().map(|(id, _)| id.0).collect()
    }

    /// Sends all of a job, and closes it.
    fn pass(schedule: &mut Schedule, at: usize) {
        let job = &mut schedule.jobs[at];
        job.phase = Phase::Running;
        while let Some((block, _)) = job.stage(SessionId(1), &mut BTreeMap::new(), &Foresight::default()) {
            job.prepared(block);
            while job.next_run(Time(0), 1000, 0).is_some() {}
        }
        job.close(Time(0), Duration::from_secs(9), false);
    }

    fn one_symbol() -> Demand {
        let mut demand = Demand::default();
        demand.short.entry(0).or_default().merge(1);
        demand
    }

    #[test]
    fn a_pass_that_is_asked_for_again_waits_for_a_slot_and_gets_the_next() {
        let mut schedule = schedule(1, &[1, 1, 1]);
        assert_eq!(fill(&mut schedule), [0]);
        pass(&mut schedule, 0);
        assert_eq!(fill(&mut schedule), [1]);
        assert_eq!(schedule.demand(Time(1), ObjectId(0), one_symbol(), 999).0, NackStatus::Sending);
        assert_eq!(fill(&mut schedule), [0; 0]);
        assert_eq!((schedule.running(), schedule.jobs[0].phase), (1, Phase::AskedAgain));
        pass(&mut schedule, 1);
        assert_eq!(fill(&mut schedule), [0; 0]);
        assert_eq!((schedule.running(), schedule.jobs[0].phase), (1, Phase::Running));
    }

    #[test]
    fn long_first_passes_leave_a_slot() {
        let mut schedule = schedule(2, &[9, 9, 9]);
        assert_eq!(fill(&mut schedule), [0]);
        pass(&mut schedule, 0);
        assert_eq!(fill(&mut schedule), [1]);
        schedule.demand(Time(1), ObjectId(0), one_symbol(), 999);
        fill(&mut schedule);
        assert_eq!((schedule.running(), schedule.jobs[0].phase), (2, Phase::Running));
    }

    #[test]
    fn what_is_asked_for_leaves_half_of_the_slots_to_long_first_passes() {
        for max_jobs in [2, 4] {
            let mut schedule = schedule(max_jobs, &[9; 40]);
            for _ in 0..10 {
                fill(&mut schedule);
                pass(&mut schedule, 0);
                schedule.end_closed(Time(u64::MAX), &mut Foresight::default());
            }
            // All that had its pass is wanted again, and more of it than there is of first passes.
            for id in 0..10 {
                schedule.demand(Time(u64::MAX), ObjectId(id), one_symbol(), u64::MAX);
            }
            let now = Time(u64::MAX);
            let mut firsts = 0;
            for _ in 0..12 {
                schedule.fill(now, Some(FirstPassMay::All), |_| Proactive::default());
                firsts += usize::from(schedule.jobs[0].first);
                assert!(schedule.jobs.iter().filter(|job| job.has_slot() && job.is_repair()).count() <= max_jobs / 2);
                schedule.jobs.remove(0);
            }
            assert!((5..=7).contains(&firsts), "{firsts} of 12 with {max_jobs} slots");
        }
    }

    #[test]
    fn what_leaves_and_comes_back_in_its_round_has_no_more_passes() {
        let quiet = ScheduleConfig::default().round_quiet;
        for (back_at, sent) in [(Time(5), [1].as_slice()), (Time(5) + quiet, &[0, 1])] {
            let mut schedule = schedule(4, &[1, 1]);
            schedule.config.max_passes = 1;
            assert_eq!(fill(&mut schedule), [0, 1]);
            let all = schedule.objects.clone();
            assert_eq!(schedule.replace(Time(1), BTreeMap::new(), &[]).len(), 2);
            let fresh = all.iter().map(|(id, o)| (*id, Object::new(o.layout, o.order, o.since))).collect();
            // One was not counted.
            schedule.left.remove(&ObjectId(1));
            schedule.replace(back_at, fresh, &[ObjectId(0), ObjectId(1)]);
            assert_eq!(fill(&mut schedule), sent);
        }
    }

    #[test]
    fn the_manifest_needs_no_free_slot() {
        let mut schedule = schedule(1, &[9, 9]);
        assert_eq!(fill(&mut schedule), [0]);
        schedule.objects.get_mut(&ObjectId(1)).unwrap().order = Order::Manifest(0);
        schedule.first = [(Order::Manifest(0), ObjectId(1))].into();
        assert_eq!(fill(&mut schedule), [1]);
        assert_eq!(schedule.running(), schedule.running_max());
    }
}
