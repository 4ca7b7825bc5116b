//! The built program's engine against a stand-in for the server: pace, truth, and ways to carry requests.

mod stub;
mod tool;

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use serde_json::{Value, json as value};

use crate::{
    stub::{Fault, Stub},
    tool::{document, end_of, json, loadgen, signal, start, stderr, stdout, until},
};

async fn stub(faults: impl IntoIterator<Item = Fault>) -> (Stub, SocketAddr, String) {
    let (stub, address) = Stub::start(faults, "127.0.0.1:0").await;
    (stub, address, format!("http://{address}"))
}

fn path(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

/// A workload, and what it is run with, as words.
async fn run(words: &str, url: &str, more: &[&str]) -> Value {
    let words: Vec<&str> =
        words.split(' ').chain(["--url", url, "--json"]).chain(more.iter().copied()).collect();
    json(&loadgen(&words).await)
}

#[tokio::test]
async fn an_open_loop_shows_a_stall_that_a_closed_loop_hides() {
    let (stub, _, url) = stub([]).await;
    let stalled = |arguments: Vec<String>| {
        let stub = stub.clone();
        async move {
            let before = stub.total();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let child = start(&arguments);
            until("a second's load is under way", || stub.total() > before + 500).await;
            stub.stall(Duration::from_secs(1)).await;
            json(&end_of(child).await)["write_latency_us"].clone()
        }
    };
    let words = |more: &str| -> Vec<String> {
        let words = format!("put --url {url} --connections 4 --duration 3 --json {more}");
        words.split_whitespace().map(str::to_owned).collect()
    };
    let closed = stalled(words("")).await;
    assert!(closed["max"].as_u64() > Some(900_000), "{closed}");
    assert!(closed["p99"].as_u64() < Some(500_000), "four of thousands waited: {closed}");
    let open = stalled(words("--rate 1000")).await;
    assert!(open["p99_9"].as_u64() > Some(950_000), "a third of the requests should have been sent: {open}");
    assert!(open["p50"].as_u64() < Some(950_000) && open["requests"] == 3_000, "{open}");
}

#[tokio::test]
async fn a_pace_is_kept_whatever_carries_it() {
    let (_stub, _, url) = stub([]).await;
    for carrier in ["", " --http 2 --streams 4", " --pipeline 4", " --arrivals poisson", " --threads 2"] {
        let report = run(&format!("put --rate 800 --duration 1 --connections 4{carrier}"), &url, &[]).await;
        let requests = report["requests"].as_u64().unwrap();
        // Poisson's deviation is 28.
        let slack = if carrier.contains("poisson") { 200 } else { 0 };
        assert!(requests.abs_diff(800) <= slack, "{carrier}: {requests}");
        assert!(report["sent_late_us"]["p50"].as_u64().is_some(), "{report}");
        assert_eq!(report["errors"], value!({}));
    }
}

#[tokio::test]
async fn every_carrier_carries_every_workload_and_all_of_it_is_there() {
    for carrier in ["--pipeline 8 --connections 3", "--http 2 --streams 5 --connections 3", "--threads 2"] {
        let (stub, _, url) = stub([]).await;
        let verify = ["--verify"];
        let put = run(&format!("put --count 500 --value-bytes 20..300 {carrier}"), &url, &verify).await;
        assert_eq!((&put["records"], stub.total()), (&500.into(), 500), "{carrier}");
        for (format, keys) in [("binary", "uniform"), ("ndjson", "zipfian:0.8")] {
            let words = format!("bulk --count 3050 --batch 100 --format {format} --keys {keys} {carrier}");
            let bulk = run(&words, &url, &verify).await;
            assert_eq!((&bulk["records"], &bulk["requests"]), (&3_050.into(), &31.into()), "{words}");
            assert_eq!(bulk["truth"]["acknowledged"], 3_050, "{words}");
        }
        assert_eq!(stub.total(), 6_600);
        let mixed = format!("mixed --count 600 --key-space 500 --keys sequential {carrier}");
        let mixed = run(&mixed, &url, &verify).await;
        let of = |kind: &str| mixed[kind]["requests"].as_u64().unwrap();
        assert_eq!(of("read_latency_us") + of("write_latency_us"), 600);
        let get = run(&format!("get --count 300 --keys zipfian --key-space 500 {carrier}"), &url, &[]).await;
        assert_eq!((&get["records"], &get["errors"]), (&300.into(), &value!({})));
        for report in [put, mixed] {
            assert_eq!((&report["truth"]["lost"], &report["truth"]["wrong"]), (&0.into(), &0.into()));
            assert_eq!(report["errors"], value!({}));
        }
    }
}

#[tokio::test]
async fn conditions_that_do_not_hold_are_counted_apart_and_learnt_from() {
    let (stub, _, url) = stub([]).await;
    for key in 0..10 {
        stub.put(format!("{key:016}").as_bytes(), b"from another time");
    }
    let cas = "cas --count 200 --key-space 10 --connections 1";
    let report = run(cas, &url, &["--verify"]).await;
    // One connection: each key is met by surprise once, read, and never again by surprise.
    assert_eq!((&report["precondition_failed"], &report["errors"]), (&10.into(), &value!({})));
    assert_eq!(report["read_latency_us"]["requests"], 10);
    assert_eq!(report["truth"]["acknowledged"], 190);
    assert_eq!(stub.total(), 200);
    let crowded = run("cas --count 500 --key-space 2 --connections 8", &url, &["--verify"]).await;
    let failed = crowded["precondition_failed"].as_u64().unwrap();
    assert!(failed > 10, "eight connections and two keys: {failed}");
    assert_eq!(crowded["truth"]["acknowledged"], 500 - failed);
    let create = "cas --create-only --count 30 --key-space 20 --connections 1 --key-bytes 5";
    let create = run(create, &url, &["--verify"]).await;
    assert_eq!((&create["precondition_failed"], &create["truth"]["acknowledged"]), (&10.into(), &20.into()));
    let again = "cas --create-only --count 20 --key-space 20 --key-bytes 5 --verify --json --url";
    let again = loadgen(&again.split(' ').chain([url.as_str()]).collect::<Vec<_>>()).await;
    assert_eq!(again.status.code(), Some(1), "nothing was written, and nothing else was asked for");
    assert!(stderr(&again).contains("not one write was acknowledged"), "{}", stderr(&again));
    let again = document(&again);
    assert_eq!((&again["nothing_written"], &again["truth"]["good"]), (&true.into(), &false.into()));
}

#[tokio::test]
async fn outcomes_that_nobody_knows_are_kept_apart() {
    use Fault::*;
    let faults = [None, Refuse, BreakAfter, BreakBefore, None, UnknownAfter, HangAfter, None];
    for carrier in ["", "--http 2 --streams 1"] {
        let (_stub, _, url) = stub(faults).await;
        let dir = tempfile::tempdir().unwrap();
        let journal = path(&dir, "j");
        let words = format!("put --count 20 --connections 1 --timeout 300ms {carrier}");
        let words = words.trim_end();
        let report = run(words, &url, &["--verify", "--journal", &journal]).await;
        let truth = &report["truth"];
        assert_eq!(
            (&truth["acknowledged"], &truth["lost"], &truth["wrong"]),
            (&15.into(), &0.into(), &0.into())
        );
        assert_eq!((&truth["unknown"], &truth["unknown_present"]), (&4.into(), &3.into()), "{report}");
        assert_eq!(report["refused"], value!({"503 overloaded": 1}));
        assert_eq!(report["unknown"]["504 outcome-unknown"], 1);
        assert_eq!(report["records"], 15);
        // The journal alone says the same.
        let verified = json(&loadgen(&["verify", "--journal", &journal, "--json"]).await);
        for part in ["acknowledged", "lost", "wrong", "unknown", "unknown_present"] {
            assert_eq!(verified[part], truth[part], "{part}");
        }
    }
}

#[tokio::test]
async fn what_is_lost_or_changed_is_found() {
    for (workload, lost) in [("put --count 50", 5), ("bulk --count 50 --batch 10 --keys zipfian", 7)] {
        let (stub, _, url) = stub([]).await;
        let dir = tempfile::tempdir().unwrap();
        let journal = path(&dir, "j");
        let report = run(workload, &url, &["--journal", &journal]).await;
        assert_eq!(report["records"], 50);
        stub.lose(lost);
        stub.spoil(lost + 4);
        stub.lose(49);
        let verified = loadgen(&["verify", "--journal", &journal]).await;
        assert_eq!(verified.status.code(), Some(1), "{workload}");
        let text = stdout(&verified);
        assert!(text.starts_with("50 acknowledged, 2 lost, 1 wrong, 0 unknown"), "{text}");
        assert!(text.contains(&format!("acknowledged as seq {lost}, is not there")), "{text}");
        assert!(text.contains("the first difference at byte 3"), "{text}");
    }
}

#[tokio::test]
async fn a_ledger_that_ends_early_has_lost_what_is_behind_its_end() {
    let (_stub, _, url) = stub([]).await;
    let dir = tempfile::tempdir().unwrap();
    let journal = path(&dir, "j");
    run("put --count 20", &url, &["--journal", &journal]).await;
    let (_empty, _, elsewhere) = self::stub([]).await;
    let verified = loadgen(&["verify", "--journal", &journal, "--url", &elsewhere]).await;
    assert!(stdout(&verified).starts_with("20 acknowledged, 20 lost, 0 wrong"), "{}", stdout(&verified));
}

#[tokio::test]
async fn another_ledger_is_not_taken_for_a_loss() {
    let (first, _, first_url) = stub([]).await;
    let (second, _, second_url) = stub([]).await;
    first.belong_to("first");
    second.belong_to("second");
    let dir = tempfile::tempdir().unwrap();
    let journal = path(&dir, "j");
    let urls = format!("{first_url},{second_url}");
    let mixed = loadgen(&["put", "--count", "20", "--url", &urls, "--verify"]).await;
    assert_eq!((mixed.status.code(), first.total() + second.total()), (Some(2), 0));
    assert!(stderr(&mixed).contains("different ledgers"), "{}", stderr(&mixed));

    run("put --count 20", &first_url, &["--journal", &journal]).await;
    let elsewhere = loadgen(&["verify", "--journal", &journal, "--url", &second_url]).await;
    assert_eq!((elsewhere.status.code(), stdout(&elsewhere)), (Some(2), ""));
    assert!(stderr(&elsewhere).contains("is of ledger second"), "{}", stderr(&elsewhere));

    // A server that does not say which ledger it is of is taken at its word.
    let (_third, _, third_url) = stub([]).await;
    let unnamed = loadgen(&["verify", "--journal", &journal, "--url", &third_url]).await;
    assert!(stdout(&unnamed).starts_with("20 acknowledged, 20 lost"), "{}", stdout(&unnamed));
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let (_stub, _, url) = stub([]).await;
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("http://{}", mute.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (file, journal) = (path(&dir, "f"), path(&dir, "j"));
    fs::write(&file, "{\"key\":\"k\",\"value\":\"v\"}\n").unwrap();
    run("put --count 20", &url, &["--journal", &journal]).await;
    for words in [
        &["verify", "--journal", &journal][..],
        &["verify", &file],
        &["put", "--verify"],
        &["put", "--duration", "600"],
        &["put", "--http", "2", "--connections", "2", "--duration", "600"],
    ] {
        // Without these it would go on for half an hour, and longer than a test may take.
        let words = [words, &["--url", &mute, "--timeout", "100ms", "--stall", "300ms"]].concat();
        let output = loadgen(&words).await;
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(!stderr(&output).is_empty() && !stderr(&output).contains("panic"), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn promises_that_are_broken_are_wrong() {
    // A write that was refused and is there, and a batch of which half is there.
    for (workload, fault, says) in [
        ("put --count 9 --connections 1", Fault::RefuseAfter, "was refused, and is there"),
        (
            "bulk --count 90 --batch 10 --connections 1",
            Fault::BreakHalfWay,
            "5 of its records are there and 5 are not",
        ),
    ] {
        let (_stub, _, url) = stub([Fault::None, fault]).await;
        let words: Vec<&str> = workload.split(' ').chain(["--url", &url, "--verify"]).collect();
        let output = loadgen(&words).await;
        assert_eq!(output.status.code(), Some(1), "{workload}");
        let text = stdout(&output);
        assert!(text.contains(says) && text.contains(" 0 lost, 1 wrong"), "{text}");
    }
}

#[tokio::test]
async fn an_unknown_write_is_found_behind_newer_ones() {
    // One key, so that the write whose answer was lost is soon covered by a page of versions and more.
    let (_stub, _, url) = stub([Fault::None, Fault::BreakAfter, Fault::BreakBefore]).await;
    let report = run("put --count 20 --connections 1 --key-space 1", &url, &["--verify"]).await;
    let truth = &report["truth"];
    assert_eq!((&truth["unknown"], &truth["unknown_present"]), (&2.into(), &1.into()), "{report}");
    assert_eq!((&truth["acknowledged"], &truth["good"]), (&18.into(), &true.into()));
}

#[tokio::test]
async fn a_run_is_not_mistaken_for_an_earlier_one_with_the_same_seed() {
    let (stub, _, url) = stub([]).await;
    for key_space in ["", " --key-space 2"] {
        let put = format!("put --count 10 --connections 1{key_space}");
        run(&put, &url, &[]).await;
        stub.fail(Fault::Refuse);
        stub.fail(Fault::BreakBefore);
        let again = run(&put, &url, &["--verify"]).await;
        let truth = &again["truth"];
        assert_eq!((&truth["acknowledged"], &truth["wrong"]), (&8.into(), &0.into()), "{again}");
        assert_eq!((&truth["unknown"], &truth["unknown_present"]), (&1.into(), &0.into()));
    }
}

#[tokio::test]
async fn a_file_of_ones_own_is_sent_once_or_again_and_again() {
    let (stub, _, url) = stub([]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir, "records.ndjson");
    let lines: String = (0..250)
        .map(|n| format!("{}\n", value!({"key": format!("api/{n} x"), "value": n.to_string()})))
        .collect();
    fs::write(&file, lines).unwrap();
    let once = run("bulk --batch 100 --verify", &url, &["--file", &file]).await;
    assert_eq!((&once["records"], &once["requests"], stub.total()), (&250.into(), &3.into(), 250));
    let journal = path(&dir, "j");
    let again =
        run("bulk --batch 100 --count 620 --verify", &url, &["--file", &file, "--journal", &journal]).await;
    assert_eq!((&again["records"], stub.total()), (&620.into(), 870));
    assert_eq!((&again["truth"]["acknowledged"], &again["truth"]["good"]), (&620.into(), &true.into()));
    stub.spoil(800);
    let verified = loadgen(&["verify", "--journal", &journal]).await;
    assert_eq!(verified.status.code(), Some(1));
    fs::write(&file, "{\"key\":\"k\",\"value\":\"v\"}\n").unwrap();
    let verified = loadgen(&["verify", "--journal", &journal]).await;
    assert!(stderr(&verified).contains("is not what it was when it was sent"), "{}", stderr(&verified));
}

#[tokio::test]
async fn a_journal_outlives_the_program_and_its_torn_end_is_said() {
    let (_stub, _, url) = stub([]).await;
    let dir = tempfile::tempdir().unwrap();
    let journal = path(&dir, "j");
    let mut child =
        start(&["put", "--url", &url, "--duration", "60", "--connections", "4", "--journal", &journal]);
    until("the journal has grown", || fs::metadata(&journal).is_ok_and(|file| file.len() > 20_000)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let verified = json(&loadgen(&["verify", "--journal", &journal, "--json"]).await);
    assert!(verified["acknowledged"].as_u64() > Some(500), "{verified}");
    assert_eq!((&verified["good"], &verified["closed"]), (&true.into(), &false.into()));

    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, &bytes[..bytes.len() - 5]).unwrap();
    let torn = loadgen(&["verify", "--journal", &journal, "--json"]).await;
    assert!(stderr(&torn).contains("it was not closed, its last "), "{}", stderr(&torn));
    let torn = json(&torn);
    assert!(
        torn["acknowledged"].as_u64() < verified["acknowledged"].as_u64()
            && torn["torn_bytes"].as_u64() > Some(0)
    );

    let mut damaged = bytes;
    damaged[120] ^= 1;
    fs::write(&journal, damaged).unwrap();
    let output = loadgen(&["verify", "--journal", &journal]).await;
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""));
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
}

#[tokio::test]
async fn connections_are_spread_or_go_to_the_leader() {
    let (first, first_at, first_url) = stub([]).await;
    let (second, second_at, second_url) = stub([]).await;
    let urls = format!("{first_url},{second_url}");
    run("put --count 400 --connections 4", &urls, &[]).await;
    assert!(first.total() > 10 && second.total() > 10, "{} and {}", first.total(), second.total());
    assert_eq!(first.total() + second.total(), 400);

    first.follow(second_at);
    second.follow(second_at);
    let before = first.total();
    run("put --count 300 --connections 4 --leader-aware", &urls, &[]).await;
    assert_eq!(first.total(), before);

    // The leader changes, and says so by breaking connections.
    let child =
        start(&["put", "--url", &urls, "--duration", "60", "--connections", "4", "--leader-aware", "--json"]);
    let before = (first.total(), second.total());
    until("the second is written to", || second.total() > before.1 + 50).await;
    first.follow(first_at);
    second.follow(first_at);
    second.fail(Fault::Refuse);
    until("the first is written to", || first.total() > before.0 + 50).await;
    signal(child.id(), "INT");
    assert_eq!(document(&end_of(child).await)["refused"], value!({"503 overloaded": 1}));

    let (_leaderless, _, url) = stub([]).await;
    let nobody = loadgen(&["put", "--url", &url, "--leader-aware"]).await;
    assert!(stderr(&nobody).contains("no server says who leads"), "{}", stderr(&nobody));
}

#[tokio::test]
async fn an_interrupted_run_reports_what_it_has_done() {
    let (stub, _, url) = stub([]).await;
    let dir = tempfile::tempdir().unwrap();
    for (carrier, name, code) in [
        (&["--connections", "4"][..], "INT", 130),
        (&["--http", "2"], "TERM", 143),
        (&["--rate", "300"], "HUP", 129),
    ] {
        if name == "HUP" && hangups_are_ignored() {
            continue;
        }
        let (before, journal) = (stub.total(), path(&dir, name));
        let more = ["--duration", "600", "--verify", "--json", "--journal", &journal];
        let child = start(&[&["put", "--url", &url], &more[..], carrier].concat());
        until("there is something to report", || stub.total() > before + 100).await;
        signal(child.id(), name);
        let output = end_of(child).await;
        let report = document(&output);
        assert_eq!(output.status.code(), Some(code));
        assert!(stderr(&output).contains("interrupted by"), "{}", stderr(&output));
        assert_eq!(json(&loadgen(&["verify", "--journal", &journal, "--json"]).await)["closed"], true);
        assert_eq!(report["truth"]["acknowledged"], stub.total() - before);
        assert_eq!((&report["truth"]["good"], &report["errors"]), (&true.into(), &value!({})));
    }
}

/// Whether whoever started the tests has SIGHUP ignored, as `nohup` does: then so do programs that they start.
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[tokio::test]
async fn a_server_that_falls_silent_ends_the_run_with_a_report() {
    for carrier in [&[][..], &["--http", "2"]] {
        let (_stub, _, url) =
            stub(std::iter::repeat_n(Fault::None, 30).chain(std::iter::repeat_n(Fault::HangAfter, 500)))
                .await;
        let words = [
            &["put", "--url", &url, "--duration", "600", "--stall", "500ms", "--connections", "4", "--json"],
            carrier,
        ]
        .concat();
        let output = loadgen(&words).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("answered nothing for 0.5 s"), "{}", stderr(&output));
        let report = document(&output);
        assert_eq!(report["records"], 30);
        assert!(report["unknown"]["no answer before the end"].as_u64() >= Some(4), "{}", report["unknown"]);
    }
}

#[tokio::test]
async fn a_run_ends_at_its_time_whatever_servers_do() {
    // Otherwise these would go on for ten minutes, longer than a test may take.
    for carrier in [&[][..], &["--http", "2"], &["--rate", "100"]] {
        let faults = std::iter::repeat_n(Fault::None, 5).chain(std::iter::repeat_n(Fault::HangAfter, 500));
        let (_stub, _, url) = stub(faults).await;
        let more =
            ["--stall", "600", "--timeout", "600", "--duration", "300ms", "--connections", "2", "--json"];
        let report = json(&loadgen(&[&["put", "--url", &url], &more[..], carrier].concat()).await);
        assert_eq!(report["records"], 5, "{carrier:?}");
        assert!(report["unknown"]["no answer before the end"].as_u64() >= Some(2), "{}", report["unknown"]);
        if carrier.contains(&"--rate") {
            let refused = &report["refused"]["not sent: more was offered than was taken"];
            assert!(refused.as_u64() > Some(10), "{}", report["refused"]);
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_holds_nobody_up() {
    let (stub, _, url) = stub([]).await;
    let urls = format!("{url},http://127.0.0.1:1");
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir, "f");
    fs::write(&file, "{\"key\":\"k\",\"value\":\"v\"}\n".repeat(300)).unwrap();
    for words in [
        &["put", "--count", "300"][..],
        &["put", "--count", "300", "--http", "2"],
        &["put", "--count", "300", "--threads", "2", "--verify"],
        &["bulk", "--batch", "10", "--file", &file],
    ] {
        let before = stub.total();
        let more = ["--stall", "600", "--connections", "2", "--json", "--url", &urls];
        let report = json(&loadgen(&[words, &more].concat()).await);
        assert_eq!((&report["records"], stub.total()), (&300.into(), before + 300), "{words:?}");
    }
}

#[tokio::test]
async fn a_sweep_ends_at_its_bounds() {
    let (_stub, _, url) = stub([]).await;
    let up =
        run("put --sweep --from 50 --to 100 --duration 400ms --p99-max 5s --connections 4", &url, &[]).await;
    let offered: Vec<f64> = up["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["offered_per_sec"].as_f64().unwrap())
        .collect();
    assert_eq!((offered, &up["knee_found"]), (vec![50.0, 100.0], &false.into()), "{up}");
    assert_eq!(up["knee"]["offered_per_sec"], 100.0);
    let words = ["put", "--url", &url, "--sweep", "--from", "2", "--duration", "400ms", "--p99-max", "1us"];
    let never = loadgen(&words).await;
    assert_eq!(never.status.code(), Some(1));
    assert!(stdout(&never).contains("no rate was borne"), "{}", stdout(&never));
}

#[tokio::test]
async fn what_cannot_be_is_said_before_anything_is_sent() {
    let (stub, _, url) = stub([]).await;
    let dir = tempfile::tempdir().unwrap();
    let there = path(&dir, "there");
    fs::write(&there, "somebody's evidence").unwrap();
    for (words, says) in [
        (&["put", "--journal", &there][..], "there is such a file"),
        (&["put", "--http", "2", "--pipeline", "2"], "--streams"),
        (&["put", "--sweep", "--verify"], "--sweep"),
        (&["put", "--keys", "gaussian"], "zipfian"),
        (&["put", "--value-bytes", "9..1"], "empty"),
        (&["verify"], "FILE"),
        (&["verify", "x", "--journal", "y"], "--journal"),
    ] {
        let words = [words, &["--url", &url]].concat();
        let output = loadgen(&words).await;
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(stderr(&output).contains(says), "{words:?}: {}", stderr(&output));
    }
    let limited = "ulimit -n 100; exec \"$0\" put --connections 200 --url \"$1\"";
    let program = env!("CARGO_BIN_EXE_scribe-loadgen");
    let limited = Command::new("sh").args(["-c", limited, program, &url]).output().unwrap();
    assert_eq!(limited.status.code(), Some(2));
    assert!(stderr(&limited).contains("needs 228 open files, 100 are allowed"), "{}", stderr(&limited));
    assert_eq!((stub.total(), fs::read(Path::new(&there)).unwrap()), (0, b"somebody's evidence".to_vec()));
    for (words, says) in [
        (&["bulk", "--file", "/no/such/file"][..], "/no/such/file"),
        (&["put", "--journal", "/no/such/dir/j"], "/no/such/dir/j"),
        (&["verify", "--journal", &there], "does not begin as a journal does"),
    ] {
        let words = [words, &["--url", &url]].concat();
        let output = loadgen(&words).await;
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(stderr(&output).contains(says), "{words:?}: {}", stderr(&output));
    }
}
