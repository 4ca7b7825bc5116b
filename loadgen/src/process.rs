//! What processes cost, as the kernel counts it. Reads `/proc`; where there is none, nothing is known.

use std::{fs, net::SocketAddr, path::Path};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kernel ticks a second in `/proc/*/stat`: 100 on every Linux ABI that Rust runs on.
const TICKS_PER_SEC: f64 = 100.0;

/// The kernel counts processor time in hundredths of a second: over less than this it says nothing.
pub const CPU_SECS_MIN: f64 = 0.2;

/// Asks that this process may have so many files open, connections being files. Gives how many it may have, if
/// these are fewer.
pub fn allow_open_files(wanted: u64) -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let now = current.filter(|&now| now < wanted)?;
    let more = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(more), maximum });
    Some(if raised.is_ok() { more } else { now }).filter(|&allowed| allowed < wanted)
}

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
        cpu_secs(&self.read("stat")?)
    }

    /// The memory it holds, in bytes.
    pub fn rss_bytes(self) -> Option<u64> {
        bytes_of(&self.read("status")?, "VmRSS:")
    }

    /// The most memory it ever held, in bytes.
    pub fn peak_rss_bytes(self) -> Option<u64> {
        bytes_of(&self.read("status")?, "VmHWM:")
    }

    /// What it sent to its disks so far, in bytes; the kernel tells only the process's own user.
    pub fn disk_bytes(self) -> Option<u64> {
        let io = self.read("io")?;
        io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
    }

    /// The file system of a node's data directory, which is where the node holds its `LOCK`.
    pub fn data_file_system(self) -> Option<String> {
        let mut files = fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?.flatten();
        let lock = files.find_map(|file| {
            fs::read_link(file.path()).ok().filter(|to| to.file_name().is_some_and(|name| name == "LOCK"))
        })?;
        mount_of(&self.read("mountinfo")?, &lock)
    }

    /// Whether it was told not to hear this signal.
    pub fn ignores(self, signal: u8) -> bool {
        self.read("status").is_some_and(|status| ignores(&status, signal))
    }

    fn read(self, file: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid)).ok()
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

fn bytes_of(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn ignores(status: &str, signal: u8) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| {
        signal > 0 && mask.checked_shr(u32::from(signal) - 1).is_some_and(|bit| bit & 1 == 1)
    })
}

/// Type and device of the deepest mount that holds `path`; of two at one place the later one hides the other.
fn mount_of(mountinfo: &str, path: &Path) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        // Blanks in a path are written as octal escapes.
        let at = mount.split(' ').nth(4)?.replace("\\040", " ");
        let mut kind = kind.split(' ');
        let shown = format!("{} on {}", kind.next()?, kind.next()?);
        path.starts_with(&at).then(|| (Path::new(&at).components().count(), shown))
    });
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, shown)| shown)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 5 1 1";
        assert_eq!(cpu_secs(stat), Some(2.0));
        assert_eq!(bytes_of("Name:\tx\nVmHWM:\t    2048 kB\n", "VmHWM:"), Some(2 << 20));
        for garbage in ["", "1 (x", "1 (x) S", "VmHWM: many kB"] {
            assert_eq!((cpu_secs(garbage), bytes_of(garbage, "VmHWM:")), (None, None));
        }
    }

    #[test]
    fn more_open_files_than_there_can_be_are_not_allowed() {
        assert_eq!(allow_open_files(3), None);
        if let Some(maximum) = getrlimit(Resource::Nofile).maximum {
            assert_eq!(allow_open_files(maximum + 1), Some(maximum));
            assert_eq!(allow_open_files(maximum), None);
        }
    }

    #[test]
    fn ignored_signals_are_bits_of_a_mask() {
        let status = "SigBlk:\t0000000000000003\nSigIgn:\t0000000000004001\n";
        let ignored: Vec<u8> = (0..=u8::MAX).filter(|&signal| ignores(status, signal)).collect();
        assert_eq!(ignored, [1, 15]);
        assert!(!ignores("", 1) && !ignores("SigIgn:\tx\n", 1));
    }

    #[test]
    fn the_deepest_mount_is_the_one() {
        let mounts = "1 0 254:0 / / rw,noatime - ext4 /dev/vda rw\n\
            2 1 0:5 / /data rw - xfs /dev/nvme0n1 rw\n\
            3 1 0:6 / /data\\040two rw shared:1 - tmpfs tmpfs rw\n\
            broken line\n";
        let mount = |path: &str| mount_of(mounts, Path::new(path));
        assert_eq!(mount("/data/node/LOCK").as_deref(), Some("xfs on /dev/nvme0n1"));
        assert_eq!(mount("/data two/LOCK").as_deref(), Some("tmpfs on tmpfs"));
        assert_eq!(mount("/database/LOCK").as_deref(), Some("ext4 on /dev/vda"));
        assert_eq!(mount("relative"), None);
    }

    #[test]
    fn a_listener_of_ours_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = Process::listening_at(listener.local_addr().unwrap());
        assert_eq!(found, Some(Process::own()));
        let (now, peak) = (found.unwrap().rss_bytes().unwrap(), found.unwrap().peak_rss_bytes().unwrap());
        assert!(0 < now && now <= peak, "{now} of {peak}");
        assert!(Process::own().disk_bytes().is_some());
        assert!(Process::own().cpu_secs().is_some());
        assert_eq!(Process::listening_at("192.0.2.1:80".parse().unwrap()), None);
    }
}
