//! Which keys a scan visits.

use std::ops::Bound;

use bytes::Bytes;

/// A range of keys in byte order: from a first key to before an end, cut down step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key that is visited, if it exists.
    from: Bytes,
    /// Not visited, nor anything behind it.
    end: Option<Bytes>,
}

impl KeyRange {
    /// All keys.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys that begin with these bytes.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        // The first key behind all that begin so: the last byte that can be raised is, and what follows it
        // goes.
        let raised = prefix.iter().rposition(|&byte| byte != 0xFF).map(|last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        });
        Self { from: Bytes::copy_from_slice(prefix), end: raised }
    }

    /// Of these, the ones from `key` on.
    #[must_use]
    pub fn from(mut self, key: &[u8]) -> Self {
        if *key > self.from[..] {
            self.from = Bytes::copy_from_slice(key);
        }
        self
    }

    /// Of these, the ones behind `key`: where a page that ended with `key` goes on.
    #[must_use]
    pub fn after(self, key: &[u8]) -> Self {
        // Nothing lies between a key and the same key with a zero byte behind it.
        let next: Vec<u8> = key.iter().copied().chain([0]).collect();
        self.from(&next)
    }

    /// Of these, the ones before `key`.
    #[must_use]
    pub fn before(mut self, key: &[u8]) -> Self {
        if self.end.as_ref().is_none_or(|end| *key < end[..]) {
            self.end = Some(Bytes::copy_from_slice(key));
        }
        self
    }

    /// The first key that it may hold.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        &self.from
    }

    /// Whether a key is before its end.
    #[must_use]
    pub fn ends_after(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| *key < end[..])
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| self.from >= end)
    }

    /// Its bounds, before `last` at the latest. Not to be asked of an empty range.
    pub(super) fn bounds<'a>(&'a self, last: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        (Bound::Included(&self.from), Bound::Excluded(self.end.as_deref().unwrap_or(last)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn few_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0, 1, 0x7F, 0xFE, 0xFF]), 0..4)
    }

    fn holds(range: &KeyRange, key: &[u8]) -> bool {
        *key >= range.from[..] && range.end.as_ref().is_none_or(|end| *key < end[..])
    }

    proptest! {
        #[test]
        fn a_range_holds_what_it_says(
            prefix in few_bytes(), from in few_bytes(), after in few_bytes(), before in few_bytes(), key in few_bytes(),
        ) {
            let range = KeyRange::prefix(&prefix).from(&from).after(&after).before(&before);
            let expected = key.starts_with(&prefix) && key >= from && key > after && key < before;
            prop_assert_eq!(holds(&range, &key), expected);
            prop_assert!(!expected || !range.is_empty());
            prop_assert!(holds(&KeyRange::all(), &key));
        }
    }
}
