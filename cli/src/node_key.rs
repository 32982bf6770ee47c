//! A node's own key, made at the first start and kept in the state directory: its identity towards other nodes.
//!
//! At a sender with the publisher's key it is certified at every start, so that the publisher key signs manifests and
//! certificates only, and each sender can be told from the others.

use std::path::Path;

use data_encoding::BASE64;
use nackcast_common::keys::SigningKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::failure::{Failure, OrFail};
use crate::private_file;

/// The file of a sender, and of a receiver.
pub(crate) const OF_SENDER: &str = "sender.key";
pub(crate) const OF_RECEIVER: &str = "identity.key";

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    version: u32,
    #[serde(alias = "sender-seed")]
    seed: String,
}

/// The key in the state directory, or a new one, which is not written yet.
pub(crate) fn load_or_generate(state: &Path, file: &str) -> Result<SigningKey, Failure> {
    let path = state.join(file);
    if !path.exists() {
        return Ok(SigningKey::generate());
    }
    let text = private_file::read(&path, "node key")?;
    parse(&text).ok_or_else(|| {
        Failure::usage(format_args!(
            "node key {} is damaged or of a newer version: remove it, and a new one is made",
            path.display()
        ))
    })
}

/// Writes a new key into the state directory.
pub(crate) fn keep(state: &Path, file: &str, key: &SigningKey) -> Result<(), Failure> {
    let path = state.join(file);
    if path.exists() {
        return Ok(()); // it came from there
    }
    let raw = Raw { version: 1, seed: BASE64.encode(key.seed()) };
    let text = Zeroizing::new(toml::to_string(&raw).or_running("the node key cannot be encoded")?);
    private_file::create(&path, &text)
}

fn parse(text: &str) -> Option<SigningKey> {
    let raw: Raw = toml::from_str(text).ok()?;
    let seed = Zeroizing::new(BASE64.decode(raw.seed.as_bytes()).ok()?);
    (raw.version == 1).then(|| seed.as_slice().try_into().ok().map(SigningKey::from_seed)).flatten()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_generate(dir.path(), OF_SENDER).unwrap();
        keep(dir.path(), OF_SENDER, &first).unwrap();
        let again = load_or_generate(dir.path(), OF_SENDER).unwrap();
        keep(dir.path(), OF_SENDER, &again).unwrap();
        assert_eq!(first.verifying_key(), again.verifying_key());
        assert_eq!(std::fs::metadata(dir.path().join(OF_SENDER)).unwrap().mode() & 0o777, 0o600);
        let other = load_or_generate(dir.path(), OF_RECEIVER).unwrap();
        assert_ne!(first.verifying_key(), other.verifying_key());
        let former = format!("version = 1\nsender-seed = \"{}\"\n", BASE64.encode(first.seed()));
        std::fs::write(dir.path().join(OF_SENDER), former).unwrap();
        let again = load_or_generate(dir.path(), OF_SENDER).unwrap();
        assert_eq!(first.verifying_key(), again.verifying_key(), "as an earlier version wrote it");
        std::fs::write(dir.path().join(OF_SENDER), "version = 1\nseed = \"AAAA\"\n").unwrap();
        assert_eq!(load_or_generate(dir.path(), OF_SENDER).unwrap_err().exit_code(), 2);
    }
}
