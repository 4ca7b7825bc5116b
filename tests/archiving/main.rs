//! The archive stage in running nodes: what is sealed comes to be in the archive, whole, in order and once, whatever
//! happens to nodes, leaders and the store; and a node does its work whatever the store does.

#[path = "../common/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../common/filling.rs"]
mod filling;
#[path = "../cluster/process.rs"]
#[allow(dead_code, reason = "tests/cluster shares it")]
mod process;
#[cfg(feature = "s3")]
#[path = "../archive_store/server.rs"]
#[allow(dead_code, reason = "tests/archive_store shares it")]
mod server;
#[path = "../common/sse.rs"]
#[allow(dead_code)]
mod sse;
#[path = "../cluster/trio.rs"]
#[allow(dead_code)]
mod trio;
#[path = "../cluster/wait.rs"]
#[allow(dead_code)]
mod wait;
#[path = "../common/way.rs"]
mod way;

mod asked;
mod bucket;
mod circle;
#[cfg(feature = "s3")]
mod cold;
mod cold_deaths;
mod cold_epochs;
mod cold_full;
mod cold_settings;
mod crash;
#[cfg(feature = "s3")]
mod deaths;
mod disks;
#[cfg(feature = "s3")]
mod drill;
mod entered;
mod forked;
mod group;
mod leaving;
mod real;
mod rot;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
mod storms;
mod tiered;
mod trouble;
