//! How the verdicts of `scribe verify` look.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use serde_json::{Value as Json, json};

use super::{Format, Printer, printable};
use crate::{
    proof::{Hash, key::VerifierKey},
    verify::{CheckedNote, Report},
};

/// A visit to a server in which everything held.
#[derive(Debug)]
pub struct Visited {
    /// Its URL.
    pub server: String,
    /// The log that it shows.
    pub origin: String,
    /// Records under its checkpoint.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// Who signed it.
    pub signers: Vec<String>,
    /// Records under the checkpoint that was remembered; none at the first visit.
    pub earlier: Option<u64>,
    /// Whether the user said whom to believe.
    pub keys_given: bool,
    /// Records looked at.
    pub samples: u64,
    /// Where it is remembered.
    pub state: PathBuf,
}

impl<W: Write> Printer<W> {
    /// What was verified in a directory. `named` are the keys that it says sign for it, where the user named none.
    pub(in crate::cli) fn report(&mut self, report: &Report, named: &[VerifierKey]) -> io::Result<()> {
        if self.format == Format::Json {
            return self.line(&report_json(report, named));
        }
        let Report { records, segments, root, .. } = report;
        let plural = if *segments == 1 { "" } else { "s" };
        writeln!(self.out, "verified {records} records in {segments} segment{plural}, root {root}")?;
        if let Some(last) = report.last_log {
            let (index, term) = (last.index, last.term);
            let (raw, file) = (report.raw_bytes, report.file_bytes);
            writeln!(
                self.out,
                "  sealed up to entry {index} of term {term}: {raw} bytes of keys and values, {file} of files"
            )?;
        }
        for CheckedNote { name, origin, size, signers } in &report.checkpoints {
            let (name, origin) = (escaped(name), escaped(origin));
            let signers = escaped(&signers.join(", "));
            writeln!(self.out, "  agrees with {name}: {size} records of {origin}, signed by {signers}")?;
        }
        if !report.checkpoints.is_empty() && !named.is_empty() {
            writeln!(
                self.out,
                "  the keys are the directory's own word, {} of them: compare them, or give --key",
                named.len()
            )?;
        }
        if let (Some(first), Some(last)) = (report.cold.first(), report.cold.last()) {
            writeln!(
                self.out,
                "  not covered: the records of {} segments, {first} to {last}, which are in the archive alone: their leaf \
                 hashes were verified; verify the archive, too (scribe verify --archive)",
                report.cold.len()
            )?;
        }
        for name in &report.unfinished {
            writeln!(self.out, "  left out: {} (being written, or left behind by a crash)", escaped(name))?;
        }
        for name in &report.stray {
            writeln!(self.out, "  left out: {} (not a segment)", escaped(name))?;
        }
        if report.checkpoints.is_empty() {
            writeln!(
                self.out,
                "  not covered: whether segments at the end were taken away; --checkpoint and --key tell"
            )?;
        }
        if let Some(wal) = report.wal {
            let (files, bytes) = (wal.files, wal.bytes);
            writeln!(
                self.out,
                "  not covered: records that are not sealed yet; they are in the write-ahead log only ({files} files, \
                 {bytes} bytes)"
            )?;
        }
        Ok(())
    }

    /// What was verified of a server.
    pub(in crate::cli) fn visited(&mut self, visited: &Visited) -> io::Result<()> {
        if self.format == Format::Json {
            return self.line(&visited_json(visited));
        }
        let Visited { server, size, root, samples, .. } = visited;
        let (origin, state) = (escaped(&visited.origin), escaped(&visited.state.display().to_string()));
        writeln!(self.out, "verified {size} records of {origin} at {server}, root {root}")?;
        writeln!(self.out, "  signed by {}", escaped(&visited.signers.join(", ")))?;
        match (visited.earlier, visited.keys_given) {
            (Some(earlier), _) => {
                writeln!(self.out, "  goes on from the checkpoint of {earlier} records that was remembered")?;
            }
            (None, true) => writeln!(self.out, "  first visit: there is no earlier checkpoint to compare")?,
            (None, false) => writeln!(
                self.out,
                "  FIRST VISIT: the keys are the server's own word, believed from now on; compare them, or give --key"
            )?,
        }
        writeln!(self.out, "  {samples} records looked at, each in the tree and as its leaf says")?;
        writeln!(self.out, "  remembered in {state}")
    }

    /// Text as it is.
    pub(in crate::cli) fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }
}

fn escaped(text: &str) -> String {
    printable(text.as_bytes(), usize::MAX)
}

fn report_json(report: &Report, named: &[VerifierKey]) -> Json {
    let checkpoints = report.checkpoints.iter().map(|note| {
        json!({ "file": note.name, "origin": note.origin, "size": note.size, "signers": note.signers })
    });
    let mut document = json!({
        "verified": true,
        "records": report.records.0,
        "segments": report.segments,
        "root": report.root,
        "last_log": report.last_log.map(|last| json!({ "term": last.term, "index": last.index.0 })),
        "last_timestamp_ms": report.last_timestamp_ms,
        "raw_bytes": report.raw_bytes,
        "file_bytes": report.file_bytes,
        "checkpoints": checkpoints.collect::<Json>(),
        "unfinished": report.unfinished,
        "stray": report.stray,
        "not_covered": {
            "cold_segments": report.cold,
            "wal": report.wal.map(|wal| json!({ "files": wal.files, "bytes": wal.bytes })),
        },
    });
    if !named.is_empty() {
        document["keys_named"] = named.iter().map(ToString::to_string).collect();
    }
    document
}

fn visited_json(visited: &Visited) -> Json {
    json!({
        "verified": true,
        "server": visited.server,
        "origin": visited.origin,
        "size": visited.size,
        "root": visited.root,
        "signers": visited.signers,
        "earlier_size": visited.earlier,
        "first_visit": visited.earlier.is_none(),
        "samples": visited.samples,
        "state": visited.state.display().to_string(),
    })
}
