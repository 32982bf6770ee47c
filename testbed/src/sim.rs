//! Simulations of nackcast in virtual time.

pub mod scale;
