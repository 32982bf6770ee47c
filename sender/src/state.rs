//! What a sender keeps across restarts, in the store of its state directory.
//!
//! - The channels that the directory serves: a directory of others is refused, never mixed.
//! - Start numbers, which only grow, also when the clock went back.
//! - Pass counts of the current round: durable before the pass begins, so that a restart never gives an object
//!   more passes than allowed.
//! - When a primary started last, and how long it held off: see [`hold_off`].
//! - Which generation was published last, so that numbering goes on when the stored manifest is lost.
//!
//! Everything here blocks.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nackcast_common::ids::{ChannelId, Digest, Generation, ObjectId, StartNumber};
use nackcast_common::store::{Batch, Store, StoreError, Table};

use crate::error::RunError;
use crate::role::hold::{LastStart, hold_off};

/// Bytes of a channel id at the front of a key.
const CHANNEL_LEN: usize = 16;

/// The open state directory.
#[derive(Clone, Debug)]
pub(crate) struct NodeState {
    dir: PathBuf,
    store: Store,
    starts: Table,
    passes: Table,
    published: Table,
    returns: Table,
}

impl NodeState {
    /// Opens the directory for these channels, made if need be.
    pub(crate) fn open(dir: &Path, channels: &[(ChannelId, &str)]) -> Result<Self, RunError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| StoreError::Io {
            action: "make a directory for",
            dir: dir.to_owned(),
            source,
        })?;
        let (store, warning) = Store::open(&dir.join("store"))?;
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        claim(dir, &store, channels)?;
        let (starts, passes, published) = (store.tree("starts")?, store.tree("passes")?, store.tree("published")?);
        let returns = store.tree("returns")?;
        Ok(Self { dir: dir.to_owned(), store, starts, passes, published, returns })
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A start number above all earlier ones, durable when this returns.
    pub(crate) fn next_start_number(&self, channel: ChannelId, wall_ms: u64) -> Result<StartNumber, StoreError> {
        let stored = self.starts.get(&channel.0)?.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        let next = stored.map_or(0, |stored| stored.saturating_add(1)).max(wall_ms);
        self.starts.put(&channel.0, &next.to_be_bytes())?;
        self.store.flush()?;
        Ok(StartNumber(next))
    }

    /// How long a primary holds off at this start, by its last one; durable when this returns.
    pub(crate) fn hold_off(&self, channel: ChannelId, base: Duration, wall_ms: u64) -> Result<Duration, StoreError> {
        let last = self.returns.get(&channel.0)?.and_then(|bytes| {
            let (at, hold) = bytes.split_first_chunk::<8>()?;
            let hold = Duration::from_millis(u64::from_be_bytes(hold.try_into().ok()?));
            Some(LastStart { wall_ms: u64::from_be_bytes(*at), hold })
        });
        let hold = hold_off(base, last, wall_ms);
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        self.returns.put(&channel.0, &[wall_ms.to_be_bytes(), hold_ms.to_be_bytes()].concat())?;
        self.store.flush()?;
        Ok(hold)
    }

    /// Keeps the counts of passes that begin now; durable when this returns.
    pub(crate) fn record_passes(
        &self,
        channel: ChannelId,
        passes: &[(ObjectId, u32)],
        wall_ms: u64,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        for (object, count) in passes {
            batch.put(&pass_key(channel, *object), &pass_value(*count, wall_ms));
        }
        self.passes.apply(batch)?;
        self.store.flush()
    }

    /// The counts of rounds that may still run; forgets the others.
    pub(crate) fn passes(
        &self,
        channel: ChannelId,
        round_quiet: Duration,
        wall_ms: u64,
    ) -> Result<Vec<(ObjectId, u32)>, StoreError> {
        let (mut young, mut old) = (Vec::new(), Batch::new());
        for pair in self.passes.iter_prefix(&channel.0) {
            let (key, value) = pair?;
            match (pass_object(&key), pass_parts(&value)) {
                // A record from the future is of a clock that went back since: it counts.
                (Some(object), Some((count, at)))
                    if u128::from(wall_ms.saturating_sub(at)) < round_quiet.as_millis() =>
                {
                    young.push((object, count));
                }
                _ => old.remove(&key),
            }
        }
        self.passes.apply(old)?;
        Ok(young)
    }

    /// The last generation of a channel, and the hash of its root.
    pub(crate) fn published(&self, channel: ChannelId) -> Result<Option<(Generation, Digest)>, StoreError> {
        let value = self.published.get(&channel.0)?;
        Ok(value.and_then(|bytes| {
            let (generation, hash) = bytes.split_first_chunk::<8>()?;
            Some((Generation(u64::from_be_bytes(*generation)), Digest::from_slice(hash)?))
        }))
    }

    /// Keeps what is published now; durable when this returns.
    pub(crate) fn record_published(
        &self,
        channel: ChannelId,
        generation: Generation,
        root: Digest,
    ) -> Result<(), StoreError> {
        self.published.put(&channel.0, &[&generation.0.to_be_bytes()[..], &root.0].concat())?;
        self.store.flush()
    }
}

/// Refuses a directory that serves other channels only, and notes ours.
fn claim(dir: &Path, store: &Store, channels: &[(ChannelId, &str)]) -> Result<(), RunError> {
    let table = store.tree("channels")?;
    let known: Vec<_> = table.iter().collect::<Result<_, _>>()?;
    let ours = |key: &[u8]| channels.iter().any(|(channel, _)| channel.0 == *key);
    if !known.is_empty() && !known.iter().any(|(key, _)| ours(key)) {
        let names = known.iter().map(|(key, name)| {
            let id: String = key.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            format!("channel {} ({id})", String::from_utf8_lossy(name).escape_debug())
        });
        let owners = names.collect::<Vec<_>>().join(", ");
        return Err(RunError::OtherChannel { path: dir.to_owned(), owners });
    }
    for (channel, name) in channels {
        let cut = name.char_indices().map(|(at, _)| at).take_while(|at| *at <= 200).last().unwrap_or(0);
        let name = if name.len() <= 200 { name } else { &name[..cut] };
        table.put(&channel.0, name.as_bytes())?;
    }
    Ok(store.flush()?)
}

fn pass_key(channel: ChannelId, object: ObjectId) -> Vec<u8> {
    [&channel.0[..], &object.0.to_be_bytes()].concat()
}

fn pass_object(key: &[u8]) -> Option<ObjectId> {
    Some(ObjectId(u64::from_be_bytes(key.get(CHANNEL_LEN..)?.try_into().ok()?)))
}

fn pass_value(count: u32, wall_ms: u64) -> Vec<u8> {
    [&count.to_be_bytes()[..], &wall_ms.to_be_bytes()].concat()
}

fn pass_parts(value: &[u8]) -> Option<(u32, u64)> {
    let (count, at) = value.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*count), u64::from_be_bytes(at.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NEWS: ChannelId = ChannelId([1; 16]);
    const FILMS: ChannelId = ChannelId([2; 16]);

    fn open(dir: &Path) -> NodeState {
        NodeState::open(dir, &[(NEWS, "news")]).unwrap()
    }

    #[test]
    fn start_numbers_grow_also_when_the_clock_went_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        assert_eq!(state.next_start_number(NEWS, 1000).unwrap(), StartNumber(1000));
        assert_eq!(state.next_start_number(NEWS, 400).unwrap(), StartNumber(1001));
        drop(state);
        let state = open(dir.path());
        assert_eq!(state.next_start_number(NEWS, 0).unwrap(), StartNumber(1002));
        assert_eq!(state.next_start_number(NEWS, 5000).unwrap(), StartNumber(5000));
        assert_eq!(state.next_start_number(FILMS, 7).unwrap(), StartNumber(7));
    }

    #[test]
    fn pass_counts_survive_a_restart_and_are_forgotten_when_their_round_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let quiet = Duration::from_secs(1);
        let state = open(dir.path());
        state.record_passes(NEWS, &[(ObjectId(1), 3), (ObjectId(2), 1)], 10_000).unwrap();
        state.record_passes(NEWS, &[(ObjectId(2), 2)], 10_900).unwrap();
        state.record_passes(FILMS, &[(ObjectId(1), 9)], 10_000).unwrap();
        drop(state);
        let state = open(dir.path());
        assert_eq!(state.passes(NEWS, quiet, 9_000).unwrap(), [(ObjectId(1), 3), (ObjectId(2), 2)]);
        assert_eq!(state.passes(NEWS, quiet, 11_500).unwrap(), [(ObjectId(2), 2)]);
        assert_eq!(state.passes(NEWS, quiet, 10_000).unwrap(), [(ObjectId(2), 2)], "the other was forgotten");
        assert_eq!(state.passes(FILMS, quiet, 10_000).unwrap(), [(ObjectId(1), 9)]);
    }

    #[test]
    fn a_state_directory_of_other_channels_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state");
        drop(open(&path));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let error = NodeState::open(&path, &[(FILMS, "films")]).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("channel news (01010101)"), "{error}");
        drop(NodeState::open(&path, &[(FILMS, "films"), (NEWS, "news")]).unwrap());
        drop(NodeState::open(&path, &[(FILMS, "films")]).unwrap());
    }

    #[test]
    fn a_second_sender_in_the_same_state_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path());
        let error = NodeState::open(dir.path(), &[(NEWS, "news")]).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("in use"), "{error}");
    }

    #[test]
    fn the_last_generation_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        assert_eq!(state.published(NEWS).unwrap(), None);
        state.record_published(NEWS, Generation(4), Digest::of(b"root")).unwrap();
        drop(state);
        assert_eq!(open(dir.path()).published(NEWS).unwrap(), Some((Generation(4), Digest::of(b"root"))));
    }
}
