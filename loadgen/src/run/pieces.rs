//! Reads the user's own file ahead, in the pieces it is sent in, and numbers their records.

use std::{path::Path, sync::mpsc::Receiver, thread};

use tokio::sync::mpsc;

use super::{Workload, shared::Piece};
use crate::lines::Chunks;

/// Pieces read ahead.
const AHEAD: usize = 16;

/// Where pieces come from, and how reading them ended.
type Reading = (mpsc::Receiver<Piece>, Receiver<Result<(), String>>);

/// Starts reading. A file that cannot be opened or has no records is said at once.
pub fn read(path: &Path, workload: Workload) -> Result<Reading, String> {
    let Workload::File { records, again, records_max } = workload else {
        return Err("a file was given to a workload that has none".to_owned());
    };
    let first = Chunks::open(path, records)?.next().transpose()?;
    if first.is_none() {
        return Err(format!("{} has no records", path.display()));
    }
    let (full, pieces) = mpsc::channel(AHEAD);
    let (ended, ends) = std::sync::mpsc::channel();
    let path = path.to_owned();
    thread::spawn(move || {
        let outcome = feed(&path, records, again, records_max.unwrap_or(u64::MAX), &full);
        // Nobody may be there any more.
        let _ = ended.send(outcome);
    });
    Ok((pieces, ends))
}

fn feed(
    path: &Path,
    records: u64,
    again: bool,
    records_max: u64,
    full: &mpsc::Sender<Piece>,
) -> Result<(), String> {
    let mut first = 0;
    loop {
        for chunk in Chunks::open(path, records)? {
            let mut chunk = chunk?;
            chunk.cut(records_max - first);
            let count = chunk.records;
            if count == 0 || full.blocking_send(Piece { chunk, first }).is_err() {
                return Ok(());
            }
            first += count;
        }
        if !again {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(again: bool, records_max: Option<u64>) -> Vec<(u64, Vec<u8>)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "{1}\n\n{2}\n{3}\n").unwrap();
        let (mut pieces, ends) = read(&path, Workload::File { records: 2, again, records_max }).unwrap();
        let pieces = std::iter::from_fn(|| pieces.blocking_recv());
        let all = pieces.map(|piece| (piece.first, piece.chunk.bytes)).collect();
        assert_eq!(ends.recv().unwrap(), Ok(()));
        all
    }

    #[test]
    fn records_are_numbered_through_all_passes() {
        let once = [(0, b"{1}\n{2}\n".to_vec()), (2, b"{3}\n".to_vec())];
        assert_eq!(all(false, None), once);
        let more = [(3, b"{1}\n{2}\n".to_vec()), (5, b"{3}\n".to_vec()), (6, b"{1}\n".to_vec())];
        assert_eq!(all(true, Some(7)), [once.to_vec(), more.to_vec()].concat());
        assert_eq!(all(false, Some(1)), [(0, b"{1}\n".to_vec())]);
    }

    #[test]
    fn a_file_without_records_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "\n \n").unwrap();
        let workload = Workload::File { records: 2, again: true, records_max: None };
        assert!(read(&path, workload).unwrap_err().contains("has no records"));
        assert!(read(&dir.path().join("none"), workload).unwrap_err().contains("opening"));
    }
}
