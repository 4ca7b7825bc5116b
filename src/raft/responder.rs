//! How a proposer hears what became of its entry: a callback that is called exactly once, also when
//! Raft drops it.

use openraft::{OptionalSend, raft::responder::Responder};

use super::TypeConfig;

type Callback<T> = Box<dyn FnOnce(Option<T>) + Send>;

/// Runs its callback with the result, or with `None` when it is dropped unanswered: nobody will ever
/// know what happened then, and whoever waits has to be told that.
pub struct OnAnswer<T>(Option<Callback<T>>);

impl<T> OnAnswer<T> {
    /// Calls `callback` on the task that completes the proposal: it has to be quick and must not block.
    pub fn new(callback: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for OnAnswer<T> {
    fn on_complete(mut self, result: T) {
        if let Some(callback) = self.0.take() {
            callback(Some(result));
        }
    }
}

impl<T> Drop for OnAnswer<T> {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(None);
        }
    }
}
