//! Congestion control against a model of a link: a bottleneck with a short queue, delay, jitter, loss, and a TCP flow
//! that goes by CUBIC (RFC 9438) on the same queue.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

const PACKET_BITS: u64 = 1428 * 8;
const DELAY: u64 = 20_000;
const JITTER: u64 = 5_000;
const TICK: u64 = 100;

/// A FIFO that drops what would wait for longer than its length.
struct Link {
    bits: f64,
    queue_micros: f64,
    busy_until: f64,
    dropped: u64,
}

impl Link {
    /// When a packet leaves it.
    fn pass(&mut self, now: u64) -> Option<f64> {
        let begins = self.busy_until.max(now as f64);
        if begins - now as f64 > self.queue_micros {
            return None;
        }
        self.busy_until = begins + PACKET_BITS as f64 / self.bits * 1e6;
        Some(self.busy_until)
    }
}

struct Receiver {
    run: RunId,
    loss: f64,
    /// Packets under way to it, by arrival.
    coming: Vec<(f64, u64)>,
    last: f64,
    heard: u64,
    received: u64,
    /// Below which number it counts, and how many of these came.
    up_to: u64,
    below: u64,
    came: Vec<(f64, u64)>,
    tells_at: u64,
}

/// A flow that reacts to loss as RFC 9438 says.
struct Tcp {
    window: f64,
    most: f64,
    since: u64,
    is_slow_start: bool,
    flying: Vec<(f64, bool)>,
    deaf_until: f64,
    arrived: u64,
}

impl Tcp {
    fn new() -> Self {
        Self { window: 10.0, most: 0.0, since: 0, is_slow_start: true, flying: Vec::new(), deaf_until: 0.0, arrived: 0 }
    }

    fn step(&mut self, now: u64, link: &mut Link) {
        let rtt = 2.0 * DELAY as f64 / 1e6;
        let (over, flying): (Vec<_>, Vec<_>) = self.flying.iter().copied().partition(|(at, _)| *at <= now as f64);
        self.flying = flying;
        for (_, arrived) in over {
            if arrived {
                self.arrived += 1;
                if self.is_slow_start {
                    self.window += 1.0;
                } else {
                    let t = (now - self.since) as f64 / 1e6 + rtt;
                    let target = cubic(Duration::from_secs_f64(t), self.most / rtt, Duration::from_secs_f64(rtt)) * rtt;
                    self.window += ((target - self.window) / self.window).clamp(0.0, 0.5);
                }
            } else if now as f64 >= self.deaf_until {
                self.most = self.window;
                self.window = (self.window * CUBIC_BETA).max(2.0);
                (self.since, self.is_slow_start) = (now, false);
                self.deaf_until = now as f64 + rtt * 1e6;
            }
        }
        while (self.flying.len() as f64) < self.window {
            match link.pass(now) {
                Some(out) => self.flying.push((out + 2.0 * DELAY as f64, true)),
                None => {
                    self.flying.push((now as f64 + 2.0 * DELAY as f64 + link.queue_micros, false));
                    break;
                }
            }
        }
    }
}

struct Course {
    /// Megabits that the sender put through the bottleneck, each second, and those of TCP.
    ours: Vec<f64>,
    theirs: Vec<f64>,
    sent: u64,
    dropped: u64,
    trace: Vec<String>,
}

/// `orderly`: jitter does not change the order, so that packets wait for slower ones before them.
fn run(
    seconds: u64,
    megabits: f64,
    queue_packets: f64,
    losses: &[f64],
    tcp_from: Option<u64>,
    orderly: bool,
) -> Course {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut link = Link {
        bits: megabits * 1e6,
        queue_micros: queue_packets * PACKET_BITS as f64 / megabits,
        busy_until: 0.0,
        dropped: 0,
    };
    let mut control = Congestion::new(RateBounds::default());
    let mut receivers: Vec<_> = losses
        .iter()
        .enumerate()
        .map(|(index, loss)| Receiver {
            run: RunId(index as u64),
            loss: *loss,
            coming: Vec::new(),
            last: 0.0,
            heard: 0,
            received: 0,
            up_to: 0,
            below: 0,
            came: Vec::new(),
            tells_at: 20_000 + index as u64 * 1000,
        })
        .collect();
    let mut readings: Vec<(u64, RunId, u64, Reading)> = Vec::new();
    let mut tcp = tcp_from.map(|_| Tcp::new());
    let (mut sent, mut credit) = (0, 0.0);
    let mut course = Course { ours: vec![], theirs: vec![], sent: 0, dropped: 0, trace: vec![] };
    let (mut through, mut before) = (0_u64, (0_u64, 0_u64));
    for now in (0..seconds * 1_000_000).step_by(TICK as usize) {
        let time = Time(now + 1);
        // Whose packets come first is chance.
        let mut waiting = tcp.as_mut().filter(|_| tcp_from.is_some_and(|from| now >= from * 1_000_000));
        if rng.random::<bool>()
            && let Some(tcp) = waiting.take()
        {
            tcp.step(now, &mut link);
        }
        credit = f64::min(credit + control.rate().0 as f64 * TICK as f64 / 1e6, PACKET_BITS as f64 * 64.0);
        // The manifest first; content follows when receivers have it.
        // And now and then there is nothing for a moment.
        let has_something = !(10_000..120_000).contains(&now) && now % 5_000_000 < 4_960_000;
        credit = if has_something { credit } else { 0.0 };
        while credit >= PACKET_BITS as f64 {
            credit -= PACKET_BITS as f64;
            control.on_sent(time, sent, 1, PACKET_BITS);
            match link.pass(now) {
                Some(out) => {
                    through += 1;
                    for receiver in &mut receivers {
                        if rng.random::<f64>() >= receiver.loss {
                            let arrival = out + (DELAY + rng.random_range(0..JITTER)) as f64;
                            let arrival = if orderly { arrival.max(receiver.last) } else { arrival };
                            receiver.last = arrival;
                            receiver.coming.push((arrival, sent));
                        }
                    }
                }
                None => link.dropped += 1,
            }
            sent += 1;
        }
        for receiver in &mut receivers {
            let mut index = 0;
            while index < receiver.coming.len() {
                if receiver.coming[index].0 <= now as f64 {
                    let packet = receiver.coming.swap_remove(index);
                    receiver.heard = receiver.heard.max(packet.1 + 1);
                    receiver.received += 1;
                    receiver.below += u64::from(packet.1 < receiver.up_to);
                    receiver.came.push(packet);
                } else {
                    index += 1;
                }
            }
            if now >= receiver.tells_at && !receiver.came.is_empty() {
                receiver.tells_at = now + 20_000;
                let count = receiver.came.len() as f64;
                let reading = Reading {
                    window: 0,
                    up_to: receiver.up_to,
                    received: receiver.below,
                    count: receiver.came.len() as u64,
                    // Its clock is another one, and it looks from time to time.
                    arrival: 77_000_000
                        + rng.random_range(0..1_000)
                        + (receiver.came.iter().map(|(at, _)| at).sum::<f64>() / count) as u64,
                    number: (receiver.came.iter().map(|(_, n)| *n as f64).sum::<f64>() / count * 16.0) as u64,
                };
                receiver.came.clear();
                (receiver.up_to, receiver.below) = (receiver.heard, receiver.received);
                readings.push((now + DELAY, receiver.run, receiver.heard, reading));
            }
        }
        readings.retain(|(at, run, heard, reading)| {
            let due = *at <= now;
            if due {
                control.on_reading(time, *run, (*heard, reading), 0, sent);
            }
            !due
        });
        if let Some(tcp) = waiting {
            tcp.step(now, &mut link);
        }
        if (now + TICK).is_multiple_of(1_000_000) {
            let arrived = tcp.as_ref().map_or(0, |tcp| tcp.arrived);
            let megabits = |packets: u64| (packets * PACKET_BITS) as f64 / 1e6;
            course.ours.push(megabits(through - before.0));
            course.theirs.push(megabits(arrived - before.1));
            course.trace.push(format!(
                "{:>3} s {:6.1} {:6.1} {:?}",
                now / 1_000_000 + 1,
                course.ours.last().unwrap(),
                course.theirs.last().unwrap(),
                control.course
            ));
            before = (through, arrived);
        }
    }
    (course.sent, course.dropped) = (sent, link.dropped);
    course
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn alone_behind_random_loss_it_fills_the_link_within_two_seconds_and_holds_it() {
    for (queue, orderly) in [(12.0, false), (30.0, false), (30.0, true), (60.0, true), (100.0, false)] {
        for losses in [&[0.01][..], &[0.01; 8], &[0.0], &[0.05, 0.0]] {
            let course = run(30, 100.0, queue, losses, None, orderly);
            let share = course.dropped as f64 / course.sent as f64;
            let worst = course.ours[2..].iter().copied().fold(f64::INFINITY, f64::min);
            let text = course.trace.join("\n");
            assert!(worst >= 90.0, "queue {queue}, {orderly}, {losses:?}: {worst}, {share}\n{text}");
            assert!(share < 0.005, "queue {queue}, {orderly}, {losses:?}: {share}\n{text}");
        }
    }
}

#[test]
fn a_slow_and_a_fast_link_are_found_too() {
    // A slow one shows what the beginning costs.
    for (megabits, most) in [(2.0, 0.25), (10.0, 0.02), (900.0, 0.01)] {
        let course = run(20, megabits, f64::max(30.0, megabits * 0.3), &[0.002, 0.01], None, true);
        let text = course.trace.join("\n");
        assert!(mean(&course.ours[5..]) >= megabits * 0.75, "{megabits}\n{text}");
        assert!((course.dropped as f64 / course.sent as f64) < most, "{megabits}: {}\n{text}", course.dropped);
    }
}

#[test]
fn beside_cubic_each_gets_a_fair_part() {
    for (queue, orderly) in [(30.0, false), (60.0, true), (60.0, false), (200.0, true)] {
        for from in [0, 10] {
            let course = run(100, 100.0, queue, &[0.0], Some(from), orderly);
            let ours = mean(&course.ours[20..]);
            let theirs = mean(&course.theirs[20..]);
            let text = course.trace.join("\n");
            assert!(
                (0.5..=2.0).contains(&(ours / theirs)),
                "queue {queue}, {orderly}, from {from}: {ours} {theirs}\n{text}"
            );
        }
    }
}
