//! Keeps the shared library mapped for the life of the process, whatever its host does: threads and VFS outlive
//! the connection that loaded it. The flag is given to every product, where it means nothing in a program: Cargo
//! has an argument for shared libraries alone, but only where the manifest names one.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,-z,nodelete");
}
