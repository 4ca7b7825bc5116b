//! Other names for the same calls, for scripts written against similar servers. Each is a thin call of the
//! real handler: nothing here decides anything.

use std::sync::Arc;

use axum::{body::Body, extract::State};
use hyper::{Request, StatusCode, http::request::Parts};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    App, Reply,
    backend::Backend,
    decode::ndjson::{Text, bytes_of},
    headers::WriteOptions,
    json, keys,
    kv::{parse_json, read_json},
    problem::Problem,
    query::Query,
    write,
};
use crate::{error::Code, metrics::Operation, state::batch::check_key, types::Op};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyAndValue<'a> {
    #[serde(borrow, default)]
    key: Option<Text<'a>>,
    #[serde(borrow, default)]
    key_b64: Option<Text<'a>>,
    #[serde(borrow, default)]
    value: Option<Text<'a>>,
    #[serde(borrow, default)]
    value_b64: Option<Text<'a>>,
}

#[derive(Deserialize)]
enum Write<'a> {
    #[serde(borrow)]
    Set(&'a RawValue),
    #[serde(borrow)]
    Delete(&'a RawValue),
}

type KeyValue = (Vec<u8>, Option<Vec<u8>>);

fn key_and_value(body: KeyAndValue<'_>) -> Result<KeyValue, Problem> {
    let key = bytes_of("key", body.key, body.key_b64)?
        .ok_or_else(|| Problem::new(Code::Malformed, "\"key\" is missing"))?;
    check_key(&key)?;
    Ok((key.into_owned(), bytes_of("value", body.value, body.value_b64)?.map(std::borrow::Cow::into_owned)))
}

fn set(body: KeyAndValue<'_>) -> Result<(Op, Vec<u8>, Vec<u8>), Problem> {
    match key_and_value(body)? {
        (key, Some(value)) => Ok((Op::Put, key, value)),
        (_, None) => Err(Problem::new(Code::Malformed, "\"value\" is missing")),
    }
}

fn only_key(body: KeyAndValue<'_>) -> Result<Vec<u8>, Problem> {
    match key_and_value(body)? {
        (key, None) => Ok(key),
        (_, Some(_)) => Err(Problem::new(Code::Malformed, "only \"key\" is expected here")),
    }
}

fn parse_write(bytes: &[u8]) -> Result<(Op, Vec<u8>, Vec<u8>), Problem> {
    match parse_json(bytes)? {
        Write::Set(body) => set(parse_json(body.get().as_bytes())?),
        Write::Delete(body) => Ok((Op::Delete, only_key(parse_json(body.get().as_bytes())?)?, Vec::new())),
    }
}

async fn write_parsed<B: Backend>(
    app: &App<B>,
    request: Request<Body>,
    parse: impl FnOnce(&[u8]) -> Result<(Op, Vec<u8>, Vec<u8>), Problem>,
) -> Reply {
    let started = tokio::time::Instant::now();
    let (parts, body) = request.into_parts();
    let options = WriteOptions::from_headers(&parts.headers);
    let query = Query::parse(parts.uri.query(), &[]);
    let parse = |bytes: &[u8]| {
        query?;
        Ok((options?, parse(bytes)?))
    };
    let (permit, (options, (op, key, value))) = read_json(app, &parts.headers, body, parse).await?;
    let written = write::one(app, permit, op, &key, &value, options).await;
    let operation = if op == Op::Put { Operation::Put } else { Operation::Delete };
    app.metrics.observe(operation, started.elapsed());
    Ok(write::answer(StatusCode::OK, &key, written?))
}

/// `PUT /put` `{"key","value"}`
///
/// # Errors
/// The problem to answer with.
pub async fn put<B: Backend>(State(app): State<Arc<App<B>>>, request: Request<Body>) -> Reply {
    write_parsed(&app, request, |bytes| set(parse_json(bytes)?)).await
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
        let parse = |bytes: &[u8]| only_key(parse_json(bytes)?);
        let (permit, key) = read_json(&app, &parts.headers, body, parse).await?;
        drop(permit);
        let query = Query::parse(parts.uri.query(), &["consistency", "at"])?;
        let record = keys::find(&app, &key, query.consistency()?, query.at()?).await?;
        let mut out = Map::new();
        json::insert_text(&mut out, "key", &key);
        json::insert_text(&mut out, "value", &record.value);
        out.insert("seq".to_owned(), record.seq.0.into());
        let mut response = json::ok(&Value::Object(out))?;
        write::with_seq(&mut response, record.seq);
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

    #[test]
    fn writes_have_two_shapes() {
        let parse = |text: &str| parse_write(text.as_bytes());
        let set_k = (Op::Put, b"k".to_vec(), b"v".to_vec());
        assert_eq!(parse(r#"{"Set":{"key":"k","value":"v"}}"#).unwrap(), set_k);
        assert_eq!(parse(r#"{"Delete":{"key":"k"}}"#).unwrap(), (Op::Delete, b"k".to_vec(), Vec::new()));
        for bad in [
            r#"{"Get":{"key":"k"}}"#,
            r#"{"Set":{"key":"k","val":"v"}}"#,
            r#"{"Set":["k",null,"v",null]}"#,
            r#"{"Delete":["k"]}"#,
            "{}",
            r#""Set""#,
            "[]",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let missing: KeyAndValue<'_> = serde_json::from_str(r#"{"key":"k"}"#).unwrap();
        assert!(set(missing).unwrap_err().detail().contains("value"));
    }
}
