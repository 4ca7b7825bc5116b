//! Real processes on this machine as one cluster: they find each other, lose members and get them back, and clients
//! notice no more than they have to.

#![expect(clippy::print_stdout, reason = "how long it took is for whoever looks")]

#[path = "../common/client.rs"]
#[allow(dead_code)]
mod client;
#[allow(dead_code, reason = "tests/cluster_faults shares it")]
mod process;
mod trio;
mod wait;
#[allow(dead_code, reason = "tests/cluster_faults shares it")]
mod writers;

mod alone;
mod behind;
mod cosigned;
mod draining;
mod failover;
mod forming;
mod health;
mod leaving;
mod membership;
mod rejoining;
mod rolling;
mod rotten;
mod strangers;
mod taken_back;
mod told;
