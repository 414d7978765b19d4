// SPDX-License-Identifier: Apache-2.0
//! Owns: what the next steps of a fault will read that is in no cache. Random faults touch a dozen places of as many tables, and
//! each that has to be waited for takes as long as the lookup behind it. Caller: `serve`, which has other work to do meanwhile.
//! Lock: the pager's, held. Law: asking changes nothing. It pays on random faults only, and those are the ones that pack before they load.

use crate::page::PageState;
use crate::state::State;
use tmem_store::Soon;
use tmem_sys::page::fetch_line;

impl State {
    /// The page has faulted: what is known of it will be read.
    pub fn expect_fault(&self, page: usize) {
        if page < self.top {
            self.states.expect(page);
            fetch_line(&self.meta[page]);
            self.frontswap.expect(page, Soon::Entry);
        }
    }

    /// What is known of it has come: what is stored for it will be read.
    pub fn expect_bytes(&self, page: usize) {
        if page < self.top && self.states.is(page, PageState::Out) {
            self.frontswap.expect(page, Soon::Bytes);
        }
    }

    /// The page that waited on standby longest will be packed at the next fault.
    pub fn expect_victim(&self) {
        let Some(slot) = self.slots.oldest() else { return };
        self.frames.expect(slot);
        if let Some(page) = self.slots.owner(slot) {
            fetch_line(&self.meta[page]);
            self.frontswap.expect(page, Soon::Entry);
        }
    }
}
