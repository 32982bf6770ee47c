//! The object scheduler: which object gets a pass, and when.
//!
//! | state | on | to |
//! |---|---|---|
//! | idle | new in this generation | first pass (waits for its turn in manifest order) |
//! | idle | NACK, passes left | to-be-multicast pool |
//! | idle | NACK, none left | idle: the answer is `unicast` |
//! | first pass, pool | a job slot is free (see [`slots`]) | being-multicast, `pass_count` + 1 |
//! | being-multicast | job ended | idle, or pool when demands are left |
//! | any | its bytes changed | gone: the answer is `unknown` |
//!
//! `pass_count` is of the current round, which ends when nobody asked for the object during `round_quiet`.
//! Two passes of one object begin at least `period` apart.

mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{Generation, ObjectId, ObjectIndex};
use nackcast_common::mutation::{Mutation, planted};
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::NackStatus;

use super::covered::Covered;
use super::demand::Demand;
use super::foresight::Foresight;
use super::job::{Job, Phase};
use crate::config::ScheduleConfig;

/// How often objects without passes are gone through.
const EXHAUSTED_LOOK: Duration = Duration::from_secs(1);
/// Objects that left the dataset, and whose passes are remembered.
const LEFT_MAX: usize = 1 << 16;

/// Place in the order of passes: manifest root and parts first, then the object table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// The manifest itself.
    Manifest(u32),
    /// An object of the table.
    Table(ObjectIndex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    FirstPass,
    /// In the pool, or waiting until its period is over.
    Pool {
        eligible: Time,
    },
    Sending,
    Gone,
}

/// One object of the catalogue.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) layout: Layout,
    pub(super) order: Order,
    pub(super) since: Generation,
    state: State,
    pub(super) passes: u32,
    last_start: Option<Time>,
    last_asked: Time,
    demand: Demand,
    /// Repair steps that this session took, by block.
    pub(super) steps: BTreeMap<u32, u32>,
}

/// All objects, the pool, and the being-multicast list.
#[derive(Debug)]
pub(super) struct Schedule {
    config: ScheduleConfig,
    objects: BTreeMap<ObjectId, Object>,
    first: BTreeSet<(Order, ObjectId)>,
    pool: BTreeSet<(Order, ObjectId)>,
    waiting: BTreeSet<(Time, ObjectId)>,
    covered: Covered,
    /// Symbols that the pool wants, about.
    pool_symbols: u64,
    /// Passes of objects that left the dataset in their round, and when they were asked for last.
    left: BTreeMap<ObjectId, (u32, Time)>,
    /// Objects that were asked for when they had no pass left: when last.
    exhausted: BTreeMap<ObjectId, Time>,
    exhausted_looked: Time,
    pub(super) jobs: Vec<Job>,
}

impl Object {
    pub(super) const fn new(layout: Layout, order: Order, since: Generation) -> Self {
        Self {
            layout,
            order,
            since,
            state: State::Idle,
            passes: 0,
            last_start: None,
            last_asked: Time::ZERO,
            demand: Demand { whole: RangeSet::new(), short: BTreeMap::new(), loss_ppm: 0 },
            steps: BTreeMap::new(),
        }
    }

    /// Symbols that are wanted of it in the pool, about.
    fn symbols_wanted(&self) -> u64 {
        let short: u64 = self.demand.short.values().map(|d| u64::from(d.largest())).sum();
        short + self.demand.whole.count() * u64::from(self.layout.source_symbols(0))
    }

    const fn is_queued(&self) -> bool {
        matches!(self.state, State::FirstPass | State::Pool { .. })
    }

    /// With how much loss all of it is queued; none when it is not.
    fn queued_whole(&self) -> Option<u32> {
        match self.state {
            // Whatever is asked of it changes nothing.
            State::FirstPass => Some(u32::MAX),
            State::Pool { .. } => {
                let is_whole = self.demand.whole.count() == u64::from(self.layout.block_count());
                is_whole.then_some(self.demand.loss_ppm)
            }
            State::Idle | State::Sending | State::Gone => None,
        }
    }
}

impl Schedule {
    pub(super) fn new(config: ScheduleConfig) -> Self {
        Self {
            config,
            objects: BTreeMap::new(),
            first: BTreeSet::new(),
            pool: BTreeSet::new(),
            waiting: BTreeSet::new(),
            covered: Covered::default(),
            pool_symbols: 0,
            left: BTreeMap::new(),
            exhausted: BTreeMap::new(),
            exhausted_looked: Time::ZERO,
            jobs: Vec::new(),
        }
    }

    /// Another catalogue. Objects that stay keep state, passes and demands, those that come back in their round their
    /// passes; jobs of those that left are returned.
    pub(super) fn replace(&mut self, now: Time, objects: BTreeMap<ObjectId, Object>, first: &[ObjectId]) -> Vec<Job> {
        let mut old = std::mem::replace(&mut self.objects, objects);
        let (kept, ended) =
            std::mem::take(&mut self.jobs).into_iter().partition(|j| self.objects.contains_key(&j.object));
        self.jobs = kept;
        let (was_first, was_pool, was_waiting) =
            (std::mem::take(&mut self.first), std::mem::take(&mut self.pool), std::mem::take(&mut self.waiting));
        for (id, object) in &mut self.objects {
            if let Some(before) = old.remove(id) {
                let (order, since) = (object.order, object.since);
                *object = before;
                (object.order, object.since) = (order, since);
                // A rescan may have found the bytes again.
                if object.state == State::Gone {
                    object.state = State::Idle;
                }
            } else if let Some((passes, asked)) = self.left.remove(id)
                && now.since(asked) < self.config.round_quiet
            {
                (object.passes, object.last_asked) = (passes, asked);
            }
        }
        let counted = old.into_iter().filter(|(_, object)| object.passes > 0);
        self.left.extend(counted.map(|(id, object)| (id, (object.passes, object.last_asked))));
        self.left.retain(|_, (_, asked)| now.since(*asked) < self.config.round_quiet);
        while self.left.len() > LEFT_MAX {
            self.left.pop_first();
        }
        let still = |objects: &BTreeMap<ObjectId, Object>, id| objects.get(id).map(|o: &Object| (o.order, *id));
        self.first = was_first.iter().filter_map(|(_, id)| still(&self.objects, id)).collect();
        self.pool = was_pool.iter().filter_map(|(_, id)| still(&self.objects, id)).collect();
        self.waiting = was_waiting.into_iter().filter(|(_, id)| self.objects.contains_key(id)).collect();
        for id in first {
            // Without passes left it is not sent: who lacks it is told so.
            if let Some(object) = self.objects.get_mut(id)
                && object.state == State::Idle
                && object.passes < self.config.max_passes
            {
                object.state = State::FirstPass;
                self.first.insert((object.order, *id));
            }
        }
        self.exhausted.retain(|id, _| self.objects.contains_key(id));
        self.covered = Covered::default();
        self.pool_symbols = 0;
        // In the order of the table: the set is kept as runs.
        let mut queued: Vec<_> = self.objects.values().filter(|object| object.is_queued()).collect();
        queued.sort_unstable_by_key(|object| object.order);
        for object in queued {
            enter(&mut self.covered, &mut self.pool_symbols, object);
        }
        ended
    }

    pub(super) fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(&id)
    }

    /// An earlier run's count of the current round. Beyond it there is no first pass, either. An object that is not in
    /// the dataset may come back in its round.
    pub(super) fn restore_passes(&mut self, id: ObjectId, passes: u32, now: Time) {
        let Some(object) = self.objects.get_mut(&id) else {
            self.left.insert(id, (passes, now));
            if self.left.len() > LEFT_MAX {
                self.left.pop_first();
            }
            return;
        };
        object.passes = object.passes.max(passes);
        object.last_asked = now;
        if object.state == State::FirstPass && object.passes >= self.config.max_passes {
            leave(&mut self.covered, &mut self.pool_symbols, object);
            self.first.remove(&(object.order, id));
            object.state = State::Idle;
        }
    }

    /// Least place in the table of which nothing was sent yet in its first pass. An object whose job has just begun
    /// counts until its first symbol is out: receivers ask for what lies behind and is not there.
    pub(super) fn first_pass_cursor(&self) -> Option<ObjectIndex> {
        let table = |order: Order| match order {
            Order::Table(index) => Some(index),
            Order::Manifest(_) => None,
        };
        let waiting = self.first.iter().find_map(|(order, _)| table(*order));
        let silent = self.jobs.iter().filter(|job| job.first && !job.begun && !job.is_drained());
        let silent = silent.filter_map(|job| self.objects.get(&job.object)).filter_map(|object| table(object.order));
        waiting.into_iter().chain(silent).min()
    }

    /// Least `since` among these.
    pub(super) fn first_pass_since(&self) -> Option<Generation> {
        let waiting = self.first.iter().map(|(_, id)| id);
        let silent = self.jobs.iter().filter(|job| job.first && !job.begun).map(|job| &job.object);
        waiting.chain(silent).filter_map(|id| self.objects.get(id)).map(|o| o.since).min()
    }

    /// The manifest's first pass is over.
    pub(super) fn manifest_sent(&self) -> bool {
        let waits = self.first.iter().next().is_some_and(|(order, _)| matches!(order, Order::Manifest(_)));
        let runs = |job: &Job| {
            let manifest = |o: &Object| matches!(o.order, Order::Manifest(_));
            job.first && !job.is_drained() && self.objects.get(&job.object).is_some_and(manifest)
        };
        !waits && !self.jobs.iter().any(runs)
    }

    pub(super) fn first_pass_over(&self) -> bool {
        self.first.is_empty() && !self.jobs.iter().any(|j| j.first && !j.is_drained())
    }

    /// Nothing is left to send.
    pub(super) fn is_idle(&self) -> bool {
        let is_closing = |j: &Job| matches!(j.phase, Phase::Closing { .. });
        self.has_no_next() && self.waiting.is_empty() && self.jobs.iter().all(is_closing)
    }

    /// No object waits for a job, so that jobs may stay open.
    pub(super) fn has_no_next(&self) -> bool {
        self.first.is_empty() && self.pool.is_empty()
    }

    /// How long the being-multicast list is.
    pub(super) fn running(&self) -> usize {
        self.jobs.iter().filter(|job| job.has_slot()).count()
    }

    /// How long it may be: the last slot is for the manifest alone.
    pub(super) const fn running_max(&self) -> usize {
        self.config.max_jobs + 1
    }

    pub(super) fn pool_len(&self) -> usize {
        self.pool.len() + self.waiting.len()
    }

    pub(super) fn first_len(&self) -> usize {
        self.first.len()
    }

    /// How many objects there are, and blocks of them.
    pub(super) fn size(&self) -> (usize, usize) {
        let blocks = self.objects.values().map(|object| object.layout.block_count() as usize).sum();
        (self.objects.len(), blocks)
    }

    /// Blocks that are wanted of objects that wait: whole, and short.
    pub(super) fn demanded(&self) -> usize {
        let count = |object: &Object| object.demand.short.len() + object.demand.whole.iter().count();
        self.objects.values().map(count).sum()
    }

    /// Objects that left the dataset in their round, and how many of them are remembered at most.
    pub(super) fn left(&self) -> (usize, usize) {
        (self.left.len(), LEFT_MAX)
    }

    /// Blocks of which this session remembers how much repair it sent.
    pub(super) fn stepped(&self) -> usize {
        self.objects.values().map(|object| object.steps.len()).sum()
    }

    /// Objects of the table whose first pass is not over, and bytes that it has still to send, about.
    pub(super) fn first_pass_left(&self) -> (u64, u64) {
        let waiting = self.first.iter().filter(|(order, _)| matches!(order, Order::Table(_)));
        let waiting = waiting.filter_map(|(_, id)| self.objects.get(id)).map(|object| object.layout.size());
        let of_table = |id| self.objects.get(&id).is_some_and(|object| matches!(object.order, Order::Table(_)));
        let running = self.jobs.iter().filter(|job| job.first && of_table(job.object));
        let running = running.map(Job::whole_bytes_left).filter(|bytes| *bytes > 0);
        waiting.chain(running).fold((0, 0), |(count, bytes), left| (count + 1, bytes + left))
    }

    /// Symbols in jobs and in the pool, about: to tell receivers how long to wait.
    pub(super) fn symbols_ahead(&self) -> u64 {
        self.jobs.iter().map(Job::symbols_left).sum::<u64>() + self.pool_symbols
    }

    /// Which of these objects of the table a demand for all of them, with this loss, must be given to. The others
    /// are queued whole.
    pub(super) fn not_queued(&self, range: Range<u32>, loss_ppm: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        self.covered.gaps(range, loss_ppm)
    }

    /// A demand for one object; returns the status and what is new in it, to be promised.
    pub(super) fn demand(&mut self, now: Time, id: ObjectId, demand: Demand, heard: u64) -> (NackStatus, Demand) {
        let nothing = Demand::default;
        let Some(object) = self.objects.get_mut(&id) else { return (NackStatus::Unknown, nothing()) };
        if object.state == State::Gone {
            return (NackStatus::Unknown, nothing());
        }
        let quiet = now.since(object.last_asked) >= self.config.round_quiet;
        if quiet && matches!(object.state, State::Idle | State::FirstPass) {
            object.passes = 0;
        }
        if object.state != State::Idle || object.passes < self.config.max_passes {
            // Asking for what has no passes left does not keep the round open.
            object.last_asked = now;
        }
        match object.state {
            State::Gone => (NackStatus::Unknown, nothing()),
            State::FirstPass => (NackStatus::Queued, nothing()),
            State::Pool { .. } => {
                leave(&mut self.covered, &mut self.pool_symbols, object);
                object.demand.merge(demand.clone());
                enter(&mut self.covered, &mut self.pool_symbols, object);
                (NackStatus::Queued, demand)
            }
            State::Sending => match self.jobs.iter_mut().find(|j| j.object == id) {
                Some(job) => match job.demand(now, demand, heard) {
                    Ok(new) => (NackStatus::Sending, new),
                    Err(refused) => {
                        object.demand.merge(refused);
                        (NackStatus::Queued, nothing())
                    }
                },
                None => (NackStatus::Sending, nothing()),
            },
            State::Idle if object.passes >= self.config.max_passes => {
                self.exhausted.insert(id, now);
                (NackStatus::Unicast, nothing())
            }
            State::Idle => {
                self.queue(now, id, demand.clone());
                (NackStatus::Queued, demand)
            }
        }
    }

    /// An idle object goes to the pool.
    fn queue(&mut self, now: Time, id: ObjectId, demand: Demand) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        object.demand = demand;
        let eligible = object.last_start.map_or(now, |start| start + self.config.period);
        object.state = State::Pool { eligible };
        enter(&mut self.covered, &mut self.pool_symbols, object);
        if planted(Mutation::PoolLosesObject) && !self.jobs.is_empty() {
            return;
        }
        if eligible <= now {
            self.pool.insert((object.order, id));
        } else {
            self.waiting.insert((eligible, id));
        }
    }

    /// By command: a new round for the object, with a pass of all of it. Returns what is going to be sent.
    pub(super) fn resend(&mut self, now: Time, id: ObjectId) -> Option<(Demand, Layout)> {
        let object = self.objects.get_mut(&id)?;
        let layout = object.layout;
        let demand = Demand { whole: RangeSet::full(layout.block_count()), ..Demand::default() };
        match object.state {
            State::Gone => return None,
            State::FirstPass => {}
            State::Pool { .. } => {
                leave(&mut self.covered, &mut self.pool_symbols, object);
                object.demand.merge(demand.clone());
                enter(&mut self.covered, &mut self.pool_symbols, object);
            }
            // After the job that runs.
            State::Sending => object.demand.merge(demand.clone()),
            State::Idle => self.queue(now, id, demand.clone()),
        }
        let object = self.objects.get_mut(&id)?;
        (object.passes, object.last_asked) = (0, now);
        self.exhausted.remove(&id);
        Some((demand, layout))
    }

    /// Objects that were asked for when they had no pass left, and had none since, until nobody asked for so long as a round
    /// stays open.
    pub(super) fn exhausted(&self) -> impl ExactSizeIterator<Item = ObjectId> {
        self.exhausted.keys().copied()
    }

    /// What is done with objects behind `after`, as words for people.
    pub(super) fn rows(&self, after: Option<ObjectId>) -> impl Iterator<Item = (ObjectId, &Object, &'static str)> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.objects.range((from, std::ops::Bound::Unbounded)).map(|(id, object)| {
            let state = match object.state {
                State::Gone => "gone",
                State::FirstPass => "first pass",
                State::Pool { .. } => "pool",
                State::Sending => "sending",
                State::Idle if self.exhausted.contains_key(id) => "exhausted",
                State::Idle => "idle",
            };
            (*id, object, state)
        })
    }

    /// Ends closing jobs whose window is over.
    pub(super) fn end_closed(&mut self, now: Time, foresight: &mut Foresight) {
        // Whoever needed them has them by now, or is gone.
        if now.since(self.exhausted_looked) >= EXHAUSTED_LOOK {
            self.exhausted_looked = now;
            self.exhausted.retain(|_, asked| now.since(*asked) < self.config.round_quiet);
        }
        let over = |j: &Job| matches!(j.phase, Phase::Closing { until } if until <= now);
        self.jobs.iter_mut().filter(|j| over(j)).for_each(|j| j.teach_all(foresight));
        let ended: Vec<_> = self.jobs.iter().filter(|j| over(j)).map(|j| j.object).collect();
        self.jobs.retain(|j| !over(j));
        for id in ended {
            self.settle(id);
        }
    }

    /// After a job: back to idle, or to the pool with the demands that it did not take.
    fn settle(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let demand = std::mem::take(&mut object.demand);
        object.state = State::Idle;
        if !demand.is_empty() && object.passes < self.config.max_passes {
            let eligible = object.last_start.map_or(Time::ZERO, |start| start + self.config.period);
            object.demand = demand;
            object.state = State::Pool { eligible };
            enter(&mut self.covered, &mut self.pool_symbols, object);
            self.waiting.insert((eligible, id));
        }
    }

    /// The object's bytes are not what the manifest says: no longer offered. Returns its job.
    pub(super) fn gone(&mut self, id: ObjectId) -> Option<Job> {
        if let Some(object) = self.objects.get_mut(&id) {
            leave(&mut self.covered, &mut self.pool_symbols, object);
            if let State::Pool { eligible } = object.state {
                self.waiting.remove(&(eligible, id));
                self.pool.remove(&(object.order, id));
            }
            self.first.remove(&(object.order, id));
            self.exhausted.remove(&id);
            object.state = State::Gone;
            object.demand = Demand::default();
        }
        let at = self.jobs.iter().position(|j| j.object == id)?;
        Some(self.jobs.remove(at))
    }

    /// No pass goes on, and none waits but first passes. Returns the jobs that ran.
    pub(super) fn stop(&mut self) -> Vec<Job> {
        let running = self.jobs.iter().map(|job| job.object);
        let waiting = self.waiting.iter().map(|(_, id)| *id);
        let ids: Vec<_> = running.chain(waiting).chain(self.pool.iter().map(|(_, id)| *id)).collect();
        for id in ids {
            if let Some(object) = self.objects.get_mut(&id) {
                leave(&mut self.covered, &mut self.pool_symbols, object);
                object.state = State::Idle;
                object.demand = Demand::default();
            }
        }
        self.waiting.clear();
        self.pool.clear();
        std::mem::take(&mut self.jobs)
    }

    /// When something here is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        let waiting = self.waiting.first().map(|(eligible, _)| *eligible);
        let closing = self.jobs.iter().filter_map(|j| match j.phase {
            Phase::Closing { until } => Some(until),
            Phase::Recording | Phase::Running | Phase::AskedAgain => None,
        });
        closing.chain(waiting).min()
    }

    /// The job of an object with the repair steps of its blocks.
    pub(super) fn job_and_steps(&mut self, at: usize) -> Option<(&mut Job, &mut BTreeMap<u32, u32>)> {
        let job = self.jobs.get_mut(at)?;
        let object = self.objects.get_mut(&job.object)?;
        Some((job, &mut object.steps))
    }
}

/// An object that waits is counted...
fn enter(covered: &mut Covered, pool_symbols: &mut u64, object: &Object) {
    if let (Order::Table(index), Some(loss_ppm)) = (object.order, object.queued_whole()) {
        covered.insert(index.0, loss_ppm);
    }
    if matches!(object.state, State::Pool { .. }) {
        *pool_symbols += object.symbols_wanted();
    }
}

/// ...and no longer.
fn leave(covered: &mut Covered, pool_symbols: &mut u64, object: &Object) {
    if let (Order::Table(index), Some(_)) = (object.order, object.queued_whole()) {
        covered.remove(index.0);
    }
    if matches!(object.state, State::Pool { .. }) {
        *pool_symbols = pool_symbols.saturating_sub(object.symbols_wanted());
    }
}

/// What may begin its first pass now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstPassMay {
    /// Nothing: not active, or receivers are awaited.
    Nothing,
    /// The manifest only: receivers must have it before they can use anything else.
    Manifest,
    /// Everything.
    All,
}

impl FirstPassMay {
    const fn begin(self, order: Order) -> bool {
        match self {
            Self::Nothing => false,
            Self::Manifest => matches!(order, Order::Manifest(_)),
            Self::All => true,
        }
    }
}
