//! The replicated state: what every member holds in common after applying the same log.

pub mod batch;
pub mod settings;
