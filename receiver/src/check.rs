//! What would keep a node from running, found before anything is made.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nackcast_common::net::interface;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::app::{RunError, check_channels, check_directories, check_ways_in, check_writable};
use crate::config::Config;
use crate::dataset::shown;
use crate::disk::DiskError;

/// Finds what would keep a node from running as far as that shows without its state directory, and changes nothing.
///
/// # Errors
/// As [`crate::run`] would.
pub fn check(config: &Config) -> Result<(), RunError> {
    check_directories(config)?;
    check_ways_in(config)?;
    if config.state.exists() {
        check_channels(config)?;
    }
    for subscription in &config.subscriptions {
        interface::resolve(config.interface.as_deref(), subscription.ticket.advertise.ip())
            .map_err(RunError::Network)?;
        check_target(&subscription.into)?;
    }
    Ok(())
}

/// It can be made or written, and no other receiver fills it, or a directory that it lies in.
fn check_target(into: &Path) -> Result<(), RunError> {
    let absolute = std::path::absolute(into).unwrap_or_else(|_| into.to_owned());
    // A missing one is made, but not the one above.
    let existing = if into.exists() { &absolute } else { absolute.parent().unwrap_or(&absolute) };
    let place = fs::canonicalize(existing).map_err(|cause| {
        let cause = Errno::from_io_error(&cause).unwrap_or(Errno::IO);
        RunError::Disk(DiskError::Io { action: "make directory", path: shown(into), cause })
    })?;
    if let Some(filled) = place.ancestors().find(|directory| is_filled(directory)) {
        return Err(if filled == place && into.exists() {
            RunError::Disk(DiskError::InUse { path: shown(into) })
        } else {
            RunError::Inside { into: shown(into), outer: shown(filled) }
        });
    }
    check_writable(existing).map_err(|error| match error {
        RunError::NotWritable { cause, .. } => RunError::NotWritable { path: shown(into), cause },
        other => other,
    })
}

/// Whether a receiver holds the directory: it locks its target for as long as it runs. Only asks.
fn is_filled(directory: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened: Result<OwnedFd, Errno> = rustix::fs::open(directory, flags, Mode::empty());
    let locked = opened.and_then(|open| rustix::fs::flock(&open, FlockOperation::NonBlockingLockShared));
    locked == Err(Errno::WOULDBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::target::TargetDir;

    #[test]
    fn a_target_in_or_at_one_that_is_filled_is_refused_and_nothing_is_made() {
        let place = tempfile::tempdir().unwrap();
        let outer = place.path().join("outer");
        let filled = TargetDir::open(nackcast_common::files::linux(), &outer).unwrap();
        check_target(&outer.join("inner")).unwrap();
        filled.lock().unwrap();
        assert!(matches!(check_target(&outer), Err(RunError::Disk(DiskError::InUse { .. }))));
        let inside = check_target(&outer.join("inner")).unwrap_err();
        assert!(inside.is_usage() && inside.to_string().contains("outer/inner lies in"), "{inside}");
        check_target(&place.path().join("other")).unwrap();
        assert!(!outer.join("inner").exists() && !place.path().join("other").exists());
        drop(filled);
        check_target(&outer.join("inner")).unwrap();
    }

    #[test]
    fn a_target_below_a_missing_directory_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let error = check_target(&place.path().join("a/b")).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("a/b"), "{error}");
    }
}
