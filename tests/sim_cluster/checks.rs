//! What must be true after a storm.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    path::Path,
    sync::Arc,
    time::Duration,
};

use scribe_ledger::{
    env::{Io, OpenMode},
    segment::{BlockCache, Segment, file_name},
    sim::SimIo,
    types::{NodeId, Op as RecordOp, SegmentId, Seq},
    verify::Chain,
};
use tokio::time::{Instant, sleep};

use crate::{
    clients::{Answered, Journal, key_name, value_of},
    history,
    world::{Running, World},
};

/// Simulated time within which a group that can work again has to.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far a record's time may be from the time at which a client waited for it, in milliseconds: clocks are half a
/// second apart at most, and the ledger's time never goes back.
const CLOCKS_APART_MS_MAX: u64 = 1_000;

type Checked<T> = Result<T, String>;

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { Err(why()) }
}

/// Mends everything and waits until all members that are counted have applied and proven the same.
pub async fn settled(world: &World) -> Checked<BTreeMap<NodeId, Running>> {
    world.network.heal();
    world.network.lose_one_in(0);
    world.ids().into_iter().for_each(|id| world.disk(id).disarm());
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(why) = world.failures().first() {
            return Err(why.clone());
        }
        let running = world.running();
        if let Some((_, leader)) = world.leader() {
            let members = leader.info.positions().members;
            let counted: BTreeMap<_, _> = running
                .iter()
                // One whose power has just gone may not have been taken out yet.
                .filter(|(id, _)| members.contains_key(id) && !world.disk(**id).is_down())
                .map(|(id, n)| (*id, n.clone()))
                .collect();
            let position = |node: &Running| {
                let position = node.info.positions();
                (position.proposed, position.applied, node.info.tree_head().0, position.members)
            };
            let all: Vec<_> = counted.values().map(position).collect();
            let same = all.iter().all(|one| *one == all[0] && one.0 == one.1);
            let proven = counted.values().all(|node| node.info.tree_head().0 == node.info.applied());
            if counted.len() == members.len() && same && proven {
                return Ok(counted);
            }
        }
        if Instant::now() > give_up {
            let positions: Vec<_> = running.iter().map(|(id, node)| (id, node.info.positions())).collect();
            return Err(format!("members do not come to the same position: {positions:#?}"));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Checks who is left against what clients were told.
pub fn check(world: &World, members: &BTreeMap<NodeId, Running>, journal: &Journal) -> Checked<()> {
    for (id, node) in members {
        let (size, root) = node.info.tree_head();
        world.note_root(*id, size, root);
    }
    world.note_checkpoints();
    if let Some(why) = world.failures().first() {
        return Err(why.clone());
    }
    let readable = |error: scribe_ledger::error::Error| error.to_string();
    same("states", members, |node| node.info.state_digest().map_err(readable))?;
    same("roots", members, |node| Ok(node.info.tree_head()))?;
    let sealed: Vec<_> = members.keys().map(|id| sealed(world.disk(*id))).collect::<Checked<_>>()?;
    let fewest = sealed.iter().map(Vec::len).min().unwrap_or(0);
    ensure(sealed.iter().all(|one| one[..fewest] == sealed[0][..fewest]), || {
        "members have different segments".into()
    })?;

    let node = members.values().next().ok_or("nobody is left")?;
    let mut places: BTreeMap<u64, Vec<Seq>> = BTreeMap::new();
    for seq in (0..node.info.applied().0).map(Seq) {
        let record = node.reader.record(seq).map_err(readable)?.ok_or(format!("no record at {seq}"))?;
        if record.op == RecordOp::Put {
            places.entry(value_of(&record.value)).or_default().push(seq);
        }
    }
    for (value, places) in &places {
        ensure(places.len() == 1, || format!("value {value} was written more than once: {places:?}"))?;
    }
    for value in &journal.refused {
        ensure(!places.contains_key(value), || {
            format!("value {value} was refused and is there: {:?}", places[value])
        })?;
    }
    let mut taken = BTreeSet::new();
    for answered in &journal.answered {
        ensure(taken.insert(answered.seq), || format!("{answered:?}: its position was given twice"))?;
        is_there(node, answered)?;
    }
    history::check(&journal.history)
}

fn same<T: PartialEq + Debug>(
    what: &str,
    members: &BTreeMap<NodeId, Running>,
    of: impl Fn(&Running) -> Checked<T>,
) -> Checked<()> {
    let all: Vec<T> = members.values().map(of).collect::<Checked<_>>()?;
    ensure(all.iter().all(|one| *one == all[0]), || {
        format!("members that applied the same log have different {what}: {all:?}")
    })
}

fn is_there(node: &Running, answered: &Answered) -> Checked<()> {
    let record = node.reader.record(answered.seq).map_err(|error| error.to_string())?;
    let record = record.ok_or_else(|| format!("{answered:?} is not there"))?;
    let value = if record.op == RecordOp::Put { value_of(&record.value) } else { 0 };
    ensure(record.key == key_name(answered.key).as_bytes() && value == answered.value, || {
        format!("{answered:?}: another record has its place, {record:?}")
    })?;
    let (first, last) =
        (answered.from_ms.saturating_sub(CLOCKS_APART_MS_MAX), answered.to_ms + CLOCKS_APART_MS_MAX);
    ensure((first..=last).contains(&record.timestamp_ms), || {
        format!("{answered:?}: its time is {}, when nobody had asked for it", record.timestamp_ms)
    })
}

/// The digests of a directory's segments, each of which is verified.
fn sealed(disk: &SimIo) -> Checked<Vec<[u8; 32]>> {
    let dir = Path::new("/ledger/segments");
    let (mut chain, mut digests) = (Chain::new(), Vec::new());
    loop {
        let path = dir.join(file_name(SegmentId(chain.segments)));
        if disk.open(&path, OpenMode::Read).is_err() {
            return Ok(digests);
        }
        let segment = Segment::open(disk, &path, Arc::new(BlockCache::new(0))).map_err(|e| e.to_string())?;
        segment.verify(|_| ()).map_err(|error| error.to_string())?;
        chain.follow(segment.summary(), &path).map_err(|error| error.to_string())?;
        digests.push(segment.summary().digest);
    }
}
