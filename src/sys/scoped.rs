//! A value that the functions of a thread find while a scope lasts.

use std::cell::Cell;
use std::ptr;

/// The place of such a value; one for each thread, by `thread_local!`.
pub struct Scoped<T>(Cell<*const T>);

impl<T> Scoped<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Cell::new(ptr::null()))
    }

    /// Runs `body` with `value` found here. Scopes nest: the inner one's is found until it ends.
    pub fn set<R>(&self, value: &T, body: impl FnOnce() -> R) -> R {
        /// Puts the outer one back, also when the body panics.
        struct Outer<'a, T>(&'a Cell<*const T>, *const T);
        impl<T> Drop for Outer<'_, T> {
            fn drop(&mut self) {
                self.0.set(self.1);
            }
        }
        let _outer = Outer(&self.0, self.0.replace(value));
        body()
    }

    /// The value of the innermost scope.
    pub fn with<R>(&self, action: impl FnOnce(Option<&T>) -> R) -> R {
        // SAFETY: null, or borrowed by a `set` that is still below on this thread's stack: what it was called with
        // outlives it, and the place belongs to one thread.
        action(unsafe { self.0.get().as_ref() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_nest_and_end() {
        let place = Scoped::new();
        let found = || place.with(|value: Option<&i32>| value.copied());
        assert_eq!(found(), None);
        place.set(&1, || {
            assert_eq!(place.set(&2, found), Some(2));
            assert_eq!(found(), Some(1));
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| place.set(&3, || panic!("inner"))));
            assert!(panicked.is_err());
            assert_eq!(found(), Some(1));
        });
        assert_eq!(found(), None);
    }
}
