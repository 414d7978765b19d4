// SPDX-License-Identifier: Apache-2.0
//! Has the loader run our constructor before any other library's: those may make threads, and the C library's text is changed
//! while nobody runs it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,initfirst");
}
