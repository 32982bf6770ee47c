//! What an onlooker may ask: how full the engine's tables are, and what it is short of.

use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, ObjectIndex};
use nackcast_proto::wire::SenderState;

use super::object::Class;
use super::pull::PullWhen;
use super::{ReceiverEngine, nacks, sessions};

impl ReceiverEngine {
    /// All tables that could grow: the name, how much is in it, how much may be.
    #[must_use]
    pub fn bounds(&self) -> [(&'static str, usize, usize); 8] {
        let objects = self.held.as_ref().map_or(0, |held| held.manifest.objects().len());
        let table = self.receptions.values().filter(|reception| reception.class != Class::Manifest).count();
        let in_memory = self.receptions.values().map(|reception| reception.slots().len()).sum();
        let [quiet, serials, refused, unicast, asked] = self.cycle.sizes();
        [
            ("open blocks in memory", in_memory, self.config.slots as usize),
            ("objects that are being received", table, objects),
            ("sessions", self.sessions.len(), sessions::SESSIONS_MAX),
            ("missing objects that are quiet, and ends of their passes", quiet + serials, 2 * objects),
            // Beside those of the dataset, pieces of manifests that were given up since.
            ("refused objects", refused, objects + self.receptions.len() + 64),
            ("objects that wait for unicast", unicast, objects + self.receptions.len() + 64),
            ("NACKs that may be answered", asked, nacks::ASKED_MAX),
            ("ends of passes to be believed", self.settling.len(), 256),
        ]
    }

    /// Whether the engine is short of the object and could ask for it, whatever was promised, answered or asked lately.
    /// What is still to come in a running pass it does not ask for.
    #[must_use]
    pub fn is_short_of(&self, now: Time, id: ObjectId) -> bool {
        let (Some((_, session)), Some(held)) = (self.sessions.chosen(), &self.held) else { return false };
        let advertisement = &session.advertisement;
        let serves = matches!(advertisement.state, SenderState::Active | SenderState::Draining);
        if !serves || self.keeping.is_stopped() || self.cycle.is_refused(now, id) {
            return false;
        }
        if let Some(reception) = self.receptions.get(&id) {
            let is_out = reception.class != Class::Manifest || advertisement.manifest_sent;
            let comes =
                self.cycle.is_permitted(id, self.pull.when == PullWhen::Unknown) && reception.is_being_pulled(now);
            // What the disk lost it asks for ever more rarely. No promise lasts until the end of time.
            return is_out && !comes && now >= reception.retry_at && !reception.short_blocks(Time::NEVER).0.is_empty();
        }
        let is_ahead = |index: ObjectIndex| {
            let since = held.manifest.object(index).map(|object| object.since);
            index.0 >= advertisement.first_pass_cursor && since.is_some_and(|s| s >= advertisement.first_pass_since)
        };
        held.manifest.index_of(id).is_some_and(|index| self.missing.contains(index.0) && !is_ahead(index))
    }
}
