//! Who may have a channel's secrets, as a key file says.

use std::collections::BTreeMap;

use crate::ids::Epoch;
use crate::keys::VerifyingKey;

/// Receivers on one list at most.
pub const RECEIVERS_MAX: usize = 100_000;

/// What one key file says. It is as old as its epoch: whoever takes a receiver off raises it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The epoch.
    pub epoch: Epoch,
    /// Identities that are let in, with names for people; none: whoever has the ticket, which holds the secret.
    pub receivers: Option<BTreeMap<VerifyingKey, String>>,
}
