//! Every maximum that a peer can make us accept.

use std::time::Duration;

/// Largest datagram: fits a 1,500-byte frame on IPv6 (40 + 8 bytes of headers).
pub const DATAGRAM_LEN_MAX: usize = 1452;
/// Largest body: a datagram without header and tag.
pub const BODY_LEN_MAX: usize = DATAGRAM_LEN_MAX - super::header::LEN - TAG_LEN;
/// The AEAD's tag.
pub const TAG_LEN: usize = 16;
/// Finished passes in one advertisement.
pub const FINISHED_MAX: usize = 24;
/// Longest manifest root: one block.
pub const ROOT_LEN_MAX: u32 = 16 << 20;
/// Shortest and longest interval between advertisements.
pub const INTERVAL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
/// Largest GRTT, as RFC 5740 caps it by default.
pub const GRTT_MAX: Duration = Duration::from_secs(10);
/// Longest NACK window.
pub const NACK_WINDOW_MAX: Duration = Duration::from_secs(120);
/// Largest group size worth telling.
pub const GROUP_SIZE_MAX: u32 = 100_000_000;
/// Longest promise of a Digest.
pub const LAPSE_MAX: Duration = Duration::from_secs(60);
/// Longest wait that an answer may ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// Index sets in one message.
pub const SETS_MAX: usize = 64;
/// Objects named by id in one message.
pub const IDS_MAX: usize = 180;
/// Objects with short blocks, or promises, in one message.
pub const SHORT_MAX: usize = 128;
/// Blocks with counts in one message.
pub const BLOCKS_MAX: usize = 2048;
