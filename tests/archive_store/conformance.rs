//! What every store does alike.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use scribe_ledger::{
    archive::{
        Store, Trouble,
        name::Name,
        store::{Body, PAGE_NAMES_MAX, Put, SMALL_BYTES_MAX, Swap, Version},
    },
    env::{Io, OpenMode},
    sim::{Refusal, SimIo},
};

use crate::{real_directory, simulated_directory};

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_a_store() {
    let (store, _home) = real_directory();
    conforms(store).await;
}

#[tokio::test]
async fn a_simulated_directory_is_a_store() {
    for refusal in [Refusal::Never, Refusal::AtOpen, Refusal::AtUse] {
        let disk = SimIo::new(1);
        disk.refuse_direct(refusal);
        conforms(simulated_directory(&disk)).await;
    }
}

#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_a_store() {
    use scribe_ledger::archive::s3::{S3Options, S3Store};
    let server = crate::server::Server::start().await;
    conforms(Arc::new(server.store())).await;
    let whole = S3Store::new(S3Options { prefix: String::new(), ..server.options() }).unwrap();
    conforms(Arc::new(whole)).await;
}

#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_takes_no_quotation_marks_is_a_store() {
    use crate::server::{Conditions, Server};
    let server = Server::with(Conditions::QuotesRefused).await;
    conforms(Arc::new(server.store())).await;
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn trouble<T: std::fmt::Debug>(result: Result<T, scribe_ledger::archive::StoreError>) -> Trouble {
    result.unwrap_err().trouble()
}

async fn conforms(store: Arc<dyn Store>) {
    what_is_put_once_stays(&*store).await;
    large_objects_come_from_files(&*store).await;
    what_is_not_there_is_not_found(&*store).await;
    ranges_are_exact(&*store).await;
    listings_come_in_pages(&*store).await;
    replacements_compare(&*store).await;
    one_of_many_writers_wins(&store).await;
    no_replacement_is_lost(&store).await;
}

async fn what_is_put_once_stays(store: &dyn Store) {
    for (at, bytes) in [("once/a.txt", &b"first"[..]), ("once/empty.txt", b""), ("top.txt", b"top")] {
        let (at, bytes) = (name(at), Bytes::copy_from_slice(bytes));
        assert_eq!(store.put_once(&at, bytes.clone().into()).await.unwrap(), Put::Created, "{at}");
        assert_eq!(store.put_once(&at, bytes.clone().into()).await.unwrap(), Put::AlreadyThereSame, "{at}");
        for other in ["FIRST", "firs", "first ", "x"] {
            let other = Bytes::from_static(other.as_bytes());
            assert_eq!(store.put_once(&at, other.into()).await.unwrap(), Put::Conflict, "{at}");
        }
        assert_eq!(store.get(&at).await.unwrap().bytes, bytes);
        assert_eq!(store.head(&at).await.unwrap(), bytes.len() as u64);
    }
}

async fn large_objects_come_from_files(store: &dyn Store) {
    let disk = SimIo::new(2);
    let file = disk.open("/large".as_ref(), OpenMode::Buffered).unwrap();
    let bytes: Vec<u8> = (0..3_333_333u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    file.write_at(&bytes, 0).unwrap();
    let (at, size) = (name("large/object.bin"), bytes.len() as u64);
    let body = Body::File { file: file.clone(), bytes: size, path: None };
    assert_eq!(store.put_once(&at, body.clone()).await.unwrap(), Put::Created);
    assert_eq!(store.put_once(&at, body.clone()).await.unwrap(), Put::AlreadyThereSame);
    for offset in [0, 4_096, 4_097] {
        let range = store.get_range(&at, offset as u64, (bytes.len() - offset) as u32);
        assert!(range.await.unwrap() == bytes[offset..], "from {offset}");
    }
    file.write_at(&[bytes[bytes.len() - 1] ^ 1], size - 1).unwrap();
    assert_eq!(store.put_once(&at, body).await.unwrap(), Put::Conflict);
    let shorter = Body::File { file, bytes: size - 1, path: None };
    assert_eq!(store.put_once(&at, shorter).await.unwrap(), Put::Conflict);
    assert_eq!(trouble(store.get(&at).await), Trouble::Broken, "more than {SMALL_BYTES_MAX} bytes");
}

async fn what_is_not_there_is_not_found(store: &dyn Store) {
    for at in ["none/here.txt", "none.txt"].map(name) {
        assert_eq!(trouble(store.get(&at).await), Trouble::NotFound);
        assert_eq!(trouble(store.get_range(&at, 0, 1).await), Trouble::NotFound);
        assert_eq!(trouble(store.head(&at).await), Trouble::NotFound);
    }
    assert!(store.list("none", None).await.unwrap().names.is_empty());
}

async fn ranges_are_exact(store: &dyn Store) {
    let at = name("ranges/digits.txt");
    store.put_once(&at, Bytes::from_static(b"0123456789").into()).await.unwrap();
    for (offset, bytes, expected) in [(0, 10, &b"0123456789"[..]), (3, 4, b"3456"), (9, 1, b"9"), (4, 0, b"")]
    {
        assert_eq!(store.get_range(&at, offset, bytes).await.unwrap(), expected);
    }
    for (offset, bytes) in [(0, 11), (9, 2), (10, 1), (99, 1), (u64::MAX, 1), (u64::MAX - 1, u32::MAX)] {
        assert_eq!(trouble(store.get_range(&at, offset, bytes).await), Trouble::Broken, "{offset} {bytes}");
    }
}

async fn listings_come_in_pages(store: &dyn Store) {
    let count = PAGE_NAMES_MAX + 7;
    let expected: Vec<_> = (0..count).map(|number| name(&format!("many/{number:05}.x"))).collect();
    for batch in expected.chunks(50) {
        let puts = batch.iter().map(|at| store.put_once(at, Bytes::from_static(b"x").into()));
        join_all(puts).await.into_iter().for_each(|put| assert_eq!(put.unwrap(), Put::Created));
    }
    store.put_once(&name("many/below/a.x"), Bytes::new().into()).await.unwrap();
    let first = store.list("many", None).await.unwrap();
    assert_eq!(first.names, expected[..PAGE_NAMES_MAX]);
    let second = store.list("many", first.next.as_deref()).await.unwrap();
    assert_eq!((second.names, second.next), (expected[PAGE_NAMES_MAX..].to_vec(), None));
    let behind = store.list("many", Some("01004.x")).await.unwrap();
    assert_eq!((behind.names, behind.next), (expected[1_005..].to_vec(), None));
    assert_eq!(store.list("many/below", None).await.unwrap().names, [name("many/below/a.x")]);
    assert!(store.list("man", None).await.unwrap().names.is_empty());
    let top = store.list("", None).await.unwrap();
    assert_eq!((top.names, top.next), (vec![name("top.txt")], None));
}

async fn replacements_compare(store: &dyn Store) {
    let at = name("swap/a.txt");
    let swap = async |expected: Option<&Version>, bytes: &'static str| {
        store.compare_and_set(&at, expected, Bytes::from_static(bytes.as_bytes())).await.unwrap()
    };
    let missing = Version("\"00000000000000000000000000000000\"".into());
    assert_eq!(swap(Some(&missing), "zero").await, Swap::Changed(None));
    let Swap::Done(one) = swap(None, "one").await else { panic!("it was not there") };
    assert_eq!(swap(None, "two").await, Swap::Changed(Some(one.clone())));
    let Swap::Done(two) = swap(Some(&one), "two").await else { panic!("it was as expected") };
    assert_ne!(one, two);
    assert_eq!(swap(Some(&one), "three").await, Swap::Changed(Some(two.clone())));
    let there = store.get(&at).await.unwrap();
    assert_eq!((there.bytes, there.version), (Bytes::from_static(b"two"), two));
}

async fn one_of_many_writers_wins(store: &Arc<dyn Store>) {
    let at = name("race/one.txt");
    let put = |number: usize| {
        let (store, at) = (store.clone(), at.clone());
        tokio::spawn(async move { store.put_once(&at, Bytes::from(format!("writer {number}")).into()).await })
    };
    let puts: Vec<_> = join_all((0..8).map(put)).await.into_iter().map(|put| put.unwrap().unwrap()).collect();
    let winners: Vec<_> = (0..8).filter(|number| puts[*number] == Put::Created).collect();
    assert_eq!(winners.len(), 1, "{puts:?}");
    assert!(puts.iter().all(|put| *put != Put::AlreadyThereSame), "{puts:?}");
    assert_eq!(store.get(&at).await.unwrap().bytes, format!("writer {}", winners[0]));
}

async fn no_replacement_is_lost(store: &Arc<dyn Store>) {
    const TASKS: u64 = 4;
    const ROUNDS: u64 = 6;
    let at = name("race/counter.txt");
    let count = |task: u64| {
        let (store, at) = (store.clone(), at.clone());
        tokio::spawn(async move {
            let mut done = 0;
            while done < ROUNDS {
                let (before, version) = match store.get(&at).await {
                    Ok(object) => (object.bytes, Some(object.version)),
                    Err(error) if error.trouble() == Trouble::NotFound => (Bytes::new(), None),
                    Err(error) => panic!("{error}"),
                };
                let after = [&before[..], format!("{task}.{done} ").as_bytes()].concat();
                if let Swap::Done(_) =
                    store.compare_and_set(&at, version.as_ref(), after.into()).await.unwrap()
                {
                    done += 1;
                }
            }
        })
    };
    join_all((0..TASKS).map(count)).await.into_iter().for_each(|task| task.unwrap());
    let counted = store.get(&at).await.unwrap().bytes;
    assert_eq!(counted.split(|c| *c == b' ').count() as u64 - 1, TASKS * ROUNDS);
}
