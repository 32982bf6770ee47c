//! Where other senders are: names to addresses.
//!
//! - An address is taken as it is. A name is looked up, and again until it is found: nodes start before name servers do.
//! - A start waits a moment for names, so that a primary asks its backups before it sends; then it goes on without.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A start waits no longer.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// Before a name is looked up again.
const PAUSE: Duration = Duration::from_secs(5);

/// Addresses, and the search for those that are not known yet; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Names {
    found: watch::Receiver<Vec<SocketAddr>>,
    _searches: JoinSet<()>,
}

impl Names {
    /// Looks for all of them, HOST:PORT each.
    pub(crate) async fn look_up(peers: Vec<String>) -> Self {
        let lookup = |peer: String| async move { Ok(tokio::net::lookup_host(peer).await?.collect()) };
        let (sender, found) = watch::channel(Vec::new());
        let mut searches = JoinSet::new();
        for peer in peers {
            match peer.parse() {
                Ok(address) => sender.send_modify(|found| found.push(address)),
                Err(_) => {
                    let sender = sender.clone();
                    searches.spawn(search(peer, lookup, PAUSE, sender));
                }
            }
        }
        let all = async { while searches.join_next().await.is_some() {} };
        if timeout(FIRST_WAIT, all).await.is_err() {
            tracing::debug!(missing = searches.len(), "names of other senders are looked for meanwhile");
        }
        Self { found, _searches: searches }
    }

    /// What is known; more may follow, and counts as a change.
    pub(crate) fn found(&self) -> watch::Receiver<Vec<SocketAddr>> {
        let mut found = self.found.clone();
        found.mark_unchanged();
        found
    }
}

/// Looks for one until it is found, and adds what it is to the others.
async fn search<F: Future<Output = io::Result<Vec<SocketAddr>>>>(
    peer: String,
    mut lookup: impl FnMut(String) -> F,
    pause: Duration,
    found: watch::Sender<Vec<SocketAddr>>,
) {
    let mut is_said = false;
    loop {
        match lookup(peer.clone()).await {
            Ok(addresses) if !addresses.is_empty() => {
                if is_said {
                    tracing::info!(?addresses, "the address of sender {peer} was found");
                }
                return found.send_modify(|found| found.extend(addresses));
            }
            failed => {
                let reason = failed.err().map_or_else(|| "it has none".to_owned(), |error| error.to_string());
                if !std::mem::replace(&mut is_said, true) {
                    tracing::warn!(
                        "the address of sender {peer} cannot be found: {reason}; looking for it every {} s; check --peer \
                         and the name server",
                        pause.as_secs()
                    );
                }
            }
        }
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_known_at_once_and_names_that_nobody_has_hold_up_nothing() {
        let names = Names::look_up(vec!["192.0.2.1:7701".to_owned(), "[2001:db8::1]:7701".to_owned()]).await;
        let expected: Vec<SocketAddr> = vec!["192.0.2.1:7701".parse().unwrap(), "[2001:db8::1]:7701".parse().unwrap()];
        assert_eq!((names.found().borrow().clone(), names._searches.len()), (expected.clone(), 0));
        let some = vec![expected[0].to_string(), "nobody.invalid:7701".to_owned(), expected[1].to_string()];
        let names = Names::look_up(some).await;
        assert_eq!((names.found().borrow().clone(), names._searches.len()), (expected, 1));
    }

    #[tokio::test]
    async fn a_name_is_looked_up_until_it_is_found() {
        let (sender, found) = watch::channel(vec!["192.0.2.1:7701".parse().unwrap()]);
        let mut tries = 0;
        let lookup = |peer: String| {
            assert_eq!(peer, "cdn2:7701");
            tries += 1;
            std::future::ready(match tries {
                1 => Err(io::Error::other("no name server")),
                2 => Ok(Vec::new()),
                _ => Ok(vec!["192.0.2.2:7701".parse().unwrap()]),
            })
        };
        search("cdn2:7701".to_owned(), lookup, Duration::from_millis(1), sender).await;
        let addresses: Vec<_> = found.borrow().iter().map(ToString::to_string).collect();
        assert_eq!((addresses, tries), (vec!["192.0.2.1:7701".to_owned(), "192.0.2.2:7701".to_owned()], 3));
    }
}
