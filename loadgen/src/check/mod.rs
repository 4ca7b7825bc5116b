//! `scribe-loadgen check`: is the ledger as fast as it has to be?
//!
//! Takes a file of targets, starts real nodes, runs each workload, and says which targets are reached.
//! Workloads are run by the same engine as from the command line (`engine`); this owns their order, the nodes
//! (`node`) and the verdicts (`judge`).

mod engine;
mod judge;
mod node;
mod show;
mod targets;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use self::{
    judge::Outcome,
    node::{Node, Nodes},
    show::Summary,
    targets::{Kind, Target},
};
use crate::{
    Failure, Machine,
    measured::Measured,
    note, print,
    report::{self, Page},
    signals::Signals,
};
use clap::Args;

const TARGETS: &str = "configs/targets.toml";

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The targets [default: configs/targets.toml here, above here, or above this program].
    #[arg(long, value_name = "FILE")]
    targets: Option<PathBuf>,
    /// Start ledgers of up to this many nodes; targets that want more are only listed.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=3))]
    spawn: u16,
    /// Profile of the nodes' configuration [default: the node's own].
    #[arg(long)]
    profile: Option<String>,
    /// Run only a few records of each workload, and judge only whether every answer is right.
    #[arg(long)]
    quick: bool,
    /// Check only these targets.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    only: Vec<String>,
    /// The node's program [default: scribe-node beside this program].
    #[arg(long, value_name = "PATH")]
    node_binary: Option<PathBuf>,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
    /// Write a page with the verdicts and every run to this file.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// A target and what became of it.
struct Checked {
    target: Target,
    outcome: Outcome,
    measured: Option<Measured>,
}

/// Stops the nodes whatever ends the check.
struct StopAll(Nodes);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.stop_all();
    }
}

/// Checks every target of the file.
///
/// # Errors
/// When the check cannot begin; what happens to a target is its verdict.
pub fn check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let file = args.targets.clone().map_or_else(targets_of_the_project, Ok).map_err(Failure::Usage)?;
    let targets = chosen(targets::read(&file).map_err(Failure::Usage)?, &args.only)?;
    if let Some(why) = nothing_to_judge(&targets, args.spawn) {
        return Err(Failure::Usage(why));
    }
    // A mistake in the last target is found before the first one has run.
    for target in targets.iter().filter(|target| missing(target, args.spawn).is_none()) {
        crate::understood(&target.arguments("http://127.0.0.1:1", args.quick))
            .map_err(|error| Failure::Usage(format!("target {:?}: {error}", target.name)))?;
    }
    let program = args.node_binary.clone().map_or_else(beside_this, Ok).map_err(Failure::Usage)?;
    let nodes = Nodes::new(&program, args.profile.as_deref()).map_err(Failure::Usage)?;
    let _stop_all = StopAll(nodes.clone());
    stop_on_signal(&nodes).map_err(Failure::Failed)?;
    if cfg!(debug_assertions) && !args.quick {
        note("this is a build for development; build with --release to judge speed");
    }

    let mut checks = Checks { args, nodes, ledger: Vec::new() };
    let mut all: Vec<Checked> = Vec::new();
    if !args.json {
        print(&show::heading())?;
    }
    let mut targets = targets.into_iter();
    while let Some(target) = targets.next() {
        let next = targets.clone().find(|target| missing(target, args.spawn).is_none());
        let checked = checks.run(target, next.is_some_and(|next| !next.fresh));
        if !args.json {
            print(&show::lines(&checked))?;
        }
        all.push(checked);
    }
    finish(args, &all)
}

fn finish(args: &CheckArgs, all: &[Checked]) -> Result<ExitCode, Failure> {
    let machine = Machine::this();
    let summary = Summary::of(all);
    if args.json {
        print(&show::json(all, &machine).to_string())?;
    } else {
        print(&format!("\n{}", summary.text(args.quick)))?;
    }
    if let Some(path) = &args.report {
        let runs = all.iter().filter_map(|checked| {
            let title = format!("{}: {}", checked.target.name, checked.target.what);
            Some((title, checked.measured.as_ref()?))
        });
        let page = Page {
            title: format!("Targets: {}", summary.text(args.quick)),
            machine: &machine,
            verdicts: all.iter().flat_map(show::verdicts).collect(),
            runs: runs.collect(),
        };
        report::write_page(path, &page.html()).map_err(Failure::Failed)?;
    }
    Ok(if summary.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One target after the other, and the nodes that the last one has left.
struct Checks<'a> {
    args: &'a CheckArgs,
    nodes: Nodes,
    ledger: Vec<Node>,
}

impl Checks<'_> {
    /// Runs a target. How its node ends is a part of its verdict, unless the node is kept for the next one.
    fn run(&mut self, target: Target, keep_node: bool) -> Checked {
        if let Some(why) = missing(&target, self.args.spawn) {
            return Checked { target, outcome: Outcome::NotYet(why), measured: None };
        }
        let (mut outcome, measured) = match self.measure(&target) {
            Ok(measured) if self.args.quick => (judge::correctness(&target, &measured), Some(measured)),
            Ok(measured) => (judge::speed(&target, &measured), Some(measured)),
            Err(why) => (Outcome::Broken(why), None),
        };
        // Whatever is wrong with a node, the next target gets another one.
        if !keep_node || matches!(outcome, Outcome::Broken(_)) {
            let stops = self.ledger.drain(..).map(|node| self.nodes.stop(&node));
            let ended = stops.fold(Ok(()), Result::and);
            outcome = match (outcome, ended) {
                (outcome, Ok(())) => outcome,
                (Outcome::Broken(why), Err(ended)) => Outcome::Broken(format!("{why}; {ended}")),
                (_, Err(ended)) => Outcome::Broken(ended),
            };
        }
        Checked { target, outcome, measured }
    }

    fn measure(&mut self, target: &Target) -> Result<Measured, String> {
        let named = |mut measured: Measured| {
            measured.plan.insert("target".to_owned(), target.name.as_str().into());
            measured
        };
        if target.kind == Kind::Embedded {
            return engine::run(target, "", self.args.quick).map(named);
        }
        if self.ledger.is_empty() {
            self.ledger = self.nodes.start_group(target.nodes)?;
        }
        let urls = self.ledger.iter().map(|node| node.url.as_str()).collect::<Vec<_>>().join(",");
        let mut measured = named(engine::run(target, &urls, self.args.quick)?);
        let commands = self.ledger.iter().map(|node| node.command.join(" ")).collect::<Vec<_>>();
        measured.plan.insert("node".to_owned(), commands.join("; ").into());
        Ok(measured)
    }
}

/// Why this cannot be run here.
fn missing(target: &Target, nodes: u16) -> Option<String> {
    match &target.needs {
        Some(needs) => Some(format!("needs {needs}")),
        None if target.nodes > nodes => Some(format!("needs --spawn {}", target.nodes)),
        None => None,
    }
}

/// Why none of these can be run, if none can: a check that judges nothing must not look like one that holds.
fn nothing_to_judge(targets: &[Target], nodes: u16) -> Option<String> {
    let why = targets.iter().map(|target| Some(format!("{} {}", target.name, missing(target, nodes)?)));
    let why: Option<Vec<String>> = why.collect();
    Some(format!("nothing can be judged: {}", why?.join(", ")))
}

fn chosen(targets: Vec<Target>, only: &[String]) -> Result<Vec<Target>, Failure> {
    if let Some(unknown) = only.iter().find(|name| targets.iter().all(|target| target.name != **name)) {
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        return Err(Failure::Usage(format!(
            "--only {unknown}: no such target; there are {}",
            names.join(", ")
        )));
    }
    Ok(targets.into_iter().filter(|target| only.is_empty() || only.contains(&target.name)).collect())
}

/// The project's own targets, wherever in it this runs.
fn targets_of_the_project() -> Result<PathBuf, String> {
    let places = [std::env::current_dir(), std::env::current_exe()];
    let mut above = places.iter().flatten().flat_map(|place| place.ancestors());
    let file = above.find_map(|dir| Some(dir.join(TARGETS)).filter(|file| file.is_file()));
    file.ok_or_else(|| {
        format!(
            "there is no {TARGETS} here, above here, or above this program: say which with --targets FILE"
        )
    })
}

fn beside_this() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    Ok(this.parent().unwrap_or(Path::new(".")).join("scribe-node"))
}

/// A person who presses Ctrl-C, or a build that is cancelled, leaves no nodes behind. The measuring thread
/// cannot be asked to stop, so the process ends here.
fn stop_on_signal(nodes: &Nodes) -> Result<(), String> {
    let failed = |error| format!("catching signals: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let nodes = nodes.clone();
    let mut signals = {
        let _entered = runtime.enter();
        Signals::listen().map_err(failed)?
    };
    thread::spawn(move || {
        let signal = runtime.block_on(signals.next());
        note(&format!("interrupted by {signal}: stopping the nodes"));
        nodes.stop_all();
        std::process::exit(signal.exit_code().into());
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, more: &str) -> Target {
        let text =
            format!("name = \"{name}\"\nwhat = \"x\"\nkind = \"put\"\nrecords_per_sec_min = 1\n{more}");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn only_what_was_chosen_is_checked() {
        let targets = || vec![target("a", ""), target("b", ""), target("c", "")];
        let Ok(some) = chosen(targets(), &["c".to_owned(), "a".to_owned()]) else { panic!() };
        let names: Vec<&str> = some.iter().map(|target| target.name.as_str()).collect();
        assert_eq!(names, ["a", "c"], "in the order of the file");
        assert_eq!(chosen(targets(), &[]).map_or(0, |all| all.len()), 3);
        let Err(Failure::Usage(why)) = chosen(targets(), &["d".to_owned()]) else { panic!() };
        assert!(why.contains("--only d") && why.contains("a, b, c"), "{why}");
    }

    #[test]
    fn what_cannot_be_run_says_what_it_needs() {
        assert_eq!(missing(&target("a", ""), 1), None);
        assert_eq!(
            missing(&target("a", "needs = \"cluster\"\nnodes = 3"), 3).as_deref(),
            Some("needs cluster")
        );
        assert_eq!(missing(&target("a", "nodes = 3"), 1).as_deref(), Some("needs --spawn 3"));
        let all = [target("a", "nodes = 3"), target("b", "needs = \"embedded\"")];
        let why = nothing_to_judge(&all, 1).unwrap();
        assert_eq!(why, "nothing can be judged: a needs --spawn 3, b needs embedded");
        assert_eq!(nothing_to_judge(&all, 3), None);
    }
}
