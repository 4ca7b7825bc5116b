//! A member whose segments are not written as fast as records come keeps its memory bounded, and the others go on.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use scribe_ledger::{
    config::Config,
    env::{Io, OpenMode, Rng},
    node::Node,
    sim::{self, SimIo, SimNetwork, SimRng},
    state::batch::Draft,
    types::{NodeId, Seq},
};
use tokio::time::{Instant, sleep};

use super::{Answered, PATIENCE, check, leader, settled};
use crate::way::{Behind, Call, Way};

const UNSEALED_BYTES_MAX: u64 = 64 << 10;

/// What apply may add while entries that were taken before are applied.
const SLACK_BYTES: u64 = 64 << 10;

fn config(id: NodeId) -> Config {
    let mut config = super::config(id);
    config.storage.unsealed_bytes_max = UNSEALED_BYTES_MAX;
    config.wal.keep_bytes_for_followers = 64 << 20;
    config
}

/// A disk that takes no segments while `full`.
#[derive(Debug)]
struct Reluctant {
    disk: SimIo,
    full: Arc<AtomicBool>,
}

impl Way for Reluctant {
    fn disk(&self, _: &Path) -> &dyn Io {
        &self.disk
    }

    fn pass<T>(&self, call: Call, path: &Path, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let is_segment = path.parent().is_some_and(|dir| dir.ends_with("segments"));
        let writes = matches!(call, Call::Open(mode) if mode != OpenMode::Read);
        if is_segment && writes && self.full.load(Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        make()
    }
}

async fn put(node: &Node, value: String) -> Seq {
    let mut draft = Draft::new();
    draft.put(value.as_bytes(), value.as_bytes()).unwrap();
    draft.put(b"ballast", &[7; 1_000]).unwrap();
    node.ingest().permit(0).unwrap().submit(draft).await.expect("the others are a quorum").first_seq
}

#[test]
fn a_follower_that_cannot_write_segments_stops_taking_entries_and_nobody_waits_for_it() {
    let rng = SimRng::new(7);
    let full: Vec<Arc<AtomicBool>> = (0..3).map(|_| Arc::default()).collect();
    let disks = full.iter().map(|full| {
        Arc::new(Behind::new(Reluctant { disk: SimIo::new(rng.next_u64()), full: full.clone() }))
            as Arc<dyn Io>
    });
    let disks: Vec<_> = disks.collect();
    sim::runtime(1).block_on(async {
        let network = SimNetwork::new(rng.next_u64(), 0);
        let nodes = super::start_on(&disks, config, &network, &rng, 0).await;
        let leads = leader(&nodes).unwrap();
        let slow = (leads + 1) % nodes.len();
        full[slow].store(true, Relaxed);
        let unsealed = || nodes[slow].info().sizes().unsealed_bytes;
        let answered = Answered::default();
        for n in 0..400 {
            let value = format!("value {n}");
            let seq = put(&nodes[leads], value.clone()).await;
            answered.lock().unwrap().insert(value, seq);
            assert!(unsealed() < UNSEALED_BYTES_MAX + SLACK_BYTES, "{} bytes after {n} writes", unsealed());
        }
        let position = |n: usize| nodes[n].info().positions();
        assert!(unsealed() > UNSEALED_BYTES_MAX, "it was never full: {}", unsealed());
        assert!(position(slow).applied + 100 < position(leads).applied, "it stands where the others do");
        assert_eq!(
            position(slow).leader_id,
            position(leads).leader_id,
            "it heard of the leader all the time"
        );
        assert_eq!(leader(&nodes), Some(leads), "and elected nobody else");

        full[slow].store(false, Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while position(slow).applied < position(leads).applied {
            assert!(Instant::now() < deadline, "it does not come after: {:?}", position(slow));
            sleep(Duration::from_millis(20)).await;
        }
        settled(&nodes).await;
        check(&nodes, &answered);
    });
}
