//! A book on disk: one row for each alert, by its number.

use super::{Alert, Book};
use crate::store::{Batch, Store, StoreError, Table};

/// The alerts in a store. Everything blocks.
#[derive(Clone, Debug)]
pub struct Kept {
    store: Store,
    table: Table,
}

impl Kept {
    /// In an open store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn new(store: Store) -> Result<Self, StoreError> {
        let table = store.tree("alerts")?;
        Ok(Self { store, table })
    }

    /// What was kept. A row that cannot be understood is left out: a newer program wrote it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(&self) -> Result<Vec<Alert>, StoreError> {
        let rows = self.table.iter().map(|row| row.map(|(_, value)| serde_json::from_slice(&value).ok()));
        rows.filter_map(Result::transpose).collect()
    }

    /// What is to be written for these numbers: an alert, or nothing where it is forgotten.
    #[must_use]
    pub fn batch(book: &Book, changed: &[u64]) -> Batch {
        let mut batch = Batch::new();
        for id in changed {
            match book.get(*id).and_then(|alert| serde_json::to_vec(alert).ok()) {
                Some(row) => batch.put(&id.to_be_bytes(), &row),
                None => batch.remove(&id.to_be_bytes()),
            }
        }
        batch
    }

    /// Writes; durable when this returns.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn save(&self, batch: Batch) -> Result<(), StoreError> {
        self.table.apply(batch)?;
        self.store.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::{Finding, Kind};

    #[test]
    fn alerts_survive_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Kept::new(Store::open(dir.path()).unwrap().0).unwrap();
        let mut book = Book::new("cache7", 0, Vec::new());
        book.report(1000, "news", &[Finding::lasting(Kind::ClockOff, "10.0.0.1", "an hour")]);
        book.acknowledge(2000, 1);
        let changed = book.take_changes();
        let kept = open();
        kept.save(Kept::batch(&book, &changed)).unwrap();
        kept.table.put(&7_u64.to_be_bytes(), b"{\"id\":7,\"kind\":\"of tomorrow\"}").unwrap();
        drop(kept);
        let kept = open();
        assert_eq!(kept.load().unwrap(), book.iter().cloned().collect::<Vec<_>>());
        kept.save(Kept::batch(&Book::new("cache7", 0, Vec::new()), &[1])).unwrap();
        assert_eq!(kept.load().unwrap(), []);
    }
}
