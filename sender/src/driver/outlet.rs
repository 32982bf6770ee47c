//! A channel's way out: sockets, the batch that they did not take yet, and what they refuse.
//!
//! - Content and control have sockets of their own, so that advertisements pass when content is held up.
//! - One batch waits at most; the engine is asked for no more until it is gone, so nothing piles up.
//! - An error that lasts (the link is down) is tried again after a pause, and is no reason to end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::net::{MulticastSender, UnicastSocket};

use crate::node::{Destination, SenderNode};

/// First and longest pause after an error of the data socket.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Between two log lines about the same trouble.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The sockets of a channel.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// For advertisements and Digests.
    pub(crate) control: MulticastSender,
    /// For content.
    pub(crate) data: MulticastSender,
    /// For answers, and where NACKs arrive.
    pub(crate) unicast: Arc<UnicastSocket>,
    /// The advertisement address.
    pub(crate) group: SocketAddr,
    /// Where content goes.
    pub(crate) data_group: SocketAddr,
}

/// Sockets with what they did not take.
#[derive(Debug)]
pub(crate) struct Outlet {
    sockets: Sockets,
    name: String,
    /// The batch under way; its first `sent` bytes are gone.
    batch: Vec<u8>,
    sent: usize,
    datagram_len: usize,
    /// A control datagram, while a batch is under way.
    control: Vec<u8>,
    data_trouble: Trouble,
    control_trouble: Trouble,
    /// Answers that the socket did not take.
    answers_lost: u64,
}

/// Errors of one socket in a row.
#[derive(Debug, Default)]
struct Trouble {
    pause: Duration,
    until: Option<Time>,
    said_at: Option<Time>,
    line: Option<String>,
}

impl Trouble {
    fn on_error(&mut self, now: Time, name: &str, error: &io::Error) {
        self.pause = (self.pause * 2).clamp(PAUSE.0, PAUSE.1);
        self.until = Some(now + self.pause);
        let line = match error.raw_os_error() {
            Some(libc) if libc == rustix::io::Errno::MSGSIZE.raw_os_error() => {
                "datagrams are too large for the interface: use smaller symbols, or a larger MTU".to_owned()
            }
            _ => format!("cannot send: {error}"),
        };
        if self.said_at.is_none_or(|at| now.since(at) >= SAY_EVERY) {
            tracing::warn!(channel = name, "{line}; trying on");
            self.said_at = Some(now);
        }
        self.line = Some(line);
    }

    fn on_success(&mut self, name: &str) {
        if self.line.is_some() {
            tracing::info!(channel = name, "sending works again");
            *self = Self::default();
        }
    }
}

impl Outlet {
    pub(crate) fn new(sockets: Sockets, name: String) -> Self {
        Self {
            sockets,
            name,
            batch: Vec::new(),
            sent: 0,
            datagram_len: 0,
            control: Vec::new(),
            data_trouble: Trouble::default(),
            control_trouble: Trouble::default(),
            answers_lost: 0,
        }
    }

    /// A batch waits: no more content now.
    pub(crate) const fn is_held_up(&self) -> bool {
        self.sent < self.batch.len()
    }

    /// Sends the next thing that the node has for now; false when there is none. Content stays in the node while a
    /// batch waits.
    pub(crate) fn send_next(&mut self, now: Time, node: &mut SenderNode) -> bool {
        if self.is_held_up() {
            let mut control = std::mem::take(&mut self.control);
            let datagrams = node.poll_control(now, &mut control);
            if let Some(datagrams) = datagrams {
                self.send_control(now, datagrams.to, &control);
            }
            self.control = control;
            return datagrams.is_some();
        }
        let mut batch = std::mem::take(&mut self.batch);
        let datagrams = node.poll_transmit(now, &mut batch);
        match datagrams.map(|datagrams| (datagrams.to, datagrams.len)) {
            Some((Destination::Data, len)) => {
                self.batch = batch;
                self.send_batch(now, len);
                return true;
            }
            Some((to, _)) => self.send_control(now, to, &batch),
            None => {}
        }
        // Nothing of it waits; only its memory is kept.
        batch.clear();
        self.batch = batch;
        datagrams.is_some()
    }

    /// Sends what the batch holds: datagrams of this size.
    fn send_batch(&mut self, now: Time, datagram_len: usize) {
        (self.sent, self.datagram_len) = (0, datagram_len);
        self.flush(now);
    }

    fn send_control(&mut self, now: Time, to: Destination, datagram: &[u8]) {
        match to {
            Destination::Receiver(to) | Destination::Sender(to) => self.answer(to, datagram),
            // A batch is sent as one; it is never control.
            Destination::Advertised | Destination::Data => self.advertise(now, datagram),
        }
    }

    /// Goes on with a batch that waits, unless it is to wait longer.
    pub(crate) fn flush(&mut self, now: Time) {
        if self.data_trouble.until.is_some_and(|until| now < until) {
            return;
        }
        while self.is_held_up() {
            let rest = &self.batch[self.sent..];
            match self.sockets.data.try_send_batch(self.sockets.data_group, rest, self.datagram_len) {
                Ok(taken) => {
                    self.sent += taken;
                    self.data_trouble.on_success(&self.name);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // From here on the socket itself says when to go on.
                    self.data_trouble.until = None;
                    return;
                }
                Err(error) => return self.data_trouble.on_error(now, &self.name, &error),
            }
        }
    }

    /// Waits until it makes sense to flush again.
    pub(crate) async fn ready(&self, clock: &Clock) {
        if let Some(until) = self.data_trouble.until {
            return tokio::time::sleep_until(clock.instant(until).into()).await;
        }
        if self.sockets.data.writable().await.is_err() {
            // Only while the runtime ends.
            std::future::pending().await
        }
    }

    /// To the advertisement group. What the socket does not take now is lost: the next one says more.
    fn advertise(&mut self, now: Time, datagram: &[u8]) {
        match self.sockets.control.try_send_batch(self.sockets.group, datagram, datagram.len()) {
            Ok(_) => self.control_trouble.on_success(&self.name),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.control_trouble.on_error(now, &self.name, &error),
        }
    }

    /// To a receiver. What the socket does not take is lost: the receiver asks again.
    fn answer(&mut self, to: SocketAddr, datagram: &[u8]) {
        if let Err(error) = self.sockets.unicast.try_send_to(datagram, to) {
            self.answers_lost += 1;
            tracing::debug!(channel = self.name, %to, %error, lost = self.answers_lost, "an answer was not sent");
        }
    }

    /// What is wrong with the sockets now, for people.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.data_trouble.line.as_deref().or(self.control_trouble.line.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use nackcast_common::net::{SendOptions, interface};

    use super::*;

    fn outlet(data_group: &str) -> Outlet {
        let group: SocketAddr = "239.255.73.1:47301".parse().unwrap();
        let lo = interface::resolve(Some("lo"), group.ip()).unwrap();
        let bind = || MulticastSender::bind(group.ip(), &lo, SendOptions::default()).unwrap();
        let unicast = Arc::new(UnicastSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let sockets =
            Sockets { control: bind(), data: bind(), unicast, group, data_group: data_group.parse().unwrap() };
        Outlet::new(sockets, "news".to_owned())
    }

    #[tokio::test]
    async fn a_refused_batch_stays_and_is_tried_again_after_growing_pauses() {
        // An IPv4 socket has no way to an IPv6 group.
        let mut outlet = outlet("[ff15::1]:47302");
        outlet.sockets.data.writable().await.unwrap();
        outlet.batch.extend([0; 3000]);
        let mut now = Time(1_000_000);
        outlet.send_batch(now, 1500);
        for pause in [100, 200, 400, 800, 1000, 1000] {
            assert!(outlet.is_held_up() && outlet.trouble().is_some());
            let until = outlet.data_trouble.until.unwrap();
            assert_eq!(until.since(now), Duration::from_millis(pause));
            outlet.flush(now);
            assert_eq!(outlet.data_trouble.until, Some(until), "not before the pause is over");
            now = until;
            outlet.flush(now);
        }
        outlet.sockets.data_group = "239.255.73.1:47302".parse().unwrap();
        outlet.flush(now + PAUSE.1);
        assert!(!outlet.is_held_up() && outlet.trouble().is_none());
    }
}
