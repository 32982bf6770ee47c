//! Every byte that crosses a wire or an API, and nothing else.
//!
//! - [`wire`]: datagrams. A parser here never panics and never allocates more than [`wire::limits`] allows,
//!   whatever it is given; what it returns is checked.
//! - [`manifest`]: a manifest to signed bytes and back.
//! - [`pull`]: requests over QUIC, and how they are answered.
//! - [`ticket`]: what operators copy.
//! - [`rpc`]: the admin interface's generated services.

#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod manifest;
pub mod pull;
pub mod rpc;
pub mod ticket;
pub mod wire;

/// Generated message types; only this crate sees them, except through [`rpc`].
mod pb {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        missing_debug_implementations,
        clippy::use_self,
        clippy::unwrap_used,
        clippy::wildcard_imports,
        reason = "generated"
    )]
    tonic::include_proto!("nackcast.v1");
}

/// Version of the datagrams and manifests that this build writes.
pub const WIRE_VERSION: u8 = 1;
