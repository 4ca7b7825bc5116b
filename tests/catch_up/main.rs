//! A member that is so far behind that the leader no longer has the log for it: it gets sealed segments and starts
//! again behind them. Three real nodes, simulated disks and cables; power cuts, failing disks, leaders that are cut
//! off and bytes that are spoiled on the way, all while segments are fetched.
//!
//! `SIM_SEED=… cargo test --test catch_up` plays one seed of the group's accidents again.

mod fetching;
mod from_archive;
mod group;
mod members;
mod real;
mod repairing;
#[path = "../common/sim_member.rs"]
mod sim_member;
