//! Checks that need no socket.

use super::*;

#[test]
fn the_rate_is_shared_equally() {
    assert_eq!(share(RateLimit::Fixed(BitRate(900)), 3), RateLimit::Fixed(BitRate(300)));
    assert_eq!(share(RateLimit::Max, 3), RateLimit::Max);
}

#[test]
fn a_pattern_means_files_wherever_they_are() {
    let set = patterns(&["*.tmp".to_owned()]).unwrap();
    assert!(set.is_match("a.tmp") && set.is_match("deep/down/a.tmp") && !set.is_match("a.tmpl"));
}
