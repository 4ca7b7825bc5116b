//! Which machine this is, so that a report says what its numbers were measured on. Reads `/proc`; what a
//! system does not tell stays unknown.

use std::{fs, thread};

/// A machine, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpu: Option<String>,
    /// Processor cores that this program may use.
    pub cores: usize,
    pub memory_bytes: Option<u64>,
    /// Name of the operating system.
    pub os: Option<String>,
    pub kernel: Option<String>,
}

impl Machine {
    /// The one this runs on.
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        Self {
            cpu: read("/proc/cpuinfo").as_deref().and_then(cpu_model),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: read("/proc/meminfo").as_deref().and_then(memory_bytes),
            os: read("/etc/os-release").as_deref().and_then(os_name).or_else(|| {
                let os = std::env::consts::OS;
                (!os.is_empty()).then(|| os.to_owned())
            }),
            kernel: read("/proc/sys/kernel/osrelease").map(|release| release.trim().to_owned()),
        }
    }
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    // x86 says "model name"; many ARM boards only "Hardware" or nothing at all.
    ["model name", "Hardware"].into_iter().find_map(|wanted| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == wanted && !value.trim().is_empty()).then(|| value.trim().to_owned())
        })
    })
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn os_name(os_release: &str) -> Option<String> {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim().trim_matches('"').to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_files_are_read() {
        let cpuinfo =
            "processor\t: 0\nmodel\t\t: 17\nmodel name\t: EPYC (3rd gen) @ 2.6 GHz\nmodel name\t: other\n";
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("EPYC (3rd gen) @ 2.6 GHz"));
        assert_eq!(cpu_model("processor: 0\nHardware : Board\n").as_deref(), Some("Board"));
        assert_eq!(memory_bytes("MemTotal:        4030072 kB\n"), Some(4_030_072 << 10));
        assert_eq!(
            os_name("ID=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n").as_deref(),
            Some("Debian GNU/Linux 12")
        );
        for garbage in ["", "model name", "MemTotal: much", "PRETTY_NAME=\"\"", "model name: "] {
            assert_eq!((cpu_model(garbage), memory_bytes(garbage), os_name(garbage)), (None, None, None));
        }
    }

    #[test]
    fn this_machine_has_cores() {
        assert!(Machine::this().cores >= 1);
    }
}
