//! The state against a model: a map of version lists that does the obvious thing.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use proptest::prelude::*;

use super::{view::SCAN_KEYS_MAX, *};
use crate::{
    index::IndexOptions,
    sealed::SealedOptions,
    segment::{FinishInfo, RecordRef, SegmentHead, SegmentWriter, file_name},
    sim::SimIo,
    state::batch::{Batch, Draft, OpView},
    types::LogIndex,
};

#[derive(Clone, Debug)]
struct Request {
    ops: Vec<(bool, u8, u8)>,
    condition: Option<Condition>,
    idempotency_key: Option<u8>,
}

fn any_request() -> impl Strategy<Value = Request> {
    let op = (prop::bool::weighted(0.7), 0u8..12, any::<u8>());
    let condition = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Condition::Absent)),
        1 => Just(Some(Condition::Present)),
        1 => (0u64..40).prop_map(|seq| Some(Condition::At(seq))),
    ];
    (prop::collection::vec(op, 1..5), condition, prop::option::weighted(0.3, 0u8..6)).prop_map(
        |(mut ops, condition, idempotency_key)| {
            if condition.is_some() {
                ops.truncate(1);
            }
            Request { ops, condition, idempotency_key }
        },
    )
}

/// What happens to the open segment behind an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
    /// Its file is written, and the memtable let go.
    Seal,
    /// The same, and the index is fed.
    Index,
}

impl Then {
    fn happen(self, state: &State) {
        if self != Self::GoOn {
            close(state);
        }
        if matches!(self, Self::Seal | Self::Index) {
            while let Some((closed, end)) = state.oldest_closed() {
                seal(state, &closed, end);
            }
        }
        if self == Self::Index {
            while state.sealed().feed_index_with(1).unwrap() {}
        }
    }
}

/// Times, requests, and what happens behind them.
fn any_log() -> impl Strategy<Value = Vec<(u64, Vec<Request>, Then)>> {
    let then = prop_oneof![
        4 => Just(Then::GoOn), 1 => Just(Then::Close), 1 => Just(Then::Seal), 1 => Just(Then::Index)
    ];
    prop::collection::vec((0u64..400, prop::collection::vec(any_request(), 1..5), then), 1..12)
}

fn sealed_on(io: &SimIo) -> Arc<Sealed> {
    let index = IndexOptions { cache_bytes: 1 << 16, hash_seed: 7 };
    let options = SealedOptions {
        block_cache_bytes: 1 << 16,
        hot_cache_bytes: 1 << 14,
        index,
        cold: Default::default(),
    };
    Arc::new(Sealed::open(Arc::new(io.clone()), Path::new("/data"), options).unwrap())
}

fn new_state(hash_seed: u64) -> State {
    // Replicas may differ in what they keep in memory.
    let options = StateOptions { hash_seed, recent_bytes_max: (hash_seed - 1) << 12 };
    State::open(sealed_on(&SimIo::new(1)), options).unwrap()
}

/// Ends the open segment with an entry that fills the log.
fn close(state: &State) {
    let index = state.sealed().next_id().0 + state.view.load().closed.len() as u64;
    let log = LogId { term: 1, index: LogIndex(index) };
    assert!(state.end_entry(log, u64::MAX / 8, || Ok(Vec::new())).unwrap());
}

/// Writes the file of a closed segment of few records, without a tree.
fn seal(state: &State, closed: &ClosedSegment, end: Seq) {
    let sealed = state.sealed();
    let (first_seq, ClosedSegment { id, settings, .. }) = (closed.first_seq(), closed);
    let Settings { feature_level, segment_bytes, .. } = *settings;
    let head = SegmentHead { id: *id, first_seq, feature_level, segment_bytes };
    let path = sealed.dir().join(file_name(*id));
    let mut writer = SegmentWriter::create(Arc::clone(sealed.io()), &path, head).unwrap();
    for (seq, timestamp_ms, OpView { op, key, value }) in closed.span(first_seq, usize::MAX).iter() {
        let record = RecordRef { seq, op, timestamp_ms, key, value, value_commitment: None };
        writer.push(&record, &[0; 32]).unwrap();
    }
    assert_eq!(first_seq.plus(writer.records()), end);
    let info = FinishInfo {
        first_log: closed.first_log,
        last_log: closed.last_log,
        frontier_before: &[],
        root_after: [0; 32],
        subtrees: &vec![[0; 32]; (end.0 / 256 - first_seq.0 / 256) as usize],
        high_subtrees: &[],
        idempotency: &closed.answers,
        boundary: &closed.boundary,
    };
    writer.finish(info).unwrap();
    sealed.install(*id).unwrap();
    state.release_oldest_closed();
}

fn encode(time: u64, requests: &[Request]) -> (Bytes, Vec<(u32, u32)>) {
    let mut batch = Batch::default();
    let ranges = requests
        .iter()
        .map(|request| {
            let mut draft = Draft::new();
            for (put, key, value) in &request.ops {
                if *put { draft.put(&[b'k', *key], &[*value]) } else { draft.delete(&[b'k', *key]) }.unwrap();
            }
            if let Some(condition) = request.condition {
                draft.set_condition(condition);
            }
            if let Some(key) = request.idempotency_key {
                draft.set_idempotency_key(key.to_string());
            }
            let count = draft.len() as u32;
            (batch.append(draft), count)
        })
        .collect();
    (batch.encode(time).unwrap(), ranges)
}

const SETTINGS: Settings = Settings {
    feature_level: 1,
    segment_bytes: 1 << 20,
    idempotency_window_ms: 500,
    idempotency_keys_max: 4,
};

/// Versions by key, and answers by idempotency key with content and time.
#[derive(Default)]
struct Model {
    versions: BTreeMap<u8, Vec<(u64, Option<u8>)>>,
    answers: Vec<(u64, u8, String, RequestResult)>,
    next_seq: u64,
    time: u64,
}

type RequestResult = outcome::RequestOutcome;

impl Model {
    fn apply(&mut self, request: &Request) -> (RequestResult, bool) {
        let part = |(put, key, value): &(bool, u8, u8)| {
            if *put { format!("p{key}={value};") } else { format!("d{key};") }
        };
        let content: String =
            request.ops.iter().map(part).chain([format!("{:?}", request.condition)]).collect();
        self.answers.retain(|(time, ..)| time + SETTINGS.idempotency_window_ms >= self.time);
        if let Some(key) = request.idempotency_key {
            if let Some((_, _, seen, answer)) = self.answers.iter().find(|(_, k, ..)| *k == key) {
                return match (*seen == content, answer) {
                    (false, _) => (Err(Why::IdempotencyMismatch), false),
                    (true, Ok(answer)) => (Ok(*answer), true),
                    (true, Err(Why::PreconditionFailed { newest })) => {
                        (Ok(Answer::PreconditionFailed { newest: *newest }), true)
                    }
                    (true, Err(other)) => unreachable!("{other:?} is never remembered"),
                };
            }
            if self.answers.len() as u64 >= SETTINGS.idempotency_keys_max {
                return (Err(Why::IdempotencyFull), false);
            }
        }
        let result = self.write(request);
        if let Some(key) = request.idempotency_key {
            self.answers.push((self.time, key, content, result));
        }
        (result, false)
    }

    fn write(&mut self, request: &Request) -> RequestResult {
        let first_seq = Seq(self.next_seq);
        for (put, key, value) in &request.ops {
            let versions = self.versions.entry(*key).or_default();
            let newest = versions.last().filter(|(_, value)| value.is_some()).map(|(seq, _)| Seq(*seq));
            let holds = match request.condition {
                None => true,
                Some(Condition::Absent) => newest.is_none(),
                Some(Condition::Present) => newest.is_some(),
                Some(Condition::At(seq)) => newest == Some(Seq(seq)),
            };
            if !holds {
                return Err(Why::PreconditionFailed { newest });
            }
            versions.push((self.next_seq, put.then_some(*value)));
            self.next_seq += 1;
        }
        Ok(Answer::Written { first_seq, count: request.ops.len() as u64 })
    }
}

proptest! {
    #[test]
    fn the_state_does_what_the_model_does(log in any_log()) {
        let state = new_state(3);
        state.apply_settings(SETTINGS);
        let mut model = Model::default();
        for (time, requests, then) in &log {
            let (bytes, ranges) = encode(*time, requests);
            model.time = model.time.max(*time);
            let outcome = state.apply(&BatchView::open(bytes).unwrap()).unwrap();
            for (request, told) in requests.iter().zip(outcome.of_requests(ranges.into_iter())) {
                prop_assert_eq!(told, model.apply(request));
            }
            prop_assert_eq!(state.applied(), Seq(model.next_seq));
            then.happen(&state);
        }
        let mut live = Vec::new();
        for (key, versions) in &model.versions {
            let name = [b'k', *key];
            let seen: Vec<_> = state.history(&name, None, usize::MAX, usize::MAX).unwrap().iter()
                .map(|r| (r.seq.0, (r.op == Op::Put).then(|| r.value[0]))).collect();
            let expected: Vec<_> = versions.iter().rev().copied().collect();
            prop_assert_eq!(seen, expected);
            for at in 0..model.next_seq {
                let expected = versions.iter().rev().find(|(seq, _)| *seq <= at).map(|(seq, _)| *seq);
                prop_assert_eq!(state.as_of(&name, Seq(at)).unwrap().map(|r| r.seq.0), expected);
                prop_assert_eq!(state.record(Seq(at)).unwrap().map(|r| r.seq.0), Some(at));
            }
            if let Some((seq, Some(_))) = versions.last() {
                live.push(*seq);
            }
        }
        let page = state.scan(&Scan { limit: usize::MAX, bytes_max: usize::MAX, ..Scan::default() }).unwrap();
        prop_assert_eq!(page.records.iter().map(|r| r.seq.0).collect::<Vec<_>>(), live.clone());
        prop_assert_eq!(state.count_live(None, state.applied()).unwrap(), (live.len() as u64, None));
        // A restart at the last boundary knows everything that was sealed by then.
        let sealed = state.sealed();
        let boundary = sealed.end_seq();
        let restarted = State::open(Arc::clone(sealed), StateOptions { hash_seed: 3, ..StateOptions::default() }).unwrap();
        prop_assert_eq!(restarted.applied(), boundary);
        for (key, versions) in &model.versions {
            let expected: Vec<_> = versions.iter().rev().map(|v| v.0).filter(|seq| *seq < boundary.0).collect();
            let seen = restarted.history(&[b'k', *key], None, usize::MAX, usize::MAX).unwrap();
            prop_assert_eq!(seen.iter().map(|r| r.seq.0).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn two_replicas_fed_the_same_entries_are_identical(log in any_log()) {
        let replicas = [new_state(1), new_state(0xfeed)];
        for replica in &replicas {
            replica.apply_settings(SETTINGS);
        }
        for (time, requests, then) in &log {
            let (bytes, _) = encode(*time, requests);
            let outcomes = replicas.each_ref().map(|r| r.apply(&BatchView::open(bytes.clone()).unwrap()).unwrap());
            prop_assert_eq!(&outcomes[0], &outcomes[1]);
            then.happen(&replicas[1]);
            // One is read and sorted between entries, the other is not: reading must change nothing.
            let _ = replicas[0].scan(&Scan { limit: 3, bytes_max: 100, ..Scan::default() });
        }
        prop_assert_eq!(replicas[0].digest().unwrap(), replicas[1].digest().unwrap());
    }

    #[test]
    fn pages_of_any_size_make_the_whole_and_stay_at_their_position(log in any_log(), limit in 1usize..5, more in any_log()) {
        let state = new_state(1);
        let feed = |log: &[(u64, Vec<Request>, Then)]| for (time, requests, then) in log {
            state.apply(&BatchView::open(encode(*time, requests).0).unwrap()).unwrap();
            then.happen(&state);
        };
        feed(&log);
        let whole = state.scan(&Scan { limit: usize::MAX, bytes_max: usize::MAX, ..Scan::default() }).unwrap();
        let mut seen = Vec::new();
        let mut next = Scan { limit, bytes_max: usize::MAX, ..Scan::default() };
        loop {
            let page = state.scan(&next).unwrap();
            seen.extend(page.records);
            feed(&more);
            let Some(after) = page.next else { break };
            next = Scan { after: Some(after), position: Some(page.position), ..next };
        }
        prop_assert_eq!(seen, whole.records);
    }
}

#[test]
fn readers_never_see_half_a_batch() {
    // So large that apply lets readers in between.
    let keys = 3 * OPS_BETWEEN_READERS;
    let state = std::sync::Arc::new(new_state(1));
    let writer = state.clone();
    let rounds = 60u64;
    let thread = std::thread::spawn(move || {
        for round in 0..rounds {
            let mut draft = Draft::new();
            for key in 0..keys {
                draft.put(&key.to_be_bytes(), &round.to_le_bytes()).unwrap();
            }
            let mut batch = Batch::default();
            batch.append(draft);
            writer.apply(&BatchView::open(batch.encode(round).unwrap()).unwrap()).unwrap();
        }
    });
    // The last key of a batch is at least as new as a first key that was read before it.
    while state.applied().0 < rounds * u64::from(keys) {
        let round = |key: u32| state.newest(&key.to_be_bytes()).unwrap().map(|r| r.value);
        let as_number = |v: Option<Bytes>| v.map_or(0, |v| u64::from_le_bytes(v[..].try_into().unwrap()));
        let first = as_number(round(0));
        let last = as_number(round(keys - 1));
        assert!(first <= last, "saw round {first} of the first key, then {last} of the last");
    }
    thread.join().unwrap();
}

fn one_put(key: &[u8], condition: Option<Condition>) -> BatchView {
    let mut draft = Draft::new();
    draft.put(key, b"value").unwrap();
    if let Some(condition) = condition {
        draft.set_condition(condition);
    }
    let mut batch = Batch::default();
    batch.append(draft);
    BatchView::open(batch.encode(1).unwrap()).unwrap()
}

/// Sizes once asked for the writer's lock while they held the records: with apply in between, which holds
/// them the other way round, neither ever went on.
#[test]
fn sizes_and_digests_can_be_asked_for_while_batches_are_applied() {
    let state = std::sync::Arc::new(new_state(1));
    let (done, finished) = std::sync::mpsc::channel();
    for asker in
        [|s: &State| _ = s.sizes(), |s: &State| _ = s.digest(), |s: &State| _ = s.apply(&one_put(b"k", None))]
    {
        let (state, done) = (state.clone(), done.clone());
        std::thread::spawn(move || {
            (0..2_000).for_each(|_| asker(&state));
            done.send(()).unwrap();
        });
    }
    for _ in 0..3 {
        finished.recv_timeout(std::time::Duration::from_secs(60)).expect("they wait for each other");
    }
}

#[test]
fn batches_that_append_nothing_leave_nothing_in_memory() {
    let state = new_state(1);
    state.apply(&one_put(b"k", None)).unwrap();
    let bytes = state.sizes().unsealed_bytes;
    for _ in 0..100 {
        state.apply(&one_put(b"k", Some(Condition::Absent))).unwrap();
    }
    assert_eq!((state.sizes().unsealed_bytes, state.sizes().records), (bytes, 1));
    state.apply(&one_put(b"l", Some(Condition::Absent))).unwrap();
    assert_eq!(state.newest(b"l").unwrap().unwrap().seq, Seq(1));
    assert_eq!(state.newest(b"k").unwrap().unwrap().seq, Seq(0));
}

#[test]
fn a_page_ends_although_nothing_but_tombstones_is_there() {
    let state = new_state(1);
    let keys = SCAN_KEYS_MAX as u32 + 10;
    let mut draft = Draft::new();
    for key in 0..keys {
        draft.delete(&key.to_be_bytes()).unwrap();
    }
    draft.put(&[0xff; 8], b"the only one").unwrap();
    let mut batch = Batch::default();
    batch.append(draft);
    state.apply(&BatchView::open(batch.encode(1).unwrap()).unwrap()).unwrap();
    let scan = Scan { limit: 10, bytes_max: 1 << 20, ..Scan::default() };
    let page = state.scan(&scan).unwrap();
    assert!(page.records.is_empty());
    let rest = state.scan(&Scan { after: Some(page.next.expect("there is more")), ..scan }).unwrap();
    assert_eq!((rest.records.len(), rest.next), (1, None));
}
