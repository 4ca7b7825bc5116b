//! Whose archive this is: an object at its top that is written once. Pure: no I/O.
//!
//! ```text
//! scribe-ledger archive 1\n
//! ledger 32 hex digits\n      the cluster's id: two ledgers never share an archive
//! store 32 hex digits\n       drawn when it was written: two nodes that read the same one have the same store
//! ```

use std::fmt;

/// A ledger: the id of the cluster that founded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerId(pub [u8; 16]);

/// A store: random, drawn by the node that wrote its marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

/// What the marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Whose archive it is.
    pub ledger: LedgerId,
    /// Which one.
    pub store: StoreId,
}

const FIRST_LINE: &str = "scribe-ledger archive 1";

impl Marker {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("{FIRST_LINE}\nledger {}\nstore {}\n", self.ledger, Hex(self.store.0))
    }

    /// Reads what [`Marker::encode`] writes, and nothing else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = std::str::from_utf8(bytes).ok()?.strip_prefix(FIRST_LINE)?.strip_prefix("\nledger ")?;
        let (ledger, rest) = rest.split_once("\nstore ")?;
        let store = StoreId(parse_hex(rest.strip_suffix('\n')?)?);
        Some(Self { ledger: LedgerId::parse(ledger)?, store })
    }
}

impl LedgerId {
    /// Reads 32 hex digits, as a cluster's id is written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }
}

impl fmt::Display for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(self.0).fmt(f)
    }
}

struct Hex([u8; 16]);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Lower case only: two spellings must not mean the same.
fn parse_hex(text: &str) -> Option<[u8; 16]> {
    let is_digits =
        text.len() == 32 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    let number = u128::from_str_radix(text, 16).ok().filter(|_| is_digits)?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn markers_read_back_and_nothing_else_does(
            ledger: [u8; 16], store: [u8; 16], at in any::<prop::sample::Index>(), byte: u8,
        ) {
            let marker = Marker { ledger: LedgerId(ledger), store: StoreId(store) };
            let mut bytes = marker.encode().into_bytes();
            prop_assert_eq!(Marker::decode(&bytes), Some(marker));
            prop_assert_eq!(Marker::decode(&bytes[..bytes.len() - 1]), None);
            let at = at.index(bytes.len());
            let was = std::mem::replace(&mut bytes[at], byte);
            prop_assert_eq!(Marker::decode(&bytes) == Some(marker), was == byte);
        }
    }

    #[test]
    fn a_marker_is_the_golden_one() {
        let marker = Marker { ledger: LedgerId([1; 16]), store: StoreId([0xfe; 16]) };
        let golden = "scribe-ledger archive 1\nledger 01010101010101010101010101010101\n\
                      store fefefefefefefefefefefefefefefefe\n";
        assert_eq!(marker.encode(), golden);
    }
}
