//! Names of objects. Pure: no I/O.
//!
//! ```text
//! epoch-0000000001/segments/00000000000000000007-<64 hex digits>.seg
//! └── directories ────────┘ └── last part: has a dot ─────────────┘
//! ```
//!
//! One spelling that every store takes as it is: lower case, digits, `-`, `_` and dots; the last part has a dot in it
//! and no directory has one, so that a listing tells them apart. Nothing begins with a dot: those names are a
//! directory store's own.

use std::fmt;

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// The name of an object, relative to where the store begins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name that a text is; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (dir, last) = text.rsplit_once('/').map_or((None, text), |(dir, last)| (Some(dir), last));
        let is_within = dir.is_none_or(|dir| !dir.is_empty() && is_dir(dir));
        let is_name = text.len() <= NAME_BYTES_MAX && is_part(last) && last.contains('.') && is_within;
        is_name.then(|| Self(text.to_owned()))
    }

    /// The name of something in a directory; the parts are this crate's own.
    ///
    /// # Panics
    /// When they are not the parts of a name: a bug.
    #[must_use]
    pub fn within(dir: &str, last: &str) -> Self {
        let text = if dir.is_empty() { last.to_owned() } else { format!("{dir}/{last}") };
        Self::parse(&text).unwrap_or_else(|| panic!("{text:?} is not the name of an object"))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its directory; empty at the top.
    #[must_use]
    pub fn dir(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(dir, _)| dir)
    }

    /// Its last part.
    #[must_use]
    pub fn last(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, last)| last)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text names a directory; the empty one is the top.
#[must_use]
pub fn is_dir(text: &str) -> bool {
    text.is_empty() || text.split('/').all(|part| is_part(part) && !part.contains('.'))
}

fn is_part(part: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for good in ["ledger.id", "epoch-1/segments/7-ab.seg", "a/b/c.d.e"] {
            assert_eq!(Name::parse(good).map(|name| name.to_string()), Some(good.to_owned()));
        }
        let long = format!("{}.x", "a".repeat(NAME_BYTES_MAX));
        for bad in
            ["", "a", "a.b/c.d", "/a.b", "a//b.c", "a/", "../b.c", "a/.b.c", "A.b", "a b.c", "a.ö", &long]
        {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn parts_make_the_name_again() {
        for name in ["a.b", "x/y/a.b"].map(|text| Name::parse(text).unwrap()) {
            assert_eq!(Name::within(name.dir(), name.last()), name);
        }
        assert!(is_dir("") && is_dir("a/b") && !is_dir("a.b") && !is_dir("a/") && !is_dir(".."));
    }
}
