//! The disk workers: each carries out one order after the other, and takes the time that the disk takes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use nackcast_common::clock::Time;
use nackcast_common::ids::ObjectId;
use nackcast_receiver::blocks::{self, Blocks};
use nackcast_receiver::dataset::{self, Dataset};
use nackcast_receiver::engine::{BlockOutcome, Wants};
use nackcast_receiver::node::Order;

use super::{Lane, Receiver, Want, time_of};
use crate::sim::disk::Counts;
use crate::sim::scenario::DiskSpec;

/// Characters of one line of a timeline.
const LINE_LEN: usize = 300;

/// Both workers, and what they have to do.
#[derive(Debug)]
pub(super) struct Disks {
    blocks: Queue<Blocks, blocks::Order, blocks::Report>,
    dataset: Queue<Dataset, dataset::Order, dataset::Report>,
}

/// A worker, its orders and its reports.
#[derive(Debug)]
struct Queue<W, O, R> {
    worker: W,
    orders: VecDeque<O>,
    /// Of the order that is being carried out.
    reports: Option<Vec<R>>,
}

impl<W, O, R> Queue<W, O, R> {
    const fn of(worker: W) -> Self {
        Self { worker, orders: VecDeque::new(), reports: None }
    }

    /// The next order, for a worker that is idle.
    fn next(&mut self) -> Option<O> {
        if self.reports.is_some() { None } else { self.orders.pop_front() }
    }
}

impl Disks {
    pub(super) const fn new(blocks: Blocks, dataset: Dataset) -> Self {
        Self { blocks: Queue::of(blocks), dataset: Queue::of(dataset) }
    }

    fn reports(&self) -> impl Iterator<Item = &blocks::Report> {
        self.blocks.reports.iter().flatten()
    }
}

impl Receiver {
    /// A worker's time is over: its reports go to the node.
    pub fn worked(&mut self, now: Time, lane: Lane) {
        let local = self.clock.at(now);
        let Some(alive) = &mut self.alive else { return };
        match lane {
            Lane::Blocks => {
                for report in alive.disks.blocks.reports.take().unwrap_or_default() {
                    alive.node.handle_block_report(local, report);
                }
            }
            Lane::Dataset => {
                for report in alive.disks.dataset.reports.take().unwrap_or_default() {
                    alive.node.handle_dataset_report(local, report);
                }
                self.look_at_scan(now);
            }
        }
        self.drain(now);
    }

    /// Takes what the node wants after an input.
    pub(super) fn drain(&mut self, now: Time) {
        let Some(alive) = &mut self.alive else { return };
        let disks = &mut alive.disks;
        while let Some(order) = alive.node.poll_order() {
            match order {
                Order::Blocks(order) => disks.blocks.orders.push_back(order),
                Order::Dataset(order) => match disks.dataset.orders.back_mut() {
                    Some(last) => {
                        if let Some(order) = last.join(order) {
                            disks.dataset.orders.push_back(order);
                        }
                    }
                    None => disks.dataset.orders.push_back(order),
                },
            }
        }
        while let Some((to, datagram)) = alive.node.poll_transmit() {
            self.wants.push_back(Want::Send(to, Bytes::copy_from_slice(datagram)));
        }
        while let Some(order) = alive.node.poll_pull() {
            self.wants.push_back(Want::Pull(order));
        }
        if let Some(giving) = &alive.giving {
            giving.follow(&alive.node);
        }
        self.work(now);
    }

    /// Gives idle workers their next order. It is carried out at once, and takes the time that the disk takes.
    fn work(&mut self, now: Time) {
        let Some(alive) = &mut self.alive else { return };
        self.disk.set_time(time_of(now));
        let Disks { blocks, dataset } = &mut alive.disks;
        if let Some(order) = blocks.next() {
            let before = self.disk.counts();
            blocks.worker.handle(order);
            blocks.reports = Some(std::iter::from_fn(|| blocks.worker.poll_report()).collect());
            let took = duration(&self.cost, before, self.disk.counts());
            self.wants.push_back(Want::Busy(Lane::Blocks, now + took));
        }
        if let Some(order) = dataset.next() {
            let before = self.disk.counts();
            dataset.worker.handle(order);
            dataset.reports = Some(std::iter::from_fn(|| dataset.worker.poll_report()).collect());
            let took = duration(&self.cost, before, self.disk.counts());
            self.wants.push_back(Want::Busy(Lane::Dataset, now + took));
        }
    }

    /// What a worker, which is busy now, is going to report, a line each.
    #[must_use]
    pub fn shown(&self, lane: Lane) -> Vec<String> {
        let Some(alive) = &self.alive else { return Vec::new() };
        let short = |text: String| text.chars().take(LINE_LEN).collect::<String>();
        let block = |report: &blocks::Report| match report {
            blocks::Report::Complete { object, block, slot, outcome, .. } => {
                let how = if slot.is_none() { "pulled " } else { "" };
                Some(format!("{how}block {block} of object {object}: {outcome:?}"))
            }
            blocks::Report::Trouble(error) => Some(error.to_string()),
            _ => None,
        };
        let dataset = |report: &dataset::Report| match report {
            dataset::Report::Wants(wants) => short(format!("wants {:?}", wants.objects)),
            other => short(format!("{other:?}")),
        };
        match lane {
            Lane::Blocks => alive.disks.reports().filter_map(block).collect(),
            Lane::Dataset => alive.disks.dataset.reports.iter().flatten().map(dataset).collect(),
        }
    }

    /// Whether the block worker, which is busy now, found symbols that do not give their block.
    #[must_use]
    pub fn found_unsound(&self) -> bool {
        let unsound = |report: &blocks::Report| {
            matches!(report, blocks::Report::Complete { slot: Some(_), outcome: BlockOutcome::Unsound, .. })
        };
        self.alive.as_ref().is_some_and(|alive| alive.disks.reports().any(unsound))
    }

    /// Pulled blocks that the block worker, which is busy now, looked at, and how they came out.
    pub fn checked(&self) -> impl Iterator<Item = (ObjectId, u32, BlockOutcome)> {
        self.alive.iter().flat_map(|alive| alive.disks.reports()).filter_map(|report| match report {
            blocks::Report::Complete { object, block, slot: None, outcome, .. } => Some((*object, *block, *outcome)),
            _ => None,
        })
    }

    /// Bytes of pulled blocks that wait for the block worker.
    #[must_use]
    pub fn pulled_waiting(&self) -> u64 {
        let orders = self.alive.iter().flat_map(|alive| &alive.disks.blocks.orders);
        let bytes = orders.map(|order| match order {
            blocks::Order::Complete { layout, block, slot: None, .. } => layout.block_len(*block).into(),
            _ => 0,
        });
        bytes.sum()
    }

    /// What the worker, which is busy now, found to be on the disk.
    pub fn claims(&self) -> impl Iterator<Item = &Wants> {
        let reports = self.alive.as_ref().and_then(|alive| alive.disks.dataset.reports.as_ref());
        reports.into_iter().flatten().filter_map(|report| match report {
            dataset::Report::Wants(wants) => Some(&**wants),
            _ => None,
        })
    }

    /// Whether the dataset worker has touched the disk and the node does not know yet.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.alive.as_ref().is_some_and(|alive| alive.disks.dataset.reports.is_some())
    }

    /// Orders that wait for a worker.
    #[must_use]
    pub fn orders_waiting(&self) -> usize {
        let waiting = |disks: &Disks| disks.blocks.orders.len() + disks.dataset.orders.len();
        self.alive.as_ref().map_or(0, |alive| waiting(&alive.disks))
    }
}

/// What the disk takes for it.
pub(super) fn duration(cost: &DiskSpec, before: Counts, after: Counts) -> Duration {
    let calls = (after.calls - before.calls) * cost.call_us + (after.syncs - before.syncs) * cost.sync_us;
    let moved = |counts: Counts| counts.read + counts.written + counts.stored;
    let bytes = moved(after) - moved(before);
    let transfer = (bytes * 1_000_000).checked_div(cost.bytes_per_second).unwrap_or(0);
    Duration::from_micros(calls + transfer + 1)
}
