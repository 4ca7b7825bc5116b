//! Links of restored ledgers: what they say of the records before them is compared with those, in files and in an archive.

use std::{path::Path, sync::Arc};

use scribe_ledger::{
    error::{Code, Result},
    proof::Hash,
    sim::SimIo,
    state::link::Link,
    verify::{Note, Plan, Progress, Report},
};

use crate::{
    ledger::{LEDGER, Ledger, ledger_with},
    simulated_directory,
    verifying::{archive, verify},
};

/// The segments, and where in them a link is: at the beginning of one, and in the middle.
const RECORDS: [u64; 3] = [90, 60, 40];
const FIRST: u64 = 90;
const SECOND: u64 = 171;

fn link(epoch: u32, size: u64, root: Hash) -> Link {
    let origin = format!("scribe/test/{}", epoch - 1);
    Link { ledger: LEDGER.to_string(), epoch, origin, size, root }
}

fn of_files(ledger: &Ledger, notes: &[Note]) -> Result<Report> {
    let plan = Plan::open(Arc::new(ledger.io.clone()), Path::new("/segments"))?;
    plan.verify(notes, 2, &Progress::default())
}

fn of_archive(ledger: &Ledger) -> Result<Report> {
    let store = simulated_directory(&SimIo::new(1));
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(archive(store.clone(), ledger));
    verify(store)
}

/// A ledger with two links, one of which says something else at this position.
fn linked(change: impl Fn(u64, &mut Link)) -> Ledger {
    ledger_with(&RECORDS, |seq, root| {
        let epoch = match seq {
            FIRST => 2,
            SECOND => 4,
            _ => return None,
        };
        let mut link = link(epoch, seq, root);
        let key = Link::key(epoch);
        change(seq, &mut link);
        Some((key, link.encode().unwrap()))
    })
}

#[test]
fn links_that_tell_the_truth_are_verified() {
    let ledger = linked(|seq, link| {
        if seq == SECOND {
            link.origin = "scribe/test/2".to_owned();
        }
    });
    assert_eq!(of_files(&ledger, &[]).unwrap().records.0, 190);
    // The checkpoint behind the last record is of a log that goes on from both.
    assert_eq!(of_archive(&ledger).unwrap().records.0, 190);
}

#[test]
fn links_that_lie_are_named() {
    type Change = fn(&mut Link);
    let lies: [(Change, &str); 7] = [
        (|link| link.size -= 1, "says that this was a tree of"),
        (|link| link.root.0[31] ^= 1, "says that this was a tree of"),
        (|link| link.epoch += 1, "cannot be read"),
        (|link| link.origin = "scribe/test/7".to_owned(), "which is of another epoch"),
        (|link| link.origin = "scribe/test/2".to_owned(), ""),
        (|link| link.ledger = "0f".repeat(16), "it is of the ledger"),
        (|link| (link.size, link.root) = (0, Hash::EMPTY_ROOT), "says that this was a tree of"),
    ];
    for (number, (lie, says)) in lies.into_iter().enumerate() {
        for at in [FIRST, SECOND] {
            let ledger = linked(|seq, link| {
                if seq == at {
                    lie(link);
                }
            });
            let (files, archived) = (of_files(&ledger, &[]), of_archive(&ledger));
            // The second may go on from epoch 2; the first may not name itself.
            if says.is_empty() {
                assert_eq!((files.is_ok(), archived.is_ok()), (at == SECOND, at == SECOND), "lie {number}");
                continue;
            }
            // Whose ledger it is, is known of files by the link before alone.
            if says.starts_with("it is of") && at == FIRST {
                assert!(files.unwrap_err().message().contains(&format!("record {SECOND} ")));
            } else {
                let error = files.unwrap_err();
                assert_eq!(error.code(), Code::Corrupt);
                let place = format!("record {at} ");
                assert!(
                    error.message().contains(says) && error.message().contains(&place),
                    "{number}: {error}"
                );
            }
            let error = archived.unwrap_err();
            assert!(error.message().contains(says), "{number}: {error}");
        }
    }
    // What is no link at all, in the place of one; and the same epoch twice.
    let ledger = ledger_with(&RECORDS, |seq, _| (seq == 5).then(|| (Link::key(2), b"{}".to_vec())));
    assert!(of_files(&ledger, &[]).unwrap_err().message().contains("record 5 links"));
    let ledger = ledger_with(&RECORDS, |seq, root| {
        [FIRST, SECOND].contains(&seq).then(|| (Link::key(2), link(2, seq, root).encode().unwrap()))
    });
    assert!(of_files(&ledger, &[]).unwrap_err().message().contains("that is epoch 2 already"));
}

/// Whoever trusts the old log knows its name: a link does not give it another one.
#[test]
fn a_link_names_the_log_that_signed_what_is_before_it() {
    let named = |origin: &'static str| {
        let ledger = linked(|seq, link| {
            if seq == FIRST {
                link.origin = origin.to_owned();
            }
        });
        let key = ledger.signer.verifier_key().clone();
        let note = Note::read("note", &ledger.checkpoints[0], &[key]).unwrap();
        assert_eq!(note.origin(), "scribe/test/1");
        of_files(&ledger, &[note])
    };
    named("scribe/test/1").unwrap();
    let error = named("example.com/ledger").unwrap_err();
    assert!(error.message().contains("was signed as scribe/test/1"), "{error}");
}
