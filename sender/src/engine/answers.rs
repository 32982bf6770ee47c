//! NACKs in, answers out: what a receiver lacks becomes demand of the schedule, and it is told what comes of it.
//!
//! Every NACK gets one answer, the stale ones and those heard before excepted. What waits for the socket is bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, ObjectIndex, RunId};
use nackcast_common::manifest::Manifest;
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::limits::WAIT_MAX;
use nackcast_proto::wire::{ManifestRef, Nack, NackAnswer, NackStatus, symbol};

use super::demand::Demand;
use super::feedback::{Heard, Said};
use super::{ADVERTISE_GROWTH, Event, IP_UDP_LEN, SenderEngine};

/// A NACK that echoes an advertisement older than this is stale.
pub(super) const ECHO_AGE_MAX: Duration = Duration::from_secs(10);
/// What another sender was told of is not asked again before it can have come.
const REFERRED: Duration = Duration::from_secs(1);
/// Answers that wait for the socket.
pub(super) const ANSWERS_MAX: usize = 4096;

impl SenderEngine {
    /// A NACK that opened and parsed, from the run that sealed it.
    pub fn handle_nack(&mut self, now: Time, from: SocketAddr, run: RunId, packet: u64, nack: &Nack) {
        if !self.is_fresh(now, nack) {
            return;
        }
        match self.feedback.on_nack(now, run, packet, from, Said::of(nack)) {
            Heard::Again => return,
            Heard::First => {
                self.events.push_back(Event::ReceiverHeard);
                // Who spreads reports by a group size that is no longer true must hear of it.
                if self.feedback.group_size() > self.advertised_size * 2 + ADVERTISE_GROWTH {
                    self.advertise_soon(now);
                }
            }
            Heard::Known => {}
        }
        if nack.complete || nack.leaves {
            self.flow.forget(run);
            self.congestion.forget(run);
        }
        let rtt = now.since(Time(nack.time)).saturating_sub(nack.hold);
        self.feedback.on_rtt(now, rtt, self.config.schedule.interval);
        if let Some(reading) = &nack.reading {
            if !nack.complete && !nack.leaves {
                self.on_reading(now, run, nack, reading);
            }
            return;
        }
        self.counters.nacks += 1;
        if !nack.is_report() {
            self.feedback.count_nack();
        }
        let ours = self.manifest.as_ref().map(|(reference, _)| reference.hash);
        if let Some(hash) = ours {
            let holds = nack.manifest == hash.prefix();
            if self.feedback.on_report(run, nack.manifest, nack.complete && holds) {
                self.events.push_back(Event::ReceiverComplete(hash));
            }
        }
        let mut answer = self.demands(now, nack);
        (answer.run, answer.nack) = (run, packet);
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back((from, answer));
        }
        self.advance(now);
    }

    /// Echoes a recent advertisement of this session.
    #[must_use]
    pub fn is_fresh(&self, now: Time, nack: &Nack) -> bool {
        let age = now.since(Time(nack.time)).saturating_sub(nack.hold);
        nack.channel == self.config.channel
            && nack.session == self.config.session
            && nack.sequence <= self.sequence
            && nack.time <= now.0
            && age <= ECHO_AGE_MAX
    }

    /// Answers a NACK that is not served here: another sender serves.
    pub fn refer(&mut self, from: SocketAddr, run: RunId, packet: u64, nack: &Nack) {
        self.only_answer(from, run, packet, nack.nonce, NackStatus::PrimaryAlive, REFERRED);
    }

    /// Answers who only asks whether it is heard.
    pub fn echo(&mut self, from: SocketAddr, run: RunId, packet: u64, nack: &Nack) {
        self.only_answer(from, run, packet, nack.nonce, NackStatus::Noted, Duration::ZERO);
    }

    fn only_answer(
        &mut self,
        from: SocketAddr,
        run: RunId,
        packet: u64,
        nonce: u64,
        status: NackStatus,
        wait: Duration,
    ) {
        let (channel, session) = (self.config.channel, self.config.session);
        if self.answers.len() < ANSWERS_MAX {
            let answer =
                NackAnswer { channel, session, run, nack: packet, nonce, status, wait, ..NackAnswer::default() };
            self.answers.push_back((from, answer));
        }
    }

    fn demands(&mut self, now: Time, nack: &Nack) -> NackAnswer {
        let mut answer = NackAnswer {
            channel: self.config.channel,
            session: self.config.session,
            nonce: nack.nonce,
            status: NackStatus::Noted,
            ..NackAnswer::default()
        };
        if nack.is_report() {
            if !nack.complete {
                self.last_incomplete = now;
            }
            return answer;
        }
        let mut statuses = [false; 2];
        let (mut unicast, mut unknown) = (Vec::new(), Vec::new());
        let mut note = |status: NackStatus, unicast: &mut dyn FnMut(), unknown: &mut dyn FnMut()| match status {
            NackStatus::Unicast => unicast(),
            NackStatus::Unknown | NackStatus::OtherGeneration | NackStatus::PrimaryAlive => unknown(),
            NackStatus::Noted => {}
            NackStatus::Queued => statuses[0] = true,
            NackStatus::Sending => statuses[1] = true,
        };
        for id in &nack.missing_ids {
            let status = self.demand_object(now, *id, None, nack);
            note(status, &mut || answer.unicast_ids.push(*id), &mut || answer.unknown_ids.push(*id));
        }
        for short in &nack.short {
            let status = self.demand_object(now, short.object, Some(&short.blocks), nack);
            let id = short.object;
            note(status, &mut || answer.unicast_ids.push(id), &mut || answer.unknown_ids.push(id));
        }
        let current = self.manifest.as_ref().filter(|(reference, _)| reference.hash.prefix() == nack.manifest);
        if let (Some((_, manifest)), false) = (current, nack.missing.is_empty()) {
            let manifest = Arc::clone(manifest);
            let count = u32::try_from(manifest.objects().len()).unwrap_or(u32::MAX);
            for run in nack.missing.ranges().map(|run| run.start..run.end.min(count)) {
                let fresh: Vec<_> = self.schedule.not_queued(run.clone(), nack.loss_ppm).collect();
                if fresh.iter().map(ExactSizeIterator::len).sum::<usize>() < run.len() {
                    self.last_demand = now;
                    note(NackStatus::Queued, &mut || {}, &mut || {});
                }
                for index in fresh.into_iter().flatten() {
                    let Some(object) = manifest.object(ObjectIndex(index)) else { continue };
                    let status = self.demand_object(now, object.id, None, nack);
                    note(status, &mut || unicast.push(index), &mut || unknown.push(index));
                }
            }
            (answer.unicast, answer.unknown) = (unicast.into_iter().collect(), unknown.into_iter().collect());
        }
        answer.status = match (statuses, current_is_other(&self.manifest, nack)) {
            (_, true) => NackStatus::OtherGeneration,
            ([_, true], _) => NackStatus::Sending,
            ([true, false], _) => NackStatus::Queued,
            ([false, false], _) => NackStatus::Noted,
        };
        answer.wait = self.wait();
        answer
    }

    /// `blocks`: what is short; none: nothing is held.
    fn demand_object(&mut self, now: Time, id: ObjectId, blocks: Option<&[(u32, u16)]>, nack: &Nack) -> NackStatus {
        let Some(layout) = self.schedule.object(id).map(|o| o.layout) else { return NackStatus::Unknown };
        let mut demand = Demand { loss_ppm: nack.loss_ppm, ..Demand::default() };
        match blocks {
            None => demand.whole = RangeSet::full(layout.block_count()),
            Some(blocks) => {
                for (block, deficit) in blocks {
                    let k = layout.source_symbols(*block);
                    if *deficit >= k && k > 0 {
                        demand.whole.insert(*block..*block + 1);
                    } else if k > 0 {
                        demand.short.entry(*block).or_default().merge(*deficit);
                    }
                }
            }
        }
        if demand.is_empty() {
            return NackStatus::Noted;
        }
        let (status, new) = self.schedule.demand(now, id, demand, nack.heard);
        if matches!(status, NackStatus::Queued | NackStatus::Sending) {
            self.last_demand = now;
            self.promises.add(now, id, &new, layout);
        }
        status
    }

    /// How long what is queued takes, with some air.
    pub(super) fn wait(&self) -> Duration {
        let symbols = self.schedule.symbols_ahead();
        let bits = symbols * (symbol::datagram_len(1400) as u64 + IP_UDP_LEN) * 8;
        let rate = self.rate();
        let sending = Duration::from_micros(bits.saturating_mul(1_100_000) / rate.max(1));
        (sending + self.feedback.window() + self.feedback.grtt() * 2).min(WAIT_MAX)
    }
}

/// The NACK speaks of places in a manifest that is not served here.
fn current_is_other(manifest: &Option<(ManifestRef, Arc<Manifest>)>, nack: &Nack) -> bool {
    !nack.missing.is_empty() && manifest.as_ref().is_none_or(|(reference, _)| reference.hash.prefix() != nack.manifest)
}
