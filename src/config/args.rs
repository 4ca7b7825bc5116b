//! The command line of `scribe-node`: flags as they were typed, and the layer they make.
//!
//! Values stay text here, so that a flag is read and refused by the same table as a file or a variable.

use std::path::PathBuf;

use clap::Parser;

use super::{
    kind::Raw,
    layers::{Layer, Origin},
};
use crate::error::Result;

/// The flags of `scribe-node`.
///
/// A setting comes from, in rising order: its default, the profile, the configuration file, a SCRIBE_*
/// variable, a flag.
#[derive(Clone, Debug, Default, PartialEq, Parser)]
#[command(name = "scribe-node", version, about = "A node of Scribe Ledger", long_about = None)]
pub struct NodeArgs {
    /// Configuration file, TOML; a bare name is also looked for in ., configs/ and /etc/scribe/.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Values to start from: balanced, low-latency, high-throughput or high-durability.
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,

    /// This member's id, a positive integer; node2 means 2.
    #[arg(long, alias = "id", value_name = "N", allow_negative_numbers = true)]
    pub node_id: Option<String>,

    /// Where everything the node stores is.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,

    /// Address of the HTTP server, as in 0.0.0.0:8001; IPv6 stands in brackets before a port.
    #[arg(long, value_name = "HOST:PORT")]
    pub http_addr: Option<String>,

    /// Port of the HTTP server; 0 = any free one.
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    pub http_port: Option<String>,

    /// A second port for gRPC; not built yet.
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    pub grpc_port: Option<String>,

    /// Address for node traffic; beyond loopback only with a cluster.secret.
    #[arg(long, alias = "bind-address", value_name = "HOST:PORT")]
    pub raft_addr: Option<String>,

    /// Found a ledger of its own unless a peer belongs to one; ignored once the node has state. A node without
    /// peers and discovery always does.
    #[arg(long)]
    pub bootstrap: bool,

    /// Come back, with a new --node-id, as a member that lost its data: found nothing, wait to be let in.
    #[arg(long)]
    pub rejoin: bool,

    /// Make a data directory that an embedded ledger has written this node's, for good.
    #[arg(long)]
    pub adopt_embedded: bool,

    /// Raft addresses of the other nodes; this node's own may be among them.
    #[arg(long, value_name = "HOST:PORT,…")]
    pub peers: Option<String>,

    /// off, error, warn, info, debug, trace, or directives as RUST_LOG takes them.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// text or json.
    #[arg(long, alias = "format", value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// Write every setting with its default, commented out, to a new file (- = standard output), and exit.
    #[arg(long, value_name = "FILE", group = "command")]
    pub generate_config: Option<PathBuf>,

    /// Check the configuration and exit.
    #[arg(long, group = "command")]
    pub validate_config: bool,

    /// Print where configuration files are looked for and exit.
    #[arg(long, group = "command")]
    pub list_config_paths: bool,

    /// Print the settings in force, and where each came from, and exit.
    #[arg(long, group = "command")]
    pub print_config: bool,
}

impl NodeArgs {
    /// The settings among the flags.
    ///
    /// # Errors
    /// `InvalidConfig`: a value is not accepted, or two flags set one key.
    pub fn layer(&self) -> Result<Layer> {
        let switch = |on: bool| on.then(|| "true".to_owned());
        let (bootstrap, rejoin) = (switch(self.bootstrap), switch(self.rejoin));
        let adopt_embedded = switch(self.adopt_embedded);
        let flags = [
            ("--profile", "profile", &self.profile),
            ("--node-id", "node.id", &self.node_id),
            ("--bootstrap", "node.bootstrap", &bootstrap),
            ("--rejoin", "node.rejoin", &rejoin),
            ("--adopt-embedded", "node.adopt_embedded", &adopt_embedded),
            ("--data-dir", "node.data_dir", &self.data_dir),
            ("--http-addr", "network.listen_addr", &self.http_addr),
            ("--http-port", "network.client_port", &self.http_port),
            ("--grpc-port", "network.grpc_port", &self.grpc_port),
            ("--raft-addr", "network.raft_listen_addr", &self.raft_addr),
            ("--peers", "cluster.peers", &self.peers),
            ("--log-level", "logging.level", &self.log_level),
            ("--log-format", "logging.format", &self.log_format),
        ];
        let mut layer = Layer::default();
        for (flag, key, value) in flags {
            if let Some(value) = value {
                layer.add(key, &Raw::Untyped(value.clone()), Origin::Flag(flag))?;
            }
        }
        Ok(layer)
    }
}
