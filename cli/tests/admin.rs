//! What an admin sees of real nodes, and tells them: every verb, alerts that outlive a restart, metrics, TLS.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "admin/stage.rs"]
mod stage;

#[path = "admin/alerts.rs"]
mod alerts;
#[path = "admin/bridge.rs"]
mod bridge;
#[path = "admin/doctor.rs"]
mod doctor;
#[path = "admin/http.rs"]
mod http;
#[path = "admin/systemd.rs"]
mod systemd;
#[path = "admin/tls.rs"]
mod tls;
#[path = "admin/verbs.rs"]
mod verbs;
