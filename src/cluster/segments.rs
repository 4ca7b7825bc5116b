//! Gives sealed segments to members that are behind: the answering end of [`Lane::Fetch`].
//!
//! Takes questions, gives lists and bytes of files as they are. It does not own the files, nor whether what it
//! gives is sound: whoever fetches a segment verifies all of it. One part is read at a time, beside the runtime's
//! other tasks, so that clients hardly notice.

use std::{
    io,
    sync::{Arc, Weak},
};

use bytes::Bytes;

use super::{
    attest::fingerprints,
    message::{LISTED_MAX, Listed, Question, encode_fingerprints, encode_list, encode_part},
    vitals::Vitals,
};
use crate::{
    env::{Lane, Network, OpenMode, PeerHandler},
    error::{Error, Result},
    runtime::without_blocking_others,
    sealed::Sealed,
    segment::file_name,
    types::SegmentId,
};

/// Says how this member is.
pub type SaysHowItIs = dyn Fn() -> Vitals + Send + Sync;

/// Answers other members from now on, for as long as `sealed` and `vitals` are in use.
pub fn serve(network: &dyn Network, sealed: &Arc<Sealed>, vitals: &Arc<SaysHowItIs>) {
    let (sealed, vitals) = (Arc::downgrade(sealed), Arc::downgrade(vitals));
    let one_at_a_time = Arc::new(tokio::sync::Mutex::new(()));
    let handler: PeerHandler = Arc::new(move |_from, question| {
        let (sealed, vitals) = (Weak::clone(&sealed), Weak::clone(&vitals));
        let one_at_a_time = one_at_a_time.clone();
        Box::pin(async move {
            let _alone = one_at_a_time.lock().await;
            let (Some(sealed), Some(vitals)) = (sealed.upgrade(), vitals.upgrade()) else {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "this member is stopping"));
            };
            answer(&sealed, &*vitals, &question).map_err(io::Error::other)
        })
    });
    network.serve(Lane::Fetch, handler);
}

fn answer(sealed: &Sealed, vitals: &SaysHowItIs, question: &[u8]) -> Result<Bytes> {
    match Question::decode(question)? {
        Question::Vitals => vitals().encode(),
        Question::List(from) => Ok(encode_list(&list(sealed, from))),
        Question::Fingerprints(from) => Ok(encode_fingerprints(&fingerprints(sealed, from))),
        Question::Part { id, offset, bytes } => {
            without_blocking_others(bytes as usize, || part(sealed, id, offset, bytes))
        }
    }
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
    let path = sealed.dir().join(file_name(id));
    let file = sealed.io().open(&path, OpenMode::Read);
    let part = file.and_then(|file| encode_part(bytes, |out| file.read_at(out, offset)));
    part.map_err(|error| Error::io(format!("reading {}", path.display()), &error))
}
