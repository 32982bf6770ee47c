//! What came out.

use std::time::Duration;

/// How it stands, once a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Virtual time.
    pub at: Duration,
    /// Symbols of content sent so far.
    pub symbols: u64,
    /// NACK datagrams that reached the sender's socket so far.
    pub nacks: u64,
    /// Of these, dropped there.
    pub dropped: u64,
    /// Receivers that hold the manifest.
    pub holding: u32,
    /// Receivers that are complete.
    pub complete: u32,
    /// What the sender takes the group to be.
    pub group_size: u32,
    /// The sender's NACK window.
    pub window: Duration,
    /// Jobs, and objects that wait.
    pub jobs: usize,
    /// Objects that wait for a job.
    pub pool: usize,
    /// Bytes that a receiver holds, mean.
    pub receiver_bytes: u64,
    /// Open blocks of a receiver, mean.
    pub open_blocks: f64,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Receivers, and those of them that completed.
    pub receivers: u32,
    /// Receivers that hold everything.
    pub complete: u32,
    /// Bytes of the objects of the table.
    pub content_bytes: u64,
    /// Their source symbols.
    pub source_symbols: u64,
    /// Blocks.
    pub blocks: u64,
    /// Symbols sent of them.
    pub symbols: u64,
    /// Of these, repair symbols.
    pub repair_symbols: u64,
    /// The least by theory.
    pub least_symbols: f64,
    /// Bytes of the manifest.
    pub manifest_bytes: u64,
    /// Symbols sent of the manifest.
    pub manifest_symbols: u64,
    /// Bytes of a symbol.
    pub symbol_size: u64,
    /// All multicast bytes with our headers, IP's and UDP's: symbols, advertisements, Digests.
    pub multicast_bytes: u64,
    /// Of these, advertisements and Digests.
    pub control_bytes: u64,
    /// NACK datagrams that reached the sender's socket, reports included.
    pub nacks: u64,
    /// Of these, reports that ask for nothing.
    pub reports: u64,
    /// Their bytes with all headers.
    pub nack_bytes: u64,
    /// Of these bytes, those of reports: in all, and once content had begun.
    pub report_bytes: u64,
    /// After the manifest was sent.
    pub report_bytes_content: u64,
    /// NACKs that found the socket full.
    pub nacks_dropped: u64,
    /// Most NACKs in one second.
    pub nacks_peak: u64,
    /// Bytes of answers, with all headers.
    pub answer_bytes: u64,
    /// Until the last receiver was complete.
    pub time: Duration,
    /// Half of the receivers were complete by then.
    pub time_median: Duration,
    /// When content began.
    pub content_began: Duration,
    /// Content's source symbols alone at this rate, with headers.
    pub ideal: Duration,
    /// Most bytes that the sender held (seen once a second).
    pub sender_bytes: u64,
    /// Most bytes that receivers held, each (seen once a second).
    pub receiver_bytes: u64,
    /// The same once content had begun.
    pub receiver_bytes_content: u64,
    /// Events that were handled.
    pub events: u64,
}

impl Outcome {
    /// Bytes of content symbols sent, over bytes of content.
    #[must_use]
    pub fn payload_ratio(&self) -> f64 {
        (self.symbols * self.symbol_size) as f64 / self.content_bytes as f64
    }

    /// The same with the manifest's symbols.
    #[must_use]
    pub fn payload_ratio_with_manifest(&self) -> f64 {
        ((self.symbols + self.manifest_symbols) * self.symbol_size) as f64 / self.content_bytes as f64
    }

    /// Symbols sent, over source symbols.
    #[must_use]
    pub fn symbol_ratio(&self) -> f64 {
        self.symbols as f64 / self.source_symbols as f64
    }

    /// The least for this, in symbols over source symbols.
    #[must_use]
    pub fn least_ratio(&self) -> f64 {
        self.least_symbols / self.source_symbols as f64
    }

    /// Everything multicast with all headers, over bytes of content.
    #[must_use]
    pub fn wire_ratio(&self) -> f64 {
        self.multicast_bytes as f64 / self.content_bytes as f64
    }

    /// NACK bytes over multicast bytes.
    #[must_use]
    pub fn nack_share(&self) -> f64 {
        self.nack_bytes as f64 / self.multicast_bytes as f64
    }

    /// NACK datagrams a second, mean.
    #[must_use]
    pub fn nacks_per_second(&self) -> f64 {
        self.nacks as f64 / self.time.as_secs_f64().max(1e-6)
    }

    /// Bytes of reports a second, mean while content is sent.
    #[must_use]
    pub fn report_bytes_per_second(&self) -> f64 {
        self.report_bytes_content as f64 / (self.time.saturating_sub(self.content_began)).as_secs_f64().max(1e-6)
    }

    /// Time over the ideal.
    #[must_use]
    pub fn time_ratio(&self) -> f64 {
        self.time.as_secs_f64() / self.ideal.as_secs_f64()
    }
}
