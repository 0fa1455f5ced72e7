//! Coverage-guided inputs for the reader that `FUZZ_TARGET` names; see `src/fuzz` and `make fuzz-coverage`.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sqlitereplicate::fuzz::{TARGETS, Target};

fn target() -> &'static Target {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a reader");
        TARGETS.iter().find(|target| target.name == name).expect("no reader has that name")
    })
}

// As they come, and with their checksums made right.
fuzz_target!(|bytes: &[u8]| {
    (target().run)(bytes);
    (target().run)(&(target().mend)(bytes));
});
