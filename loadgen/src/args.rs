//! The command line: what can be asked for. `plan` says what it means and what does not go together.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Stop after this many records.
    #[arg(long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after this time, such as 10, 10s, 500ms or 2m [default: 10s; of each step of --sweep 3s].
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub duration: Option<Duration>,
    /// Run this long before measuring.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = time_or_none)]
    pub warmup: Duration,
    #[command(flatten)]
    pub patience: Waiting,
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
    /// Process id of the server, to measure its cost [default: looked for on this machine].
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
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
    /// Instead of a file: the journal of a run, whose every acknowledged write is looked for.
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

fn time(text: &str) -> Result<Duration, String> {
    time_or_none(text)
        .and_then(|time| if time.is_zero() { Err("expected more than no time".to_owned()) } else { Ok(time) })
}

/// A number of seconds, or a number with a unit.
fn time_or_none(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit_secs = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a time such as 5, 0.5s, 500ms, 2m or 1h".to_owned()),
    };
    let number: f64 =
        number.trim().parse().map_err(|_| "expected a time such as 5, 0.5s, 500ms, 2m or 1h".to_owned())?;
    match Duration::try_from_secs_f64(number * unit_secs) {
        Ok(time) if time.as_secs() <= 1_000_000 => Ok(time),
        _ => Err("expected at most 1000000 seconds".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e8).contains(rate));
    rate.ok_or_else(|| "expected requests a second, 0.001 to 100000000".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| "expected 0 to 1".to_owned())
}

fn key_prefix(text: &str) -> Result<String, String> {
    // The chunk's number has to fit behind it.
    if text.is_empty() || text.len() > 100 || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("expected 1 to 100 characters of printable ASCII without blanks".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        for (text, ms) in [
            ("10", 10_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("0.5", 500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(time_or_none("0"), Ok(Duration::ZERO));
        for bad in ["", "s", "0", "-1s", "10 parsecs", "1e9", "nan", "inf", "5S"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
