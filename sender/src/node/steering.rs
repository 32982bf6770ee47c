//! What an admin tells a channel, and asks of it. Refusals say why.

use nackcast_common::clock::Time;
use nackcast_common::control::{ObjectRow, ROWS_MAX, ReceiverRow, Refusal, Steer};
use nackcast_common::ids::{ObjectId, ObjectIndex};
use nackcast_common::manifest::{Content, EntryKind};
use nackcast_common::path::DatasetPath;
use nackcast_common::units::RateLimit;

use super::SenderNode;
use crate::engine::Command;
use crate::role::{RoleCommand, State};

impl SenderNode {
    /// Sends this fast from now on.
    pub fn set_rate(&mut self, now: Time, rate: RateLimit) {
        tracing::info!(channel = self.tally.name(), %rate, "another rate");
        self.engine.handle_command(now, Command::SetRate(rate));
        self.settle(now);
    }

    /// Begins or ends to send. A drain by command is no end: the node goes on, and may resume.
    ///
    /// # Errors
    /// When the node is about to end.
    pub fn steer(&mut self, now: Time, steer: Steer) -> Result<(), Refusal> {
        if self.drain_until.is_some() {
            return Err(Refusal::NotNow("the node is ending".to_owned()));
        }
        tracing::info!(channel = self.tally.name(), %steer, "by command");
        self.is_finished = false;
        self.handle_role_command(
            now,
            match steer {
                Steer::Pause => RoleCommand::Pause,
                Steer::Drain => RoleCommand::Drain,
                Steer::Resume => RoleCommand::Resume,
            },
        );
        Ok(())
    }

    /// Gives objects a new round, and sends them to everybody. `wanted` are ids in hex digits, or paths; none: all.
    ///
    /// # Errors
    /// When this sender does not send now, or one of them is no object of the generation that is served.
    pub fn resend(&mut self, now: Time, wanted: &[String]) -> Result<u64, Refusal> {
        let objects = self.objects_named(wanted)?;
        if self.role_state() != State::Active {
            return Err(Refusal::NotNow(
                "this sender does not send now: it stands by, or was paused or drained".to_owned(),
            ));
        }
        let count = objects.len() as u64;
        tracing::info!(channel = self.tally.name(), objects = count, "sent again by command");
        self.is_finished = false;
        self.engine.handle_command(now, Command::Resend(objects));
        self.settle(now);
        Ok(count)
    }

    fn objects_named(&self, wanted: &[String]) -> Result<Vec<ObjectId>, Refusal> {
        let Some(published) = &self.published else {
            return Err(Refusal::NotNow("nothing is served yet: the directory is being hashed".to_owned()));
        };
        let manifest = &published.manifest;
        if wanted.is_empty() {
            return Ok(manifest.objects().iter().map(|object| object.id).collect());
        }
        let known = |id: &ObjectId| manifest.index_of(*id).is_some();
        let by_id = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
        let by_path = |text: &str| -> Option<ObjectId> {
            let path = DatasetPath::new(text.as_bytes()).ok()?;
            let entry = manifest.entries().iter().find(|entry| entry.path == path)?;
            let index: ObjectIndex = match &entry.kind {
                EntryKind::File { content: Content::Object(index) | Content::Slice { pack: index, .. }, .. } => *index,
                EntryKind::File { .. } | EntryKind::Directory | EntryKind::Symlink { .. } => return None,
            };
            manifest.object(index).map(|object| object.id)
        };
        let find = |text: &String| {
            let id = by_id(text).map(ObjectId).filter(known).or_else(|| by_path(text));
            id.ok_or_else(|| Refusal::Unknown(format!("{text} is no object and no file with bytes of this generation")))
        };
        wanted.iter().map(find).collect()
    }

    /// Objects behind `after`, in order of ids; paths are for the driver to add.
    #[must_use]
    pub fn objects(&self, after: Option<u64>, busy: bool, limit: usize) -> Vec<ObjectRow> {
        self.engine.objects(after.map(ObjectId), busy, limit.min(ROWS_MAX))
    }

    /// Receivers, those that lack most first.
    #[must_use]
    pub fn receivers(&self, now: Time, limit: usize) -> Vec<ReceiverRow> {
        self.engine.receivers(now, limit.min(ROWS_MAX))
    }
}
