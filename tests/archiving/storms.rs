//! An S3 server that does everything wrong that such a server can, under a node that archives into it and is written
//! to: what is there in the end is the ledger, each segment once, and the node has recovered by itself.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
};

use hyper::Method;

use crate::{
    process::Node,
    real::{wait_archived, wait_state},
    s3::{is_whole, runtime, spec, write},
    server::{Fault, Server},
    wait::wait_until,
};

fn errors(node: &Node, kind: &str) -> f64 {
    let metrics = String::from_utf8(node.get("/metrics/prometheus").is(200).body).unwrap();
    let name = format!("scribe_archive_errors_total{{kind=\"{kind}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// Ends the writer.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn whatever_the_store_does_the_archive_is_right_and_goes_on_by_itself() {
    let (runtime, home) = (runtime(), tempfile::tempdir().unwrap());
    let server = runtime.block_on(Server::start());
    let node = spec(home.path(), &server).start_ready();
    write(&node, 0..300);
    wait_archived(&node, 300);
    let (written, is_over) = (AtomicU64::new(300), AtomicBool::new(false));
    let is_ok = || node.status().is_some_and(|status| status["archive"]["state"] == "ok");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(SeqCst) {
                let at = written.load(SeqCst);
                write(&node, at..at + 100);
                written.store(at + 100, SeqCst);
                thread::park_timeout(std::time::Duration::from_millis(400));
            }
        });
        // Also where a check fails.
        let _over = Over(&is_over);
        // A wave of each kind, first one that the store's client rides out, then one that the stage has to.
        let kinds = [
            (Method::PUT, Fault::SlowDown),
            (Method::GET, Fault::SlowDown),
            (Method::PUT, Fault::LostReply),
            (Method::PUT, Fault::LostRequest),
            (Method::GET, Fault::Cut),
            (Method::GET, Fault::Short),
            (Method::GET, Fault::Endless),
            (Method::GET, Fault::Flip),
            (Method::GET, Fault::FlipEnd),
            (Method::PUT, Fault::FlipUpload),
            (Method::PUT, Fault::Denied),
        ];
        for (method, fault) in &kinds {
            for times in [1, 4] {
                let before = server.fired(*fault);
                server.arm(method.clone(), *fault, times);
                wait_until(&format!("{times} of {fault:?} have happened"), || {
                    server.fired(*fault) >= before + times
                });
                wait_until("it has recovered", is_ok);
            }
        }
        for method in [Method::PUT, Method::GET] {
            let before = server.fired(Fault::Hang);
            server.arm(method, Fault::Hang, 1);
            wait_until("it hangs", || server.fired(Fault::Hang) > before);
        }
        wait_until("it has recovered", is_ok);
        // The bucket is gone, and comes back.
        let (bucket, away) = (server.bucket(), server.bucket().with_extension("away"));
        std::fs::rename(&bucket, &away).unwrap();
        let why = wait_state(&node, "refused");
        assert!(why.contains("there is no such bucket") || why.contains("is gone from"), "{why}");
        std::fs::rename(&away, &bucket).unwrap();
        wait_until("it has recovered", is_ok);
    });
    let written = written.load(SeqCst);
    wait_archived(&node, written);
    let segments = is_whole(&server, written);
    for fault in [
        Fault::SlowDown,
        Fault::Hang,
        Fault::Cut,
        Fault::Short,
        Fault::Endless,
        Fault::Flip,
        Fault::FlipEnd,
        Fault::FlipUpload,
        Fault::LostReply,
        Fault::LostRequest,
        Fault::Denied,
    ] {
        let (fired, least) = (server.fired(fault), if fault == Fault::Hang { 2 } else { 5 });
        assert!(fired >= least, "{fault:?} {fired}");
    }
    for kind in ["away", "refused", "broken"] {
        assert!(errors(&node, kind) > 0.0, "nothing was {kind}");
    }
    assert!(segments > 20, "{segments}");
    for n in (0..written).step_by(97) {
        node.get(&format!("/key-{n}")).is(200);
    }
    node.stop();
}
