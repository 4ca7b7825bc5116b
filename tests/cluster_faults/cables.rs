//! The cables between members, which can lose what one says to another.
//!
//! A member listens behind its cable's address, which is all that others know. Who is at the other end of a connection
//! is said in its first bytes (the dialer's hello). While a direction is cut its bytes are swallowed, as if they were on
//! their way for ever; a connection that has lost some ends when all is mended, since what follows would make no sense.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::watch,
};

use super::{
    process::{Node, Spec},
    trio::Trio,
};

/// Bytes of a hello up to the dialer's id, and that.
const HELLO_BEGIN_BYTES: usize = 9 + 32 + 8;

/// All cables of a cluster.
pub struct Cables {
    cuts: Arc<Cuts>,
    /// Carries the bytes.
    _runtime: Runtime,
}

#[derive(Default)]
struct Cuts {
    /// Who is not heard by whom.
    lost: Mutex<BTreeSet<(u64, u64)>>,
    /// Changes when all is mended.
    mended: watch::Sender<()>,
}

impl Cuts {
    fn swallows(&self, from: u64, to: u64) -> bool {
        self.lost.lock().contains(&(from, to))
    }
}

impl Cables {
    /// Three nodes that reach each other by cables only, and are ready.
    pub fn trio(settings: &[(&str, &str)]) -> (Self, Trio) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let cuts = Arc::<Cuts>::default();
        let home = tempfile::tempdir().unwrap();
        let specs = specs(home.path(), settings, &runtime, &cuts);
        let nodes: Vec<Node> = specs.iter().map(Spec::start).collect();
        nodes.iter().for_each(Node::wait_ready);
        (Self { cuts, _runtime: runtime }, Trio { nodes, home })
    }

    /// From now on `to` hears nothing from `from`.
    pub fn cut(&self, from: &Node, to: &Node) {
        self.cuts.lost.lock().insert((from.id(), to.id()));
    }

    /// From now on `node` and the others hear nothing of each other.
    pub fn cut_off(&self, node: &Node, others: &[&Node]) {
        for other in others {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Everybody hears everybody.
    pub fn mend(&self) {
        self.cuts.lost.lock().clear();
        self.cuts.mended.send_replace(());
    }
}

fn specs(home: &Path, settings: &[(&str, &str)], runtime: &Runtime, cuts: &Arc<Cuts>) -> Vec<Spec> {
    let mut addresses = Vec::new();
    let mut specs = Vec::new();
    for id in 1..=3 {
        let spec = Spec::new(home, id);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(cable(listener, id, spec.raft.clone(), cuts.clone()));
        specs.push(spec.with(settings).with(&[("NETWORK_ADVERTISE_RAFT_ADDR", &address)]));
        addresses.push(address);
    }
    let peers = addresses.join(",");
    let founding = [("CLUSTER_BOOTSTRAP_EXPECT", "3")];
    specs.into_iter().map(|spec| spec.flags(&["--peers", &peers]).with(&founding)).collect()
}

/// The cable to member `to`, who listens at `target`.
async fn cable(listener: TcpListener, to: u64, target: String, cuts: Arc<Cuts>) {
    while let Ok((near, _)) = listener.accept().await {
        let (target, cuts) = (target.clone(), cuts.clone());
        tokio::spawn(async move { drop(connection(near, to, &target, &cuts).await) });
    }
}

async fn connection(mut near: TcpStream, to: u64, target: &str, cuts: &Cuts) -> std::io::Result<()> {
    let mut mended = cuts.mended.subscribe();
    let mut hello = [0; HELLO_BEGIN_BYTES];
    near.read_exact(&mut hello).await?;
    let (_, id) = hello.split_last_chunk().unwrap();
    let from = u64::from_le_bytes(*id);
    if cuts.swallows(from, to) {
        // It waits for an answer that does not come.
        let _ = mended.changed().await;
        return Ok(());
    }
    let mut far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    far.write_all(&hello).await?;
    let (from_near, to_near) = near.split();
    let (from_far, to_far) = far.split();
    // Whichever end hangs up does so for both.
    tokio::select! {
        () = carry(from_near, to_far, (from, to), cuts, mended.clone()) => {}
        () = carry(from_far, to_near, (to, from), cuts, mended) => {}
    }
    Ok(())
}

async fn carry(
    mut source: impl AsyncRead + Unpin,
    mut sink: impl AsyncWrite + Unpin,
    (from, to): (u64, u64),
    cuts: &Cuts,
    mut mended: watch::Receiver<()>,
) {
    let (mut bytes, mut has_lost) = (vec![0; 64 << 10], false);
    loop {
        let length = tokio::select! {
            read = source.read(&mut bytes) => match read {
                Ok(length) if length > 0 => length,
                _ => {
                    // That it hung up is lost, too.
                    if cuts.swallows(from, to) {
                        let _ = mended.changed().await;
                    }
                    return;
                }
            },
            _ = mended.changed() => match has_lost {
                true => return,
                false => continue,
            },
        };
        if cuts.swallows(from, to) {
            has_lost = true;
        } else if has_lost || sink.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
