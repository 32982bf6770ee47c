//! How full the engine's tables are, for whoever checks that they keep to their bounds.

use super::object::Class;
use super::{ReceiverEngine, sessions};

impl ReceiverEngine {
    /// All tables that could grow: the name, how much is in it, how much may be.
    #[must_use]
    pub fn bounds(&self) -> [(&'static str, usize, usize); 6] {
        let objects = self.held.as_ref().map_or(0, |held| held.manifest.objects().len());
        let table = self.receptions.values().filter(|reception| reception.class != Class::Manifest).count();
        let in_memory = self.receptions.values().map(|reception| reception.slots().len()).sum();
        let (quiet, refused) = self.cycle.sizes();
        [
            ("open blocks in memory", in_memory, self.config.slots as usize),
            ("objects that are being received", table, objects),
            ("sessions", self.sessions.len(), sessions::SESSIONS_MAX),
            ("missing objects that are quiet", quiet, objects),
            // Beside those of the dataset, pieces of manifests that were given up since.
            ("refused objects", refused, objects + self.receptions.len() + 64),
            ("ends of passes to be believed", self.settling.len(), 256),
        ]
    }
}
