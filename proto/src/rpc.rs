//! The admin interface: generated clients, servers and messages (`proto/nackcast/v1/admin.proto`).

pub use crate::pb::{
    AcknowledgeRequest, AcknowledgeResponse, Alert, Channel, ChannelStatus, ChannelsRequest, ChannelsResponse,
    ListAlertsRequest, ListAlertsResponse, Object, ObjectsRequest, ObjectsResponse, PublishRequest, RateRequest,
    RateResponse, Receiver, ReceiversRequest, ReceiversResponse, ResendRequest, ResendResponse, ScanRequest,
    ScanResponse, ScanResult, Severity, StatusRequest, StatusResponse, SteerRequest, SteerResponse, WatchRequest,
};
pub use crate::pb::{admin_client, admin_server, alerts_client, alerts_server};

/// The compiled descriptors, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
