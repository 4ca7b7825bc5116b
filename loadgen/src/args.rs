//! The command line: what can be asked for. `plan` says what it means and what does not go together.

mod text;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::text::{key_prefix, rate, ratio, time, time_or_none};
use crate::{
    check::CheckArgs,
    http::Patience,
    run::pacing::Arrivals,
    workload::{keys::Order, requests::Format, values::Sizes},
};

/// Puts load on Scribe Ledger nodes, and checks that they keep what they acknowledge.
#[derive(Debug, Parser)]
#[command(name = "scribe-loadgen", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
    0  done, and nothing that was checked is amiss
    1  it failed: nothing was answered, something acknowledged is lost or wrong, a target is missed
    2  it was asked for something that cannot be, and did nothing
  130  ended by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP: what was done until then is reported";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Single writes: PUT /{key}.
    Put(PutArgs),
    /// Bulk writes: POST /api/v1/batch.
    Bulk(BulkArgs),
    /// Reads of single keys: GET /{key}.
    Get(GetArgs),
    /// Single reads and writes.
    Mixed(MixedArgs),
    /// Conditional writes: PUT if the key's newest version is the one last seen (412 if it is not).
    Cas(CasArgs),
    /// Writes and reads of a ledger in this process: no server, no HTTP.
    Embedded(EmbeddedArgs),
    /// Load an NDJSON file, each record exactly once, through crashes and refusals.
    Load(LoadArgs),
    /// Compare an NDJSON file, or a journal of acknowledged writes, with what the server holds; exits 1 when
    /// they differ.
    Verify(VerifyArgs),
    /// Start nodes, measure every target of a file and say which are reached; exits 1 when one is missed.
    Check(CheckArgs),
}

/// What every run has.
#[derive(Debug, Args)]
pub struct Common {
    /// The servers, several as a list or with the flag repeated; connections are spread over them.
    #[arg(
        long,
        value_name = "URL",
        env = "SCRIBE_SERVER",
        default_value = "http://127.0.0.1:8001",
        value_delimiter = ','
    )]
    pub url: Vec<String>,
    /// Ask the servers who leads (GET /leader), connect there, and ask again when refused or cut off.
    #[arg(long)]
    pub leader_aware: bool,
    /// Connections [default: 64, bulk 4].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: Option<u16>,
    /// HTTP version: 1 is HTTP/1.1, 2 is HTTP/2 with prior knowledge.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub http: u8,
    /// Requests in flight on an HTTP/1.1 connection, which the server serves one after the other [default: 1].
    #[arg(long, value_name = "DEPTH", value_parser = clap::value_parser!(u16).range(1..))]
    pub pipeline: Option<u16>,
    /// Streams of an HTTP/2 connection, each with one request in flight [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub streams: Option<u16>,
    /// Threads of this program; the server needs the rest of the cores.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: u16,
    #[command(flatten)]
    pub pacing: Pacing,
    #[command(flatten)]
    pub length: Length,
    #[command(flatten)]
    pub patience: Waiting,
    #[command(flatten)]
    pub choice: KeyChoice,
    /// Process id of the server, to measure its cost [default: looked for on this machine].
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    #[command(flatten)]
    pub output: Output,
}

/// How long a run goes on.
#[derive(Debug, Args)]
pub struct Length {
    /// Stop after this many records.
    #[arg(long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after this time, such as 10, 10s, 500ms or 2m [default: 10s; of each step of --sweep 3s].
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub duration: Option<Duration>,
    /// Run this long before measuring.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = time_or_none)]
    pub warmup: Duration,
}

/// Which keys are written and read.
#[derive(Debug, Args)]
pub struct KeyChoice {
    /// Bytes of a key.
    #[arg(long, default_value_t = 16)]
    pub key_bytes: usize,
    /// Which keys: sequential, uniform, or `zipfian[:EXPONENT]` [default: sequential; get, cas uniform].
    ///
    /// Uniform writes take every key once in a random order, then again; uniform reads draw. Zipfian draws, by
    /// default with the exponent 0.99, and spreads its frequent keys over the key space.
    #[arg(long, value_name = "ORDER")]
    pub keys: Option<Order>,
    /// Distinct keys [default: for sequential writes no bound, for uniform ones --count; cas 10000; else 1000000].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub key_space: Option<u64>,
    /// Makes keys' order and values; the same seed sends the same.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How a run is shown.
#[derive(Debug, Args)]
pub struct Output {
    /// Print one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Write a page with plots of the run to this file.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Say nothing while it runs, unless on a terminal.
    #[arg(long)]
    pub quiet: bool,
}

/// How long servers are borne with.
#[derive(Clone, Copy, Debug, Args)]
pub struct Waiting {
    /// Give a request up when its answer takes this long; what a write has come to is then unknown.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub timeout: Duration,
    /// Give everything up when nothing at all is answered for this long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub stall: Duration,
}

impl From<Waiting> for Patience {
    fn from(waiting: Waiting) -> Self {
        Self { timeout: waiting.timeout, stall: waiting.stall }
    }
}

/// Closed loop, open loop, or a search.
#[derive(Debug, Args)]
pub struct Pacing {
    /// Open loop: this many requests a second, of all connections together, whatever the server does; latency
    /// counts from when a request should have been sent.
    #[arg(long, value_name = "PER_SEC", value_parser = rate)]
    pub rate: Option<f64>,
    /// How requests of an open loop are spread [default: constant].
    #[arg(long, value_enum)]
    pub arrivals: Option<Arrivals>,
    /// Raise the rate until the server cannot follow, and find the highest rate that it bears.
    #[arg(long, conflicts_with_all = ["rate", "count"])]
    pub sweep: bool,
    /// A rate is borne while p99 is at most this [default: 10ms].
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub p99_max: Option<Duration>,
    /// Where a sweep begins [default: 100 requests a second].
    #[arg(long, value_name = "PER_SEC", value_parser = rate)]
    pub from: Option<f64>,
    /// Where it ends at the latest [default: 1000000].
    #[arg(long, value_name = "PER_SEC", value_parser = rate)]
    pub to: Option<f64>,
}

#[derive(Debug, Args)]
pub struct Values {
    /// Bytes of a value, or a range of which every length is as likely, such as 1MiB or 50..4KiB.
    #[arg(long, value_name = "BYTES", default_value = "100")]
    pub value_bytes: Sizes,
}

/// Whether what is acknowledged is looked for afterwards.
#[derive(Debug, Args)]
pub struct Truthful {
    /// Write every acknowledged write to this new file, and count it only once it is on disk there.
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// At the end, read back every acknowledged write; exits 1 when one is lost or wrong.
    #[arg(long)]
    pub verify: bool,
}

#[derive(Debug, Args)]
pub struct Reads {
    /// How fresh reads have to be [the server's default: linearizable].
    #[arg(long, value_enum)]
    pub consistency: Option<Consistency>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Consistency {
    Linearizable,
    Lease,
    Stale,
}

impl Consistency {
    /// What it is as a query.
    pub const fn query(this: Option<Self>) -> &'static str {
        match this {
            None => "",
            Some(Self::Linearizable) => "?consistency=linearizable",
            Some(Self::Lease) => "?consistency=lease",
            Some(Self::Stale) => "?consistency=stale",
        }
    }
}

#[derive(Debug, Args)]
pub struct PutArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub values: Values,
    #[command(flatten)]
    pub truthful: Truthful,
}

#[derive(Debug, Args)]
pub struct BulkArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub values: Values,
    #[command(flatten)]
    pub truthful: Truthful,
    /// Records in one request.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// How requests are written [default: binary].
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Send the records of this NDJSON file, plain or gzip: once, or again and again with --count or --duration.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["format", "keys", "key_space"])]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Fill {
    /// Write the whole key space first, in bulk, so that every key is there.
    #[arg(long)]
    pub fill: bool,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub values: Values,
    #[command(flatten)]
    pub reads: Reads,
    #[command(flatten)]
    pub fill: Fill,
}

#[derive(Debug, Args)]
pub struct MixedArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub values: Values,
    #[command(flatten)]
    pub reads: Reads,
    #[command(flatten)]
    pub fill: Fill,
    #[command(flatten)]
    pub truthful: Truthful,
    /// Which part of the requests reads, 0 to 1.
    #[arg(long, default_value_t = 0.5, value_parser = ratio)]
    pub read_ratio: f64,
}

#[derive(Debug, Args)]
pub struct CasArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub values: Values,
    #[command(flatten)]
    pub truthful: Truthful,
    /// Only create: If-None-Match: * on every write.
    #[arg(long)]
    pub create_only: bool,
}

#[derive(Debug, Args)]
pub struct EmbeddedArgs {
    /// Where the ledger is; it is kept [default: a new directory, removed at the end].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Threads that call the ledger, each in a closed loop.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,
    /// Records that a thread writes at once; it gathers its writes between reads until it has so many.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch: u32,
    /// Which part of the operations reads, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = ratio)]
    pub read_ratio: f64,
    #[command(flatten)]
    pub fill: Fill,
    #[command(flatten)]
    pub values: Values,
    #[command(flatten)]
    pub choice: KeyChoice,
    #[command(flatten)]
    pub length: Length,
    /// At the end, open the directory again and read every acknowledged write; exits 1 when one is lost or wrong.
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct LoadArgs {
    /// NDJSON as POST /api/v1/batch takes it, plain or gzip.
    pub file: PathBuf,
    /// The server.
    #[arg(long, value_name = "URL", env = "SCRIBE_SERVER", default_value = "http://127.0.0.1:8001")]
    pub url: String,
    /// Records in one request.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub chunk_records: u64,
    /// Connections; more than one gives up the order of the file.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// Number records in the order of the file: what one connection does.
    #[arg(long)]
    pub in_order: bool,
    /// Idempotency keys are PREFIX-0, PREFIX-1, … [default: made from the file's name and size and the chunk size].
    #[arg(long, value_name = "PREFIX", value_parser = key_prefix)]
    pub key_prefix: Option<String>,
    /// Give up when one chunk has failed for this long.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    pub give_up: Duration,
    /// How long one request may take.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub timeout: Duration,
    /// Print one line of JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The file that was loaded; its keys are distinct.
    #[arg(required_unless_present = "journal")]
    pub file: Option<PathBuf>,
    /// Instead of a file: the journal of a run, whose every acknowledged write is looked for, always by linearizable
    /// reads; --consistency, --connections, --first-seq and --in-order are for a file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "first_seq", "in_order", "connections", "consistency"])]
    pub journal: Option<PathBuf>,
    /// The server [default: http://127.0.0.1:8001; of a journal the one it was written for].
    #[arg(long, value_name = "URL", env = "SCRIBE_SERVER")]
    pub url: Option<String>,
    /// Connections.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// The position of the file's first record.
    #[arg(long, default_value_t = 0)]
    pub first_seq: u64,
    /// Also compare each record's position with its place in the file.
    #[arg(long)]
    pub in_order: bool,
    #[command(flatten)]
    pub reads: Reads,
    #[command(flatten)]
    pub patience: Waiting,
    /// Print one line of JSON.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    /// What a journal refuses was once not to be read anywhere.
    #[test]
    fn what_does_not_go_with_a_journal_is_told() {
        let mut cli = Cli::command();
        let help = cli.find_subcommand_mut("verify").unwrap().render_long_help().to_string();
        let journal = help.split("--journal").nth(1).unwrap().split("--url").next().unwrap();
        for flag in
            [&["--consistency", "stale"][..], &["--connections", "2"], &["--first-seq", "1"], &["--in-order"]]
        {
            let refused = [&["scribe-loadgen", "verify", "--journal", "j"], flag].concat();
            assert!(Cli::command().try_get_matches_from(refused).is_err(), "{flag:?}");
            assert!(journal.contains(flag[0]), "{journal}");
        }
    }
}
