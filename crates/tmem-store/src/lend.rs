// SPDX-License-Identifier: Apache-2.0
//! Owns: pages that leave the store packed, for whoever unpacks them without its lock, and the dictionaries that takes.
//! Callers: `backend` for the pager's workers; whoever packs pages again. Locks: the store's.

use crate::codec::{Codec, Dictionaries, needs_dictionary};
use crate::entry::Form;
use crate::object::ObjectId;
use crate::ops::{Copied, Corrupt};
use crate::pool::{PageStore, PoolId, StoreConfig, StoreError};
use std::sync::Arc;
use tmem_sys::{Errno, PAGE_SIZE, Page};

impl PageStore {
    /// As [`PageStore::new`], with dictionaries that others have too: who takes packed pages out can unpack them all.
    ///
    /// # Errors
    /// As [`PageStore::new`].
    pub fn sharing(config: StoreConfig, dictionaries: Arc<Dictionaries>) -> Result<PageStore, Errno> {
        let codec = Codec::sharing(dictionaries)?;
        Ok(PageStore { codec, shares: true, ..PageStore::new(config)? })
    }

    /// The dictionaries its pages may be packed with; for a recoder of this store's pages.
    pub fn dictionaries(&self) -> &Arc<Dictionaries> {
        self.codec.dictionaries()
    }

    /// Copies a persistent page as it is stored. `None` where it takes a dictionary of this store's alone, and where there is
    /// none.
    ///
    /// # Errors
    /// As [`PageStore::get`].
    pub fn copy_packed(
        &mut self,
        pool: PoolId,
        object: ObjectId,
        index: u64,
        into: &mut Page,
    ) -> Result<Option<Copied>, StoreError> {
        let slot = self.live_slot(pool)?;
        let entry = self.objects.get(slot as u32, object, index);
        let copied = match self.dedup.shares.plain(entry).form() {
            _ if self.pools[slot].kind.is_ephemeral() => return Ok(None),
            Form::Same(word) => Copied::Same(word),
            Form::Packed(loc, len) => {
                let bytes = self.slab.read(loc, len).ok_or(StoreError::Corrupt(Corrupt::Misplaced))?;
                if needs_dictionary(bytes) && !self.shares {
                    return Ok(None);
                }
                into[..len].copy_from_slice(bytes);
                Copied::Packed(len)
            }
            Form::Raw(loc) => {
                let page = self.slab.read(loc, PAGE_SIZE).ok_or(StoreError::Corrupt(Corrupt::Misplaced))?;
                into.copy_from_slice(page);
                Copied::Raw
            }
            Form::Empty => return Ok(None),
            Form::Shared(_) | Form::Broken(_) => return Err(StoreError::Corrupt(Corrupt::Misplaced)),
        };
        for traffic in [&mut self.traffic, &mut self.pools[slot].stats.traffic] {
            traffic.gets += 1;
            traffic.hits += 1;
        }
        Ok(Some(copied))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::samples::sentences;
    use crate::codec::{Coded, Decoder, Recoder};
    use crate::ops::Loaded;
    use crate::pool::PoolConfig;
    use tmem_sys::PAGE_SIZE;

    const OBJECT: ObjectId = ObjectId([1, 0, 0]);

    /// A store with one page that is packed with a dictionary.
    fn holds_cold(mut store: PageStore, page: &Page) -> (PageStore, PoolId) {
        let mut recoder = Recoder::new(store.dictionaries().clone()).unwrap();
        let samples: Vec<Page> = (0..300).map(|seed| *sentences(seed)).collect();
        let before = store.footprint();
        assert_eq!(recoder.train(&samples, 100_000), Ok(1));
        assert!(store.footprint() >= before + (16 << 10), "the dictionary is counted");
        let bytes = recoder.recode(page, None).unwrap();
        assert!(needs_dictionary(bytes));
        let pool = store.new_pool(PoolConfig::default()).unwrap();
        assert!(store.put_coded(pool, OBJECT, 0, page, &Coded::Packed(bytes)).unwrap().is_stored());
        (store, pool)
    }

    #[test]
    fn a_page_with_a_dictionary_leaves_packed_only_where_others_have_it() {
        let config = StoreConfig::for_pages(100, 1 << 20);
        let (page, mut into, mut back) = (sentences(1000), [0; PAGE_SIZE], [0; PAGE_SIZE]);
        let (mut alone, pool) = holds_cold(PageStore::new(config).unwrap(), &page);
        assert_eq!(alone.copy_packed(pool, OBJECT, 0, &mut into), Ok(None));
        assert_eq!(alone.get(pool, OBJECT, 0, &mut back), Ok(Loaded::Loaded));
        assert_eq!(back, *page);

        let dictionaries = Dictionaries::new();
        let mut decoder = Decoder::new(dictionaries.clone()).unwrap();
        let (mut shared, pool) = holds_cold(PageStore::sharing(config, dictionaries).unwrap(), &page);
        let Ok(Some(Copied::Packed(len))) = shared.copy_packed(pool, OBJECT, 0, &mut into) else {
            panic!("it stays")
        };
        assert!(decoder.decode(&into[..len], &mut back) && back == *page);
    }
}
