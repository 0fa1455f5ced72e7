#!/bin/sh
# Makes sure of a nightly toolchain with the component $1 for `make $2`, or says in one sentence what is missing.
rustup run nightly rustc --version >/dev/null 2>&1 || {
    echo "make $2 needs a nightly toolchain, and there is none: rustup toolchain install nightly" >&2
    exit 1
}
rustup component list --toolchain nightly 2>/dev/null | grep -q "^$1.*(installed)" ||
    rustup component add "$1" --toolchain nightly >/dev/null 2>&1 || {
    echo "make $2 needs the component $1 of the nightly toolchain, which could not be fetched" >&2
    exit 1
}
