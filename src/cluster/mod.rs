//! What makes several nodes one cluster.
//!
//! ```text
//!  raft, forwarding, joining, catch-up                      the same, on another member
//!            │ call(peer, address, lane, request)                     ▲ handler(peer, request)
//!            ▼                                                        │
//!   ┌─ transport ─────────────┐  one TCP connection a lane   ┌─ transport ─────────────┐
//!   │ line ─► outbox ─► frames├──────────────────────────────► frames ─► answer        │
//!   │ replies, by request id  ◄──────────────────────────────┤ outbox ◄─ replies       │
//!   └─────────────────────────┘  hello, proof, go: first     └─────────────────────────┘
//! ```
//!
//! Requests and replies are opaque bytes here; what they mean is said by whoever serves a lane. Which nodes are members
//! is Raft's to know: [`transport`] asks a hook.

pub mod transport;
