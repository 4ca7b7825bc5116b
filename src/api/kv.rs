//! `/api/v1/kv/{key}` and `/api/v1/records/{seq}`: single records as JSON.
//!
//! The key is one path segment here, so that any key, `/` (as %2F) and reserved names included, has an
//! address. Values are base64 under `/api/v1/kv`.

use std::{future::ready, sync::Arc};

use axum::{body::Body, extract::State};
use hyper::{Request, Response, StatusCode, http::request::Parts};

use super::{
    App, Reply,
    backend::Backend,
    document::{self, Document, Next, is_utf8},
    fields::Fields,
    headers::WriteOptions,
    json,
    json_body::{AskRoom, parse_json, read_json},
    keys::find,
    mended::mended,
    problem::Problem,
    proofs::seq_in_path,
    query::{Query, key_in_path},
    write,
};
use crate::{
    error::Code,
    metrics::Operation,
    proof::leaf::{leaf, leaf_hash},
    read::Record,
    runtime::without_blocking_others,
    state::batch::Draft,
    types::Op,
};

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
pub(super) fn key_part<'a>(path: &'a str, suffix: &str) -> &'a str {
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
        let done = write::submit(&app, permit, draft, options).await?;
        Ok(write::answer(StatusCode::OK, &key, &done))
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
        let (seq, bytes_guess) = (record.seq, record.value.len() / 3 * 4 + key.len() + 96);
        let mut response = document::reply(item(record), bytes_guess);
        write::with_seq(&mut response, seq);
        Ok(response)
    };
    app.timed(Operation::Get, get).await
}

/// `{"key","value","seq","timestamp_ms"}`
fn item(record: Record) -> impl Document {
    let mut begun = false;
    move |out: &mut Vec<u8>| {
        if !std::mem::replace(&mut begun, true) {
            write_item_start(out, &record);
            out.extend_from_slice(b",\"value\":");
            return Next::Base64(record.value.clone());
        }
        write_item_end(out, &record);
        Next::End
    }
}

/// An item up to its key.
pub(super) fn write_item_start(out: &mut Vec<u8>, record: &Record) {
    out.push(b'{');
    json::write_key(out, &record.key);
}

/// What follows its value, or its key when there is none.
pub(super) fn write_item_end(out: &mut Vec<u8>, record: &Record) {
    out.extend_from_slice(b",\"seq\":");
    json::write_number(out, record.seq.0);
    out.extend_from_slice(b",\"timestamp_ms\":");
    json::write_number(out, record.timestamp_ms);
    out.push(b'}');
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

/// `GET /api/v1/records/{seq}`
///
/// # Errors
/// The problem to answer with.
pub async fn record<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let read = async {
        let seq = seq_in_path(&parts, "/api/v1/records/")?;
        let query = Query::parse(parts.uri.query(), &["consistency"])?;
        app.backend.barrier(query.consistency()?).await?;
        let record = mended(&app.backend, || ready(app.backend.record(seq)))
            .await?
            .ok_or_else(|| Problem::new(Code::NotFound, format!("there is no record {seq}")))?;
        Ok(record_reply(record))
    };
    app.timed(Operation::Record, read).await
}

fn record_reply(record: Record) -> Response<Body> {
    // Two hashes and a look at every byte: long for a large value.
    let (leaf_hex, hash_hex, is_text) = without_blocking_others(record.value.len(), || {
        let bytes = leaf(record.op, record.seq, record.timestamp_ms, &record.key, &record.value);
        (json::to_hex(&bytes), leaf_hash(&bytes).to_string(), is_utf8(&record.value))
    });
    let bytes_guess = record.value.len() + record.key.len() + 512;
    let mut begun = false;
    let document = move |out: &mut Vec<u8>| {
        if !std::mem::replace(&mut begun, true) {
            out.push(b'{');
            json::write_key(out, &record.key);
            if record.op == Op::Put {
                return document::value(out, &record.value, is_text);
            }
            out.extend_from_slice(b",\"value\":null");
        }
        out.extend_from_slice(b",\"op\":\"");
        out.extend_from_slice(record.op.name().as_bytes());
        out.extend_from_slice(b"\",\"seq\":");
        json::write_number(out, record.seq.0);
        out.extend_from_slice(b",\"timestamp_ms\":");
        json::write_number(out, record.timestamp_ms);
        for (name, hex) in [("leaf", &leaf_hex), ("leaf_hash", &hash_hex)] {
            out.extend_from_slice(format!(",\"{name}\":\"{hex}\"").as_bytes());
        }
        out.push(b'}');
        Next::End
    };
    document::reply(document, bytes_guess)
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
