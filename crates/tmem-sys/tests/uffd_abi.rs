// SPDX-License-Identifier: Apache-2.0
//! The numbers of `uffd::abi` against the kernel's own header, read by a C compiler on this machine. Owns: nothing. Law 12: a
//! structure of the wrong size or a field at the wrong offset would move pages elsewhere.
//!
//! Each number is asked for in a program of its own, so that a header too old for one of them skips that one by name.

use std::fs;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;
use tmem_sys::uffd::abi;

/// What the C side is asked, and what it must answer.
fn expected() -> Vec<(&'static str, u64)> {
    let mut all: Vec<(&str, u64)> = vec![
        ("UFFD_API", abi::UFFD_API),
        ("UFFD_USER_MODE_ONLY", abi::UFFD_USER_MODE_ONLY as u64),
        ("UFFD_FEATURE_SIGBUS", abi::FEATURE_SIGBUS),
        ("UFFD_FEATURE_THREAD_ID", abi::FEATURE_THREAD_ID),
        ("UFFD_FEATURE_MOVE", abi::FEATURE_MOVE),
        ("UFFDIO_REGISTER_MODE_MISSING", abi::REGISTER_MODE_MISSING),
        ("UFFDIO_COPY_MODE_DONTWAKE", abi::DONT_WAKE),
        ("UFFDIO_MOVE_MODE_DONTWAKE", abi::DONT_WAKE),
        ("UFFD_EVENT_PAGEFAULT", u64::from(abi::EVENT_PAGEFAULT)),
        ("UFFD_PAGEFAULT_FLAG_WRITE", abi::PAGEFAULT_FLAG_WRITE),
        ("UFFDIO_API", abi::UFFDIO_API as u64),
        ("UFFDIO_REGISTER", abi::UFFDIO_REGISTER as u64),
        ("UFFDIO_UNREGISTER", abi::UFFDIO_UNREGISTER as u64),
        ("UFFDIO_WAKE", abi::UFFDIO_WAKE as u64),
        ("UFFDIO_COPY", abi::UFFDIO_COPY as u64),
        ("UFFDIO_MOVE", abi::UFFDIO_MOVE as u64),
        ("USERFAULTFD_IOC_NEW", abi::USERFAULTFD_IOC_NEW as u64),
    ];
    let size = |name, n: usize| (name, n as u64);
    all.extend([
        size("sizeof(struct uffdio_api)", size_of::<abi::Api>()),
        size("offsetof(struct uffdio_api, features)", offset_of!(abi::Api, features)),
        size("offsetof(struct uffdio_api, ioctls)", offset_of!(abi::Api, ioctls)),
        size("sizeof(struct uffdio_range)", size_of::<abi::Range>()),
        size("offsetof(struct uffdio_range, len)", offset_of!(abi::Range, len)),
        size("sizeof(struct uffdio_register)", size_of::<abi::Register>()),
        size("offsetof(struct uffdio_register, mode)", offset_of!(abi::Register, mode)),
        size("offsetof(struct uffdio_register, ioctls)", offset_of!(abi::Register, ioctls)),
        size("sizeof(struct uffdio_copy)", size_of::<abi::Copy>()),
        size("offsetof(struct uffdio_copy, src)", offset_of!(abi::Copy, src)),
        size("offsetof(struct uffdio_copy, len)", offset_of!(abi::Copy, len)),
        size("offsetof(struct uffdio_copy, mode)", offset_of!(abi::Copy, mode)),
        size("offsetof(struct uffdio_copy, copy)", offset_of!(abi::Copy, copy)),
        size("sizeof(struct uffdio_move)", size_of::<abi::Move>()),
        size("offsetof(struct uffdio_move, src)", offset_of!(abi::Move, src)),
        size("offsetof(struct uffdio_move, len)", offset_of!(abi::Move, len)),
        size("offsetof(struct uffdio_move, mode)", offset_of!(abi::Move, mode)),
        size("offsetof(struct uffdio_move, move)", offset_of!(abi::Move, moved)),
        size("sizeof(struct uffd_msg)", size_of::<abi::Msg>()),
        size("offsetof(struct uffd_msg, arg.pagefault.flags)", offset_of!(abi::Msg, flags)),
        size("offsetof(struct uffd_msg, arg.pagefault.address)", offset_of!(abi::Msg, address)),
        size("offsetof(struct uffd_msg, arg.pagefault.feat.ptid)", offset_of!(abi::Msg, ptid)),
    ]);
    all
}

/// What the C compiler makes of an expression; `None` where the header does not have it.
fn ask(dir: &Path, expression: &str) -> Option<u64> {
    let (source, program) = (dir.join("ask.c"), dir.join("ask"));
    let text = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n#include <linux/userfaultfd.h>\n\
         int main(void) {{ printf(\"%llu\", (unsigned long long)({expression})); return 0; }}\n"
    );
    fs::write(&source, text).unwrap();
    let made = Command::new("cc").arg("-w").arg("-o").arg(&program).arg(&source).output().ok()?;
    if !made.status.success() {
        return None;
    }
    let said = Command::new(&program).output().unwrap();
    Some(String::from_utf8(said.stdout).unwrap().parse().unwrap())
}

#[test]
fn the_numbers_are_those_of_the_kernel_header() {
    let dir = std::env::temp_dir().join(format!("tmem-uffd-abi-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let mut wrong = Vec::new();
    if ask(&dir, "UFFD_API").is_none() {
        println!("skipped: no C compiler `cc`, or no <linux/userfaultfd.h>");
    } else {
        for (expression, ours) in expected() {
            match ask(&dir, expression) {
                Some(theirs) if theirs == ours => {}
                Some(theirs) => wrong.push(format!("{expression}: ours {ours:#x}, the header's {theirs:#x}")),
                None => println!("skipped: this machine's header has no {expression}"),
            }
        }
    }
    fs::remove_dir_all(&dir).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
