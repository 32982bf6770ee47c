//! Unicast pull: the messages of ALPN `nackcast/1` over QUIC (`docs/src/protocol.md`, Unicast pull).
//!
//! | module | what |
//! |---|---|
//! | [`hello`] | who is at the other end: proofs that are worth something on one connection only |
//! | [`request`] | what is asked for, and the answers |
//! | [`service`] | a server's side: requests to answers, over whatever holds the blocks |
//!
//! A message is one frame of a stream; framing, and the bounds of a connection, are
//! [`nackcast_common::net::quic`]'s. Parsers take anything and give checked values or an error.

pub mod hello;
pub mod request;
pub mod service;

pub use hello::{HelloError, Member, Peer};
pub use request::{Block, Offer, ProbeReply, Request};
pub use service::{Service, Shelf};

/// Longest hello.
pub const HELLO_LEN_MAX: usize = 512;
/// Longest request.
pub const REQUEST_LEN_MAX: usize = 512;
/// Most blocks that one request may name.
pub const BLOCKS_MAX: u32 = 1024;
/// What a reply takes beside its payload, at most.
pub const REPLY_OVERHEAD: usize = 128;
