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
//!
//!  leader                                    member that is behind
//!  segments ◄── list from n ──────────────── catch_up ◄─ raft: "its log begins behind mine"
//!      └─────── numbers, sizes, digests ───► fetch    one segment after the other:
//!  segments ◄── part of n ────────────────── fetch    parts, PARTS_AT_ONCE under way ─► segment-n.seg.part
//!      └─────── bytes ─────────────────────► fetch    ─► synced, verified, chained to the one before
//!               the archive, where that has it ─► fetch    the same, and the leader sends nothing
//!                                            switch   marker ─► segment-n.seg ─► the node starts again behind it
//!
//!  any other member                          member whose file of a segment is damaged
//!  segments ◄── list from n, parts of n ──── elsewhere ◄─ repair ◄─ a read, or a stage
//!      └─────── digest, bytes ─────────────► segment-n.seg.part ─► verified ─► segment-n.seg
//!               the archive, where nobody has it          reinstate ◄─ a start that cannot open it
//!
//!  every other member                        member that has signed a checkpoint
//!  sign ◄────── size, root ───────────────── cosign ◄─ prove
//!      └─────── signature line ────────────► one more line under the same text
//! ```
//!
//! Requests and replies are opaque bytes to [`transport`]; what they mean is said by whoever serves a lane. Which
//! nodes are members is Raft's to know: [`transport`] asks a hook. The starting and stopping of anything is the
//! node's, which does what [`form::decide`] says.

pub mod admin;
pub mod announcement;
pub mod attest;
pub mod catch_up;
pub mod control;
pub mod cosign;
pub mod discovery;
pub mod elsewhere;
pub mod enrol;
pub mod fetch;
pub mod form;
pub mod from_archive;
pub mod level;
pub mod message;
pub mod reinstate;
pub mod repair;
pub mod segments;
pub mod sign;
pub mod switch;
pub mod transport;
pub mod vitals;
