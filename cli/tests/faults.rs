//! What goes wrong, with real processes on hosts of a network of namespaces: damage, full disks, wrong tickets,
//! foreign senders, floods of garbage, no sender at all, changes while sending, and mistakes of whoever starts a node.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "faults_common/bad_input.rs"]
mod bad_input;
#[path = "faults_common/damage.rs"]
mod damage;
#[path = "faults_common/full_disk.rs"]
mod full_disk;
#[path = "faults_common/generations.rs"]
mod generations;
#[path = "faults_common/lonely.rs"]
mod lonely;
#[path = "faults_common/stage.rs"]
mod stage;
#[path = "faults_common/strangers.rs"]
mod strangers;
#[path = "faults_common/tree.rs"]
mod tree;
