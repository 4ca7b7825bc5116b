//! The public contract of the HTTP API, as checks against a running server.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "slow clients are what is tested, and their clock is the machine's"
)]

use std::{
    io::{BufRead, Read, Write},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use scribe_ledger::{
    types::Op,
    wire::{FRAMES, NDJSON, push_frame},
};
use serde_json::{Value, json};

use super::{
    Server,
    client::Client,
    sse::{Sent, Watcher},
};

const VALUE_BYTES_MAX: usize = 64 << 20;

fn b64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

pub fn raw_keys(server: &mut impl Server) {
    let mut client = server.client();
    let put = client.put("/greeting", "hello").is(201);
    assert_eq!(put.json(), json!({"key": "greeting", "seq": 0}));
    assert_eq!((put.header("scribe-seq"), put.header("etag")), (Some("0"), Some("\"0\"")));
    assert_eq!(put.header("content-type"), Some("application/json"));
    let get = client.get("/greeting").is(200);
    assert_eq!(get.body, b"hello");
    for (name, value) in [
        ("scribe-seq", "0"),
        ("etag", "\"0\""),
        ("content-type", "application/octet-stream"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox"),
        ("accept-ranges", "bytes"),
        ("content-length", "5"),
    ] {
        assert_eq!(get.header(name), Some(value), "{name}");
    }
    assert!(get.header("last-modified").unwrap().ends_with("GMT"));
    let head = client.call("HEAD", "/greeting", &[], b"").is(200);
    assert_eq!((head.header("content-length"), head.header("etag")), (Some("5"), Some("\"0\"")));
    let delete = client.delete("/greeting").is(200);
    assert_eq!(delete.json(), json!({"key": "greeting", "seq": 1}));
    client.get("/greeting").is_problem(404, "not-found");
    assert_eq!(client.call("HEAD", "/greeting", &[], b"").status, 404);
    assert_eq!(client.delete("/never").is(200).json(), json!({"key": "never", "seq": 2}));
    client.get("/never").is_problem(404, "not-found");
    // An empty value is a value.
    client.put("/empty", "").is(201);
    assert_eq!(client.get("/empty").is(200).body, b"");
}

pub fn raw_keys_are_not_normalised(server: &mut impl Server) {
    let mut client = server.client();
    let spellings: [(&str, &[u8]); 12] = [
        ("/a/b/c", b"a/b/c"),
        ("/a//b", b"a//b"),
        ("//a", b"/a"),
        ("/a/", b"a/"),
        ("/a/../b", b"a/../b"),
        ("/.", b"."),
        ("/..", b".."),
        ("/a+b", b"a+b"),
        ("/a%20b", b"a b"),
        ("/%FF%00", b"\xff\0"),
        ("/caf%C3%A9", "caf\u{e9}".as_bytes()),
        ("/a%3Fb%23c%25", b"a?b#c%"),
    ];
    for (n, (path, key)) in spellings.iter().enumerate() {
        let put = client.put(path, path).is(201).json();
        match std::str::from_utf8(key) {
            Ok(text) => assert_eq!(put, json!({"key": text, "seq": n})),
            Err(_) => assert_eq!(put, json!({"key_b64": b64(key), "seq": n})),
        }
    }
    for (path, key) in spellings {
        assert_eq!(client.get(path).is(200).body, path.as_bytes());
        // The same key under its other address.
        let escaped: String = key.iter().map(|byte| format!("%{byte:02x}")).collect();
        let other = client.get(&format!("/api/v1/kv/{escaped}")).is(200).json();
        assert_eq!(other["value"], b64(path.as_bytes()));
    }
    let longest = format!("/{}", "k".repeat(1_024));
    client.put(&longest, "v").is(201);
    assert_eq!(client.get(&longest).is(200).body, b"v");
}

pub fn bad_paths_are_refused(server: &mut impl Server) {
    let mut client = server.client();
    for path in ["/%", "/%4", "/%zz", "/a%2", "/a%+1"] {
        client.put(path, "v").is_problem(400, "malformed");
        client.get(path).is_problem(400, "malformed");
    }
    client.put("/", "v").is_problem(400, "invalid-key");
    client.get("/").is_problem(400, "invalid-key");
    client.put(&format!("/{}", "k".repeat(1_025)), "v").is_problem(400, "invalid-key");
    client.put(&format!("/{}", "%6b".repeat(1_025)), "v").is_problem(400, "invalid-key");
    client.put("/%00scribe%00x", "v").is_problem(400, "invalid-key");
    client.call("PUT", "/api/v1/kv/", &[], b"{\"value\":\"\"}").is_problem(400, "invalid-key");
    let unknown = client.get("/k?consistancy=stale").is_problem(400, "malformed");
    assert!(unknown["detail"].as_str().unwrap().contains("consistancy"));
    client.get("/k?consistency=eventual").is_problem(400, "malformed");
    client.put("/k?at=1", "v").is_problem(400, "malformed");
    let post = client.post("/k", "text/plain", "v");
    post.is_problem(405, "method-not-allowed");
    assert_eq!(post.header("allow"), Some("GET, HEAD, PUT, DELETE"));
    client.call("PUT", "/k", &[("Content-Encoding", "gzip")], b"v").is_problem(415, "unsupported-media-type");
    client.get("/k").is_problem(404, "not-found");
}

pub fn reserved_names(server: &mut impl Server) {
    let mut client = server.client();
    for name in [
        "api",
        "put/x",
        "init",
        "verify",
        "tile",
        "ui/x",
        "v1",
        "v1/x",
        "v3/x/y",
        "admin",
        "debug/pprof",
        "internal",
        "docs/x",
        "metrics/x",
        "%61dmin",
        "admin%2Fx",
        "health/x",
        "leader/x",
    ] {
        let answer = client.put(&format!("/{name}"), "v");
        assert!(matches!(answer.status, 400 | 404 | 405), "{name}: {}", answer.status);
        assert!(!answer.json()["detail"].as_str().unwrap().is_empty());
    }
    for name in ["admin", "debug/x", "internal/x", "v1/x", "%61dmin", "health/x", "metrics/x"] {
        let problem = client.put(&format!("/{name}"), "v").is_problem(400, "invalid-key");
        assert!(problem["detail"].as_str().unwrap().contains("/api/v1/kv/"), "{problem}");
    }
    // A body that comes after the refusal was clear does not end the connection under the next request.
    let mut slow = server.client();
    for _ in 0..3 {
        slow.send(b"PUT /health HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n").unwrap();
        slow.patience(Duration::from_millis(20));
        assert!(slow.stream.fill_buf().is_err(), "it is answered when the body has come");
        slow.patience(Duration::from_secs(60));
        slow.send(b"v").unwrap();
        slow.answer(false).unwrap().is_problem(405, "method-not-allowed");
    }
    let wrong = client.call("DELETE", "/health", &[], b"");
    wrong.is_problem(405, "method-not-allowed");
    assert!(wrong.header("allow").unwrap().contains("GET"), "{wrong:?}");
    client.get("/api/v1/nonsense").is_problem(404, "no-such-route");
    // They are keys like any other where the key is one segment.
    client.put("/api/v1/kv/health", json!({"value": b64(b"v")}).to_string()).is(200);
    client.put("/api/v1/kv/api%2Fx", json!({"value": b64(b"v")}).to_string()).is(200);
    assert_eq!(client.get("/api/v1/kv/health").is(200).json()["value"], b64(b"v"));
    // And names that only look similar are not reserved.
    client.put("/apis", "v").is(201);
    client.put("/API", "v").is(201);
}

pub fn reads_of_versions_and_parts(server: &mut impl Server) {
    let mut client = server.client();
    client.put("/k", "0123456789").is(201);
    client.put("/k", "abcdefghij").is(201);
    client.delete("/k").is(200);
    client.put("/k", "third").is(201);
    assert_eq!(client.get("/k?at=0").is(200).body, b"0123456789");
    assert_eq!(client.get("/k?at=1").is(200).body, b"abcdefghij");
    client.get("/k?at=2").is_problem(404, "not-found");
    assert_eq!(client.get("/k?at=3&consistency=stale").is(200).body, b"third");
    client.get("/k?at=4").is_problem(400, "malformed");
    client.get("/k?at=x").is_problem(400, "malformed");
    client.get("/k?at=-1").is_problem(400, "malformed");
    for consistency in ["linearizable", "lease", "stale"] {
        client.get(&format!("/k?consistency={consistency}")).is(200);
    }
    for tag in ["\"3\"", "W/\"3\"", "*", "\"0\", \"3\""] {
        let same = client.call("GET", "/k", &[("If-None-Match", tag)], b"").is(304);
        assert_eq!((same.header("etag"), same.body.len()), (Some("\"3\""), 0));
    }
    client.call("GET", "/k", &[("If-None-Match", "\"1\"")], b"").is(200);
    client.call("HEAD", "/k", &[("If-None-Match", "\"3\"")], b"").is(304);
    for (range, body, content_range) in [
        ("bytes=0-2", &b"012"[..], "bytes 0-2/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=5-100", b"56789", "bytes 5-9/10"),
    ] {
        let part = client.call("GET", "/k?at=0", &[("Range", range)], b"").is(206);
        assert_eq!((&part.body[..], part.header("content-range")), (body, Some(content_range)));
    }
    let outside = client.call("GET", "/k?at=0", &[("Range", "bytes=10-")], b"");
    outside.is_problem(416, "range-not-satisfiable");
    assert_eq!(outside.header("content-range"), Some("bytes */10"));
    client.call("GET", "/k?at=0", &[("Range", "bytes=0-1,3-4")], b"").is(200);
    client.call("GET", "/k?at=0", &[("Range", "nonsense")], b"").is(200);
}

pub fn conditions(server: &mut impl Server) {
    let mut client = server.client();
    let mut put = |header: (&str, &str), value: &str| client.call("PUT", "/k", &[header], value.as_bytes());
    put(("If-Match", "*"), "no").is_problem(412, "precondition-failed");
    put(("If-None-Match", "*"), "first").is(201);
    put(("If-None-Match", "*"), "no").is_problem(412, "precondition-failed");
    put(("If-Match", "\"7\""), "no").is_problem(412, "precondition-failed");
    assert_eq!(
        put(("If-Match", "\"0\""), "second").is(201).json()["seq"],
        1,
        "a failed condition takes no seq"
    );
    put(("If-Match", "*"), "third").is(201);
    for bad in ["0", "W/\"0\"", "\"x\"", "\"0\",\"1\"", ""] {
        put(("If-Match", bad), "no").is_problem(400, "malformed");
    }
    put(("If-None-Match", "\"0\""), "no").is_problem(400, "malformed");
    client.call("DELETE", "/k", &[("If-Match", "\"0\"")], b"").is_problem(412, "precondition-failed");
    client.call("DELETE", "/k", &[("If-Match", "\"2\"")], b"").is(200);
    client.call("PUT", "/k", &[("If-Match", "\"3\"")], b"no").is_problem(412, "precondition-failed");
    client.call("PUT", "/k", &[("If-None-Match", "*")], b"again").is(201);
    let both = [("If-None-Match", "*"), ("If-Match", "*")];
    client.call("PUT", "/k", &both, b"no").is_problem(400, "malformed");
    assert_eq!(client.get("/k").is(200).body, b"again");
}

pub fn idempotency(server: &mut impl Server) {
    let mut client = server.client();
    let key = [("Idempotency-Key", "retry 1")];
    let first = client.call("PUT", "/k", &key, b"v").is(201);
    assert_eq!(first.header("idempotency-replayed"), None);
    client.put("/k", "newer").is(201);
    let again = client.call("PUT", "/k", &key, b"v").is(201);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!((again.json(), again.header("etag")), (first.json(), first.header("etag")));
    assert_eq!(client.get("/k").is(200).body, b"newer");
    client.call("PUT", "/k", &key, b"other").is_problem(422, "idempotency-mismatch");
    client.call("PUT", "/other", &key, b"v").is_problem(422, "idempotency-mismatch");
    let long = "x".repeat(129);
    for bad in ["", &long] {
        client.call("PUT", "/k", &[("Idempotency-Key", bad)], b"v").is_problem(400, "malformed");
    }
    client.call("PUT", "/k", &[("Idempotency-Key", &long[1..])], b"v").is(201);
    let batch = [("Idempotency-Key", "b"), ("Content-Type", NDJSON)];
    let body = b"{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value\":\"2\"}";
    let first = client.call("POST", "/api/v1/batch", &batch, body).is(200);
    let again = client.call("POST", "/api/v1/batch", &batch, body).is(200);
    assert_eq!(first.json(), again.json());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    // A condition that failed fails again, whatever is true now.
    let headers = [("Idempotency-Key", "c"), ("If-Match", "*")];
    client.call("PUT", "/later", &headers, b"v").is_problem(412, "precondition-failed");
    client.put("/later", "v").is(201);
    let again = client.call("PUT", "/later", &headers, b"v");
    again.is_problem(412, "precondition-failed");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
}

pub fn json_kv(server: &mut impl Server) {
    let mut client = server.client();
    let put = client.put("/api/v1/kv/a%2Fb", json!({"value": b64(b"\xff\0")}).to_string()).is(200);
    assert_eq!(put.json(), json!({"key": "a/b", "seq": 0}));
    let get = client.get("/api/v1/kv/a%2Fb").is(200).json();
    assert_eq!((&get["key"], &get["value"], &get["seq"]), (&json!("a/b"), &json!(b64(b"\xff\0")), &json!(0)));
    assert!(get["timestamp_ms"].as_u64().unwrap() > 1_600_000_000_000);
    assert_eq!(client.get("/a/b").is(200).body, b"\xff\0");
    let spelt = json!({"key": "a/b", "key_b64": b64(b"a/b"), "value_b64": b64(b"x")});
    client.put("/api/v1/kv/a%2Fb", spelt.to_string()).is(200);
    client.put("/api/v1/kv/%FF", json!({"value": ""}).to_string()).is(200);
    assert_eq!(client.get("/api/v1/kv/%FF").is(200).json()["key_b64"], b64(b"\xff"));
    for (body, says) in [
        (r#"{"value":"a*b"}"#, "value"),
        (r#"{"value_b64":"a*b"}"#, "value_b64"),
        (r#"{"key":"other","value":""}"#, "key"),
        (r#"{"key_b64":"*","value":""}"#, "key_b64"),
        (r#"{"valve":""}"#, "valve"),
        ("{}", "value"),
        ("{", "JSON"),
        ("", "JSON"),
        ("\u{0}", "JSON"),
    ] {
        let problem = client.put("/api/v1/kv/k", body).is_problem(400, "malformed");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
    }
    client.put("/api/v1/kv/k", b"{\"value\":\"\xff\"}").is_problem(400, "malformed");
    client.get("/api/v1/kv/k").is_problem(404, "not-found");
    client.get("/api/v1/kv/a/b").is_problem(404, "no-such-route");
    assert_eq!(client.delete("/api/v1/kv/a%2Fb").is(200).json(), json!({"key": "a/b", "seq": 3}));
    client.get("/api/v1/kv/a%2Fb").is_problem(404, "not-found");
    assert_eq!(client.get("/api/v1/kv/a%2Fb?at=0").is(200).json()["seq"], 0);
    let create = [("If-None-Match", "*")];
    client.call("PUT", "/api/v1/kv/new", &create, b"{\"value\":\"\"}").is(200);
    client.call("PUT", "/api/v1/kv/new", &create, b"{\"value\":\"\"}").is_problem(412, "precondition-failed");
}

pub fn scans(server: &mut impl Server) {
    let mut client = server.client();
    let body: String = (0..25)
        .map(|n| format!("{{\"key\":\"k{n:02}\",\"value\":\"v{n}\"}}\n"))
        .collect::<String>()
        + "{\"key\":\"other\",\"value\":\"\"}\n{\"op\":\"delete\",\"key\":\"k03\"}\n{\"key_b64\":\"/wE=\",\"value\":\"\"}";
    client.post("/api/v1/batch", NDJSON, body).is(200);
    let all = client.get("/api/v1/kv").is(200).json();
    assert_eq!(all["items"].as_array().unwrap().len(), 26);
    assert_eq!(all["next_cursor"], Value::Null);
    assert_eq!(all["items"][0]["value"], b64(b"v0"));
    assert_eq!(all["items"][25]["key_b64"], "/wE=");
    let range = client.get("/api/v1/kv?prefix=k&start=k05&end=k10&keys_only=true").is(200).json();
    let keys: Vec<&str> =
        range["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["k05", "k06", "k07", "k08", "k09"]);
    assert!(range["items"][0].get("value").is_none());
    assert_eq!(client.get("/api/v1/kv?prefix_b64=_w").is(200).json()["items"].as_array().unwrap().len(), 1);
    // Pages stay as of the first one, whatever is written in between.
    let (mut seen, mut path) = (Vec::new(), "/api/v1/kv?prefix=k&limit=10".to_owned());
    loop {
        let page = client.get(&path).is(200).json();
        for item in page["items"].as_array().unwrap() {
            seen.push(item["key"].as_str().unwrap().to_owned());
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        client.put("/k99", "late").is(201);
        client.delete("/k24").is(200);
        path = format!("/api/v1/kv?prefix=k&limit=10&cursor={cursor}");
        // A cursor belongs to its scan.
        client.get(&format!("/api/v1/kv?prefix=o&cursor={cursor}")).is_problem(400, "malformed");
        client.get(&format!("/api/v1/kv?prefix=k&cursor=x{cursor}")).is_problem(400, "malformed");
    }
    assert_eq!(seen.len(), 24);
    assert!(seen.is_sorted() && seen.contains(&"k24".to_owned()) && !seen.contains(&"k99".to_owned()));
    for bad in [
        "limit=0",
        "limit=10001",
        "limit=x",
        "cursor=!!",
        "prefix=a&prefix_b64=YQ",
        "end_b64=*",
        "keys_only=maybe",
        "foo=1",
    ] {
        client.get(&format!("/api/v1/kv?{bad}")).is_problem(400, "malformed");
    }
    client.get("/api/v1/kv?limit=10000").is(200);
}

pub fn history_and_records(server: &mut impl Server) {
    let mut client = server.client();
    client.put("/k", "one").is(201);
    client.put("/k", "two").is(201);
    client.delete("/k").is(200);
    let history = client.get("/api/v1/kv/k/history").is(200).json();
    assert_eq!(history["key"], "k");
    let versions = history["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 3);
    assert_eq!((&versions[0]["op"], &versions[0]["seq"]), (&json!("delete"), &json!(2)));
    assert_eq!((&versions[1]["op"], &versions[1]["value"]), (&json!("put"), &json!(b64(b"two"))));
    let page = client.get("/api/v1/kv/k/history?limit=1&before=2").is(200).json();
    assert_eq!((&page["versions"][0]["seq"], &page["next_before"]), (&json!(1), &json!(1)));
    client.get("/api/v1/kv/never/history").is_problem(404, "not-found");
    client.get("/api/v1/kv/k/history?limit=0").is_problem(400, "malformed");

    let record = client.get("/api/v1/records/1").is(200).json();
    assert_eq!(
        (&record["key"], &record["value"], &record["op"], &record["seq"]),
        (&json!("k"), &json!("two"), &json!("put"), &json!(1))
    );
    let leaf = record["leaf"].as_str().unwrap();
    assert_eq!((leaf.len(), &leaf[..6], &leaf[6..22]), (182, "010100", "0000000000000001"));
    assert_eq!(
        &leaf[118..182],
        "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
        "SHA-256 of two"
    );
    assert_eq!(record["leaf_hash"].as_str().unwrap().len(), 64);
    let tombstone = client.get("/api/v1/records/2").is(200).json();
    assert_eq!((&tombstone["op"], &tombstone["value"]), (&json!("delete"), &Value::Null));
    assert!(tombstone["leaf"].as_str().unwrap().ends_with(&"0".repeat(64)));
    client.get("/api/v1/records/3").is_problem(404, "not-found");
    client.get("/api/v1/records/18446744073709551615").is_problem(404, "not-found");
    client.get("/api/v1/records/-1").is_problem(400, "malformed");
    client.get("/api/v1/records/18446744073709551616").is_problem(400, "malformed");
}

fn frames_of(ops: &[(Op, &[u8], &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    ops.iter().for_each(|(op, key, value)| push_frame(&mut body, *op, key, value).unwrap());
    body
}

pub fn batches(server: &mut impl Server) {
    let mut client = server.client();
    let lines = "{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}\r\n\n{\"key_b64\":\"/w==\",\"value_b64\":\"AA==\"}\n{\"op\":\"delete\",\"key\":\"a\"}";
    let first = client.post("/api/v1/batch", NDJSON, lines).is(200).json();
    assert_eq!(first, json!({"first_seq": 0, "last_seq": 2, "count": 3}));
    client.get("/a").is_problem(404, "not-found");
    assert_eq!(client.get("/%FF").is(200).body, b"\0");
    let body = frames_of(&[(Op::Put, b"b", b"2"), (Op::Delete, b"\xff", b""), (Op::Put, b"b", b"3")]);
    let second = client.post("/api/v1/batch", "Application/Vnd.Scribe.Batch; v=1", &body).is(200).json();
    assert_eq!(second, json!({"first_seq": 3, "last_seq": 5, "count": 3}));
    assert_eq!(client.get("/b").is(200).body, b"3");
    assert_eq!(client.get("/b?at=3").is(200).body, b"2");
    // The same bytes in many small chunks.
    client
        .send(format!("POST /api/v1/batch HTTP/1.1\r\nHost: x\r\nContent-Type: {FRAMES}\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes())
        .unwrap();
    for piece in body.chunks(5) {
        client.send(format!("{:x}\r\n", piece.len()).as_bytes()).unwrap();
        client.send(piece).unwrap();
        client.send(b"\r\n").unwrap();
    }
    client.send(b"0\r\n\r\n").unwrap();
    assert_eq!(client.answer(false).unwrap().is(200).json()["count"], 3);
    // A large one: 20,000 records.
    let mut body = Vec::new();
    for n in 0..20_000 {
        push_frame(&mut body, Op::Put, format!("bulk{n:06}").as_bytes(), &[b'v'; 100]).unwrap();
    }
    assert_eq!(client.post("/api/v1/batch", FRAMES, &body).is(200).json()["count"], 20_000);
    assert_eq!(client.get("/bulk019999").is(200).body, [b'v'; 100]);
}

pub fn bad_batches_store_nothing(server: &mut impl Server) {
    let mut client = server.client();
    let good = frames_of(&[(Op::Put, b"k", b"v")]);
    for (tail, slug, status) in [
        (&b"\x03\0\x01\0\0\0\0\0k"[..], "malformed", 400),
        (b"\x01\x07\x01\0\0\0\0\0k", "malformed", 400),
        (b"\x01\0\0\0\0\0\0\0", "invalid-key", 400),
        (b"\x01\0\xff\xff\0\0\0\0", "invalid-key", 400),
        (b"\x01\0\x01\0\x05\0\0\0kv", "malformed", 400),
        (b"\x01\0\x01", "malformed", 400),
        (b"\x01\0\x01\0\xff\xff\xff\xffk", "too-large", 413),
    ] {
        let body = [&good[..], tail].concat();
        let problem = client.post("/api/v1/batch", FRAMES, body).is_problem(status, slug);
        assert!(problem["detail"].as_str().unwrap().contains("record 1"), "{problem}");
    }
    for tail in [
        "{",
        "{\"key\":\"x\"}",
        "{\"key\":\"\",\"value\":\"\"}",
        "{\"key\":\"x\",\"value_b64\":\"*\"}",
        "{\"op\":\"get\",\"key\":\"x\"}",
        "[1]",
    ] {
        let body = format!("{{\"key\":\"k\",\"value\":\"v\"}}\n{tail}\n");
        let problem = client.post("/api/v1/batch", NDJSON, body).is(400).json();
        assert!(problem["detail"].as_str().unwrap().contains("line 2"), "{problem}");
    }
    client.post("/api/v1/batch", NDJSON, b"{\"key\":\"\xff\",\"value\":\"\"}").is_problem(400, "malformed");
    for content_type in [NDJSON, FRAMES] {
        client.post("/api/v1/batch", content_type, "").is_problem(400, "malformed");
    }
    client.post("/api/v1/batch", NDJSON, "\n\r\n  \n").is_problem(400, "malformed");
    client.post("/api/v1/batch", "application/json", "{}").is_problem(415, "unsupported-media-type");
    client.call("POST", "/api/v1/batch", &[], b"{}").is_problem(415, "unsupported-media-type");
    let conditional = [("Content-Type", FRAMES), ("If-Match", "*")];
    client.call("POST", "/api/v1/batch", &conditional, &good).is_problem(400, "malformed");
    client.get("/k").is_problem(404, "not-found");
    assert_eq!(client.put("/first", "v").is(201).json()["seq"], 0, "nothing took a seq");
}

fn coded(coding: &str, plain: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(plain, 3).unwrap(),
        "lz4" => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        _ => plain.to_vec(),
    }
}

pub fn batch_codings(server: &mut impl Server) {
    let mut client = server.client();
    let mut plain = Vec::new();
    for n in 0..5_000 {
        push_frame(&mut plain, Op::Put, format!("key{n}").as_bytes(), format!("value{n}").as_bytes())
            .unwrap();
    }
    for coding in ["gzip", "zstd", "lz4", "identity"] {
        let headers = [("Content-Type", FRAMES), ("Content-Encoding", coding)];
        let mut post = |body: &[u8]| client.call("POST", "/api/v1/batch", &headers, body);
        let body = coded(coding, &plain);
        assert_eq!(post(&body).is(200).json()["count"], 5_000, "{coding}");
        if coding == "identity" {
            continue;
        }
        let halves = [coded(coding, &plain[..1_001]), coded(coding, &plain[1_001..])].concat();
        assert_eq!(post(&halves).is(200).json()["count"], 5_000, "{coding}, two streams");
        post(&body[..body.len() - 1]).is_problem(400, "malformed");
        post(&[&body[..], b"garbage!"].concat()).is_problem(400, "malformed");
        post(&plain).is_problem(400, "malformed");
        post(b"").is_problem(400, "malformed");
        // A bomb: 1 GiB of zeros would be; 100 MiB shows the same and builds faster. The limit is 1 MiB.
        let started = Instant::now();
        let mut bomb = Vec::new();
        push_frame(&mut bomb, Op::Put, b"bomb", &vec![0; 50 << 20]).unwrap();
        post(&coded(coding, &bomb)).is_problem(413, "too-large");
        assert!(started.elapsed() < Duration::from_secs(20), "{coding}");
    }
    for bad in ["br", "deflate", "gzip, gzip"] {
        let headers = [("Content-Type", FRAMES), ("Content-Encoding", bad)];
        client.call("POST", "/api/v1/batch", &headers, &plain).is_problem(415, "unsupported-media-type");
    }
    let headers = [("Content-Type", FRAMES)];
    let mut large = Vec::new();
    push_frame(&mut large, Op::Put, b"large", &vec![0; 1 << 20]).unwrap();
    client.call("POST", "/api/v1/batch", &headers, &large).is_problem(413, "too-large");
    client.get("/bomb").is_problem(404, "not-found");
    client.get("/large").is_problem(404, "not-found");
}

pub fn sizes_of_values(server: &mut impl Server) {
    let mut client = server.client();
    let mut value = vec![0x5a; VALUE_BYTES_MAX];
    value[VALUE_BYTES_MAX - 1] = 1;
    client.put("/largest", &value).is(201);
    assert!(client.get("/largest").is(200).body == value);
    let part = client.call("GET", "/largest", &[("Range", "bytes=-1")], b"").is(206);
    assert_eq!(part.body, [1]);
    value.push(0);
    server.client().put("/larger", &value).is_problem(413, "too-large");
    // What another transfer coding hides is not a value.
    for coding in ["gzip, chunked", "chunked, chunked", "identity, chunked"] {
        let mut client = server.client();
        let head = format!("PUT /coded HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n");
        client.send(format!("{head}1\r\nv\r\n0\r\n\r\n").as_bytes()).unwrap();
        let answer = client.answer(false).unwrap();
        assert!(matches!(answer.status, 400 | 501), "{coding}: {answer:?}");
        assert!(client.is_closed_within(Duration::from_secs(5)));
        server.client().get("/coded").is_problem(404, "not-found");
    }
    // Without a length the server finds out on the way.
    let mut client = server.client();
    client.send(b"PUT /larger HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    for piece in value.chunks(1 << 20) {
        client.send(format!("{:x}\r\n", piece.len()).as_bytes()).unwrap();
        client.send(piece).unwrap();
        client.send(b"\r\n").unwrap();
    }
    client.send(b"0\r\n\r\n").unwrap();
    client.answer(false).unwrap().is_problem(413, "too-large");
    // One that waits to be asked for its body is refused without it.
    let mut client = server.client();
    client
        .send(
            b"PUT /larger HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n",
        )
        .unwrap();
    client.answer(false).unwrap().is_problem(413, "too-large");
    let mut client = server.client();
    client.put("/larger", "").is(201);
    client.get("/larger").is(200);
    value.pop();
    let json = json!({"value": b64(&value)}).to_string();
    client.put("/api/v1/kv/json", json).is(200);
}

/// Answers that are too large to be built whole.
pub fn large_json_answers(server: &mut impl Server) {
    let mut client = server.client();
    let text = "\u{e9}\"\n ".repeat(60_000).into_bytes();
    let noise: Vec<u8> = (0..3_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (n, value) in [&text, &noise].into_iter().enumerate() {
        client.put("/k", value).is(201);
        let item = client.get("/api/v1/kv/k").is(200).json();
        assert!(item["value"] == b64(value) && item["seq"] == n && item["timestamp_ms"].is_u64());
        let read = client.post("/read", "application/json", r#"{"key":"k"}"#).is(200).json();
        let record = client.get(&format!("/api/v1/records/{n}")).is(200).json();
        for answer in [&read, &record] {
            match std::str::from_utf8(value) {
                Ok(text) => assert!(answer["value"] == text),
                Err(_) => assert!(answer["value_b64"] == b64(value)),
            }
        }
        assert_eq!(record["leaf_hash"].as_str().unwrap().len(), 64);
    }
    client.delete("/k").is(200);
    client.put("/l", &noise).is(201);
    let history = client.get("/api/v1/kv/k/history").is(200).json();
    let values: Vec<Value> =
        history["versions"].as_array().unwrap().iter().map(|v| v["value"].clone()).collect();
    assert!(values == [Value::Null, b64(&noise).into(), b64(&text).into()]);
    assert_eq!(history["next_before"], Value::Null);
    client.put("/k", &noise).is(201);
    let page = client.get("/api/v1/kv").is(200).json();
    assert!(page["items"].as_array().unwrap().iter().all(|item| item["value"] == b64(&noise)));
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    // HEAD has no body, and the connection goes on.
    client.call("HEAD", "/api/v1/kv/k", &[], b"").is(200);
    client.get("/l").is(200);
}

pub fn other_names(server: &mut impl Server) {
    let mut client = server.client();
    assert_eq!(
        client.put("/put", r#"{"key":"a/b","value":"v"}"#).is(200).json(),
        json!({"key": "a/b", "seq": 0})
    );
    assert_eq!(client.get("/get/a/b").is(200).body, b"v");
    assert_eq!(client.get("/get/a%2Fb").is(200).body, b"v");
    assert_eq!(client.call("HEAD", "/get/a/b", &[], b"").is(200).header("content-length"), Some("1"));
    client.get("/get/").is_problem(400, "invalid-key");
    client.get("/get/none").is_problem(404, "not-found");
    let write = |client: &mut Client, body: &str| client.post("/write", "application/json", body);
    assert_eq!(
        write(&mut client, r#"{"Set":{"key":"k","value":"w"}}"#).is(200).json(),
        json!({"key": "k", "seq": 1})
    );
    let read = |client: &mut Client, body: &str| client.post("/read", "application/json", body);
    assert_eq!(
        read(&mut client, r#"{"key":"k"}"#).is(200).json(),
        json!({"key": "k", "value": "w", "seq": 1})
    );
    assert_eq!(write(&mut client, r#"{"Delete":{"key":"k"}}"#).is(200).json(), json!({"key": "k", "seq": 2}));
    read(&mut client, r#"{"key":"k"}"#).is_problem(404, "not-found");
    client.put("/bin", b"\xff").is(201);
    assert_eq!(read(&mut client, r#"{"key":"bin"}"#).is(200).json()["value_b64"], "/w==");
    for bad in ["{}", "{\"Set\":{\"key\":\"k\"}}", "{\"Get\":{\"key\":\"k\"}}", "x"] {
        write(&mut client, bad).is_problem(400, "malformed");
    }
    read(&mut client, r#"{"key":""}"#).is_problem(400, "invalid-key");
    client.call("GET", "/put", &[], b"").is_problem(405, "method-not-allowed");
}

pub fn status_and_health(server: &mut impl Server) {
    let mut client = server.client();
    for path in ["/health", "/api/v1/health"] {
        assert_eq!(client.get(path).is(200).body, b"{\"status\":\"ok\"}");
    }
    for path in ["/livez", "/readyz", "/readyz?verbose"] {
        client.get(path).is(200);
    }
    client.put("/k", "v").is(201);
    let status = client.get("/api/v1/status").is(200).json();
    for pointer in [
        "/node_id",
        "/cluster_id",
        "/role",
        "/leader_id",
        "/term",
        "/log/proposed",
        "/log/committed",
        "/log/applied",
        "/records/applied",
        "/records/proven",
        "/records/sealed",
        "/records/archived",
        "/tree/size",
        "/tree/root",
        "/stages",
        "/version",
        "/profile",
        "/uptime_ms",
    ] {
        assert!(status.pointer(pointer).is_some(), "{pointer} in {status}");
    }
    let openapi = client.get("/openapi.json").is(200).json();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"));
}

pub fn metrics(server: &mut impl Server) {
    let mut client = server.client();
    client.put("/k", "v").is(201);
    client.get("/k").is(200);
    client.get("/none").is(404);
    client.delete("/k").is(200);
    client.get("/k?bad=1").is(400);
    for path in ["/metrics", "/api/v1/metrics"] {
        let metrics = client.get(path).is(200).json();
        for name in
            ["total_keys", "total_records", "ops_per_sec", "storage", "network", "raft", "current_leader"]
        {
            assert!(!metrics[name].is_null(), "{name} in {metrics}");
        }
        assert_eq!(metrics["put_requests"], 1);
        assert_eq!(metrics["delete_requests"], 1);
        assert_eq!(metrics["get_requests"], 3);
        assert_eq!(metrics["errors"], 1);
        assert!(metrics["latency_ms"]["get"]["p99"].is_number());
    }
    for (path, accept) in [
        ("/metrics", "text/plain"),
        ("/metrics/prometheus", "*/*"),
        ("/metrics", "application/openmetrics-text, */*;q=0.1"),
    ] {
        let text = client.call("GET", path, &[("Accept", accept)], b"").is(200);
        assert!(text.header("content-type").unwrap().starts_with("text/plain"));
        assert!(
            String::from_utf8(text.body).unwrap().contains("scribe_requests_total{operation=\"put\"} 1\n")
        );
    }
}

pub fn refused_requests_are_counted(server: &mut impl Server) {
    let mut client = server.client();
    client.put("/put", "no JSON").is(400);
    client.post("/write", "application/json", r#"{"Set":{"key":"k"}}"#).is(400);
    client.post("/read", "application/json", "{}").is(400);
    client.put("/api/v1/kv/k", "{}").is(400);
    client.post("/write", "application/json", r#"{"Delete":{"key":"k"}}"#).is(200);
    client.post("/api/v1/batch", NDJSON, "{").is(400);
    let metrics = client.get("/metrics").is(200).json();
    for (name, count) in [("put_requests", 3), ("get_requests", 1), ("delete_requests", 1), ("errors", 5)] {
        assert_eq!(metrics[name], count, "{name} in {metrics}");
    }
}

pub fn cluster_of_one(server: &mut impl Server) {
    let mut client = server.client();
    for path in ["/cluster/status", "/cluster/info", "/api/v1/cluster/status"] {
        let cluster = client.get(path).is(200).json();
        assert_eq!((&cluster["leader_id"], cluster["members"].as_array().unwrap().len()), (&json!(1), 1));
    }
    for path in ["/cluster/members", "/cluster/nodes", "/api/v1/cluster/nodes"] {
        assert_eq!(client.get(path).is(200).json()["members"][0]["node_id"], 1);
    }
    for path in ["/cluster/leader", "/cluster/leader/info", "/leader"] {
        let leader = client.get(path).is(200).json();
        assert!(leader["leader_id"] == 1 && leader["http_addr"].is_string());
    }
    assert_eq!(client.get("/is-leader").is(200).json()["is_leader"], true);
}

pub fn not_built_yet(server: &mut impl Server) {
    let mut client = server.client();
    for path in ["/ui", "/docs", "/v3/kv/range"] {
        let problem = client.get(path).is_problem(404, "no-such-route");
        assert!(problem["detail"].as_str().unwrap().contains("not built"), "{problem}");
    }
}

pub fn watches(server: &mut impl Server) {
    let mut client = server.client();
    client.put("/a/1", "one").is(201);
    client.put("/b/1", [0xff]).is(201);
    client.delete("/a/1").is(200);
    let watch = |path: &str, headers: &[(&str, &str)]| Watcher::start(server.addr(), path, headers).unwrap();
    let mut all = watch("/api/v1/watch?from=0", &[]);
    let mut of_a = watch("/api/v1/watch?from=0&prefix=a/", &[]);
    let mut new = watch("/api/v1/watch", &[]);
    let mut resumed = watch("/api/v1/watch?from=0", &[("Last-Event-ID", "1")]);
    // Their heads are there and so is their place; what is written now is new to all of them.
    client.put("/a/2", "two").is(201);
    let (id, event, data) = all.event();
    assert_eq!((id, &*event, &data["key"], &data["value"]), (0, "put", &json!("a/1"), &json!("one")));
    assert!(data["timestamp_ms"].as_u64().unwrap() > 1_600_000_000_000);
    let (id, _, data) = all.event();
    assert_eq!((id, &data["value"], &data["value_b64"]), (1, &Value::Null, &json!("/w==")));
    let (id, event, data) = all.event();
    assert_eq!((id, &*event, &data["value"]), (2, "delete", &Value::Null));
    assert_eq!((all.event().0, new.event().0), (3, 3));
    assert_eq!([of_a.event().0, of_a.event().0, of_a.event().0], [0, 2, 3]);
    assert_eq!([resumed.event().0, resumed.event().0], [2, 3]);
    // A batch, and a value larger than any piece.
    let large = "x".repeat(300_000);
    let lines: String = (0..1_000).map(|n| format!("{{\"key\":\"c{n}\",\"value\":\"{n}\"}}\n")).collect();
    client.post("/api/v1/batch", "application/x-ndjson", lines).is(200);
    client.put("/a/3", &large).is(201);
    assert_eq!(of_a.event().2["value"], large);
    for seq in 4..1_004 {
        assert_eq!((all.event().0, new.event().2["key"].as_str()), (seq, Some(&*format!("c{}", seq - 4))));
    }
    assert_eq!((all.event().0, new.event().0), (1_004, 1_004));
}

pub fn watches_are_refused(server: &mut impl Server) {
    let mut client = server.client();
    client.put("/k", "v").is(201);
    for path in [
        "/api/v1/watch?from=2",
        "/api/v1/watch?from=x",
        "/api/v1/watch?from=18446744073709551615",
        "/api/v1/watch?since=0",
        "/api/v1/watch?prefix=a&prefix_b64=YQ",
    ] {
        client.get(path).is_problem(400, "malformed");
    }
    for id in ["1", "x", "18446744073709551615"] {
        client
            .call("GET", "/api/v1/watch?from=0", &[("Last-Event-ID", id)], b"")
            .is_problem(400, "malformed");
    }
    client.call("HEAD", "/api/v1/watch", &[], b"").is(200);
    let mut next = Watcher::start(server.addr(), "/api/v1/watch?from=1", &[]).unwrap();
    client.put("/k", "w").is(201);
    assert_eq!(next.event().0, 1);
}

/// To whoever guards slow clients, a watch that has nothing to say looks like a client that takes nothing. The
/// comments keep proxies awake, and tell a client that the server is there.
pub fn a_watch_outlives_quiet_times(server: &mut impl Server) {
    let mut watcher = Watcher::start(server.addr(), "/api/v1/watch", &[]).unwrap();
    watcher.patience(Duration::from_secs(5));
    for _ in 0..3 {
        assert!(matches!(watcher.next(), Sent::Comment(_)));
    }
    // Many times the windows in which the client had to take something.
    server.client().put("/k", "v").is(201);
    assert_eq!(watcher.event().0, 0);
}

pub fn a_watch_ends_with_the_server(server: &mut impl Server) {
    server.client().put("/k", "v").is(201);
    let mut watchers: Vec<Watcher> =
        (0..3).map(|_| Watcher::start(server.addr(), "/api/v1/watch?from=0", &[]).unwrap()).collect();
    watchers.iter_mut().for_each(|watcher| assert_eq!(watcher.event().0, 0));
    let began = std::time::Instant::now();
    assert!(server.stop());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    for watcher in &mut watchers {
        let last = std::iter::from_fn(|| Some(watcher.next())).find(|sent| !matches!(sent, Sent::Comment(_)));
        assert_eq!(last, Some(Sent::End));
    }
}

/// A stop once waited for clients that do not read, for as long as it may take.
pub fn a_watch_that_is_not_read_holds_up_no_stop(server: &mut impl Server) {
    // An event without an end in sight, and more of them than sockets hold.
    server.client().put("/k", vec![b'v'; 32 << 20]).is(201);
    (0..200).for_each(|n| drop(server.client().put(&format!("/k-{n}"), vec![b'v'; 64 << 10]).is(201)));
    let mut watchers: Vec<Client> = (0..3).map(|_| server.client()).collect();
    for (from, watcher) in watchers.iter_mut().enumerate() {
        let request = format!("GET /api/v1/watch?from={from} HTTP/1.1\r\nHost: x\r\n\r\n");
        watcher.send(request.as_bytes()).unwrap();
        // The first bytes have come, so the rest is under way; nobody takes it.
        watcher.stream.fill_buf().unwrap();
    }
    let addr = server.addr();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let unread = runtime.block_on(async {
        use http_body_util::Empty;
        use hyper_util::rt::{TokioExecutor, TokioIo};
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let (mut sender, conn) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(conn);
        let request = hyper::Request::get(format!("http://{addr}/api/v1/watch?from=0"));
        sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap()
    });
    let began = Instant::now();
    assert!(server.stop(), "a clean stop");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    drop(unread);
}

pub fn half_closed_sockets(server: &mut impl Server) {
    let mut client = server.client();
    client.send(b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv").unwrap();
    client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    client.answer(false).unwrap().is(201);
    let mut client = server.client();
    client.send(b"GET /k HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer(false).unwrap().is(200).body, b"v");
    assert!(client.is_closed_within(Duration::from_secs(5)));
}

/// Several requests in one packet are answered in order, and what follows them keeps no answer back.
pub fn pipelined_requests(server: &mut impl Server) {
    let mut client = server.client();
    let put = "PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv";
    let get = "GET /k HTTP/1.1\r\nHost: x\r\n\r\n";
    client.send(format!("{put}{get}{get}GET /k HTTP/1.1\r\nHo").as_bytes()).unwrap();
    client.answer(false).unwrap().is(201);
    for _ in 0..2 {
        assert_eq!(client.answer(false).unwrap().is(200).body, b"v");
    }
    client.send(b"st: x\r\n\r\n").unwrap();
    client.answer(false).unwrap().is(200);
    // What is no HTTP is answered behind what was.
    client.send(format!("{put}\0\0 nonsense \r\n\r\n").as_bytes()).unwrap();
    client.answer(false).unwrap().is(201);
    client.answer(false).unwrap().is(400);
    assert!(client.is_closed_within(Duration::from_secs(5)));
}

pub fn broken_bodies_store_nothing(server: &mut impl Server) {
    let body = frames_of(&[(Op::Put, b"k", b"v")]);
    for request in [
        b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf".to_vec(),
        b"PUT /k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec(),
        [format!("POST /api/v1/batch HTTP/1.1\r\nHost: x\r\nContent-Type: {FRAMES}\r\nContent-Length: 99\r\n\r\n").as_bytes(), &body].concat(),
    ] {
        let mut client = server.client();
        client.send(&request).unwrap();
        client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
        // It may be told, or just be left.
        if let Ok(answer) = client.answer(false) {
            answer.is(400);
        }
        let mut client = server.client();
        client.send(&request).unwrap();
        drop(client);
    }
    // What they began is over once nobody but the one who asks is connected.
    let mut client = server.client();
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.get("/metrics").is(200).json()["network"]["connections_open"] != 1 {
        assert!(Instant::now() < deadline, "connections that are gone end");
        thread::sleep(Duration::from_millis(5));
    }
    client.get("/k").is_problem(404, "not-found");
    assert_eq!(client.put("/first", "v").is(201).json()["seq"], 0);
    // What is not HTTP at all is told so, if it looks like HTTP/1, and ends the connection and nothing else.
    for noise in
        [&b"\0\0\0\0"[..], b"\x16\x03\x01\x02\0\x01", b"GET / HTTP/9.9\r\n\r\n", b"PRI nonsense\r\n\r\n"]
    {
        let mut client = server.client();
        client.send(noise).unwrap();
        let _ = client.stream.get_ref().shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = client.stream.read_to_end(&mut rest);
        assert!(noise.starts_with(b"PRI") || rest.starts_with(b"HTTP/1.1 400 "), "{noise:?}: {rest:?}");
    }
    client.get("/livez").is(200);
}

pub fn slow_clients(server: &mut impl Server) {
    // A body that pauses is answered and closed.
    let mut client = server.client();
    client.send(b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
    let answer = client.answer(false).unwrap();
    answer.is_problem(408, "timeout");
    assert!(client.is_closed_within(Duration::from_secs(5)));
    // A body that keeps moving at a decent pace is not, however long it takes.
    let mut client = server.client();
    client.send(b"PUT /moving HTTP/1.1\r\nHost: x\r\nContent-Length: 10240\r\n\r\n").unwrap();
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(100));
        client.send(&[b'x'; 1_024]).unwrap();
    }
    client.answer(false).unwrap().is(201);
    // One that only pretends to move is, also after a fast start: it would hold its memory for ever.
    for (path, at_first) in [("/dripping", 0), ("/prepaid", 100_000)] {
        let mut client = server.client();
        let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
        client.send(head.as_bytes()).unwrap();
        client.send(&vec![b'x'; at_first]).unwrap();
        let started = Instant::now();
        while client.send(b"x").is_ok() {
            assert!(started.elapsed() < Duration::from_secs(10), "{path} goes on for ever");
            thread::sleep(Duration::from_millis(100));
        }
        client.answer(false).unwrap().is_problem(408, "timeout");
        server.client().get(path).is_problem(404, "not-found");
    }
    // A head that never ends.
    let mut client = server.client();
    client.send(b"GET /k HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
    client.answer(false).unwrap().is_problem(408, "timeout");
    let mut client = server.client();
    client.send(b"PRI").unwrap();
    assert!(client.is_closed_within(Duration::from_secs(5)));
    // An idle connection is neither.
    let mut client = server.client();
    client.put("/idle", "v").is(201);
    thread::sleep(Duration::from_millis(1_500));
    client.get("/idle").is(200);
    server.client().get("/k").is_problem(404, "not-found");
}

fn timed_out(server: &mut impl Server) -> u64 {
    let metrics = server.client().get("/metrics").is(200).json();
    metrics["network"]["connections_timed_out_total"].as_u64().unwrap()
}

/// Clients that ask for much and take nothing of it.
pub fn slow_readers(server: &mut impl Server) {
    let value = vec![b'v'; 32 << 20];
    server.client().put("/large", &value).is(201);
    let mut raw = server.client();
    raw.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut json = server.client();
    json.send(b"GET /api/v1/kv/large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while timed_out(server) < 2 {
        assert!(Instant::now() < deadline, "they are waited for");
        thread::sleep(Duration::from_millis(20));
    }
    // An HTTP/2 client that opens no window blocks no socket, and is as slow.
    let addr = server.addr();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use http_body_util::Full;
        use hyper_util::rt::{TokioExecutor, TokioIo};
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let (mut sender, conn) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let conn = tokio::spawn(conn);
        let request = hyper::Request::get(format!("http://{addr}/large"));
        let answer =
            sender.send_request(request.body(Full::<bytes::Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let ended = tokio::time::timeout(Duration::from_secs(20), conn).await;
        assert!(ended.is_ok(), "its connection ends");
    });
    assert_eq!(timed_out(server), 3);
    assert!(server.client().get("/large").is(200).body == value, "one who reads is served");
}

/// Heads that are too long get 431, those that may be needed do not.
pub fn heads_are_bounded(server: &mut impl Server) {
    let bound = "%ff".repeat(1_024);
    let mut client = server.client();
    client.get(&format!("/api/v1/kv?prefix={bound}&start={bound}&end={bound}")).is(200);
    client.call("GET", "/livez", &[("Cookie", &"c".repeat(16 << 10))], b"").is(200);
    let mut many = String::from("GET /livez HTTP/1.1\r\nHost: x\r\n");
    (0..200).for_each(|n| many.push_str(&format!("X-{n}: v\r\n")));
    for head in [
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", "c".repeat(40 << 10)),
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nCookie: {}", "c".repeat(300 << 10)),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "k".repeat(40 << 10)),
        format!("{many}\r\n"),
    ] {
        let mut client = server.client();
        let _ = client.send(head.as_bytes());
        client.answer(false).unwrap().is(431);
        assert!(client.is_closed_within(Duration::from_secs(5)));
    }
    let addr = server.addr();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use http_body_util::Full;
        use hyper_util::rt::{TokioExecutor, TokioIo};
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let (mut sender, conn) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(conn);
        for (bytes, status) in [(16 << 10, 200), (40 << 10, 431)] {
            let request =
                hyper::Request::get(format!("http://{addr}/livez")).header("cookie", "c".repeat(bytes));
            let request = request.body(Full::<bytes::Bytes>::default()).unwrap();
            assert_eq!(sender.send_request(request).await.unwrap().status(), status, "{bytes}");
        }
    });
}

pub fn idle_connections(server: &mut impl Server) {
    // Both ends may be in this process, and other tests run beside.
    let files = {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap())
    };
    let count = 8_000.min(files.saturating_sub(1_000) / 2);
    assert!(count >= 1_000, "{files} open files are too few for this test: raise the hard limit");
    let mut idle: Vec<Client> = (0..count).map(|_| server.client()).collect();
    for client in idle.iter_mut().step_by(100) {
        client.put("/k", "v").is(201);
    }
    let started = Instant::now();
    server.client().get("/k").is(200);
    assert!(started.elapsed() < Duration::from_secs(2), "idle connections are in nobody's way");
    let open =
        server.client().get("/metrics").is(200).json()["network"]["connections_open"].as_u64().unwrap();
    assert!(open as usize >= count, "{open}");
    idle.last_mut().unwrap().get("/k").is(200);
    drop(idle);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut client = server.client();
    while client.get("/metrics").is(200).json()["network"]["connections_open"].as_u64().unwrap() > 2 {
        assert!(Instant::now() < deadline, "connections leak");
        thread::sleep(Duration::from_millis(50));
    }
}

pub fn too_many_connections(server: &mut impl Server) {
    let mut open: Vec<Client> = (0..8).map(|_| server.client()).collect();
    for client in &mut open {
        client.get("/livez").is(200);
    }
    let mut over = server.client();
    let answer = over.answer(false).unwrap();
    answer.is_problem(503, "overloaded");
    assert!(answer.header("retry-after").is_some());
    open.truncate(4);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut client = server.client();
        let _ = client.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        if client.answer(false).is_ok_and(|answer| answer.status == 200) {
            break;
        }
        assert!(Instant::now() < deadline, "room comes back");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn too_many_requests(server: &mut impl Server) {
    let mut client = server.client();
    let answers: Vec<_> = (0..12).map(|n| client.put(&format!("/k{n}"), "v")).collect();
    assert!(answers[0].status == 201);
    let refused = answers.iter().find(|answer| answer.status == 429).expect("some are refused");
    let problem = refused.is_problem(429, "rate-limited");
    assert!(problem["retry_after_ms"].as_u64().unwrap() <= 1_000);
    assert!(refused.header("retry-after").is_some());
    for _ in 0..20 {
        client.get("/livez").is(200);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.put("/later", "v").status == 429 {
        assert!(Instant::now() < deadline, "the allowance comes back");
        thread::sleep(Duration::from_millis(10));
    }
}

pub fn http2_with_prior_knowledge(server: &mut impl Server) {
    let addr = server.addr();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use http_body_util::{BodyExt, Full};
        use hyper_util::rt::{TokioExecutor, TokioIo};
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let (mut sender, conn) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(conn);
        let body = Full::new(bytes::Bytes::from(vec![7; 1 << 20]));
        let request = hyper::Request::put(format!("http://{addr}/a//b")).body(body).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 201);
        let request = hyper::Request::get(format!("http://{addr}/a//b")).body(Full::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), vec![7; 1 << 20]);
    });
    // An upload that its client resets, even "without an error", is not one that ended.
    for (path, length) in [("/cut", ""), ("/cut-short", "10")] {
        let mut client = server.client();
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        client.send(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        // HPACK literals without indexing: no table, no Huffman code.
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "PUT"),
            (":scheme", "http"),
            (":authority", "x"),
            (":path", path),
            ("content-length", length),
        ] {
            if !value.is_empty() {
                headers.extend([0, name.len() as u8]);
                headers.extend_from_slice(name.as_bytes());
                headers.push(value.len() as u8);
                headers.extend_from_slice(value.as_bytes());
            }
        }
        let frame = |kind: u8, flags: u8, payload: &[u8]| {
            [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1][..], payload].concat()
        };
        let (end_headers, no_error) = (4, [0; 4]);
        client.send(&frame(1, end_headers, &headers)).unwrap();
        client.send(&frame(0, 0, b"abc")).unwrap();
        client.send(&frame(3, 0, &no_error)).unwrap();
        // Answered in order on this connection, so the reset has been seen by then.
        client.send(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let mut seen = Vec::new();
        while !seen.windows(8).any(|w| w == [1, 2, 3, 4, 5, 6, 7, 8]) {
            let mut byte = [0];
            std::io::Read::read_exact(&mut client.stream, &mut byte).unwrap();
            seen.push(byte[0]);
        }
        server.client().get(path).is_problem(404, "not-found");
    }
}

pub fn stops_gracefully(server: &mut impl Server) {
    let mut idle = server.client();
    idle.put("/k", "v").is(201);
    let never_used = server.client();
    // A request under way is finished.
    let mut busy = server.client();
    busy.send(b"PUT /late HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nla").unwrap();
    thread::sleep(Duration::from_millis(100));
    let finish = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        busy.send(b"te").unwrap();
        busy.answer(false).unwrap().is(201);
    });
    assert!(server.stop(), "a clean stop");
    finish.join().unwrap();
    assert!(idle.is_closed_within(Duration::from_secs(5)));
    drop(never_used);
    assert!(std::net::TcpStream::connect(server.addr()).is_err());
}
