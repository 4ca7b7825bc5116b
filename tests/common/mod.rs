//! What the HTTP tests share: a client, the contract as checks, and two ways to start a server.

#![allow(dead_code, clippy::print_stdout, clippy::print_stderr)]

pub mod client;
pub mod contract;
pub mod fake;
pub mod node;
pub mod sse;

use std::{net::SocketAddr, time::Duration};

use client::Client;

/// How a test wants its server.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub read_timeout: Option<Duration>,
    pub max_batch_request_bytes: Option<usize>,
    pub max_connections: Option<usize>,
    pub max_requests_per_client_per_sec: Option<u32>,
    /// The real node only: `storage.segment_size`.
    pub segment_size: Option<&'static str>,
    /// The real node only: `wal.io`.
    pub wal_io: Option<&'static str>,
    /// The real node only: how much memory it may lock, in KiB.
    pub locked_kib_max: Option<u32>,
    /// The real node only: whether it takes over an embedded ledger's directory.
    pub adopt_embedded: bool,
    /// The fake only: how long a write may wait.
    pub write_timeout: Option<Duration>,
    /// The fake only: the pipeline has no room.
    pub overloaded: bool,
    /// The fake only: the node says that its disk is full.
    pub disk_full: bool,
    /// The fake only: the node says that it is not healthy.
    pub unhealthy: bool,
    /// The fake only: keys that a scan looks at before it ends its page, tombstones among them.
    pub scan_visits_max: Option<usize>,
}

/// A running server; stopped when dropped.
pub trait Server {
    fn addr(&self) -> SocketAddr;
    /// Stops it gracefully and waits; whether it ended as a clean stop does.
    fn stop(&mut self) -> bool;

    fn client(&self) -> Client {
        Client::connect(self.addr())
    }
}

/// Runs every check of the contract against servers that `$start` gives.
#[macro_export]
macro_rules! contract_tests {
    ($start:path: $($check:ident $setup:expr;)*) => {
        $(#[test]
        fn $check() {
            common::contract::$check(&mut $start(&$setup));
        })*
    };
    ($start:path) => {
        use std::time::Duration;
        use common::Setup;
        $crate::contract_tests! { $start:
            raw_keys Setup::default();
            raw_keys_are_not_normalised Setup::default();
            bad_paths_are_refused Setup::default();
            reserved_names Setup::default();
            reads_of_versions_and_parts Setup::default();
            conditions Setup::default();
            idempotency Setup::default();
            json_kv Setup::default();
            scans Setup::default();
            history_and_records Setup::default();
            batches Setup::default();
            bad_batches_store_nothing Setup::default();
            batch_codings Setup { max_batch_request_bytes: Some(1 << 20), ..Setup::default() };
            sizes_of_values Setup::default();
            large_json_answers Setup::default();
            other_names Setup::default();
            status_and_health Setup::default();
            metrics Setup::default();
            refused_requests_are_counted Setup::default();
            cluster_of_one Setup::default();
            not_built_yet Setup::default();
            watches Setup::default();
            watches_are_refused Setup::default();
            a_watch_outlives_quiet_times Setup { read_timeout: Some(Duration::from_millis(400)), ..Setup::default() };
            a_watch_ends_with_the_server Setup::default();
            a_watch_that_is_not_read_holds_up_no_stop Setup::default();
            half_closed_sockets Setup::default();
            pipelined_requests Setup::default();
            broken_bodies_store_nothing Setup::default();
            slow_clients Setup { read_timeout: Some(Duration::from_millis(400)), ..Setup::default() };
            slow_readers Setup { read_timeout: Some(Duration::from_millis(400)), ..Setup::default() };
            heads_are_bounded Setup::default();
            idle_connections Setup::default();
            too_many_connections Setup { max_connections: Some(8), ..Setup::default() };
            too_many_requests Setup { max_requests_per_client_per_sec: Some(5), ..Setup::default() };
            http2_with_prior_knowledge Setup::default();
            stops_gracefully Setup::default();
        }
    };
}
