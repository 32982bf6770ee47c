//! The oracles' looks at the world, samples for the plot, and the diagnosis of a failure.

use nackcast_common::clock::Time;
use nackcast_common::ids::ObjectId;
use nackcast_common::path::PART_DIRECTORY;

use super::World;
use crate::sim::disk::Stands;
use crate::sim::oracle::bitmap::Data;
use crate::sim::oracle::bounds::{self, Bounded};
use crate::sim::receiver::{INTO, Lane, Receiver};
use crate::sim::scenario::Scenario;
use crate::sim::trace::Sample;

impl World {
    /// All that is looked at now and then.
    pub(super) fn look(&mut self) {
        self.sample();
        self.look_at_sender();
        let mut all = true;
        for number in 0..self.scenario.receivers {
            let at = number as usize;
            let complete = self.is_complete(number);
            if !complete {
                self.complete_at[at] = None;
            } else if self.complete_at[at].is_none() && !self.receivers[at].is_settling() {
                self.complete_at[at] = Some(self.now);
                self.check_whole(number);
            }
            all &= complete || self.receivers[at].has_left;
            self.look_for_silence(number, complete);
            self.look_at_promises(number);
            self.look_at_bounds(number);
            self.look_at_pulls(number);
        }
        let settled = all && self.healed && (self.sender.is_up() || self.sender_lost);
        if !settled {
            self.all_complete_since = None;
        } else if self.all_complete_since.is_none() {
            self.all_complete_since = Some(self.now);
        }
    }

    fn is_complete(&self, number: u32) -> bool {
        let newest = self.editions.last().map(|edition| edition.manifest.head().generation);
        let receiver = &self.receivers[number as usize];
        let complete = receiver
            .node()
            .is_some_and(|node| node.engine().is_complete() && Some(node.engine().snapshot().generation) == newest);
        complete && !receiver.is_doubtful()
    }

    /// A receiver holds everything, can give it to others, and nobody touched its disk.
    pub(super) fn is_held(&self) -> bool {
        if !self.editions.last().is_some_and(|edition| edition.is_in_files()) {
            return false;
        }
        let is_sound = |receiver: &Receiver| !receiver.tainted && receiver.edited.is_empty();
        (0..self.scenario.receivers)
            .any(|number| self.is_complete(number) && is_sound(&self.receivers[number as usize]))
    }

    /// After the heal, whoever lacks something must ask.
    fn look_for_silence(&mut self, number: u32, complete: bool) {
        let progress = self.receivers[number as usize].node().map(|node| node.engine().snapshot());
        let (symbols, hears, pulls) = progress.map_or((0, false, false), |s| (s.symbols, s.senders > 0, s.pulling));
        let moved = std::mem::replace(&mut self.symbols[number as usize], symbols) != symbols;
        // For how long it may wait for what it pulls is another oracle's.
        if complete || moved || pulls || !hears || !self.healed {
            self.oracles.silence.on_life(self.now, number);
        }
        let verdict = self.oracles.silence.look(self.now, number);
        self.oracles.judge(self.now, "silence", verdict);
    }

    fn look_at_promises(&mut self, number: u32) {
        let receiver = &self.receivers[number as usize];
        let Some(node) = receiver.node() else { return };
        let local = receiver.local(self.now);
        if receiver.is_paused() {
            self.oracles.promises.on_pause(local, number);
            return;
        }
        let verdict = self.oracles.promises.look(local, number, |id| node.engine().is_short_of(local, id));
        self.oracles.judge(self.now, "promises", verdict);
    }

    fn look_at_sender(&mut self) {
        let Some(node) = self.sender.node() else { return };
        for (name, len, most) in node.bounds() {
            let (peak, may) = self.sender_tables.entry(name).or_default();
            (*peak, *may) = (len.max(*peak), most.max(*may));
            self.oracles.judge(self.now, "bounds", Bounded { name, len, most }.look());
        }
    }

    fn look_at_bounds(&mut self, number: u32) {
        let Scenario { receiver: spec, content, .. } = &self.scenario;
        let pulled_max = if self.pulls.is_some() { bounds::pulled_max(spec, content) } else { 0 };
        let all = bounds::of_receiver(&self.receivers[number as usize], spec, &self.editions, pulled_max);
        for one in all {
            self.oracles.judge(self.now, "bounds", one.look());
        }
    }

    /// What a worker just did to the disk.
    pub(super) fn look_at_disk(&mut self, number: u32, lane: Lane) {
        let receiver = &self.receivers[number as usize];
        if receiver.tainted {
            return;
        }
        if lane == Lane::Dataset {
            let shown = receiver.disk.shown(INTO.as_bytes(), PART_DIRECTORY.as_bytes());
            let verdict = self.oracles.installed.look(number, &receiver.disk, &shown);
            self.oracles.judge(self.now, "installed", verdict);
        }
        // Symbols that were read back from a page that was lost, and nobody knew, are wrong until their block shows it.
        let may_hold_wrong = self.had_bad_memory || receiver.disk.counts().doubtful > 0;
        if !may_hold_wrong {
            let verdict = self.oracles.side_file.look(number, &receiver.disk);
            self.oracles.judge(self.now, "side file", verdict);
        }
        let receiver = &self.receivers[number as usize];
        if !may_hold_wrong && receiver.found_unsound() {
            let verdict = Err(format!("receiver {number} has symbols that do not give their block, and nobody lied"));
            self.oracles.judge(self.now, "unsound", verdict);
        }
        for wants in receiver.claims() {
            let data = |id: ObjectId| {
                let path = format!("{INTO}/{PART_DIRECTORY}/{id}.data");
                if receiver.disk.has_untold_loss(path.as_bytes()) {
                    return Data::Lost;
                }
                receiver.disk.bytes_at(path.as_bytes()).map_or(Data::Missing, Data::There)
            };
            let verdict = self.oracles.bitmap.on_claims(wants, may_hold_wrong, data);
            self.oracles.judge(self.now, "bitmap", verdict);
        }
    }

    /// A receiver says that it is complete: its directory must be the newest generation, to the byte.
    fn check_whole(&mut self, number: u32) {
        let receiver = &mut self.receivers[number as usize];
        let Some(edition) = self.editions.last() else { return };
        // Not in doubt any more: healed, and scanned deeply.
        let was_tainted = std::mem::take(&mut receiver.tainted);
        let shown = receiver.disk.shown(INTO.as_bytes(), PART_DIRECTORY.as_bytes());
        if was_tainted {
            // Nobody looks at what left the dataset: it may have rotted, and stay.
            for one in shown.iter().filter(|one| edition.manifest.entry(&one.path).is_none()) {
                if let Stands::File { inode, .. } = one.stands {
                    self.oracles.installed.on_edit(number, one.path.clone(), inode);
                }
            }
        }
        // After a power cut, an error or another's hand nobody may know any more that a file was ours: then it stays.
        let knows = !receiver.had_power_cut && receiver.edited.is_empty() && self.scenario.disk.errors_ppm == 0;
        let pruned = self.scenario.receiver.prune && knows;
        let verdict = edition.compare(&receiver.disk, &shown, pruned);
        let verdict = verdict.map_err(|what| format!("receiver {number} says that it is complete, and {what}"));
        self.oracles.judge(self.now, "whole", verdict);
    }

    /// A moment for the plot.
    pub(super) fn sample(&mut self) {
        let progress = self.receivers.iter().map(|receiver| {
            let snapshot = receiver.node().map(|node| node.engine().snapshot()).unwrap_or_default();
            if snapshot.bytes == 0 { 0.0 } else { snapshot.bytes_done as f32 / snapshot.bytes as f32 }
        });
        let sent = self.sender.sent();
        let sample = Sample {
            at: self.now,
            progress: progress.collect(),
            sent_bytes: sent.bytes,
            repair_bytes: sent.repair,
            nacks: self.nacks,
        };
        if self.trace.samples.last().is_none_or(|last| last.at < sample.at || sample.at == Time::ZERO) {
            self.trace.samples.push(sample);
        }
    }

    /// Who lacks what, and why.
    pub(super) fn diagnosis(&self) -> Vec<String> {
        let newest = self.editions.last().map_or(0, |edition| edition.manifest.head().generation.0);
        let mut lines = vec![format!("newest generation: {newest}")];
        match self.sender.node() {
            Some(node) => lines.push(format!("sender: {:?}", node.snapshot())),
            None => lines.push("sender: down".to_owned()),
        }
        for (number, receiver) in self.receivers.iter().enumerate().filter(|(_, receiver)| !receiver.has_left) {
            match receiver.node() {
                None => lines.push(format!("receiver {number}: down (life {}): {:?}", receiver.life, receiver.refusal)),
                Some(node) => {
                    let snapshot = node.engine().snapshot();
                    if snapshot.complete && snapshot.generation.0 == newest && self.scenario.receivers > 4 {
                        continue;
                    }
                    let note = node.progress(self.now).note.unwrap_or_default();
                    lines.push(format!(
                        "receiver {number}: {snapshot:?}, {} orders wait, tainted: {}; {note}",
                        receiver.orders_waiting(),
                        receiver.tainted
                    ));
                }
            }
        }
        lines
    }
}
