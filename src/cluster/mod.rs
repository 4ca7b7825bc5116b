//! How nodes find each other and become a cluster.
//!
//! ```text
//!  announcements by UDP ─► discovery ─┐
//!                                     ├─► reports ─► form ─► go on, found, join, wait or refuse
//!  listed peers, asked by the node  ──┘
//! ```
//!
//! It does not own what a member is (that is Raft's), nor the starting and stopping of anything: the node does
//! what [`form::decide`] says.

pub mod announcement;
pub mod discovery;
pub mod form;
