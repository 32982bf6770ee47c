//! How fast blocks are given to those who pull: multicast comes first.
//!
//! While a channel of this node multicasts, pulls get a tenth of what they may have otherwise, and never more than a
//! tenth of the multicast's own rate. A link that has room for the multicast and little more keeps its order by that:
//! beside pulls at full rate, multicast loses datagrams in the queue that both share, and repairs are slow.

use nackcast_common::net::quic::Server;
use nackcast_common::report::ChannelProgress;
use nackcast_common::units::{BitRate, RateLimit};
use tokio::sync::watch;

use crate::report::Progress;

/// This part of a rate is left for pulls.
const PART: u64 = 10;

/// Keeps the server's rate until the node ends.
pub(super) async fn keep(server: Server, most: RateLimit, mut progress: watch::Receiver<Progress>) {
    let mut now = most;
    loop {
        let rate = beside(&progress.borrow_and_update().channels, most);
        if rate != now {
            server.set_rate(rate);
            now = rate;
        }
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// What pulls get beside what these channels do.
fn beside(channels: &[ChannelProgress], most: RateLimit) -> RateLimit {
    if !channels.iter().any(|channel| channel.state == "sending") {
        return most;
    }
    let multicast = channels.iter().map(|channel| channel.rate_limit_bps).sum();
    let rate = match (most, multicast) {
        (RateLimit::Max | RateLimit::Auto, 0) => return RateLimit::Max,
        (RateLimit::Max | RateLimit::Auto, multicast) => multicast,
        (RateLimit::Fixed(most), 0) => most.0,
        (RateLimit::Fixed(most), multicast) => most.0.min(multicast),
    };
    RateLimit::Fixed(BitRate((rate / PART).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_get_a_tenth_while_a_channel_multicasts_and_all_before_and_after() {
        let channel = |state: &str, rate_limit_bps| ChannelProgress {
            state: state.to_owned(),
            rate_limit_bps,
            ..ChannelProgress::default()
        };
        let fixed = |rate| RateLimit::Fixed(BitRate(rate));
        assert_eq!(beside(&[channel("idle", 600), channel("standby", 400)], fixed(1000)), fixed(1000));
        assert_eq!(beside(&[channel("idle", 600), channel("sending", 400)], fixed(1000)), fixed(100));
        assert_eq!(beside(&[channel("sending", 400)], fixed(1000)), fixed(40));
        assert_eq!(beside(&[channel("sending", 4000)], fixed(1000)), fixed(100));
        assert_eq!(beside(&[channel("sending", 0)], fixed(1000)), fixed(100), "without a limit");
        assert_eq!(beside(&[channel("sending", 400)], RateLimit::Max), fixed(40));
    }
}
