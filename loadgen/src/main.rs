//! `scribe-loadgen`: puts load on a Scribe Ledger node and says what it bore, loads files into it, and
//! checks that they are there.
//!
//! Arguments become a plan here; `run`, `load` and `verify` carry plans out. The program shares the
//! machine's cores with the server it measures, so it speaks raw HTTP and runs on one thread by default.

mod check;
mod http;
mod lines;
mod load;
mod machine;
mod measured;
mod observe;
mod process;
mod progress;
mod report;
mod run;
mod scrape;
mod server;
mod verify;
mod workload;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value as Json, json};

use crate::{
    http::Target,
    load::LoadPlan,
    machine::Machine,
    process::Process,
    run::{Limit, Plan, Work},
    verify::VerifyPlan,
    workload::{Keys, Order},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of one bulk request: the server's default limit.
const BULK_BYTES_MAX: usize = 128 << 20;
const KEY_SPACE_DEFAULT: u64 = 1_000_000;
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// Puts load on a Scribe Ledger node.
#[derive(Debug, Parser)]
#[command(name = "scribe-loadgen", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Single writes: PUT /{key}.
    Put(PutArgs),
    /// Bulk writes: POST /api/v1/batch with binary frames.
    Bulk(BulkArgs),
    /// Reads of single keys: GET /{key}.
    Get(GetArgs),
    /// Single reads and writes.
    Mixed(MixedArgs),
    /// Load an NDJSON file, each record exactly once, through crashes and refusals.
    Load(LoadArgs),
    /// Compare an NDJSON file with what the server holds; exits 1 when they differ.
    Verify(VerifyArgs),
    /// Start nodes, measure every target of a file and say which are reached; exits 1 when one is missed.
    Check(check::CheckArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// The server.
    #[arg(long, value_name = "URL", env = "SCRIBE_SERVER", default_value = "http://127.0.0.1:8001")]
    url: String,
    /// Connections, each with one request in flight [default: 64, bulk 4].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    connections: Option<u16>,
    /// Threads of this program; the server needs the rest of the cores.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Stop after this many records.
    #[arg(long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop after this many seconds [default: 10].
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    duration: Option<Duration>,
    /// Run this many seconds before measuring.
    #[arg(long, value_name = "SECS", default_value = "0", value_parser = seconds_or_none)]
    warmup: Duration,
    /// Give up when nothing is answered for this many seconds.
    #[arg(long, value_name = "SECS", default_value = "30", value_parser = seconds)]
    stall: Duration,
    /// Bytes of a key.
    #[arg(long, default_value_t = 16)]
    key_bytes: usize,
    /// The order in which writes go through the key space (reads are always uniform).
    #[arg(long, value_enum, default_value_t = Order::Sequential)]
    keys: Order,
    /// Distinct keys [default: for sequential writes no bound, for uniform writes --count, else 1000000].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    key_space: Option<u64>,
    /// Makes keys' order and values; the same seed sends the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Process id of the server, to measure its cost [default: looked for on this machine].
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Values {
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
}

#[derive(Debug, Args)]
struct Reads {
    /// How fresh reads have to be [the server's default: linearizable].
    #[arg(long, value_enum)]
    consistency: Option<Consistency>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Consistency {
    Linearizable,
    Lease,
    Stale,
}

#[derive(Debug, Args)]
struct PutArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    values: Values,
}

#[derive(Debug, Args)]
struct BulkArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    values: Values,
    /// Records in one request.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
}

#[derive(Debug, Args)]
struct Fill {
    /// Write the whole key space first, in bulk, so that every key is there.
    #[arg(long)]
    fill: bool,
}

#[derive(Debug, Args)]
struct GetArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    values: Values,
    #[command(flatten)]
    reads: Reads,
    #[command(flatten)]
    fill: Fill,
}

#[derive(Debug, Args)]
struct MixedArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    values: Values,
    #[command(flatten)]
    reads: Reads,
    #[command(flatten)]
    fill: Fill,
    /// Which part of the requests reads, 0 to 1.
    #[arg(long, default_value_t = 0.5, value_parser = ratio)]
    read_ratio: f64,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// NDJSON as POST /api/v1/batch takes it, plain or gzip.
    file: PathBuf,
    /// The server.
    #[arg(long, value_name = "URL", env = "SCRIBE_SERVER", default_value = "http://127.0.0.1:8001")]
    url: String,
    /// Records in one request.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    chunk_records: u64,
    /// Connections; more than one gives up the order of the file.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Number records in the order of the file: what one connection does.
    #[arg(long)]
    in_order: bool,
    /// Idempotency keys are PREFIX-0, PREFIX-1, … [default: made from the file's name and size and the chunk size].
    #[arg(long, value_name = "PREFIX", value_parser = key_prefix)]
    key_prefix: Option<String>,
    /// Give up when one chunk has failed for this long.
    #[arg(long, value_name = "SECS", default_value = "60", value_parser = seconds)]
    give_up: Duration,
    /// How long one request may take.
    #[arg(long, value_name = "SECS", default_value = "30", value_parser = seconds)]
    timeout: Duration,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// The file that was loaded; its keys are distinct.
    file: PathBuf,
    /// The server.
    #[arg(long, value_name = "URL", env = "SCRIBE_SERVER", default_value = "http://127.0.0.1:8001")]
    url: String,
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// The position of the file's first record.
    #[arg(long, default_value_t = 0)]
    first_seq: u64,
    /// Also compare each record's position with its place in the file.
    #[arg(long)]
    in_order: bool,
    #[command(flatten)]
    reads: Reads,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Why the program ends without having done what it was asked.
enum Failure {
    /// Exit code 2: nothing was sent.
    Usage(String),
    /// Exit code 1.
    Failed(String),
}

/// One line on standard error, for a person who watches.
fn note(message: &str) {
    let _ = writeln!(io::stderr().lock(), "scribe-loadgen: {message}");
}

/// Writes to standard output. A reader that went away has seen enough.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("writing the output failed: {error}")))
        }
        _ => Ok(()),
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Load(args) => load(args),
        Command::Verify(args) => verify(args),
        Command::Check(args) => check::check(&args),
        command => measure(&command),
    };
    let (message, exit_code) = match outcome {
        Ok(exit_code) => return exit_code,
        Err(Failure::Usage(message)) => (message, 2),
        Err(Failure::Failed(message)) => (message, 1),
    };
    note(&message);
    ExitCode::from(exit_code)
}

/// Carries a workload out and shows what it measured.
fn measure(command: &Command) -> Result<ExitCode, Failure> {
    let (json, measured) = carry_out(command)?;
    let machine = Machine::this();
    let shown =
        if json { report::json(&measured, &machine).to_string() } else { report::table(&measured, &machine) };
    print(&shown)?;
    Ok(if measured.requests() > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a workload measures that is told in the words of the command line.
fn measured_by(arguments: &[String]) -> Result<measured::Measured, String> {
    let command = understood(arguments)?;
    carry_out(&command).map(|(_, measured)| measured).map_err(|failure| match failure {
        Failure::Usage(message) | Failure::Failed(message) => message,
    })
}

/// The command that these arguments are.
fn understood(arguments: &[String]) -> Result<Command, String> {
    let arguments = std::iter::once("scribe-loadgen").chain(arguments.iter().map(String::as_str));
    Ok(Cli::try_parse_from(arguments).map_err(|error| error.to_string())?.command)
}

/// Runs a workload. Gives also whether JSON was asked for.
fn carry_out(command: &Command) -> Result<(bool, measured::Measured), Failure> {
    let (name, common, work, values, consistency, fill) = match command {
        Command::Put(args) => ("put", &args.common, Work::Put, &args.values, None, false),
        Command::Bulk(args) => {
            ("bulk", &args.common, Work::Bulk { records: args.batch as usize }, &args.values, None, false)
        }
        Command::Get(args) => {
            ("get", &args.common, Work::Get, &args.values, args.reads.consistency, args.fill.fill)
        }
        Command::Mixed(args) => {
            let work = Work::Mixed { read_ratio: args.read_ratio };
            ("mixed", &args.common, work, &args.values, args.reads.consistency, args.fill.fill)
        }
        Command::Load(_) | Command::Verify(_) | Command::Check(_) => {
            return Err(Failure::Usage("this is no workload".to_owned()));
        }
    };
    let plan = plan(common, work, values, consistency)?;
    if fill {
        fill_keys(&plan)?;
    }
    let mut about = Map::new();
    about.insert("command".to_owned(), name.into());
    about.insert("url".to_owned(), common.url.as_str().into());
    about.insert("connections".to_owned(), plan.connections.into());
    about.insert("threads".to_owned(), plan.threads.into());
    about.insert("key_bytes".to_owned(), common.key_bytes.into());
    about.insert("value_bytes".to_owned(), values.value_bytes.into());
    about.insert("key_space".to_owned(), plan.keys.space().into());
    match work {
        Work::Bulk { records } => about.insert("batch".to_owned(), records.into()),
        Work::Mixed { read_ratio } => about.insert("read_ratio".to_owned(), read_ratio.into()),
        Work::Put | Work::Get => None,
    };
    let mut measured = run::run(plan).map_err(Failure::Failed)?;
    measured.plan = about;
    Ok((common.json, measured))
}

fn plan(
    common: &Common,
    work: Work,
    values: &Values,
    consistency: Option<Consistency>,
) -> Result<Plan, Failure> {
    let bulk_records = match work {
        Work::Bulk { records } => Some(records),
        _ => None,
    };
    let reads = matches!(work, Work::Get | Work::Mixed { .. });
    let space = common.key_space.or(match (reads, common.keys) {
        (true, _) => Some(KEY_SPACE_DEFAULT),
        (false, Order::Uniform) => Some(common.count.unwrap_or(KEY_SPACE_DEFAULT)),
        (false, Order::Sequential) => None,
    });
    let keys = Keys::new(common.key_bytes, space, common.keys, common.seed).map_err(Failure::Usage)?;
    let value_bytes = values.value_bytes;
    if value_bytes > scribe_ledger::types::VALUE_BYTES_MAX {
        return Err(Failure::Usage(format!("--value-bytes is at most 64 MiB, not {value_bytes}")));
    }
    let request_bytes = (common.key_bytes + value_bytes + 8).saturating_mul(bulk_records.unwrap_or(1));
    if bulk_records.is_some() && request_bytes > BULK_BYTES_MAX {
        let message =
            format!("--batch: one request would have {request_bytes} bytes, the limit is {BULK_BYTES_MAX}");
        return Err(Failure::Usage(message));
    }
    let default_connections = if bulk_records.is_some() { 4 } else { 64 };
    Ok(Plan {
        work,
        target: Target::resolve(&common.url).map_err(Failure::Usage)?,
        connections: usize::from(common.connections.unwrap_or(default_connections)),
        threads: usize::from(common.threads),
        limit: common.count.map_or(Limit::Time(common.duration.unwrap_or(DURATION_DEFAULT)), Limit::Count),
        warmup: common.warmup,
        stall: common.stall,
        keys,
        value_bytes,
        read_query: query(consistency),
        seed: common.seed,
        server: common.server_pid.map(|pid| Process { pid }),
    })
}

/// Writes every key once, so that reads find something.
fn fill_keys(plan: &Plan) -> Result<(), Failure> {
    let records = plan.keys.space();
    let frame_bytes = plan.keys.key_bytes() + plan.value_bytes + 8;
    let filling = Plan {
        work: Work::Bulk { records: (BULK_BYTES_MAX / 32 / frame_bytes).clamp(1, 4096) },
        connections: 4,
        limit: Limit::Count(records),
        warmup: Duration::ZERO,
        ..plan.clone()
    };
    note(&format!("writing {records} keys first"));
    let measured = run::run(filling).map_err(Failure::Failed)?;
    if measured.records() != records {
        let message = format!(
            "filling the key space failed: {} of {records} written\n{}",
            measured.records(),
            report::table(&measured, &Machine::this())
        );
        return Err(Failure::Failed(message));
    }
    Ok(())
}

fn query(consistency: Option<Consistency>) -> String {
    match consistency {
        None => "",
        Some(Consistency::Linearizable) => "?consistency=linearizable",
        Some(Consistency::Lease) => "?consistency=lease",
        Some(Consistency::Stale) => "?consistency=stale",
    }
    .to_owned()
}

fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("the runtime did not start: {error}")))?;
    runtime.block_on(work).map_err(Failure::Failed)
}

fn load(args: LoadArgs) -> Result<ExitCode, Failure> {
    if args.in_order && args.connections > 1 {
        return Err(Failure::Usage("--in-order needs --connections 1".to_owned()));
    }
    let plan = LoadPlan {
        target: Target::resolve(&args.url).map_err(Failure::Usage)?,
        file: args.file,
        chunk_records: args.chunk_records,
        connections: usize::from(args.connections),
        key_prefix: args.key_prefix,
        give_up: args.give_up,
        timeout: args.timeout,
    };
    let loaded = block_on(load::load(plan))?;
    let seconds = loaded.seconds.max(1e-9);
    let (records_per_sec, mb_per_sec) =
        (loaded.records as f64 / seconds, loaded.bytes as f64 / 1e6 / seconds);
    if args.json {
        let document = json!({
            "command": "load", "records": loaded.records, "chunks": loaded.chunks, "bytes": loaded.bytes,
            "seconds": loaded.seconds, "records_per_sec": records_per_sec, "mb_per_sec": mb_per_sec,
            "retries": loaded.retries, "replays": loaded.replays,
            "first_seq": loaded.seqs.map(|seqs| seqs.0), "last_seq": loaded.seqs.map(|seqs| seqs.1),
            "in_file_order": loaded.in_file_order,
        });
        print(&document.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let seqs = loaded.seqs.map_or_else(|| "none".to_owned(), |(first, last)| format!("{first}..{last}"));
    let order = if loaded.in_file_order { ", in the file's order without gaps" } else { "" };
    print(&format!(
        "records         {} in {seconds:.2} s\nrecords/s       {records_per_sec:.0}\nMB/s            {mb_per_sec:.1}\n\
         retries         {}\nreplays         {} of {} chunks\nseqs            {seqs}{order}",
        loaded.records, loaded.retries, loaded.replays, loaded.chunks
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn verify(args: VerifyArgs) -> Result<ExitCode, Failure> {
    let plan = VerifyPlan {
        target: Target::resolve(&args.url).map_err(Failure::Usage)?,
        url: args.url,
        file: args.file,
        connections: usize::from(args.connections),
        first_seq: args.first_seq,
        in_order: args.in_order,
        read_query: query(args.reads.consistency),
    };
    let verdict = block_on(verify::verify(plan))?;
    if args.json {
        let document: Json = json!({
            "command": "verify", "good": verdict.is_good(), "records": verdict.records,
            "missing": verdict.missing, "wrong": verdict.wrong, "bad_seqs": verdict.bad_seqs,
            "unexpected_total_records": verdict.total_records, "differences": verdict.shown,
        });
        print(&document.to_string())?;
    } else {
        print(&verdict.text())?;
    }
    Ok(if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn seconds(text: &str) -> Result<Duration, String> {
    seconds_or_none(text).and_then(|time| {
        if time.is_zero() { Err("expected more than 0 seconds".to_owned()) } else { Ok(time) }
    })
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    let number: f64 =
        text.parse().map_err(|_| "expected a number of seconds, such as 5 or 0.5".to_owned())?;
    match Duration::try_from_secs_f64(number) {
        Ok(time) if number <= 1e6 => Ok(time),
        _ => Err("expected 0 to 1000000 seconds".to_owned()),
    }
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
    fn plans_have_their_defaults() {
        let plan_of = |arguments: &[&str]| {
            let cli = Cli::try_parse_from(std::iter::once(&"scribe-loadgen").chain(arguments)).unwrap();
            match cli.command {
                Command::Put(args) => plan(&args.common, Work::Put, &args.values, None),
                Command::Bulk(args) => {
                    plan(&args.common, Work::Bulk { records: args.batch as usize }, &args.values, None)
                }
                Command::Get(args) => plan(&args.common, Work::Get, &args.values, args.reads.consistency),
                _ => Err(Failure::Usage("not a plan".to_owned())),
            }
        };
        let Ok(bulk) = plan_of(&["bulk", "--count", "10", "--keys", "uniform"]) else { panic!("bulk") };
        assert_eq!((bulk.connections, bulk.limit, bulk.keys.space()), (4, Limit::Count(10), 10));
        let Ok(get) = plan_of(&["get", "--consistency", "lease"]) else { panic!("get") };
        assert_eq!((get.connections, get.keys.space()), (64, KEY_SPACE_DEFAULT));
        assert_eq!(
            (get.read_query.as_str(), get.limit),
            ("?consistency=lease", Limit::Time(DURATION_DEFAULT))
        );
        for bad in [
            &["put", "--value-bytes", "99999999999"][..],
            &["put", "--url", "ftp://h"],
            &["bulk", "--batch", "4000000"],
            &["put", "--key-bytes", "0"],
        ] {
            assert!(matches!(plan_of(bad), Err(Failure::Usage(_))), "{bad:?}");
        }
    }
}
