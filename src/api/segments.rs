//! `/api/v1/segments`: the manifest, a row for every segment.

use std::sync::Arc;

use axum::extract::State;
use hyper::http::request::Parts;
use serde::Serialize;

use super::{App, Reply, backend::Backend, json, query::no_query};
use crate::{
    archive::{Epoch, ObjectRef},
    segment::{Segment, StubObject},
    types::SegmentId,
};

/// One segment, as the manifest has it.
#[derive(Debug, Serialize)]
struct Row {
    id: u64,
    first_seq: u64,
    /// One past the last.
    end_seq: u64,
    /// Of its file.
    bytes: u64,
    /// Of the tree after its last record, hex.
    root: String,
    /// BLAKE3 of what it holds, hex: equal on every member.
    digest: String,
    /// Whether a quorum of several members is known to have the same.
    attested: bool,
    /// Where it is: `local`; `both` where a leader has archived it, too; `archived` where its file has left this node.
    state: &'static str,
    /// Its name in the archive, where this node has read the manifest there, as those do that lead.
    object: Option<String>,
}

impl Row {
    fn new(
        segment: &Segment,
        attested_end: SegmentId,
        archived_end: SegmentId,
        objects: &[ObjectRef],
    ) -> Self {
        let summary = segment.summary();
        let is_archived = summary.id() < archived_end;
        let object = usize::try_from(summary.id().0).ok().and_then(|at| objects.get(at)).copied();
        let stub = segment.stub().map(|StubObject { epoch, bytes, hash }| ObjectRef {
            epoch: Epoch(*epoch),
            segment: summary.id(),
            bytes: *bytes,
            hash: *hash,
        });
        let object = stub.or(object.filter(|_| is_archived));
        Self {
            id: summary.id().0,
            first_seq: summary.head.first_seq.0,
            end_seq: summary.end_seq.0,
            bytes: summary.file_bytes,
            root: json::to_hex(&summary.root_after),
            digest: json::to_hex(&summary.digest),
            attested: summary.id() < attested_end,
            state: match (stub, is_archived) {
                (Some(_), _) => "archived",
                (None, true) => "both",
                (None, false) => "local",
            },
            object: object.map(|object| object.name().as_str().to_owned()),
        }
    }
}

/// `GET /api/v1/segments`
///
/// # Errors
/// The problem to answer with.
pub async fn get<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    no_query(&parts)?;
    let proofs = app.backend.proofs()?;
    let attested_end = proofs.attested_end();
    // In this order: what is archived by now is among the segments.
    let (archived_end, objects) = (proofs.archived_end(), proofs.archive().objects());
    let row = |segment| Row::new(segment, attested_end, archived_end, &objects);
    json::ok(&proofs.segments().iter().map(|segment| row(segment)).collect::<Vec<_>>())
}
