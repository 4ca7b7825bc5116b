//! The public contract, held against the handlers alone: when this passes and `http_api` does not, look
//! behind them.

mod common;

contract_tests!(common::fake::start);

use common::{Server, fake};
use serde_json::json;

#[test]
fn overload_is_told_before_the_body_and_says_when_to_come_back() {
    let server = fake::start(&Setup { overloaded: true, ..Setup::default() });
    let mut client = server.client();
    let body = vec![b'{'; 5 << 20];
    for (method, path) in
        [("PUT", "/k"), ("PUT", "/api/v1/kv/k"), ("DELETE", "/k"), ("POST", "/api/v1/batch")]
    {
        let body = if method == "DELETE" { &[][..] } else { &body };
        let answer = client.call(method, path, &[("Content-Type", "application/x-ndjson")], body);
        assert_eq!(answer.is_problem(503, "overloaded")["retry_after_ms"], 1_500);
        assert_eq!(answer.header("retry-after"), Some("2"));
    }
    client.get("/livez").is(200);
}

#[test]
fn a_write_that_does_not_end_has_an_unknown_outcome() {
    let server = fake::start(&Setup { write_timeout: Some(Duration::from_millis(200)), ..Setup::default() });
    let mut client = server.client();
    let problem = client.put(&format!("/{}", fake::STALLS), "v").is_problem(504, "outcome-unknown");
    assert!(problem["detail"].as_str().unwrap().contains("Idempotency-Key"));
    // It did happen, and only nobody was told.
    assert_eq!(client.get(&format!("/{}", fake::STALLS)).is(200).body, b"v");
}

/// The write is there by then, and repeating it because of the receipt would write it twice.
#[test]
fn a_write_that_gets_no_receipt_stands_and_says_so() {
    let server = fake::start(&Setup::default());
    let mut client = server.client();
    let receipt = [("Scribe-Receipt", "true"), ("Content-Type", "application/x-ndjson")];
    let put = client.call("PUT", "/k", &receipt[..1], b"v").is(201).json();
    let batch =
        client.call("POST", "/api/v1/batch", &receipt, b"{\"key\":\"l\",\"value\":\"w\"}\n").is(200).json();
    assert_eq!((put["seq"].as_u64(), batch["last_seq"].as_u64()), (Some(0), Some(1)));
    for answer in [put, batch] {
        assert!(answer.as_object().unwrap()["receipt"].is_null(), "{answer}");
        assert!(answer["receipt_error"].as_str().unwrap().starts_with("it is written"), "{answer}");
    }
    client.call("PUT", "/k", &[("Scribe-Receipt", "maybe")], b"x").is_problem(400, "malformed");
    assert_eq!(client.get("/k").is(200).body, b"v");
}

#[test]
fn a_panic_is_one_answer_and_not_the_end() {
    let server = fake::start(&Setup::default());
    let mut client = server.client();
    client.get(&format!("/{}", fake::PANICS)).is_problem(500, "internal");
    client.get(&format!("/api/v1/kv/{}", fake::PANICS)).is_problem(500, "internal");
    client.put("/k", "v").is(201);
    let metrics = client.get("/metrics").is(200).json();
    assert_eq!(metrics["errors_by_type"]["internal"], 2);
    assert_eq!(metrics["network"]["requests_in_flight"], 1);
}

/// A page may end early, with few items or none, because many keys in its range are deleted.
#[test]
fn a_page_that_ended_early_has_a_cursor() {
    let server = fake::start(&Setup { scan_visits_max: Some(3), ..Setup::default() });
    let mut client = server.client();
    let keys: Vec<String> = (0..20).map(|n| format!("k{n:02}")).collect();
    keys.iter().for_each(|key| drop(client.put(&format!("/{key}"), "v").is(201)));
    keys[2..19].iter().for_each(|key| drop(client.delete(&format!("/{key}")).is(200)));
    let (mut seen, mut pages, mut cursor) = (Vec::new(), Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/api/v1/kv?limit=10&keys_only=true&cursor={cursor}")).is(200).json();
        let items = page["items"].as_array().unwrap();
        pages.push(items.len());
        seen.extend(items.iter().map(|item| item["key"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = next.to_owned();
    }
    assert_eq!(seen, ["k00", "k01", "k19"]);
    assert_eq!(pages, [2, 0, 0, 0, 0, 0, 1]);
}

/// An orchestrator that asked every second while a node was starting made it look broken.
#[test]
fn a_node_that_is_not_ready_makes_no_errors() {
    let server = fake::start(&Setup { unhealthy: true, ..Setup::default() });
    let mut client = server.client();
    for path in ["/health", "/api/v1/health", "/readyz", "/readyz?verbose"] {
        client.get(path).is_problem(503, "no-quorum");
    }
    let metrics = client.get("/metrics").is(200).json();
    assert_eq!((&metrics["errors"], &metrics["errors_by_type"]), (&json!(0), &json!({})), "{metrics}");
    client.get("/api/v1/nowhere").is(404);
    assert_eq!(client.get("/metrics").is(200).json()["errors_by_type"]["no-such-route"], 1);
}

/// Reads go on over a full disk, so the node stays in service; who asks is told about writes.
#[test]
fn a_full_disk_takes_no_reads_out_of_service() {
    let server = fake::start(&Setup { disk_full: true, ..Setup::default() });
    let mut client = server.client();
    for path in ["/health", "/readyz", "/livez"] {
        assert_eq!(client.get(path).is(200).body, b"{\"status\":\"ok\"}", "{path}");
    }
    let checks = &client.get("/readyz?verbose").is(200).json()["checks"];
    assert_eq!(checks["reads"], "ok");
    assert!(checks["writes"].as_str().unwrap().starts_with("disk full"), "{checks}");
}
