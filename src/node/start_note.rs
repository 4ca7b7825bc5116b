//! What a start waits for, told while it lasts: by the start, to whoever is asked meanwhile.

use std::sync::Arc;

use parking_lot::Mutex;

/// What a start waits for now. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct StartNote(Arc<Mutex<String>>);

impl Default for StartNote {
    fn default() -> Self {
        Self(Arc::new(Mutex::new("it has just begun to start".into())))
    }
}

impl StartNote {
    /// From now on it waits for this: the end of a sentence that begins with "the node does not serve yet".
    pub fn say(&self, what: impl Into<String>) {
        *self.0.lock() = what.into();
    }

    /// What it waits for.
    #[must_use]
    pub fn get(&self) -> String {
        self.0.lock().clone()
    }
}
