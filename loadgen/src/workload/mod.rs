//! What is asked of the server: keys, values, and the request bytes that carry them.
//!
//! Pure. The n-th write's key and value follow from the seed and n alone, whoever sends it and when.

pub mod keys;
pub mod random;
pub mod requests;
pub mod values;
mod zipf;

use self::{keys::Keys, values::Values};

/// All the writes there could be.
#[derive(Clone, Debug)]
pub struct Records {
    pub keys: Keys,
    pub values: Values,
}

impl Records {
    /// The key of this write.
    pub fn key(&self, write: u64) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.keys.key_bytes());
        self.keys.append(self.keys.of_write(write), &mut key);
        key
    }

    /// The value of this write.
    pub fn value(&self, write: u64) -> Vec<u8> {
        let mut value = Vec::new();
        self.values.append(write, &mut value);
        value
    }
}
