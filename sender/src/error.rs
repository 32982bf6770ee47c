//! Why a sender did not start, or ended: one line each, that says what, where and what to do.

use std::io;
use std::path::PathBuf;

use nackcast_common::net::NetError;
use nackcast_common::net::quic::QuicError;
use nackcast_common::store::StoreError;

use crate::library::LibraryError;

/// Why a sender did not start, or ended before it was done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing was given to send.
    #[error("there is no channel to send: give at least one key file with a directory")]
    NoChannel,
    /// A socket or an interface.
    #[error("channel {channel}: {source}")]
    Group {
        /// The channel's name.
        channel: String,
        /// What is wrong.
        #[source]
        source: NetError,
    },
    /// The last port has no next one, where content would go.
    #[error("channel {0}: its group has port 65535, and content goes to the next one: make the channel with another")]
    NoDataPort(String),
    /// The NACK socket.
    #[error("NACKs cannot be listened for: {0}")]
    Listen(#[source] NetError),
    /// The socket for those who pull.
    #[error(
        "QUIC cannot be served: {0}; --listen needs two free ports: the one that it names, and the next one for QUIC"
    )]
    Unicast(#[source] QuicError),
    /// The content directory, or the cache beside it.
    #[error("channel {channel}: {source}")]
    Library {
        /// The channel's name.
        channel: String,
        /// What is wrong.
        #[source]
        source: LibraryError,
    },
    /// A pattern of the configuration.
    #[error("pattern `{pattern}` cannot be understood: {reason}")]
    Pattern {
        /// As it was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The state store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest cannot be stored.
    #[error("cannot store the manifest: {source}; check the state directory and its space")]
    NotStored {
        /// Where and why.
        #[source]
        source: nackcast_common::archive::ArchiveError,
    },
    /// A file of the state directory.
    #[error("state file {path} cannot be {action}: {source}", path = path.display())]
    StateFile {
        /// Which one.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The state belongs to somebody else.
    #[error("state directory {path} belongs to {owners}: give another one with --state", path = path.display())]
    OtherChannel {
        /// Which one.
        path: PathBuf,
        /// The channels that it serves.
        owners: String,
    },
    /// A generation would have to be signed, and the key for it is not here.
    #[error(
        "channel {channel}: {directory} is not what was published last, and this key file may serve but not publish: \
         send with the channel's own key file", directory = directory.display()
    )]
    MayNotPublish {
        /// The channel's name.
        channel: String,
        /// Its directory.
        directory: PathBuf,
    },
    /// What looks like a file system that is not mounted.
    #[error(
        "channel {channel}: {directory} is empty, and the last generation had {entries} entries: is it mounted? \
         To publish an empty directory put one empty file into it, or give another --state", directory = directory.display()
    )]
    Emptied {
        /// The channel's name.
        channel: String,
        /// Its directory.
        directory: PathBuf,
        /// How many there were.
        entries: usize,
    },
    /// The listing is too large for its geometry.
    #[error("channel {channel}: {reason}")]
    Manifest {
        /// The channel's name.
        channel: String,
        /// What is wrong.
        reason: String,
    },
    /// A task of ours ended with a panic.
    #[error("the sender failed inside ({0}): restart it, and report this with the log")]
    Broken(String),
}

impl RunError {
    /// Whether the configuration is at fault, and nothing was sent.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::NoChannel
            | Self::Group { .. }
            | Self::NoDataPort(_)
            | Self::Listen(_)
            | Self::Unicast(_)
            | Self::Library { .. }
            | Self::Pattern { .. }
            | Self::OtherChannel { .. }
            | Self::MayNotPublish { .. }
            | Self::Emptied { .. }
            | Self::Manifest { .. } => true,
            Self::Store(error) => {
                matches!(error, StoreError::Locked(_) | StoreError::NewerVersion { .. } | StoreError::Io { .. })
            }
            Self::StateFile { .. } | Self::NotStored { .. } | Self::Broken(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_of_the_configuration_are_told_apart_from_failures() {
        assert!(RunError::NoChannel.is_usage());
        assert!(RunError::Store(StoreError::Locked("/s".into())).is_usage());
        assert!(RunError::Store(StoreError::NewerVersion { dir: "/s".into(), found: 9 }).is_usage());
        assert!(!RunError::Store(StoreError::Damaged { dir: "/s".into(), reason: "x".into() }).is_usage());
        assert!(!RunError::Broken("x".into()).is_usage());
    }
}
