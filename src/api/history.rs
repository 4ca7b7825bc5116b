//! `/api/v1/kv/{key}/history`: the versions of a key, newest first, a page at a time.

use std::{future::ready, sync::Arc};

use axum::extract::State;
use hyper::http::request::Parts;

use super::{
    App, Reply,
    backend::Backend,
    document::{self, Document, Next},
    json,
    kv::{key_part, limit},
    mended::mended,
    problem::Problem,
    query::{Query, key_in_path},
};
use crate::{
    error::Code,
    metrics::Operation,
    read::Record,
    types::{Op, Seq},
};

/// Versions in one answer, and how many when nothing is asked for.
const LIMIT_MAX: u64 = 10_000;
const LIMIT_DEFAULT: u64 = 1_000;
/// A page of versions ends behind this many bytes of values.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// `GET /api/v1/kv/{key}/history`
///
/// # Errors
/// The problem to answer with.
pub async fn get<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let history = async {
        let key = key_in_path(key_part(parts.uri.path(), "/history"))?.into_owned();
        let query = Query::parse(parts.uri.query(), &["limit", "before", "consistency"])?;
        let limit = limit(&query, LIMIT_DEFAULT, LIMIT_MAX)?;
        let before = query.number("before")?.map(Seq);
        app.backend.barrier(query.consistency()?).await?;
        let read = || ready(app.backend.history(&key, before, limit, PAGE_BYTES_MAX));
        let versions = mended(&app.backend, read).await?;
        if versions.is_empty() && before.is_none() {
            return Err(Problem::new(Code::NotFound, "this key was never written"));
        }
        Ok(document::reply(Page::new(key, versions, limit), 1 << 10))
    };
    app.timed(Operation::History, history).await
}

/// The answer while it is being written.
struct Page {
    key: Vec<u8>,
    versions: Vec<Record>,
    next_before: Option<Seq>,
    /// How many versions are written.
    written: usize,
    /// The last of them has had its value and not its end.
    open: bool,
}

impl Page {
    fn new(key: Vec<u8>, mut versions: Vec<Record>, limit: usize) -> Self {
        let (mut shown, mut bytes) = (0, 0);
        for version in &versions {
            if shown > 0 && bytes + version.value.len() > PAGE_BYTES_MAX {
                break;
            }
            bytes += version.value.len();
            shown += 1;
        }
        let is_all = shown == versions.len() && shown < limit && bytes < PAGE_BYTES_MAX;
        versions.truncate(shown);
        let next_before = versions.last().filter(|_| !is_all).map(|last| last.seq);
        Self { key, versions, next_before, written: 0, open: false }
    }
}

impl Document for Page {
    fn write(&mut self, out: &mut Vec<u8>) -> Next {
        if std::mem::take(&mut self.open) {
            out.push(b'}');
        } else if self.written == 0 {
            out.push(b'{');
            json::write_key(out, &self.key);
            out.extend_from_slice(b",\"versions\":[");
        }
        let Some(version) = self.versions.get(self.written) else {
            out.extend_from_slice(b"],\"next_before\":");
            match self.next_before {
                Some(seq) => json::write_number(out, seq.0),
                None => out.extend_from_slice(b"null"),
            }
            out.push(b'}');
            return Next::End;
        };
        if self.written > 0 {
            out.push(b',');
        }
        self.written += 1;
        self.open = true;
        out.extend_from_slice(b"{\"seq\":");
        json::write_number(out, version.seq.0);
        out.extend_from_slice(b",\"op\":\"");
        out.extend_from_slice(version.op.name().as_bytes());
        out.extend_from_slice(b"\",\"timestamp_ms\":");
        json::write_number(out, version.timestamp_ms);
        out.extend_from_slice(b",\"value\":");
        match version.op {
            Op::Put => Next::Base64(version.value.clone()),
            Op::Delete => {
                out.extend_from_slice(b"null");
                Next::More
            }
        }
    }
}
