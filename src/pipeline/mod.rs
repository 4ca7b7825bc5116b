//! The way in.
pub mod ingest;
