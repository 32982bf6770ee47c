//! How full the engine's tables are, for whoever checks that they keep to their bounds: none of these grows with the
//! number of receivers.

use nackcast_proto::wire::limits::{BLOCKS_MAX, FINISHED_MAX};

use super::answers::ANSWERS_MAX;
use super::job::Job;
use super::{STAGED_MAX, SenderEngine, feedback, promises};

impl SenderEngine {
    /// All tables that could grow: the name, how much is in it, how much may be.
    #[must_use]
    pub fn bounds(&self) -> [(&'static str, usize, usize); 14] {
        let jobs = &self.schedule.jobs;
        let (objects, blocks) = self.schedule.size();
        [
            ("rows about receivers", self.feedback.rows(), feedback::RECEIVERS_MAX),
            ("objects that wait", self.schedule.pool_len() + self.schedule.first_len(), objects),
            ("blocks that are wanted of objects that wait", self.schedule.demanded(), 2 * blocks),
            ("blocks whose repair steps are remembered", self.schedule.stepped(), blocks),
            ("passes of objects that left", self.schedule.left().0, self.schedule.left().1),
            ("jobs that run", self.schedule.running(), self.schedule.running_max()),
            ("jobs", jobs.len(), objects),
            ("rows of jobs", jobs.iter().map(Job::rows).sum(), jobs.iter().map(Job::rows_max).sum()),
            ("blocks that jobs prepare", jobs.iter().map(|job| job.staged.len()).sum(), jobs.len() * STAGED_MAX),
            ("promises that wait", self.promises.len(), promises::BLOCKS_MAX + BLOCKS_MAX.max(blocks)),
            ("receivers that are waited for", self.flow.bound().0, self.flow.bound().1),
            ("receivers that the rate listens to", self.congestion.bound().0, self.congestion.bound().1),
            ("ends of passes that are told", self.finished.len(), FINISHED_MAX),
            ("answers that wait", self.answers.len(), ANSWERS_MAX),
        ]
    }
}
