//! Where a panic of ours stops: it must never unwind into SQLite, and never end the host.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body`; a panic comes back as its text.
///
/// Unwind safety: whoever gets the text stops using what `body` touched.
pub(super) fn catch<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| text_of(&*payload))
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "panic without a text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_as_its_text() {
        let page = 7;
        assert_eq!(catch(|| panic!("BUG: page {page}")), Err::<(), _>("BUG: page 7".to_owned()));
        assert_eq!(catch(|| page), Ok(7));
    }
}
