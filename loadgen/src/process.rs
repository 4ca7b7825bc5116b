//! What processes cost, as the kernel counts it. Reads `/proc`; where there is none, nothing is known.

use std::{fs, net::SocketAddr, time::Instant};

use crate::{http::Target, measured::ServerCost};

/// Kernel ticks a second in `/proc/*/stat`: 100 on every Linux ABI that Rust runs on.
const TICKS_PER_SEC: f64 = 100.0;

/// A process to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
}

impl Process {
    /// This one.
    pub fn own() -> Self {
        Self { pid: std::process::id() }
    }

    /// Who listens at a local address, if it is a process that we may look at.
    pub fn listening_at(address: SocketAddr) -> Option<Self> {
        if !address.ip().is_loopback() && !address.ip().is_unspecified() {
            return None;
        }
        let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
            .into_iter()
            .find_map(|table| listener_inode(&fs::read_to_string(table).ok()?, address.port()))?;
        let wanted = format!("socket:[{inode}]");
        fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let mut files = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
            files
                .any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
                .then_some(Self { pid })
        })
    }

    /// User and system time so far, in seconds, of all its threads.
    pub fn cpu_secs(self) -> Option<f64> {
        cpu_secs(&fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?)
    }

    /// The most memory it ever held, in bytes.
    pub fn peak_rss_bytes(self) -> Option<u64> {
        peak_rss_bytes(&fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?)
    }
}

/// Servers whose cost is being measured.
pub struct ServerWatch {
    began: Instant,
    servers: Vec<(String, Option<Process>, Option<f64>)>,
}

impl ServerWatch {
    /// Looks for the first time. A server whose process is not given is looked for on this machine.
    pub fn begin(servers: &[(String, Option<u32>)]) -> Self {
        let found = |url: &str| Process::listening_at(Target::resolve(url).ok()?.address);
        let servers = servers.iter().map(|(url, pid)| {
            let process = pid.map_or_else(|| found(url), |pid| Some(Process { pid }));
            (url.clone(), process, process.and_then(Process::cpu_secs))
        });
        Self { began: Instant::now(), servers: servers.collect() }
    }

    /// Looks again, and says what it cost in between.
    pub fn finish(self) -> Vec<ServerCost> {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        let cost = |(url, process, before): (String, Option<Process>, Option<f64>)| {
            let now = process.and_then(Process::cpu_secs);
            ServerCost {
                url,
                pid: process.map(|process| process.pid),
                cpu_cores: now.zip(before).map(|(now, before)| (now - before) / seconds),
                peak_rss_bytes: process.and_then(Process::peak_rss_bytes),
                ..ServerCost::default()
            }
        };
        self.servers.into_iter().map(cost).collect()
    }
}

fn listener_inode(table: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields.len() > 9 && fields[3] == LISTEN && fields[1].ends_with(&port)).then(|| fields[9].to_owned())
    })
}

fn cpu_secs(stat: &str) -> Option<f64> {
    // The second field is the program's name in parentheses and may itself hold blanks and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SEC)
}

fn peak_rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 5 1 1";
        assert_eq!(cpu_secs(stat), Some(2.0));
        assert_eq!(peak_rss_bytes("Name:\tx\nVmHWM:\t    2048 kB\n"), Some(2 << 20));
        for garbage in ["", "1 (x", "1 (x) S", "VmHWM: many kB"] {
            assert_eq!((cpu_secs(garbage), peak_rss_bytes(garbage)), (None, None));
        }
    }

    #[test]
    fn a_listener_of_ours_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = Process::listening_at(listener.local_addr().unwrap());
        assert_eq!(found, Some(Process::own()));
        assert!(found.unwrap().peak_rss_bytes().unwrap() > 0);
        assert!(Process::own().cpu_secs().is_some());
        assert_eq!(Process::listening_at("192.0.2.1:80".parse().unwrap()), None);
    }
}
