//! The `scribe` command line: arguments → one client call → what is printed.
//!
//! Takes parsed arguments, gives an exit code: 0 done, 1 the server or the disk said no, or a verification found
//! something wrong (the reason is on standard error), 2 the arguments make no sense (nothing was sent), 3 a
//! verification could tell neither. It owns no knowledge of HTTP, which is `client`'s, nor of proofs, which is
//! `verify`'s.

mod backup;
mod bar;
mod place;
mod print;
mod reindex;
mod restore;
mod verify;

use std::{
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::runtime::Runtime;

use self::print::{Format, Printer};
use crate::{
    client::{Client, ClientError, ReadOptions, ScanQuery, Watch, WriteOptions, error::BAD_CALL},
    read::Consistency,
    state::batch::Condition,
    types::{IDEMPOTENCY_KEY_BYTES_MAX, Seq, VALUE_BYTES_MAX},
};

/// Keys that one request of `list` asks for at most: the server's own maximum.
const PAGE_KEYS_MAX: usize = 10_000;

/// Talks to a Scribe Ledger node.
#[derive(Debug, Parser)]
#[command(name = "scribe", version, arg_required_else_help = true)]
pub struct Cli {
    /// The node to talk to.
    #[arg(
        long,
        global = true,
        env = "SCRIBE_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:8001"
    )]
    server: String,
    /// How to talk to it (grpc is not built yet).
    #[arg(long, global = true, value_enum, default_value_t = Protocol::Http)]
    protocol: Protocol,
    /// How to print answers; values of `get` go out as raw bytes in `table`.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// How long one call may take, of a server or of an object store with its repetitions.
    #[arg(long, global = true, value_name = "SECS", default_value = "30", value_parser = seconds)]
    timeout: Duration,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Http,
    Grpc,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ConsistencyArg {
    Linearizable,
    Lease,
    Stale,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Call(Call),
    /// Check a ledger without believing its server: files in DIR, an archive, or a running node from visit to visit.
    Verify(verify::VerifyArgs),
    /// Copy what a node has sealed, of a running one over HTTP or of a data directory; the next time only what is new.
    Backup(backup::BackupArgs),
    /// Build the index of a stopped node anew from its segments.
    Reindex(reindex::ReindexArgs),
    /// Make a node's directory out of an archive, every record verified: a new cluster goes on with it.
    Restore(restore::RestoreArgs),
}

/// What a server is asked.
#[derive(Debug, Subcommand)]
enum Call {
    /// Write a value.
    Put(PutArgs),
    /// Read a value.
    Get(GetArgs),
    /// Append a tombstone; older versions stay readable.
    Delete(DeleteArgs),
    /// List live keys in key order.
    List(ListArgs),
    /// Show the versions of a key, newest first.
    History(HistoryArgs),
    /// Follow the ledger: a line for every record that is written. Goes on where it was when the server comes back.
    Watch(WatchArgs),
    /// Show the node's positions, role and stages.
    Status,
    /// Ask whether the node is healthy; exits 1 when it is not.
    Health,
    /// Show the cluster as the node sees it.
    ClusterStatus,
}

#[derive(Debug, Args)]
struct PutArgs {
    key: OsString,
    /// The value; `-` reads standard input. After `--` it may begin with a dash.
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
    value: Option<OsString>,
    /// Read the value from a file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only if the key has no value.
    #[arg(long, group = "condition")]
    if_absent: bool,
    /// Only if the key has a value.
    #[arg(long, group = "condition")]
    if_present: bool,
    /// Only if the key's newest version is at this position.
    #[arg(long, group = "condition", value_name = "SEQ")]
    if_seq: Option<u64>,
    /// Names the write: sent again with the same content, it gets the first answer.
    #[arg(long, value_name = "TEXT", value_parser = idempotency_key)]
    idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
struct GetArgs {
    key: OsString,
    /// The value as of this position, inclusive.
    #[arg(long, value_name = "SEQ")]
    at: Option<u64>,
    /// How fresh the answer has to be.
    #[arg(long, value_enum)]
    consistency: Option<ConsistencyArg>,
    /// Write the value to a file instead of standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    key: OsString,
    /// Only if the key has a value.
    #[arg(long, group = "condition")]
    if_present: bool,
    /// Only if the key's newest version is at this position.
    #[arg(long, group = "condition", value_name = "SEQ")]
    if_seq: Option<u64>,
    /// Names the write: sent again with the same content, it gets the first answer.
    #[arg(long, value_name = "TEXT", value_parser = idempotency_key)]
    idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only keys that begin with this.
    #[arg(long)]
    prefix: Option<OsString>,
    /// From this key on, inclusive.
    #[arg(long)]
    start: Option<OsString>,
    /// Up to this key, exclusive.
    #[arg(long)]
    end: Option<OsString>,
    /// At most this many keys.
    #[arg(long, default_value_t = 1_000, value_parser = positive)]
    limit: usize,
    /// All keys, however many.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Leave the values out.
    #[arg(long)]
    keys_only: bool,
    /// Go on where an earlier list ended.
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    key: OsString,
    /// At most this many versions.
    #[arg(long, default_value_t = 100, value_parser = positive)]
    limit: usize,
    /// Only versions before this position.
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,
}

#[derive(Debug, Args)]
struct WatchArgs {
    /// From this position on; without it, only what is written from now on.
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Only keys that begin with this.
    #[arg(long)]
    prefix: Option<OsString>,
    /// Stop after this many records.
    #[arg(long, value_parser = positive)]
    limit: Option<usize>,
}

/// Why a command did not do what it was asked.
enum Failure {
    /// Nothing was sent; exit code 2.
    Usage(String),
    /// Exit code 1.
    Failed(String),
    /// A verification that found nothing wrong and could not look at all there is; exit code 3.
    Undecided(String),
    /// As [`Failure::Undecided`], of a verdict that has been printed with all that was found.
    Doubted(String),
    /// Whoever read our output has seen enough; exit code 0.
    BrokenPipe,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        if error.slug() == BAD_CALL {
            Self::Usage(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Failed(format!("writing the output failed: {error}")),
        }
    }
}

/// Runs one command and gives the process's exit code.
#[must_use]
pub fn run(cli: Cli) -> u8 {
    let failure = match execute(cli) {
        Ok(()) | Err(Failure::BrokenPipe) => return 0,
        Err(failure) => failure,
    };
    let (message, exit_code) = match failure {
        Failure::Usage(message) => (message, 2),
        Failure::Failed(message) => (message, 1),
        Failure::Undecided(message) | Failure::Doubted(message) => (message, 3),
        Failure::BrokenPipe => return 0,
    };
    // It may hold a server's words, which a terminal must not take as commands.
    let message = print::printable(message.as_bytes(), usize::MAX);
    // Nobody is left to tell when standard error is gone too.
    let _ = writeln!(io::stderr().lock(), "scribe: {message}");
    exit_code
}

fn execute(cli: Cli) -> Result<(), Failure> {
    if cli.protocol == Protocol::Grpc {
        return Err(Failure::Usage("--protocol grpc is not built yet; use --protocol http".to_owned()));
    }
    let mut printer = Printer::new(cli.format, io::stdout().lock());
    match cli.command {
        Command::Call(call) => {
            let client = Client::new(&cli.server)?.with_timeout(cli.timeout);
            runtime()?.block_on(ask(&client, &mut printer, call))?;
        }
        Command::Verify(args) => verify::run(&args, &cli.server, cli.timeout, &mut printer)?,
        Command::Backup(args) => backup::run(&args, &cli.server, cli.timeout, &mut printer)?,
        Command::Restore(args) => restore::run(&args, cli.timeout, &mut printer)?,
        Command::Reindex(args) => reindex::run(&args, &mut printer)?,
    }
    Ok(printer.finish()?)
}

fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("the runtime did not start: {error}")))
}

/// A runtime that goes on while other threads wait for it.
fn runtime_beside() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("the runtime did not start: {error}")))
}

async fn ask<W: Write>(client: &Client, printer: &mut Printer<W>, call: Call) -> Result<(), Failure> {
    match call {
        Call::Put(args) => put(client, printer, args).await,
        Call::Get(args) => get(client, printer, args).await,
        Call::Delete(args) => delete(client, printer, args).await,
        Call::List(args) => list(client, printer, args).await,
        Call::History(args) => history(client, printer, args).await,
        Call::Watch(args) => watch(client, printer, args).await,
        Call::Status => Ok(printer.document(&client.status().await?)?),
        Call::Health => Ok(printer.document(&client.health().await?)?),
        Call::ClusterStatus => Ok(printer.document(&client.cluster_status().await?)?),
    }
}

async fn put<W: Write>(client: &Client, printer: &mut Printer<W>, args: PutArgs) -> Result<(), Failure> {
    let value = match (args.file, args.value) {
        (Some(path), _) => {
            let file = fs::File::open(&path)
                .map_err(|error| Failure::Failed(format!("opening {}: {error}", path.display())))?;
            read_value(file, &path.display().to_string())?
        }
        (None, Some(value)) if value == "-" => read_value(io::stdin().lock(), "standard input")?,
        (None, value) => Bytes::from(value.unwrap_or_default().into_vec()),
    };
    let condition = match (args.if_absent, args.if_present, args.if_seq) {
        (true, ..) => Some(Condition::Absent),
        (_, true, _) => Some(Condition::Present),
        (_, _, seq) => seq.map(Condition::At),
    };
    let options = WriteOptions { condition, idempotency_key: args.idempotency_key };
    let key = args.key.into_vec();
    let written = client.put(&key, value, &options).await?;
    Ok(printer.written(&key, written)?)
}

/// Reads a whole value, but never more than a value may have.
fn read_value(source: impl Read, name: &str) -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    source
        .take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut value)
        .map_err(|error| Failure::Failed(format!("reading {name}: {error}")))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::Failed(format!(
            "{name} is longer than a value may be ({VALUE_BYTES_MAX} bytes)"
        )));
    }
    Ok(Bytes::from(value))
}

async fn get<W: Write>(client: &Client, printer: &mut Printer<W>, args: GetArgs) -> Result<(), Failure> {
    let consistency = args.consistency.map(|consistency| match consistency {
        ConsistencyArg::Linearizable => Consistency::Linearizable,
        ConsistencyArg::Lease => Consistency::Lease,
        ConsistencyArg::Stale => Consistency::Stale,
    });
    let options = ReadOptions { consistency, at: args.at.map(Seq) };
    let key = args.key.into_vec();
    let Some(path) = args.output else {
        return match printer.format() {
            Format::Table => Ok(printer.raw(&client.get(&key, &options).await?.bytes)?),
            Format::Json => Ok(printer.item(&client.get_item(&key, &options).await?)?),
        };
    };
    let value = client.get(&key, &options).await?;
    fs::write(&path, &value.bytes)
        .map_err(|error| Failure::Failed(format!("writing {}: {error}", path.display())))
}

async fn delete<W: Write>(
    client: &Client,
    printer: &mut Printer<W>,
    args: DeleteArgs,
) -> Result<(), Failure> {
    let condition = if args.if_present { Some(Condition::Present) } else { args.if_seq.map(Condition::At) };
    let options = WriteOptions { condition, idempotency_key: args.idempotency_key };
    let key = args.key.into_vec();
    let written = client.delete(&key, &options).await?;
    Ok(printer.written(&key, written)?)
}

async fn list<W: Write>(client: &Client, printer: &mut Printer<W>, args: ListArgs) -> Result<(), Failure> {
    let mut left = if args.all { usize::MAX } else { args.limit };
    let mut query = ScanQuery {
        prefix: args.prefix.map(OsString::into_vec).unwrap_or_default(),
        start: args.start.map(OsString::into_vec),
        end: args.end.map(OsString::into_vec),
        limit: None,
        cursor: args.cursor,
        keys_only: args.keys_only,
    };
    printer.begin_items(args.keys_only)?;
    loop {
        query.limit = Some(left.min(PAGE_KEYS_MAX));
        let page = client.scan(&query).await?;
        for item in page.items.iter().take(left) {
            printer.list_item(item)?;
        }
        left = left.saturating_sub(page.items.len());
        query.cursor = page.next_cursor;
        if query.cursor.is_none() || left == 0 {
            break;
        }
    }
    printer.end_items(query.cursor.as_deref())?;
    if printer.format() == Format::Table
        && let Some(cursor) = query.cursor
    {
        let _ = writeln!(
            io::stderr().lock(),
            "scribe: there are more keys; go on with --cursor '{cursor}', or use --all"
        );
    }
    Ok(())
}

async fn history<W: Write>(
    client: &Client,
    printer: &mut Printer<W>,
    args: HistoryArgs,
) -> Result<(), Failure> {
    let key = args.key.into_vec();
    let mut versions = client.history(&key, Some(args.limit), args.before.map(Seq)).await?;
    versions.truncate(args.limit);
    Ok(printer.history(&key, &versions)?)
}

/// How long a watch waits before it connects again.
const RESUME_AFTER: Duration = Duration::from_secs(1);

async fn watch<W: Write>(client: &Client, printer: &mut Printer<W>, args: WatchArgs) -> Result<(), Failure> {
    let prefix = args.prefix.map(OsString::into_vec).unwrap_or_default();
    let mut watch = client.watch(args.from.map(Seq), &prefix).await?;
    printer.begin_records()?;
    let mut left = args.limit.unwrap_or(usize::MAX);
    while left > 0 {
        match watch.next().await {
            Ok(record) => {
                printer.record(&record)?;
                left -= 1;
                // Whoever reads along is not to wait for a buffer to fill.
                if !watch.has_more() {
                    printer.flush()?;
                }
            }
            Err(error) if error.is_retryable() => {
                let _ = writeln!(io::stderr().lock(), "scribe: {error}; going on when it is back");
                resume(&mut watch).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Connects until it works, or never will.
async fn resume(watch: &mut Watch) -> Result<(), ClientError> {
    loop {
        tokio::time::sleep(RESUME_AFTER).await;
        match watch.resume().await {
            Err(error) if error.is_retryable() => {}
            ended => return ended,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.parse().map_err(|_| "expected a number of seconds, such as 5 or 0.5".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && seconds <= 86_400.0 => Ok(duration),
        _ => Err("expected more than 0 and at most 86400 seconds".to_owned()),
    }
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or_else(|| "expected a whole number from 1".to_owned())
}

fn idempotency_key(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > IDEMPOTENCY_KEY_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(format!("expected 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes of printable text"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"scribe").chain(arguments))
    }

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_exit_with_two() {
        for arguments in [
            &["put", "k"][..],
            &["put", "k", "v", "--file", "f"],
            &["put", "k", "v", "--if-absent", "--if-seq", "3"],
            &["put", "k", "v", "--idempotency-key", ""],
            &["list", "--limit", "0"],
            &["list", "--all", "--limit", "3"],
            &["--timeout", "0", "health"],
            &["--timeout", "nan", "health"],
            &["--protocol", "carrier-pigeon", "health"],
            &["verify", "dir", "--url", "http://h:1"],
            &["verify", "dir", "--state", "f"],
            &["verify", "--checkpoint", "f"],
            &["verify", "--key", "not-a-key"],
            &["verify", "--samples", "-1"],
            &["reindex"],
            &["watch", "--from", "-1"],
            &["watch", "--limit", "0"],
        ] {
            assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
        for arguments in [
            &["--protocol", "grpc", "health"][..],
            &["--server", "https://h", "health"],
            &["get", ""],
            &["verify", "/nowhere/at/all"],
            &["verify", "dir", "--checkpoint", "f"],
            &["verify", "--url", "https://h"],
            &["reindex", "--data-dir", "/nowhere/at/all"],
        ] {
            assert_eq!(run(parse(arguments).unwrap()), 2, "{arguments:?}");
        }
    }

    #[test]
    fn global_options_may_stand_behind_the_command() {
        let cli =
            parse(&["get", "k", "--server", "http://h:1", "--format", "json", "--timeout", "0.5"]).unwrap();
        assert_eq!((cli.server.as_str(), cli.format), ("http://h:1", Format::Json));
        assert_eq!(cli.timeout, Duration::from_millis(500));
        assert!(matches!(parse(&["put", "k", "-5"]).unwrap().command, Command::Call(Call::Put(_))));
        assert!(matches!(parse(&["put", "k", "--", "--v"]).unwrap().command, Command::Call(Call::Put(_))));
    }

    #[test]
    fn a_server_that_is_not_there_is_a_failure() {
        assert_eq!(run(parse(&["--server", "http://127.0.0.1:1", "health"]).unwrap()), 1);
    }

    #[test]
    fn a_value_is_read_up_to_its_bound() {
        assert!(read_value(io::repeat(1), "endless").is_err());
        assert_eq!(read_value(&b"x"[..], "one").ok().as_deref(), Some(&b"x"[..]));
    }
}
