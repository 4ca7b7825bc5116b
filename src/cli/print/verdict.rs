//! How the verdicts of `scribe verify` look.

use std::{
    io::{self, Write},
    ops::Range,
    path::PathBuf,
};

use serde_json::{Value as Json, json};

use super::{Format, Printer, printable};
use crate::{
    proof::{Hash, key::VerifierKey},
    verify::{CheckedNote, LeftBehind, Report},
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

/// What a verdict stands on, besides what was read.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Terms<'a> {
    /// The keys that the files or the archive name themselves, where the user named none.
    pub(in crate::cli) named: &'a [VerifierKey],
    /// Whether a checkpoint was there to hold the end against: one that lies in an archive may be taken away with the
    /// records, and counts not.
    pub(in crate::cli) is_held: bool,
    /// Why it is not verified, although all that is there is whole.
    pub(in crate::cli) doubt: Option<&'a str>,
}

impl<W: Write> Printer<W> {
    /// What was verified in a directory or an archive.
    pub(in crate::cli) fn report(&mut self, report: &Report, terms: &Terms<'_>) -> io::Result<()> {
        let Terms { named, is_held, doubt } = terms;
        if self.format == Format::Json {
            let mut document = report_json(report, named);
            if let Some(doubt) = doubt {
                document["verified"] = Json::Null;
                document["problem"] = (*doubt).into();
            }
            return self.line(&document);
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
        if report.earlier_checkpoints > 0 || report.checkpoints_left_out > 0 {
            let (earlier, others) = (report.earlier_checkpoints, report.checkpoints_left_out);
            let others =
                if others > 0 { format!("; {others} older ones were not looked at") } else { String::new() };
            writeln!(self.out, "  agrees with {earlier} earlier checkpoints in it{others}")?;
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
        if let Some(unsigned) = unsigned(report) {
            let (from, to) = (unsigned.start, unsigned.end - 1);
            writeln!(
                self.out,
                "  not covered: records {from} to {to} are under no signature, they are behind the newest checkpoint"
            )?;
        }
        if let Some(why) = &report.open_end {
            writeln!(self.out, "  not covered: {}", escaped(why))?;
        }
        if !is_held {
            writeln!(
                self.out,
                "  not covered: whether segments at the end were taken away; --checkpoint and --key tell"
            )?;
        }
        for left in &report.left_behind {
            writeln!(self.out, "  not in it: {}", left_behind(report, left))?;
        }
        for what in &report.damaged_earlier {
            writeln!(self.out, "  not needed, and damaged: {}", escaped(what))?;
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

/// Records that are behind every checkpoint; none where there is no checkpoint of files, which need not have one.
fn unsigned(report: &Report) -> Option<Range<u64>> {
    let newest = report.checkpoints.iter().map(|note| note.size).max();
    let newest = newest.or_else(|| report.epoch.map(|_| 0))?;
    (newest < report.records.0).then_some(newest..report.records.0)
}

/// What an earlier epoch holds that this one does not go on from.
fn left_behind(report: &Report, left: &LeftBehind) -> String {
    let (epoch, from, to) = (left.epoch, left.from, left.end.0.saturating_sub(1));
    let own = report.epoch.map_or_else(String::new, |own| format!("epoch {own}"));
    format!(
        "epoch {epoch} holds records {from} to {to}, which {own} does not go on from (scribe restore --epoch {epoch} brings \
         them back, in a ledger of their own)"
    )
}

/// As [`left_behind`], all of it, for scripts.
pub(in crate::cli) fn left_behind_json(report: &Report) -> Json {
    let left = report.left_behind.iter();
    left.map(|left| json!({ "epoch": left.epoch, "from": left.from.0, "end": left.end.0 })).collect()
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
    if let Some(unsigned) = unsigned(report) {
        document["not_covered"]["unsigned"] = json!({ "from": unsigned.start, "end": unsigned.end });
    }
    if let Some(epoch) = report.epoch {
        document["epoch"] = epoch.into();
        document["earlier_checkpoints"] = report.earlier_checkpoints.into();
        document["checkpoints_left_out"] = report.checkpoints_left_out.into();
        document["open_end"] = json!(report.open_end);
        document["left_behind"] = left_behind_json(report);
        document["damaged_earlier"] = json!(report.damaged_earlier);
    }
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
