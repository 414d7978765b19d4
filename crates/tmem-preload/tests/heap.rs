// SPDX-License-Identifier: Apache-2.0
//! The heap of the preload door under threads, forks and the C library's names. It is this program's heap meanwhile.

// The door itself is a C library, which a test cannot call.
#[path = "../src/cnames.rs"]
mod cnames;
#[path = "../src/heap.rs"]
pub mod heap;

use std::ffi::c_void;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap::new();

/// A block's bytes by its number.
fn fill(block: &mut [u8], seed: usize) {
    block.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 7 + seed) as u8);
}

fn holds(block: &[u8], seed: usize) -> bool {
    block.iter().enumerate().all(|(i, b)| *b == (i * 7 + seed) as u8)
}

#[test]
fn blocks_of_all_sizes_keep_their_bytes_under_threads() {
    std::thread::scope(|s| {
        for thread in 0..4usize {
            s.spawn(move || {
                let mut held: Vec<(usize, Vec<u8>)> = Vec::new();
                let mut state = thread as u64 + 1;
                for round in 0..1500 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let shift = state >> 60;
                    let mut block = vec![0u8; ((state >> 33) as usize % 64) << shift];
                    assert!(block.iter().all(|b| *b == 0));
                    fill(&mut block, round);
                    held.push((round, block));
                    if held.len() > 40 {
                        let (seed, mut block) = held.swap_remove(state as usize % 40);
                        assert!(holds(&block, seed));
                        let len = block.len();
                        block.resize(len * 2 + 9, 3);
                        assert!(holds(&block[..len], seed));
                    }
                }
                assert!(held.iter().all(|(seed, block)| holds(block, *seed)));
            });
        }
    });
}

#[test]
fn the_names_of_the_c_library_are_those_of_this_heap() {
    // SAFETY: the functions are used as their manual pages say.
    unsafe {
        let block = libc::malloc(100).cast::<u8>();
        fill(std::slice::from_raw_parts_mut(block, 100), 1);
        let block = libc::realloc(block.cast(), 1 << 20).cast::<u8>();
        assert!(holds(std::slice::from_raw_parts(block, 100), 1));
        libc::free(block.cast());
        let zeros = libc::calloc(1000, 17).cast::<u8>();
        assert!(std::slice::from_raw_parts(zeros, 17_000).iter().all(|b| *b == 0));
        libc::free(zeros.cast());
        // The compiler takes a block that nobody uses as made.
        let too_much = [libc::calloc(usize::MAX, 2), libc::malloc(usize::MAX)];
        assert!(std::hint::black_box(too_much).iter().all(|block| block.is_null()));
        for shift in 3..16 {
            let mut at = std::ptr::null_mut::<c_void>();
            assert_eq!(libc::posix_memalign(&raw mut at, 1 << shift, 333), 0);
            assert_eq!(at as usize % (1 << shift), 0);
            fill(std::slice::from_raw_parts_mut(at.cast(), 333), shift);
            let moved = libc::realloc(at, 5000);
            assert!(holds(std::slice::from_raw_parts(moved.cast(), 333), shift));
            libc::free(moved);
        }
        let mut none = std::ptr::null_mut();
        assert_eq!(libc::posix_memalign(&raw mut none, 24, 8), libc::EINVAL);
    }
}

#[test]
fn what_libc_made_is_no_block_of_ours_and_left_alone() {
    // SAFETY: a path that exists. The answer is a block of the C library's own heap, which this program never enters: to
    // release it here does nothing to it.
    unsafe {
        let path = libc::realpath(c"/usr/".as_ptr(), std::ptr::null_mut());
        assert!(!path.is_null());
        libc::free(path.cast());
        assert_eq!(std::ffi::CStr::from_ptr(path), c"/usr");
        let ours = libc::malloc(64);
        assert!((ours as usize).abs_diff(path as usize) > 1 << 20, "{ours:?} and {path:?} are of one heap");
        libc::free(ours);
    }
}

#[test]
fn a_child_finds_the_heap_quiet() {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::black_box(vec![1u8; 5000]);
                }
            });
        }
        for _ in 0..200 {
            let mask = tmem_sys::signals::block_all();
            HEAP.pause();
            // SAFETY: the child allocates, which is what is tested, and ends without running what the parent registered.
            let child = unsafe { libc::fork() };
            HEAP.resume();
            if child == 0 {
                let block = std::hint::black_box(vec![7u8; 100_000]);
                // SAFETY: ends the process.
                unsafe { libc::_exit(i32::from(block[99_999] != 7)) };
            }
            tmem_sys::signals::restore_mask(mask);
            let mut status = 1;
            // SAFETY: waits for the child just made, into a live word.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
