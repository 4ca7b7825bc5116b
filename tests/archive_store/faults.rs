//! Trouble between a node and its bucket: spared servers, silence, cut and spoiled answers, lost ones, wrong keys, a
//! bucket that is gone, a process that dies at each request. Each fault must have fired; nothing wrong is ever given.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::Method;
use scribe_ledger::{
    archive::{
        Cold, Epoch, LedgerId, Manifest, Staged, Store, Tip, Trouble, layout,
        name::Name,
        object,
        probe::{probe, try_out},
        s3::{Credentials, S3Options, S3Store},
        store::{Put, SMALL_BYTES_MAX, Swap},
    },
    config::Secret,
    env::real::OsRng,
    error::Code,
    segment::Packing,
    sim::SimIo,
};
use tokio::time::{Instant, timeout};

use crate::{
    ledger::{LEDGER, ledger},
    objects::{add_all, restore},
    server::{Conditions, Fault, Server},
    simulated_directory,
};

/// Longer than anything here takes on a busy machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(120);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it ends by itself")
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

const BYTES: &[u8] = b"bytes of an object that is not very large, but has more than a few of them";

/// A bucket with one object in it.
async fn with_object() -> (Server, S3Store, Name) {
    let server = Server::start().await;
    let (store, at) = (server.store(), name("dir/object.bin"));
    assert_eq!(store.put_once(&at, Bytes::from_static(BYTES).into()).await.unwrap(), Put::Created);
    (server, store, at)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_to_be_spared_is_asked_again() {
    let (server, store, at) = with_object().await;
    server.arm(Method::GET, Fault::SlowDown, 2);
    assert_eq!(soon(store.get(&at)).await.unwrap().bytes, BYTES);
    server.arm(Method::PUT, Fault::SlowDown, 2);
    let other = name("dir/other.bin");
    assert_eq!(soon(store.put_once(&other, Bytes::from_static(BYTES).into())).await.unwrap(), Put::Created);
    assert_eq!(server.fired(Fault::SlowDown), 4);
    // A burst that does not end is told, as nothing that an operator has to act on.
    server.arm(Method::GET, Fault::SlowDown, u64::MAX);
    let error = soon(store.get(&at)).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Away, "{error}");
    assert!(server.fired(Fault::SlowDown) > 5, "it was tried more than once");
    assert!(error.to_string().contains("try again later"), "{error}");
    server.revive();
    assert_eq!(store.get(&at).await.unwrap().bytes, BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_and_is_outlasted() {
    let (server, _, at) = with_object().await;
    let store = server.hasty();
    server.arm(Method::GET, Fault::Hang, 1);
    assert_eq!(soon(store.get_range(&at, 6, 2)).await.unwrap(), BYTES[6..8]);
    server.arm(Method::PUT, Fault::Hang, 1);
    let other = name("dir/other.bin");
    assert_eq!(soon(store.put_once(&other, Bytes::from_static(BYTES).into())).await.unwrap(), Put::Created);
    assert_eq!(server.fired(Fault::Hang), 2);
    for method in [Method::GET, Method::PUT, Method::HEAD] {
        server.arm(method, Fault::Hang, u64::MAX);
    }
    let began = Instant::now();
    let third = name("dir/third.bin");
    let put = store.put_once(&third, Bytes::from_static(BYTES).into());
    let calls = tokio::join!(store.get(&at), store.head(&at), store.list("dir", None), put);
    for error in [calls.0.unwrap_err(), calls.1.unwrap_err(), calls.2.unwrap_err(), calls.3.unwrap_err()] {
        assert_eq!(error.trouble(), Trouble::Away, "{error}");
    }
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_cut_short_are_asked_for_again() {
    let (server, store, at) = with_object().await;
    server.arm(Method::GET, Fault::Cut, 2);
    assert_eq!(soon(store.get(&at)).await.unwrap().bytes, BYTES);
    assert_eq!(server.fired(Fault::Cut), 2);
    server.arm(Method::GET, Fault::Cut, u64::MAX);
    assert_eq!(soon(store.get_range(&at, 0, 70)).await.unwrap_err().trouble(), Trouble::Away);
    server.revive();
    server.arm(Method::GET, Fault::Short, 1);
    assert_eq!(soon(store.get_range(&at, 0, 70)).await.unwrap_err().trouble(), Trouble::Broken);
    assert_eq!(server.fired(Fault::Short), 1);
}

/// An answer that has no end is read as far as was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_takes_more_memory_than_was_asked_for() {
    let (server, store, at) = with_object().await;
    server.arm(Method::GET, Fault::Endless, 2);
    let error = soon(store.get(&at)).await.unwrap_err();
    assert!(
        error.trouble() == Trouble::Broken && error.to_string().contains(&SMALL_BYTES_MAX.to_string()),
        "{error}"
    );
    assert_eq!(soon(store.get_range(&at, 0, 9)).await.unwrap_err().trouble(), Trouble::Broken);
    assert_eq!(server.fired(Fault::Endless), 2);
}

/// It was written and nobody was told: the next try finds it, and it is not mistaken for another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_made_good() {
    let (server, store, _) = with_object().await;
    let at = name("dir/lost.bin");
    server.arm(Method::PUT, Fault::LostReply, 1);
    let put = soon(store.put_once(&at, Bytes::from_static(BYTES).into())).await.unwrap();
    assert_eq!((put, server.fired(Fault::LostReply)), (Put::AlreadyThereSame, 1));
    let swapped = name("dir/swapped.txt");
    server.arm(Method::PUT, Fault::LostReply, 1);
    let Swap::Done(one) =
        soon(store.compare_and_set(&swapped, None, Bytes::from_static(b"one"))).await.unwrap()
    else {
        panic!("it was us")
    };
    server.arm(Method::PUT, Fault::LostReply, 1);
    let two = soon(store.compare_and_set(&swapped, Some(&one), Bytes::from_static(b"two"))).await.unwrap();
    let Swap::Done(two) = two else { panic!("it was us") };
    assert_eq!(server.fired(Fault::LostReply), 3);
    let there = store.get(&swapped).await.unwrap();
    assert_eq!((there.bytes, there.version), (Bytes::from_static(b"two"), two));
    assert!(matches!(
        store.compare_and_set(&swapped, Some(&one), Bytes::from_static(b"three")).await.unwrap(),
        Swap::Changed(Some(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_that_flip_on_the_way_are_found() {
    let server = Server::start().await;
    let ledger = ledger(&[400]);
    let store: Arc<dyn Store> = Arc::new(server.store());
    let pack = || {
        let io = Arc::new(ledger.io.clone());
        Staged::pack(io, &ledger.segments[0], Packing::Lz4, Epoch::FIRST, "/staging/one.pack".as_ref())
    };
    // Up: it is refused there, and nothing lies under its name.
    server.arm(Method::PUT, Fault::FlipUpload, 1);
    let manifest = Manifest::new(store.clone(), LEDGER, Epoch::FIRST);
    let segment = ledger.segments[0].summary();
    let error = soon(manifest.add(&mut Tip::default(), segment, &[], pack)).await.unwrap_err();
    assert!(error.code() == Code::Unavailable && server.fired(Fault::FlipUpload) == 1, "{error}");
    assert!(error.message().contains("spoiled on its way"), "{error}");
    let object = *pack().unwrap().object();
    let at = server.bucket().join("some/prefix").join(object.name().as_str());
    assert!(!at.exists());
    // Where the store has spoiled it all the same, no entry says otherwise, and it stays so until it is removed: the
    // store is not written over.
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(&at, vec![7; object.bytes as usize]).unwrap();
    let error = soon(manifest.add(&mut Tip::default(), segment, &[], pack)).await.unwrap_err();
    assert!(error.code() == Code::Corrupt && error.message().contains("remove it"), "{error}");
    assert!(error.message().contains(".seg"), "{error}");
    assert_eq!(restore(&store, &ledger).await.unwrap(), 0);
    std::fs::remove_file(&at).unwrap();
    let notes = &ledger.checkpoints[..1];
    soon(manifest.add(&mut Tip::default(), segment, notes, pack)).await.unwrap();
    // Down: whatever is read is right or refused.
    server.arm(Method::GET, Fault::Flip, 1);
    assert_eq!(soon(object::check(&*store, &object)).await.unwrap_err().code(), Code::Corrupt);
    server.arm(Method::GET, Fault::FlipEnd, 1);
    let cold = soon(Cold::open(store.clone(), &object, &segment.digest)).await.map(drop);
    assert_eq!(cold.unwrap_err().code(), Code::Corrupt);
    let cold = Cold::open(store.clone(), &object, &segment.digest).await.unwrap();
    server.arm(Method::GET, Fault::Flip, 1);
    let error = soon(cold.fetch(cold.stretch(0))).await.unwrap_err();
    assert!(error.message().contains("does not match its hash"), "{error}");
    assert_eq!((server.fired(Fault::Flip), server.fired(Fault::FlipEnd)), (2, 1));
    assert_eq!(restore(&store, &ledger).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_lost_buckets_are_for_an_operator() {
    let (server, store, at) = with_object().await;
    let with = |change: &dyn Fn(&mut S3Options)| {
        let mut options = server.options();
        change(&mut options);
        S3Store::new(options).unwrap()
    };
    let key = |id: &str, secret: &str| Credentials {
        access_key_id: id.into(),
        secret_access_key: Secret::new(secret.into()),
        session_token: Secret::default(),
    };
    let id = server.options().credentials.access_key_id;
    for (wrong, says) in [
        (with(&|options| options.credentials = key(&id, "guessed")), "storage.s3.secret_access_key"),
        (with(&|options| options.credentials = key("nobody", "guessed")), "storage.s3.access_key_id"),
        (with(&|options| options.bucket = "no-such-bucket".into()), "there is no such bucket"),
    ] {
        let error = soon(probe(&wrong, LEDGER, &OsRng)).await.unwrap_err();
        assert_eq!(error.trouble(), Trouble::Denied, "{error}");
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert!(!error.to_string().contains("guessed"), "a secret is shown: {error}");
    }
    let nobody =
        S3Store::new(S3Options { endpoint: "http://127.0.0.1:9".into(), ..server.options() }).unwrap();
    let error = soon(probe(&nobody, LEDGER, &OsRng)).await.unwrap_err();
    assert!(error.trouble() == Trouble::Away && error.to_string().contains("storage.s3.endpoint"), "{error}");
    // Gone while it was in use: nothing is taken for an empty archive.
    std::fs::rename(server.bucket(), server.bucket().with_extension("away")).unwrap();
    assert!(soon(store.get(&at)).await.is_err());
    assert_eq!(soon(store.list("dir", None)).await.unwrap_err().trouble(), Trouble::Denied);
    std::fs::rename(server.bucket().with_extension("away"), server.bucket()).unwrap();
    assert_eq!(store.get(&at).await.unwrap().bytes, BYTES);
}

/// The process that archives dies at each of its requests, the one under way done or not done: the bucket is a
/// shorter ledger, and the next process completes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_a_shorter_ledger_wherever_its_writer_dies() {
    let ledger = ledger(&[40, 0, 30]);
    let (mut shorter, mut whole_and_untold) = (0, 0);
    for history in 0.. {
        let server = Server::start().await;
        // One try, so that the death of the network is the end of the writer.
        let dying = S3Store::new(S3Options { attempts: 1, ..server.options() }).unwrap();
        server.die_after(history / 2, history % 2 == 1);
        let manifest = Manifest::new(Arc::new(dying), LEDGER, Epoch::FIRST);
        let died = soon(add_all(&manifest, &ledger, &mut Tip::default())).await.is_err();
        server.revive();
        let store: Arc<dyn Store> = Arc::new(server.store());
        let manifest = Manifest::new(store.clone(), LEDGER, Epoch::FIRST);
        let there = restore(&store, &ledger).await.unwrap();
        assert!(there == 3 || died, "history {history}: there are {there} segments");
        shorter += u64::from(there < 3);
        whole_and_untold += u64::from(there == 3 && died);
        let mut tip = manifest.follow(Tip::default(), |_| Ok(())).await.unwrap();
        assert_eq!(tip.next.0, there);
        add_all(&manifest, &ledger, &mut tip).await.unwrap();
        assert_eq!(restore(&store, &ledger).await.unwrap(), 3);
        if !died {
            break;
        }
        assert!(server.fired(Fault::LostRequest) + server.fired(Fault::LostReply) > 0);
    }
    assert!(shorter > 10 && whole_and_untold > 0, "{shorter} {whole_and_untold}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_store_is_said_to_be_good() {
    let server = Server::start().await;
    for store in [Arc::new(server.store()) as Arc<dyn Store>, simulated_directory(&SimIo::new(4))] {
        let first = soon(probe(&*store, LEDGER, &OsRng)).await.unwrap();
        assert!(first.keeps_what_is_there && first.compares_before_it_sets, "{first:?}");
        assert!(first.warnings.is_empty(), "{first:?}");
        // A restart, and other nodes at the same time: the same store.
        let probes = (0..4).map(|_| probe(&*store, LEDGER, &OsRng));
        for again in futures_util::future::join_all(probes).await {
            assert_eq!(again.unwrap(), first);
        }
        let error = probe(&*store, LedgerId([1; 16]), &OsRng).await.unwrap_err();
        assert_eq!(error.trouble(), Trouble::Denied);
        assert!(error.to_string().contains("is the archive of the ledger 5c5c5c"), "{error}");
    }
    let other = S3Store::new(S3Options { prefix: "other".into(), ..server.options() }).unwrap();
    let other = probe(&other, LedgerId([1; 16]), &OsRng).await.unwrap();
    assert_ne!(other.store, probe(&server.store(), LEDGER, &OsRng).await.unwrap().store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditions_is_found_out() {
    let server = Server::with(Conditions::Ignored).await;
    let store = server.store();
    for _ in 0..2 {
        let report = soon(probe(&store, LEDGER, &OsRng)).await.unwrap();
        assert!(!report.keeps_what_is_there && !report.compares_before_it_sets, "{report:?}");
        let [once, swap] = &report.warnings[..] else { panic!("{report:?}") };
        assert!(once.contains("If-None-Match") && swap.contains("If-Match"), "{report:?}");
    }
    // The archive is sound all the same, as long as one ledger writes there.
    let ledger = ledger(&[40, 30]);
    let store: Arc<dyn Store> = Arc::new(store);
    let manifest = Manifest::new(store.clone(), LEDGER, Epoch::FIRST);
    add_all(&manifest, &ledger, &mut Tip::default()).await.unwrap();
    assert_eq!(restore(&store, &ledger).await.unwrap(), 2);
}

/// Each is tried with its own condition, at the first start as at later ones, and before it is known whose archive it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_one_condition_is_warned_of_by_that_alone() {
    for (ignores, keeps, compares) in
        [(Conditions::IfMatchIgnored, true, false), (Conditions::IfNoneMatchIgnored, false, true)]
    {
        let server = Server::with(ignores).await;
        let store = server.store();
        let told = soon(try_out(&store, &OsRng)).await.unwrap();
        for _ in 0..2 {
            let report = soon(probe(&store, LEDGER, &OsRng)).await.unwrap();
            assert_eq!((report.keeps_what_is_there, report.compares_before_it_sets), (keeps, compares));
            assert_eq!((report.warnings.len(), &report.warnings), (1, &told));
        }
        assert!(soon(try_out(&store, &OsRng)).await.unwrap().is_empty(), "what is somebody's is left alone");
    }
}

/// A key that may look and not write is found out before anything waits to be archived.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_write_is_found_out_at_once() {
    let server = Server::start().await;
    server.arm(Method::PUT, Fault::Denied, u64::MAX);
    let error = soon(try_out(&server.store(), &OsRng)).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Denied, "{error}");
    assert!(error.to_string().contains("let this key list, read and write"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_makes_no_sense_stops_the_start() {
    let server = Server::start().await;
    let store = server.store();
    store.put_once(&layout::marker(), Bytes::from_static(b"no marker").into()).await.unwrap();
    let error = soon(probe(&store, LEDGER, &OsRng)).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Broken, "{error}");
}
