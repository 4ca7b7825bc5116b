//! The recovery drill, as the README has it: its commands are taken from there and run by a shell, on ports that are
//! free, with keys in the environment.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    process::{Spec, free_port},
    real::wait_archived,
    s3::{runtime, write},
    server::{Conditions, Server},
    wait::wait_for,
};

/// The numbered steps of a section: their commands.
fn steps(document: &str, section: &str) -> Vec<String> {
    let section = document.split(section).nth(1).expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let (mut steps, mut fenced, mut next) = (Vec::<String>::new(), false, 1);
    for line in section.lines() {
        if line.starts_with(&format!("{next}. ")) {
            steps.push(String::new());
            next += 1;
        } else if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if let Some(step) = steps.last_mut().filter(|_| fenced) {
            *step += &format!("{}\n", line.trim_start());
        }
    }
    steps
}

/// A shell and all that it has started; ended with the test.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        // The minus sign names its group.
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.0.wait();
    }
}

#[test]
fn the_drill_of_the_readme_brings_a_lost_ledger_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (runtime, home) = (runtime(), tempfile::tempdir().unwrap());
    // Where the document's ports lead on this machine.
    let ports = [8_001, 8_002, 9_000, 9_001, 9_002].map(|port| (port, free_port()));
    let moved = |text: String| {
        ports.iter().fold(text, |text, (from, to)| {
            text.replace(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}"))
        })
    };
    let server = runtime.block_on(Server::on_port(ports[2].1, Conditions::Honoured));
    let objects = server.add_bucket("my-ledger");
    let config = home.path().join("configs/archive-s3.toml");
    fs::create_dir(config.parent().unwrap()).unwrap();
    fs::write(&config, moved(fs::read_to_string(root.join("configs/archive-s3.toml")).unwrap())).unwrap();
    let key = server.options().credentials;
    let keys = [
        ("AWS_ACCESS_KEY_ID", key.access_key_id.as_str()),
        ("AWS_SECRET_ACCESS_KEY", key.secret_access_key.expose()),
    ];

    // A ledger that is lost but for its bucket.
    let lost = Spec::new(home.path(), 1)
        .flags(&["--config", config.to_str().unwrap()])
        .with(&[("STORAGE_TIERING_MAX_LAG_SECS", "1"), ("STORAGE_SEGMENT_SIZE", "64KiB")])
        .with_environment(&keys)
        .start_ready();
    lost.put("greeting", "hello");
    write(&lost, 0..2_000);
    wait_archived(&lost, 2_001);
    lost.stop();
    fs::remove_dir_all(&lost.spec.dir).unwrap();
    assert!(objects.join("production/ledger.id").is_file());

    let steps = steps(&fs::read_to_string(root.join("README.md")).unwrap(), "### The recovery drill");
    assert!(steps.len() == 6 && steps.iter().all(|step| !step.is_empty()), "{steps:?}");
    let script: String = steps
        .iter()
        .enumerate()
        .map(|(at, step)| format!("echo step {}\n{}", at + 1, moved(step.clone())))
        .collect();
    let programs = Path::new(env!("CARGO_BIN_EXE_scribe")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let said = home.path().join("said");
    let out = File::create(&said).unwrap();
    let shell = Command::new("sh")
        .args(["-eu", "-c", &script])
        .current_dir(home.path())
        .env("PATH", path)
        .env("HOME", home.path())
        .env_remove("XDG_CONFIG_HOME")
        .env("SCRIBE_SERVER", format!("http://127.0.0.1:{}", ports[0].1))
        .env("SCRIBE_NETWORK_CLIENT_PORT", ports[0].1.to_string())
        .env("SCRIBE_NETWORK_RAFT_TCP_PORT", ports[3].1.to_string())
        .env("SCRIBE_STORAGE_TIERING_MAX_LAG_SECS", "1")
        .env("SCRIBE_WAL_FILE_BYTES", "1MiB")
        .env("SCRIBE_WAL_DISK_FREE_BYTES_MIN", "0")
        .envs(keys)
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .process_group(0)
        .spawn()
        .unwrap();
    let mut shell = Shell(shell);
    let said = || fs::read_to_string(&said).unwrap();
    let mut shown = 0;
    let status = wait_for("the drill is over", || {
        let text = said();
        eprint!("{}", &text[shown..]);
        shown = text.len();
        shell.0.try_wait().unwrap()
    });
    let text = said();
    assert!(status.success(), "{text}");
    let step = |number: usize| {
        let begun = text.split(&format!("step {number}\n")).nth(1).unwrap();
        begun.split(&format!("step {}\n", number + 1)).next().unwrap()
    };
    assert!(step(1).contains("verified 2001 records") && step(1).contains("agrees with"), "{text}");
    assert!(step(2).contains("proven up to record 2001"), "{text}");
    assert!(step(4).lines().any(|line| line.starts_with("hello")), "{text}");
    assert!(step(4).contains("100 records looked at") || step(4).contains("101 records looked at"), "{text}");
    // The link, and what the drill has written.
    assert!(step(5).contains("verified 2003 records"), "{text}");
    assert!(step(6).contains("done"), "{text}");
}
