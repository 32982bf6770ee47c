//! The secrets of a channel that were given to this node, kept in its state: so it hears the channel after a restart,
//! whoever can be asked then.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nackcast_common::epochs::Epochs;
use nackcast_proto::pull::Joined;

/// The file's name in the channel's state.
const FILE: &str = "epochs";
const NEW: &str = "epochs.new";

/// Adds what was kept. What cannot be read is as if it had never been kept: it is asked for again.
pub(crate) fn load(state: &Path, epochs: &mut Epochs) {
    let kept = match fs::read(state.join(FILE)) {
        Ok(bytes) => Joined::decode(&bytes).map_err(|error| error.to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => Err(error.to_string()),
    };
    match kept {
        Ok(Joined::Secrets(secrets)) => secrets.into_iter().for_each(|(epoch, secret)| {
            epochs.hold(epoch, secret);
        }),
        Ok(Joined::Refused(_)) => {}
        Err(why) => tracing::warn!("the secrets in {} are of no use: {why}", state.display()),
    }
}

/// Keeps what is held, for this user only; durable when this returns.
pub(crate) fn save(state: &Path, epochs: &Epochs) -> io::Result<()> {
    let held: Vec<_> = epochs.held().map(|(epoch, secret)| (epoch, secret.clone())).collect();
    if held.is_empty() {
        return Ok(());
    }
    let new = state.join(NEW);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&Joined::Secrets(held).encode())?;
    file.sync_all()?;
    fs::rename(&new, state.join(FILE))?;
    File::open(state)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use nackcast_common::ids::{ChannelId, Epoch};
    use nackcast_common::keys::EpochSecret;

    use super::*;

    const CHANNEL: ChannelId = ChannelId([7; 16]);

    #[test]
    fn secrets_are_kept_for_this_user_only_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut epochs = Epochs::none(CHANNEL);
        load(dir.path(), &mut epochs);
        save(dir.path(), &epochs).unwrap();
        assert!(epochs.newest().is_none() && !dir.path().join(FILE).exists());
        for epoch in 1..=3 {
            epochs.hold(Epoch(epoch), EpochSecret([9; 32]));
            save(dir.path(), &epochs).unwrap();
        }
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().mode() & 0o777, 0o600);
        let mut again = Epochs::none(CHANNEL);
        load(dir.path(), &mut again);
        assert_eq!(again.held().collect::<Vec<_>>(), epochs.held().collect::<Vec<_>>());
        fs::write(dir.path().join(FILE), "garbage").unwrap();
        let mut none = Epochs::none(CHANNEL);
        load(dir.path(), &mut none);
        assert!(none.newest().is_none());
    }
}
