//! From a bulk body's bytes to a [`Draft`](crate::state::batch::Draft), as the bytes arrive.
//!
//! ```text
//! chunk ─► coding (identity, gzip, zstd, lz4) ─► pieces of ≤ 64 KiB ─► frames | ndjson ─► Draft
//! ```
//!
//! A decoder holds back only the record that straddles two pieces. Nothing here waits or knows HTTP.

pub mod coding;
pub mod frames;
mod gzip;
mod lz4;
pub mod ndjson;

use crate::error::{Code, Error};

/// The same error, saying where in the body it is.
fn at(place: std::fmt::Arguments<'_>, error: &Error) -> Error {
    Error::new(error.code(), format!("{place}: {}", error.message()))
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(Code::Malformed, message)
}

#[cfg(test)]
pub(crate) mod testing {
    //! What the decoders' tests share: cutting a body, and looking into a draft.

    use proptest::sample::Index;

    use crate::{
        error::Result,
        state::batch::{Batch, BatchView, Draft},
        types::Op,
    };

    /// The same bytes in several pieces, some perhaps empty.
    pub(crate) fn cut_into_pieces<'a>(whole: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(whole.len());
        let mut start = 0;
        cuts.into_iter().map(|end| &whole[std::mem::replace(&mut start, end)..end]).collect()
    }

    /// The operations of a draft, read back the way apply reads them.
    pub(crate) fn seen(draft: Draft) -> Vec<(Op, Vec<u8>, Vec<u8>)> {
        let mut batch = Batch::default();
        batch.append(draft);
        let view = BatchView::open(batch.encode(0).unwrap()).unwrap();
        view.ops().map(|op| (op.op, op.key.to_vec(), op.value.to_vec())).collect()
    }

    /// Two ways of reading one body agree: the same operations, or the same error.
    pub(crate) fn same_outcome(one: Result<Draft>, other: Result<Draft>) {
        assert_eq!(one.map(seen), other.map(seen));
    }
}
