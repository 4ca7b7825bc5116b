//! The Raft log store: openraft's own suite, and what the suite cannot see, which is whether anything
//! survives a restart.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::{
    Entry, EntryPayload, OptionalSend, RaftLogReader, RaftSnapshotBuilder, RaftTypeConfig, Snapshot,
    StoredMembership,
    alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
    storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt,
};
use scribe_ledger::{
    config::{WalConfig, WalIo},
    env::real::real_env,
    raft::{Member, Proposal, Sabotage, TypeConfig, log_store::LogStore},
    state::outcome::Outcome,
    wal::{Driver, Wal, WalOptions},
};
use tempfile::TempDir;

type LogId = LogIdOf<TypeConfig>;
type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
type Vote = <TypeConfig as RaftTypeConfig>::Vote;

/// The least state machine that the suite accepts: it counts.
#[derive(Clone, Default)]
struct Counting {
    applied: Option<LogId>,
    membership: StoredMembershipOf<TypeConfig>,
    snapshot: Arc<Mutex<Option<SnapshotMeta>>>,
}

impl RaftStateMachine<TypeConfig> for Counting {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembershipOf<TypeConfig>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(Outcome::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> io::Result<()> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, ()>>> {
        Ok(self.snapshot.lock().unwrap().clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Counting {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, ()>> {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

fn open(dir: &TempDir) -> (Wal, LogStore) {
    open_with(dir, WalIo::Auto)
}

fn open_with(dir: &TempDir, io: WalIo) -> (Wal, LogStore) {
    let env = real_env();
    let config = WalConfig { io, file_bytes: 64 << 10, ..WalConfig::default() };
    let wal = Wal::open(&env, dir.path(), WalOptions::new(config, Driver::Thread)).unwrap();
    (wal.clone(), LogStore::new(wal, 1, Sabotage::default()))
}

struct Builder(WalIo);

impl StoreBuilder<TypeConfig, LogStore, Counting, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Counting), openraft::StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (_, log) = open_with(&dir, self.0);
        Ok((dir, log, Counting::default()))
    }
}

#[tokio::test]
async fn openraft_suite() {
    Suite::test_all(Builder(WalIo::Auto)).await.unwrap();
}

#[tokio::test]
async fn openraft_suite_on_io_uring() {
    Suite::test_all(Builder(WalIo::Uring)).await.unwrap();
}

fn entry(
    term: u64,
    index: u64,
    payload: EntryPayload<Proposal, u64, Member>,
) -> Entry<<TypeConfig as CommittedId>::Id, EntryPayload<Proposal, u64, Member>> {
    Entry { log_id: LogId { leader_id: term.into(), index }, payload }
}

trait CommittedId {
    type Id: openraft::vote::RaftCommittedLeaderId;
}

impl CommittedId for TypeConfig {
    type Id = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
}

async fn append(log: &mut LogStore, entries: Vec<<TypeConfig as RaftTypeConfig>::Entry>) {
    let (done, durable) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    durable.await.unwrap().unwrap();
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let members = BTreeMap::from([(
        1,
        Member { raft_addr: "a:1".into(), http_addr: "b:2".into(), ..Member::default() },
    )]);
    let membership = openraft::Membership::new(vec![[1].into()], members).unwrap();
    let batch = |n: u64| EntryPayload::Normal(Bytes::from([&[1u8][..], &n.to_le_bytes()].concat()).into());
    let written: Vec<_> =
        [entry(1, 0, EntryPayload::Membership(membership)), entry(1, 1, EntryPayload::Blank)]
            .into_iter()
            .chain((2..40).map(|n| entry(1 + n / 20, n, batch(n))))
            .collect();
    let vote = Vote::new_committed(3, 1);
    {
        let (wal, mut log) = open(&dir);
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        append(&mut log, written.clone()).await;
        append(&mut log, vec![entry(2, 40, batch(40)), entry(2, 41, batch(41))]).await;
        log.truncate_after(Some(written[39].log_id)).await.unwrap();
        log.save_committed(Some(written[30].log_id)).await.unwrap();
        log.save_vote(&vote).await.unwrap();
        wal.close().unwrap();
    }
    let (_, mut log) = open(&dir);
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(written[30].log_id));
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(written[39].log_id));
    assert_eq!(log.try_get_log_entries(0..100).await.unwrap(), written);

    log.purge(written[20].log_id).await.unwrap();
    drop(log);
    let (_, mut log) = open(&dir);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(written[20].log_id));
    assert_eq!(log.try_get_log_entries(0..100).await.unwrap(), written[21..]);
    let streamed: Vec<_> = log.entries_stream(25..40).await.map(Result::unwrap).collect().await;
    assert_eq!(streamed, written[25..]);
}

/// A leader has all that was ever committed. One that asks for less was elected by members that forgot.
#[tokio::test]
async fn what_is_known_to_be_committed_is_never_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut log) = open(&dir);
    let written: Vec<_> = (0..10).map(|n| entry(1, n, EntryPayload::Blank)).collect();
    append(&mut log, written.clone()).await;
    log.save_committed(Some(written[5].log_id)).await.unwrap();
    for kept in [None, Some(written[0].log_id), Some(written[4].log_id)] {
        let why = log.truncate_after(kept).await.unwrap_err().to_string();
        assert!(why.contains("was taken back to an older state") && why.contains("up to 5"), "{why}");
        assert_eq!(log.try_get_log_entries(0..100).await.unwrap(), written, "nothing was changed");
    }
    log.truncate_after(Some(written[5].log_id)).await.unwrap();
    assert_eq!(log.try_get_log_entries(0..100).await.unwrap(), written[..6]);
}
