//! What a stranger runs to check a ledger without believing whoever keeps it.
//!
//! ```text
//! directory   listing ─► chain ─► each segment (threads) ─► Report: records, segments, root
//!             names      ends     Segment::verify, roots, links
//!
//! archive     entries ─► each object (threads) ─► Report                a Keeper may put what is verified in place
//!             chain      fetch, Segment::verify, roots, links
//!
//! server      Remembered ─► Visit: signature ─► consistency ─► samples ─► Remembered
//!             state file     /checkpoint       /proofs/…      /proofs/…, /records/…
//! ```
//!
//! Takes files through the seam of `env`, or a server's answers as bytes, and gives a verdict that names the
//! first thing that is wrong. It changes nothing in a directory that it checks, takes no lock and runs no
//! stage. Of the project it uses `proof` (hashes, proofs, signatures), `segment` (the file format), `archive`
//! (objects and their names) and `env` (the disk), and nothing that a server runs: `tests/architecture.rs` sees to it. It does not own sockets,
//! arguments or how a verdict looks.

mod answers;
mod archive;
mod chain;
mod directory;
mod in_turn;
mod links;
mod listing;
mod remembered;
mod roots;
mod visit;

pub use answers::{ConsistencyAnswer, InclusionAnswer, RecordAnswer, keys};
pub use archive::{Archived, Keeper, LookOnly};
pub use chain::Chain;
pub use directory::{CheckedNote, LeftBehind, Note, Plan, Progress, Report};
pub use listing::{CHECKPOINT_FILE, COPY_LOCK_FILE, Listing, RESTORING_FILE, WalFiles};
pub use remembered::{Remembered, keep_evidence};
pub use visit::{Distrust, Visit};
