//! A lane: a thread that does nothing but send batches of multicast, so that others are made meanwhile.
//!
//! - It blocks in the system call while the socket is full. A socket that is waited for by an event loop wakes that
//!   loop with every datagram that leaves, tens of thousands of times a second.
//! - At most [`DEPTH`] batches are under way. They leave in order, and their memory is used again.
//! - What the system refuses (the link is down) is tried again after a pause, for as long as it takes.
//! - When the lane is dropped, what has not left yet still does, unless the system refuses it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::send::Raw;
use super::{Interface, NetError, OPEN, SET, SendOptions};

/// Batches under way: one that leaves, and some that wait, so that the thread never waits.
pub const DEPTH: usize = 4;
/// First and longest pause after an error.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// A full socket is waited for this long, before it is looked whether anybody still wants it.
const PATIENCE: Duration = Duration::from_millis(100);

/// Datagrams of one size that stand one after the other; the last may be shorter.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    size: usize,
}

/// The handle of the thread.
#[derive(Debug)]
pub struct Lane {
    orders: SyncSender<Batch>,
    /// Nothing is sent through it: that it goes is the message.
    _open: Sender<()>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    under_way: AtomicUsize,
    /// A batch is through.
    through: Notify,
    spare: Mutex<Vec<Vec<u8>>>,
    /// Why nothing leaves now.
    refusal: Mutex<Option<io::Error>>,
}

impl Shared {
    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusal(&self) -> std::sync::MutexGuard<'_, Option<io::Error>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// Opens a socket for the family of `group`, and begins to send to `dest`.
    ///
    /// # Errors
    /// As [`MulticastSender::bind`](super::MulticastSender::bind); when the system gives no thread.
    pub fn start(
        group: IpAddr,
        dest: SocketAddr,
        interface: &Interface,
        options: SendOptions,
    ) -> Result<Self, NetError> {
        let raw = Raw::bind(group, interface, options)?;
        raw.block(PATIENCE).map_err(NetError::sort(SET, dest))?;
        let (orders, batches) = sync_channel(DEPTH);
        let (open, closed) = channel();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("multicast".to_owned())
            .spawn(move || run(&raw, dest, (&batches, &closed), &theirs))
            .map_err(NetError::sort(OPEN, dest))?;
        Ok(Self { orders, _open: open, shared })
    }

    /// One more batch is taken.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.under_way.load(Ordering::Acquire) < DEPTH
    }

    /// Everything has left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.shared.under_way.load(Ordering::Acquire) == 0
    }

    /// Memory for a batch: what an earlier one had.
    #[must_use]
    pub fn memory(&self) -> Vec<u8> {
        self.shared.spare().pop().unwrap_or_default()
    }

    /// Sends datagrams of `size` bytes; only where there [is room](Self::has_room).
    pub fn send(&self, bytes: Vec<u8>, size: usize) {
        if bytes.is_empty() || size == 0 {
            return;
        }
        self.shared.under_way.fetch_add(1, Ordering::AcqRel);
        // Neither happens: there is room, and the thread ends with this handle.
        drop(self.orders.try_send(Batch { bytes, size }));
    }

    /// Waits until one more batch is through. Cancelling it loses nothing.
    pub async fn through(&self) {
        self.shared.through.notified().await;
    }

    /// Why nothing leaves at the moment.
    #[must_use]
    pub fn refusal(&self) -> Option<io::Error> {
        self.shared.refusal().as_ref().map(|error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        })
    }
}

fn run(raw: &Raw, dest: SocketAddr, (batches, closed): (&Receiver<Batch>, &Receiver<()>), shared: &Shared) {
    while let Ok(mut batch) = batches.recv() {
        send(raw, dest, &batch, closed, shared);
        batch.bytes.clear();
        let mut spare = shared.spare();
        if spare.len() < DEPTH {
            spare.push(batch.bytes);
        }
        drop(spare);
        shared.under_way.fetch_sub(1, Ordering::AcqRel);
        shared.through.notify_one();
    }
}

fn send(raw: &Raw, dest: SocketAddr, batch: &Batch, closed: &Receiver<()>, shared: &Shared) {
    let is_closed = |pause| matches!(closed.recv_timeout(pause), Err(RecvTimeoutError::Disconnected));
    let (mut rest, mut pause) = (&batch.bytes[..], PAUSE.0);
    while !rest.is_empty() {
        match raw.send_batch(dest, rest, batch.size) {
            Ok(taken) => {
                rest = &rest[taken..];
                if pause > PAUSE.0 {
                    *shared.refusal() = None;
                }
                pause = PAUSE.0;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                if is_closed(Duration::ZERO) {
                    return;
                }
            }
            Err(error) => {
                *shared.refusal() = Some(error);
                shared.through.notify_one();
                // Nobody waits for what is left.
                if is_closed(pause) {
                    return;
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{GroupSocket, interface};

    fn lane(dest: &str) -> (Lane, Interface) {
        let group: SocketAddr = "239.255.72.1:47201".parse().unwrap();
        let lo = interface::resolve(Some("lo"), group.ip()).unwrap();
        (Lane::start(group.ip(), dest.parse().unwrap(), &lo, SendOptions::default()).unwrap(), lo)
    }

    #[tokio::test]
    async fn batches_arrive_in_order_and_their_memory_comes_back() {
        let group = "239.255.72.1:47201";
        let (lane, lo) = lane(group);
        let mut socket = GroupSocket::bind(group.parse().unwrap(), &lo, &[]).unwrap();
        for number in 0..20_u8 {
            while !lane.has_room() {
                lane.through().await;
            }
            let mut batch = lane.memory();
            assert!(batch.is_empty());
            batch.extend([number; 2500]);
            lane.send(batch, 1000);
        }
        let mut came = Vec::new();
        while came.len() < 60 {
            socket.recv(|_, datagram| came.push((datagram[0], datagram.len()))).await.unwrap();
        }
        let expected: Vec<_> = (0..20_u8).flat_map(|number| [(number, 1000), (number, 1000), (number, 500)]).collect();
        assert_eq!(came, expected);
        while !lane.is_idle() {
            lane.through().await;
        }
        assert!(lane.memory().capacity() >= 2500);
        assert!(lane.refusal().is_none());
    }

    #[tokio::test]
    async fn what_is_refused_stays_and_is_told_and_ends_with_its_handle() {
        // An IPv4 socket has no way to an IPv6 group.
        let (lane, _) = lane("[ff15::1]:47202");
        lane.send(vec![0; 3000], 1500);
        while lane.refusal().is_none() {
            lane.through().await;
        }
        assert!(!lane.is_idle());
        let shared = Arc::downgrade(&lane.shared);
        drop(lane);
        while shared.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
