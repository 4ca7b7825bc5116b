//! Configuration from the outside: layers, names, refusals, and files that are written and read back.

use std::{fs, path::Path, time::Duration};

use clap::Parser;
use proptest::prelude::*;
use scribe_ledger::{
    config::{
        Config, LogFormat, NodeArgs, Settings, WalIo,
        file::bytes_layer,
        kind::{Kind, Value},
        layers::Origin,
        profile, render, run_config_command,
        schema::{Held, KEYS, Key, Today, environment_name},
    },
    error::Code,
};

/// A command line, an environment and perhaps a file, as one start of the node has them.
#[derive(Default)]
struct Start {
    args: Vec<String>,
    environment: Vec<(String, String)>,
    file: Option<tempfile::NamedTempFile>,
}

impl Start {
    fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| arg.to_string()));
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn file(mut self, text: impl AsRef<[u8]>) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        self.args.extend(["--config".into(), file.path().to_str().unwrap().into()]);
        self.file = Some(file);
        self
    }

    fn load(&self) -> Result<Settings, String> {
        let args = NodeArgs::try_parse_from(["scribe-node".into()].iter().chain(&self.args))
            .map_err(|error| error.to_string())?;
        Settings::load(&args, self.environment.iter().cloned()).map_err(|error| {
            assert_eq!(error.code(), Code::InvalidConfig);
            assert!(!error.message().contains('\n'), "one line: {error}");
            error.message().to_owned()
        })
    }

    fn config(&self) -> Config {
        self.load().unwrap().config
    }

    /// Asserts that the start is refused with a message that says all of this.
    fn refused(&self, says: &[&str]) {
        let message = self.load().expect_err("this has to be refused");
        for part in says {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
}

fn start() -> Start {
    Start::default()
}

/// A value other than the default, as a variable and as TOML, for every key that holds one.
fn other_value(key: &Key) -> (String, String) {
    let plain = |text: &str| (text.to_owned(), text.to_owned());
    let quoted = |text: &str| (text.to_owned(), format!("\"{text}\""));
    match (key.name, key.kind) {
        ("profile", _) => quoted("low-latency"),
        // Within what the rules between keys allow.
        ("consensus.heartbeat_interval_ms", _) => plain("150"),
        ("consensus.election_timeout_ms", _) => plain("1500"),
        ("limits.max_batch_request_bytes", _) => quoted("3MiB"),
        ("pipeline.ingest_bytes_max", _) => quoted("192MiB"),
        ("wal.disk_free_bytes_min", _) => quoted("192MiB"),
        (_, Kind::Int { max, .. }) => plain(&max.to_string()),
        (_, Kind::Size { .. }) => quoted("3MiB"),
        (_, Kind::Duration { .. }) => quoted("70ms"),
        (_, Kind::OneOf { names, .. }) => quoted(names[names.len() - 1]),
        (_, Kind::NodeId) => quoted("node7"),
        (_, Kind::Path) => quoted("/var/lib/scribe"),
        (_, Kind::Bind { .. }) => quoted("::1"),
        (_, Kind::Address) => quoted("[::1]:80"),
        (_, Kind::LogFilter) => quoted("info,scribe_ledger=debug"),
        (_, Kind::Bool) => plain(match key.value_in(&Config::default()) {
            Value::Bool(true) => "false",
            _ => "true",
        }),
        ("storage.s3.endpoint", _) => quoted("https://s3.example.com"),
        (_, Kind::Text) => quoted("something"),
        (_, Kind::Addresses) => {
            ("127.0.0.1:1,localhost:2".into(), "[\"127.0.0.1:1\", \"localhost:2\"]".into())
        }
    }
}

/// A start with what the rules between keys want beside another value of this one.
fn start_beside(key: &Key) -> Start {
    match key.name {
        "cluster.bootstrap_expect" => start().env("SCRIBE_CLUSTER_PEERS", "127.0.0.1:9001"),
        "storage.s3.endpoint" => start().env("SCRIBE_STORAGE_S3_BUCKET", "ledger"),
        "storage.s3.access_key_id" => start().env("SCRIBE_STORAGE_S3_SECRET_ACCESS_KEY", "secret"),
        "storage.s3.secret_access_key" => start().env("SCRIBE_STORAGE_S3_ACCESS_KEY_ID", "id"),
        "node.rejoin" => start().args(&["--node-id", "7"]),
        _ => start(),
    }
}

fn toml_line(key: &Key, value: &str) -> String {
    if key.section().is_empty() {
        format!("{} = {value}\n", key.leaf())
    } else {
        format!("[{}]\n{} = {value}\n", key.section(), key.leaf())
    }
}

#[test]
fn nothing_said_is_the_defaults() {
    let settings = start().load().unwrap();
    assert_eq!(settings.config, Config::default());
    assert_eq!(settings.config.profile, "balanced");
    assert_eq!(settings.origin("node.id"), &Origin::Default);
}

#[test]
fn each_layer_lies_over_the_one_before() {
    let ops = |start: &Start| start.config().pipeline.batch_ops_max;
    assert_eq!(ops(&start()), 16_384);
    let start = start().args(&["--profile", "low-latency"]);
    assert_eq!(ops(&start), 2_048, "profile over default");
    let start = start.file("[pipeline]\nbatch_ops_max = 5\n[network]\nclient_port = 5");
    assert_eq!(ops(&start), 5, "file over profile");
    let start = start.env("SCRIBE_PIPELINE_BATCH_OPS_MAX", "6").env("SCRIBE_NETWORK_CLIENT_PORT", "6");
    assert_eq!(ops(&start), 6, "environment over file");
    assert_eq!(start.config().network.client_port, 6);
    let start = start.args(&["--http-port", "7"]);
    let settings = start.load().unwrap();
    assert_eq!(settings.config.network.client_port, 7, "flag over environment");
    assert_eq!(settings.origin("network.client_port").to_string(), "flag --http-port");
    assert_eq!(
        settings.origin("pipeline.batch_ops_max").to_string(),
        "environment SCRIBE_PIPELINE_BATCH_OPS_MAX"
    );
    assert_eq!(settings.origin("wal.group_bytes_max").to_string(), "profile low-latency");
}

#[test]
fn a_profile_is_chosen_by_flag_over_environment_over_file() {
    let start = start().file("profile = \"low-latency\"");
    assert_eq!(start.config().profile, "low-latency");
    assert_eq!(start.config().pipeline.inflight_entries_max, 16);
    let start = start.env("SCRIBE_PROFILE", "high-throughput");
    assert_eq!(start.config().profile, "high-throughput");
    assert_eq!(start.config().pipeline.inflight_entries_max, 8);
    let start = start.args(&["--profile", "high-durability"]);
    assert_eq!(start.config().profile, "high-durability");
    assert_eq!(start.config().wal.io, WalIo::Direct);
    assert_eq!(start.config().pipeline.inflight_entries_max, 4, "nothing is left of the other profiles");
}

#[test]
fn profiles_say_when_to_use_them_and_only_what_differs() {
    for name in profile::NAMES {
        let text = profile::text(name).unwrap();
        assert!(text.starts_with(&format!("# {name}: ")), "{name}");
        let config = start().args(&["--profile", name]).config();
        assert_eq!(config.profile, name);
        let table: toml::Table = toml::from_str(text).unwrap();
        assert_eq!(table.is_empty(), name == profile::BALANCED);
        for (section, keys) in &table {
            for leaf in keys.as_table().unwrap().keys() {
                let key = KEYS.iter().find(|key| key.name == format!("{section}.{leaf}")).unwrap();
                assert_ne!(
                    key.value_in(&config),
                    key.value_in(&Config::default()),
                    "{name} repeats the default of {}",
                    key.name
                );
            }
        }
    }
}

#[test]
fn every_key_is_read_from_its_variable_and_from_a_file_alike() {
    for key in KEYS {
        let (variable, value) = other_value(key);
        let start = || start_beside(key);
        let by_environment = start().env(&environment_name(key.name), &variable);
        let by_file = start().file(toml_line(key, &value));
        if matches!(key.held, Held::NotBuilt { .. }) {
            continue;
        }
        let (environment, file) = (by_environment.config(), by_file.config());
        assert_eq!(environment, file, "{}", key.name);
        assert_ne!(key.value_in(&file), key.value_in(&Config::default()), "{}", key.name);
        // The value as it is written goes back in through the environment too.
        let again = match key.value_in(&file) {
            Value::Text(text) => text,
            Value::List(items) => items.join(","),
            value => key.kind.write(&value).trim_matches('"').to_owned(),
        };
        assert_eq!(start().env(&environment_name(key.name), &again).config(), file, "{}", key.name);
    }
}

#[test]
fn what_is_not_built_is_accepted_as_it_is_today_and_refused_otherwise() {
    let mut seen = 0;
    for key in KEYS {
        let Held::NotBuilt { today } = key.held else { continue };
        seen += 1;
        let written = key.kind.write(&key.value_in(&Config::default()));
        assert_eq!(start().file(toml_line(key, &written)).config(), Config::default(), "{}", key.name);
        let variable = match today {
            Today::Int(number) => number.to_string(),
            Today::Bool(value) => value.to_string(),
            Today::Text(text) => text.to_owned(),
        };
        assert_eq!(start().env(&environment_name(key.name), &variable).config(), Config::default());
        let (variable, value) = other_value(key);
        let not_built = ["not built yet: accepted value is ", &written, key.name];
        start().env(&environment_name(key.name), &variable).refused(&not_built);
        start().file(toml_line(key, &value)).refused(&not_built);
    }
    assert!(seen >= 8, "{seen}");
    assert_eq!(start().env("SCRIBE_WAL_IO", "uring").config().wal.io, WalIo::Uring);
    start().args(&["--grpc-port", "9000"]).refused(&["network.grpc_port", "not built yet", "--grpc-port"]);
    start().args(&["--peers", "", "--grpc-port", "0", "--bootstrap"]).config();
}

#[test]
fn secrets_are_in_no_message() {
    for text in [
        "[cluster]\nsecret = \"hunter2\"",
        "[storage.s3]\nsecret_access_key = \"hunter2\"",
        "[storage.s3]\nendpoint = \"x\"\nsecret_access_key = \"hunter2\"\naccess_key_id = \"id\"",
        "[cluster]\nsecret = \"hunter2\"\npeers = [\"a\"]",
        "[cluster]\nsecret = [\"hunter2\"]",
        "[cluster]\nsecrt = \"hunter2\"",
        "[cluster]\nsecret = \"hunter2",
        "[cluster]\nsecret = hunter2",
    ] {
        let message = match start().file(text).load() {
            Ok(settings) => {
                assert_eq!(settings.config.cluster.secret.expose(), "hunter2");
                format!("{settings:?} {}", render::in_force(&settings))
            }
            Err(message) => message,
        };
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn every_published_name_is_known_in_a_file() {
    let config = start()
        .file(
            r#"
            profile = "balanced"
            [node]
            id = "node3"
            data_dir = "/tmp/scribe"
            address = "scribe.example.org:8001"
            [network]
            listen_addr = "0.0.0.0"
            client_port = 8011
            raft_tcp_port = 9011
            [storage]
            segment_size = "32MiB"
            max_cache_size = 0
            s3_bucket = ""
            s3_region = "us-east-1"
            s3_endpoint = ""
            [storage.s3]
            access_key_id = ""
            secret_access_key = ""
            path_style = false
            [storage.tiering]
            age_threshold_secs = 3600
            enable_compression = false
            compression_level = 0
            enable_auto_archival = false
            archival_check_interval_secs = 300
            cache_disk_size = 0
            [consensus]
            election_timeout = 12
            heartbeat_timeout = 2
            max_log_entries = 200
            snapshot_logs_since_last = 0
            max_in_snapshot_log_to_keep = 0
            [cluster]
            secret = ""
            peers = []
            bootstrap_expect = 1
            [cluster.discovery]
            enabled = false
            port = 9100
            addresses = []
            interval = "1s"
            [security.tls]
            enabled = false
            cert_path = ""
            key_path = ""
            ca_cert_path = ""
            require_client_cert = false
            [limits]
            max_batch_request_bytes = 1048576
            idempotency_window_secs = 60
            [logging]
            level = "debug"
            format = "json"
            "#,
        )
        .config();
    assert_eq!(config.node.id, 3);
    assert_eq!(config.node.data_dir, Path::new("/tmp/scribe"));
    assert_eq!(config.network.advertise_http_addr, "scribe.example.org:8001");
    assert_eq!(config.network.http_bind(), "0.0.0.0:8011");
    assert_eq!(config.network.raft_tcp_port, 9011);
    assert_eq!(config.storage.segment_size, 32 << 20);
    assert_eq!(config.consensus.election_timeout_ms, 1_200);
    assert_eq!(config.consensus.heartbeat_interval_ms, 200);
    assert_eq!(config.consensus.max_payload_entries, 200);
    assert_eq!(config.limits.max_batch_request_bytes, 1 << 20);
    assert_eq!(config.logging.format, LogFormat::Json);
    // The same keys by their present names.
    let config = start()
        .file(
            "[network]\nadvertise_http_addr = \"a\"\n[storage.s3]\nbucket = \"\"\nregion = \"us-east-1\"\n\
             endpoint = \"\"\n[consensus]\nelection_timeout_ms = 900\nheartbeat_interval_ms = 90\n\
             max_payload_entries = 9",
        )
        .config();
    assert_eq!(config.consensus.election_timeout_ms, 900);
    assert_eq!(config.network.http_advertised("0.0.0.0:7".parse().unwrap()), "a:7");
}

#[test]
fn both_spellings_in_one_layer_are_refused_and_in_two_layers_are_not() {
    let start_with = start().file("[consensus]\nelection_timeout = 10\nelection_timeout_ms = 1000");
    start_with.refused(&["consensus.election_timeout ", "consensus.election_timeout_ms", "line 2", "line 3"]);
    start().env("SCRIBE_NODE_ADDRESS", "a").env("SCRIBE_NETWORK_ADVERTISE_HTTP_ADDR", "a").refused(&[
        "SCRIBE_NODE_ADDRESS",
        "SCRIBE_NETWORK_ADVERTISE_HTTP_ADDR",
        "set twice",
    ]);
    start().args(&["--http-addr", "127.0.0.1:1", "--http-port", "2"]).refused(&[
        "--http-addr",
        "--http-port",
        "network.client_port",
    ]);
    let config = start()
        .file("[consensus]\nelection_timeout = 10")
        .env("SCRIBE_CONSENSUS_ELECTION_TIMEOUT_MS", "2000")
        .config();
    assert_eq!(config.consensus.election_timeout_ms, 2_000);
}

#[test]
fn an_archive_that_cannot_be_found_is_refused_by_its_keys() {
    for (text, says) in [
        (
            "[storage.tiering]\nenable_auto_archival = false\nlocal_bytes_max = 1",
            ["storage.tiering.local_bytes_max", "enable_auto_archival = true", "line 3"],
        ),
        (
            "[storage]\narchive_dir = \"s3://a/b\"",
            ["storage.archive_dir", "a bucket is named by storage.s3.bucket", "line 2"],
        ),
        (
            "[storage]\narchive_dir = \"data/segments\"",
            ["storage.archive_dir", "where the node keeps its own files", "line 2"],
        ),
        ("[storage]\narchive_dir = \"./data\"", ["storage.archive_dir", "its own files", "line 2"]),
        ("[node]\ndata_dir = \"s3://a/b\"", ["node.data_dir", "no directory of this machine", "line 2"]),
        ("[storage.s3]\naccess_key_id = \"id\"", ["storage.s3.access_key_id", "secret_access_key", "line 2"]),
        ("[storage.s3]\nendpoint = \"http://h\"", ["storage.s3.endpoint", "bucket", "line 2"]),
        ("[storage.s3]\nbucket = \"a/b\"", ["storage.s3.bucket", "slashes", "line 2"]),
        ("[storage.s3]\nbucket = \"b\"\nregion = \"\"", ["storage.s3.region", "us-east-1", "line 3"]),
        (
            "[storage.s3]\nbucket = \"b\"\nendpoint = \"host:9000\"",
            ["storage.s3.endpoint", "https://", "line 3"],
        ),
        ("[storage.s3]\nbucket = \"b\"\nprefix = \"a/\"", ["storage.s3.prefix", "slash", "line 3"]),
        (
            "[storage]\narchive_dir = \"/a\"\n[storage.s3]\nbucket = \"b\"",
            ["archive_dir", "bucket", "line 2"],
        ),
    ] {
        start().file(text).refused(&says);
    }
    let config = start().file("[storage.s3]\nbucket = \"b\"\nprefix = \"a/c\"").config();
    assert_eq!((&config.storage.s3.bucket[..], &config.storage.s3.prefix[..]), ("b", "a/c"));
}

#[cfg(unix)]
#[test]
fn a_link_into_the_nodes_own_files_is_seen_through() {
    let home = tempfile::tempdir().unwrap();
    let (data, link) = (home.path().join("data"), home.path().join("link"));
    std::fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink(&data, &link).unwrap();
    let refused = |dir: &str| {
        let text = format!("[node]\ndata_dir = {data:?}\n[storage]\narchive_dir = {:?}", link.join(dir));
        start().file(&text).load().is_err()
    };
    assert!(refused("segments") && refused("new/one"));
    assert!(!refused("archive") && !refused("archive/ours"));
}

#[test]
fn a_segment_ends_with_the_shorter_of_its_two_ages() {
    let age = |text: &str| start().file(text).config().storage.segment_age().as_secs();
    let both = "[storage]\nsegment_age_max = \"90s\"\n[storage.tiering]\nmax_lag_secs = ";
    assert_eq!(age(&format!("{both}30")), 30);
    assert_eq!(age(&format!("{both}300")), 90);
    assert_eq!(age(&format!("{both}30\nenable_auto_archival = false")), 90, "nothing lags");
}

#[test]
fn unknown_names_are_answered_with_the_nearest_one() {
    for (text, near) in [
        ("[network]\nclient_prt = 1", "network.client_port"),
        ("client_port = 1", "network.client_port"),
        ("[node]\nclient_port = 1", "network.client_port"),
        ("[wal]\nfile_size = 1", "wal.file_bytes"),
        ("[storage.s3]\nbuckt = \"\"", "storage.s3.bucket"),
        ("[consensus]\nelection_timeot = 1", "consensus.election_timeout_ms"),
        ("[nod]", "[node]"),
        ("\"\\u0000\" = 1", "--generate-config -"),
        ("[qqqqqqqq]", "--generate-config -"),
    ] {
        start().file(text).refused(&[near, "line"]);
    }
    start().env("SCRIBE_NODE_IDD", "1").refused(&["SCRIBE_NODE_IDD", "SCRIBE_NODE_ID"]);
    start().env("SCRIBE_PROFIL", "x").refused(&["SCRIBE_PROFILE"]);
    start().args(&["--profile", "low-latncy"]).refused(&["low-latncy", "low-latency", "balanced"]);
    start().file("node = 3").refused(&["node", "section"]);
    start().file("[node.id]").refused(&["node.id", "not a section"]);
    start().file("[[node]]\nid = 3").refused(&["node", "section"]);
}

#[test]
fn names_from_other_systems_are_answered_with_what_does_the_same() {
    start().file("[raft]\nheartbeat_interval = 1").refused(&["consensus.heartbeat_interval_ms"]);
    start().file("[storage]\nsync_writes = false").refused(&["always synced", "line 2"]);
    start().file("heartbeat-interval = 1").refused(&["consensus.heartbeat_interval_ms"]);
    start().env("SCRIBE_STORAGE_SYNC_WRITES", "false").refused(&["always synced", "SCRIBE_STORAGE_SYNC"]);
}

#[test]
fn bad_values_name_the_key_the_value_its_origin_and_what_is_accepted() {
    for (text, says) in [
        ("[network]\nclient_port = 70000", ["network.client_port", "70000", "line 2", "from 0 to 65535"]),
        ("\n[network]\nclient_port = \"x\"", ["network.client_port", "\"x\"", "line 3", "an integer"]),
        ("[network]\nclient_port = -1", ["network.client_port", "-1", "line 2", "from 0 to 65535"]),
        ("[network]\nclient_port = 1.5", ["network.client_port", "1.5", "line 2", "from 0 to 65535"]),
        ("[node]\nid = 0", ["node.id", "0", "line 2", "positive"]),
        ("[node]\nid = true", ["node.id", "true", "line 2", "positive"]),
        ("[wal]\nfile_bytes = 65537", ["wal.file_bytes", "65537", "64KiB", "multiple of 4096"]),
        ("[wal]\nfile_bytes = \"60KiB\"", ["wal.file_bytes", "60KiB", "64KiB", "4GiB"]),
        ("[pipeline]\nbatch_linger = 5", ["pipeline.batch_linger", "is 5", "line 2", "200us"]),
        ("[pipeline]\nbatch_linger = \"5 fortnights\"", ["batch_linger", "fortnights", "line 2", "200us"]),
        ("[logging]\nformat = \"xml\"", ["logging.format", "xml", "line 2", "text, json"]),
        ("[logging]\nlevel = \"inof\"", ["logging.level", "inof", "line 2", "warn, info"]),
        ("[network]\nlisten_addr = \"*\"", ["network.listen_addr", "*", "line 2", "HOST"]),
        ("[limits]\nmax_batch_request_bytes = \"2GiB\"", ["max_batch_request_bytes", "2GiB", "line", "1GiB"]),
        (
            "[consensus]\nelection_timeout = 0",
            ["election_timeout_ms in units of 100", "is 0", "line", "from 1"],
        ),
    ] {
        start().file(text).refused(&says);
    }
    start().args(&["--http-port", "x"]).refused(&[
        "network.client_port",
        "\"x\"",
        "--http-port",
        "0 to 65535",
    ]);
    start().args(&["--node-id", "-1"]).refused(&["node.id", "-1", "--node-id", "positive"]);
    start().env("RUST_LOG", "inof").refused(&["logging.level", "inof", "RUST_LOG", "info"]);
}

#[test]
fn keys_are_checked_against_each_other() {
    start().file("[consensus]\nheartbeat_interval_ms = 167").refused(&[
        "consensus.heartbeat_interval_ms = 167",
        "line 2",
        "consensus.election_timeout_ms = 500",
        "166",
    ]);
    start().file("[consensus]\nheartbeat_interval_ms = 166").config();
    start().env("SCRIBE_PIPELINE_INGEST_BYTES_MAX", "64MiB").refused(&[
        "limits.max_batch_request_bytes = \"128MiB\" (the default)",
        "pipeline.ingest_bytes_max = \"64MiB\" (environment SCRIBE_PIPELINE_INGEST_BYTES_MAX)",
    ]);
}

#[test]
fn without_a_secret_nothing_leaves_the_machine() {
    let list = |key: &str, address: &str| format!("[cluster]\n{key} = [\"127.0.0.1:1\", \"{address}\"]");
    for (text, key) in [
        ("[network]\nraft_listen_addr = \"0.0.0.0\"".to_owned(), "network.raft_listen_addr"),
        ("[network]\nraft_listen_addr = \"node1:9001\"".into(), "network.raft_listen_addr"),
        ("[network]\nadvertise_raft_addr = \"10.0.0.1:9001\"".into(), "network.advertise_raft_addr"),
        (list("peers", "10.0.0.2:9001"), "cluster.peers"),
        (list("peers", "node2.example.org:9001"), "cluster.peers"),
        (list("discovery.addresses", "255.255.255.255:9100"), "cluster.discovery.addresses"),
    ] {
        start().file(&text).refused(&[key, "line 2", "cluster.secret", "loopback"]);
        start().file(&text).env("SCRIBE_CLUSTER_SECRET", "s").config();
    }
    start().args(&["--peers", "10.0.0.2:9001"]).refused(&["cluster.peers", "flag --peers"]);
    let config = start()
        .args(&["--raft-addr", "[::1]:9001", "--peers", "localhost:9002, 127.0.0.3:9003"])
        .env("SCRIBE_CLUSTER_DISCOVERY_ADDRESSES", "127.255.255.255:9100")
        .config();
    assert_eq!(config.cluster.peers, ["localhost:9002", "127.0.0.3:9003"]);
}

#[test]
fn others_are_told_an_address_that_they_can_call() {
    let everywhere = || start().env("SCRIBE_CLUSTER_SECRET", "s").args(&["--raft-addr", "0.0.0.0:9001"]);
    everywhere().config();
    for finding in [["SCRIBE_CLUSTER_PEERS", "b:9001"], ["SCRIBE_CLUSTER_DISCOVERY_ENABLED", "true"]] {
        let finding = || everywhere().env(finding[0], finding[1]);
        finding().refused(&["network.raft_listen_addr", "0.0.0.0", "network.advertise_raft_addr"]);
        let told = finding().env("SCRIBE_NETWORK_ADVERTISE_RAFT_ADDR", "a").config().network;
        assert_eq!(told.raft_bind(), "0.0.0.0:9001");
        assert_eq!(told.raft_advertised("0.0.0.0:7".parse().unwrap()), "a:7");
    }
    let bound = "127.0.0.1:7".parse().unwrap();
    assert_eq!(Config::default().network.raft_advertised(bound), "127.0.0.1:7");
    let discovery = start().env("SCRIBE_CLUSTER_DISCOVERY_ADDRESSES", "[::1]:9100");
    discovery.refused(&["cluster.discovery.addresses", "IPv6", "cluster.peers"]);
    for peers in ["a", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "http://127.0.0.1:9001", "::1:9001"] {
        start().args(&["--peers", peers]).refused(&["cluster.peers", peers, "--peers", "HOST:PORT"]);
    }
}

#[test]
fn who_founds_and_who_must_not_is_said_without_contradiction() {
    let expect = || start().file("[cluster]\nbootstrap_expect = 3");
    expect().refused(&[
        "cluster.bootstrap_expect = 3",
        "line 2",
        "cluster.peers",
        "discovery",
        "accepted is 1",
    ]);
    assert_eq!(expect().args(&["--peers", "127.0.0.1:1"]).config().cluster.bootstrap_expect, 3);
    expect().env("SCRIBE_CLUSTER_DISCOVERY_ENABLED", "true").config();
    assert!(expect().args(&["--bootstrap"]).config().node.bootstrap);

    let id = ["node.rejoin = true", "--rejoin", "node.id = 2", "line 2", "--node-id N"];
    start().file("[node]\nid = 2").args(&["--rejoin"]).refused(&id);
    start().args(&["--rejoin"]).refused(&["node.id = 1 (the default)", "--node-id N"]);
    let config = start().file("[node]\nid = 2").args(&["--rejoin", "--node-id", "4"]).config();
    assert_eq!((config.node.rejoin, config.node.id), (true, 4));
    assert!(start().file("[node]\nid = 4\nrejoin = true").config().node.rejoin, "said side by side");
    let both = start().args(&["--rejoin", "--node-id", "4", "--bootstrap"]);
    both.refused(&["node.rejoin", "node.bootstrap", "--bootstrap"]);
}

#[test]
fn the_command_line_is_well_formed() {
    <NodeArgs as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn flags_set_what_they_say() {
    let config = start()
        .args(&["--id", "node2", "--data-dir", "/d", "--http-addr", "[::1]:81", "--bind-address", "[::1]:92"])
        .args(&[
            "--format",
            "json",
            "--log-level",
            "debug",
            "--bootstrap",
            "--peers",
            "127.0.0.1:93,[::1]:94",
        ])
        .config();
    assert!(config.node.bootstrap && !config.node.rejoin);
    assert_eq!(config.cluster.peers, ["127.0.0.1:93", "[::1]:94"]);
    assert_eq!(config.network.raft_bind(), "[::1]:92");
    assert_eq!(config.node.id, 2);
    assert_eq!(config.node.data_dir, Path::new("/d"));
    assert_eq!((&config.network.listen_addr[..], config.network.client_port), ("::1", 81));
    assert_eq!(config.network.http_bind(), "[::1]:81");
    assert_eq!((&config.network.raft_listen_addr[..], config.network.raft_tcp_port), ("::1", 92));
    assert_eq!((&config.logging.level[..], config.logging.format), ("debug", LogFormat::Json));
    let config = start().args(&["--http-addr", "::1", "--http-port", "82"]).config();
    assert_eq!(config.network.http_bind(), "[::1]:82");
    let config = start().env("SCRIBE_NETWORK_LISTEN_ADDR", "[::]:83").config();
    assert_eq!(config.network.http_bind(), "[::]:83");
    assert!(NodeArgs::try_parse_from(["scribe-node", "--no-such-flag"]).is_err_and(|e| e.exit_code() == 2));
}

#[test]
fn rust_log_lies_between_the_file_and_the_flag() {
    let start = start().file("[logging]\nlevel = \"warn\"").env("RUST_LOG", "debug");
    assert_eq!(start.config().logging.level, "debug");
    let start = start.env("SCRIBE_LOGGING_LEVEL", "error");
    assert_eq!(start.config().logging.level, "error", "the more particular variable wins");
    assert_eq!(start.args(&["--log-level", "trace"]).config().logging.level, "trace");
    let empty = Start::default().env("RUST_LOG", "");
    assert_eq!(empty.config().logging.level, "info");
}

#[test]
fn variables_of_others_are_left_alone() {
    let config = start()
        .env("PATH", "/bin")
        .env("SCRIBE_SERVICE_HOST", "10.0.0.1")
        .env("SCRIBE_SERVICE_PORT_HTTP", "8001")
        .env("SCRIBE_PORT", "tcp://10.0.0.1:8001")
        .env("SCRIBE_PORT_8001_TCP_ADDR", "10.0.0.1")
        .config();
    assert_eq!(config, Config::default());
    start().env("SCRIBE_PORT", "8001").refused(&["SCRIBE_PORT", "nearest"]);
}

#[test]
fn a_file_may_be_named_by_a_variable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.toml");
    fs::write(&path, "[node]\nid = 9").unwrap();
    let start = start().env("SCRIBE_CONFIG", path.to_str().unwrap());
    assert_eq!(start.config().node.id, 9);
    fs::remove_file(&path).unwrap();
    start.refused(&["a.toml", "cannot be read"]);
}

#[test]
fn unreadable_files_are_refused_with_their_line() {
    start().file(b"[node]\nid = 1 # \xff\n").refused(&["line 2", "not UTF-8"]);
    start().file("[node]\nid = = 3").refused(&["line 2", "not TOML"]);
    start().file("[node]\nid = 1\nid = 2").refused(&["line 3", "not TOML"]);
    start().args(&["--config", "/no/such/file.toml"]).refused(&["/no/such/file.toml", "cannot be read"]);
    start().args(&["--config", "no-such-name"]).refused(&["no-such-name", "configs/", "/etc/scribe/"]);
}

#[test]
fn a_generated_file_changes_nothing_and_a_printed_one_repeats_everything() {
    let generated = render::defaults(true);
    assert_eq!(start().file(&generated).config(), Config::default());
    let over_profile = start().file(&generated).args(&["--profile", "low-latency"]);
    assert_eq!(over_profile.config(), start().args(&["--profile", "low-latency"]).config());
    for key in KEYS {
        assert!(generated.contains(&format!("\n# {} = ", key.leaf())), "{}", key.name);
    }
    for profile in profile::NAMES {
        let first = start()
            .args(&["--profile", profile, "--http-addr", "[::1]:81", "--data-dir", "a \"quoted\" dir"])
            .env("SCRIBE_LIMITS_READ_TIMEOUT", "1500ms")
            .load()
            .unwrap();
        let printed = render::in_force(&first);
        assert!(printed.contains("client_port = 81  # flag --http-addr"), "{printed}");
        assert_eq!(start().file(&printed).config(), first.config, "{printed}");
    }
}

#[test]
fn the_example_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/example.toml");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, render::defaults(false)).unwrap();
    }
    let example = fs::read_to_string(path).unwrap();
    let same = example == render::defaults(false);
    assert!(same, "configs/example.toml is not what the table of keys says; BLESS=1 rewrites it");
    assert_eq!(start().file(&example).config(), Config::default());
}

#[test]
fn the_three_nodes_of_the_cluster_scripts_fit_together() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let configs: Vec<Config> = (1..=3)
        .map(|node| {
            start().args(&["--config", dir.join(format!("config-node{node}.toml")).to_str().unwrap()])
        })
        .map(|start| start.config())
        .collect();
    let peers: Vec<String> = configs.iter().map(|config| config.network.raft_bind()).collect();
    for (config, node) in configs.iter().zip(1u16..) {
        assert_eq!(config.node.id, u64::from(node));
        assert_eq!(config.node.data_dir, Path::new(&format!("./data/node{node}")));
        assert_eq!(config.network.http_bind(), format!("127.0.0.1:{}", 8_000 + node));
        assert_eq!(config.network.raft_bind(), format!("127.0.0.1:{}", 9_000 + node));
        assert_eq!((&config.cluster.peers, config.cluster.bootstrap_expect), (&peers, 3));
        assert!(!config.cluster.secret.is_empty() && config.cluster == configs[0].cluster);
    }
}

fn command(start: &Start) -> Result<(bool, String), String> {
    let args = NodeArgs::try_parse_from(["scribe-node".into()].iter().chain(&start.args)).unwrap();
    let mut out = Vec::new();
    let done = run_config_command(&args, start.environment.iter().cloned(), &mut out);
    done.map(|done| (done, String::from_utf8(out).unwrap())).map_err(|error| error.message().to_owned())
}

#[test]
fn the_commands_answer_and_leave_the_disk_alone() {
    assert_eq!(command(&start()).unwrap(), (false, String::new()));
    let valid = command(&start().args(&["--validate-config"])).unwrap();
    assert_eq!(valid, (true, "configuration is valid\n".into()));
    let wrong = start().args(&["--validate-config", "--http-port", "x"]);
    assert!(command(&wrong).unwrap_err().contains("network.client_port"));
    let (_, list) = command(&start().args(&["--list-config-paths", "--config", "example"])).unwrap();
    assert_eq!(list, ".\nconfigs/\n/etc/scribe/\nexample is configs/example.toml\n");
    let (_, printed) = command(&start().args(&["--print-config", "--profile", "low-latency"])).unwrap();
    assert!(printed.contains("batch_ops_max = 2048  # profile low-latency"), "{printed}");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("scribe.toml");
    let generate = start().args(&["--generate-config", path.to_str().unwrap()]);
    assert!(command(&generate).unwrap().0);
    assert_eq!(fs::read_to_string(&path).unwrap(), render::defaults(true));
    fs::write(&path, "mine").unwrap();
    assert!(command(&generate).unwrap_err().contains("exists already"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine", "an existing file is never touched");
    assert_eq!(command(&start().args(&["--generate-config", "-"])).unwrap(), (true, render::defaults(true)));
    assert!(!Path::new("-").exists(), "a dash is standard output and no file");
    let two = NodeArgs::try_parse_from(["scribe-node", "--print-config", "--validate-config"]);
    assert!(two.is_err_and(|error| error.exit_code() == 2), "one answer at a time");
}

#[test]
fn sizes_and_durations_are_read_by_every_key_of_their_kind() {
    let config = start()
        .file("[wal]\nfile_bytes = \"64KiB\"\nidle_close = \"2s\"\n[pipeline]\nbatch_linger = 0\nbatch_bytes_max = 4096")
        .env("SCRIBE_WAL_TAIL_BYTES_MAX", "10MB")
        .config();
    assert_eq!(config.wal.file_bytes, 64 << 10);
    assert_eq!(config.wal.idle_close, Duration::from_secs(2));
    assert_eq!(config.wal.tail_bytes_max, 10_000_000);
    assert_eq!(config.pipeline.batch_linger, Duration::ZERO);
    assert_eq!(config.pipeline.batch_bytes_max, 4_096);
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    for text in [
        format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{}b = 1", "a.".repeat(100_000)),
        format!("[{}b]", "a.".repeat(100_000)),
        format!("a = {}1{}", "{b=".repeat(100_000), "}".repeat(100_000)),
    ] {
        start().file(text).load().unwrap_err();
    }
}

fn read_bytes(bytes: &[u8]) {
    let origin = |line| Origin::File { path: "a.toml".into(), line };
    std::hint::black_box(bytes_layer(bytes, origin).map(|layer| Settings::merge(&[layer])).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_bytes(&bytes);
    }

    #[test]
    fn no_damaged_file_panics(cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = render::defaults(false).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        read_bytes(&bytes);
        read_bytes(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn no_value_panics_in_any_key(which in any::<prop::sample::Index>(), value in any::<String>()) {
        let key = &KEYS[which.index(KEYS.len())];
        let args = NodeArgs::default();
        let variables = [(environment_name(key.name), value)];
        std::hint::black_box(Settings::load(&args, variables.into_iter()).is_ok());
    }
}

/// With a megabyte kept free, a node that had filled its disk could not be started again.
#[test]
fn the_space_kept_free_suffices_for_a_restart_or_there_is_none() {
    let parsed = |text: &str| start().file(text).load();
    let said = parsed("[wal]\ndisk_free_bytes_min = \"1MiB\"").unwrap_err();
    for part in [
        "wal.disk_free_bytes_min = \"1MiB\"",
        "wal.file_bytes = \"64MiB\"",
        "at least 72MiB",
        "restart",
        "or 0",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(parsed("[wal]\nfile_bytes = \"1GiB\"").is_err(), "the default is too little for such files");
    for fits in ["0", "\"72MiB\""] {
        parsed(&format!("[wal]\ndisk_free_bytes_min = {fits}")).unwrap();
    }
}
