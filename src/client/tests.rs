//! The client against a server that answers what it is told and shows what it was asked.

use std::sync::mpsc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// Serves one canned answer for each request, on one connection after another, and hands the requests out.
async fn stub(answers: Vec<&'static str>) -> (Client, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requests, seen) = mpsc::channel();
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut buffer = Vec::new();
            loop {
                let request = loop {
                    if let Some(end) = request_end(&buffer) {
                        break buffer.drain(..end).collect::<Vec<u8>>();
                    }
                    if socket.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                        return;
                    }
                };
                requests.send(String::from_utf8_lossy(&request).into_owned()).unwrap();
                match answers.next() {
                    Some("") | None => break,
                    Some("hang") => std::future::pending().await,
                    Some(answer) => {
                        let (head, body) = answer.split_once('|').unwrap_or((answer, ""));
                        let text = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        socket.write_all(text.as_bytes()).await.unwrap();
                    }
                }
            }
        }
    });
    (Client::new(&url).unwrap(), seen)
}

fn request_end(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    Some(head + length.unwrap_or(0)).filter(|&end| bytes.len() >= end)
}

#[tokio::test]
async fn put_sends_raw_bytes_and_its_conditions() {
    let (client, seen) = stub(vec![
        "201 Created\r\nscribe-seq: 7|{\"key\":\"a/b\",\"seq\":7}",
        "201 Created\r\nscribe-seq: 7\r\nidempotency-replayed: true|{}",
        "412 Precondition Failed\r\ncontent-type: application/problem+json|{\"type\":\"precondition-failed\",\"detail\":\"the key is at 9\"}",
    ])
    .await;
    let written = client.put(b"a/b c", "v".into(), &WriteOptions::default()).await.unwrap();
    assert_eq!(written, Written { seq: Seq(7), replayed: false });
    let request = seen.recv().unwrap();
    assert!(request.starts_with("PUT /a/b%20c HTTP/1.1\r\n") && request.ends_with("\r\n\r\nv"), "{request}");

    let options =
        WriteOptions { condition: Some(Condition::Absent), idempotency_key: Some("once".to_owned()) };
    assert!(client.put(b"k", "v".into(), &options).await.unwrap().replayed);
    let request = seen.recv().unwrap();
    assert!(request.contains("if-none-match: *\r\n") && request.contains("idempotency-key: once\r\n"));

    let options = WriteOptions { condition: Some(Condition::At(8)), idempotency_key: None };
    let error = client.put(b"k", "v".into(), &options).await.unwrap_err();
    assert_eq!((error.status(), error.slug()), (Some(412), "precondition-failed"));
    assert!(seen.recv().unwrap().contains("if-match: \"8\"\r\n"));
}

#[tokio::test]
async fn reserved_keys_go_through_the_json_door() {
    let (client, seen) = stub(vec![
        "200 OK|{\"key\":\"api/x\",\"seq\":3}",
        "200 OK|{\"key\":\"api/x\",\"value\":\"/wA=\",\"seq\":3,\"timestamp_ms\":5}",
        "200 OK|{\"key\":\"api/x\",\"value\":\"/wA=\",\"seq\":3,\"timestamp_ms\":5}",
    ])
    .await;
    let value = Bytes::from_static(&[0xff, 0]);
    assert_eq!(client.put(b"api/x", value.clone(), &WriteOptions::default()).await.unwrap().seq, Seq(3));
    let request = seen.recv().unwrap();
    assert!(request.starts_with("PUT /api/v1/kv/api%2Fx "), "{request}");
    assert!(
        request.contains("content-type: application/json\r\n") && request.ends_with(r#"{"value":"/wA="}"#)
    );

    let options = ReadOptions { consistency: Some(Consistency::Stale), at: Some(Seq(4)) };
    let read = client.get(b"api/x", &options).await.unwrap();
    assert_eq!(read, Value { bytes: value, seq: Seq(3) });
    assert!(seen.recv().unwrap().starts_with("GET /api/v1/kv/api%2Fx?consistency=stale&at=4 "));
    let head = client.head(b"api/x", &ReadOptions::default()).await.unwrap();
    assert_eq!(head, Head { seq: Seq(3), value_bytes: Some(2) });
}

#[tokio::test]
async fn get_head_delete_scan_history_and_batch() {
    let (client, seen) = stub(vec![
        "200 OK\r\nscribe-seq: 12|raw",
        "200 OK|{\"key\":\"k\",\"seq\":13}",
        "200 OK|{\"items\":[{\"key\":\"p1\",\"seq\":1}],\"next_cursor\":\"c+/=\"}",
        "200 OK|{\"key\":\"k\",\"versions\":[]}",
        "200 OK|{\"first_seq\":14,\"last_seq\":15,\"count\":2}",
    ])
    .await;
    let value = client.get(b"k", &ReadOptions::default()).await.unwrap();
    assert_eq!((value.seq, &value.bytes[..]), (Seq(12), &b"raw"[..]));
    assert_eq!(client.delete(b"k", &WriteOptions::default()).await.unwrap().seq, Seq(13));
    let query = ScanQuery {
        prefix: b"p&".to_vec(),
        limit: Some(5),
        cursor: Some("x+".into()),
        keys_only: true,
        ..ScanQuery::default()
    };
    assert_eq!(client.scan(&query).await.unwrap().next_cursor.as_deref(), Some("c+/="));
    assert!(client.history(b"k/x", Some(2), Some(Seq(9))).await.unwrap().is_empty());
    let mut frames = Frames::new();
    frames.put(b"k", b"v").unwrap();
    let outcome = client.batch(BatchBody::Frames(frames.into_bytes()), Some("b1")).await.unwrap();
    assert_eq!((outcome.first_seq, outcome.last_seq, outcome.count), (Seq(14), Seq(15), 2));

    let requests: Vec<_> = seen.try_iter().collect();
    assert!(requests[1].starts_with("DELETE /k "));
    assert!(requests[2].starts_with("GET /api/v1/kv?prefix=p%26&limit=5&cursor=x%2B&keys_only=true "));
    assert!(requests[3].starts_with("GET /api/v1/kv/k%2Fx/history?limit=2&before=9 "));
    assert!(requests[4].starts_with("POST /api/v1/batch "));
    assert!(requests[4].contains("content-type: application/vnd.scribe.batch\r\n"));
}

#[tokio::test]
async fn head_gives_the_length_without_the_bytes() {
    let (client, _seen) = stub(vec!["200 OK\r\nscribe-seq: 2\r\nx: y|"]).await;
    let head = client.head(b"k", &ReadOptions::default()).await.unwrap();
    assert_eq!(head, Head { seq: Seq(2), value_bytes: Some(0) });
}

#[tokio::test]
async fn trouble_says_what_to_do() {
    // Port 1 of the loopback has no listener.
    let nobody = Client::new("http://127.0.0.1:1").unwrap();
    let error = nobody.get(b"k", &ReadOptions::default()).await.unwrap_err();
    assert_eq!(error.slug(), UNREACHABLE);
    assert!(error.to_string().contains("is scribe-node running at http://127.0.0.1:1?"), "{error}");

    let (client, _seen) = stub(vec!["", "hang"]).await;
    let error = client.delete(b"k", &WriteOptions::default()).await.unwrap_err();
    assert_eq!(error.slug(), BROKEN);
    assert!(error.is_outcome_unknown());

    let client = client.with_timeout(Duration::from_millis(50));
    let error = client.get(b"k", &ReadOptions::default()).await.unwrap_err();
    assert_eq!(error.slug(), TIMED_OUT);
    assert!(error.is_retryable());
}

#[tokio::test]
async fn an_answer_of_another_server_is_no_value() {
    let (client, _seen) = stub(vec!["200 OK|<html>", "200 OK|<html>"]).await;
    assert_eq!(client.get(b"k", &ReadOptions::default()).await.unwrap_err().slug(), BAD_ANSWER);
    assert_eq!(client.status().await.unwrap_err().slug(), BAD_ANSWER);
}

#[test]
fn server_urls_are_checked_before_anything_is_sent() {
    for (url, authority) in [
        ("http://127.0.0.1:8001", "127.0.0.1:8001"),
        ("http://localhost:1/", "localhost:1"),
        ("http://[::1]:8001", "[::1]:8001"),
        ("http://example", "example:80"),
    ] {
        assert_eq!(authority_of(url).unwrap(), authority);
    }
    for (url, says) in [
        ("https://127.0.0.1:8001", "TLS"),
        ("127.0.0.1:8001", "http://HOST:PORT"),
        ("localhost", "no scheme"),
        ("http://h:1/path", "path"),
        ("http://u@h:1", "user names"),
        ("http://h:99999", "http://HOST:PORT"),
        ("", "http://HOST:PORT"),
    ] {
        let error = authority_of(url).unwrap_err();
        assert!(error.to_string().contains(says), "{url}: {error}");
    }
}

#[tokio::test]
async fn calls_that_cannot_be_said_are_refused_here() {
    let client = Client::new("http://127.0.0.1:1").unwrap();
    assert_eq!(client.get(b"", &ReadOptions::default()).await.unwrap_err().slug(), BAD_CALL);
    for key in ["", "line\nbreak"] {
        let options = WriteOptions { condition: None, idempotency_key: Some(key.to_owned()) };
        assert_eq!(client.put(b"k", Bytes::new(), &options).await.unwrap_err().slug(), BAD_CALL);
    }
}

#[tokio::test]
async fn a_watch_goes_on_where_it_broke_off() {
    let (client, seen) = stub(vec![
        "200 OK|: next 4\n\n",
        "200 OK|id: 4\nevent: put\ndata: {\"key\":\"a/k\",\"value\":\"v\",\"op\":\"put\",\"seq\":4,\"timestamp_ms\":1}\n\nid: 5\nev",
        "503 Service Unavailable|{\"type\":\"unavailable\",\"detail\":\"stopping\"}",
        "200 OK|id: 5\nevent: delete\ndata: {\"key\":\"a/l\",\"value\":null,\"op\":\"delete\",\"seq\":5,\"timestamp_ms\":2}\n\n",
        "400 Bad Request|{\"type\":\"malformed\",\"detail\":\"beyond the end\"}",
    ])
    .await;
    let asked = || seen.recv().unwrap().lines().next().unwrap().to_owned();
    let mut watch = client.watch(None, b"a/").await.unwrap();
    assert_eq!(asked(), "GET /api/v1/watch?prefix=a%2F HTTP/1.1");
    // Nothing was written yet, and what will be must not be missed.
    assert_eq!(watch.next().await.unwrap_err().slug(), BROKEN);
    watch.resume().await.unwrap();
    assert_eq!(asked(), "GET /api/v1/watch?from=4&prefix=a%2F HTTP/1.1");
    let record = watch.next().await.unwrap();
    assert_eq!((record.seq, &record.key[..], &record.value[..]), (Seq(4), &b"a/k"[..], &b"v"[..]));
    // The second event broke off: it comes again, whole.
    assert!(watch.next().await.unwrap_err().is_retryable());
    assert!(watch.next().await.unwrap_err().is_retryable(), "it stays broken until it is resumed");
    assert!(watch.resume().await.unwrap_err().is_retryable());
    watch.resume().await.unwrap();
    assert!([asked(), asked()].iter().all(|line| line.contains("from=5&")));
    assert_eq!(watch.next().await.unwrap().seq, Seq(5));
    assert!(!watch.resume().await.unwrap_err().is_retryable());
}
