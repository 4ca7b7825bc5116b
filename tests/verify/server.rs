//! `scribe verify --url` from visit to visit.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use scribe_ledger::proof::key::Signer;
use serde_json::Value as Json;

use super::{
    built::{exits_with, scribe, stderr, stdout},
    fake_log::{FakeLog, Lie, ORIGIN, signer},
};

/// A log, and somebody who visits it.
struct Visitor {
    log: FakeLog,
    home: tempfile::TempDir,
}

impl Visitor {
    fn of(size: u64) -> Self {
        Self { log: FakeLog::start(size), home: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> PathBuf {
        self.home.path().join("state.json")
    }

    fn visit(&self, more: &[&str]) -> Output {
        let (url, state) = (self.log.url(), self.state());
        let arguments = ["verify", "--url", &url, "--state", state.to_str().unwrap()];
        scribe(&[&arguments[..], more].concat())
    }

    fn evidence(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(self.home.path()).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.to_string_lossy().contains(".evidence-")).collect()
    }

    /// The server lies: exit 1 with a reason, the memory as it was, both notes kept.
    #[track_caller]
    fn is_lied_to(&self, size: u64, lie: Lie, says: &str) {
        let before = fs::read(self.state()).unwrap();
        self.log.show(size, lie);
        let output = self.visit(&[]);
        exits_with(&output, 1);
        let message = stderr(&output);
        assert!(message.contains("is not to be believed") && message.contains(says), "{lie:?}: {message}");
        assert_eq!(fs::read(self.state()).unwrap(), before, "{lie:?}: what is remembered stays");
        let evidence = self.evidence();
        assert_eq!(evidence.len(), 1, "{lie:?}: {evidence:?}");
        assert!(message.contains(&*evidence[0].to_string_lossy()), "{message}");
        let kept = read(&evidence[0]);
        assert_eq!(kept["remembered"], read(&self.state())["checkpoint"], "{lie:?}");
        assert!(kept["served"].as_str().unwrap().starts_with(ORIGIN), "{lie:?}: {kept}");
        fs::remove_file(&evidence[0]).unwrap();
    }
}

fn read(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_honest_server_is_followed() {
    let visitor = Visitor::of(0);
    for (visit, size) in [0, 1, 40, 40, 1_000].into_iter().enumerate() {
        visitor.log.show(size, Lie::Nothing);
        let output = visitor.visit(&["--format", "json"]);
        exits_with(&output, 0);
        let document: Json = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!((&document["verified"], &document["size"]), (&true.into(), &size.into()), "{document}");
        assert_eq!(document["samples"], size.min(17), "{document}");
        assert_eq!((&document["first_visit"], &document["origin"]), (&(visit == 0).into(), &ORIGIN.into()));
        let note = read(&visitor.state())["checkpoint"].as_str().unwrap().to_owned();
        assert!(note.starts_with(&format!("{ORIGIN}\n{size}\n")), "{note}");
    }
    visitor.log.show(1_200, Lie::Nothing);
    let output = visitor.visit(&["--samples", "3"]);
    exits_with(&output, 0);
    let text = stdout(&output);
    assert!(text.starts_with(&format!("verified 1200 records of {ORIGIN} at http://")), "{text}");
    assert!(
        text.contains("goes on from the checkpoint of 1000 records") && text.contains("\n  4 records"),
        "{text}"
    );
}

#[test]
fn every_lie_is_found_and_kept_as_evidence() {
    let visitor = Visitor::of(40);
    exits_with(&visitor.visit(&[]), 0);
    for (size, lie, says) in [
        (39, Lie::Nothing, "the log has shrunk"),
        (0, Lie::Nothing, "the log has shrunk"),
        (40, Lie::Fork, "history has changed"),
        (90, Lie::Fork, "history has changed"),
        (90, Lie::Signature, "is not over this text"),
        (90, Lie::Key, "no known key"),
        (90, Lie::Value, "not what its leaf commits to"),
        (90, Lie::Leaf, "its proof is of another leaf"),
        (90, Lie::Hex, "not a hash"),
        (90, Lie::Cut, "history has changed"),
        (40, Lie::Cut, "has a proof of"),
        (90, Lie::NoProof, "does not show what it has signed for"),
    ] {
        visitor.is_lied_to(size, lie, says);
    }
    visitor.log.show(90, Lie::Nothing);
    exits_with(&visitor.visit(&[]), 0);
}

#[test]
fn a_server_that_cannot_answer_is_no_liar() {
    let visitor = Visitor::of(40);
    exits_with(&visitor.visit(&[]), 0);
    visitor.log.show(90, Lie::Overloaded);
    let output = visitor.visit(&["--format", "json"]);
    exits_with(&output, 3);
    assert!(!stderr(&output).contains("believed"), "{}", stderr(&output));
    let document: Json = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(document["verified"], Json::Null);
    assert!(visitor.evidence().is_empty());
}

#[test]
fn a_key_that_was_given_is_the_only_one_that_is_believed() {
    let visitor = Visitor::of(40);
    let stranger = Signer::from_seed(ORIGIN, &[2; 32]).unwrap().verifier_key().to_string();
    exits_with(&visitor.visit(&["--key", &stranger]), 1);
    assert!(!visitor.state().exists());
    let key = signer().verifier_key().to_string();
    let output = visitor.visit(&["--key", &key]);
    exits_with(&output, 0);
    assert!(stdout(&output).contains("first visit: there is no earlier"), "{}", stdout(&output));
    // Later visits believe it without being told again.
    visitor.log.show(41, Lie::Key);
    exits_with(&visitor.visit(&[]), 1);
    visitor.log.show(41, Lie::Nothing);
    exits_with(&visitor.visit(&[]), 0);
}

#[test]
fn a_first_visit_says_that_the_keys_are_the_servers_own_word() {
    let visitor = Visitor::of(3);
    let output = visitor.visit(&[]);
    exits_with(&output, 0);
    assert!(
        stdout(&output).contains("FIRST VISIT: the keys are the server's own word"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn each_log_is_remembered_in_the_users_configuration_directory() {
    let visitor = Visitor::of(3);
    let url = visitor.log.url();
    let visit = |variable: &str, value: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scribe"));
        command.env_remove("XDG_CONFIG_HOME").env_remove("HOME").env(variable, value);
        command.args(["--server", &url, "verify"]).output().unwrap()
    };
    let name = "scribe/checkpoints/scribe%2F0123456789abcdef%2F1.json";
    exits_with(&visit("XDG_CONFIG_HOME", visitor.home.path()), 0);
    assert!(visitor.home.path().join(name).exists());
    exits_with(&visit("HOME", visitor.home.path()), 0);
    assert!(visitor.home.path().join(".config").join(name).exists());
    let nowhere = visit("HOME", Path::new("relative"));
    exits_with(&nowhere, 2);
    assert!(stderr(&nowhere).contains("--state FILE"));
}

#[test]
fn a_state_file_that_was_changed_is_not_begun_anew_in_silence() {
    let visitor = Visitor::of(3);
    exits_with(&visitor.visit(&[]), 0);
    let text = fs::read_to_string(visitor.state()).unwrap();
    fs::write(visitor.state(), text.replace("\\n3\\n", "\\n2\\n")).unwrap();
    let output = visitor.visit(&[]);
    exits_with(&output, 1);
    assert!(stderr(&output).contains("is not what a verification has remembered"), "{}", stderr(&output));
}
