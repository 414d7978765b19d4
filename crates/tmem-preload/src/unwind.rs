// SPDX-License-Identifier: Apache-2.0
//! Owns: the unwinder's names as this library alone sees them. Callers: the standard library, where a panic is to show how it was
//! come by. No locks.
//!
//! A panic ends the process here and unwinds nothing, and a walk along the program's stacks enters the dynamic loader and its
//! locks. So no such library is brought into the program: there is no way to go back, and no frame to be shown.

use core::arch::global_asm;

global_asm!(
    ".macro tmem_unwind_name name",
    ".globl \\name",
    ".hidden \\name",
    ".type \\name,@function",
    "\\name:",
    ".endm",
    ".pushsection .text.tmem_unwind,\"ax\",@progbits",
    // Nothing is called from where there is an exception: panics abort.
    "tmem_unwind_name _Unwind_Resume",
    "tmem_unwind_name _Unwind_GetDataRelBase",
    "tmem_unwind_name _Unwind_GetIP",
    "tmem_unwind_name _Unwind_GetIPInfo",
    "tmem_unwind_name _Unwind_GetLanguageSpecificData",
    "tmem_unwind_name _Unwind_GetRegionStart",
    "tmem_unwind_name _Unwind_GetTextRelBase",
    "tmem_unwind_name _Unwind_SetGR",
    "tmem_unwind_name _Unwind_SetIP",
    "ud2",
    // `_URC_END_OF_STACK`, at once.
    "tmem_unwind_name _Unwind_Backtrace",
    "movl $5, %eax",
    "ret",
    ".popsection",
    ".purgem tmem_unwind_name",
    options(att_syntax)
);
