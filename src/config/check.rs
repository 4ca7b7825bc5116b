//! What values have to be to one another.
//!
//! Each key's own bounds are in the table; these rules need two keys, so they are judged when all
//! layers are merged, and name both.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
};

use super::{
    FREE_BYTES_BESIDE_LOG,
    layers::{Origin, Settings, invalid},
    schema::find,
    value::{format_size, is_loopback, parse_host},
};
use crate::error::Result;

/// Checks the merged settings.
///
/// # Errors
/// `InvalidConfig` for the first rule that does not hold.
pub fn check(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    let consensus = &config.consensus;
    if consensus.heartbeat_interval_ms.saturating_mul(3) > consensus.election_timeout_ms {
        return Err(invalid(format!(
            "{} does not fit {}: accepted is at most a third of it, {}, so that a lost heartbeat is no election",
            said(settings, "consensus.heartbeat_interval_ms"),
            said(settings, "consensus.election_timeout_ms"),
            consensus.election_timeout_ms / 3,
        )));
    }
    if config.limits.max_batch_request_bytes > config.pipeline.ingest_bytes_max {
        return Err(invalid(format!(
            "{} does not fit {}: accepted is at most that, {}, since a larger request could never be admitted",
            said(settings, "limits.max_batch_request_bytes"),
            said(settings, "pipeline.ingest_bytes_max"),
            format_size(config.pipeline.ingest_bytes_max as u64),
        )));
    }
    check_free_space(settings)?;
    check_archive(settings)?;
    check_trust(settings)?;
    check_reach(settings)?;
    check_founding(settings)
}

/// Whether an archive would be mixed up with a node's own files.
fn is_among_own_files(archive_dir: &Path, data_dir: &Path) -> bool {
    match resolved(archive_dir).strip_prefix(resolved(data_dir)) {
        Ok(within) => !within.starts_with("archive"),
        Err(_) => false,
    }
}

/// A path without links in the part of it that is there.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let there = path.ancestors().find_map(|there| Some((there.canonicalize().ok()?, there)));
    match there.map(|(real, there)| (real, path.strip_prefix(there))) {
        // Joined to nothing, a path would end with a slash.
        Some((real, Ok(rest))) if rest.as_os_str().is_empty() => real,
        Some((real, Ok(rest))) => real.join(rest),
        _ => path,
    }
}

/// A restart must find room on a disk that is full to clients.
fn check_free_space(settings: &Settings) -> Result<()> {
    let wal = &settings.config.wal;
    let free_bytes_min = wal.free_bytes_to_start();
    if wal.disk_free_bytes_min == 0 || wal.disk_free_bytes_min >= free_bytes_min {
        return Ok(());
    }
    Err(invalid(format!(
        "{} does not fit {}: accepted is at least {}, a file of the log and {} beside it, so that what was admitted \
         before, votes and a restart find room on a disk that is full to clients; or 0, to write until nothing is left",
        said(settings, "wal.disk_free_bytes_min"),
        said(settings, "wal.file_bytes"),
        format_size(free_bytes_min),
        format_size(FREE_BYTES_BESIDE_LOG),
    )))
}

/// What the archive needs to be found.
fn check_archive(settings: &Settings) -> Result<()> {
    let storage = &settings.config.storage;
    let s3 = &storage.s3;
    let refuse = |name: &str, why: &str| Err(invalid(format!("{} {why}", said(settings, name))));
    if storage.tiering.local_bytes_max > 0 && !storage.tiering.enable_auto_archival {
        return refuse(
            "storage.tiering.local_bytes_max",
            "needs storage.tiering.enable_auto_archival = true: files leave for an archive; accepted without it is 0. \
             What has left before is read all the same",
        );
    }
    for name in ["node.data_dir", "storage.archive_dir"] {
        let path =
            if name == "node.data_dir" { &settings.config.node.data_dir } else { &storage.archive_dir };
        if path.to_string_lossy().contains("://") {
            return refuse(
                name,
                "is no directory of this machine: accepted is a path; a bucket is named by storage.s3.bucket",
            );
        }
    }
    if is_among_own_files(&storage.archive_dir, &settings.config.node.data_dir) {
        return refuse(
            "storage.archive_dir",
            "is where the node keeps its own files: accepted within node.data_dir is archive, and any other directory",
        );
    }
    if s3.access_key_id.is_empty() != s3.secret_access_key.is_empty() {
        return refuse(
            "storage.s3.access_key_id",
            "and storage.s3.secret_access_key go together: accepted is to set both, or neither and have the \
             environment name a key",
        );
    }
    if s3.bucket.is_empty() {
        return match s3.endpoint.is_empty() {
            true => Ok(()),
            false => refuse("storage.s3.endpoint", "needs a bucket: set storage.s3.bucket too"),
        };
    }
    if !cfg!(feature = "s3") {
        return refuse("storage.s3.bucket", "needs a scribe-node that was built with the feature s3");
    }
    if !storage.archive_dir.as_os_str().is_empty() {
        return refuse(
            "storage.archive_dir",
            "does not fit storage.s3.bucket: an archive is in a directory or in a bucket; accepted is one of the two",
        );
    }
    if s3.bucket.contains('/') {
        return refuse("storage.s3.bucket", "is no bucket's name: accepted is one without slashes");
    }
    if s3.region.is_empty() {
        return refuse("storage.s3.region", "names none: a store without regions takes \"us-east-1\"");
    }
    let host = ["http://", "https://"].iter().find_map(|scheme| s3.endpoint.strip_prefix(scheme));
    if !s3.endpoint.is_empty() && host.is_none_or(str::is_empty) {
        return refuse(
            "storage.s3.endpoint",
            "is no URL: accepted is one such as \"https://s3.example.com\"",
        );
    }
    if !s3.prefix.is_empty() && s3.prefix.split('/').any(str::is_empty) {
        return refuse(
            "storage.s3.prefix",
            "has a slash at an end or two in a row: accepted is one such as \"ledgers/orders\"",
        );
    }
    Ok(())
}

/// Whoever reaches the port of a node without a secret is believed, so nobody else may reach it.
fn check_trust(settings: &Settings) -> Result<()> {
    let (network, cluster) = (&settings.config.network, &settings.config.cluster);
    if !cluster.secret.is_empty() {
        return Ok(());
    }
    let one = std::slice::from_ref::<String>;
    for (name, addresses) in [
        ("network.raft_listen_addr", one(&network.raft_listen_addr)),
        ("network.advertise_raft_addr", one(&network.advertise_raft_addr)),
        ("cluster.peers", &cluster.peers),
        ("cluster.discovery.addresses", &cluster.discovery.addresses),
    ] {
        for address in addresses {
            if parse_host(address).is_some_and(|(host, _)| !is_loopback(&host)) {
                return Err(invalid(format!(
                    "{} reaches beyond this machine, and there is no secret that keeps strangers out: set \
                     cluster.secret (SCRIBE_CLUSTER_SECRET) to one text on all nodes; without it accepted is a \
                     loopback address such as 127.0.0.1",
                    said(settings, name)
                )));
            }
        }
    }
    Ok(())
}

/// What others are told has to be something they can call.
fn check_reach(settings: &Settings) -> Result<()> {
    let (network, cluster) = (&settings.config.network, &settings.config.cluster);
    let listens_everywhere =
        network.raft_listen_addr.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
    if cluster.finds_others() && listens_everywhere && network.advertise_raft_addr.is_empty() {
        return Err(invalid(format!(
            "{} is no address that another node can call: set network.advertise_raft_addr to one that reaches this \
             node, or accepted is the address of one interface",
            said(settings, "network.raft_listen_addr")
        )));
    }
    let is_ipv6 =
        |address: &String| parse_host(address).is_some_and(|(host, _)| host.parse::<Ipv6Addr>().is_ok());
    if cluster.discovery.addresses.iter().any(is_ipv6) {
        return Err(invalid(format!(
            "{} has an IPv6 address, and announcements go by IPv4: list the node in cluster.peers; accepted are IPv4 \
             addresses and names",
            said(settings, "cluster.discovery.addresses")
        )));
    }
    Ok(())
}

/// Who founds a cluster, and who must not.
fn check_founding(settings: &Settings) -> Result<()> {
    let (node, cluster) = (&settings.config.node, &settings.config.cluster);
    if cluster.bootstrap_expect > 1 && !cluster.finds_others() && !node.bootstrap {
        return Err(invalid(format!(
            "{} needs others to be found: list them in cluster.peers, or set cluster.discovery.enabled; without them \
             accepted is 1",
            said(settings, "cluster.bootstrap_expect")
        )));
    }
    if !node.rejoin {
        return Ok(());
    }
    if node.bootstrap {
        return Err(invalid(format!(
            "{} does not fit {}: a member that comes back founds nothing; accepted is one of the two",
            said(settings, "node.rejoin"),
            said(settings, "node.bootstrap"),
        )));
    }
    // The id in an older layer is the one that the lost data had.
    let (rejoin, id) = (settings.origin("node.rejoin"), settings.origin("node.id"));
    if rank(id) < rank(rejoin) {
        return Err(invalid(format!(
            "{} does not fit {}: a member that lost its data comes back under an id that no member ever had; accepted \
             is a new node.id beside node.rejoin, as in --rejoin --node-id N",
            said(settings, "node.rejoin"),
            said(settings, "node.id"),
        )));
    }
    Ok(())
}

/// Layers in the order in which they lie over one another.
const fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::Profile(_) => 1,
        Origin::File { .. } => 2,
        Origin::Environment(_) => 3,
        Origin::Flag(_) => 4,
    }
}

/// A key with its value and where that came from.
fn said(settings: &Settings, name: &str) -> String {
    let value = find(name).map(|(key, _)| key.kind.write(&key.value_in(&settings.config)));
    format!("{name} = {} ({})", value.unwrap_or_default(), settings.origin(name))
}
