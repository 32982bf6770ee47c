//! The admin interface: generated client, server and messages (`proto/nackcast/v1/admin.proto`).

pub use crate::pb::{ChannelStatus, ScanRequest, ScanResponse, ScanResult, StatusRequest, StatusResponse};
pub use crate::pb::{admin_client, admin_server};

/// The compiled descriptors, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
