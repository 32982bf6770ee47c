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

impl Admission {
    /// Names the list, so that two can be compared that nobody may see; 0: there is none. What people call the receivers
    /// does not count.
    #[must_use]
    pub fn list_name(&self) -> u64 {
        let Some(receivers) = &self.receivers else { return 0 };
        let mut hasher = blake3::Hasher::new();
        for key in receivers.keys() {
            hasher.update(&key.0);
        }
        hasher.finalize().as_bytes().first_chunk().map_or(1, |first| u64::from_be_bytes(*first)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_the_name_of_its_keys() {
        let name = |keys: Option<&[(u8, &str)]>| {
            let receivers =
                keys.map(|keys| keys.iter().map(|(key, name)| (VerifyingKey([*key; 32]), (*name).to_owned())));
            Admission { epoch: Epoch(1), receivers: receivers.map(Iterator::collect) }.list_name()
        };
        assert_eq!(name(None), 0);
        assert_eq!(name(Some(&[(1, "a"), (2, "b")])), name(Some(&[(2, "x"), (1, "")])));
        let different = [name(None), name(Some(&[])), name(Some(&[(1, "")])), name(Some(&[(1, ""), (2, "")]))];
        assert_eq!(std::collections::BTreeSet::from(different).len(), 4);
    }
}
