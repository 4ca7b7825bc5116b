//! The verifier as a stranger uses it: on directories that the real writer made, whole, damaged and mixed up;
//! and on servers that are honest or lie.

mod built;
mod directory;
mod fake_log;
mod reindex;
mod server;
