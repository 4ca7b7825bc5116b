//! A node was away while much was written and sealed: the log that it lacks is gone, so it gets segments.

use super::{process::Node, trio::Trio, wait::wait_until};

const SMALL: [(&str, &str); 5] = [
    ("STORAGE_SEGMENT_SIZE", "64KiB"),
    ("WAL_KEEP_BYTES", "0"),
    ("WAL_KEEP_BYTES_FOR_FOLLOWERS", "0"),
    ("WAL_FILE_BYTES", "256KiB"),
    ("WAL_TAIL_BYTES_MAX", "64KiB"),
];

/// Size and root, without the signatures.
fn checkpoint(node: &Node) -> Vec<String> {
    let note = String::from_utf8(node.get("/checkpoint").is(200).body).unwrap();
    note.lines().take(3).map(str::to_owned).collect()
}

/// The numbers of the first and the last file of its log.
fn log_files(node: &Node) -> (u64, u64) {
    let names = std::fs::read_dir(node.spec.dir.join("wal")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let number = |name: String| name.strip_prefix("wal-")?.split('-').next()?.parse().ok();
    let numbers: Vec<u64> = names.filter_map(number).collect();
    (numbers.iter().copied().min().unwrap_or(0), numbers.iter().copied().max().unwrap_or(0))
}

fn fill(node: &Node, round: usize) {
    for batch in 0..20 {
        let line = |n: usize| {
            let value = "x".repeat(200);
            format!("{{\"key\":\"{round}-{batch}-{n}\",\"value\":\"{value}\"}}\n")
        };
        let body: String = (0..200).map(line).collect();
        let kind = [("Content-Type", "application/x-ndjson")];
        node.call("POST", "/api/v1/batch", &kind, body.as_bytes()).is(200);
    }
}

#[test]
fn a_node_that_was_away_for_long_catches_up_by_segments() {
    let mut trio = Trio::start(&SMALL);
    let [away, here] = trio.followers();
    for round in 0..2 {
        fill(&trio.nodes[here], 2 * round);
        trio.wait_same_trees();
        if round == 0 {
            trio.nodes[away].stop()
        } else {
            trio.nodes[away].kill()
        }
        // Whoever leads afterwards has given up what the other lacks.
        let others: Vec<_> = trio.nodes.iter().filter(|node| node.id() != trio.nodes[away].id()).collect();
        let before: Vec<_> = others.iter().map(|node| log_files(node).1).collect();
        fill(&trio.nodes[here], 2 * round + 1);
        for (node, before) in others.iter().zip(before) {
            // The file that was the last one may have been full: what the other lacks begins in the next.
            wait_until("the log is given up", || log_files(node).0 > before + 1);
        }

        trio.nodes[away].restart();
        let size = trio.wait_same_trees();
        let said = trio.nodes[away].said();
        assert!(said.contains("fetching segments"), "{said}");
        assert_eq!(size, 8_000 * (round as u64 + 1));
        let expected = checkpoint(&trio.nodes[here]);
        assert_eq!(expected[1], size.to_string());
        wait_until("all sign the same tree", || trio.nodes.iter().all(|node| checkpoint(node) == expected));
        for key in ["0-0-0", "0-19-199", "1-0-0", "1-10-7", "1-19-199"] {
            let read = |node: &Node| node.get(&format!("/{key}")).is(200);
            let (one, other) = (read(&trio.nodes[away]), read(&trio.nodes[here]));
            assert_eq!((&one.body, one.header("etag")), (&other.body, other.header("etag")), "{key}");
        }
    }
    // It is as good a member as the others.
    trio.nodes[here].stop();
    trio.nodes[away].put("after", "value");
    trio.nodes[here].restart();
    trio.wait_same_trees();
}
