//! A disk that a careless writer would leave: some promises are not asked of the real one. What it hides, a harness that
//! lets the power go has to find.

use std::path::Path;

use scribe_ledger::{env::Io, sim::SimIo};

use crate::way::{Call, Way};

/// See the head of this file.
#[derive(Debug)]
pub struct Careless {
    pub sim: SimIo,
    pub syncs_files: bool,
    pub syncs_names: bool,
}

impl Way for Careless {
    fn disk(&self, _: &Path) -> &dyn Io {
        &self.sim
    }

    fn leaves_out(&self, sync: Call) -> bool {
        match sync {
            Call::Sync => !self.syncs_files,
            _ => !self.syncs_names,
        }
    }
}
