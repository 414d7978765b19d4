// SPDX-License-Identifier: Apache-2.0
//! Owns: what the kernel tells about this process in `/proc`. Not on the path of a page.

use std::fs;

/// The largest number of mappings a process may have.
pub fn max_map_count() -> usize {
    read_number("/proc/sys/vm/max_map_count").unwrap_or(65_530)
}

/// `vm.unprivileged_userfaultfd`, where the kernel has it.
pub fn unprivileged_userfaultfd() -> Option<usize> {
    read_number("/proc/sys/vm/unprivileged_userfaultfd")
}

/// The kernel's release, such as `6.18.44`.
pub fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// Total memory of the machine in bytes.
pub fn total_memory() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Bytes of address space that this process may have, where there is a limit.
pub fn most_address_space() -> Option<usize> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn read_number(path: &str) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
