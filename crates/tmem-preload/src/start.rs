// SPDX-License-Identifier: Apache-2.0
//! Owns: the beginning. The loader calls `begin` before the program's first instruction, while there is one thread. Nothing is
//! mapped here and no file opened: a program that needs no pager pays for the jumps alone.

use crate::settings::{Settings, VARIABLE};
use crate::{door, exec, forks, hooks, masks, patch, report, rlimit, space};
use core::ffi::{CStr, c_char, c_int};

type Begin = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: Begin = begin;

/// What `tmem run` answers itself where it cannot serve a program.
const FAILED: c_int = 125;

extern "C" fn begin(_argc: c_int, _argv: *const *const c_char, environment: *const *const c_char) {
    // Loaded by somebody else: it does nothing.
    // SAFETY: the loader's own array.
    let Some(value) = (unsafe { find(environment) }) else { return };
    let Some(settings) = Settings::parse(value) else {
        door::tell(
            "the variable TMEM_RUN is of another version",
            "start the program by `tmem run` of this version",
        );
        space::end_process(FAILED);
    };
    report::begin(&settings);
    door::set_settings(settings);
    rlimit::note_start();
    exec::begin();
    masks::begin();
    let patches = hooks::patches();
    let takes_fork = patch::has(c"_Fork") && tmem_sys::fork::take_over();
    if forks::register().is_err() {
        door::tell("handlers for fork cannot be registered", "no memory");
        space::end_process(FAILED);
    }
    // SAFETY: constructors run before any thread is made; each of the replacements has its counterpart's signature.
    if let Err(why) = unsafe { patch::apply(&patches[..patches.len() - usize::from(!takes_fork)]) } {
        door::tell("this program cannot be served", &why.to_string());
        space::end_process(FAILED);
    }
}

/// The variable's value, for as long as the environment stays as it is now.
///
/// # Safety
/// An array of strings that ends with null.
unsafe fn find(environment: *const *const c_char) -> Option<&'static [u8]> {
    let mut at = environment;
    // SAFETY: passed on to the caller.
    unsafe {
        while !at.is_null() && !(*at).is_null() {
            if let Some(value) = CStr::from_ptr(*at).to_bytes().strip_prefix(VARIABLE) {
                return Some(value);
            }
            at = at.add(1);
        }
    }
    None
}
