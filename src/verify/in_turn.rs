//! Numbered pieces of work, done by several threads: taken in turn, finished in any order.
//!
//! Takes what is to be done with a number, and what becomes of it then, one at a time. Of several pieces that are wrong the
//! first is told, whichever thread meets it. It does not own what the pieces are.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Does pieces `0..count` on `threads` threads, this one among them. `done` is told of each, and may find that another one
/// is wrong.
///
/// # Errors
/// That of the first piece that is wrong; later ones may not have been begun then.
pub(super) fn all<T>(
    count: u64,
    threads: usize,
    work: impl Fn(u64) -> Result<T> + Sync,
    done: impl FnMut(u64, T) -> Result<(), (u64, Error)> + Send,
) -> Result<()> {
    let (next, state) = (AtomicU64::new(0), Mutex::new((done, None::<(u64, Error)>)));
    let run = || loop {
        let number = next.fetch_add(1, Relaxed);
        // One that was taken before the one that is wrong is finished: it may be wrong too, and the first.
        if number >= count || state.lock().1.as_ref().is_some_and(|(first, _)| *first < number) {
            return;
        }
        let outcome = work(number).map_err(|error| (number, error));
        let (done, failed) = &mut *state.lock();
        if let Err((number, error)) = outcome.and_then(|found| done(number, found))
            && failed.as_ref().is_none_or(|(first, _)| number < *first)
        {
            *failed = Some((number, error));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(usize::try_from(count).unwrap_or(usize::MAX)) {
            // Where there is no further thread, there is still this one.
            let _ = thread::Builder::new().name("verify".to_owned()).spawn_scoped(scope, run);
        }
        run();
    });
    state.into_inner().1.map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn all_are_done_once_and_the_first_wrong_one_is_told() {
        for (threads, wrong) in
            [(1, vec![]), (4, vec![]), (1, vec![7, 9]), (4, vec![3, 4, 90]), (200, vec![0])]
        {
            let work = |number: u64| match wrong.contains(&number) {
                true => Err(Error::new(Code::Corrupt, number.to_string())),
                false => Ok(number * 2),
            };
            let mut seen = Vec::new();
            let ended = all(100, threads, work, |number, twice| {
                assert_eq!(twice, number * 2);
                seen.push(number);
                Ok(())
            });
            seen.sort_unstable();
            match wrong.first() {
                Some(first) => {
                    assert_eq!(ended.unwrap_err().message(), first.to_string());
                    assert!((0..*first).all(|number| seen.contains(&number)), "{seen:?}");
                }
                None => assert!(ended.is_ok() && seen.into_iter().eq(0..100)),
            }
        }
        assert!(all(0, 4, |_| Ok(()), |_, ()| Ok(())).is_ok());
        let later =
            |number: u64, ()| if number == 5 { Err((2, Error::new(Code::Corrupt, "2"))) } else { Ok(()) };
        assert_eq!(all(9, 1, |_| Ok(()), later).unwrap_err().message(), "2");
    }
}
