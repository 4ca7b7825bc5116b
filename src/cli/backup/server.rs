//! A running node's segments, over HTTP.
//!
//! ```text
//! /api/v1/segments ─► each that is missing: …/file, part by part ─► verified, named ─► the last one's …/checkpoint
//! ```
//!
//! In order, so that a copy is always the beginning of the ledger; a copy that broke off goes on where it was, at any
//! member, because their files are the same. The checkpoint is of all that is copied, and is held against it before it
//! is kept. Takes a client, gives files; nothing that the server says is believed.

use std::{future::Future, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::time::sleep;

use super::{BackupArgs, failed};
use crate::{
    cli::{Failure, verify::keys_named_by},
    client::{Client, ClientError},
    env::{Io, real::RealIo},
    error::{Code, Error},
    node::{BackedUp, Backup},
    proof::{Hash, checkpoint::Checkpoint, note::Note},
    types::SegmentId,
    verify::Plan,
};

/// Bytes that one request brings.
const PART_BYTES: u64 = 4 << 20;

/// How often a request is sent before a copy is given up.
const TRIES: u32 = 6;

/// After the first failure; twice as long after each further one.
const WAIT_MIN: Duration = Duration::from_millis(200);

/// However long the server asks for.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A segment, as the server lists it.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    id: u64,
    bytes: u64,
    digest: Hash,
}

/// Brings a copy up to what the server has sealed; how many records a checkpoint beside them covers.
pub(super) async fn copy(client: &Client, args: &BackupArgs) -> Result<(BackedUp, Option<u64>), Failure> {
    let listed = patiently(|| client.get_json("/api/v1/segments")).await?;
    let rows: Vec<Row> = serde_json::from_value(listed)
        .map_err(|error| Failure::Failed(format!("{} lists no segments: {error}", client.authority())))?;
    if rows.iter().zip(0..).any(|(row, id)| row.id != id) {
        return Err(Failure::Failed(format!("{} lists segments out of order", client.authority())));
    }
    let io: Arc<dyn Io> = Arc::new(RealIo::new());
    let mut copy = Backup::open(&io, &args.to).map_err(failed)?;
    for row in &rows {
        if !copy.has(SegmentId(row.id), &row.digest.0).map_err(failed)? {
            fetch(client, &mut copy, row).await?;
        }
    }
    let done = copy.done(client.authority()).map_err(failed)?;
    let covered = match rows.last() {
        Some(last) => cover(client, &copy, last.id, args, io).await?,
        None => None,
    };
    Ok((done, covered))
}

/// Copies one segment, from where an earlier run has come to.
async fn fetch(client: &Client, copy: &mut Backup, row: &Row) -> Result<(), Failure> {
    let (id, path) = (SegmentId(row.id), format!("/api/v1/segments/{}/file", row.id));
    let broken = |error| failed(Error::io(format!("copying segment {id}"), &error));
    let file = copy.partial(id).map_err(failed)?;
    let mut at = file.len().map_err(broken)?;
    loop {
        let goes_on = at > 0;
        if at > row.bytes {
            at = 0;
        }
        file.set_len(at).map_err(broken)?;
        while at < row.bytes {
            let end = row.bytes.min(at + PART_BYTES);
            let part = patiently(|| client.get_part(&path, at..end)).await?;
            file.write_at(&part, at).map_err(broken)?;
            at = end;
        }
        match copy.keep(id, &row.digest.0) {
            Ok(()) => return Ok(()),
            // A crash may have left anything in what was there.
            Err(error) if error.code() == Code::Corrupt && goes_on => at = 0,
            Err(error) => {
                file.set_len(0).map_err(broken)?;
                return Err(match error.code() {
                    Code::Corrupt => Failure::Failed(format!(
                        "{} has sent a damaged segment {id}: {error}; run the same command again, or ask another node",
                        client.authority()
                    )),
                    _ => failed(error),
                });
            }
        }
    }
}

/// Gets a checkpoint of all that is copied, and puts it beside it if it holds.
async fn cover(
    client: &Client,
    copy: &Backup,
    last: u64,
    args: &BackupArgs,
    io: Arc<dyn Io>,
) -> Result<Option<u64>, Failure> {
    let plan = Plan::open(io, &args.to).map_err(failed)?;
    let keys = if args.key.is_empty() { keys_named_by(plan.boundary()) } else { args.key.clone() };
    if keys.is_empty() {
        return Ok(None);
    }
    let path = format!("/api/v1/segments/{last}/checkpoint");
    let bytes = patiently(|| client.get_bytes(&path)).await?;
    let opened = Note::parse(&bytes).and_then(|note| Checkpoint::open(&note, &keys));
    let checkpoint = match opened {
        Ok((checkpoint, _)) => checkpoint,
        // A member that came when the last of these records was there already is not named among them.
        Err(_) if args.key.is_empty() => return Ok(None),
        Err(error) => {
            return Err(Failure::Failed(format!("the checkpoint of {}: {error}", client.authority())));
        }
    };
    if checkpoint.size() != plan.records() || checkpoint.root() != plan.root() {
        return Err(Failure::Failed(format!(
            "{} has signed for other records than it has sent: its root of {} records is {}, that of the {} here is {}",
            client.authority(),
            checkpoint.size(),
            checkpoint.root(),
            plan.records(),
            plan.root()
        )));
    }
    copy.put_checkpoint(&bytes).map_err(failed)?;
    Ok(Some(checkpoint.size()))
}

/// Asks again after what may pass.
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut wait = WAIT_MIN;
    for _ in 1..TRIES {
        match ask().await {
            Err(error) if error.is_retryable() => {
                sleep(error.retry_after().unwrap_or(wait).min(WAIT_MAX)).await;
            }
            answer => return Ok(answer?),
        }
        wait *= 2;
    }
    ask().await.map_err(|error| match Failure::from(error) {
        Failure::Failed(why) => {
            Failure::Failed(format!("{why}; run the same command again, and it goes on where it was"))
        }
        other => other,
    })
}
