//! Oracles: what must hold at every moment of every run, whatever fails. Each has a file of its own, and knows the
//! truth from the world, not from the nodes that it watches.

pub mod alert;
pub mod bitmap;
pub mod bounds;
pub mod false_source;
pub mod installed;
pub mod last_resort;
pub mod nacks;
pub mod nonce;
pub mod passes;
pub mod pool;
pub mod promises;
pub mod pull_bounds;
pub mod rate;
pub mod side_file;
pub mod silence;
pub mod take_over;
pub mod two_active;
pub mod wakes;
pub mod window;

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
    /// No map names a repair symbol that is not there.
    pub side_file: side_file::SideFile,
    /// No object above `max_passes`.
    pub passes: passes::Passes,
    /// No nonce twice under one key.
    pub nonce: nonce::Nonce,
    /// NACKs keep to the window.
    pub nacks: nacks::Nacks,
    /// What the sender took on it sends.
    pub pool: pool::Pool,
    /// No promise is waited for beyond its time.
    pub promises: promises::Promises,
    /// NACKs at the sender fit their share.
    pub rate: rate::Rate,
    /// The NACK window is short again when NACKs are rare.
    pub window: window::Window,
    /// No deadline stays in the past.
    pub wakes: wakes::Wakes,
    /// Nobody waits for ever.
    pub silence: silence::Silence,
    /// The first failure.
    pub failure: Option<Failure>,
}

impl Oracles {
    /// The sender stood still, or is a new one: it need not keep what was said before.
    pub fn excuse_sender(&mut self) {
        self.pool.on_excuse();
        self.passes.on_excuse();
        self.window.on_excuse();
    }

    /// Takes what an oracle said; the first failure counts.
    pub fn judge(&mut self, at: Time, oracle: &'static str, verdict: Verdict) {
        if let (Err(what), None) = (verdict, &self.failure) {
            self.failure = Some(Failure { at, oracle, what });
        }
    }
}
