//! The file of targets: workloads in the words of the command line, and what they have to reach.
//!
//! Takes TOML, gives [`Target`]s; what does not belong there is refused with its name. It does not run
//! anything.

use std::{collections::BTreeSet, path::Path};

use serde::Deserialize;

/// What a target may wait for.
const NEEDS: [&str; 2] = ["cluster", "embedded"];

/// One workload and its bounds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub name: String,
    /// For people.
    pub what: String,
    /// How many nodes form the ledger.
    #[serde(default = "one")]
    pub nodes: u16,
    /// Starts on a node of its own; otherwise it goes on with the one before it.
    #[serde(default = "yes")]
    pub fresh: bool,
    /// What has to exist before this can be run.
    pub needs: Option<String>,
    pub records_per_sec_min: Option<f64>,
    pub p99_ms_max: Option<f64>,
    /// What is to be reached later.
    #[serde(default)]
    pub and_then: Bounds,

    pub kind: Kind,
    connections: Option<u16>,
    threads: Option<u16>,
    batch: Option<u32>,
    key_bytes: Option<u32>,
    value_bytes: Option<u32>,
    keys: Option<String>,
    key_space: Option<u64>,
    read_ratio: Option<f64>,
    consistency: Option<String>,
    rate: Option<f64>,
    duration: Option<f64>,
    warmup: Option<f64>,
    #[serde(default)]
    fill: bool,
    seed: Option<u64>,
}

/// A command of the load generator.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Put,
    Bulk,
    Get,
    Mixed,
    /// Without a node: reads, writes or both by `read_ratio`.
    Embedded,
    Cas,
}

/// What a run is held against.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    pub records_per_sec_min: Option<f64>,
    pub p99_ms_max: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    target: Vec<Target>,
}

const fn one() -> u16 {
    1
}

const fn yes() -> bool {
    true
}

/// Reads a file of targets.
///
/// # Errors
/// When it cannot be read or something in it is not a target; the message names the file and the key.
pub fn read(path: &Path) -> Result<Vec<Target>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("reading the targets: --targets {}: {error}", path.display()))?;
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Target>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    let mut names = BTreeSet::new();
    for target in &file.target {
        let name = &target.name;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("name = {name:?}: expected lower-case letters, digits and hyphens"));
        }
        if !names.insert(name.as_str()) {
            return Err(format!("name = {name:?} stands twice"));
        }
        target.check().map_err(|error| format!("target {name:?}: {error}"))?;
    }
    Ok(file.target)
}

impl Target {
    /// What has to be reached.
    pub const fn bounds(&self) -> Bounds {
        Bounds { records_per_sec_min: self.records_per_sec_min, p99_ms_max: self.p99_ms_max }
    }

    fn check(&self) -> Result<(), String> {
        let Bounds { records_per_sec_min, p99_ms_max } = self.bounds();
        if records_per_sec_min.or(p99_ms_max).is_none() {
            return Err("expected records_per_sec_min, p99_ms_max or both".to_owned());
        }
        for (name, bound) in [
            ("records_per_sec_min", records_per_sec_min),
            ("p99_ms_max", p99_ms_max),
            ("and_then.records_per_sec_min", self.and_then.records_per_sec_min),
            ("and_then.p99_ms_max", self.and_then.p99_ms_max),
        ] {
            if let Some(bound) = bound.filter(|bound| !(bound.is_finite() && *bound > 0.0)) {
                return Err(format!("{name} = {bound}: expected more than 0"));
            }
        }
        if let Some(needs) = self.needs.as_deref().filter(|needs| !NEEDS.contains(needs)) {
            return Err(format!("needs = {needs:?}: expected one of {}", NEEDS.join(", ")));
        }
        if self.kind == Kind::Embedded {
            let of_nodes = [
                ("nodes", self.nodes != 1),
                ("fresh", !self.fresh),
                ("connections", self.connections.is_some()),
                ("consistency", self.consistency.is_some()),
                ("rate", self.rate.is_some()),
            ];
            if let Some((name, _)) = of_nodes.iter().find(|(_, set)| *set) {
                return Err(format!("{name}: kind = \"embedded\" has no node and no connections"));
            }
        }
        match self.nodes {
            1 | 3 => Ok(()),
            nodes => Err(format!("nodes = {nodes}: expected 1 or 3")),
        }
    }

    /// Whether the workload writes.
    pub fn writes(&self) -> bool {
        match self.kind {
            Kind::Get => false,
            Kind::Embedded => self.read_ratio != Some(1.0),
            Kind::Put | Kind::Bulk | Kind::Mixed | Kind::Cas => true,
        }
    }

    /// The workload as it is told to the load generator, in full length or only to try it.
    pub fn arguments(&self, url: &str, quick: bool) -> Vec<String> {
        let kind = match self.kind {
            Kind::Put => "put",
            Kind::Bulk => "bulk",
            Kind::Get => "get",
            Kind::Mixed => "mixed",
            Kind::Embedded => "embedded",
            Kind::Cas => "cas",
        };
        let bulk = matches!(self.kind, Kind::Bulk | Kind::Embedded);
        let mut arguments: Vec<String> = vec![kind.to_owned()];
        if self.kind != Kind::Embedded {
            arguments.extend(["--url", url].map(str::to_owned));
        }
        if self.nodes > 1 && self.kind != Kind::Get {
            // Any node takes writes; whoever wants them fast sends them where they need no forwarding.
            arguments.push("--leader-aware".to_owned());
        }
        let mut flag = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                arguments.extend([format!("--{name}"), value]);
            }
        };
        let quickly = |value: Option<u64>, most: u64| {
            if quick { Some(value.unwrap_or(most).min(most)) } else { value }.map(|value| value.to_string())
        };
        let text = |value: Option<u64>| value.map(|value| value.to_string());
        if self.kind != Kind::Embedded {
            flag("connections", quickly(self.connections.map(u64::from), 8));
        }
        flag("threads", text(self.threads.map(u64::from)));
        if bulk {
            flag("batch", quickly(self.batch.map(u64::from), 100));
        }
        flag("key-bytes", text(self.key_bytes.map(u64::from)));
        flag("value-bytes", text(self.value_bytes.map(u64::from)));
        flag("keys", self.keys.clone());
        // Without a key space, sequential writes never come back to a key.
        flag("key-space", self.key_space.and_then(|space| quickly(Some(space), QUICK_KEYS)));
        flag("read-ratio", self.read_ratio.map(|ratio| ratio.to_string()));
        flag("consistency", self.consistency.clone());
        flag("seed", text(self.seed));
        if quick {
            flag("count", Some(if bulk { QUICK_RECORDS_BULK } else { QUICK_RECORDS }.to_string()));
        } else {
            flag("rate", self.rate.map(|rate| rate.to_string()));
            flag("duration", self.duration.map(|secs| secs.to_string()));
            flag("warmup", self.warmup.map(|secs| secs.to_string()));
        }
        if self.fill {
            arguments.push("--fill".to_owned());
        }
        if quick && self.writes() {
            arguments.push("--verify".to_owned());
        }
        arguments
    }
}

/// What a quick run does: enough to find a wrong answer, in well under a second.
const QUICK_RECORDS: u64 = 1_000;
const QUICK_RECORDS_BULK: u64 = 20_000;
const QUICK_KEYS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[[target]]\nname = \"a-1\"\nwhat = \"x\"\nkind = \"bulk\"\nrecords_per_sec_min = 5\n";

    #[test]
    fn the_projects_targets_are_targets() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/targets.toml");
        let targets = read(&path).unwrap();
        let runnable: Vec<&str> = targets
            .iter()
            .filter(|target| target.needs.is_none())
            .map(|target| target.name.as_str())
            .collect();
        for name in [
            "bulk",
            "put-64",
            "put-1",
            "get-64",
            "writes-batched",
            "writes-10k",
            "reads-linearizable",
            "reads-stale",
            "embedded-put",
            "embedded-get",
            "embedded-mixed",
            "reads-cached",
            "mixed",
        ] {
            assert!(runnable.contains(&name), "{name}");
        }
        for target in &targets {
            for quick in [false, true] {
                let arguments = target.arguments("http://127.0.0.1:1", quick);
                if target.needs.is_none() {
                    crate::understood(&arguments).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_target_is_told_in_the_words_of_the_command_line() {
        let text = format!(
            "{GOOD}connections = 64\nbatch = 4096\nrate = 2.5\nduration = 10\nfill = true\nkey_space = 1_000_000\n"
        );
        let target = &parse(&text).unwrap()[0];
        assert_eq!(
            target.arguments("http://h:1", false).join(" "),
            "bulk --url http://h:1 --connections 64 --batch 4096 --key-space 1000000 --rate 2.5 --duration 10 --fill"
        );
        assert_eq!(
            target.arguments("http://h:1", true).join(" "),
            "bulk --url http://h:1 --connections 8 --batch 100 --key-space 1000 --count 20000 --fill --verify"
        );
        assert!(target.fresh && target.writes() && target.nodes == 1);
        let embedded = |more: &str| {
            parse(&format!("{}threads = 2\n{more}", GOOD.replace("bulk", "embedded")))
                .map(|mut all| all.remove(0))
        };
        let target = embedded("read_ratio = 0.5\nduration = 3\nfill = true\n").unwrap();
        assert_eq!(
            target.arguments("http://h:1", false).join(" "),
            "embedded --threads 2 --read-ratio 0.5 --duration 3 --fill"
        );
        assert_eq!(
            target.arguments("http://h:1", true).join(" "),
            "embedded --threads 2 --batch 100 --read-ratio 0.5 --count 20000 --fill --verify"
        );
        assert!(target.writes() && !embedded("read_ratio = 1.0\n").unwrap().writes());
        assert!(embedded("connections = 4\n").unwrap_err().contains("connections"));
    }

    #[test]
    fn every_workload_may_be_a_target() {
        for kind in ["put", "bulk", "get", "mixed", "cas"] {
            let target = &parse(&GOOD.replace("bulk", kind)).unwrap()[0];
            for quick in [false, true] {
                crate::understood(&target.arguments("http://127.0.0.1:1", quick)).unwrap();
            }
        }
    }

    #[test]
    fn what_does_not_belong_there_is_named() {
        for (more, part) in [
            ("conections = 3\n", "conections"),
            ("and_then = { p99 = 1 }\n", "p99"),
            ("p99_ms_max = 0\n", "p99_ms_max = 0"),
            ("p99_ms_max = nan\n", "p99_ms_max = NaN"),
            ("and_then = { p99_ms_max = -1 }\n", "and_then.p99_ms_max"),
            ("nodes = 2\nneeds = \"cluster\"\n", "nodes = 2"),
            ("needs = \"unicorn\"\n", "unicorn"),
            ("connections = -1\n", "connections"),
            (GOOD, "stands twice"),
            ("[other]\n", "other"),
        ] {
            let error = parse(&format!("{GOOD}{more}")).unwrap_err();
            assert!(error.contains(part), "{part} in {error}");
        }
        for (text, part) in [
            (GOOD.replace("a-1", "A 1"), "A 1"),
            (GOOD.replace("records_per_sec_min = 5\n", ""), "records_per_sec_min"),
            (GOOD.replace("bulk", "fly"), "fly"),
            (String::new(), "target"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(part), "{part} in {error}");
        }
        let error = read(Path::new("/no/such/targets.toml")).unwrap_err();
        assert!(error.contains("/no/such/targets.toml"), "{error}");
    }
}
