//! `scribe-loadgen`: puts load on Scribe Ledger nodes and says what they bore, loads files into them, and
//! checks that what they acknowledged is there.
//!
//! `args` is what can be asked for, `plan` what it means; `run`, `sweep`, `load`, `verify` and `truth` carry it
//! out, `embedded` without any server, `check` holds runs against targets, and `report` shows what was measured.
//! The program shares the machine's cores with the server it measures, so it speaks raw HTTP and runs on one
//! thread by default.

mod args;
mod check;
mod embedded;
mod http;
mod journal;
mod ledger;
mod lines;
mod load;
mod machine;
mod measured;
mod observe;
mod plan;
mod process;
mod progress;
mod report;
mod run;
mod scrape;
mod server;
mod signals;
mod sweep;
mod truth;
mod verify;
mod workload;

use std::{
    fmt,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::Parser;
use serde_json::{Value as Json, json};

use crate::{
    args::{Cli, Command, Consistency, EmbeddedArgs, LoadArgs, Output, VerifyArgs},
    http::{Patience, Target},
    load::LoadPlan,
    machine::Machine,
    measured::{Measured, Truth},
    observe::{Observer, Silent},
    plan::Task,
    progress::Bar,
    report::Page,
    run::{Outcome, Plan},
    signals::{Signal, Signals},
    verify::VerifyPlan,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const URL_DEFAULT: &str = "http://127.0.0.1:8001";

/// Open files beside the connections: a runtime and a timer of each thread, and the rest with some to spare.
const FILES_OF_A_THREAD: usize = 4;
const OTHER_FILES: usize = 24;

/// Why the program ends without having done what it was asked.
enum Failure {
    /// Exit code 2: nothing was sent.
    Usage(String),
    /// Exit code 1.
    Failed(String),
    /// Somebody asked for its end.
    Interrupted(Signal, &'static str),
}

impl Failure {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
            Self::Interrupted(signal, _) => signal.exit_code(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Failed(why) => f.write_str(why),
            Self::Interrupted(signal, what) => write!(f, "interrupted by {signal}: {what}"),
        }
    }
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
        Command::Verify(args) => match args.journal.clone() {
            Some(journal) => verify_journal(&journal, args),
            None => verify(args),
        },
        Command::Check(args) => check::check(&args),
        Command::Embedded(args) => run_embedded(&args),
        workload => perform(plan::task_of(&workload)),
    };
    outcome.unwrap_or_else(|failure| {
        note(&failure.to_string());
        ExitCode::from(failure.exit_code())
    })
}

/// Carries a task out: a run, or a sweep of runs.
fn perform(task: Result<Task, String>) -> Result<ExitCode, Failure> {
    let task = task.map_err(Failure::Usage)?;
    if let Some(journal) = task.plan.journal.as_ref().filter(|journal| journal.exists()) {
        let why = format!("--journal {}: there is such a file; a journal needs a new one", journal.display());
        return Err(Failure::Usage(why));
    }
    if let Some(path) = &task.report {
        report::try_page(path).map_err(Failure::Usage)?;
    }
    let Plan { targets, timeout, connections, threads, .. } = &task.plan;
    let files = (connections + threads * FILES_OF_A_THREAD + OTHER_FILES) as u64;
    if let Some(allowed) = process::allow_open_files(files) {
        return Err(Failure::Usage(format!(
            "--connections {connections} needs {files} open files, {allowed} are allowed: raise the limit (ulimit -n)"
        )));
    }
    block_on(async { ledger::agree(targets, None, *timeout).await.map_err(Failure::Usage) })?;
    if task.fill {
        fill_keys(&task)?;
    }
    if let Some(search) = task.sweep {
        let json = task.json;
        let say = |line: &str| if json { Ok(()) } else { print(line).map_err(|failure| failure.to_string()) };
        let swept = sweep::sweep(task, search, say).map_err(Failure::Failed)?;
        if json {
            print(&swept.document.to_string())?;
        }
        return match swept.interrupted {
            Some(signal) => Err(Failure::Interrupted(signal, "the search was not finished")),
            None if swept.borne => Ok(ExitCode::SUCCESS),
            None => Ok(ExitCode::FAILURE),
        };
    }
    measure(task)
}

/// Runs a task and shows what it measured.
fn measure(task: Task) -> Result<ExitCode, Failure> {
    let mut bar = Bar::new(task.quiet || task.json);
    let (measured, failure) = carry_out(&task, &mut bar)?;
    show(task.report.as_deref(), task.json, &measured)?;
    judge(&measured, failure)
}

/// Whether the run is good: something was answered, and nothing that was acknowledged is lost or wrong.
fn judge(measured: &Measured, failure: Option<Failure>) -> Result<ExitCode, Failure> {
    let answered = measured.reads.is_some() || measured.writes.is_some() || measured.precondition_failed > 0;
    let broken = matches!(&measured.truth, Some(Ok(truth)) if !truth.holds());
    match failure {
        Some(failure @ Failure::Interrupted(..)) if broken => {
            note(&failure.to_string());
            Ok(ExitCode::FAILURE)
        }
        Some(failure) => Err(failure),
        None if measured.nothing_written() => {
            Err(Failure::Failed("in the measured time, not one write was acknowledged".to_owned()))
        }
        None if answered && !broken => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::FAILURE),
    }
}

/// Runs a workload in this process and shows what it measured.
fn run_embedded(args: &EmbeddedArgs) -> Result<ExitCode, Failure> {
    let plan = embedded::Plan::of(args).map_err(Failure::Usage)?;
    let Output { json, report, quiet } = &args.output;
    let measured = embedded::run(&plan, &mut Bar::new(*quiet || *json)).map_err(Failure::Failed)?;
    show(report.as_deref(), *json, &measured)?;
    judge(&measured, None)
}

/// Runs a task, and reads back what was acknowledged if that is a part of it. Gives also why the run ended
/// before its time, if it did.
fn carry_out(task: &Task, observer: &mut dyn Observer) -> Result<(Measured, Option<Failure>), Failure> {
    let Outcome { mut measured, late_us, spec, entries, writes_end, failure, interrupted } =
        run::run(task.plan.clone(), observer).map_err(Failure::Failed)?;
    let mut failure = failure.map(Failure::Failed);
    measured.plan = task.about.clone();
    if let Some([p50, p99, max]) = late_us {
        measured.plan.insert("sent_late_us".to_owned(), json!({"p50": p50, "p99": p99, "max": max}));
    }
    if let Some(signal) = interrupted {
        failure.get_or_insert(Failure::Interrupted(signal, "the report says what was done until then"));
        measured.plan.insert("interrupted".to_owned(), true.into());
    }
    if let Some(spec) = spec.filter(|_| task.verify) {
        let targets = task.plan.targets.clone();
        let entries = match &task.plan.journal {
            // What the file says is what has to be there.
            Some(path) => journal::reader::open(path).map(|journal| journal.entries),
            None => Ok(entries),
        };
        let patience = task.plan.patience();
        let question = |entries| truth::Question { spec, entries, writes_end, targets, patience };
        // What was measured is worth showing even when nothing can be read any more.
        match entries.map_err(Failure::Failed).and_then(|entries| block_on(read_back(question(entries)))) {
            Ok(truth) => measured.truth = Some(Ok(truth)),
            Err(not_checked) => {
                measured.truth = Some(Err(not_checked.to_string()));
                let after_the_run = match not_checked {
                    Failure::Usage(why) => Failure::Failed(why),
                    failure => failure,
                };
                failure.get_or_insert(after_the_run);
            }
        }
    }
    Ok((measured, failure))
}

/// A workload told in the words of the command line.
enum Understood {
    OfServers(Box<Task>),
    Embedded(Box<embedded::Plan>),
}

fn understood(arguments: &[String]) -> Result<Understood, String> {
    let arguments = std::iter::once("scribe-loadgen").chain(arguments.iter().map(String::as_str));
    Ok(match Cli::try_parse_from(arguments).map_err(|error| error.to_string())?.command {
        Command::Embedded(args) => Understood::Embedded(Box::new(embedded::Plan::of(&args)?)),
        of_servers => Understood::OfServers(Box::new(plan::task_of(&of_servers)?)),
    })
}

/// What such a workload measures.
fn measured_by(arguments: &[String], observer: &mut dyn Observer) -> Result<Measured, String> {
    let task = match understood(arguments)? {
        Understood::Embedded(plan) => return embedded::run(&plan, observer),
        Understood::OfServers(task) => task,
    };
    let outcome =
        (if task.fill { fill_keys(&task) } else { Ok(()) }).and_then(|()| carry_out(&task, observer));
    match outcome {
        Ok((measured, None)) => Ok(measured),
        Ok((_, Some(failure))) | Err(failure) => Err(failure.to_string()),
    }
}

/// Prints a run's report, and writes its page.
fn show(report: Option<&Path>, as_json: bool, measured: &Measured) -> Result<(), Failure> {
    let machine = Machine::this();
    if as_json {
        print(&report::json(measured, &machine).to_string())?;
    } else {
        print(&report::table(measured, &machine))?;
    }
    let Some(path) = report else { return Ok(()) };
    report::write_page(path, &Page::of_run(measured, &machine).html()).map_err(Failure::Failed)
}

/// Writes every key once, so that reads find something.
fn fill_keys(task: &Task) -> Result<(), Failure> {
    let filling = plan::filling(&task.plan);
    let records = filling.records.keys.space();
    note(&format!("writing {records} keys first"));
    let outcome = run::run(filling, &mut Silent).map_err(Failure::Failed)?;
    if let Some(signal) = outcome.interrupted {
        return Err(Failure::Interrupted(signal, "the keys were not all written"));
    }
    let written = outcome.measured.writes.as_ref().map_or(0, |writes| writes.records);
    if written != records {
        let why = outcome.failure.or_else(|| outcome.measured.most_frequent_failure()).unwrap_or_default();
        return Err(Failure::Failed(format!(
            "filling the key space failed: {written} of {records} written: {why}"
        )));
    }
    Ok(())
}

/// Reads back what was acknowledged, unless somebody asks for the end.
async fn read_back(question: truth::Question) -> Result<Truth, Failure> {
    let failed = |error| Failure::Failed(format!("catching signals: {error}"));
    let mut signals = Signals::listen().map_err(failed)?;
    let (targets, cluster_id) = (question.targets.clone(), question.spec.cluster_id.clone());
    let timeout = question.patience.timeout;
    let agree =
        || async { ledger::agree(&targets, cluster_id.as_deref(), timeout).await.map_err(Failure::Usage) };
    // Other servers may listen there by now.
    if let Some(end) = agree().await? {
        note(&format!(
            "this ledger was restored, and goes on from that of the journal behind its first {end} records: \
             whatever was acknowledged at later positions is not in it, and is counted as lost"
        ));
    }
    let truth = tokio::select! {
        truth = truth::check(question) => truth.map_err(Failure::Failed)?,
        signal = signals.next() => return Err(Failure::Interrupted(signal, "not everything was read back")),
    };
    if !truth.holds() {
        // Before that is said: one that was starting did not say which ledger it is of.
        agree().await?;
    }
    Ok(truth)
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("the runtime did not start: {error}")))?;
    runtime.block_on(work)
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
    let loaded = block_on(async { load::load(plan).await.map_err(Failure::Failed) })?;
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
    let url = args.url.unwrap_or_else(|| URL_DEFAULT.to_owned());
    let plan = VerifyPlan {
        target: Target::resolve(&url).map_err(Failure::Usage)?,
        url,
        file: args.file.unwrap_or_default(),
        connections: usize::from(args.connections),
        patience: args.patience.into(),
        first_seq: args.first_seq,
        in_order: args.in_order,
        read_query: Consistency::query(args.reads.consistency).to_owned(),
    };
    let verdict = block_on(async { verify::verify(plan).await.map_err(Failure::Failed) })?;
    if args.json {
        let document: Json = json!({
            "command": "verify", "good": verdict.is_good(), "records": verdict.records,
            "missing": verdict.missing, "wrong": verdict.wrong, "bad_seqs": verdict.bad_seqs,
            "shifted_to": verdict.shifted_to,
            "unexpected_total_records": verdict.total_records, "differences": verdict.shown,
        });
        print(&document.to_string())?;
    } else {
        print(&verdict.text())?;
    }
    Ok(if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verify_journal(path: &Path, args: VerifyArgs) -> Result<ExitCode, Failure> {
    let journal = journal::reader::open(path).map_err(Failure::Failed)?;
    if let Some(warning) = journal.warning() {
        note(&format!("{}: {warning}", path.display()));
    }
    let url = args.url.unwrap_or_else(|| journal.spec.url.clone());
    let targets = vec![Target::resolve(&url).map_err(Failure::Usage)?];
    let patience = Patience::from(args.patience);
    let (spec, entries) = (journal.spec, journal.entries);
    let question = truth::Question { spec, entries, writes_end: 0, targets, patience };
    let truth = block_on(read_back(question))?;
    if args.json {
        let mut document = truth::json(&truth);
        document["command"] = "verify".into();
        document["torn_bytes"] = journal.torn_bytes.into();
        document["closed"] = journal.closed.into();
        print(&document.to_string())?;
    } else {
        print(&truth::text(&truth))?;
    }
    Ok(if truth.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
