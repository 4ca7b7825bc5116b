//! A wire between two nodes that can be listened to, spoiled and cut.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc},
};

/// Connections to its address go on to another.
pub struct Proxy {
    pub address: String,
    /// What dialers have said, over all connections.
    pub heard: Arc<Mutex<Vec<u8>>>,
    /// While set, bytes are swallowed both ways, and sockets stay open.
    pub silent: Arc<AtomicBool>,
    /// While set, what the target says is not taken from it.
    pub stalled: Arc<AtomicBool>,
    inject: mpsc::UnboundedSender<Vec<u8>>,
    cut: Arc<Notify>,
}

impl Proxy {
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (inject, injected) = mpsc::unbounded_channel();
        let proxy = Self {
            address,
            heard: Arc::default(),
            silent: Arc::default(),
            stalled: Arc::default(),
            inject,
            cut: Arc::default(),
        };
        let (heard, silent, cut) =
            (Arc::clone(&proxy.heard), Arc::clone(&proxy.silent), Arc::clone(&proxy.cut));
        let (stalled, flowing) = (Arc::clone(&proxy.stalled), Arc::<AtomicBool>::default());
        let (target, injected) = (target.to_owned(), Arc::new(tokio::sync::Mutex::new(injected)));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&target).await.unwrap();
                let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                let (heard, silent, cut) = (Arc::clone(&heard), Arc::clone(&silent), Arc::clone(&cut));
                let injected = Arc::clone(&injected);
                let (stalled, flowing) = (Arc::clone(&stalled), Arc::clone(&flowing));
                tokio::spawn(async move {
                    let (no_one, mut nothing) = mpsc::unbounded_channel();
                    let mut injected = injected.lock().await;
                    tokio::select! {
                        () = carry(from_near, to_far, &silent, &flowing, Some(&heard), &mut injected) => {}
                        () = carry(from_far, to_near, &silent, &stalled, None, &mut nothing) => {}
                        () = cut.notified() => {}
                    }
                    drop(no_one);
                });
            }
        });
        proxy
    }

    /// Says something to the target as if the dialer had.
    pub fn say(&self, bytes: &[u8]) {
        self.inject.send(bytes.to_vec()).unwrap();
    }

    /// Ends the connection.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    silent: &AtomicBool,
    stalled: &AtomicBool,
    heard: Option<&Mutex<Vec<u8>>>,
    injected: &mut mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        while stalled.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let len = tokio::select! {
            biased;
            Some(said) = injected.recv() => {
                bytes[..said.len()].copy_from_slice(&said);
                said.len()
            }
            read = from.read(&mut bytes) => match read {
                Ok(len) if len > 0 => len,
                _ => return,
            },
        };
        if let Some(heard) = heard {
            heard.lock().unwrap().extend_from_slice(&bytes[..len]);
        }
        if !silent.load(Relaxed) && to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}
