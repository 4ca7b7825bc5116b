//! Gives sealed segments to members that are behind, and signatures: the answering end of [`Lane::Fetch`].
//!
//! Takes questions, gives lists and bytes of files as they are; those about signatures it passes on to `sign`. It does not own the files, nor whether what it
//! gives is sound: whoever fetches a segment verifies all of it. One part is read at a time, beside the runtime's
//! other tasks, so that clients hardly notice.

use std::{
    io,
    sync::{Arc, Weak},
};

use bytes::Bytes;

use super::{
    attest::fingerprints,
    message::{LISTED_MAX, Listed, Question, encode_enrolled, encode_fingerprints, encode_list, encode_part},
    sign::Desk,
    vitals::Vitals,
};
use crate::{
    env::{Lane, Network, OpenMode, PeerHandler},
    error::{Code, Error, Result},
    runtime::without_blocking_others,
    sealed::Sealed,
    segment::file_name,
    types::{NodeId, SegmentId},
};

/// Says how this member is.
pub type SaysHowItIs = dyn Fn() -> Vitals + Send + Sync;

/// Answers other members from now on, for as long as `sealed` and `vitals` are in use, and signs as long as `desk` is.
pub fn serve(network: &dyn Network, sealed: &Arc<Sealed>, vitals: &Arc<SaysHowItIs>, desk: Weak<Desk>) {
    let (sealed, vitals) = (Arc::downgrade(sealed), Arc::downgrade(vitals));
    let here = Here { sealed, vitals, desk, one_at_a_time: Arc::default() };
    let handler: PeerHandler = Arc::new(move |from, question| {
        let here = here.clone();
        Box::pin(async move { here.answer(from, &question).await.map_err(io::Error::other) })
    });
    network.serve(Lane::Fetch, handler);
}

/// What questions are answered from.
#[derive(Clone)]
struct Here {
    sealed: Weak<Sealed>,
    vitals: Weak<SaysHowItIs>,
    desk: Weak<Desk>,
    one_at_a_time: Arc<tokio::sync::Mutex<()>>,
}

impl Here {
    async fn answer(&self, from: NodeId, question: &[u8]) -> Result<Bytes> {
        match Question::decode(question)? {
            Question::Vitals => self.vitals.upgrade().ok_or_else(stopping)?().encode(),
            Question::List(first) => self.read(|sealed| Ok(encode_list(&list(sealed, first)))).await,
            Question::Fingerprints(first) => {
                self.read(|sealed| Ok(encode_fingerprints(&fingerprints(sealed, first)))).await
            }
            Question::Part { id, offset, bytes } => {
                let read = |sealed: &Sealed| {
                    without_blocking_others(bytes as usize, || part(sealed, id, offset, bytes))
                };
                self.read(read).await
            }
            Question::Sign { size, root } => {
                Desk::sign(&self.desk, from, size, root).await.map(|signature| signature.encode())
            }
            Question::Enrol { incarnation, key } => {
                Desk::enrol(&self.desk, from, incarnation, key).await.map(encode_enrolled)
            }
        }
    }

    /// Reads something of the segments while nobody else does.
    async fn read(&self, read: impl FnOnce(&Sealed) -> Result<Bytes>) -> Result<Bytes> {
        let _alone = self.one_at_a_time.lock().await;
        match self.sealed.upgrade() {
            Some(sealed) => read(&sealed),
            None => Err(stopping()),
        }
    }
}

fn stopping() -> Error {
    Error::new(Code::Unavailable, "this member is stopping")
}

fn list(sealed: &Sealed, from: SegmentId) -> Vec<Listed> {
    let segments = sealed.segments();
    let from = usize::try_from(from.0).unwrap_or(usize::MAX);
    let listed = segments.get(from..).unwrap_or_default().iter().take(LISTED_MAX).map(|segment| {
        let summary = segment.summary();
        Listed { file_bytes: summary.file_bytes, digest: summary.digest }
    });
    listed.collect()
}

fn part(sealed: &Sealed, id: SegmentId, offset: u64, bytes: u32) -> Result<Bytes> {
    let segments = sealed.segments();
    if usize::try_from(id.0)
        .ok()
        .and_then(|at| segments.get(at))
        .is_some_and(|segment| segment.stub().is_some())
    {
        let what = format!("segment {id} is in the archive alone: take it from there");
        return Err(Error::new(Code::NotFound, what));
    }
    let path = sealed.dir().join(file_name(id));
    let file = sealed.io().open(&path, OpenMode::Read);
    let part = file.and_then(|file| encode_part(bytes, |out| file.read_at(out, offset)));
    part.map_err(|error| Error::io(format!("reading {}", path.display()), &error))
}
