//! `/api/v1/kv/{key}`, its history, and `/api/v1/records/{seq}`: single records as JSON.
//!
//! The key is one path segment here, so that any key, `/` (as %2F) and reserved names included, has an
//! address. Values are base64 under `/api/v1/kv`.

use std::sync::Arc;

use axum::{body::Body, extract::State};
use hyper::{Request, Response, StatusCode, http::request::Parts};
use serde_json::{Map, Value, json as json_value};

use super::{
    App, Reply,
    backend::Backend,
    fields::Fields,
    headers::WriteOptions,
    json,
    json_body::{AskRoom, parse_json, read_json},
    keys::find,
    problem::Problem,
    query::{Query, key_in_path, parse_digits},
    write,
};
use crate::{
    error::Code,
    metrics::Operation,
    proof::leaf::{leaf, leaf_hash},
    read::Record,
    state::batch::Draft,
    types::{Op, Seq},
};

/// Versions in one answer, and how many when nothing is asked for.
const HISTORY_LIMIT_MAX: u64 = 10_000;
const HISTORY_LIMIT_DEFAULT: u64 = 1_000;
/// A page of versions ends behind this many bytes of values.
const HISTORY_BYTES_MAX: usize = 8 << 20;

/// The put that a body asks for. Its base64 is decoded into the draft, so that the value is held once.
fn parse_put(bytes: &[u8], key: &[u8], room: AskRoom<'_>) -> Result<Draft, Problem> {
    let malformed = |message: String| Problem::new(Code::Malformed, message);
    let mut body = parse_json::<Fields<'_>>(bytes)?.without_op()?;
    let key_b64 = body.key_b64.take().map(|text| {
        json::from_base64(text.0.as_bytes()).ok_or_else(|| malformed("\"key_b64\" is not base64".to_owned()))
    });
    let named = body.key.take().map(|key| key.0.into_owned().into_bytes());
    for named in [named, key_b64.transpose()?].into_iter().flatten() {
        if named != key {
            return Err(malformed("the key in the body is not the key in the path".to_owned()));
        }
    }
    let (name, text) = match (body.value, body.value_b64) {
        (Some(_), Some(_)) => return Err(malformed("give \"value\" or \"value_b64\", not both".to_owned())),
        (Some(text), None) => ("value", text.0),
        (None, Some(text)) => ("value_b64", text.0),
        (None, None) => return Err(malformed("\"value\" (base64) is missing".to_owned())),
    };
    let value_bytes = text.len() / 4 * 3 + 3;
    room(key.len() + value_bytes)?;
    let mut draft = Draft::with_capacity(1, key.len() + value_bytes);
    draft.put(key, b"")?;
    let decoded = json::decode_base64(text.as_bytes(), |part| draft.extend_value(part))?;
    decoded.then_some(draft).ok_or_else(|| malformed(format!("\"{name}\" is not base64")))
}

/// The key of `/api/v1/kv/{key}` or, with a suffix, of a path below it, as it is spelt there.
fn key_part<'a>(path: &'a str, suffix: &str) -> &'a str {
    let part = path.strip_prefix("/api/v1/kv/").unwrap_or_default();
    part.strip_suffix(suffix).unwrap_or(part)
}

/// `PUT /api/v1/kv/{key}`
///
/// # Errors
/// The problem to answer with.
pub async fn put<B: Backend>(State(app): State<Arc<App<B>>>, request: Request<Body>) -> Reply {
    let (parts, body) = request.into_parts();
    let put = async {
        let key = key_in_path(key_part(parts.uri.path(), ""));
        let options = WriteOptions::from_headers(&parts.headers);
        let query = Query::parse(parts.uri.query(), &[]);
        let parse = |bytes: &[u8], room: AskRoom<'_>| {
            query?;
            let key = key?;
            let draft = parse_put(bytes, &key, room)?;
            Ok((key, draft, options?))
        };
        let (permit, (key, draft, options)) = read_json(&app, &parts.headers, body, parse).await?;
        let written = write::submit(&app, permit, draft, options).await?;
        Ok(write::answer(StatusCode::OK, &key, written))
    };
    app.timed(Operation::Put, put).await
}

/// `DELETE /api/v1/kv/{key}`
///
/// # Errors
/// The problem to answer with.
pub async fn delete<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let delete = async {
        let key = key_in_path(key_part(parts.uri.path(), ""))?;
        Query::parse(parts.uri.query(), &[])?;
        write::delete(&app, &key, WriteOptions::from_headers(&parts.headers)?).await
    };
    app.timed(Operation::Delete, delete).await
}

/// `GET /api/v1/kv/{key}`
///
/// # Errors
/// The problem to answer with.
pub async fn get<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let get = async {
        let key = key_in_path(key_part(parts.uri.path(), ""))?;
        let query = Query::parse(parts.uri.query(), &["consistency", "at"])?;
        let record = find(&app, &key, query.consistency()?, query.at()?).await?;
        let mut body = Vec::with_capacity(record.value.len() / 3 * 4 + key.len() + 96);
        write_item(&mut body, &record, true);
        let mut response = json::reply(StatusCode::OK, body);
        write::with_seq(&mut response, record.seq);
        Ok(response)
    };
    app.timed(Operation::Get, get).await
}

/// `{"key","value","seq","timestamp_ms"}`
pub(super) fn write_item(out: &mut Vec<u8>, record: &Record, with_value: bool) {
    out.push(b'{');
    json::write_key(out, &record.key);
    if with_value {
        out.extend_from_slice(b",\"value\":\"");
        json::write_base64(out, &record.value);
        out.push(b'"');
    }
    out.extend_from_slice(b",\"seq\":");
    json::write_number(out, record.seq.0);
    out.extend_from_slice(b",\"timestamp_ms\":");
    json::write_number(out, record.timestamp_ms);
    out.push(b'}');
}

/// `GET /api/v1/kv/{key}/history`
///
/// # Errors
/// The problem to answer with.
pub async fn history<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let history = async {
        let key = key_in_path(key_part(parts.uri.path(), "/history"))?.into_owned();
        let query = Query::parse(parts.uri.query(), &["limit", "before", "consistency"])?;
        let limit = limit(&query, HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX)?;
        let before = query.number("before")?.map(Seq);
        app.backend.barrier(query.consistency()?).await?;
        let versions = app.backend.history(&key, before, limit);
        if versions.is_empty() && before.is_none() {
            return Err(Problem::new(Code::NotFound, "this key was never written"));
        }
        Ok(history_response(&key, &versions, limit))
    };
    app.timed(Operation::History, history).await
}

/// `?limit=`, from 1 to a bound.
///
/// # Errors
/// 400 outside it.
pub(super) fn limit(query: &Query<'_>, default: u64, max: u64) -> Result<usize, Problem> {
    let limit = query.number("limit")?.unwrap_or(default);
    if !(1..=max).contains(&limit) {
        return Err(Problem::new(Code::Malformed, format!("limit is 1 to {max}, not {limit}")));
    }
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

fn history_response(key: &[u8], versions: &[Record], limit: usize) -> Response<Body> {
    let mut out = Vec::with_capacity(1 << 10);
    out.push(b'{');
    json::write_key(&mut out, key);
    out.extend_from_slice(b",\"versions\":[");
    let (mut shown, mut bytes) = (0, 0);
    for version in versions {
        if shown > 0 && bytes + version.value.len() > HISTORY_BYTES_MAX {
            break;
        }
        bytes += version.value.len();
        if shown > 0 {
            out.push(b',');
        }
        shown += 1;
        out.extend_from_slice(b"{\"seq\":");
        json::write_number(&mut out, version.seq.0);
        out.extend_from_slice(b",\"op\":\"");
        out.extend_from_slice(version.op.name().as_bytes());
        out.extend_from_slice(b"\",\"timestamp_ms\":");
        json::write_number(&mut out, version.timestamp_ms);
        match version.op {
            Op::Put => {
                out.extend_from_slice(b",\"value\":\"");
                json::write_base64(&mut out, &version.value);
                out.extend_from_slice(b"\"}");
            }
            Op::Delete => out.extend_from_slice(b",\"value\":null}"),
        }
    }
    out.extend_from_slice(b"],\"next_before\":");
    match versions[..shown].last() {
        Some(last) if shown < versions.len() || shown == limit => json::write_number(&mut out, last.seq.0),
        _ => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    json::reply(StatusCode::OK, out)
}

/// `GET /api/v1/records/{seq}`
///
/// # Errors
/// The problem to answer with.
pub async fn record<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let read = async {
        let part = parts.uri.path().strip_prefix("/api/v1/records/").unwrap_or_default();
        let seq = parse_digits(part.as_bytes()).ok_or_else(|| {
            Problem::new(
                Code::Malformed,
                format!("a record is named by its seq, a whole number, not {part:?}"),
            )
        })?;
        let query = Query::parse(parts.uri.query(), &["consistency"])?;
        app.backend.barrier(query.consistency()?).await?;
        let record = app
            .backend
            .record(Seq(seq))
            .ok_or_else(|| Problem::new(Code::NotFound, format!("there is no record {seq}")))?;
        json::ok(&record_json(&record))
    };
    app.timed(Operation::Record, read).await
}

fn record_json(record: &Record) -> Value {
    let bytes = leaf(record.op, record.seq, record.timestamp_ms, &record.key, &record.value);
    let mut out = Map::new();
    json::insert_text(&mut out, "key", &record.key);
    match record.op {
        Op::Put => json::insert_text(&mut out, "value", &record.value),
        Op::Delete => drop(out.insert("value".to_owned(), Value::Null)),
    }
    out.insert("op".to_owned(), record.op.name().into());
    out.insert("seq".to_owned(), record.seq.0.into());
    out.insert("timestamp_ms".to_owned(), record.timestamp_ms.into());
    out.insert("leaf".to_owned(), json_value!(json::to_hex(&bytes)));
    out.insert("leaf_hash".to_owned(), json_value!(json::to_hex(&leaf_hash(&bytes))));
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::decode::testing::seen;

    #[test]
    fn put_bodies() {
        let parse = |text: &str| parse_put(text.as_bytes(), b"k", &mut |_| Ok(()));
        for hi in [r#"{"value":"aGk="}"#, r#"{"key":"k","key_b64":"aw==","value_b64":"aGk"}"#] {
            assert_eq!(seen(parse(hi).unwrap()), [(Op::Put, b"k".to_vec(), b"hi".to_vec())]);
        }
        for (bad, says) in [
            (r#"{"value":"a*"}"#, "\"value\" is not base64"),
            (r#"{"value_b64":"a*"}"#, "\"value_b64\" is not base64"),
            (r#"{"key":"other","value":""}"#, "key in the path"),
            (r#"{"key_b64":"***","value":""}"#, "\"key_b64\" is not base64"),
            (r#"{"value":"","value_b64":""}"#, "not both"),
            (r#"{"key":"k"}"#, "missing"),
            (r#"{"value":"","ttl":1}"#, "ttl"),
            (r#"{"op":"delete","value":""}"#, "op"),
            (r#"{"value":""#, "EOF"),
            ("", "not an object"),
            (r#"["k",null,"aGk=",null]"#, "not an object"),
        ] {
            let problem = parse(bad).unwrap_err();
            assert!(problem.detail().contains(says), "{bad}: {}", problem.detail());
            assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn keys_are_one_segment() {
        assert_eq!(key_part("/api/v1/kv/a%2Fb", ""), "a%2Fb");
        assert_eq!(key_part("/api/v1/kv/history/history", "/history"), "history");
    }
}
