//! A job: one pass of one object, on the being-multicast list.
//!
//! | phase | on | to |
//! |---|---|---|
//! | recording | pass count durable | running |
//! | running | nothing left to send | closing |
//! | closing | a demand for blocks already sent | asked again, for a time |
//! | asked again | a slot is free | running |
//! | closing | one NACK window passed; with nothing else to send, until another pass might begin | ended |
//! | any | a block is not what the manifest says | ended |
//!
//! A running job serves repairs for blocks behind its cursor, so that a block stays open at receivers for a
//! few windows and not for a whole pass. What a receiver could not yet have heard when it asked is not sent
//! again: a demand carries the packet number up to which its receiver had heard.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{ObjectId, SessionId};
use nackcast_common::ranges::RangeSet;

use super::demand::{BlockDemand, Demand, scale};
use super::foresight::Foresight;
use super::repair;

/// Repairs of one block that are remembered as sent: more than go out in a round-trip time.
const SENT_MAX: usize = 16;
/// A job repairs at most so many times its object's symbols.
const REPAIR_FACTOR: u64 = 4;

/// Demands keep a pass open for so many windows after its end, and at least until another one might begin.
const WINDOWS_MAX: u32 = 8;

/// Repair symbols that go unasked with each block of a first pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Proactive {
    /// In millionths of the block's source symbols.
    pub(super) ppm: u32,
    /// At least so many.
    pub(super) least: u16,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its pass is being recorded; nothing may be sent yet.
    Recording,
    /// It has something to send.
    Running,
    /// Everything was sent; demands are still served until then.
    Closing { until: Time },
    /// It was closing and is wanted again: it waits for a slot.
    AskedAgain,
}

/// A block whose symbols are to be sent.
#[derive(Clone, Debug)]
pub(super) struct Staged {
    pub(super) block: u32,
    /// Runs of ESIs, each all source or all repair.
    pub(super) runs: VecDeque<Range<u16>>,
    /// The driver has prepared it.
    pub(super) ready: bool,
    /// Part of it was sent.
    pub(super) begun: bool,
    /// It repairs, and so goes before source runs that have not begun.
    pub(super) repair: bool,
    /// Repair symbols in it.
    repairs: u16,
}

/// Repair symbols of a block that are under way.
#[derive(Clone, Debug, Default)]
struct UnderWay {
    /// Not sent yet.
    queued: u16,
    /// What was sent: one past the packet number of the last symbol, and how many. The latest last.
    sent: VecDeque<(u64, u16)>,
}

impl UnderWay {
    /// Symbols that whoever heard all packets before `heard` may still get.
    fn coming(&self, heard: u64) -> u16 {
        let unheard =
            |(end, count): &(u64, u16)| u16::try_from(end.saturating_sub(heard)).unwrap_or(u16::MAX).min(*count);
        self.sent.iter().map(unheard).fold(self.queued, u16::saturating_add)
    }

    fn on_sent(&mut self, end: u64, count: u16) {
        self.queued = self.queued.saturating_sub(count);
        self.sent.push_back((end, count));
        if self.sent.len() > SENT_MAX {
            self.sent.pop_front();
        }
    }
}

/// One pass of one object.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) object: ObjectId,
    pub(super) layout: Layout,
    /// The unrequested first pass.
    pub(super) first: bool,
    pub(super) phase: Phase,
    /// A symbol of it was sent.
    pub(super) begun: bool,
    /// Repair symbols that each whole block gets unasked.
    proactive: Proactive,
    /// Blocks to send whole.
    source: RangeSet,
    /// Blocks to send whole once more, for receivers that joined late.
    again: RangeSet,
    wanted: BTreeMap<u32, BlockDemand>,
    /// What only the worst receivers need: last.
    later: BTreeMap<u32, u16>,
    pub(super) staged: VecDeque<Staged>,
    /// Packet number after each whole block's run, in this job.
    whole_end: BTreeMap<u32, Option<u64>>,
    repairs: BTreeMap<u32, UnderWay>,
    /// Repair symbols that went with each whole block, and that were asked for later in this job.
    unasked: BTreeMap<u32, u16>,
    asked: BTreeMap<u32, u32>,
    /// The last whole block that began; those before it, with the time since which receivers know that they are over.
    last_whole: Option<u32>,
    passed: VecDeque<(Time, u32)>,
    repair_budget: u64,
    /// Another pass of the object might begin then.
    next_pass_at: Time,
    /// After its end: demands keep it open until then, later ones wait for the next pass.
    open_until: Option<Time>,
}

impl Job {
    /// The first pass: every block, whole.
    pub(super) fn first_pass(object: ObjectId, layout: Layout, next_pass_at: Time, proactive: Proactive) -> Self {
        let all = Demand { whole: RangeSet::full(layout.block_count()), ..Demand::default() };
        Self { first: true, proactive, ..Self::repair_pass(object, layout, next_pass_at, all) }
    }

    /// A later pass: what was asked for.
    pub(super) fn repair_pass(object: ObjectId, layout: Layout, next_pass_at: Time, demand: Demand) -> Self {
        let mut wanted = demand.short;
        wanted.retain(|block, _| !demand.whole.contains(*block));
        Self {
            object,
            layout,
            first: false,
            phase: Phase::Recording,
            begun: false,
            proactive: Proactive { ppm: demand.loss_ppm.min(200_000), least: 0 },
            source: demand.whole,
            again: RangeSet::new(),
            wanted,
            later: BTreeMap::new(),
            staged: VecDeque::new(),
            whole_end: BTreeMap::new(),
            repairs: BTreeMap::new(),
            unasked: BTreeMap::new(),
            asked: BTreeMap::new(),
            last_whole: None,
            passed: VecDeque::new(),
            repair_budget: layout.source_symbols_total().saturating_mul(REPAIR_FACTOR) + 1024,
            next_pass_at,
            open_until: None,
        }
    }

    /// Symbols still to be sent, about.
    pub(super) fn symbols_left(&self) -> u64 {
        let k = u64::from(self.layout.source_symbols(0));
        let whole = (self.source.count() + self.again.count()) * k;
        let wanted: u64 = self.wanted.values().map(|d| u64::from(d.largest())).sum();
        let later: u64 = self.later.values().map(|c| u64::from(*c)).sum();
        let staged: u64 = self.staged.iter().flat_map(|s| &s.runs).map(|r| u64::from(r.end - r.start)).sum();
        whole + wanted + later + staged
    }

    /// Bytes of blocks to be sent whole that did not go out entirely.
    pub(super) fn whole_bytes_left(&self) -> u64 {
        let staged = self.staged.iter().filter(|staged| !staged.repair).count() as u64;
        let block = u64::from(self.layout.source_symbols(0)) * u64::from(self.layout.geometry().symbol_size());
        ((self.source.count() + staged) * block).min(self.layout.size())
    }

    /// Rows about blocks, and repairs that are remembered as sent.
    pub(super) fn rows(&self) -> usize {
        let sent: usize = self.repairs.values().map(|under_way| under_way.sent.len()).sum();
        let wanted = self.wanted.len() + self.later.len() + self.unasked.len() + self.asked.len();
        wanted + self.whole_end.len() + self.repairs.len() + sent
    }

    /// How many there may be.
    pub(super) const fn rows_max(&self) -> usize {
        self.layout.block_count() as usize * (6 + SENT_MAX)
    }

    /// It is on the being-multicast list: it has a slot.
    pub(super) const fn has_slot(&self) -> bool {
        matches!(self.phase, Phase::Recording | Phase::Running)
    }

    /// It sends what was asked for, not what goes out unasked.
    pub(super) const fn is_repair(&self) -> bool {
        !self.first || self.open_until.is_some()
    }

    /// Nothing is left to send.
    pub(super) fn is_drained(&self) -> bool {
        self.staged.is_empty() && !self.has_unstaged()
    }

    fn has_unstaged(&self) -> bool {
        !(self.wanted.is_empty() && self.source.is_empty() && self.again.is_empty() && self.later.is_empty())
    }

    /// Takes a demand into this pass and returns what is new in it, to be promised; `Err` gives the demand back
    /// when this pass takes no more.
    pub(super) fn demand(&mut self, now: Time, demand: Demand, heard: u64) -> Result<Demand, Demand> {
        let mut new = Demand { loss_ppm: demand.loss_ppm, ..Demand::default() };
        for block in demand.whole.iter() {
            let coming = self.source.contains(block) || self.again.contains(block);
            if !coming && !self.whole_under_way(block, heard) {
                new.whole.insert(block..block + 1);
            }
        }
        for (block, asked) in &demand.short {
            let coming = self.source.contains(*block) || self.again.contains(*block) || new.whole.contains(*block);
            if coming || self.whole_under_way(*block, heard) {
                continue;
            }
            let covered = self.repairs_under_way(*block, heard) + self.later.get(block).copied().unwrap_or(0);
            let missing = scale(asked.largest(), demand.loss_ppm).saturating_sub(covered);
            if missing > 0 {
                new.short.entry(*block).or_default().merge(missing);
            }
        }
        if new.is_empty() {
            return Ok(new);
        }
        if matches!(self.phase, Phase::Closing { .. }) && self.open_until.is_some_and(|until| now >= until) {
            return Err(demand);
        }
        let k = u64::from(self.layout.source_symbols(0));
        let cost = new.whole.count() * k + new.short.values().map(|d| u64::from(d.largest())).sum::<u64>();
        let Some(left) = self.repair_budget.checked_sub(cost) else { return Err(demand) };
        self.repair_budget = left;
        self.again.union(&new.whole);
        for (block, asked) in &new.short {
            let wanted = self.wanted.entry(*block).or_default();
            let before = wanted.largest();
            wanted.merge(asked.largest());
            *self.asked.entry(*block).or_insert(0) += u32::from(wanted.largest() - before);
        }
        if matches!(self.phase, Phase::Closing { .. }) {
            self.phase = Phase::AskedAgain;
        }
        Ok(new)
    }

    /// Only the blocks that are being sent, and nothing after them.
    pub(super) fn cut_short(&mut self) {
        self.source = RangeSet::new();
        self.again = RangeSet::new();
        self.wanted.clear();
        self.later.clear();
        self.repair_budget = 0;
    }

    /// Everything was sent. Whoever asks has asked after `window`; with nothing else to send (`is_last`) the pass stays
    /// open longer, so that what is asked late need not wait for another one.
    pub(super) fn close(&mut self, now: Time, window: Duration, is_last: bool) {
        self.open_until.get_or_insert((now + window * WINDOWS_MAX).max(self.next_pass_at));
        let asked = now + window;
        self.phase = Phase::Closing { until: if is_last { asked.max(self.next_pass_at) } else { asked } };
    }

    /// Packet numbers begin anew: what was sent before counts as heard or lost.
    pub(super) fn on_roll(&mut self) {
        for end in self.whole_end.values_mut().filter(|end| end.is_some()) {
            *end = Some(0);
        }
        self.repairs.values_mut().for_each(|under_way| under_way.sent.clear());
    }

    /// The block's whole run was not over when the asking receiver had heard so far.
    fn whole_under_way(&self, block: u32, heard: u64) -> bool {
        match self.whole_end.get(&block) {
            None => false,
            Some(None) => true,
            Some(Some(end)) => *end > heard,
        }
    }

    fn repairs_under_way(&self, block: u32, heard: u64) -> u16 {
        self.repairs.get(&block).map_or(0, |under_way| under_way.coming(heard))
    }

    /// Decides which block comes next and returns it, to be prepared. `steps` are the repair steps that this
    /// session took of each block.
    pub(super) fn stage(
        &mut self,
        session: SessionId,
        steps: &mut BTreeMap<u32, u32>,
        foresight: &Foresight,
    ) -> Option<(u32, bool)> {
        let (block, whole, repairs) = self.choose(foresight)?;
        let k = self.layout.source_symbols(block);
        let mut runs = VecDeque::new();
        if whole {
            runs.push_back(0..k);
            self.whole_end.insert(block, None);
            self.unasked.entry(block).or_insert(repairs);
        }
        if repairs > 0 {
            let step = steps.entry(block).or_insert(0);
            runs.extend(repair::runs(session, self.object, block, k, *step, repairs));
            *step = step.wrapping_add(repairs.into());
            if !whole {
                let under_way = self.repairs.entry(block).or_default();
                under_way.queued = under_way.queued.saturating_add(repairs);
            }
        }
        let item = Staged { block, runs, ready: false, begun: false, repair: !whole, repairs };
        let at = if whole {
            self.staged.len()
        } else {
            self.staged.iter().position(|s| !s.repair && !s.begun).unwrap_or(self.staged.len())
        };
        self.staged.insert(at, item);
        Some((block, repairs > 0))
    }

    fn choose(&mut self, foresight: &Foresight) -> Option<(u32, bool, u16)> {
        if let Some((block, asked)) = self.wanted.pop_first() {
            let (first, rest) = asked.split();
            if rest > 0 {
                *self.later.entry(block).or_insert(0) += rest;
            }
            return Some((block, false, first.min(self.most(block))));
        }
        if let Some(block) = self.source.pop_first().or_else(|| self.again.pop_first()) {
            let k = self.layout.source_symbols(block);
            let share = (u64::from(k) * u64::from(self.proactive.ppm)).div_ceil(1_000_000);
            let fixed = u16::try_from(share).unwrap_or(0).max(self.proactive.least);
            let extra = foresight.symbols(k).max(fixed);
            return Some((block, true, extra.min(self.most(block).max(self.proactive.least))));
        }
        let (block, count) = self.later.pop_first()?;
        Some((block, false, count.min(self.most(block))))
    }

    /// What was asked of blocks that were over for everybody before `before`, to foresee what the next ones will need.
    pub(super) fn teach(&mut self, before: Time, foresight: &mut Foresight) {
        while self.passed.front().is_some_and(|(over, _)| *over <= before) {
            if let Some((_, block)) = self.passed.pop_front() {
                self.teach_block(block, foresight);
            }
        }
    }

    /// The same for all blocks.
    pub(super) fn teach_all(&mut self, foresight: &mut Foresight) {
        while let Some((block, _)) = self.unasked.first_key_value() {
            self.teach_block(*block, foresight);
        }
    }

    fn teach_block(&mut self, block: u32, foresight: &mut Foresight) {
        let Some(unasked) = self.unasked.remove(&block) else { return };
        let asked = self.asked.remove(&block).unwrap_or(0);
        if self.first && self.proactive == Proactive::default() {
            foresight.learn(self.layout.source_symbols(block), unasked, asked);
        }
    }

    /// No receiver can need more than K symbols of a block.
    fn most(&self, block: u32) -> u16 {
        self.layout.source_symbols(block).saturating_mul(2)
    }

    /// The driver has prepared a block (the earliest staged one that waits for it).
    pub(super) fn prepared(&mut self, block: u32) {
        if let Some(staged) = self.staged.iter_mut().find(|s| s.block == block && !s.ready) {
            staged.ready = true;
        }
    }

    /// The next run of at most `most` symbols, from `first_packet` on; true when its block is through.
    pub(super) fn next_run(&mut self, now: Time, most: u16, first_packet: u64) -> Option<(u32, Range<u16>, bool)> {
        let staged = self.staged.front_mut().filter(|s| s.ready)?;
        let run = staged.runs.front_mut()?;
        if !staged.begun && !staged.repair {
            // Receivers see by it that the one before is over.
            self.passed.extend(self.last_whole.replace(staged.block).map(|before| (now, before)));
        }
        staged.begun = true;
        self.begun = true;
        let block = staged.block;
        let esis = run.start..run.start + (run.end - run.start).min(most);
        run.start = esis.end;
        if run.start == run.end {
            staged.runs.pop_front();
        }
        let through = staged.runs.is_empty();
        if through {
            let end = first_packet + u64::from(esis.end - esis.start);
            if staged.repair {
                if let Some(under_way) = self.repairs.get_mut(&block) {
                    under_way.on_sent(end, staged.repairs);
                }
            } else {
                self.whole_end.insert(block, Some(end));
                self.repairs.remove(&block);
            }
            self.staged.pop_front();
        }
        Some((block, esis, through))
    }

    /// A run is ready to be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Running && self.staged.front().is_some_and(|s| s.ready)
    }

    /// Another block should be chosen and prepared.
    pub(super) fn wants_staging(&self, most: usize) -> bool {
        self.phase == Phase::Running && self.staged.len() < most && self.has_unstaged()
    }
}

#[cfg(test)]
mod tests {
    use nackcast_common::geometry::Geometry;

    use super::*;

    fn job(blocks: u64) -> (Job, BTreeMap<u32, u32>) {
        let layout = Geometry::default().object(blocks * 262_144).unwrap();
        let mut job = Job::first_pass(ObjectId(1), layout, Time(2), Proactive::default());
        job.phase = Phase::Running;
        (job, BTreeMap::new())
    }

    /// Sends everything that is staged and not staged; returns (block, symbols) in order.
    fn drain(job: &mut Job, steps: &mut BTreeMap<u32, u32>, packet: &mut u64) -> Vec<(u32, Range<u16>)> {
        let mut sent = Vec::new();
        loop {
            while job.wants_staging(2) {
                let (block, _) = job.stage(SessionId(1), steps, &Foresight::default()).unwrap();
                job.prepared(block);
            }
            let Some((block, esis, _)) = job.next_run(Time::ZERO, 1000, *packet) else { return sent };
            *packet += u64::from(esis.end - esis.start);
            sent.push((block, esis));
        }
    }

    fn short(block: u32, deficit: u16) -> Demand {
        let mut demand = Demand::default();
        demand.short.entry(block).or_default().merge(deficit);
        demand
    }

    #[test]
    fn what_is_left_of_a_first_pass_is_what_did_not_go_out() {
        let (mut job, mut steps) = job(3);
        assert_eq!(job.whole_bytes_left(), 3 * 262_144);
        let (block, _) = job.stage(SessionId(1), &mut steps, &Foresight::default()).unwrap();
        job.prepared(block);
        assert_eq!(job.whole_bytes_left(), 3 * 262_144, "prepared is not sent");
        assert!(job.next_run(Time::ZERO, 1000, 0).is_some());
        let left = job.whole_bytes_left();
        assert!((2 * 262_144..=2 * 264_000).contains(&left), "{left}");
        drain(&mut job, &mut steps, &mut 188);
        assert_eq!(job.whole_bytes_left(), 0);
    }

    #[test]
    fn a_first_pass_sends_every_source_symbol_once_and_in_order() {
        let (mut job, mut steps) = job(3);
        let sent = drain(&mut job, &mut steps, &mut 0);
        assert_eq!(sent, [(0, 0..188), (1, 0..188), (2, 0..188)]);
        assert!(job.is_drained());
    }

    #[test]
    fn repairs_go_before_the_rest_of_the_pass() {
        let (mut job, mut steps) = job(9);
        let mut packet = 0;
        for _ in 0..2 {
            job.stage(SessionId(1), &mut steps, &Foresight::default()).unwrap();
        }
        job.prepared(0);
        job.prepared(1);
        job.next_run(Time::ZERO, 1000, 0).unwrap();
        packet += 188;
        assert!(job.demand(Time::ZERO, short(0, 3), packet).is_ok());
        let sent = drain(&mut job, &mut steps, &mut packet);
        let repaired = sent.iter().position(|(block, esis)| *block == 0 && esis.start >= 188).unwrap();
        assert!(repaired <= 2, "{sent:?}");
        assert_eq!(sent.iter().filter(|s| s.0 == 0).map(|s| s.1.len()).sum::<usize>(), 3);
    }

    #[test]
    fn what_a_receiver_could_not_have_heard_is_not_sent_again() {
        let (mut job, mut steps) = job(2);
        let mut packet = 0;
        drain(&mut job, &mut steps, &mut packet);
        // It had heard up to the middle of block 1 when it asked.
        assert!(job.demand(Time::ZERO, short(1, 188), 200).unwrap().is_empty());
        assert!(!job.demand(Time::ZERO, short(0, 5), 200).unwrap().is_empty());
        // The same need of another receiver is covered by what is queued; a larger one adds the difference.
        drain(&mut job, &mut steps, &mut packet);
        assert!(job.demand(Time::ZERO, short(0, 5), 200).unwrap().is_empty(), "under way");
        assert_eq!(job.demand(Time::ZERO, short(0, 7), 200).unwrap().short[&0].largest(), 2);
        drain(&mut job, &mut steps, &mut packet);
        assert_eq!(
            job.demand(Time::ZERO, short(0, 1), packet).unwrap().short[&0].largest(),
            1,
            "heard everything, still short"
        );
    }

    #[test]
    fn repairs_that_went_out_one_after_the_other_all_count() {
        let (mut job, mut steps) = job(1);
        let mut packet = 0;
        drain(&mut job, &mut steps, &mut packet);
        let heard = packet;
        for deficit in [3, 5, 9] {
            job.demand(Time::ZERO, short(0, deficit), heard).unwrap();
            drain(&mut job, &mut steps, &mut packet);
        }
        assert_eq!(packet - heard, 9);
        assert!(job.demand(Time::ZERO, short(0, 9), heard).unwrap().is_empty(), "all nine may still arrive");
        assert_eq!(job.demand(Time::ZERO, short(0, 9), heard + 3).unwrap().short[&0].largest(), 3, "six may");
    }

    #[test]
    fn the_largest_deficit_is_sent_and_no_more() {
        let (mut job, mut steps) = job(1);
        let mut packet = 0;
        drain(&mut job, &mut steps, &mut packet);
        for deficit in [2, 3, 9, 1] {
            job.demand(Time::ZERO, short(0, deficit), packet).unwrap();
        }
        let sent: usize = drain(&mut job, &mut steps, &mut packet).iter().map(|s| s.1.len()).sum();
        assert_eq!(sent, 9);
    }

    #[test]
    fn one_pass_is_not_kept_open_for_ever() {
        let (mut job, mut steps) = job(1);
        let mut packet = 0;
        let mut served = |now: u64| {
            drain(&mut job, &mut steps, &mut packet);
            job.close(Time(now), Duration::from_micros(10), false);
            let is_served = job.demand(Time(now + 1), short(0, 1), packet).is_ok();
            job.phase = Phase::Running;
            is_served
        };
        assert_eq!([0, 10, 30, 70, 78, 79, 80].map(&mut served), [true, true, true, true, true, false, false]);
        let (mut job, _) = self::job(1);
        job.phase = Phase::Running;
        job.source = RangeSet::new();
        let refused = (0..100).filter(|_| job.demand(Time::ZERO, short(0, 60_000), u64::MAX).is_err()).count();
        assert!(refused > 0, "repairs of a pass are bounded");
    }

    #[test]
    fn the_last_passes_serve_late_demands_until_others_might_begin() {
        let (mut job, mut steps) = job(1);
        job.next_pass_at = Time(1_000);
        drain(&mut job, &mut steps, &mut 0);
        job.close(Time(100), Duration::from_micros(10), false);
        assert_eq!(job.phase, Phase::Closing { until: Time(110) });
        job.close(Time(120), Duration::from_micros(10), true);
        assert_eq!(job.phase, Phase::Closing { until: Time(1_000) });
        assert!(job.demand(Time(999), short(0, 1), 188).is_ok());
    }

    #[test]
    fn a_block_teaches_when_the_next_one_is_under_way() {
        let (mut job, mut steps) = job(3);
        let mut foresight = Foresight::default();
        for (now, block) in [(10, 0), (20, 1)] {
            job.stage(SessionId(1), &mut steps, &foresight).unwrap();
            job.prepared(block);
            while job.next_run(Time(now), 1000, 0).is_some() {}
        }
        job.demand(Time(30), short(0, 3), 1000).unwrap();
        job.teach(Time(19), &mut foresight);
        assert_eq!(job.asked.len(), 1, "nobody could have asked for more yet");
        job.teach(Time(20), &mut foresight);
        assert_eq!((job.asked.len(), job.unasked.len()), (0, 1), "block 1 is not over");
        job.teach_all(&mut foresight);
        assert!(job.unasked.is_empty());
    }

    #[test]
    fn a_small_block_of_the_manifest_is_sent_several_times_over() {
        let layout = Geometry::default().object(2_000).unwrap();
        let proactive = Proactive { ppm: 150_000, least: 8 };
        let mut job = Job::first_pass(ObjectId(1), layout, Time(2), proactive);
        job.phase = Phase::Running;
        let sent = drain(&mut job, &mut BTreeMap::new(), &mut 0);
        assert_eq!(sent.iter().map(|(_, esis)| esis.len()).sum::<usize>(), 2 + 8);
    }
}
