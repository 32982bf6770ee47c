//! Where state lies, and which nodes run here.
//!
//! A node writes what it serves into `STATE/node.json`, and holds a lock on a small file in a run-time directory that
//! names its state directory. So `scan` finds the only node that runs, `verify` the state of a directory, and a node
//! notices when another one sends what it is about to overwrite. The run-time file is a convenience: where it cannot
//! be made, nodes run all the same.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nackcast_common::ids::{ChannelId, Digest};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, OrFail};

/// A node's description of itself, in its state directory.
const NODE_FILE: &str = "node.json";
/// The admin interface, in the state directory.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";
/// More than enough for any number of `nackcast scan` at once.
const LOCK_TRIES: usize = 1000;

/// Sender or receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NodeRole {
    /// It sends.
    Send,
    /// It receives.
    Receive,
}

impl NodeRole {
    const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
        }
    }
}

/// What a node serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) role: NodeRole,
    pub(crate) channels: Vec<NodeChannel>,
}

/// One channel of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeChannel {
    pub(crate) channel: String,
    pub(crate) name: String,
    /// Resolved; need not be UTF-8.
    pub(crate) directory: OsString,
}

/// A node that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) state: PathBuf,
    pub(crate) node: Node,
    pub(crate) runs: bool,
}

/// Below which the state directories of nodes lie that were given none.
pub(crate) fn state_base() -> Result<PathBuf, Failure> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(paths) = variable("STATE_DIRECTORY") {
        // systemd separates several by colons; the first is the unit's own.
        let first = paths.as_bytes().split(|&byte| byte == b':').next().unwrap_or_default();
        return Ok(PathBuf::from(std::ffi::OsStr::from_bytes(first)));
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/nackcast".into());
    }
    if let Some(home) = variable("XDG_STATE_HOME") {
        return Ok(PathBuf::from(home).join("nackcast"));
    }
    match variable("HOME") {
        Some(home) => Ok(PathBuf::from(home).join(".local/state/nackcast")),
        None => Err(Failure::usage("no place for state is known, since HOME is not set: give --state DIR")),
    }
}

/// The state directory: the given one as it is, else one for the role and the channel.
pub(crate) fn state_dir(given: Option<&Path>, role: NodeRole, channel: ChannelId) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => {
            let id = channel.to_string();
            state_base()?.join(format!("{}-{}", role.name(), &id[..8]))
        }
    };
    std::path::absolute(&path).or_usage(format_args!("state directory {}", path.display()))
}

/// The state directory of the only channel that is received here with a default one.
pub(crate) fn only_receiver() -> Result<PathBuf, Failure> {
    let base = state_base()?;
    let entries = std::fs::read_dir(&base).into_iter().flatten().filter_map(Result::ok);
    let begins = format!("{}-", NodeRole::Receive.name());
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().as_bytes().starts_with(begins.as_bytes()))
        .map(|entry| entry.path())
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Failure::usage(format_args!(
            "several channels are received with state below {}, each by a node of its own: give --ticket or --state",
            base.display()
        ))),
        (None, _) => Err(Failure::usage(format_args!(
            "no state of a receiver is below {} yet: give --ticket or --state, as for `nackcast receive`",
            base.display()
        ))),
    }
}

/// Makes the state directory (0700) and checks that it can be used for this role.
pub(crate) fn prepare_state(state: &Path, role: NodeRole) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(state);
    made.or_usage(format_args!("state directory {} cannot be made: give another one with --state", state.display()))?;
    if rustix::fs::access(
        state,
        rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    )
    .is_err()
    {
        return Err(Failure::usage(format_args!(
            "state directory {} cannot be written: give another one with --state, or change its owner",
            state.display()
        )));
    }
    match read_node(state) {
        Some(node) if node.role != role => Err(Failure::usage(format_args!(
            "state directory {} belongs to a node that does `{}`: give another one with --state",
            state.display(),
            node.role.name()
        ))),
        _ => Ok(()),
    }
}

/// `path` with symlinks resolved as far as it exists, and the rest as it stands.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in absolute.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
            // `..` behind what does not exist cannot be resolved; it is kept and will fail to be made.
            return rest
                .components()
                .filter(|part| *part != Component::CurDir)
                .fold(real, |path, part| path.join(part));
        }
    }
    absolute
}

/// Whether one of two resolved paths is the other or lies in it.
pub(crate) fn overlap(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// Refuses directories that another node here would disturb: what is received may not be sent on the same channel, and
/// one receiver's target may not lie in another's.
pub(crate) fn check_neighbours(state: &Path, node: &Node) -> Result<(), Failure> {
    // A node with the same state is refused with a better reason when this one registers.
    let others: Vec<Found> = found().into_iter().filter(|other| other.runs && other.state != state).collect();
    check_neighbours_among(node, &others)
}

fn check_neighbours_among(node: &Node, others: &[Found]) -> Result<(), Failure> {
    for other in others {
        for (ours, theirs) in node.channels.iter().flat_map(|a| other.node.channels.iter().map(move |b| (a, b))) {
            let (our_path, their_path) = (Path::new(&ours.directory), Path::new(&theirs.directory));
            if !overlap(our_path, their_path) {
                continue;
            }
            let name = &ours.name;
            let (ours_shown, theirs_shown) = (our_path.display(), their_path.display());
            match (node.role, other.node.role) {
                (NodeRole::Receive, NodeRole::Receive) => {
                    return Err(Failure::usage(format_args!(
                        "channel {name}: the target directory {ours_shown} overlaps {theirs_shown}, where a receiver \
                         that runs puts channel {}: choose a directory outside",
                        theirs.name
                    )));
                }
                (NodeRole::Receive, NodeRole::Send) if ours.channel == theirs.channel => {
                    return Err(sent_into_itself(name, our_path, their_path));
                }
                (NodeRole::Send, NodeRole::Receive) if ours.channel == theirs.channel => {
                    return Err(sent_into_itself(name, their_path, our_path));
                }
                // Several senders may read the same files, and what one channel brings another may send.
                (NodeRole::Send, _) | (NodeRole::Receive, NodeRole::Send) => {}
            }
        }
    }
    Ok(())
}

fn sent_into_itself(name: &str, target: &Path, source: &Path) -> Failure {
    Failure::usage(format_args!(
        "channel {name}: the target directory {} and the source directory {}, which is sent on this machine, \
         overlap: choose a target outside the source",
        target.display(),
        source.display()
    ))
}

/// Held while a node runs.
#[derive(Debug)]
pub(crate) struct Registration {
    /// The locked file, and its path.
    marker: Option<(File, PathBuf)>,
}

impl Registration {
    /// Writes down that the node runs, and what it serves.
    pub(crate) fn new(state: &Path, node: &Node) -> Result<Self, Failure> {
        // First the lock: what another node wrote into its state is not ours to replace.
        let marker = match runtime_dir(true) {
            Some(dir) => mark(&dir, state)?,
            None => None,
        };
        let path = state.join(NODE_FILE);
        let context = || format!("{} cannot be written", path.display());
        let text = serde_json::to_vec(node).or_running(context())?;
        let temporary = state.join("node.json.new");
        std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path)).or_running(context())?;
        Ok(Self { marker })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some((_file, path)) = &self.marker {
            drop(std::fs::remove_file(path)); // a marker without its lock is dead anyway
        }
    }
}

/// All nodes that are known here: those that run, and those whose state lies in the default place.
pub(crate) fn found() -> Vec<Found> {
    let mut states: Vec<(PathBuf, bool)> = running_states().into_iter().map(|state| (state, true)).collect();
    if let Ok(base) = state_base() {
        states.extend(entries(&base).into_iter().map(|state| (state, false)));
        states.push((base, false)); // a service's own directory may have been given as it is
    }
    let mut found: Vec<Found> = Vec::new();
    for (state, runs) in states {
        if found.iter().all(|known| known.state != state) {
            found.extend(read_node(&state).map(|node| Found { state, node, runs }));
        }
    }
    found
}

fn read_node(state: &Path) -> Option<Node> {
    let text = std::fs::read(state.join(NODE_FILE)).ok()?;
    serde_json::from_slice(&text).inspect_err(|error| tracing::debug!("{}: {error}", state.display())).ok()
}

/// State directories of nodes that hold their lock now.
fn running_states() -> Vec<PathBuf> {
    let markers = runtime_dir(false).map(|dir| entries(&dir)).unwrap_or_default();
    let live = markers.into_iter().filter(|marker| {
        // Only the try: the lock is given back at once when the file is closed.
        File::open(marker).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    });
    live.filter_map(|marker| std::fs::read(marker).ok())
        .map(|state| PathBuf::from(std::ffi::OsStr::from_bytes(&state)))
        .collect()
}

/// Locks the marker of a state directory; none where that cannot be done.
fn mark(dir: &Path, state: &Path) -> Result<Option<(File, PathBuf)>, Failure> {
    sweep(dir);
    let path = dir.join(format!("{:016x}", Digest::of(state.as_os_str().as_bytes()).prefix()));
    let marked = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    match marked.and_then(|file| lock_and_write(file, state)) {
        Ok(file) => Ok(Some((file, path))),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Failure::usage(format_args!(
            "state directory {} is in use by a node that runs: end that one first, or give another one with --state",
            state.display()
        ))),
        Err(error) => {
            tracing::debug!("{}: other commands will not find this node by themselves: {error}", path.display());
            Ok(None)
        }
    }
}

fn lock_and_write(mut file: File, state: &Path) -> io::Result<File> {
    // Who looks for nodes holds the lock for a moment, and that is no node.
    let mut lock = file.try_lock();
    for _ in 0..LOCK_TRIES {
        if lock.is_ok() {
            break;
        }
        std::thread::yield_now();
        lock = file.try_lock();
    }
    lock.map_err(io::Error::from)?;
    file.set_len(0)?;
    file.write_all(state.as_os_str().as_bytes())?;
    Ok(file)
}

/// Removes the markers of nodes that were killed.
fn sweep(dir: &Path) {
    for marker in entries(dir) {
        if File::open(&marker).is_ok_and(|file| file.try_lock().is_ok()) {
            drop(std::fs::remove_file(&marker));
        }
    }
}

/// A directory of our own that does not survive a reboot.
fn runtime_dir(make: bool) -> Option<PathBuf> {
    let user = rustix::process::geteuid();
    let dir = match std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()) {
        _ if user.is_root() => PathBuf::from("/run/nackcast"),
        Some(runtime) => PathBuf::from(runtime).join("nackcast"),
        None => std::env::temp_dir().join(format!("nackcast-{}", user.as_raw())),
    };
    if make && DirBuilder::new().recursive(true).mode(0o700).create(&dir).is_err() {
        return None;
    }
    // In a shared /tmp somebody else may have made it: then what it says is not to be believed.
    let ours = std::fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == user.as_raw());
    ours.then_some(dir)
}

/// What a directory holds, in order; nothing when it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_yet_is_resolved_as_far_as_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(resolved(&real.join("link/./a/b")), real.join("a/b"));
        assert!(overlap(Path::new("/a/b"), Path::new("/a")) && overlap(Path::new("/a"), Path::new("/a")));
        assert!(!overlap(Path::new("/a/bc"), Path::new("/a/b")));
    }

    #[test]
    fn a_state_directory_keeps_its_role() {
        let dir = tempfile::tempdir().unwrap();
        let node = Node { role: NodeRole::Send, channels: Vec::new() };
        let registration = Registration::new(dir.path(), &node).unwrap();
        assert_eq!(read_node(dir.path()), Some(node));
        assert!(prepare_state(dir.path(), NodeRole::Send).is_ok());
        let failure = prepare_state(dir.path(), NodeRole::Receive).unwrap_err();
        assert!(failure.line().unwrap().contains("does `send`"));
        drop(registration);
    }

    fn node(role: NodeRole, channel: &str, directory: &str) -> Node {
        let (channel, name) = (channel.to_owned(), "news".to_owned());
        Node { role, channels: vec![NodeChannel { channel, name, directory: directory.into() }] }
    }

    fn running(node: Node) -> Vec<Found> {
        vec![Found { state: "/s".into(), node, runs: true }]
    }

    #[test]
    fn a_target_inside_a_source_that_is_sent_here_is_refused() {
        let others = running(node(NodeRole::Send, "a", "/srv/news"));
        let inside = node(NodeRole::Receive, "a", "/srv/news/in");
        let line = check_neighbours_among(&inside, &others).unwrap_err().line().unwrap();
        assert!(line.contains("target directory /srv/news/in and the source directory /srv/news"), "{line}");
        let around = node(NodeRole::Receive, "a", "/srv");
        assert!(check_neighbours_among(&around, &others).is_err());
        assert!(check_neighbours_among(&node(NodeRole::Receive, "a", "/srv/newspaper"), &others).is_ok());
        let line = check_neighbours_among(&others[0].node, &running(inside)).unwrap_err().line().unwrap();
        assert!(line.contains("target directory /srv/news/in and the source directory /srv/news"), "{line}");
        let relay = node(NodeRole::Receive, "b", "/srv/news");
        assert!(check_neighbours_among(&relay, &others).is_ok(), "what one channel brings another may send");
    }

    #[test]
    fn a_target_inside_or_around_that_of_another_receiver_is_refused() {
        let others = running(node(NodeRole::Receive, "a", "/srv/news"));
        for directory in ["/srv/news/sport", "/srv", "/srv/news"] {
            let line = check_neighbours_among(&node(NodeRole::Receive, "b", directory), &others);
            let line = line.unwrap_err().line().unwrap();
            assert!(line.contains(&format!("{directory} overlaps /srv/news")), "{line}");
        }
        assert!(check_neighbours_among(&node(NodeRole::Receive, "b", "/srv/newspaper"), &others).is_ok());
    }

    #[test]
    fn a_node_is_seen_while_it_runs_and_not_after() {
        let (dir, state) = (tempfile::tempdir().unwrap(), Path::new("/var/lib/x"));
        let (file, path) = mark(dir.path(), state).unwrap().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"/var/lib/x");
        assert!(matches!(File::open(&path).unwrap().try_lock_shared(), Err(TryLockError::WouldBlock)));
        let second = mark(dir.path(), state).unwrap_err();
        assert!(second.exit_code() == 2 && second.line().unwrap().contains("in use"));
        let other = mark(dir.path(), Path::new("/var/lib/y")).unwrap().unwrap();
        assert!(path.exists(), "only the dead are swept away");
        drop((file, other));
        sweep(dir.path());
        assert_eq!(entries(dir.path()), Vec::<PathBuf>::new());
    }
}
