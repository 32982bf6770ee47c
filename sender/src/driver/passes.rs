//! Pass counts to the store: everything that waits shares one durable write.
//!
//! A pass begins only after its count is durable. While the store cannot be written nothing begins: better late
//! than more passes than allowed.

use std::time::Duration;

use nackcast_common::clock::Clock;
use nackcast_common::ids::{ChannelId, ObjectId};
use tokio::sync::mpsc;

use crate::state::NodeState;

/// Counts that share one write, at most.
const BATCH_MAX: usize = 1024;
/// Before the store is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Stores counts until nobody sends any more.
pub(crate) async fn record(
    state: NodeState,
    channel: ChannelId,
    mut counts: mpsc::UnboundedReceiver<(ObjectId, u32)>,
    recorded: mpsc::Sender<Vec<ObjectId>>,
) {
    let mut batch = Vec::new();
    while counts.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let passes = std::mem::take(&mut batch);
        let objects = passes.iter().map(|(object, _)| *object).collect();
        store(&state, channel, passes).await;
        if recorded.send(objects).await.is_err() {
            return;
        }
    }
}

async fn store(state: &NodeState, channel: ChannelId, passes: Vec<(ObjectId, u32)>) {
    let passes = std::sync::Arc::new(passes);
    loop {
        let (state, passes) = (state.clone(), std::sync::Arc::clone(&passes));
        let write = move || state.record_passes(channel, &passes, Clock::wall_ms());
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::error!("no new pass can begin: {error}"),
            Err(error) => tracing::error!("no new pass can begin: {error}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_count_is_in_the_store_when_it_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let channel = ChannelId([1; 16]);
        let state = NodeState::open(dir.path(), &[(channel, "news")]).unwrap();
        let (send, counts) = mpsc::unbounded_channel();
        let (recorded, mut told) = mpsc::channel(4);
        for object in 0..3000 {
            send.send((ObjectId(object), 1)).unwrap();
        }
        drop(send);
        let task = tokio::spawn(record(state.clone(), channel, counts, recorded));
        let mut seen = 0;
        while let Some(objects) = told.recv().await {
            seen += objects.len();
            assert!(state.passes(channel, Duration::from_secs(600), Clock::wall_ms()).unwrap().len() >= seen);
        }
        task.await.unwrap();
        assert_eq!(seen, 3000);
    }
}
