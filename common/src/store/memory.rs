//! The store in memory, for the simulator.
//!
//! What was put is there as long as somebody holds the [`MemoryStore`], so it outlives a simulated process; a
//! power cut leaves what was flushed, and of the changes since as many as the caller chooses, in their order.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backend, Change, Store};

type Tables = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

/// A store without a disk. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Whether power is gone: then nothing changes any more.
    is_cut: Option<Box<dyn Fn() -> bool + Send>>,
    tables: Tables,
    /// What stood there at the last flush.
    flushed: Tables,
    /// What was done since.
    since: Vec<Step>,
}

/// What is done whole or not at all.
#[derive(Debug)]
enum Step {
    Apply(&'static str, Vec<Change>),
    Clear(&'static str),
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("tables", &self.tables).field("since", &self.since).finish_non_exhaustive()
    }
}

impl Inner {
    fn is_cut(&self) -> bool {
        self.is_cut.as_ref().is_some_and(|is_cut| is_cut())
    }
}

impl MemoryStore {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing changes any more from the moment at which `is_cut` says that power is gone.
    pub fn stop_when(&self, is_cut: impl Fn() -> bool + Send + 'static) {
        self.inner().is_cut = Some(Box::new(is_cut));
    }

    /// A handle on it, for a node.
    #[must_use]
    pub fn store(&self) -> Store {
        Store(Backend::Memory(self.clone()))
    }

    /// What a power cut at this moment leaves. `survive` is told how many steps were done since the last flush,
    /// and says how many of them, from the first on, reached the disk all the same.
    #[must_use]
    pub fn crash(&self, survive: impl FnOnce(usize) -> usize) -> Self {
        let inner = self.inner();
        let mut tables = inner.flushed.clone();
        let count = survive(inner.since.len());
        inner.since.iter().take(count).for_each(|step| step.do_to(&mut tables));
        Self(Arc::new(Mutex::new(Inner { is_cut: None, flushed: tables.clone(), tables, since: Vec::new() })))
    }

    pub(super) fn table(&self, name: &'static str) -> MemoryTable {
        MemoryTable { store: self.clone(), name }
    }

    pub(super) fn flush(&self) {
        let mut inner = self.inner();
        if inner.is_cut() {
            return;
        }
        let Inner { flushed, since, .. } = &mut *inner;
        since.drain(..).for_each(|step| step.do_to(flushed));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, step: Step) {
        let mut inner = self.inner();
        if inner.is_cut() {
            return;
        }
        step.do_to(&mut inner.tables);
        inner.since.push(step);
    }
}

impl Step {
    fn do_to(&self, tables: &mut Tables) {
        match self {
            Self::Apply(table, changes) => {
                let table = tables.entry(table).or_default();
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(table.insert(key.clone(), value.clone())),
                        None => drop(table.remove(key)),
                    }
                }
            }
            Self::Clear(table) => drop(tables.remove(table)),
        }
    }
}

/// One table of it.
#[derive(Clone, Debug)]
pub(super) struct MemoryTable {
    store: MemoryStore,
    name: &'static str,
}

impl MemoryTable {
    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.store.inner().tables.get(self.name)?.get(key).cloned()
    }

    /// As they are now.
    pub(super) fn pairs(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let inner = self.store.inner();
        let rows = inner.tables.get(self.name).into_iter().flat_map(|t| t.range(prefix.to_vec()..));
        rows.take_while(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    pub(super) fn apply(&self, changes: Vec<Change>) {
        self.store.make(Step::Apply(self.name, changes));
    }

    pub(super) fn clear(&self) {
        self.store.make(Step::Clear(self.name));
    }
}
