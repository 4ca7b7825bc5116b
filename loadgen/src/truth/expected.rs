//! What should be there: every write's fate from the entries, and its key and value from how writes are made.

use std::{path::Path, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    journal::{Entry, OwnFile, Spec},
    lines::Chunks,
    verify,
};

/// Records that are asked for at once. Together their requests are smaller than any socket's buffers, so that
/// neither side waits for the other to read.
const GROUP_RECORDS: usize = 64;
const GROUP_KEY_BYTES: usize = 4 << 10;
const GROUPS_AHEAD: usize = 64;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Acked { seq: u64 },
    Refused,
    Unknown,
}

/// Consecutive writes of the same fate; acknowledged ones have consecutive positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    first: u64,
    end: u64,
    fate: Fate,
}

/// The fates of all writes.
#[derive(Debug)]
pub struct Writes {
    /// Ascending, without holes from the first number to the last.
    spans: Vec<Span>,
    /// First and end of acknowledged positions, ascending.
    positions: Vec<(u64, u64)>,
}

impl Writes {
    /// Sorts the entries. Writes below `writes_end`, or below anything that is known, about which nothing is
    /// said are unknown.
    pub fn new(entries: &[Entry], writes_end: u64) -> Result<Self, String> {
        let mut known = Vec::with_capacity(entries.len());
        let mut all_end = writes_end;
        for entry in entries {
            let (first, count, fate) = match *entry {
                Entry::Acked { first, count, seq } => (first, count, Fate::Acked { seq }),
                Entry::Refused { first, count } => (first, count, Fate::Refused),
                Entry::Begun { end } => {
                    all_end = all_end.max(end);
                    continue;
                }
            };
            if count > 0 {
                known.push(Span { first, end: first + u64::from(count), fate });
            }
        }
        known.sort_unstable_by_key(|span| span.first);
        let mut spans: Vec<Span> = Vec::with_capacity(known.len());
        let mut next = 0;
        for span in known {
            if span.first < next {
                return Err(format!("two different things are said about write {}", span.first));
            }
            if span.first > next {
                spans.push(Span { first: next, end: span.first, fate: Fate::Unknown });
            }
            next = span.end;
            spans.push(span);
        }
        if next < all_end {
            spans.push(Span { first: next, end: all_end, fate: Fate::Unknown });
        }
        let mut positions: Vec<_> = spans
            .iter()
            .filter_map(|span| match span.fate {
                Fate::Acked { seq } => Some((seq, seq + (span.end - span.first))),
                Fate::Refused | Fate::Unknown => None,
            })
            .collect();
        positions.sort_unstable();
        Ok(Self { spans, positions })
    }

    /// Records that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.positions.iter().map(|(first, end)| end - first).sum()
    }

    /// No write from this one on is known of.
    pub fn end(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.end)
    }

    /// Positions of which two writes were told that they are theirs, the first of each overlap.
    pub fn positions_given_twice(&self) -> Vec<u64> {
        let overlapping = self.positions.windows(2).filter(|pair| pair[1].0 < pair[0].1);
        overlapping.map(|pair| pair[1].0).collect()
    }

    /// Whether an acknowledged write is at this position.
    pub fn is_acknowledged(&self, seq: u64) -> bool {
        let behind = self.positions.partition_point(|&(first, _)| first <= seq);
        behind > 0 && seq < self.positions[behind - 1].1
    }
}

/// A record to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub write: u64,
    /// Which request it was in.
    pub request: u64,
    pub fate: Fate,
    pub key: Vec<u8>,
    /// `None` where it is a delete.
    pub value: Option<Vec<u8>>,
}

impl Expected {
    /// Bytes of its value; a delete has none.
    pub fn bytes(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }
}

/// Where groups come from.
pub type Queue = mpsc::Receiver<Result<Vec<Expected>, String>>;

/// Starts making what is expected, in groups, in the order of writes.
pub fn groups(spec: Spec, writes: Arc<Writes>) -> Queue {
    let (full, queue) = mpsc::channel(GROUPS_AHEAD);
    std::thread::spawn(move || {
        let mut grouping = Grouping { full, group: Vec::new(), key_bytes: 0 };
        let made = match &spec.file {
            None => make(&spec, &writes, &mut grouping),
            Some(file) => reread(file, &spec, &writes, &mut grouping),
        };
        match made {
            Ok(_) => _ = grouping.send(),
            Err(why) => _ = grouping.full.blocking_send(Err(why)),
        }
    });
    queue
}

struct Grouping {
    full: mpsc::Sender<Result<Vec<Expected>, String>>,
    group: Vec<Expected>,
    key_bytes: usize,
}

impl Grouping {
    /// Gives whether anyone still wants more.
    fn push(&mut self, expected: Expected) -> bool {
        self.key_bytes += expected.key.len();
        self.group.push(expected);
        self.group.len() < GROUP_RECORDS && self.key_bytes < GROUP_KEY_BYTES || self.send()
    }

    fn send(&mut self) -> bool {
        self.key_bytes = 0;
        let group = std::mem::take(&mut self.group);
        group.is_empty() || self.full.blocking_send(Ok(group)).is_ok()
    }
}

fn fate_at(span: &Span, write: u64) -> Fate {
    match span.fate {
        Fate::Acked { seq } => Fate::Acked { seq: seq + (write - span.first) },
        fate => fate,
    }
}

fn make(spec: &Spec, writes: &Writes, grouping: &mut Grouping) -> Result<bool, String> {
    let records = spec.records()?;
    for span in &writes.spans {
        for write in span.first..span.end {
            let expected = Expected {
                write,
                request: write / u64::from(spec.batch),
                fate: fate_at(span, write),
                key: records.key(write),
                value: Some(records.value(write)),
            };
            if !grouping.push(expected) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Goes through the user's file again, as often as it was sent.
fn reread(file: &OwnFile, spec: &Spec, writes: &Writes, grouping: &mut Grouping) -> Result<bool, String> {
    let path = Path::new(&file.path);
    let now = OwnFile::of(path)?;
    if (now.bytes, now.crc) != (file.bytes, file.crc) {
        return Err(format!("{} is not what it was when it was sent", file.path));
    }
    let (mut write, mut request) = (0, 0);
    let mut spans = writes.spans.iter().peekable();
    while spans.peek().is_some() {
        let before = write;
        for chunk in Chunks::open(path, u64::from(spec.batch))? {
            let chunk = chunk?;
            request += 1;
            for line in chunk.bytes.split(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
                while spans.next_if(|span| span.end <= write).is_some() {}
                let Some(span) = spans.peek() else { return Ok(true) };
                let fate = fate_at(span, write);
                match verify::record_of(write - before, line) {
                    Ok((key, value)) => {
                        if !grouping.push(Expected { write, request, fate, key, value }) {
                            return Ok(false);
                        }
                    }
                    // It may have been refused for being no record, and then cannot be there.
                    Err(_) if fate == Fate::Refused => {}
                    Err(why) => return Err(why),
                }
                write += 1;
            }
        }
        if write == before {
            return Err(format!("{} has no records any more", file.path));
        }
        while spans.next_if(|span| span.end <= write).is_some() {}
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{keys::Order, values::Sizes};

    fn span(first: u64, end: u64, fate: Fate) -> Span {
        Span { first, end, fate }
    }

    #[test]
    fn what_nothing_is_said_about_is_unknown() {
        let entries = [
            Entry::Refused { first: 20, count: 10 },
            Entry::Acked { first: 5, count: 5, seq: 100 },
            Entry::Begun { end: 35 },
        ];
        let writes = Writes::new(&entries, 32).unwrap();
        let expected = [
            span(0, 5, Fate::Unknown),
            span(5, 10, Fate::Acked { seq: 100 }),
            span(10, 20, Fate::Unknown),
            span(20, 30, Fate::Refused),
            span(30, 35, Fate::Unknown),
        ];
        assert_eq!(writes.spans, expected);
        assert_eq!(writes.acknowledged(), 5);
        let acknowledged: Vec<u64> = (90..110).filter(|&seq| writes.is_acknowledged(seq)).collect();
        assert_eq!(acknowledged, [100, 101, 102, 103, 104]);
    }

    #[test]
    fn contradictions_are_found() {
        let twice = [Entry::Acked { first: 5, count: 5, seq: 100 }, Entry::Refused { first: 9, count: 1 }];
        assert!(Writes::new(&twice, 0).unwrap_err().contains("write 9"));
        let same_place =
            [Entry::Acked { first: 0, count: 5, seq: 100 }, Entry::Acked { first: 5, count: 5, seq: 104 }];
        assert_eq!(Writes::new(&same_place, 0).unwrap().positions_given_twice(), [104]);
    }

    fn spec(file: Option<OwnFile>) -> Spec {
        Spec {
            url: "http://h:1".to_owned(),
            cluster_id: None,
            first_seq: 0,
            seed: 1,
            batch: 2,
            key_bytes: 16,
            key_space: 1000,
            order: Order::Uniform,
            sizes: Sizes { min: 0, max: 9 },
            text: false,
            file,
        }
    }

    fn all(spec: Spec, writes: Writes) -> Result<Vec<Expected>, String> {
        let mut queue = groups(spec, Arc::new(writes));
        let mut all = Vec::new();
        while let Some(group) = queue.blocking_recv() {
            all.extend(group?);
        }
        Ok(all)
    }

    #[test]
    fn made_writes_are_made_again() {
        let writes = Writes::new(&[Entry::Acked { first: 1, count: 200, seq: 7 }], 0).unwrap();
        let all = all(spec(None), writes).unwrap();
        assert_eq!(all.len(), 201);
        let records = spec(None).records().unwrap();
        for (write, expected) in (0..).zip(&all) {
            assert_eq!((expected.write, expected.request), (write, write / 2));
            assert_eq!((&expected.key, &expected.value), (&records.key(write), &Some(records.value(write))));
        }
        assert_eq!((all[0].fate, all[200].fate), (Fate::Unknown, Fate::Acked { seq: 206 }));
    }

    #[test]
    fn a_file_is_gone_through_as_often_as_it_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let lines: String = (0..3).map(|n| format!("{{\"key\":\"k{n}\",\"value\":\"v{n}\"}}\n")).collect();
        std::fs::write(&path, lines).unwrap();
        let file = OwnFile::of(&path).unwrap();
        let writes = || {
            let acked = |first, count, seq| Entry::Acked { first, count, seq };
            Writes::new(&[acked(0, 2, 10), acked(2, 1, 20), acked(5, 1, 30)], 0).unwrap()
        };
        let all_of = all(spec(Some(file.clone())), writes()).unwrap();
        let seen: Vec<_> = all_of.iter().map(|e| (e.write, e.request, &e.key[..], e.fate)).collect();
        let acked = |seq| Fate::Acked { seq };
        let expected: [(u64, u64, &[u8], Fate); 6] = [
            (0, 1, b"k0", acked(10)),
            (1, 1, b"k1", acked(11)),
            (2, 2, b"k2", acked(20)),
            (3, 3, b"k0", Fate::Unknown),
            (4, 3, b"k1", Fate::Unknown),
            (5, 4, b"k2", acked(30)),
        ];
        assert_eq!(seen, expected);
        std::fs::write(&path, "{\"key\":\"k0\",\"value\":\"other\"}\n").unwrap();
        assert!(all(spec(Some(file)), writes()).unwrap_err().contains("is not what it was"));
    }
}
