//! Values of Rust types.
//!
//! Takes anything that serde can write, gives it back. A value is stored as JSON (RFC 8259): it names its fields,
//! so that a type may gain one with a default and still read what was written before, and whoever reads the ledger
//! by other means, over HTTP or in ten years, sees what it is. Where size or speed count for more, encode the
//! value yourself and store the bytes.

use serde::{Serialize, de::DeserializeOwned};

use super::Ledger;
use crate::{
    error::{Code, Error, Result},
    types::Seq,
};

impl Ledger {
    /// Gives a key the JSON of a value.
    ///
    /// # Errors
    /// [`Code::Malformed`] when the value cannot be written as JSON, such as a map whose keys are no strings; else
    /// as [`Ledger::put`].
    pub fn put_typed<T: Serialize + ?Sized>(&self, key: impl AsRef<[u8]>, value: &T) -> Result<Seq> {
        let bytes = serde_json::to_vec(value).map_err(|error| {
            Error::new(Code::Malformed, format!("the value cannot be written as JSON: {error}"))
        })?;
        self.put(key, bytes)
    }

    /// The value of a key as it was given to [`Ledger::put_typed`]; `None` when it was never written or is
    /// deleted.
    ///
    /// # Errors
    /// [`Code::Malformed`] when the value is not the JSON of a `T`: read it with [`Ledger::get`]; else as
    /// [`Ledger::get`].
    pub fn get_typed<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        let key = key.as_ref();
        let Some(bytes) = self.get(key)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let wanted = std::any::type_name::<T>();
            let key = String::from_utf8_lossy(key);
            let why = format!(
                "the value of {key:?} is not the JSON of a {wanted} ({error}): read its bytes with get"
            );
            Error::new(Code::Malformed, why)
        })
    }
}
