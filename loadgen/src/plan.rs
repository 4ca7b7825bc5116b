//! What the command line means: arguments become a [`Plan`], or a message that says what does not go together.

use std::{path::PathBuf, time::Duration};

use serde_json::{Map, Value as Json};

use crate::{
    args::{
        BulkArgs, CasArgs, Command, Common, Consistency, GetArgs, MixedArgs, PutArgs, Reads, Truthful, Values,
    },
    http::Target,
    run::{
        Http, Limit, Plan, Workload,
        pacing::{Arrivals, Pace},
    },
    sweep::Search,
    workload::{
        Records,
        keys::{Keys, Order},
        requests::{self, Format},
        values,
    },
};

/// Bytes of one bulk request: the server's default limit.
const BULK_BYTES_MAX: usize = 128 << 20;
const KEY_SPACE_DEFAULT: u64 = 1_000_000;
const CAS_KEY_SPACE_DEFAULT: u64 = 10_000;
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
const STEP_DEFAULT: Duration = Duration::from_secs(3);
const STREAMS_DEFAULT: u16 = 16;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Task {
    pub plan: Plan,
    /// Write every key first.
    pub fill: bool,
    /// Read everything back afterwards.
    pub verify: bool,
    pub sweep: Option<Search>,
    pub json: bool,
    /// Where to write a page about it.
    pub report: Option<PathBuf>,
    /// Say nothing while it runs, unless on a terminal.
    pub quiet: bool,
    /// The plan in words, in the order in which it is shown.
    pub about: Map<String, Json>,
}

/// What a workload's command is to do.
///
/// # Errors
/// When its arguments do not go together, or it is no workload.
pub fn task_of(command: &Command) -> Result<Task, String> {
    match command {
        Command::Put(args) => put(args),
        Command::Bulk(args) => bulk(args),
        Command::Get(args) => get(args),
        Command::Mixed(args) => mixed(args),
        Command::Cas(args) => cas(args),
        Command::Embedded(_) | Command::Load(_) | Command::Verify(_) | Command::Check(_) => {
            Err("this is no workload of servers".to_owned())
        }
    }
}

/// What the workloads have besides [`Common`].
struct Parts<'a> {
    name: &'static str,
    workload: Workload,
    values: &'a Values,
    reads: Option<&'a Reads>,
    truthful: Option<&'a Truthful>,
    fill: bool,
}

fn put(args: &PutArgs) -> Result<Task, String> {
    let (values, truthful) = (&args.values, Some(&args.truthful));
    let parts = Parts { name: "put", workload: Workload::Put, values, reads: None, truthful, fill: false };
    task(&args.common, &parts)
}

fn get(args: &GetArgs) -> Result<Task, String> {
    let (values, reads, fill) = (&args.values, Some(&args.reads), args.fill.fill);
    if args.common.leader_aware {
        return Err("--leader-aware is for writes: any node answers reads itself".to_owned());
    }
    task(&args.common, &Parts { name: "get", workload: Workload::Get, values, reads, truthful: None, fill })
}

fn mixed(args: &MixedArgs) -> Result<Task, String> {
    let (values, reads, fill) = (&args.values, Some(&args.reads), args.fill.fill);
    let workload = Workload::Mixed { read_ratio: args.read_ratio };
    let truthful = Some(&args.truthful);
    task(&args.common, &Parts { name: "mixed", workload, values, reads, truthful, fill })
}

fn cas(args: &CasArgs) -> Result<Task, String> {
    let (values, truthful) = (&args.values, Some(&args.truthful));
    let workload = Workload::Cas { create_only: args.create_only };
    task(&args.common, &Parts { name: "cas", workload, values, reads: None, truthful, fill: false })
}

fn bulk(args: &BulkArgs) -> Result<Task, String> {
    let (values, truthful, common) = (&args.values, Some(&args.truthful), &args.common);
    let records = u64::from(args.batch);
    let workload = match &args.file {
        None => Workload::Bulk { records, format: args.format.unwrap_or(Format::Binary) },
        Some(_) => {
            let again = common.length.count.is_some() || common.length.duration.is_some();
            Workload::File { records, again, records_max: common.length.count }
        }
    };
    if args.file.is_some() && common.pacing.sweep {
        return Err("--sweep needs records without end: it does not go with --file".to_owned());
    }
    if args.file.is_some() && common.length.count.is_some() && !common.length.warmup.is_zero() {
        return Err(
            "--file with --count counts from its first record: it does not go with --warmup".to_owned()
        );
    }
    let mut task =
        task(common, &Parts { name: "bulk", workload, values, reads: None, truthful, fill: false })?;
    if let Some(file) = &args.file {
        task.plan.file = Some(file.clone());
        task.plan.limit = common.length.duration.map_or(Limit::File, Limit::Time);
        for key in ["keys", "key_space", "key_bytes", "value_bytes"] {
            task.about.shift_remove(key);
        }
        task.about.insert("file".to_owned(), file.display().to_string().into());
    }
    Ok(task)
}

fn task(common: &Common, parts: &Parts<'_>) -> Result<Task, String> {
    let workload = parts.workload;
    let records = records(common, workload, parts.values)?;
    let targets = common.url.iter().map(|url| Target::resolve(url)).collect::<Result<Vec<_>, _>>()?;
    let http = match (common.http, common.pipeline, common.streams) {
        (2, Some(_), _) => return Err("--pipeline is for HTTP/1.1; with --http 2 say --streams".to_owned()),
        (2, None, streams) => Http::Two { streams: usize::from(streams.unwrap_or(STREAMS_DEFAULT)) },
        (_, _, Some(_)) => return Err("--streams needs --http 2; with HTTP/1.1 say --pipeline".to_owned()),
        (_, depth, None) => Http::One { depth: usize::from(depth.unwrap_or(1)) },
    };
    let pacing = &common.pacing;
    if pacing.arrivals.is_some() && pacing.rate.is_none() && !pacing.sweep {
        return Err("--arrivals needs an open loop: --rate or --sweep".to_owned());
    }
    let bounds_a_sweep = pacing.p99_max.is_some() || pacing.from.is_some() || pacing.to.is_some();
    if bounds_a_sweep && !pacing.sweep {
        return Err("--p99-max, --from and --to are for --sweep".to_owned());
    }
    let arrivals = pacing.arrivals.unwrap_or(Arrivals::Constant);
    let sweep = if pacing.sweep { Some(Search::new(pacing)?) } else { None };
    let truthful = parts.truthful;
    let verify = truthful.is_some_and(|truthful| truthful.verify);
    let journal = truthful.and_then(|truthful| truthful.journal.clone());
    if sweep.is_some() && (verify || journal.is_some()) {
        return Err("--sweep is many runs: it does not go with --verify and --journal".to_owned());
    }
    if sweep.is_some() && common.output.report.is_some() {
        return Err("--report is about one run: it does not go with --sweep".to_owned());
    }
    let batch = matches!(workload, Workload::Bulk { .. } | Workload::File { .. });
    let duration =
        common.length.duration.unwrap_or(if sweep.is_some() { STEP_DEFAULT } else { DURATION_DEFAULT });
    let plan = Plan {
        workload,
        targets,
        leader_aware: common.leader_aware,
        connections: usize::from(common.connections.unwrap_or(if batch { 4 } else { 64 })),
        threads: usize::from(common.threads),
        http,
        pace: pacing.rate.map(|rate| Pace { rate, arrivals }),
        limit: common.length.count.map_or(Limit::Time(duration), Limit::Count),
        warmup: common.length.warmup,
        timeout: common.patience.timeout,
        stall: common.patience.stall,
        records,
        first_write: 0,
        file: None,
        read_query: Consistency::query(parts.reads.and_then(|reads| reads.consistency)).to_owned(),
        seed: common.choice.seed,
        server_pid: common.server_pid,
        keep: verify,
        journal,
    };
    let about = about(parts.name, common, &plan);
    Ok(Task {
        plan,
        fill: parts.fill,
        verify,
        sweep,
        json: common.output.json,
        report: common.output.report.clone(),
        quiet: common.output.quiet,
        about,
    })
}

fn records(common: &Common, workload: Workload, values: &Values) -> Result<Records, String> {
    let order = common.choice.keys.unwrap_or(match workload {
        Workload::Get | Workload::Cas { .. } => Order::Uniform,
        _ => Order::Sequential,
    });
    let space = common.choice.key_space.or(match (workload, order) {
        (Workload::Cas { create_only: false }, _) => Some(CAS_KEY_SPACE_DEFAULT),
        (Workload::Get | Workload::Mixed { .. }, _) => Some(KEY_SPACE_DEFAULT),
        (_, Order::Uniform) => Some(common.length.count.unwrap_or(KEY_SPACE_DEFAULT)),
        (_, Order::Zipfian(_)) => Some(KEY_SPACE_DEFAULT),
        (_, Order::Sequential) => None,
    });
    let keys = Keys::new(common.choice.key_bytes, space, order, common.choice.seed)?;
    let text = matches!(workload, Workload::Bulk { format: Format::Ndjson, .. });
    let records = Records { keys, values: values::Values::new(common.choice.seed, values.value_bytes, text) };
    if let Workload::Bulk { records: batch, format } = workload {
        let longest = values::Sizes { min: values.value_bytes.max, ..values.value_bytes };
        let at_most = Records { values: values::Values::new(0, longest, text), ..records.clone() };
        let bytes = requests::batch_bytes(&at_most, format, 0, batch);
        if bytes > BULK_BYTES_MAX {
            return Err(format!(
                "--batch: one request would have {bytes} bytes, the limit is {BULK_BYTES_MAX}"
            ));
        }
    }
    Ok(records)
}

fn about(name: &str, common: &Common, plan: &Plan) -> Map<String, Json> {
    let mut about = Map::new();
    let mut say = |key: &str, value: Json| _ = about.insert(key.to_owned(), value);
    say("command", name.into());
    say("url", common.url.join(",").into());
    if plan.leader_aware {
        say("leader_aware", true.into());
    }
    say("connections", plan.connections.into());
    say("threads", plan.threads.into());
    match plan.http {
        Http::One { depth: 1 } => say("http", "1.1".into()),
        Http::One { depth } => {
            say("http", "1.1".into());
            say("pipeline", depth.into());
        }
        Http::Two { streams } => {
            say("http", "2".into());
            say("streams", streams.into());
        }
    }
    match plan.pace {
        None => say("loop", "closed".into()),
        Some(pace) => {
            say("loop", "open".into());
            say("rate", pace.rate.into());
            let arrivals = if pace.arrivals == Arrivals::Poisson { "poisson" } else { "constant" };
            say("arrivals", arrivals.into());
        }
    }
    if !plan.warmup.is_zero() {
        say("warmup_secs", plan.warmup.as_secs_f64().into());
    }
    say("keys", plan.records.keys.order().to_string().into());
    say("key_space", plan.records.keys.space().into());
    say("key_bytes", common.choice.key_bytes.into());
    let sizes = plan.records.values.sizes;
    say("value_bytes", if sizes.min == sizes.max { sizes.min.into() } else { sizes.to_string().into() });
    match plan.workload {
        Workload::Bulk { records, format } => {
            say("batch", records.into());
            say("format", if format == Format::Ndjson { "ndjson" } else { "binary" }.into());
        }
        Workload::File { records, .. } => say("batch", records.into()),
        Workload::Mixed { read_ratio } => say("read_ratio", read_ratio.into()),
        Workload::Cas { create_only } => say("create_only", create_only.into()),
        Workload::Put | Workload::Get => {}
    }
    if !plan.read_query.is_empty() {
        say("consistency", plan.read_query.trim_start_matches("?consistency=").into());
    }
    say("seed", plan.seed.into());
    if let Some(journal) = &plan.journal {
        say("journal", journal.display().to_string().into());
    }
    about
}

/// The plan that writes every key of another once, so that its reads find something.
pub fn filling(plan: &Plan) -> Plan {
    let keys = &plan.records.keys;
    let longest = plan.records.values.sizes.max + keys.key_bytes() + 8;
    let records = (BULK_BYTES_MAX / 32 / longest).clamp(1, 4096) as u64;
    let mut records_of_all = plan.records.clone();
    records_of_all.keys = keys.in_sequence();
    Plan {
        workload: Workload::Bulk { records, format: Format::Binary },
        connections: 4,
        http: Http::One { depth: 1 },
        pace: None,
        limit: Limit::Count(keys.space()),
        warmup: Duration::ZERO,
        records: records_of_all,
        keep: false,
        journal: None,
        ..plan.clone()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn task_of(arguments: &str) -> Result<Task, String> {
        let arguments = std::iter::once("scribe-loadgen").chain(arguments.split(' '));
        super::task_of(&Cli::try_parse_from(arguments).map_err(|error| error.to_string())?.command)
    }

    #[test]
    fn plans_have_their_defaults() {
        let bulk = task_of("bulk --count 10 --keys uniform").unwrap().plan;
        assert_eq!((bulk.connections, bulk.limit, bulk.records.keys.space()), (4, Limit::Count(10), 10));
        let get = task_of("get --consistency lease").unwrap().plan;
        assert_eq!((get.connections, get.records.keys.space()), (64, KEY_SPACE_DEFAULT));
        assert_eq!(get.records.keys.order(), Order::Uniform);
        let lease = "?consistency=lease";
        assert_eq!((get.read_query.as_str(), get.limit), (lease, Limit::Time(DURATION_DEFAULT)));
        let sweep = task_of("put --sweep").unwrap();
        assert_eq!(sweep.plan.limit, Limit::Time(STEP_DEFAULT));
        let file = task_of("bulk --file f").unwrap().plan;
        assert_eq!(file.limit, Limit::File);
        assert!(matches!(file.workload, Workload::File { again: false, .. }));
        let file = task_of("bulk --file f --count 7").unwrap().plan;
        assert!(matches!(file.workload, Workload::File { again: true, records_max: Some(7), .. }));
        let two =
            task_of("put --url http://127.0.0.1:1,http://127.0.0.1:2 --url http://127.0.0.1:3").unwrap();
        assert_eq!(two.plan.targets.len(), 3);
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        for (bad, part) in [
            ("put --value-bytes 99999999999", "64 MiB"),
            ("put --url ftp://h", "ftp"),
            ("bulk --batch 4000000", "--batch"),
            ("put --key-bytes 0", "--key-bytes"),
            ("put --pipeline 2 --http 2", "--streams"),
            ("put --streams 2", "--http 2"),
            ("put --arrivals poisson", "--rate"),
            ("put --sweep --verify", "--sweep"),
            ("put --sweep --report x.html", "--report"),
            ("put --sweep --from 10 --to 5", "--to"),
            ("put --sweep --rate 5", "--rate"),
            ("put --from 5", "--sweep"),
            ("put --count 5 --duration 5", "--duration"),
            ("put --rate 0", "requests a second"),
            ("put --http 3", "3"),
            ("bulk --file f --sweep", "--file"),
            ("bulk --file f --format ndjson", "--format"),
            ("bulk --file f --count 5 --warmup 1", "--warmup"),
            ("get --leader-aware", "any node"),
            ("get --journal j", "--journal"),
            ("mixed --read-ratio 1.5", "0 to 1"),
        ] {
            let why = task_of(bad).err().unwrap_or_else(|| panic!("{bad} was taken"));
            assert!(why.contains(part), "{bad}: {why}");
        }
    }

    #[test]
    fn filling_writes_every_key_once_whatever_the_order() {
        let task = task_of("get --keys zipfian --key-space 100 --fill").unwrap();
        let plan = filling(&task.plan);
        assert_eq!((plan.limit, plan.records.keys.of_write(99)), (Limit::Count(100), 99));
    }
}
