//! Other names for the same calls, for scripts written against similar servers. Each is a thin call of the
//! real handler: nothing here decides anything.

use std::sync::Arc;

use axum::{body::Body, extract::State};
use hyper::{Request, StatusCode, http::request::Parts};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    App, Reply,
    backend::Backend,
    document::{self, Next, is_utf8},
    fields::Fields,
    headers::WriteOptions,
    json,
    json_body::{AskRoom, parse_json, read_json},
    keys,
    problem::Problem,
    query::Query,
    write,
};
use crate::{
    error::Code,
    metrics::Operation,
    runtime::without_blocking_others,
    state::batch::{Draft, check_key},
    types::Op,
};

#[derive(Deserialize)]
enum Write<'a> {
    #[serde(borrow)]
    Set(&'a RawValue),
    #[serde(borrow)]
    Delete(&'a RawValue),
}

/// What a body asks for: a draft of one operation, and what its answer names.
struct Asked {
    op: Op,
    key: Vec<u8>,
    draft: Draft,
}

fn set(mut fields: Fields<'_>, room: AskRoom<'_>) -> Result<Asked, Problem> {
    let key = fields.take_key()?;
    check_key(&key)?;
    let value = fields.take_value()?.ok_or_else(|| Problem::new(Code::Malformed, "\"value\" is missing"))?;
    // A value that had to be decoded is held beside the draft.
    let copies = if matches!(value, std::borrow::Cow::Owned(_)) { 2 } else { 1 };
    room(key.len() + copies * value.len())?;
    let mut draft = Draft::with_capacity(1, key.len() + value.len());
    draft.put(&key, &value)?;
    Ok(Asked { op: Op::Put, key: key.into_owned(), draft })
}

fn delete(fields: Fields<'_>) -> Result<Asked, Problem> {
    let key = only_key(fields)?;
    let mut draft = Draft::with_capacity(1, key.len());
    draft.delete(&key)?;
    Ok(Asked { op: Op::Delete, key, draft })
}

fn only_key(mut fields: Fields<'_>) -> Result<Vec<u8>, Problem> {
    let key = fields.take_key()?;
    check_key(&key)?;
    match fields.take_value()? {
        None => Ok(key.into_owned()),
        Some(_) => Err(Problem::new(Code::Malformed, "only \"key\" is expected here")),
    }
}

fn parse_fields(bytes: &[u8]) -> Result<Fields<'_>, Problem> {
    Ok(parse_json::<Fields<'_>>(bytes)?.without_op()?)
}

fn parse_write(bytes: &[u8], room: AskRoom<'_>) -> Result<Asked, Problem> {
    match parse_json(bytes)? {
        Write::Set(body) => set(parse_fields(body.get().as_bytes())?, room),
        Write::Delete(body) => delete(parse_fields(body.get().as_bytes())?),
    }
}

/// Writes what `parse` finds in the body; counted as what it was, and as a put while that is not known.
async fn write_parsed<B: Backend>(
    app: &App<B>,
    request: Request<Body>,
    parse: impl FnOnce(&[u8], AskRoom<'_>) -> Result<Asked, Problem>,
) -> Reply {
    let started = tokio::time::Instant::now();
    let mut operation = Operation::Put;
    let write = async {
        let (parts, body) = request.into_parts();
        let options = WriteOptions::from_headers(&parts.headers);
        let query = Query::parse(parts.uri.query(), &[]);
        let parse = |bytes: &[u8], room: AskRoom<'_>| {
            query?;
            Ok((options?, parse(bytes, room)?))
        };
        let (permit, (options, asked)) = read_json(app, &parts.headers, body, parse).await?;
        if asked.op == Op::Delete {
            operation = Operation::Delete;
        }
        let done = write::submit(app, permit, asked.draft, options).await?;
        Ok(write::answer(StatusCode::OK, &asked.key, &done))
    };
    let reply = write.await;
    app.metrics.observe(operation, started.elapsed());
    reply
}

/// `PUT /put` `{"key","value"}`
///
/// # Errors
/// The problem to answer with.
pub async fn put<B: Backend>(State(app): State<Arc<App<B>>>, request: Request<Body>) -> Reply {
    write_parsed(&app, request, |bytes, room| set(parse_fields(bytes)?, room)).await
}

/// `POST /write` `{"Set":{"key","value"}}` or `{"Delete":{"key"}}`
///
/// # Errors
/// The problem to answer with.
pub async fn write<B: Backend>(State(app): State<Arc<App<B>>>, request: Request<Body>) -> Reply {
    write_parsed(&app, request, parse_write).await
}

/// `POST /read` `{"key"}`
///
/// # Errors
/// The problem to answer with.
pub async fn read<B: Backend>(State(app): State<Arc<App<B>>>, request: Request<Body>) -> Reply {
    let (parts, body) = request.into_parts();
    let read = async {
        let parse = |bytes: &[u8], _: AskRoom<'_>| only_key(parse_fields(bytes)?);
        let (permit, key) = read_json(&app, &parts.headers, body, parse).await?;
        drop(permit);
        let query = Query::parse(parts.uri.query(), &["consistency", "at"])?;
        let record = keys::find(&app, &key, query.consistency()?, query.at()?).await?;
        let (seq, bytes_guess) = (record.seq, record.value.len() + key.len() + 96);
        let is_text = without_blocking_others(record.value.len(), || is_utf8(&record.value));
        let mut begun = false;
        let document = move |out: &mut Vec<u8>| {
            if !std::mem::replace(&mut begun, true) {
                out.push(b'{');
                json::write_key(out, &key);
                return document::value(out, &record.value, is_text);
            }
            out.extend_from_slice(b",\"seq\":");
            json::write_number(out, record.seq.0);
            out.push(b'}');
            Next::End
        };
        let mut response = document::reply(document, bytes_guess);
        write::with_seq(&mut response, seq);
        Ok(response)
    };
    app.timed(Operation::Get, read).await
}

/// `GET /get/{key}`: as `GET /{key}`.
///
/// # Errors
/// The problem to answer with.
pub async fn get<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let part = parts.uri.path().strip_prefix("/get/").unwrap_or_default();
    let get = keys::get(&app, &parts.method, &parts.uri, &parts.headers, part);
    app.timed(Operation::Get, get).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::decode::testing::seen;

    #[test]
    fn writes_have_two_shapes() {
        let parse = |text: &str| parse_write(text.as_bytes(), &mut |_| Ok(()));
        for (text, op, value) in [
            (r#"{"Set":{"key":"k","value":"v"}}"#, Op::Put, &b"v"[..]),
            (r#"{"Set":{"key_b64":"aw","value_b64":"dg"}}"#, Op::Put, b"v"),
            (r#"{"Delete":{"key":"k"}}"#, Op::Delete, b""),
        ] {
            let asked = parse(text).unwrap();
            assert_eq!((asked.op, &asked.key[..]), (op, &b"k"[..]), "{text}");
            assert_eq!(seen(asked.draft), [(op, b"k".to_vec(), value.to_vec())], "{text}");
        }
        for bad in [
            r#"{"Get":{"key":"k"}}"#,
            r#"{"Set":{"key":"k","val":"v"}}"#,
            r#"{"Set":["k",null,"v",null]}"#,
            r#"{"Set":{"op":"put","key":"k","value":"v"}}"#,
            r#"{"Delete":["k"]}"#,
            r#"{"Delete":{"key":"k","value":"v"}}"#,
            "{}",
            r#""Set""#,
            "[]",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let missing = parse(r#"{"Set":{"key":"k"}}"#).map(drop).unwrap_err();
        assert!(missing.detail().contains("value"));
    }
}
