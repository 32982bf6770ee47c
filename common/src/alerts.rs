//! Network alerts: what an admin must know although nobody watches.
//!
//! - Every half second a node says, with its report, what is wrong *now*: its [`Finding`]s. That is a level and no
//!   message, so nothing is lost when a report is.
//! - A [`Book`] makes [`Alert`]s of them: one for each kind, channel and subject, raised when the finding first
//!   appears and cleared when it is gone. It has no clock, no files and no tasks of its own.
//! - [`Kept`] keeps the book in the state store, across restarts.
//!
//! An alert that was acknowledged is still listed, and no longer counts as wrong.

mod book;
mod kept;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use book::{ALERTS_MAX, Book};
pub use kept::Kept;

/// Receivers that one text names; of the others the number.
pub const NAMES_MAX: usize = 20;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know; nothing need be done.
    Info,
    /// Somebody should look at it.
    Warning,
    /// Content does not reach receivers, or soon will not.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// One table for everything that is known of a kind: a row that is missing does not compile.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $severity:ident, $lasts:ident, $check:literal;)*) => {
        /// What is wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// As it is written in lists, metrics and documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// How bad it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity,)* }
            }

            /// Whether it lasts, or happens.
            #[must_use]
            pub const fn lasts(self) -> Lasts {
                match self { $(Self::$kind => Lasts::$lasts,)* }
            }

            /// What to look at.
            #[must_use]
            pub const fn check(self) -> &'static str {
                match self { $(Self::$kind => $check,)* }
            }
        }
    };
}

/// When an alert is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// As soon as the node no longer finds it.
    WhileFound,
    /// It happened, and is over when it did not happen again for an hour.
    Happens,
}

kinds! {
    /// Receivers reach only the backup.
    BackupAsked = "backup-asked", Warning, WhileFound,
        "check the way from these receivers to the primary: its NACK port, firewalls, the route back";
    /// A backup sends in the primary's place, or a primary does not send.
    RoleChanged = "role-changed", Warning, WhileFound,
        "check why the primary was gone: its process, its disk, its network";
    /// Two senders of one channel are active and hear each other.
    TwoSenders = "two-senders", Critical, WhileFound,
        "check which nodes run `nackcast send` for this channel, and end all but one primary";
    /// A receiver hears no sender.
    NoSenderHeard = "no-sender-heard", Warning, WhileFound,
        "check that a sender of this channel runs; `nackcast doctor --ticket @FILE` finds out what is in the way";
    /// A receiver hears senders, asks them, and none answers.
    NoSenderAnswers = "no-sender-answers", Warning, WhileFound,
        "check the way from this receiver to the sender's NACK port (UDP 7701 by default): firewalls, the route back; \
         `nackcast doctor --ticket @FILE` looks at it";
    /// A receiver that was heard says nothing any more.
    ReceiverSilent = "receiver-silent", Warning, WhileFound,
        "check that these receivers run, and that their NACKs reach the sender's NACK port";
    /// Receivers ask for objects that had all their passes.
    PassesExhausted = "passes-exhausted", Warning, WhileFound,
        "check the loss of the receivers that lag (`nackcast status --receivers`); `nackcast resend` begins a new round";
    /// Much of the dataset comes, or must come, by unicast.
    UnicastShare = "unicast-share", Warning, WhileFound,
        "check that multicast reaches this receiver: its loss, its switch port, the sender's rate";
    /// A source of unicast never answered.
    SourceSilent = "source-silent", Warning, WhileFound,
        "check that a node that serves runs there, that its address is given with the port of its --listen (7701 if \
         none was given; not one of the group's, and not that of QUIC, which is the next one), and firewalls";
    /// Little space is left.
    DiskNearlyFull = "disk-nearly-full", Warning, WhileFound,
        "free space on this file system, or give the content a larger one";
    /// A disk refuses to be read or written.
    DiskFailing = "disk-failing", Critical, Happens,
        "check the file system and the kernel's log (`dmesg`); free space if it is full";
    /// An entry of the dataset cannot be put where it belongs.
    NotInstalled = "not-installed", Critical, WhileFound,
        "check what stands there and who may write there: move it away or give --overwrite, then `nackcast scan`";
    /// Content that was sound is not; it was, or is being, fetched again: its text says which.
    ContentDamaged = "content-damaged", Warning, Happens,
        "check who else writes into this directory, and the disk's health (`smartctl -a`)";
    /// Files of the sender cannot be sent as they are.
    ContentLeftOut = "content-left-out", Warning, WhileFound,
        "check the files that are named: they change, cannot be read, or have names that cannot be sent";
    /// Symbols that opened did not give the block that the manifest names.
    SymbolsWrong = "symbols-wrong", Warning, Happens,
        "check the memory and disks of the senders; someone with a ticket may be sending false symbols";
    /// A manifest is not the publisher's, or makes no sense.
    ManifestRefused = "manifest-refused", Critical, Happens,
        "check who sends on this channel, and that sender and receiver run versions that understand each other";
    /// Two different manifests have the same generation.
    TwoManifests = "two-manifests", Critical, Happens,
        "check that one node only publishes on this channel; then publish a new generation";
    /// The clocks of sender and receiver disagree by far.
    ClockOff = "clock-off", Warning, WhileFound,
        "check the clocks of both nodes, and that NTP runs";
    /// More NACKs come than the sender's window should let through.
    NackRate = "nack-rate", Warning, WhileFound,
        "check the loss of the group, and that the rate is one that the network carries";
    /// Datagrams come that no key of this node opens.
    KeyRejected = "key-rejected", Warning, WhileFound,
        "check the ticket: make a new one with `nackcast channel ticket FILE`; another channel may use the same address";
    /// Somebody asked to join a channel and was not let in.
    TicketRefused = "ticket-refused", Warning, Happens,
        "check whose key this is: `nackcast channel allow FILE KEY` lets it in, and SIGHUP makes the sender read the list";
    /// Receivers have not reached a generation that has been out for long.
    GenerationLate = "generation-late", Warning, WhileFound,
        "check the receivers that lag: their loss, their disks, and that they run";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of alert")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.iter().copied().find(|kind| kind.name() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// One thing that is wrong now, as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// About what, within the channel: a path, a peer, an object; empty when the channel says it all.
    pub subject: String,
    /// What was seen, for people.
    pub text: String,
    /// Of what happens: how often since the node started.
    pub times: u64,
}

impl Finding {
    /// Something that lasts.
    #[must_use]
    pub fn lasting(kind: Kind, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { kind, subject: subject.into(), text: text.into(), times: 1 }
    }

    /// Something that happened so often since the node started.
    #[must_use]
    pub fn happened(kind: Kind, subject: impl Into<String>, text: impl Into<String>, times: u64) -> Self {
        Self { kind, subject: subject.into(), text: text.into(), times }
    }
}

/// One alert. Times are in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Its number, by which it is acknowledged.
    pub id: u64,
    /// What.
    pub kind: Kind,
    /// Which node says so.
    pub node: String,
    /// The channel's name.
    pub channel: String,
    /// About what.
    pub subject: String,
    /// What was seen last.
    pub text: String,
    /// When it was raised for the first time.
    pub first_ms: u64,
    /// When it was found last.
    pub last_ms: u64,
    /// How often it was raised, or happened.
    pub count: u64,
    /// Since when it is over; none: it is not.
    pub cleared_ms: Option<u64>,
    /// When an admin took note; none: nobody did.
    pub acknowledged_ms: Option<u64>,
}

impl Alert {
    /// It is not over.
    #[must_use]
    pub const fn is_raised(&self) -> bool {
        self.cleared_ms.is_none()
    }

    /// It is not over, nobody took note, and it is more than good to know.
    #[must_use]
    pub fn is_wrong(&self) -> bool {
        self.is_raised() && self.acknowledged_ms.is_none() && self.kind.severity() > Severity::Info
    }
}

/// At most [`NAMES_MAX`] of `names`, and how many there are beside them; `total` counts all.
#[must_use]
pub fn name_some<T: fmt::Display>(names: impl IntoIterator<Item = T>, total: u64) -> String {
    let shown: Vec<_> = names.into_iter().take(NAMES_MAX).map(|name| name.to_string()).collect();
    let more = total.saturating_sub(shown.len() as u64);
    match (shown.is_empty(), more) {
        (true, _) => total.to_string(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own_and_says_what_to_check() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert!(kind.check().len() > 20 && !kind.check().ends_with('.'), "{kind}");
        }
        assert!("no-such-thing".parse::<Kind>().is_err());
    }

    #[test]
    fn a_text_names_twenty_receivers_and_counts_the_others() {
        assert_eq!(name_some(["a", "b"], 2), "a, b");
        let text = name_some(0..500, 10_000);
        assert!(text.starts_with("0, 1, 2, ") && text.ends_with("19 and 9980 more"), "{text}");
        assert_eq!(name_some(Vec::<u8>::new(), 7), "7");
    }
}
