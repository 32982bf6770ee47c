//! Turns of tests: each starts several processes, which share one machine.

use std::sync::{Condvar, Mutex, PoisonError};

/// Tests that mostly wait for silence and deadlines: three at a time. It ends with the turn that it gives.
#[allow(dead_code, reason = "tests that measure, or keep the machine busy, run alone")]
pub(crate) fn with_others() -> impl Drop {
    static FREE: (Mutex<u32>, Condvar) = (Mutex::new(3), Condvar::new());
    struct Turn;
    impl Drop for Turn {
        fn drop(&mut self) {
            *FREE.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            FREE.1.notify_one();
        }
    }
    let free = FREE.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut free = FREE.1.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
    *free -= 1;
    Turn
}
