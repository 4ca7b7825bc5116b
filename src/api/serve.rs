//! The accept loop: sockets in, one task for each, an end that waits for what is under way.
//!
//! Takes a listener, an [`App`] and a future that resolves when it is time to stop. It owns how many
//! connections there are; what happens on one is `conn`'s.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    App, Server,
    backend::Backend,
    conn::{self, Shared, Stop},
    limit::Limiter,
    problem::Problem,
};
use crate::{error::Code, metrics::Metrics};

/// Pause after an accept that failed for want of descriptors or memory: others have to close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections over the limit that are told so at one time; more are just closed.
const REFUSALS_MAX: usize = 256;

/// One open connection in the count.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.connections.open.fetch_add(1, Relaxed);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.open.fetch_sub(1, Relaxed);
    }
}

/// Connections that the system holds for us between two accepts. With the usual 128, a burst of clients
/// fills it and each one over waits a second for its next try.
const BACKLOG: u32 = 4_096;

/// Binds `addr` the way [`serve`] wants its listener. Call it inside a runtime.
///
/// # Errors
/// As bind and listen: the address is in use or not ours.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted node takes its port back although old connections still linger on it.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` resolves, then finishes the requests under way, for at most
/// `limits.shutdown_timeout`. Returns whether all of them were finished in time.
pub async fn serve<B: Backend>(app: App<B>, listener: TcpListener, stop: impl Future<Output = ()>) -> bool {
    let limits = app.limits.clone();
    let metrics = Arc::clone(&app.metrics);
    let shared = Arc::new(Shared {
        server: Server::new(app),
        limiter: Limiter::new(limits.max_requests_per_client_per_sec),
        // The watchdog divides it.
        read_timeout: limits.read_timeout.max(Duration::from_millis(10)),
    });
    let (stopper, stopping) = watch::channel(Stop::Run);
    let refusals = Arc::new(tokio::sync::Semaphore::new(REFUSALS_MAX));
    let take_in = |stream: TcpStream, peer: SocketAddr| {
        metrics.connections.accepted.fetch_add(1, Relaxed);
        // Answers are small and are waited for.
        let _ = stream.set_nodelay(true);
        if metrics.connections.open.load(Relaxed) >= limits.max_connections {
            metrics.connections.refused.fetch_add(1, Relaxed);
            turn_away(stream, &refusals);
            return;
        }
        let counted = Counted::new(&metrics);
        let (shared, stopping) = (Arc::clone(&shared), stopping.clone());
        tokio::spawn(async move {
            conn::run(shared, stream, peer, stopping).await;
            drop(counted);
        });
    };
    let mut stop = pin!(stop);
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    after_failed_accept(&error).await;
                    continue;
                }
            },
        };
        take_in(stream, peer);
    }
    // Who is connected, as far as the system is concerned, may be sending a request already. From here on new
    // connections are refused by the system, unless there is another handle of the socket.
    for (stream, peer) in waiting(listener) {
        take_in(stream, peer);
    }
    drop(stopping);
    let _ = stopper.send(Stop::Drain);
    // Each connection holds a receiver; none is left when all are done.
    let finished = timeout(limits.shutdown_timeout, stopper.closed()).await.is_ok();
    if !finished {
        tracing::warn!(
            connections = metrics.connections.open.load(Relaxed),
            "requests were still under way when the time to stop was over; their connections are closed"
        );
        let _ = stopper.send(Stop::Cut);
    }
    finished
}

/// The connections that wait to be accepted, at most as many as can; closes the listener.
fn waiting(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let accepted = std::iter::from_fn(|| listener.accept().ok()).take(BACKLOG as usize);
    let ready = |(stream, peer): (std::net::TcpStream, SocketAddr)| {
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, peer))
    };
    accepted.filter_map(ready).collect()
}

async fn after_failed_accept(error: &io::Error) {
    match error.kind() {
        // The client gave up between its connect and our accept.
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {}
        _ => {
            tracing::warn!(%error, "accepting a connection failed; trying again shortly");
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

fn turn_away(stream: TcpStream, refusals: &Arc<tokio::sync::Semaphore>) {
    let Ok(permit) = Arc::clone(refusals).try_acquire_owned() else { return };
    tokio::spawn(async move {
        let problem = Problem::new(Code::Overloaded, "too many connections are open");
        conn::say_and_close(stream, &problem).await;
        drop(permit);
    });
}
