//! Where configuration files are looked for.

use std::path::{Path, PathBuf};

use super::layers::invalid;
use crate::error::Result;

/// The directories that a bare name is looked for in, first match wins.
pub const SEARCH_PATHS: [&str; 3] = [".", "configs/", "/etc/scribe/"];

/// The file that `--config` means: a path as it is, a bare name in [`SEARCH_PATHS`]. A bare name may
/// leave out `.toml`.
///
/// # Errors
/// `InvalidConfig`: a bare name is in none of them.
pub fn resolve(asked: &Path) -> Result<PathBuf> {
    let bare = asked.parent().is_some_and(|parent| parent.as_os_str().is_empty());
    if !bare {
        return Ok(asked.into());
    }
    let with_ending = asked.with_extension("toml");
    let names = if asked.extension().is_none() { vec![asked, &with_ending] } else { vec![asked] };
    SEARCH_PATHS
        .iter()
        .flat_map(|directory| names.iter().map(|name| Path::new(directory).join(name)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            invalid(format!(
                "the configuration file {} is in none of {}: accepted is an existing file",
                asked.display(),
                SEARCH_PATHS.join(", ")
            ))
        })
}
