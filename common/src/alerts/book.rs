//! The alerts of a node.
//!
//! | state | on | to |
//! |---|---|---|
//! | - | found | raised |
//! | raised | found again | raised; counted again only if it is of a kind that happens, and did |
//! | raised | no longer found (of a kind that happens: for an hour) | cleared |
//! | cleared | found | raised again: one more; an old acknowledgement is void |
//! | any | acknowledged | the same, and no longer wrong |
//!
//! At most [`ALERTS_MAX`] alerts are kept. What goes first is what is over for longest, then what was acknowledged,
//! then what is least severe.

use std::collections::{BTreeMap, BTreeSet};

use super::{Alert, Finding, Kind, Lasts};

/// Alerts that a book keeps.
pub const ALERTS_MAX: usize = 1000;
/// What happens is over when it did not happen for so long.
const HAPPENED_MS: u64 = 3_600_000;
/// What an earlier run found is not over only because this one did not find it yet: it looks for so long.
const SETTLE_MS: u64 = 60_000;
/// "Last seen" is written to the store no more often than this, so that a lasting alert does not wear the disk.
const TOUCH_MS: u64 = 60_000;
/// Longer texts are cut, so that an alert fits into the store.
const TEXT_MAX: usize = 1200;
const SUBJECT_MAX: usize = 300;

/// What makes two findings the same alert.
type Key = (Kind, String, String);

/// The alerts of a node, as a state machine.
#[derive(Debug)]
pub struct Book {
    node: String,
    alerts: BTreeMap<u64, Alert>,
    by_key: BTreeMap<Key, u64>,
    /// How often each happened as its node last said; of this run only, since nodes count from their start.
    seen: BTreeMap<Key, u64>,
    next_id: u64,
    /// When this run began, and the first number that is of it.
    began: (u64, u64),
    changed: BTreeSet<u64>,
}

impl Book {
    /// A book that begins now with what was kept.
    #[must_use]
    pub fn new(node: impl Into<String>, now_ms: u64, kept: Vec<Alert>) -> Self {
        let next_id = kept.iter().map(|alert| alert.id + 1).max().unwrap_or(1);
        let by_key = kept.iter().map(|alert| (key_of(alert), alert.id)).collect();
        let alerts = kept.into_iter().map(|alert| (alert.id, alert)).collect();
        let mut book = Self {
            node: node.into(),
            alerts,
            by_key,
            seen: BTreeMap::new(),
            next_id,
            began: (now_ms, next_id),
            changed: BTreeSet::new(),
        };
        book.bound();
        book
    }

    /// Everything that a node finds wrong with a channel now: raises what is new, clears what is gone.
    pub fn report(&mut self, now_ms: u64, channel: &str, findings: &[Finding]) {
        let key = |finding: &Finding| (finding.kind, channel.to_owned(), cut(&finding.subject, SUBJECT_MAX));
        let found: BTreeSet<Key> = findings.iter().map(key).collect();
        // First what is over: a full book has room for what is new.
        let (began_ms, first_id) = self.began;
        let is_settled = now_ms.saturating_sub(began_ms) >= SETTLE_MS;
        let raised: Vec<_> = self.alerts.values().filter(|a| a.channel == channel && a.is_raised()).collect();
        let is_over = |alert: &&&Alert| match alert.kind.lasts() {
            Lasts::WhileFound => {
                let key = key_of(alert);
                let is_ours = is_settled || alert.id >= first_id || self.seen.contains_key(&key);
                is_ours && !found.contains(&key)
            }
            Lasts::Happens => now_ms.saturating_sub(alert.last_ms) >= HAPPENED_MS,
        };
        for id in raised.iter().filter(is_over).map(|alert| alert.id).collect::<Vec<_>>() {
            if let Some(alert) = self.alerts.get_mut(&id) {
                alert.cleared_ms = Some(now_ms);
                self.changed.insert(id);
            }
        }
        for finding in findings {
            self.find(now_ms, key(finding), finding);
        }
    }

    fn find(&mut self, now_ms: u64, key: Key, finding: &Finding) {
        let happens = finding.kind.lasts() == Lasts::Happens;
        let before = self.seen.insert(key.clone(), finding.times).unwrap_or(0);
        let new = if happens { finding.times.saturating_sub(before) } else { 1 };
        let text = cut(&finding.text, TEXT_MAX);
        let known = self.by_key.get(&key).and_then(|id| self.alerts.get_mut(id));
        if new == 0 {
            // It did not happen again. What came of it is worth knowing all the same, such as that it is mended.
            if let Some(alert) = known.filter(|alert| alert.is_raised() && alert.text != text) {
                alert.text = text;
                self.changed.insert(alert.id);
            }
            return;
        }
        let Some(alert) = known else {
            let id = self.next_id;
            self.next_id += 1;
            let (kind, channel, subject) = key.clone();
            let node = self.node.clone();
            let (first_ms, last_ms, count) = (now_ms, now_ms, new);
            let (cleared_ms, acknowledged_ms) = (None, None);
            let alert =
                Alert { id, kind, node, channel, subject, text, first_ms, last_ms, count, cleared_ms, acknowledged_ms };
            self.alerts.insert(id, alert);
            self.by_key.insert(key, id);
            self.changed.insert(id);
            self.bound();
            return;
        };
        let again = !alert.is_raised();
        if again {
            (alert.cleared_ms, alert.acknowledged_ms) = (None, None);
        }
        if again || happens {
            alert.count = alert.count.saturating_add(new);
        }
        if again || happens || alert.text != text || now_ms.saturating_sub(alert.last_ms) >= TOUCH_MS {
            (alert.text, alert.last_ms) = (text, now_ms);
            self.changed.insert(alert.id);
        }
    }

    /// An admin took note. False when there is no such alert.
    pub fn acknowledge(&mut self, now_ms: u64, id: u64) -> bool {
        let Some(alert) = self.alerts.get_mut(&id) else { return false };
        if alert.acknowledged_ms.is_none() {
            alert.acknowledged_ms = Some(now_ms);
            self.changed.insert(id);
        }
        true
    }

    /// One alert.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Alert> {
        self.alerts.get(&id)
    }

    /// All alerts, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.values()
    }

    /// Takes the numbers of those that changed since the last call. One that is not in the book is forgotten.
    pub fn take_changes(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    fn bound(&mut self) {
        while self.alerts.len() > ALERTS_MAX {
            let worth = |alert: &&Alert| {
                let over = alert.cleared_ms.unwrap_or(u64::MAX);
                (over, alert.acknowledged_ms.is_none(), alert.kind.severity(), alert.last_ms)
            };
            let Some(alert) = self.alerts.values().min_by_key(worth) else { return };
            let (id, key) = (alert.id, key_of(alert));
            self.alerts.remove(&id);
            self.by_key.remove(&key);
            self.seen.remove(&key);
            self.changed.insert(id);
        }
    }
}

fn key_of(alert: &Alert) -> Key {
    (alert.kind, alert.channel.clone(), alert.subject.clone())
}

/// At most so many bytes, whole characters.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::Severity;

    fn book() -> Book {
        Book::new("cache7", 0, Vec::new())
    }

    fn silent(text: &str) -> Finding {
        Finding::lasting(Kind::ReceiverSilent, "", text)
    }

    fn only(book: &Book) -> &Alert {
        assert_eq!(book.iter().count(), 1);
        book.iter().next().unwrap()
    }

    #[test]
    fn what_is_found_is_raised_once_and_cleared_when_it_is_gone() {
        let mut book = book();
        for second in 1..=50 {
            book.report(second * 1000, "news", &[silent("10.0.0.7")]);
        }
        let alert = only(&book);
        assert_eq!((alert.count, alert.first_ms, alert.node.as_str()), (1, 1000, "cache7"));
        assert!(alert.is_wrong() && alert.kind.severity() == Severity::Warning);
        assert_eq!(book.take_changes(), [1], "seen again within a minute is no news");
        book.report(51_000, "films", &[]);
        assert!(only(&book).is_raised(), "another channel says nothing of this one");
        book.report(52_000, "news", &[]);
        assert_eq!(only(&book).cleared_ms, Some(52_000));
        book.report(60_000, "news", &[silent("10.0.0.8")]);
        let alert = only(&book);
        assert_eq!((alert.count, alert.first_ms, alert.text.as_str()), (2, 1000, "10.0.0.8"));
    }

    #[test]
    fn what_happens_is_counted_and_over_after_an_hour() {
        let mut book = book();
        let damaged = |times| Finding::happened(Kind::ContentDamaged, "", "a.bin", times);
        book.report(1000, "news", &[damaged(2)]);
        book.report(2000, "news", &[damaged(2)]);
        book.report(3000, "news", &[damaged(5)]);
        assert_eq!((only(&book).count, only(&book).last_ms), (5, 3000));
        book.report(3000 + HAPPENED_MS - 1, "news", &[damaged(5)]);
        assert!(only(&book).is_raised());
        book.report(3000 + HAPPENED_MS, "news", &[damaged(5)]);
        assert!(!only(&book).is_raised());
        book.report(9_000_000, "news", &[damaged(6)]);
        assert!(only(&book).is_raised() && only(&book).count == 6);
    }

    #[test]
    fn what_came_of_it_is_told_and_is_not_counted() {
        let mut book = book();
        let damaged = |text| Finding::happened(Kind::ContentDamaged, "", text, 2);
        book.report(1000, "news", &[damaged("a.bin")]);
        assert!(book.acknowledge(1500, 1));
        book.take_changes();
        book.report(2000, "news", &[damaged("a.bin; healed")]);
        let alert = only(&book);
        assert_eq!((alert.text.as_str(), alert.count, alert.last_ms), ("a.bin; healed", 2, 1000));
        assert!(alert.acknowledged_ms.is_some());
        assert_eq!(book.take_changes(), [1]);
    }

    #[test]
    fn an_acknowledged_alert_is_not_wrong_until_it_comes_back() {
        let mut book = book();
        book.report(1000, "news", &[silent("x")]);
        assert!(!book.acknowledge(2000, 99));
        assert!(book.acknowledge(2000, 1) && book.acknowledge(9000, 1));
        assert_eq!(only(&book).acknowledged_ms, Some(2000));
        book.report(3000, "news", &[silent("x, y")]);
        assert!(only(&book).is_raised() && !only(&book).is_wrong());
        book.report(4000, "news", &[]);
        book.report(5000, "news", &[silent("x")]);
        assert!(only(&book).is_wrong());
    }

    #[test]
    fn a_restart_goes_on_with_what_was_kept() {
        let mut first = book();
        first.report(1000, "news", &[silent("x"), Finding::happened(Kind::ContentDamaged, "", "a", 3)]);
        let mut second = Book::new("cache7", 1000, first.iter().cloned().collect());
        assert!(second.take_changes().is_empty());
        // The new run counts from zero, and the silence is found again.
        second.report(2000, "news", &[silent("x"), Finding::happened(Kind::ContentDamaged, "", "a", 1)]);
        let counts: Vec<_> = second.iter().map(|alert| (alert.kind, alert.count, alert.first_ms)).collect();
        assert_eq!(counts, [(Kind::ReceiverSilent, 1, 1000), (Kind::ContentDamaged, 4, 1000)]);
        second.report(2500, "news", &[]);
        assert!(!second.get(1).unwrap().is_raised(), "it was found by this run, and then not");
        second.report(3000, "films", &[silent("z")]);
        assert!(second.get(3).is_some(), "numbers go on");
    }

    #[test]
    fn what_an_earlier_run_found_is_not_over_before_this_one_looked_for_a_while() {
        let mut first = book();
        first.report(1000, "news", &[silent("x")]);
        let mut second = Book::new("cache7", 5000, first.iter().cloned().collect());
        second.report(5000 + SETTLE_MS - 1, "news", &[]);
        assert!(only(&second).is_raised());
        second.report(5000 + SETTLE_MS, "news", &[]);
        assert!(!only(&second).is_raised());
    }

    #[test]
    fn the_book_is_bounded_and_forgets_what_is_over_first() {
        let mut book = book();
        book.report(1, "films", &[silent("worth keeping")]);
        for round in 0..3_u64 {
            let many: Vec<_> = (0..600)
                .map(|i| Finding::lasting(Kind::DiskNearlyFull, format!("{round}/{i}"), "x".repeat(9000)))
                .collect();
            book.report(round + 2, "news", &many);
        }
        assert_eq!(book.iter().count(), ALERTS_MAX);
        assert!(book.iter().any(|alert| alert.channel == "films"));
        assert!(book.iter().filter(|alert| alert.is_raised()).count() == 601, "none that is raised went");
        assert!(book.iter().all(|alert| serde_json::to_vec(alert).unwrap().len() < crate::store::VALUE_LEN_MAX));
        assert!(book.take_changes().len() == 1801);
    }
}
