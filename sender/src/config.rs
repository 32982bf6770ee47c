//! What a sender is told: plain values, checked by [`crate::run`] before anything is bound.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nackcast_common::admission::Admission;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::ChannelId;
use nackcast_common::keys::{SenderMaster, SigningKey, VerifyingKey};
use nackcast_common::units::RateLimit;

pub use crate::engine::RateBounds;
use nackcast_proto::wire::{Role, SenderCertificate};

/// Everything a sending node is told.
#[derive(Debug)]
pub struct Config {
    /// What to send.
    pub channels: Vec<ChannelConfig>,
    /// Primary or backup.
    pub role: Role,
    /// Order among senders of one role: the best has 0.
    pub rank: u32,
    /// The other senders, HOST:PORT.
    pub peers: Vec<String>,
    /// An epoch is announced for so long before it begins; default 30 s.
    pub epoch_overlap: Duration,
    /// A sender that yields to another one sends at most so long; default 10 s.
    pub drain_limit: Duration,
    /// A generation that receivers lack for so long, beside the time that sending it takes, is late; default 10 min.
    pub late_after: Duration,
    /// Name or address of the interface; none: the default route's.
    pub interface: Option<String>,
    /// Where NACKs arrive; default `[::]:7701`. QUIC is served on the next port, on any when this is 0.
    pub listen: SocketAddr,
    /// The node's key towards whoever pulls.
    pub identity: SigningKey,
    /// Unicast, to all who pull together; half of it to one. Default: as `rate`, or 100 Mbit/s without one.
    pub unicast_rate: RateLimit,
    /// All channels together, shared equally whether they need it or not; default 20 Mbit/s.
    pub rate: RateLimit,
    /// What `--rate auto` may choose.
    pub auto: RateBounds,
    /// Hops of multicast datagrams; default 8.
    pub ttl: u8,
    /// DSCP of multicast datagrams, 0 to 63.
    pub dscp: u8,
    /// The scheduler's numbers.
    pub schedule: ScheduleConfig,
    /// Globs of paths that are not sent.
    pub exclude: Vec<String>,
    /// Globs with priorities; the first that matches counts, others have 0; higher goes first.
    pub priorities: Vec<(String, i32)>,
    /// How new objects are cut.
    pub geometry: Geometry,
    /// State directory.
    pub state: PathBuf,
    /// Time between rescans of the directories; zero: never by time.
    pub rescan: Duration,
    /// Rescan when the file system says that something changed.
    pub watch: bool,
    /// End when done.
    pub once: Option<Once>,
}

/// One channel to send.
#[derive(Debug)]
pub struct ChannelConfig {
    /// The channel.
    pub channel: ChannelId,
    /// Its name, for people.
    pub name: String,
    /// The content.
    pub directory: PathBuf,
    /// Where a receiver of this channel on the same node keeps its state: its manifest is followed, and the directory
    /// is what it receives into. None: the directory is scanned, and what changed is published.
    pub follow: Option<PathBuf>,
    /// The advertisement address; data goes to the same group, next port.
    pub advertise: SocketAddr,
    /// The right to publish.
    pub publisher: Option<SigningKey>,
    /// Who signs manifests.
    pub publisher_key: VerifyingKey,
    /// This sender's key.
    pub sender: SigningKey,
    /// The publisher's word for it.
    pub certificate: SenderCertificate,
    /// Gives the secrets of all epochs.
    pub master: SenderMaster,
    /// The epoch to begin in, and who is let in.
    pub admission: Admission,
}

/// The numbers of the object scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleConfig {
    /// Jobs at once; default 4.
    pub max_jobs: usize,
    /// Passes of an object in a round; default 16.
    pub max_passes: u32,
    /// Least delay between two passes of one object; default 2 s.
    pub period: Duration,
    /// A round ends when nobody asked for so long; default 10 min.
    pub round_quiet: Duration,
    /// Between advertisements while active; default 250 ms.
    pub interval: Duration,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            max_jobs: 4,
            max_passes: 16,
            period: Duration::from_secs(2),
            round_quiet: Duration::from_secs(600),
            interval: Duration::from_millis(250),
        }
    }
}

/// When a sender ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    /// Wait for so many receivers first, and fail unless so many reported complete.
    pub expect: Option<u32>,
    /// Silence after which it is done; default 3 s.
    pub linger: Duration,
}
