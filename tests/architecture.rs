//! Who may import whom. Imports point down; a rule broken here is a design change, not a detail.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The layers, top first. A module may use the modules below it and, within its own line, nothing but
/// itself.
const LAYERS: &[&[&str]] = &[
    &["bin"],
    &["cli", "sim"],
    &["client", "api", "ledger"],
    &["host"],
    &["node"],
    &["pipeline", "read", "cluster"],
    &["raft"],
    &["state", "tree"],
    &["sealed", "verify"],
    &["archive"],
    &["wal", "segment", "index"],
    &["metrics"],
    &["proof", "env", "config"],
    &["runtime"],
    &["error", "wire"],
    &["types"],
];

/// Imports that the layers alone would forbid, with the reason.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("raft", "wal", "state is between them, and raft stands on both")];

fn source_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// First segments of every `crate::…` and `scribe_ledger::…` path outside test modules and comments.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text
        .split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    ["crate::", "scribe_ledger::"].into_iter().flat_map(|root| paths_from(&code, root)).collect()
}

/// First segments of every path in `code` that begins with `root`.
fn paths_from(code: &str, root: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let rest = &code[at + root.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(top_level_names(group));
        } else {
            found.insert(leading_name(rest));
        }
    }
    found
}

fn leading_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Names at depth 0 of a `{a::b, c::{d, e}, f}` group, given what follows its brace.
fn top_level_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut at_start) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && (c.is_alphanumeric() || c == '_') => {
                names.push(leading_name(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|names| names.contains(&module))
        .unwrap_or_else(|| panic!("module `{module}` has no place in LAYERS: give it one"))
}

fn module_of(file: &Path) -> String {
    let relative = file.strip_prefix(src()).unwrap();
    relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_point_down() {
    let mut broken = Vec::new();
    for file in source_files(&src()) {
        let module = module_of(&file);
        // Test modules may stand on anything.
        if module == "lib" || file.ends_with("tests.rs") {
            continue;
        }
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            let excepted = EXCEPTIONS.iter().any(|(from, to, _)| *from == module && *to == import);
            if import != module && layer(&import) <= layer(&module) && !excepted {
                broken.push(format!("{} uses crate::{import}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "imports that point up or sideways:\n{}", broken.join("\n"));
}

#[test]
fn a_stage_knows_only_the_next_one() {
    let next = [
        ("ingest", None),
        ("batch", Some("replicate")),
        ("replicate", None),
        ("apply", None),
        ("prove", None),
        ("seal", None),
        ("index", None),
        ("archive", None),
    ];
    for (stage, may_use) in next {
        let text = fs::read_to_string(src().join("pipeline").join(format!("{stage}.rs"))).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let siblings = paths_from(code, "super::");
        for (other, _) in next.iter().filter(|(other, _)| *other != stage && Some(*other) != may_use) {
            assert!(!siblings.contains(*other), "stage {stage} uses stage {other}");
        }
    }
}

#[test]
fn formats_and_proofs_do_no_io() {
    let pure = [
        "cluster/announcement.rs",
        "cluster/form.rs",
        "proof",
        "cluster/message.rs",
        "segment/codec.rs",
        "segment/contents.rs",
        "segment/directory.rs",
        "segment/filter.rs",
        "segment/format.rs",
        "segment/key_block.rs",
        "segment/key_table.rs",
        "segment/record_block.rs",
        "segment/stored.rs",
        "archive/entry.rs",
        "archive/layout.rs",
        "archive/marker.rs",
        "archive/name.rs",
        "verify/answers.rs",
        "verify/chain.rs",
        "verify/roots.rs",
        "cluster/transport/secret.rs",
        "state/archived.rs",
        "state/attestation.rs",
        "state/attested.rs",
        "state/batch.rs",
        "state/boundary.rs",
        "state/entry.rs",
        "state/settings.rs",
        "state/signers.rs",
        "wal/format.rs",
        "index/row.rs",
        "index/merge.rs",
    ];
    for place in pure {
        let path = src().join(place);
        let files = if path.is_dir() { source_files(&path) } else { vec![path] };
        assert!(!files.is_empty(), "{place} is gone: name what took its place");
        for file in &files {
            let text = fs::read_to_string(file).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for banned in ["std::fs", "std::net", "tokio::", "crate::env", "std::time::SystemTime"] {
                assert!(!text.contains(banned), "{} uses {banned}: this module is pure", file.display());
            }
        }
    }
}

/// Whoever verifies trusts these modules, and has to be able to read them; nothing that a server runs is among
/// them.
#[test]
fn a_verifier_needs_nothing_of_the_server() {
    let trusted = ["verify", "proof", "segment", "archive", "env", "error", "types"];
    let files = source_files(&src().join("verify"));
    assert!(!files.is_empty(), "the verifier is gone: name what took its place");
    for file in files {
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            assert!(trusted.contains(&import.as_str()), "{} uses crate::{import}", file.display());
        }
    }
}

#[test]
fn the_reader_of_imports_sees_groups() {
    let text = "use crate::{\n    error::{Code, Error},\n    wal,\n};\nlet x = crate::types::Seq(1);\n// crate::node\n";
    let expected = ["error", "types", "wal"].map(String::from).into();
    assert_eq!(imports(text), expected);
}
