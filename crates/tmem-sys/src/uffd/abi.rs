// SPDX-License-Identifier: Apache-2.0
//! Owns: the numbers of the userfaultfd interface (include/uapi/linux/userfaultfd.h). Compared with the
//! installed kernel headers by `tests/uffd_abi.rs`.

pub const UFFD_API: u64 = 0xAA;
pub const UFFD_USER_MODE_ONLY: usize = 1;

pub const FEATURE_SIGBUS: u64 = 1 << 7;
pub const FEATURE_THREAD_ID: u64 = 1 << 8;
pub const FEATURE_MOVE: u64 = 1 << 16;

pub const REGISTER_MODE_MISSING: u64 = 1;
/// Mode of copies and moves alike.
pub const DONT_WAKE: u64 = 1;
pub const EVENT_PAGEFAULT: u8 = 0x12;
pub const PAGEFAULT_FLAG_WRITE: u64 = 1;

const fn iowr(nr: u64, size: usize) -> usize {
    ((3u64 << 30) | ((size as u64) << 16) | (0xAA << 8) | nr) as usize
}
const fn ior(nr: u64, size: usize) -> usize {
    ((2u64 << 30) | ((size as u64) << 16) | (0xAA << 8) | nr) as usize
}

pub const UFFDIO_API: usize = iowr(0x3F, size_of::<Api>());
pub const UFFDIO_REGISTER: usize = iowr(0x00, size_of::<Register>());
pub const UFFDIO_UNREGISTER: usize = ior(0x01, size_of::<Range>());
pub const UFFDIO_WAKE: usize = ior(0x02, size_of::<Range>());
pub const UFFDIO_COPY: usize = iowr(0x03, size_of::<Copy>());
pub const UFFDIO_MOVE: usize = iowr(0x05, size_of::<Move>());
/// `ioctl` on `/dev/userfaultfd`; its argument is the flags of `userfaultfd(2)`.
pub const USERFAULTFD_IOC_NEW: usize = 0xAA00;

#[repr(C)]
pub struct Api {
    pub api: u64,
    pub features: u64,
    pub ioctls: u64,
}

#[repr(C)]
pub struct Range {
    pub start: u64,
    pub len: u64,
}

#[repr(C)]
pub struct Register {
    pub range: Range,
    pub mode: u64,
    pub ioctls: u64,
}

#[repr(C)]
pub struct Copy {
    pub dst: u64,
    pub src: u64,
    pub len: u64,
    pub mode: u64,
    /// Bytes done, or a negative error.
    pub copy: i64,
}

#[repr(C)]
pub struct Move {
    pub dst: u64,
    pub src: u64,
    pub len: u64,
    pub mode: u64,
    /// Bytes done, or a negative error.
    pub moved: i64,
}

/// One message of the descriptor, as the page-fault event lays it out.
#[repr(C)]
#[derive(Clone, std::marker::Copy, Default)]
pub struct Msg {
    pub event: u8,
    pub reserved: [u8; 7],
    pub flags: u64,
    pub address: u64,
    pub ptid: u32,
    pub pad: u32,
}
