//! The workers on their threads: orders go in by channels, reports come back by channels.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::app::RunError;
use crate::blocks::{self, Blocks};
use crate::dataset::{self, Dataset};
use crate::node::{Order, ReceiverNode};

/// The running workers.
pub(super) struct Threads {
    blocks: Sender<blocks::Order>,
    dataset: Sender<dataset::Order>,
    handles: [JoinHandle<()>; 2],
}

/// What they report.
pub(super) struct Reports {
    pub(super) blocks: UnboundedReceiver<blocks::Report>,
    pub(super) dataset: UnboundedReceiver<dataset::Report>,
}

impl Threads {
    pub(super) fn start(block_worker: Blocks, dataset_worker: Dataset) -> Result<(Self, Reports), RunError> {
        let (blocks, block_orders) = channel();
        let (dataset, dataset_orders) = channel();
        let (block_reports, block_reported) = unbounded_channel();
        let (dataset_reports, dataset_reported) = unbounded_channel();
        let handles = [
            spawn("blocks", move || work_on_blocks(block_worker, &block_orders, &block_reports))?,
            spawn("dataset", move || work_on_dataset(dataset_worker, &dataset_orders, &dataset_reports))?,
        ];
        let reports = Reports { blocks: block_reported, dataset: dataset_reported };
        Ok((Self { blocks, dataset, handles }, reports))
    }

    /// Hands on what the node orders.
    pub(super) fn carry_out(&self, node: &mut ReceiverNode) {
        while let Some(order) = node.poll_order() {
            let given = match order {
                Order::Blocks(order) => self.blocks.send(order).is_ok(),
                Order::Dataset(order) => self.dataset.send(order).is_ok(),
            };
            if !given {
                tracing::error!("a disk thread is gone");
            }
        }
    }

    /// No more orders: waits until those given are carried out.
    pub(super) async fn join(self) -> Result<(), RunError> {
        let Self { blocks, dataset, handles } = self;
        drop((blocks, dataset));
        let joined = tokio::task::spawn_blocking(move || {
            for handle in handles {
                if handle.join().is_err() {
                    tracing::error!("a disk thread ended badly");
                }
            }
        });
        joined.await.map_err(|_| RunError::Internal("disk threads"))
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, RunError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(|_| RunError::Internal("threads"))
}

/// Works until nobody gives orders any more; they are carried out even when nobody hears the reports.
fn work_on_blocks(mut worker: Blocks, orders: &Receiver<blocks::Order>, reports: &UnboundedSender<blocks::Report>) {
    while let Ok(order) = orders.recv() {
        worker.handle(order);
        while let Some(report) = worker.poll_report() {
            tell(reports, report);
        }
    }
    // The last orders were given: what is known now shall survive.
    worker.sync();
}

fn work_on_dataset(mut worker: Dataset, orders: &Receiver<dataset::Order>, reports: &UnboundedSender<dataset::Report>) {
    let mut next = None;
    while let Some(mut order) = next.take().or_else(|| orders.recv().ok()) {
        // What waits behind is installed in the same batch.
        while next.is_none()
            && let Ok(waiting) = orders.try_recv()
        {
            next = order.join(waiting);
        }
        worker.handle(order);
        while let Some(report) = worker.poll_report() {
            tell(reports, report);
        }
    }
}

fn tell<R>(reports: &UnboundedSender<R>, report: R) {
    if reports.send(report).is_err() {
        tracing::debug!("nobody listens any more");
    }
}
