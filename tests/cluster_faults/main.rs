//! Real processes on this machine as one cluster, in trouble: cables that lose everything, processes that stand still
//! or are killed, a disk that is full. Whatever was answered stays, and nothing that is not so is answered.
//!
//! ```text
//!  node 1 ─► cable to 2 ─► node 2        each member is known to the others by its cable's address, so that
//!    ▲                       │           what they say can be lost, each direction on its own
//!    └──────── cable to 1 ◄──┘
//! ```
//!
//! How long it took to go on is printed: what is asserted is that it does.

#![expect(clippy::print_stdout, reason = "how long it took is for whoever looks")]
// Each test program uses other parts of what they share.
#![allow(dead_code)]

#[path = "../common/client.rs"]
mod client;
#[path = "../common/filling.rs"]
mod filling;
#[path = "../sim_cluster/history.rs"]
mod history;
#[path = "../cluster/process.rs"]
mod process;
#[path = "../cluster/trio.rs"]
mod trio;
#[path = "../cluster/wait.rs"]
mod wait;
#[path = "../cluster/writers.rs"]
mod writers;

mod cables;
mod clients;
mod full_disk;
mod kills;
mod partitions;
mod pauses;
