//! The scanner alone: what it publishes, and when.
