//! Where channels are asked things.
//!
//! - Whoever asks a channel that takes no more loses the answer, and so hears of it.
//! - What a reload asks for, nobody waits for: it is kept until there is room, the newest list in place of an older one. A
//!   scan that comes after a list stays behind it, so that nothing new is published in the epoch that ends.

use std::time::Duration;

use nackcast_common::control::{Ask, Request};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::scanner;

/// What found no room is tried again so often.
pub(super) const AGAIN: Duration = Duration::from_millis(100);

/// One channel's.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) scans: mpsc::Sender<scanner::Request>,
    pub(super) asks: mpsc::Sender<Ask>,
}

/// Those of all channels.
#[derive(Debug)]
pub(super) struct Doors {
    doors: Vec<Door>,
    epoch_overlap: Duration,
    /// What found no room, at most one list and one scan of each channel.
    waiting: Vec<Request>,
}

impl Doors {
    pub(super) const fn new(epoch_overlap: Duration) -> Self {
        Self { doors: Vec::new(), epoch_overlap, waiting: Vec::new() }
    }

    /// The next channel's.
    pub(super) fn push(&mut self, door: Door) {
        self.doors.push(door);
    }

    /// Hands on what is asked.
    pub(super) fn ask(&mut self, request: Request) {
        let is_behind = self.waiting.iter().any(|waiting| waiting.channel == request.channel) && is_kept(&request);
        let refused = if is_behind { Some(request) } else { self.hand_on(request) };
        let Some(refused) = refused else { return };
        if !is_kept(&refused) {
            let channel = refused.channel;
            tracing::error!(channel, "too much is asked at once, and this was not done: ask again");
            return;
        }
        let same = |waiting: &Request| {
            waiting.channel == refused.channel
                && std::mem::discriminant(&waiting.ask) == std::mem::discriminant(&refused.ask)
        };
        match self.waiting.iter_mut().find(|waiting| same(waiting)) {
            Some(waiting) => *waiting = refused,
            None => self.waiting.push(refused),
        }
    }

    /// Whether something waits for room: then [`Self::try_again`] soon.
    pub(super) const fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands on what there is room for now.
    pub(super) fn try_again(&mut self) {
        for request in std::mem::take(&mut self.waiting) {
            let is_behind = self.waiting.iter().any(|waiting| waiting.channel == request.channel);
            let refused = if is_behind { Some(request) } else { self.hand_on(request) };
            self.waiting.extend(refused);
        }
    }

    /// What there was no room for comes back. A channel that has ended takes everything, and does nothing.
    fn hand_on(&self, request: Request) -> Option<Request> {
        let door = self.doors.get(request.channel).filter(|door| !door.asks.is_closed())?;
        let is_scan = matches!(request.ask, Ask::Scan { .. });
        let scan = (is_scan || matches!(request.ask, Ask::Admit(..))).then(|| door.scans.try_reserve()).transpose();
        let ask = (!is_scan).then(|| door.asks.try_reserve()).transpose();
        let (Ok(scan), Ok(ask)) = (scan, ask) else { return Some(request) };
        match (request.ask, scan, ask) {
            (Ask::Scan { allow_empty, reply, .. }, Some(scan), _) => {
                // A sender verifies every block that it sends; what was hashed before is trusted by its times.
                scan.send(scanner::Request::Now { allow_empty, reply });
            }
            (asked, scan, Some(ask)) => {
                if let (Ask::Admit(admission, _), Some(scan)) = (&asked, scan) {
                    // First of all nothing more is published in this epoch, whatever is asked for next.
                    let (epoch, begins) = (admission.epoch, Instant::now() + self.epoch_overlap);
                    scan.send(scanner::Request::Epoch { epoch, begins });
                }
                ask.send(asked);
            }
            (_, _, None) => {}
        }
        None
    }
}

/// Nobody waits for it, or would ask again.
const fn is_kept(request: &Request) -> bool {
    matches!(request.ask, Ask::Admit(..) | Ask::Scan { reply: None, .. })
}

#[cfg(test)]
mod tests {
    use nackcast_common::admission::Admission;
    use nackcast_common::ids::Epoch;
    use tokio::sync::oneshot;

    use super::*;

    fn admit(epoch: u32) -> Request {
        let (reply, _nobody) = oneshot::channel();
        Request { channel: 0, ask: Ask::Admit(Admission { epoch: Epoch(epoch), receivers: None }, reply) }
    }

    const fn scan() -> Request {
        Request { channel: 0, ask: Ask::Scan { deep: false, publish: false, allow_empty: false, reply: None } }
    }

    fn epoch_of(ask: &Ask) -> Option<u32> {
        match ask {
            Ask::Admit(admission, _) => Some(admission.epoch.0),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_reload_that_finds_no_room_waits_and_the_scan_after_it_stays_behind() {
        let (scans, mut scanner) = mpsc::channel(1);
        let (asks, mut channel) = mpsc::channel(1);
        let mut doors = Doors::new(Duration::ZERO);
        doors.push(Door { scans, asks });
        doors.ask(scan());
        doors.ask(admit(2));
        doors.ask(scan());
        doors.ask(admit(3));
        doors.try_again();
        assert!(doors.is_waiting() && channel.try_recv().is_err(), "the scanner has no room");
        assert!(matches!(scanner.try_recv(), Ok(scanner::Request::Now { .. })));
        doors.try_again();
        assert!(matches!(scanner.try_recv(), Ok(scanner::Request::Epoch { epoch: Epoch(3), .. })));
        assert_eq!(epoch_of(&channel.try_recv().unwrap()), Some(3), "the older list was overtaken");
        assert!(doors.is_waiting());
        doors.try_again();
        assert!(matches!(scanner.try_recv(), Ok(scanner::Request::Now { .. })) && !doors.is_waiting());
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_is_told_at_once_that_there_is_no_room() {
        let (scans, _scanner) = mpsc::channel(1);
        let (asks, _channel) = mpsc::channel(1);
        let mut doors = Doors::new(Duration::ZERO);
        doors.push(Door { scans, asks });
        doors.ask(scan());
        let (reply, answer) = oneshot::channel();
        doors.ask(Request {
            channel: 0,
            ask: Ask::Scan { deep: false, publish: false, allow_empty: false, reply: Some(reply) },
        });
        assert!(answer.await.is_err() && !doors.is_waiting());
    }
}
