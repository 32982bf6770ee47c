//! The library: what a channel's directory holds, as a manifest and as verified blocks.
//!
//! [`Library::scan`] walks the directory, hashes what changed, and makes the tables of the next generation.
//! The [`Content`] that it returns gives out blocks of the objects.
//!
//! - Blocking, and parallel by rayon: call it on a thread that may block.
//! - Nothing that changes on disk can make a wrong block: it gives a [`Problem`] or a [`BlockError`], and
//!   the next scan takes it along.
//! - Unchanged files are not read again, also across restarts (see `cache`); unchanged content keeps its
//!   object and its `since`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use globset::{GlobMatcher, GlobSet};
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation};
use nackcast_common::manifest::{Entry, EntryKind, Head, Manifest, ManifestError};
use nackcast_common::path::DatasetPath;

mod cache;
mod content;
mod former;
mod gather;
mod hashing;
mod held;
mod packs;
mod plan;
mod problem;
mod root;
mod spill;
#[cfg(test)]
mod tests;
mod walk;

pub use content::{BlockError, Content};
pub(crate) use held::{Held, held};
pub use problem::{Problem, ProblemKind};

use cache::HashCache;
#[cfg(feature = "fuzzing")]
pub(crate) use cache::fuzz;
use former::Former;
use gather::{Gatherer, Tally};
use plan::{Plan, Planner};
use root::Root;
use spill::Spill;
use walk::{Found, FoundKind};

/// What to scan, and how to cut it.
#[derive(Clone, Debug)]
pub struct LibraryConfig {
    /// The channel's directory; may be a symlink, which is followed anew by every scan.
    pub root: PathBuf,
    /// Paths (relative) that are left out; a directory with all below it.
    pub exclude: GlobSet,
    /// Which paths go first: the first pattern that matches gives the priority, else it is 0.
    pub priorities: Vec<(GlobMatcher, i32)>,
    /// How objects are cut and coded.
    pub geometry: Geometry,
    /// Directory for the hash cache and long hash lists; made if it is not there.
    pub cache: PathBuf,
    /// The channel.
    pub channel: ChannelId,
    /// The epoch of the next generation.
    pub epoch: Epoch,
}

impl LibraryConfig {
    fn priority(&self, path: &DatasetPath) -> i32 {
        let first = self.priorities.iter().find(|(pattern, _)| pattern.is_match(path.as_path()));
        first.map_or(0, |(_, priority)| *priority)
    }
}

/// The generation that the next one follows.
#[derive(Clone, Debug)]
pub struct Previous {
    /// Its tables.
    pub manifest: Arc<Manifest>,
    /// The hash of its signed root.
    pub root_hash: Digest,
}

/// How far a scan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files hashed; those that the cache knew do not count.
    pub files: u64,
    /// Files to hash.
    pub files_total: u64,
    /// Bytes read; may pass the total when a file changes meanwhile.
    pub bytes: u64,
    /// Bytes to hash.
    pub bytes_total: u64,
}

/// Whether a scan made a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing differs: the content has the previous manifest.
    None,
    /// The content has a new manifest, to be signed.
    NewGeneration,
}

/// What a scan found.
#[derive(Debug)]
pub struct Scan {
    /// What can be served now.
    pub content: Arc<Content>,
    /// Whether it is a new generation.
    pub change: Change,
    /// What was left out.
    pub problems: Vec<Problem>,
    /// How many bytes were read to hash them.
    pub hashed_bytes: u64,
}

/// Why there is no scan at all.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The channel's directory cannot be listed.
    #[error("cannot read directory {}: {source}; give the directory to send, with permission to list it", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The cache directory cannot be used.
    #[error("cannot write to {}: {source}; give a state directory that can be written", path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The cache would be sent, and every scan would find it changed.
    #[error("{} lies in {}, which is sent; give a state directory outside of it", cache.display(), root.display())]
    CacheInside {
        /// The cache directory.
        cache: PathBuf,
        /// The channel's directory.
        root: PathBuf,
    },
    /// The directory changed in a way that gives no manifest, or holds too much.
    #[error("{} gives no manifest: {source}; scan again when nobody writes to it", path.display())]
    Manifest {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
}

/// A channel's directory.
#[derive(Debug)]
pub struct Library {
    config: LibraryConfig,
}

impl Library {
    /// Checks that the directory can be listed and that the cache directory is there.
    ///
    /// # Errors
    /// When one of the two cannot be used.
    pub fn open(config: LibraryConfig) -> Result<Self, LibraryError> {
        let library = Self { config };
        let root = library.root()?;
        let LibraryConfig { cache, .. } = &library.config;
        std::fs::create_dir_all(cache).map_err(|e| library.cache_error(e))?;
        if cache.canonicalize().map_err(|e| library.cache_error(e))?.starts_with(root.path()) {
            return Err(LibraryError::CacheInside { cache: cache.clone(), root: library.config.root });
        }
        Ok(library)
    }

    /// What it was opened with.
    #[must_use]
    pub const fn config(&self) -> &LibraryConfig {
        &self.config
    }

    /// The epoch of generations to come.
    pub const fn set_epoch(&mut self, epoch: Epoch) {
        self.config.epoch = epoch;
    }

    /// Looks at the whole directory. `progress` is called often and from several threads.
    ///
    /// # Errors
    /// When the directory cannot be listed at all or the cache directory cannot be written; what concerns
    /// single files is in [`Scan::problems`].
    pub fn scan(
        &mut self,
        previous: Option<&Previous>,
        least: Generation,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Scan, LibraryError> {
        let config = &self.config;
        let root = Arc::new(self.root()?);
        let (found, mut problems) = walk::walk(&root, &config.exclude);
        let (entries, files) = split(found);
        let cache = HashCache::load(&config.cache, config.channel, config.geometry);
        let unknown = files.iter().filter(|f| cache.get(&f.path, &f.stamp).is_none());
        let tally = Tally::new(unknown, progress);
        let former = Former::of(previous.map(|p| &*p.manifest), config.geometry);
        let next = Generation(former.generation().0.saturating_add(1)).max(least);

        let gatherer = Gatherer { config, root: &root, cache: &cache, former: &former, next, tally: &tally };
        let gathered = gatherer.gather(files, &mut problems);
        if !gathered.cache.same_as(&cache) {
            gathered.cache.store().map_err(|e| self.cache_error(e))?;
        }
        let spill = Spill::new(&config.cache, config.channel);
        let planner = Planner { root: &root, geometry: config.geometry, next, tally: &tally, spill: &spill };
        let plan = planner
            .plan(entries, &gathered.files, gathered.fresh, gathered.lost, former, &mut problems)
            .map_err(|e| self.cache_error(e))?;
        spill.remove_others();

        let (manifest, sources, change) = self.settle(plan, previous, next)?;
        let content = Arc::new(Content::new(manifest, sources, root));
        problems.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Scan { content, change, problems, hashed_bytes: tally.bytes() })
    }

    /// The previous manifest when the plan says the same, else a new one.
    fn settle(
        &self,
        plan: Plan,
        previous: Option<&Previous>,
        generation: Generation,
    ) -> Result<(Arc<Manifest>, Vec<content::ObjectSource>, Change), LibraryError> {
        let LibraryConfig { channel, epoch, geometry, .. } = self.config;
        let same = previous.filter(|p| {
            let head = p.manifest.head();
            (head.channel, head.epoch, head.geometry) == (channel, epoch, geometry)
                && p.manifest.objects() == plan.objects
                && p.manifest.entries() == plan.entries
        });
        if let Some(previous) = same {
            return Ok((Arc::clone(&previous.manifest), plan.sources, Change::None));
        }
        let head = Head { channel, generation, parent: previous.map(|p| p.root_hash), epoch, geometry };
        let manifest = Manifest::new(head, plan.objects, plan.entries)
            .map_err(|source| LibraryError::Manifest { path: self.config.root.clone(), source })?;
        Ok((Arc::new(manifest), plan.sources, Change::NewGeneration))
    }

    fn root(&self) -> Result<Root, LibraryError> {
        let path = &self.config.root;
        let listed = Root::open(path).and_then(|root| std::fs::read_dir(root.path()).map(|_| root));
        listed.map_err(|source| LibraryError::Root { path: path.clone(), source })
    }

    fn cache_error(&self, source: io::Error) -> LibraryError {
        LibraryError::Cache { path: self.config.cache.clone(), source }
    }
}

/// Files apart from what is ready to be an entry.
fn split(found: Vec<Found>) -> (Vec<Entry>, Vec<Found>) {
    let (mut entries, mut files) = (Vec::new(), Vec::new());
    for item in found {
        let kind = match item.kind {
            FoundKind::File => {
                files.push(item);
                continue;
            }
            FoundKind::Directory => EntryKind::Directory,
            FoundKind::Symlink { target } => EntryKind::Symlink { target },
        };
        entries.push(Entry { path: item.path, kind, mode: item.mode, mtime: item.stamp.mtime });
    }
    (entries, files)
}
