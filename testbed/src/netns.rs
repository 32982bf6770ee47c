//! Network namespaces without names: they live as long as something holds them, and leave nothing behind.
//!
//! - Nothing here changes the namespace of the calling thread, except [`enter_user_namespace`], whose
//!   purpose that is. Everything that must run inside runs on a thread, or in a process, of its own.
//! - Root needs nothing. An ordinary user first becomes root of a user namespace: a program by calling
//!   [`enter_user_namespace`] as the first thing in `main`, a test by wrapping its body in
//!   [`with_namespaces`], since the test runner has threads before any test starts.
//! - `net.core.rmem_max` belongs to the host and is not raised here: sockets inside get no larger
//!   buffers than sockets outside.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

use crate::sys::{self, IdentityMaps};

/// The capabilities that a testbed needs: bits of `CapEff` for network administration, raw sockets and `setns`.
const NEEDED_CAPABILITIES: u64 = (1 << 12) | (1 << 13) | (1 << 21);
/// Set for a test that was started again inside a user namespace.
const INSIDE: &str = "NACKCAST_TESTBED_INSIDE";

/// Why a namespace cannot be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The kernel or its configuration refuses user namespaces.
    #[error(
        "cannot make a user namespace with a network of its own: {0}; run as root, or allow user namespaces \
         (sysctl user.max_user_namespaces above 0, kernel.apparmor_restrict_unprivileged_userns=0)"
    )]
    UserNamespace(#[source] io::Error),
    /// A process can only enter a user namespace while it has one thread.
    #[error("cannot enter a user namespace with {0} threads running: do it first thing in main")]
    Threads(usize),
    /// Making or entering a network namespace failed.
    #[error("cannot {what} a network namespace: {source}; root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW) is needed")]
    Network {
        /// What was tried.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The loopback interface of a new namespace did not come up.
    #[error("cannot bring up the loopback interface of a new namespace: {0}")]
    Loopback(#[source] Box<crate::network::NetworkError>),
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> NetnsError {
    move |source| NetnsError::Network { what, source }
}

/// Whether this thread may make network namespaces and packet sockets as it is.
fn privileged() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    held & NEEDED_CAPABILITIES == NEEDED_CAPABILITIES
}

/// Gives an ordinary user's process the rights that a testbed needs, by making it root of new user,
/// network and mount namespaces. Does nothing where the rights are there.
///
/// The process must have one thread. On an error it is as it was before.
pub fn enter_user_namespace() -> Result<(), NetnsError> {
    if privileged() {
        return Ok(());
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(NetnsError::Threads(threads));
    }
    let maps = IdentityMaps::of_caller();
    maps.rehearse().map_err(NetnsError::UserNamespace)?;
    maps.isolate().map_err(NetnsError::UserNamespace)
}

/// Runs the body of a test with the rights to build networks; call it with a closure written in the test itself.
///
/// Without those rights the test binary is started again, for this one test, inside a user namespace.
///
/// # Panics
/// Where the body panics, and where namespaces are refused: a test that cannot run has failed.
pub fn with_namespaces<F: FnOnce()>(body: F) {
    if privileged() {
        return body();
    }
    assert!(std::env::var_os(INSIDE).is_none(), "a user namespace was made, but it gives no rights over networks");
    // The closure's type is called `crate::module::test::{{closure}}`.
    let full = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let test = full.split_once("::").map_or(full, |(_crate, test)| test);
    let program = std::env::current_exe().unwrap_or_else(|error| panic!("cannot find this test's binary: {error}"));
    let mut command = Command::new(program);
    command.args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    sys::isolate_before_exec(&mut command, IdentityMaps::of_caller());
    let output = command.output().unwrap_or_else(|error| panic!("{}", NetnsError::UserNamespace(error)));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed inside a user namespace\n{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "{test} did not run inside a user namespace\n{stdout}\n{stderr}");
}

/// A network namespace with its loopback interface up. It ends with the last of its handles, processes and sockets.
#[derive(Clone, Debug)]
pub struct NetworkNamespace {
    file: Arc<OwnedFd>,
}

impl NetworkNamespace {
    /// Makes one, on a thread that ends afterwards.
    pub fn new() -> Result<Self, NetnsError> {
        let made = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed("make")(errno.into()))?;
            let file = File::open("/proc/thread-self/ns/net").map_err(failed("hold"))?;
            crate::network::bring_up_loopback().map_err(|error| NetnsError::Loopback(Box::new(error)))?;
            Ok(Self { file: Arc::new(file.into()) })
        });
        made.map_err(failed("start a thread for"))?
    }

    /// Runs `work` inside, on a thread of its own, and answers its result. A panic of `work` goes on here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let done = on_a_thread(|| {
            setns(&*self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed("enter")(errno.into()))?;
            Ok(work())
        });
        done.map_err(failed("start a thread in"))?
    }

    /// Makes `command` start its program inside.
    pub fn command<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        sys::enter_before_exec(command, Arc::clone(&self.file));
        command
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".into()).spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces() -> Vec<String> {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
    }

    #[test]
    fn a_namespace_has_only_loopback_and_it_works() {
        with_namespaces(|| {
            let namespace = NetworkNamespace::new().unwrap();
            assert_eq!(namespace.run(interfaces).unwrap(), ["lo"]);
            let echoed = namespace.run(|| {
                let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
                socket.recv(&mut [0; 8]).unwrap()
            });
            assert_eq!(echoed.unwrap(), 1);
        });
    }

    #[test]
    fn the_calling_thread_stays_where_it_is() {
        with_namespaces(|| {
            let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            let before = here();
            let inside = NetworkNamespace::new().unwrap().run(here).unwrap();
            assert_ne!(inside, before);
            assert_eq!(here(), before);
        });
    }

    #[test]
    fn a_panic_inside_reaches_the_caller() {
        with_namespaces(|| {
            let namespace = NetworkNamespace::new().unwrap();
            let caught = std::panic::catch_unwind(|| namespace.run(|| panic!("as wanted")));
            assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"as wanted"));
        });
    }

    #[test]
    fn a_process_with_threads_is_told_so() {
        if !privileged() {
            assert!(matches!(enter_user_namespace(), Err(NetnsError::Threads(_))));
        }
    }
}
