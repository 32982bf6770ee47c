//! Oracles: what must hold at every moment of every run, whatever fails. Each has a file of its own, and knows the
//! truth from the world, not from the nodes that it watches.

pub mod bitmap;
pub mod bounds;
pub mod installed;
pub mod nacks;
pub mod nonce;
pub mod passes;
pub mod silence;

use nackcast_common::clock::Time;

/// What an oracle found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: Time,
    /// Which oracle: a word that stays the same while a scenario shrinks.
    pub oracle: &'static str,
    /// What it saw.
    pub what: String,
}

/// What an oracle answers: nothing, or what it found.
pub type Verdict = Result<(), String>;

/// All oracles of a run.
#[derive(Debug)]
pub struct Oracles {
    /// No wrong byte is ever installed.
    pub installed: installed::Installed,
    /// No bitmap claims what the disk lacks.
    pub bitmap: bitmap::Bitmap,
    /// No object above `max_passes`.
    pub passes: passes::Passes,
    /// No nonce twice under one key.
    pub nonce: nonce::Nonce,
    /// NACKs keep to the window.
    pub nacks: nacks::Nacks,
    /// Nobody waits for ever.
    pub silence: silence::Silence,
    /// The first failure.
    pub failure: Option<Failure>,
}

impl Oracles {
    /// Takes what an oracle said; the first failure counts.
    pub fn judge(&mut self, at: Time, oracle: &'static str, verdict: Verdict) {
        if let (Err(what), None) = (verdict, &self.failure) {
            self.failure = Some(Failure { at, oracle, what });
        }
    }
}
