//! `GET /api/v1/kv`: keys in order, a page at a time, all pages as of one position.
//!
//! ```text
//! cursor = base64url( version u8 = 1 | position u64 | checksum[8] | last key )           big-endian
//! ```
//!
//! The position makes later pages see what the first one saw. The checksum covers the bounds of the scan
//! too, so that a cursor that was cut, edited or put into another scan is an error and not a wrong page.

use std::sync::Arc;

use axum::extract::State;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::http::request::Parts;

use super::{
    App, Reply,
    backend::Backend,
    blocking::blocking,
    document::{self, Document, Next},
    kv,
    problem::Problem,
    query::Query,
};
use crate::{
    error::{Code, Error, Result},
    metrics::Operation,
    read::{Page, Scan},
    state::batch::check_key,
    types::Seq,
};

const LIMIT_DEFAULT: u64 = 1_000;
const LIMIT_MAX: u64 = 10_000;
/// A page ends behind this many bytes of keys and values.
const PAGE_BYTES_MAX: usize = 8 << 20;

const CURSOR_VERSION: u8 = 1;
const CURSOR_HEAD_BYTES: usize = 17;

const PARAMETERS: [&str; 10] = [
    "prefix",
    "prefix_b64",
    "start",
    "start_b64",
    "end",
    "end_b64",
    "limit",
    "cursor",
    "keys_only",
    "consistency",
];

/// `GET /api/v1/kv`
///
/// # Errors
/// The problem to answer with.
pub async fn get<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    app.timed(Operation::Scan, run(&app, &parts)).await
}

async fn run<B: Backend>(app: &Arc<App<B>>, parts: &Parts) -> Reply {
    let query = Query::parse(parts.uri.query(), &PARAMETERS)?;
    let keys_only = query.flag("keys_only")?;
    let mut scan = Scan {
        prefix: query.text_or_b64("prefix")?.unwrap_or_default().into(),
        start: query.text_or_b64("start")?.map(Bytes::from),
        end: query.text_or_b64("end")?.map(Bytes::from),
        limit: kv::limit(&query, LIMIT_DEFAULT, LIMIT_MAX)?,
        bytes_max: PAGE_BYTES_MAX,
        ..Scan::default()
    };
    if let Some(cursor) = query.bytes("cursor").filter(|cursor| !cursor.is_empty()) {
        let (position, after) = read_cursor(cursor, &scan)?;
        scan.position = Some(position);
        scan.after = Some(after);
    }
    app.backend.barrier(query.consistency()?).await?;
    if scan.position.is_some_and(|position| position > app.backend.next_seq()) {
        return Err(Problem::new(Code::Malformed, "the cursor's position is not written yet on this node"));
    }
    let (reading, bounds) = (Arc::clone(app), scan.clone());
    // A first scan sorts keys for long.
    let page = blocking(&app.backend, move || reading.backend.scan(&bounds)).await?;
    let bytes_guess = 64 + page.records.iter().map(|record| record.key.len() + 96).sum::<usize>();
    Ok(document::reply(Items { scan, page, keys_only, written: 0, open: false }, bytes_guess))
}

/// The answer while it is being written.
struct Items {
    scan: Scan,
    page: Page,
    keys_only: bool,
    /// How many records are written.
    written: usize,
    /// The last of them has had its value and not its end.
    open: bool,
}

impl Document for Items {
    fn write(&mut self, out: &mut Vec<u8>) -> Next {
        if std::mem::take(&mut self.open) {
            kv::write_item_end(out, &self.page.records[self.written - 1]);
        } else if self.written == 0 {
            out.extend_from_slice(b"{\"items\":[");
        }
        let Some(record) = self.page.records.get(self.written) else {
            out.extend_from_slice(b"],\"next_cursor\":");
            match &self.page.next {
                None => out.extend_from_slice(b"null"),
                Some(key) => {
                    out.push(b'"');
                    out.extend_from_slice(write_cursor(self.page.position, key, &self.scan).as_bytes());
                    out.push(b'"');
                }
            }
            out.push(b'}');
            return Next::End;
        };
        if self.written > 0 {
            out.push(b',');
        }
        self.written += 1;
        self.open = true;
        kv::write_item_start(out, record);
        if self.keys_only {
            return Next::More;
        }
        out.extend_from_slice(b",\"value\":");
        Next::Base64(record.value.clone())
    }
}

fn checksum(position: Seq, key: &[u8], scan: &Scan) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&position.0.to_be_bytes());
    for part in [Some(&scan.prefix), scan.start.as_ref(), scan.end.as_ref()] {
        // Lengths keep `a` + `bc` apart from `ab` + `c`; an absent bound differs from every present one.
        hasher.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
        hasher.update(part.map_or(&[], |part| part));
    }
    hasher.update(key);
    let mut out = [0; 8];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    out
}

fn write_cursor(position: Seq, key: &[u8], scan: &Scan) -> String {
    let mut bytes = Vec::with_capacity(CURSOR_HEAD_BYTES + key.len());
    bytes.push(CURSOR_VERSION);
    bytes.extend_from_slice(&position.0.to_be_bytes());
    bytes.extend_from_slice(&checksum(position, key, scan));
    bytes.extend_from_slice(key);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(text: &[u8], scan: &Scan) -> Result<(Seq, Bytes)> {
    let bad = || Error::new(Code::Malformed, "the cursor is not one that this scan was given");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
    let (head, key) = bytes.split_first_chunk::<CURSOR_HEAD_BYTES>().ok_or_else(bad)?;
    let [version, rest @ ..] = head;
    let (position, sum) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
    let position = Seq(u64::from_be_bytes(*position));
    if *version != CURSOR_VERSION || check_key(key).is_err() || *sum != checksum(position, key, scan) {
        return Err(bad());
    }
    Ok((position, Bytes::copy_from_slice(key)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_scan() -> impl Strategy<Value = Scan> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from);
        (bytes(), prop::option::of(bytes()), prop::option::of(bytes()))
            .prop_map(|(prefix, start, end)| Scan { prefix, start, end, ..Scan::default() })
    }

    proptest! {
        #[test]
        fn cursors_come_back_and_fit_one_scan_only(position in any::<u64>(), key in prop::collection::vec(any::<u8>(), 1..64), scan in any_scan(), other in any_scan(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let cursor = write_cursor(Seq(position), &key, &scan);
            prop_assert_eq!(read_cursor(cursor.as_bytes(), &scan).unwrap(), (Seq(position), Bytes::from(key)));
            let same = (&scan.prefix, &scan.start, &scan.end) == (&other.prefix, &other.start, &other.end);
            prop_assert_eq!(read_cursor(cursor.as_bytes(), &other).is_ok(), same);
            let mut damaged = BASE64_URL_SAFE_NO_PAD.decode(&cursor).unwrap();
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            prop_assert!(read_cursor(BASE64_URL_SAFE_NO_PAD.encode(damaged).as_bytes(), &scan).is_err());
            prop_assert!(read_cursor(&cursor.as_bytes()[..at], &scan).is_err());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            prop_assert!(read_cursor(text.as_bytes(), &Scan::default()).is_err());
        }
    }
}
