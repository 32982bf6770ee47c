//! Checks that need no socket.

use super::*;

#[test]
fn a_pattern_means_files_wherever_they_are() {
    let set = patterns(&["*.tmp".to_owned()]).unwrap();
    assert!(set.is_match("a.tmp") && set.is_match("deep/down/a.tmp") && !set.is_match("a.tmpl"));
}
