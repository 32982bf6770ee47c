//! The system calls that no safe crate offers: packet rings, batched packet sends, offload switches,
//! and what a child does between fork and exec.
//!
//! Everything here has a safe interface; each block says why it is sound. Nothing outside this file
//! may use `unsafe`.
#![expect(unsafe_code, reason = "packet rings and pre-exec hooks have no safe wrapper")]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Bytes of one slot: a 1,514-byte frame and the kernel's header before it.
const SLOT_BYTES: usize = 2048;
/// Slots in one ring, 8 MiB per host: at 66,000 frames a second (800 Mbit/s) 62 ms of grace.
pub(crate) const SLOTS: usize = 4096;
/// Bytes that the kernel allots in one piece.
const BLOCK_BYTES: usize = 1 << 16;
/// Frames in one batched send.
pub(crate) const BATCH: usize = 64;

const ETHTOOL_SGRO: u32 = 0x2c;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn set_option<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe `value`, which outlives the call; the kernel only reads it.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, ptr::from_ref(value).cast(), length) }).map(drop)
}

/// A frame in a ring: which slot, how long, and what the kernel said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) slot: usize,
    pub(crate) length: usize,
    /// The sender left the transport checksum to its network card.
    pub(crate) checksum_missing: bool,
    /// The frame was longer than a slot and lost its end.
    pub(crate) truncated: bool,
    /// When the kernel put it into the ring, by the wall clock.
    pub(crate) at: Duration,
}

/// A packet socket on one interface, with a receive ring shared with the kernel.
///
/// The ring's size does not count against `net.core.rmem_max`, so that it also holds a burst where
/// that limit cannot be raised. A slot belongs to this process from [`PacketRing::receive`] until
/// [`PacketRing::release`].
#[derive(Debug)]
pub(crate) struct PacketRing {
    socket: OwnedFd,
    map: NonNull<u8>,
    /// Slots handed out and not yet released start here...
    released: usize,
    /// ...and end before this one; both count modulo [`SLOTS`].
    next: usize,
    held: usize,
    lengths: Vec<usize>,
}

// SAFETY: the mapping belongs to this value alone; nothing in it is tied to the thread that made it.
unsafe impl Send for PacketRing {}

impl PacketRing {
    /// Opens a socket that sees every frame which reaches interface `index` of the current namespace.
    pub(crate) fn open(index: u32) -> io::Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        let fd = socket.as_fd();
        let one: libc::c_int = 1;
        set_option(fd, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as libc::c_int))?;
        // Spares us the frames that we send ourselves.
        set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &one)?;
        let to_u32 = |value: usize| u32::try_from(value).map_err(io::Error::other);
        let request = libc::tpacket_req {
            tp_block_size: to_u32(BLOCK_BYTES)?,
            tp_block_nr: to_u32(SLOTS * SLOT_BYTES / BLOCK_BYTES)?,
            tp_frame_size: to_u32(SLOT_BYTES)?,
            tp_frame_nr: to_u32(SLOTS)?,
        };
        set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice, of exactly the ring's size.
        let map =
            unsafe { libc::mmap(ptr::null_mut(), SLOTS * SLOT_BYTES, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or_else(|| io::Error::other("the ring was mapped at address zero"))?;
        let ring = Self { socket, map, released: 0, next: 0, held: 0, lengths: vec![0; SLOTS] };
        ring.bind(index)?;
        Ok(ring)
    }

    fn bind(&self, index: u32) -> io::Result<()> {
        let index = libc::c_int::try_from(index).map_err(io::Error::other)?;
        // SAFETY: all-zero bytes are a valid value of these plain C structs.
        let (mut address, mut membership): (libc::sockaddr_ll, libc::packet_mreq) = unsafe { (zeroed(), zeroed()) };
        membership.mr_ifindex = index;
        membership.mr_type = libc::PACKET_MR_PROMISC as libc::c_ushort;
        set_option(self.socket.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer and the length describe `address`, which outlives the call.
        check(unsafe { libc::bind(self.socket.as_raw_fd(), ptr::from_ref(&address).cast(), length) }).map(drop)
    }

    /// The socket, to wait for frames or for room to send.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn slot_start(&self, slot: usize) -> NonNull<u8> {
        assert!(slot < SLOTS, "slot {slot} of {SLOTS}");
        // SAFETY: the mapping holds SLOTS slots of SLOT_BYTES, and `slot` is one of them.
        unsafe { self.map.add(slot * SLOT_BYTES) }
    }

    fn status(&self, slot: usize) -> &AtomicU32 {
        // SAFETY: a slot starts with its status word, aligned since slots are; the mapping lives as long
        // as `self`; the kernel accesses the word atomically too.
        unsafe { AtomicU32::from_ptr(self.slot_start(slot).cast().as_ptr()) }
    }

    /// The next frame that waits, if any. Its slot stays ours until [`Self::release`].
    pub(crate) fn receive(&mut self) -> Option<Received> {
        let slot = self.next;
        if self.held == SLOTS {
            return None;
        }
        let status = self.status(slot).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the kernel wrote a header at the slot's start and, by the status just read, is done with it.
        let header = unsafe { self.slot_start(slot).cast::<libc::tpacket2_hdr>().read() };
        let length = (header.tp_snaplen as usize).min(SLOT_BYTES - usize::from(header.tp_mac).min(SLOT_BYTES));
        self.lengths[slot] = length;
        self.next = (slot + 1) % SLOTS;
        self.held += 1;
        Some(Received {
            slot,
            length,
            checksum_missing: status & libc::TP_STATUS_CSUMNOTREADY != 0,
            truncated: header.tp_len as usize > length,
            at: Duration::new(header.tp_sec.into(), header.tp_nsec),
        })
    }

    fn place(&self, slot: usize) -> (NonNull<u8>, usize) {
        let age = (slot + SLOTS - self.released) % SLOTS;
        assert!(age < self.held, "slot {slot} was given back to the kernel");
        // SAFETY: the slot is ours by the check above, and the kernel wrote its header.
        let mac = unsafe { self.slot_start(slot).cast::<libc::tpacket2_hdr>().read() }.tp_mac;
        // SAFETY: `receive` bounded the length so that the frame ends within the slot.
        (unsafe { self.slot_start(slot).add(usize::from(mac).min(SLOT_BYTES)) }, self.lengths[slot])
    }

    /// The bytes of a received frame.
    pub(crate) fn frame(&self, slot: usize) -> &[u8] {
        let (start, length) = self.place(slot);
        // SAFETY: `place` answers bytes inside a slot that is ours until `release`, which takes `&mut self`
        // and so ends this borrow first; they were zeroed by the kernel when the ring was made.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), length) }
    }

    /// The bytes of a received frame, to change them.
    pub(crate) fn frame_mut(&mut self, slot: usize) -> &mut [u8] {
        let (start, length) = self.place(slot);
        // SAFETY: as in `frame`, and `&mut self` makes this borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) }
    }

    /// Gives every slot handed out back to the kernel.
    pub(crate) fn release(&mut self) {
        while self.held > 0 {
            self.status(self.released).store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.released = (self.released + 1) % SLOTS;
            self.held -= 1;
        }
    }

    /// How many frames found the ring full since this was last asked.
    pub(crate) fn take_overflows(&self) -> io::Result<u64> {
        // SAFETY: all-zero bytes are a valid value of this plain C struct.
        let mut statistics: libc::tpacket_stats = unsafe { zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the pointers name `statistics` and its length, which outlive the call.
        check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                ptr::from_mut(&mut statistics).cast(),
                &raw mut length,
            )
        })?;
        Ok(u64::from(statistics.tp_drops))
    }

    /// Sends up to [`BATCH`] frames and answers how many the kernel took; never waits.
    pub(crate) fn send(&self, frames: &[&[u8]]) -> io::Result<usize> {
        let count = frames.len().min(BATCH);
        // SAFETY: all-zero bytes (null pointers, zero lengths) are valid values of these plain C structs.
        let (mut pieces, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        for ((frame, piece), message) in frames.iter().zip(&mut pieces).zip(&mut messages) {
            *piece = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the first `count` messages each point at one piece, which points at a borrowed frame; all
        // outlive the call, and the kernel only reads the frames.
        let sent = check(unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), count as libc::c_uint, flags)
        })?;
        usize::try_from(sent).map_err(io::Error::other)
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `open` made; no borrow of it can outlive `self`.
        let _ignored = unsafe { libc::munmap(self.map.as_ptr().cast(), SLOTS * SLOT_BYTES) };
    }
}

/// Turns generic receive offload of `interface` off, in the current namespace, so that no two frames are joined.
pub(crate) fn disable_receive_offload(interface: &str) -> io::Result<()> {
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        data: u32,
    }
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = EthtoolValue { command: ETHTOOL_SGRO, data: 0 };
    // SAFETY: all-zero bytes are a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = ptr::from_mut(&mut value).cast();
    // SAFETY: `request` holds a terminated name and a pointer to `value`; both outlive the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) }).map(drop)
}

/// Makes `command` start its program inside the network namespace `namespace`.
pub(crate) fn enter_before_exec(command: &mut Command, namespace: Arc<OwnedFd>) {
    // SAFETY: between fork and exec the hook makes one system call and allocates nothing.
    unsafe { command.pre_exec(move || setns(&*namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)) };
}

/// Makes `command` start its program in new user, network and mount namespaces, as root of them.
pub(crate) fn isolate_before_exec(command: &mut Command, maps: IdentityMaps) {
    // SAFETY: between fork and exec the hook makes system calls only; the texts that it writes exist already.
    unsafe { command.pre_exec(move || maps.isolate()) };
}

/// Makes the kernel kill the program that `command` starts when the thread that started it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec the hook makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            // The parent may have ended before the line above; then nobody would ever kill us.
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
        });
    }
}

/// What `/proc/self/uid_map` and `gid_map` are to say, made before a fork forbids to allocate.
#[derive(Clone, Debug)]
pub(crate) struct IdentityMaps {
    uid: Vec<u8>,
    gid: Vec<u8>,
}

impl IdentityMaps {
    /// Root inside is the caller outside.
    pub(crate) fn of_caller() -> Self {
        let line = |id: u32| format!("0 {id} 1").into_bytes();
        Self { uid: line(nix::unistd::geteuid().as_raw()), gid: line(nix::unistd::getegid().as_raw()) }
    }

    /// Leaves the current namespaces for new ones. The process must have one thread.
    pub(crate) fn isolate(&self) -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
        write_all(c"/proc/self/uid_map", &self.uid)?;
        write_all(c"/proc/self/setgroups", b"deny")?;
        write_all(c"/proc/self/gid_map", &self.gid)
    }

    /// Tries [`Self::isolate`] and what a testbed needs inside, in a child, so that a refusal leaves no trace here.
    /// The process must have one thread.
    pub(crate) fn rehearse(&self) -> io::Result<()> {
        // SAFETY: the caller has one thread, so that the child may do whatever it likes; it ends by `_exit`.
        match unsafe { nix::unistd::fork() }? {
            nix::unistd::ForkResult::Child => {
                let result = self.isolate().and_then(|()| unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
                let result = result.and_then(|()| {
                    socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)
                        .map(drop)
                        .map_err(io::Error::from)
                });
                let code = result.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
                // SAFETY: ends this child without running anything that belongs to the parent.
                unsafe { libc::_exit(code) }
            }
            nix::unistd::ForkResult::Parent { child } => match nix::sys::wait::waitpid(child, None)? {
                nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
                nix::sys::wait::WaitStatus::Exited(_, code) => Err(io::Error::from_raw_os_error(code)),
                other => Err(io::Error::other(format!("the rehearsal ended with {other:?}"))),
            },
        }
    }
}

/// Opens, writes and closes without allocating, for use between fork and exec.
fn write_all(path: &std::ffi::CStr, text: &[u8]) -> io::Result<()> {
    // SAFETY: `path` is a terminated string; the descriptor that comes back is ours alone.
    let file = unsafe { OwnedFd::from_raw_fd(check(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?) };
    let written = nix::unistd::write(&file, text)?;
    if written == text.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
}
