//! A channel's way out: content through its lane, control and answers through sockets of their own.
//!
//! - Content and control have sockets of their own, so that advertisements pass when content is held up.
//! - A few batches of content are under way; the engine is asked for no more until one is through, so nothing piles up.
//! - An error that lasts (the link is down) is tried again after a pause, and is no reason to end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::net::{Lane, MulticastSender, UnicastSocket};

use crate::node::{Destination, SenderNode};

/// Between two log lines about the same trouble.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The sockets of a channel.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// For advertisements and Digests.
    pub(crate) control: MulticastSender,
    /// For content.
    pub(crate) data: Lane,
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
    /// Memory for the next batch, or datagram.
    batch: Vec<u8>,
    data_trouble: Trouble,
    control_trouble: Trouble,
    /// Answers that the socket did not take.
    answers_lost: u64,
}

/// Errors of one socket in a row.
#[derive(Debug, Default)]
struct Trouble {
    said_at: Option<Time>,
    line: Option<String>,
}

impl Trouble {
    fn on_error(&mut self, now: Time, name: &str, error: &io::Error) {
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
            data_trouble: Trouble::default(),
            control_trouble: Trouble::default(),
            answers_lost: 0,
        }
    }

    /// As many batches are under way as may be: no more content now.
    pub(crate) fn is_held_up(&self) -> bool {
        !self.sockets.data.has_room()
    }

    /// Content has not left yet.
    pub(crate) fn is_sending(&self) -> bool {
        !self.sockets.data.is_idle()
    }

    /// Sends the next thing that the node has for now; false when there is none. Content stays in the node while the
    /// lane is full.
    pub(crate) fn send_next(&mut self, now: Time, node: &mut SenderNode) -> bool {
        let mut batch = std::mem::take(&mut self.batch);
        let datagrams =
            if self.is_held_up() { node.poll_control(now, &mut batch) } else { node.poll_transmit(now, &mut batch) };
        let datagrams = datagrams.map(|datagrams| (datagrams.to, datagrams.len));
        match datagrams {
            Some((Destination::Data, len)) => {
                self.sockets.data.send(batch, len);
                self.batch = self.sockets.data.memory();
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

    fn send_control(&mut self, now: Time, to: Destination, datagram: &[u8]) {
        match to {
            Destination::Receiver(to) | Destination::Sender(to) => self.answer(to, datagram),
            // A batch is sent as one; it is never control.
            Destination::Advertised | Destination::Data => self.advertise(now, datagram),
        }
    }

    /// Notes whether content leaves.
    pub(crate) fn look(&mut self, now: Time) {
        match self.sockets.data.refusal() {
            Some(error) => self.data_trouble.on_error(now, &self.name, &error),
            None => self.data_trouble.on_success(&self.name),
        }
    }

    /// Waits until more content has left, or cannot leave.
    pub(crate) async fn through(&self) {
        self.sockets.data.through().await;
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

    #[tokio::test]
    async fn what_the_link_refuses_is_told_until_it_is_through() {
        let group: SocketAddr = "239.255.73.1:47301".parse().unwrap();
        let lo = interface::resolve(Some("lo"), group.ip()).unwrap();
        let unicast = Arc::new(UnicastSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        // An IPv4 socket has no way to an IPv6 group.
        let data_group = "[ff15::1]:47302".parse().unwrap();
        let data = Lane::start(group.ip(), data_group, &lo, SendOptions::default()).unwrap();
        let control = MulticastSender::bind(group.ip(), &lo, SendOptions::default()).unwrap();
        let mut outlet = Outlet::new(Sockets { control, data, unicast, group, data_group }, "news".to_owned());
        outlet.sockets.data.send(vec![0; 3000], 1500);
        outlet.through().await;
        outlet.look(Time(1));
        assert!(outlet.is_sending() && outlet.trouble().is_some_and(|line| line.contains("cannot send")));
    }
}
