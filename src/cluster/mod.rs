//! What makes several nodes one cluster: how they find each other, who founds it and who joins, and how members talk.
//!
//! ```text
//!  announcements by UDP ─► discovery ─┐
//!                                     ├─► reports ─► form ─► go on, found, join, wait or refuse
//!  listed peers, asked by the node  ──┘
//!
//!  raft, forwarding, joining, catch-up                      the same, on another member
//!            │ call(peer, address, lane, request)                     ▲ handler(peer, request)
//!            ▼                                                        │
//!   ┌─ transport ─────────────┐  one TCP connection a lane   ┌─ transport ─────────────┐
//!   │ line ─► outbox ─► frames├──────────────────────────────► frames ─► answer        │
//!   │ replies, by request id  ◄──────────────────────────────┤ outbox ◄─ replies       │
//!   └─────────────────────────┘  hello, proof, go: first     └─────────────────────────┘
//! ```
//!
//! Requests and replies are opaque bytes to [`transport`]; what they mean is said by whoever serves a lane. Which
//! nodes are members is Raft's to know: [`transport`] asks a hook. The starting and stopping of anything is the
//! node's, which does what [`form::decide`] says.

pub mod announcement;
pub mod discovery;
pub mod form;
pub mod transport;
