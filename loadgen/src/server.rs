//! What servers cost over a run: the kernel's counters of their processes and their own counters, read
//! before and after.
//!
//! Takes addresses, gives a [`ServerCost`] each. A server that is not on this machine, does not answer or
//! lacks a counter is not an error: what is not known is not shown. It owns neither the text format
//! (`scrape`) nor `/proc` (`process`).

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    thread,
    time::{Duration, Instant},
};

use scribe_ledger::client::authority_of;
use serde_json::Value as Json;

use crate::{
    measured::{ServerCost, StageTimes},
    process::{CPU_SECS_MIN, Process},
    scrape::Scrape,
};

/// How long a server may take for its counters at most; they are asked for while nothing is measured.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// How the histogram of the log's syncs is called beside the stages.
const WAL_SYNC: &str = "wal sync";
const SYNCS: &str = "scribe_wal_syncs_total";

/// Servers that are being watched.
pub struct ServerWatch {
    servers: Vec<Watched>,
    began: Instant,
    answer_time: Duration,
}

struct Watched {
    url: String,
    process: Option<Process>,
    before: Reading,
}

/// All counters at one time.
#[derive(Default)]
struct Reading {
    cpu_secs: Option<f64>,
    disk_bytes: Option<u64>,
    scrape: Option<Scrape>,
}

impl ServerWatch {
    /// Takes the first reading of servers given by URL and, when it is known, process id. A process that is
    /// not given is looked for on this machine. An answer may take `timeout`, and never long.
    pub fn begin(servers: Vec<(String, Option<u32>)>, timeout: Duration) -> Self {
        let answer_time = timeout.min(ANSWER_TIME_MAX);
        let servers = all_at_once(servers, |(url, pid)| {
            let process = match pid {
                Some(pid) => Some(Process { pid }),
                None => address_of(&url).and_then(Process::listening_at),
            };
            Watched { before: Reading::take(&url, process, answer_time), url, process }
        });
        Self { servers, began: Instant::now(), answer_time }
    }

    /// Takes the second reading, and gives the differences.
    pub fn finish(self) -> Vec<ServerCost> {
        let elapsed_secs = self.began.elapsed().as_secs_f64();
        all_at_once(self.servers, |server| server.cost(elapsed_secs, self.answer_time))
    }
}

/// Does the same for each, beside each other: those that do not answer cost their time only once.
fn all_at_once<T: Send, R: Send>(of: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let started: Vec<_> = of.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        started.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

impl Watched {
    fn cost(self, elapsed_secs: f64, answer_time: Duration) -> ServerCost {
        let Self { url, process, before } = self;
        // The processor first: answering questions costs some of it.
        let after = Reading::take(&url, process, answer_time);
        // One that did not answer is not asked again.
        let status = after.scrape.as_ref().and_then(|_| get(&url, "/api/v1/status", answer_time));
        let status = status.and_then(|text| serde_json::from_str::<Json>(&text).ok());
        let text = |name: &str| Some(status.as_ref()?.get(name)?.as_str()?.to_owned());
        let counter = |reading: &Reading, name| Some(reading.scrape.as_ref()?.counter(name).unwrap_or(0));
        let pid = process.map(|process| process.pid);
        // One that took its place counts from zero.
        let syncs = |reading| counter(reading, SYNCS);
        let counts_less = syncs(&before).zip(syncs(&after)).is_some_and(|(then, now)| now < then);
        if counts_less || (before.cpu_secs.is_some() && after.cpu_secs.is_none()) {
            return ServerCost { url, pid, ended: true, ..ServerCost::default() };
        }
        let counted = |name| counter(&after, name)?.checked_sub(counter(&before, name)?);
        ServerCost {
            pid,
            ended: false,
            cpu_cores: after
                .cpu_secs
                .zip(before.cpu_secs)
                .filter(|_| elapsed_secs >= CPU_SECS_MIN)
                .map(|(now, then)| (now - then).max(0.0) / elapsed_secs.max(1e-9)),
            rss_bytes: process.and_then(Process::rss_bytes),
            peak_rss_bytes: process.and_then(Process::peak_rss_bytes),
            disk_bytes: after.disk_bytes.zip(before.disk_bytes).and_then(|(now, then)| now.checked_sub(then)),
            log_bytes: counted("scribe_wal_written_bytes_total"),
            syncs: counted(SYNCS),
            records: counted("scribe_records_total"),
            version: text("version"),
            profile: text("profile"),
            file_system: process.and_then(Process::data_file_system),
            stages: before
                .scrape
                .zip(after.scrape)
                .map_or_else(Vec::new, |(before, after)| stages(&before, &after)),
            url,
        }
    }
}

impl Reading {
    fn take(url: &str, process: Option<Process>, answer_time: Duration) -> Self {
        Self {
            cpu_secs: process.and_then(Process::cpu_secs),
            disk_bytes: process.and_then(Process::disk_bytes),
            scrape: get(url, "/metrics/prometheus", answer_time).map(|text| Scrape::parse(&text)),
        }
    }
}

fn stages(before: &Scrape, after: &Scrape) -> Vec<StageTimes> {
    let of = |scrape: &Scrape| {
        let mut stages = scrape.histograms_by("scribe_stage_duration_seconds", "stage");
        stages.extend(scrape.histogram("scribe_wal_sync_duration_seconds", WAL_SYNC));
        stages
    };
    let before = of(before);
    of(after)
        .into_iter()
        .map(|stage| StageTimes::between(before.iter().find(|earlier| earlier.name == stage.name), stage))
        .collect()
}

fn address_of(url: &str) -> Option<SocketAddr> {
    authority_of(url).ok()?.to_socket_addrs().ok()?.next()
}

/// The body of an answer 200.
fn get(url: &str, path: &str, answer_time: Duration) -> Option<String> {
    let deadline = Instant::now() + answer_time;
    let mut stream = TcpStream::connect_timeout(&address_of(url)?, answer_time).ok()?;
    stream.set_write_timeout(Some(answer_time)).ok()?;
    // To a client of version 1.0 the answer is neither cut into chunks nor kept open.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", authority_of(url).ok()?);
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        stream.set_read_timeout(Some(left)).ok()?;
        match stream.read(&mut part).ok()? {
            0 => break,
            read if answer.len() + read > ANSWER_BYTES_MAX => return None,
            read => answer.extend_from_slice(&part[..read]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_ascii_whitespace().nth(1)?;
    (status == "200").then(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers every request with the next of these bodies.
    fn serve(answers: Vec<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        url
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{body}")
    }

    #[test]
    fn costs_are_differences_of_counters() {
        let counters = |n: u64| {
            ok(&format!(
                "scribe_records_total {}\nscribe_wal_syncs_total {n}\nscribe_wal_written_bytes_total {}\n\
                 scribe_stage_duration_seconds_bucket{{stage=\"apply\",le=\"0.5\"}} {n}\n\
                 scribe_stage_duration_seconds_bucket{{stage=\"apply\",le=\"+Inf\"}} {n}\n\
                 scribe_stage_duration_seconds_count{{stage=\"apply\"}} {n}\n\
                 scribe_wal_sync_duration_seconds_bucket{{le=\"+Inf\"}} {n}\n",
                n * 100,
                n * 4096
            ))
        };
        let status = ok("{\"version\":\"9.9.9\",\"profile\":\"odd\"}");
        let url = serve(vec![counters(5), counters(12), status]);
        let mut watch = ServerWatch::begin(vec![(url.clone(), None)], ANSWER_TIME_MAX);
        // Long enough for the kernel's clock of processor time.
        watch.began -= Duration::from_secs(1);
        let costs = watch.finish();
        let [cost] = &costs[..] else { panic!("{costs:?}") };
        assert_eq!((&cost.url, cost.pid), (&url, Some(std::process::id())));
        assert_eq!((cost.records, cost.syncs, cost.log_bytes), (Some(700), Some(7), Some(7 * 4096)));
        assert_eq!((cost.version.as_deref(), cost.profile.as_deref()), (Some("9.9.9"), Some("odd")));
        assert!(cost.cpu_cores.is_some() && cost.rss_bytes > Some(0) && cost.disk_bytes.is_some());
        let stages: Vec<_> =
            cost.stages.iter().map(|stage| (stage.name.as_str(), stage.cumulative.len())).collect();
        assert_eq!(stages, [("apply", 2), (WAL_SYNC, 1)]);
        assert_eq!((cost.stages[0].count, cost.stages[0].cumulative[1].1), (7, 7));
    }

    #[test]
    fn a_server_that_says_nothing_costs_nothing_known() {
        let nobody = "http://127.0.0.1:1".to_owned();
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let mute = format!("http://{}", mute.local_addr().unwrap());
        let servers = [nobody, "nonsense".to_owned(), mute].map(|url| (url, Some(u32::MAX)));
        let cost = ServerWatch::begin(servers.into(), Duration::from_millis(20)).finish();
        assert_eq!(cost.len(), 3);
        assert!(
            cost.iter()
                .all(|cost| cost.cpu_cores.is_none() && cost.records.is_none() && cost.stages.is_empty())
        );
        // Refused, cut off, and not HTTP.
        for answer in ["HTTP/1.1 503 Busy\r\n\r\nscribe_records_total 3\n", "HTTP/1.1 200", "\u{0}\u{0}"] {
            let url = serve(vec![answer.to_owned()]);
            assert_eq!(get(&url, "/metrics/prometheus", ANSWER_TIME_MAX), None, "{answer:?}");
        }
    }
}
