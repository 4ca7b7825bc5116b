//! The text encodings that the C2SP formats share, read as strictly as they are written.
//!
//! Each value has exactly one spelling here: a proof with a flipped bit must not be the same proof.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::error::ProofError;

/// Base 64 of RFC 4648, section 4, with padding.
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads what [`to_base64`] writes: padding is demanded, and the bits that padding leaves over are zero.
pub fn from_base64(text: &str) -> Result<Vec<u8>, ProofError> {
    STANDARD.decode(text).map_err(|e| ProofError::malformed(format!("base64: {e}")))
}

/// An ASCII decimal number without sign or leading zeroes.
pub fn from_decimal(text: &str) -> Result<u64, ProofError> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    match text.parse() {
        Ok(number) if digits && !leading_zero => Ok(number),
        _ => Err(ProofError::malformed(format!("{:?} is not a decimal number", shortened(text)))),
    }
}

/// The beginning of what was read, for a message: input from outside is never repeated at full length.
pub fn shortened(text: &str) -> &str {
    const CHARS_MAX: usize = 64;
    text.char_indices().nth(CHARS_MAX).map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn base64_has_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[A-Za-z0-9+/=]{0,12}") {
            prop_assert_eq!(from_base64(&to_base64(&bytes)).unwrap(), bytes);
            if let Ok(bytes) = from_base64(&text) {
                prop_assert_eq!(to_base64(&bytes), text);
            }
        }

        #[test]
        fn decimals_have_one_spelling(number in any::<u64>(), text in "[+-]?[0-9]{0,22} ?") {
            prop_assert_eq!(from_decimal(&number.to_string()).unwrap(), number);
            if let Ok(number) = from_decimal(&text) {
                prop_assert_eq!(number.to_string(), text);
            }
        }
    }

    #[test]
    fn messages_repeat_little_of_their_input() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"é".repeat(1_000)).chars().count(), 64);
    }
}
