//! Directories to damage: kept in memory, laid out anew for every damage, and the damage itself.
//!
//! Logs and journals are filled with zeros ahead, tens of megabytes of them. A copy has holes there instead,
//! which read the same and cost nothing, so that a thousand copies take seconds.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const BLOCK_BYTES: usize = 4 << 10;

/// All files of a directory, by name.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(dir) {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A directory as it was, in memory.
#[derive(PartialEq)]
pub struct Original {
    /// Names below it, in order, so that each comes before what is in it.
    dirs: Vec<PathBuf>,
    files: Vec<OriginalFile>,
}

#[derive(PartialEq)]
struct OriginalFile {
    name: PathBuf,
    bytes: u64,
    /// What is not zero: where, and what.
    blocks: Vec<(u64, Vec<u8>)>,
}

impl Original {
    pub fn read(dir: &Path) -> Self {
        let mut original = Self { dirs: Vec::new(), files: Vec::new() };
        original.add(dir, Path::new(""));
        original.dirs.sort();
        original.files.sort_by(|file, other| file.name.cmp(&other.name));
        original
    }

    fn add(&mut self, dir: &Path, name: &Path) {
        self.dirs.push(name.to_path_buf());
        for path in entries(dir) {
            let name = name.join(path.file_name().unwrap());
            if path.is_dir() {
                self.add(&path, &name);
                continue;
            }
            let content = fs::read(&path).unwrap();
            let places = content.chunks(BLOCK_BYTES).enumerate();
            let blocks = places
                .filter(|(_, block)| block.iter().any(|byte| *byte != 0))
                .map(|(number, block)| ((number * BLOCK_BYTES) as u64, block.to_vec()))
                .collect();
            self.files.push(OriginalFile { name, bytes: content.len() as u64, blocks });
        }
    }

    /// Makes `to` a copy of it, whatever is there now.
    pub fn copy(&self, to: &Path) {
        // There is nothing the first time.
        let _ = fs::remove_dir_all(to);
        for name in &self.dirs {
            fs::create_dir_all(to.join(name)).unwrap();
        }
        for OriginalFile { name, bytes, blocks } in &self.files {
            let file = File::create(to.join(name)).unwrap();
            file.set_len(*bytes).unwrap();
            for (at, block) in blocks {
                file.write_all_at(block, *at).unwrap();
            }
        }
    }
}

/// Turns one bit of a file over.
pub fn flip(file: &Path, at: u64, bit: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path())
}

#[test]
fn a_copy_is_the_original_again() {
    let home = tempfile::tempdir().unwrap();
    let (whole, damaged) = (home.path().join("whole"), home.path().join("damaged"));
    fs::create_dir_all(whole.join("empty")).unwrap();
    fs::create_dir_all(whole.join("full")).unwrap();
    let mut ahead = vec![0; 1 << 20];
    ahead[3 * BLOCK_BYTES - 1] = 1;
    for (name, content) in
        [("full/ahead", ahead), ("full/odd", vec![7; BLOCK_BYTES + 3]), ("none", Vec::new())]
    {
        fs::write(whole.join(name), content).unwrap();
    }
    let original = Original::read(&whole);
    assert_eq!(original.files.iter().map(|file| file.blocks.len()).sum::<usize>(), 3, "zeros are not kept");
    for _ in 0..2 {
        original.copy(&damaged);
        assert!(damaged.join("empty").is_dir());
        let names = |dir: &Path| -> Vec<PathBuf> {
            files(dir).iter().map(|file| file.strip_prefix(dir).unwrap().to_path_buf()).collect()
        };
        assert_eq!(names(&damaged), names(&whole));
        for name in names(&whole) {
            assert_eq!(fs::read(damaged.join(&name)).unwrap(), fs::read(whole.join(&name)).unwrap());
        }
        assert!(Original::read(&damaged) == original);
        flip(&damaged.join("full/ahead"), 9, 3);
        assert!(Original::read(&damaged) != original);
        assert_eq!(fs::read(damaged.join("full/ahead")).unwrap()[9], 8);
        fs::write(damaged.join("full/more"), "").unwrap();
    }
}
