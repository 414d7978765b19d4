// SPDX-License-Identifier: Apache-2.0
//! Owns: which forked children may still read slots of this process's swap file. Callers: `swap`, `swaplevel`.
//! A generation is a stretch of time between two forks. The child forked at the start of generation g reads the
//! slots that were in use then: born before g, and not freed before g. Law 12: such a slot is not written again
//! while that child, or a descendant that inherited its pipe, lives.

use tmem_sys::{Errno, Table};

/// Children recorded one by one. More are remembered only as "some child", for good.
const MAX_CHILDREN: usize = 4096;

pub(crate) struct Children {
    pub generation: u32,
    /// Generations of children not known to be dead, ascending.
    alive: Table<u32>,
    count: usize,
    /// Newest generation of a child that found no room in `alive`.
    unrecorded: u32,
}

impl Children {
    pub fn new() -> Result<Children, Errno> {
        Ok(Children { generation: 0, alive: Table::new(MAX_CHILDREN)?, count: 0, unrecorded: 0 })
    }

    /// A fork is about to happen: the child's generation.
    pub fn prepare(&mut self) -> u32 {
        self.generation += 1;
        self.generation
    }

    /// The fork happened, this is the parent.
    pub fn born(&mut self) {
        if self.count < MAX_CHILDREN {
            self.alive[self.count] = self.generation;
            self.count += 1;
        } else {
            self.unrecorded = self.generation;
        }
    }

    /// This is the child: the parent's other children read the parent's slots, not ours.
    pub fn forget(&mut self) {
        self.count = 0;
        self.unrecorded = 0;
    }

    /// Drops the children that `alive` says are gone. Whether any was.
    pub fn reap(&mut self, alive: &mut dyn FnMut(u32) -> bool) -> bool {
        let before = self.count;
        let mut kept = 0;
        for at in 0..before {
            let generation = self.alive[at];
            if alive(generation) {
                self.alive[kept] = generation;
                kept += 1;
            }
        }
        self.count = kept;
        kept < before
    }

    /// Whether a child may read a slot written in generation `born` and freed in generation `freed`.
    pub fn may_read(&self, born: u32, freed: u32) -> bool {
        let alive = &self.alive[..self.count];
        let next = alive.partition_point(|g| *g <= born);
        born < self.unrecorded || alive.get(next).is_some_and(|g| *g <= freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_reads_what_lived_at_its_fork() {
        let mut c = Children::new().unwrap();
        assert!(!c.may_read(0, 0));
        for g in 1..=3 {
            assert_eq!(c.prepare(), g);
            c.born();
        }
        assert!(c.reap(&mut |g| g != 2));
        assert!(c.may_read(0, 1) && c.may_read(0, 3) && c.may_read(2, 3));
        assert!(!c.may_read(1, 2), "born after child 1, freed before child 3");
        assert!(!c.may_read(3, 3) && !c.may_read(0, 0));
        assert!(!c.reap(&mut |_| true));
        c.forget();
        assert!(!c.may_read(0, 3));
    }

    #[test]
    fn children_beyond_the_table_are_believed_alive() {
        let mut c = Children::new().unwrap();
        for _ in 0..=MAX_CHILDREN {
            c.prepare();
            c.born();
        }
        c.reap(&mut |_| false);
        assert!(c.may_read(0, c.generation));
        assert!(!c.may_read(c.generation, c.generation));
    }
}
