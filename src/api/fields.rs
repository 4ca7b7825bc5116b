//! The JSON object of one operation: `{"op","key","key_b64","value","value_b64"}`, each field at most once.
//!
//! Takes a line or a body, gives text borrowed from it wherever it has no escapes. Which fields a call needs,
//! and whether its plain `value` is text or base64, the call decides.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, de};

use super::json::from_base64;
use crate::error::{Code, Error, Result};

/// Text borrowed where it has no escapes. (`Option<Cow<str>>` would always copy: serde borrows only a `Cow`
/// that is not wrapped.)
#[derive(Debug)]
pub(super) struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// What an operation says of itself. `null` is as if the field were not there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields<'a> {
    #[serde(borrow, default)]
    pub op: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub key: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub key_b64: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub value: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub value_b64: Option<Text<'a>>,
}

/// serde would take an array for an object whose fields stand in order.
pub(super) fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}

impl<'a> Fields<'a> {
    /// The same where the call itself is the operation.
    ///
    /// # Errors
    /// `Malformed` when there is an `op`.
    pub fn without_op(self) -> Result<Self> {
        match self.op {
            None => Ok(self),
            Some(_) => Err(malformed("\"op\" is not expected here: the call says what is done")),
        }
    }

    /// The key's bytes.
    ///
    /// # Errors
    /// `Malformed` when it is missing, given twice or no base64.
    pub fn take_key(&mut self) -> Result<Cow<'a, [u8]>> {
        bytes_of("key", self.key.take(), self.key_b64.take())?.ok_or_else(|| malformed("\"key\" is missing"))
    }

    /// The value's bytes, where a plain `value` is text.
    ///
    /// # Errors
    /// `Malformed` when it is given twice or is no base64.
    pub fn take_value(&mut self) -> Result<Option<Cow<'a, [u8]>>> {
        bytes_of("value", self.value.take(), self.value_b64.take())
    }
}

/// A field's bytes from its text or its base64 spelling, whichever is there.
fn bytes_of<'a>(name: &str, text: Option<Text<'a>>, b64: Option<Text<'a>>) -> Result<Option<Cow<'a, [u8]>>> {
    match (text, b64) {
        (Some(_), Some(_)) => Err(malformed(format!("give \"{name}\" or \"{name}_b64\", not both"))),
        (Some(Text(Cow::Borrowed(text))), None) => Ok(Some(Cow::Borrowed(text.as_bytes()))),
        (Some(Text(Cow::Owned(text))), None) => Ok(Some(Cow::Owned(text.into_bytes()))),
        (None, Some(Text(text))) => from_base64(text.as_bytes())
            .map(|bytes| Some(Cow::Owned(bytes)))
            .ok_or_else(|| malformed(format!("\"{name}_b64\" is not base64"))),
        (None, None) => Ok(None),
    }
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(Code::Malformed, message)
}
