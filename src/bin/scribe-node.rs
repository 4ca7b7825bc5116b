//! The server: flags and environment → configuration → a node and its HTTP server → an orderly end.

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use scribe_ledger::{
    api::{self, App, Backend, Live, NodeView, Starting},
    config::{Config, LimitsConfig, LogFormat, NodeArgs, process_environment, run_config_command},
    env::real::{is_in_memory, real_env},
    error::{Code, Error, Result},
    host::Host,
    metrics::Metrics,
    node::{Ended, Node, StartNote},
    types::Seq,
    wal::{Driver, WalOptions},
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tracing_subscriber::EnvFilter;

// Writes allocate in bursts on one thread and free on another; measured 14% more requests a second.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long what is left of a node may take to let go of its files.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks whether it has.
const RELEASE_PAUSE: Duration = Duration::from_millis(2);

/// Exit code for a wrong flag or configuration; nothing on disk was touched.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = NodeArgs::parse();
    let config = match configure(&args) {
        Ok(Some(config)) => config,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return fail(&error),
    };
    if let Err(error) = init_logging(&config) {
        return fail(&error);
    }
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    // Nobody reads a closed standard error.
    let _ = writeln!(std::io::stderr(), "scribe-node: {error}");
    ExitCode::from(if error.code() == Code::InvalidConfig { EXIT_USAGE } else { 1 })
}

/// The configuration to run with, or `None` when a flag only asked to be shown something.
fn configure(args: &NodeArgs) -> Result<Option<Config>> {
    let environment = process_environment()?;
    if run_config_command(args, environment.iter().cloned(), &mut std::io::stdout().lock())? {
        return Ok(None);
    }
    Config::load(args, environment.into_iter()).map(Some)
}

fn init_logging(config: &Config) -> Result<()> {
    // openraft calls errors what is ordinary, a member that is away or another leader, and says so at every heartbeat. We
    // say it once, and what ends consensus as well: the rest is for whoever asks with `openraft=info`.
    let filter = EnvFilter::try_new(format!("openraft=off,{}", config.logging.level)).map_err(|e| {
        Error::new(Code::InvalidConfig, format!("logging.level = {:?}: {e}", config.logging.level))
    })?;
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.logging.format {
        LogFormat::Text => logging.init(),
        LogFormat::Json => logging.json().flatten_event(true).init(),
    }
    Ok(())
}

fn run(config: &Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads(config))
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting the async runtime", &e))?;
    let result = runtime.block_on(serve(config));
    // Nothing that was answered is still under way; what else runs may be dropped.
    runtime.shutdown_background();
    result
}

/// Half the cores, unless the configuration says otherwise: the log's writer needs one beside them, and a
/// record that passes from thread to thread pays for every wake-up (measured on two cores: one worker
/// answers a lone client a fifth faster than two, and loses nothing under load).
fn worker_threads(config: &Config) -> usize {
    match config.node.worker_threads {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1),
        threads => threads,
    }
}

async fn serve(config: &Config) -> Result<()> {
    raise_descriptor_limit();
    let io = |doing: &'static str| move |e: std::io::Error| Error::io(doing, &e);
    // A file that reaches the process's size limit has to be a failed write, not a killed process.
    let _file_size_limit = signal(SignalKind::from_raw(libc::SIGXFSZ)).map_err(io("catching signals"))?;
    let terminate = signal(SignalKind::terminate()).map_err(io("catching signals"))?;
    let interrupt = signal(SignalKind::interrupt()).map_err(io("catching signals"))?;

    let bind = config.network.http_bind();
    let doing =
        |e| Error::io(format!("binding HTTP to {bind} (network.listen_addr, network.client_port)"), &e);
    let address = tokio::net::lookup_host(&bind).await.map_err(doing)?.next();
    let address = address.ok_or_else(|| doing(std::io::Error::other("the name has no address")))?;
    let listener = api::listen(address).map_err(doing)?;
    let bound = listener.local_addr().map_err(io("binding HTTP"))?;
    let http_addr = config.network.http_advertised(bound);

    let mut host = None;
    let metrics = Arc::new(Metrics::new());
    let mut stop = Stop { terminate, interrupt };
    let mut listener = listener;
    let ended = loop {
        let (for_later, now) = shared(listener).map_err(io("sharing the HTTP socket"))?;
        let mut for_later = Some(for_later);
        let http = Http { listener: now, bound, metrics: metrics.clone(), limits: config.limits.clone() };
        match live(config, http, &http_addr, &mut host, &mut stop, &mut for_later).await {
            Ok(After::Stop) => break Ok(()),
            Ok(After::Restart) => match for_later {
                Some(for_later) => listener = for_later,
                None => break Ok(()),
            },
            Err(error) => break Err(error),
        }
    };
    if let Some(host) = host {
        host.stop().await;
    }
    ended
}

/// What a life of the node was ended for.
enum After {
    /// The process is to stop.
    Stop,
    /// The node is to be started again.
    Restart,
}

/// The signals that stop the process.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    async fn asked(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Starts the node, serves clients, and stops it, when that is asked or when it does not go on. `for_later` keeps the
/// clients' port for another life: it is given up first when there is none, or clients would go on to connect to a node
/// that answers nobody.
async fn live(
    config: &Config,
    http: Http,
    http_addr: &str,
    host: &mut Option<Host>,
    stop: &mut Stop,
    for_later: &mut Option<TcpListener>,
) -> Result<After> {
    let Http { listener, bound, metrics, limits } = http;
    let server = |listener| HttpServer { listener, metrics: metrics.clone(), limits: limits.clone() };
    let shared = shared(listener).map_err(|e| Error::io("sharing the HTTP socket", &e));
    let (listener, listener_while_starting) = shared?;
    let note = StartNote::default();
    let starting = Starting::new(config.node.id, &config.profile, note.clone());
    let starting_server = server(listener_while_starting).start(starting.clone(), Arc::new(starting));

    let started = tokio::select! {
        biased;
        started = start(config, http_addr, host, note) => Some(started),
        () = stop.asked() => None,
    };
    let (node, host) = match started {
        Some(Ok(started)) => {
            starting_server.close().await;
            started
        }
        over => {
            drop((for_later.take(), listener));
            starting_server.close().await;
            if let Some(Err(error)) = over {
                return Err(error);
            }
            // As after a crash: whatever the start was doing, the next one does it again.
            tracing::info!("stopped while starting");
            return Ok(After::Stop);
        }
    };
    let info = node.info();
    let data_dir = config.node.data_dir.as_path();
    if is_in_memory(data_dir) {
        tracing::warn!(
            data_dir = %data_dir.display(),
            "the data directory is on a memory file system: all of the ledger is gone when the machine stops"
        );
    }
    let admin = host.attach(&info);
    let live = Live {
        ingest: node.ingest(),
        reader: node.reader(),
        proofs: node.proofs(),
        admin,
        repairs: node.repairs(),
    };
    let server = server(listener).start(live, Arc::new(info.clone()));
    tracing::info!(
        node_id = info.identity.node_id,
        cluster_id = info.identity.cluster_id,
        http_addr = %bound,
        raft_addr = host.raft_addr(),
        data_dir = %data_dir.display(),
        profile = config.profile,
        records = info.applied().0,
        wal = info.wal().1.writer,
        "ready"
    );
    // The next start needs its files closed.
    drop(info);

    let ended = tokio::select! {
        biased;
        ended = node.ended() => Some(ended),
        why = host.refused() => Some(Ended::Failed(why.message().to_owned())),
        cluster_id = host.adopted() => Some(Ended::Restart(format!("cluster {cluster_id} has adopted the node"))),
        () = stop.asked() => None,
    };
    match &ended {
        Some(Ended::Failed(why)) => tracing::error!(why, "the node cannot go on; it stops"),
        Some(Ended::Restart(why)) => tracing::info!(why, "the node starts again"),
        None => tracing::info!("stopping: no new connections, requests under way are finished"),
    }
    if !matches!(ended, Some(Ended::Restart(_))) {
        drop(for_later.take());
    }
    host.detach().await;
    if !server.close().await {
        tracing::warn!("some requests were cut off after limits.shutdown_timeout");
    }
    let is_empty = node.info().applied() == Seq(0);
    let in_use = node.info().watch_use();
    let closed = node.stop().await;
    match ended {
        Some(Ended::Failed(why)) => Err(Error::new(Code::Io, why)),
        Some(Ended::Restart(_)) => {
            closed?;
            released(in_use).await;
            match (host.is_adopted(), is_empty) {
                (true, true) => host.make_way()?,
                (true, false) => {
                    tracing::warn!(
                        "a client has written meanwhile: the node keeps its ledger, and is not adopted"
                    );
                    host.decline_adoption();
                }
                (false, _) => {}
            }
            Ok(After::Restart)
        }
        None => {
            closed?;
            tracing::info!("stopped");
            Ok(After::Stop)
        }
    }
}

/// Waits until nothing of a node that has stopped is in use any more, so that its files can be opened again: an
/// answer's last steps may outlive the answer.
async fn released(in_use: impl Fn() -> bool) {
    let give_up = Instant::now() + RELEASE_PATIENCE;
    while in_use() && Instant::now() < give_up {
        sleep(RELEASE_PAUSE).await;
    }
}

/// Starts the node on a thread of its own, because a long replay blocks, and the signals and the health page
/// of this process must not wait for it.
async fn start<'a>(
    config: &Config,
    http_addr: &str,
    host: &'a mut Option<Host>,
    note: StartNote,
) -> Result<(Node, &'a mut Host)> {
    let host = match host {
        Some(host) => host,
        none => none.insert(Host::open(&real_env(), config, http_addr.to_owned()).await?),
    };
    let refused = host.refused();
    tokio::pin!(refused);
    let founding = tokio::select! {
        biased;
        why = &mut refused => return Err(why),
        founding = host.begin(&note) => founding?,
    };
    let (config, env) = (config.clone(), host.env());
    let (told, started) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("start".into())
        .spawn(move || {
            let options = WalOptions::new(config.wal.clone(), Driver::Thread);
            let start = Node::start_noting(env, &config, founding, options, &note);
            // Nobody listens any more when the process is to stop.
            let _ = told.send(runtime.block_on(start));
        })
        .map_err(|e| Error::io("starting a thread", &e))?;
    let node = tokio::select! {
        biased;
        why = refused => return Err(why),
        started = started => {
            started.unwrap_or_else(|_| Err(Error::new(Code::Internal, "starting the node panicked")))
        }
    };
    Ok((node?, host))
}

/// What one life of the node serves clients with.
struct Http {
    listener: TcpListener,
    bound: SocketAddr,
    metrics: Arc<Metrics>,
    limits: LimitsConfig,
}

/// What every HTTP server of this process is made of.
struct HttpServer {
    listener: TcpListener,
    metrics: Arc<Metrics>,
    limits: LimitsConfig,
}

/// A running HTTP server.
struct Running {
    stop: oneshot::Sender<()>,
    server: JoinHandle<bool>,
}

impl HttpServer {
    fn start<B: Backend>(self, backend: B, node: Arc<dyn NodeView>) -> Running {
        let app = App { backend, node, metrics: self.metrics, limits: self.limits };
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(api::serve(app, self.listener, async move { drop(stopped.await) }));
        Running { stop, server }
    }
}

impl Running {
    /// Takes no more requests and finishes those under way; false if some were cut off.
    async fn close(self) -> bool {
        // The receiver is gone only if the server has ended by itself.
        let _ = self.stop.send(());
        self.server.await.unwrap_or(false)
    }
}

/// Two handles of one listening socket: what waits to be accepted is lost with neither.
fn shared(listener: TcpListener) -> std::io::Result<(TcpListener, TcpListener)> {
    let listener = listener.into_std()?;
    let other = listener.try_clone()?;
    Ok((TcpListener::from_std(listener)?, TcpListener::from_std(other)?))
}

/// Every connection is a descriptor. The soft limit is often 1,024 where the hard one allows far more.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}
