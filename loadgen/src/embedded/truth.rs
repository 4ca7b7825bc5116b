//! Whether everything that was acknowledged is there.

use scribe_ledger::{Ledger, types::Seq};

use crate::{measured::Truth, workload::Records};

/// A batch that was acknowledged: the numbers of its writes, in their order, and the position of the first.
pub struct Acknowledged {
    pub writes: Vec<u64>,
    pub first_seq: Seq,
}

/// Differences that are shown.
const SHOWN_MAX: usize = 5;

/// Looks for every record at its position. `ledger` has been opened since they were written.
///
/// # Errors
/// When the ledger cannot be read.
pub fn check(ledger: &Ledger, records: &Records, acknowledged: &[Acknowledged]) -> Result<Truth, String> {
    let mut truth = Truth::default();
    for batch in acknowledged {
        for (place, &write) in batch.writes.iter().enumerate() {
            let seq = batch.first_seq.plus(place as u64);
            let key = records.key(write);
            let mut found = None;
            for version in ledger.history(&key) {
                let version = version.map_err(|error| error.to_string())?;
                if version.seq <= seq {
                    found = Some(version).filter(|version| version.seq == seq);
                    break;
                }
            }
            truth.acknowledged += 1;
            let (counter, what) = match found {
                None => (&mut truth.lost, "is not there"),
                Some(version) if version.value != records.value(write) => {
                    (&mut truth.wrong, "has another value")
                }
                Some(_) => continue,
            };
            *counter += 1;
            if truth.shown.len() < SHOWN_MAX {
                truth.shown.push(format!("{} at position {seq} {what}", key.escape_ascii()));
            }
        }
    }
    Ok(truth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{
        keys::{Keys, Order},
        values::{Sizes, Values},
    };

    #[test]
    fn what_is_lost_and_what_is_wrong_is_told() {
        let keys = Keys::new(8, Some(100), Order::Sequential, 1).unwrap();
        let records = Records { keys, values: Values::new(1, Sizes { min: 10, max: 10 }, false) };
        let ledger = Ledger::temp().unwrap();
        for write in [0, 1, 0] {
            ledger.put(records.key(write), records.value(write)).unwrap();
        }
        let batch = |writes: &[u64], first| Acknowledged { writes: writes.into(), first_seq: Seq(first) };
        let truth = check(&ledger, &records, &[batch(&[0, 1], 0), batch(&[0], 2)]).unwrap();
        assert_eq!((truth.acknowledged, truth.holds()), (3, true));
        let truth = check(&ledger, &records, &[batch(&[1], 0), batch(&[100, 2], 2)]).unwrap();
        assert_eq!((truth.acknowledged, truth.lost, truth.wrong), (3, 2, 1));
        assert!(truth.shown[1].contains("position 2 has another value"), "{:?}", truth.shown);
    }
}
