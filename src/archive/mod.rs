//! The archive: sealed segments in a directory or a bucket, and what tells a stranger what they are.
//!
//! ```text
//!  segment ─► object: stage ─► upload, read back ─┐
//!             packed by block, hashed             ├─► manifest: checkpoint, then entry ─► Store ─┬─► directory
//!  signed checkpoint ─────────────────────────────┘                                              └─► S3 bucket
//!
//!  Store ─► manifest: entries in order ─► object: Cold ─► blocks by range, each checked ─► a read, or the local file
//! ```
//!
//! A bucket, names as [`layout`] gives them:
//!
//! ```text
//! ledger.id                                        whose archive it is, and which one      marker
//! writer.fence                                     which cluster may write, in which epoch      fence
//! members/<node>.member                            which members have this archive and let files go        pipeline::tier
//! probe/…                                          what a start tries out                  probe
//! epoch-0000000001/segments/<id>-<BLAKE3>.seg      a packed segment                        object
//! epoch-0000000001/checkpoints/<size>-<BLAKE3>.note  a signed checkpoint                   manifest
//! epoch-0000000001/manifest/<id>.entry             what object that segment is             entry, manifest
//! ```
//!
//! An entry is written last, after its object was read back, so that the entries that are there, counted from 0, are
//! a ledger whose every part is there: wherever an archiving process dies, what it leaves is a shorter ledger or an
//! object that nobody names. The replicated state at its end is in the last segment, as in every segment.
//!
//! Takes open segments and a place, gives objects, their checks and their blocks. It does not own when segments are
//! archived, when files leave this node, whether a tree's roots are right (a verifier's work), nor any task: callers await.
//! Nothing in it trusts a store.

pub mod cold;
pub mod directory;
pub mod entry;
pub mod fence;
pub mod fetched;
pub mod layout;
pub mod manifest;
pub mod marker;
pub mod name;
pub mod object;
pub mod probe;
pub mod progress;
#[cfg(feature = "s3")]
pub mod s3;
pub mod store;
pub mod writer;

pub use directory::DirectoryStore;
pub use entry::Entry;
pub use layout::Epoch;
pub use manifest::{Manifest, Tip};
pub use marker::{LedgerId, Marker};
pub use object::{Cold, ObjectRef, Staged};
pub use progress::Progress;
pub use store::{Store, StoreError, Trouble};
