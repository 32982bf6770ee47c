//! What an admin asks of a running node, as plain values: the same for senders and receivers.
//!
//! A request goes to one channel, by its place in the configuration. Who cannot do what is asked says so by a
//! [`Refusal`]; a request whose answer is dropped met a node that ends.

use std::fmt;

use tokio::sync::oneshot;

use crate::admission::Admission;
use crate::units::RateLimit;

/// Rows in one answer at most.
pub const ROWS_MAX: usize = 4096;

/// Asked of one channel.
#[derive(Debug)]
pub struct Request {
    /// Its place in the configuration.
    pub channel: usize,
    /// What.
    pub ask: Ask,
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What is asked.
#[derive(Debug)]
pub enum Ask {
    /// Look at the directory now. A sender publishes what changed; a receiver fetches what is missing or damaged.
    Scan {
        /// Read every byte.
        deep: bool,
        /// Only where it can publish what it finds: who does not publish refuses.
        publish: bool,
        /// Publish the directory even if it became empty.
        allow_empty: bool,
        /// Nobody may want to know.
        reply: Option<Reply<Scan>>,
    },
    /// Give these objects a new round, and a pass to everybody. Answered by how many they are.
    Resend {
        /// Object ids (16 hex digits) or paths; none: all.
        objects: Vec<String>,
        /// How many objects.
        reply: Reply<u64>,
    },
    /// Send this fast from now on.
    Rate(RateLimit, Reply<()>),
    /// Begin or end to send.
    Steer(Steer, Reply<()>),
    /// The key file was read again: let these in from now on, and begin its epoch if it is a later one.
    Admit(Admission, Reply<()>),
    /// What is known of objects.
    Objects {
        /// Those behind this id; none: from the first on.
        after: Option<u64>,
        /// Only those that are sent, wait, or are asked for in vain.
        busy: bool,
        /// So many at most.
        limit: usize,
        /// The rows.
        reply: Reply<Vec<ObjectRow>>,
    },
    /// What is known of receivers, those that lag most first.
    Receivers {
        /// So many at most.
        limit: usize,
        /// The rows.
        reply: Reply<Vec<ReceiverRow>>,
    },
}

/// Whether a sender sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// Send nothing but advertisements and answers.
    Pause,
    /// Finish running jobs, start none.
    Drain,
    /// Go on.
    Resume,
}

impl fmt::Display for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pause => "pause",
            Self::Drain => "drain",
            Self::Resume => "resume",
        })
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This kind of node never does it.
    #[error("{0}")]
    NotHere(&'static str),
    /// Not as things are.
    #[error("{0}")]
    NotNow(String),
    /// It asks for something that does not exist.
    #[error("{0}")]
    Unknown(String),
}

/// What a scan came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Generation that is published or followed.
    pub generation: u64,
    /// A sender published a new generation; a receiver found something missing or damaged.
    pub changed: bool,
    /// Paths that are missing.
    pub missing: u64,
    /// Paths that are damaged.
    pub damaged: u64,
    /// Lines for people, not all of them.
    pub problems: Vec<String>,
}

/// One object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectRow {
    /// Its id.
    pub id: u64,
    /// A file that it is of, as far as it is known.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// What is done with it, in a word or two.
    pub state: String,
    /// Passes of the current round.
    pub passes: u32,
    /// Bytes that are here, at a receiver.
    pub bytes_done: u64,
}

/// One receiver, as its sender knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiverRow {
    /// Its run.
    pub run: u64,
    /// Where its NACKs come from.
    pub address: String,
    /// The generation that it follows.
    pub generation: u64,
    /// It has all of what is served now.
    pub complete: bool,
    /// It was not heard for longer than it should be silent.
    pub silent: bool,
    /// Since it was heard.
    pub heard_ms: u64,
    /// Loss, in millionths.
    pub loss_ppm: u32,
    /// Objects that it lacked when it last asked.
    pub objects_missing: u64,
    /// Bytes of them.
    pub bytes_missing: u64,
}
