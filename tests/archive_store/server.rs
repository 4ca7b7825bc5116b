//! An S3 server in this process, on loopback, with signature checks, and trouble in front of it.
//!
//! s3s-fs looks before it writes, so requests with conditions are let through one at a time; what it refuses by them it
//! does not read to its end, and the connection ends under whoever is still sending. Each fault is armed for
//! requests of one method, fires for as many of them as it was armed for, and is counted.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, body::Frame, body::Incoming, service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use md5::{Digest, Md5};
use s3s::{auth::SimpleAuth, service::S3Service, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use scribe_ledger::{
    archive::s3::{Credentials, S3Options, S3Store},
    config::Secret,
};
use tokio::{net::TcpListener, task::JoinHandle};

pub const BUCKET: &str = "ledger-archive";
const KEY_ID: &str = "AKIDLEDGER";
const KEY: &str = "a secret that only the tests know";

/// What goes wrong with a request or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 503 SlowDown, nothing done.
    SlowDown,
    /// No answer, nothing done.
    Hang,
    /// The connection ends in the middle of the answer's body.
    Cut,
    /// The body ends early, and the answer says so.
    Short,
    /// The body does not end.
    Endless,
    /// One bit of the answer's body is another.
    Flip,
    /// The same near its end.
    FlipEnd,
    /// One bit of the request's body is another when it is stored.
    FlipUpload,
    /// It is done, and the answer is lost.
    LostReply,
    /// It is not done, and the connection ends.
    LostRequest,
    /// 403, nothing done: what was allowed is so no more.
    Denied,
}

/// What a server makes of `If-None-Match` and `If-Match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    Honoured,
    /// It does not see them, nor signatures.
    Ignored,
    /// It does not see `If-Match`, nor signatures.
    IfMatchIgnored,
    /// It does not see `If-None-Match`, nor signatures.
    IfNoneMatchIgnored,
    /// It refuses every `If-Match` in quotation marks, as Ceph's gateway does (seen of 16.2). Nor does it see signatures.
    QuotesRefused,
}

impl Conditions {
    /// Headers that are left out before the server sees them, as a server does that ignores them. They are under the
    /// signature, which goes with them.
    fn left_out(self) -> &'static [&'static str] {
        match self {
            Self::Honoured => &[],
            Self::QuotesRefused => &["authorization"],
            Self::Ignored => &["if-none-match", "if-match", "authorization"],
            Self::IfMatchIgnored => &["if-match", "authorization"],
            Self::IfNoneMatchIgnored => &["if-none-match", "authorization"],
        }
    }
}

/// What happens at a request beside it.
pub type Happens = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Plan {
    /// Method, fault, how many of them still.
    armed: Vec<(Method, Fault, u64)>,
    fired: BTreeMap<Fault, u64>,
    requests: u64,
    /// Requests from this one on are lost: the client has died, or the network.
    dead_from: Option<u64>,
    /// Whether the last one before is done, and its answer lost.
    dies_untold: bool,
    /// Whether an `If-Match` in quotation marks is taken for one of another object.
    refuses_quotes: bool,
    /// Headers that the server does not get to see.
    left_out: &'static [&'static str],
    /// What happens at which request, and whether that is done before; its answer is lost.
    at: Option<(u64, bool, Happens)>,
}

pub struct Server {
    plan: Arc<Mutex<Plan>>,
    port: u16,
    home: tempfile::TempDir,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    /// A server as it should be.
    pub async fn start() -> Self {
        Self::with(Conditions::Honoured).await
    }

    pub async fn with(conditions: Conditions) -> Self {
        Self::on_port(0, conditions).await
    }

    /// A server at a port that is known before.
    pub async fn on_port(port: u16, conditions: Conditions) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(home.path()).unwrap());
        if conditions == Conditions::Honoured {
            builder.set_auth(SimpleAuth::from_single(KEY_ID, KEY));
        }
        let service = builder.build();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Mutex::new(Plan {
            left_out: conditions.left_out(),
            refuses_quotes: conditions == Conditions::QuotesRefused,
            ..Plan::default()
        }));
        let one_at_a_time = Arc::new(tokio::sync::RwLock::new(()));
        let (shared, root) = (plan.clone(), home.path().to_path_buf());
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, plan) = (service.clone(), shared.clone());
                let (root, alone) = (root.clone(), one_at_a_time.clone());
                tokio::spawn(async move {
                    let answer = service_fn(move |request| {
                        answer(service.clone(), plan.clone(), (root.clone(), alone.clone()), request)
                    });
                    // A connection that a fault ends is an error here.
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), answer)
                        .await;
                });
            }
        });
        Self { plan, port, home, serving }
    }

    /// Another bucket beside the one there is, and where its objects are.
    pub fn add_bucket(&self, name: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Where the bucket's objects are.
    pub fn bucket(&self) -> PathBuf {
        self.home.path().join(BUCKET)
    }

    pub fn options(&self) -> S3Options {
        let credentials = Credentials {
            access_key_id: KEY_ID.into(),
            secret_access_key: Secret::new(KEY.into()),
            session_token: Secret::default(),
        };
        S3Options {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            path_style: true,
            prefix: "some/prefix".into(),
            ..S3Options::new(BUCKET, "us-east-1", credentials)
        }
    }

    /// What a program needs to know to reach it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        [
            ("SCRIBE_STORAGE_S3_ENDPOINT", format!("http://127.0.0.1:{}", self.port)),
            ("SCRIBE_STORAGE_S3_PATH_STYLE", "true".into()),
            ("SCRIBE_STORAGE_S3_ACCESS_KEY_ID", KEY_ID.into()),
            ("SCRIBE_STORAGE_S3_SECRET_ACCESS_KEY", KEY.into()),
        ]
        .into()
    }

    /// What a node needs to know to archive into it.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings: Vec<_> = self.environment();
        settings.iter_mut().for_each(|(name, _)| *name = name.trim_start_matches("SCRIBE_"));
        settings.extend([
            ("STORAGE_S3_BUCKET", BUCKET.to_owned()),
            ("STORAGE_S3_PREFIX", "some/prefix".to_owned()),
            ("STORAGE_S3_REGION", "us-east-1".to_owned()),
        ]);
        settings
    }

    pub fn store(&self) -> S3Store {
        S3Store::new(self.options()).unwrap()
    }

    /// A store whose patience is short, for faults that only its time-outs end.
    pub fn hasty(&self) -> S3Store {
        S3Store::new(S3Options { attempt_timeout: Duration::from_millis(1_500), ..self.options() }).unwrap()
    }

    pub fn arm(&self, method: Method, fault: Fault, times: u64) {
        self.plan.lock().unwrap().armed.push((method, fault, times));
    }

    /// Lets all requests behind the next `after` be lost, and the answer to the last of those too, if `untold`.
    pub fn die_after(&self, after: u64, untold: bool) {
        let mut plan = self.plan.lock().unwrap();
        plan.dead_from = Some(plan.requests + after);
        plan.dies_untold = untold;
    }

    /// Lets something happen at the request behind the next `after`, which is `done` before it or never; its answer is
    /// lost.
    pub fn happens(&self, after: u64, done: bool, what: Happens) {
        let mut plan = self.plan.lock().unwrap();
        plan.at = Some((plan.requests + after + 1, done, what));
    }

    /// Whether what was to happen still is.
    pub fn is_to_happen(&self) -> bool {
        self.plan.lock().unwrap().at.is_some()
    }

    /// Nothing is to happen any more.
    pub fn forget(&self) {
        self.plan.lock().unwrap().at = None;
    }

    pub fn revive(&self) {
        let mut plan = self.plan.lock().unwrap();
        plan.dead_from = None;
        plan.armed.clear();
    }

    pub fn fired(&self, fault: Fault) -> u64 {
        self.plan.lock().unwrap().fired.get(&fault).copied().unwrap_or_default()
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

fn lost() -> io::Error {
    io::Error::other("the connection ends here")
}

async fn answer(
    service: S3Service,
    plan: Arc<Mutex<Plan>>,
    (home, alone): (PathBuf, Arc<tokio::sync::RwLock<()>>),
    mut request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let (fault, happens, refuses) = {
        let mut plan = plan.lock().unwrap();
        plan.requests += 1;
        let requests = plan.requests;
        let happens = plan.at.take_if(|(at, ..)| *at == requests);
        for name in plan.left_out {
            request.headers_mut().remove(*name);
        }
        let dead = plan.dead_from.is_some_and(|from| plan.requests > from);
        let untold = plan.dies_untold && plan.dead_from == Some(plan.requests);
        let armed =
            plan.armed.iter_mut().find(|(method, _, times)| *method == request.method() && *times > 0);
        let fault = match armed {
            _ if dead => Some(Fault::LostRequest),
            _ if untold => Some(Fault::LostReply),
            Some((_, fault, times)) => {
                *times -= 1;
                Some(*fault)
            }
            None => None,
        };
        if let Some(fault) = fault {
            *plan.fired.entry(fault).or_default() += 1;
        }
        let mut refuses = false;
        if plan.refuses_quotes
            && let Some(value) = request.headers_mut().get_mut("if-match")
        {
            refuses = value.as_bytes().starts_with(b"\"");
            // s3s knows it in quotation marks only.
            *value = format!("\"{}\"", value.to_str().unwrap()).parse().unwrap();
        }
        (fault, happens, refuses)
    };
    if refuses {
        let _ = request.into_body().collect().await;
        return Ok(refused(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"));
    }
    if let Some((_, false, happens)) = &happens {
        happens();
        return Err(lost());
    }
    match fault {
        Some(Fault::LostRequest) => return Err(lost()),
        Some(Fault::Hang) => std::future::pending().await,
        Some(fault @ (Fault::SlowDown | Fault::Denied)) => {
            // Read first: a server that answers before it has read closes the connection.
            let _ = request.into_body().collect().await;
            let (status, code) = match fault {
                Fault::SlowDown => (StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
                _ => (StatusCode::FORBIDDEN, "AccessDenied"),
            };
            return Ok(refused(status, code));
        }
        _ => {}
    }
    let conditional = ["if-match", "if-none-match"].iter().any(|name| request.headers().contains_key(*name));
    let (parts, body) = request.into_parts();
    let object = (parts.method == Method::GET).then(|| home.join(parts.uri.path().trim_start_matches('/')));
    let body = match fault {
        Some(Fault::FlipUpload) => {
            let mut sent = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
            let at = sent.len() / 2;
            sent[at] ^= 4;
            if let Some(said) = parts.headers.get("content-md5")
                && *said != BASE64_STANDARD.encode(Md5::digest(&sent))
            {
                // As stores do it; s3s-fs finds out when it has written.
                return Ok(refused(StatusCode::BAD_REQUEST, "BadDigest"));
            }
            s3s::Body::from(Bytes::from(sent))
        }
        _ => s3s::Body::from(body),
    };
    let request = Request::from_parts(parts, body);
    let (mut parts, bytes) = {
        let _alone = if conditional { Some(alone.write().await) } else { None };
        // Nor does it give bytes and their version at one moment.
        let _beside = if conditional { None } else { Some(alone.read().await) };
        let answered = service.call(request).await.map_err(|error| io::Error::other(format!("{error:?}")))?;
        let (parts, body) = answered.into_parts();
        let bytes = match object.filter(|path| parts.status.is_success() && path.is_file()) {
            Some(path) => read(&path, &parts.headers)?,
            None => body.collect().await.map_err(|error| io::Error::other(error.to_string()))?.to_bytes(),
        };
        (parts, bytes)
    };
    if let Some((_, true, happens)) = &happens {
        happens();
        return Err(lost());
    }
    if fault == Some(Fault::LostReply) {
        return Err(lost());
    }
    let half = bytes.slice(..bytes.len() / 2);
    let body = match fault {
        Some(Fault::Cut) => {
            parts.headers.insert("content-length", bytes.len().into());
            StreamBody::new(stream::iter([Ok(Frame::data(half)), Err(lost())])).boxed_unsync()
        }
        Some(Fault::Short) => {
            parts.headers.insert("content-length", half.len().into());
            whole(half)
        }
        Some(Fault::Endless) => {
            parts.headers.remove("content-length");
            let piece = Bytes::from(vec![7; 64 << 10]);
            let endless = stream::repeat_with(move || Ok(Frame::data(piece.clone())));
            StreamBody::new(endless).boxed_unsync()
        }
        Some(fault @ (Fault::Flip | Fault::FlipEnd)) => {
            let mut bytes = bytes.to_vec();
            let at = if fault == Fault::Flip { bytes.len() / 2 } else { bytes.len() - 20 };
            bytes[at] ^= 16;
            whole(bytes.into())
        }
        _ => whole(bytes),
    };
    Ok(Response::from_parts(parts, body))
}

/// The part of an object that an answer's headers tell of. s3s-fs gives it in pieces of 4 KiB, each from another thread,
/// and reads its file to the end whatever was asked for, which stores that are in use do not.
fn read(path: &Path, headers: &HeaderMap) -> io::Result<Bytes> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let first = |range: &str| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok();
    let length = header("content-length").and_then(|length| length.parse().ok());
    let mut bytes = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    let offset = header("content-range").and_then(first).unwrap_or(0);
    File::open(path)?.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

fn refused(status: StatusCode, code: &str) -> Response<Body> {
    let xml = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>spare me</Message></Error>");
    Response::builder().status(status).body(whole(xml.into())).unwrap()
}

fn whole(bytes: Bytes) -> Body {
    http_body_util::Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}
