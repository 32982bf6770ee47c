//! The secrets of a channel that were given to this node, kept in its state: so it hears the channel after a restart,
//! whoever can be asked then.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use nackcast_common::epochs::Epochs;
use nackcast_common::private_file;
use nackcast_proto::pull::Joined;

/// The file's name in the channel's state.
const FILE: &str = "epochs";

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

/// Keeps what is held, beside what was kept, for this user only; durable when this returns. Whoever comes late with less
/// takes nothing away.
pub(crate) fn save(state: &Path, epochs: &Epochs) -> io::Result<()> {
    let path = state.join(FILE);
    let _lock = private_file::lock(&path);
    let mut all = Epochs::none(epochs.channel());
    load(state, &mut all);
    for (epoch, secret) in epochs.held() {
        all.hold(epoch, secret.clone());
    }
    let held: Vec<_> = all.held().map(|(epoch, secret)| (epoch, secret.clone())).collect();
    if held.is_empty() {
        return Ok(());
    }
    private_file::replace(&path, &Joined::Secrets(held).encode())
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
        // A save of before, which was slow.
        save(dir.path(), &Epochs::of_secret(CHANNEL, Epoch(1), EpochSecret([9; 32]))).unwrap();
        let mut again = Epochs::none(CHANNEL);
        load(dir.path(), &mut again);
        assert_eq!(again.newest(), Some(Epoch(3)));
        fs::write(dir.path().join(FILE), "garbage").unwrap();
        let mut none = Epochs::none(CHANNEL);
        load(dir.path(), &mut none);
        assert!(none.newest().is_none());
    }
}
