//! Many pieces of work at once, on all cores; one after the other where the file system asks for that, so that
//! a simulation is the same each time.

use rayon::iter::{FromParallelIterator, IntoParallelIterator, ParallelIterator};

/// The results of the work on `0..count`, in that order. Each thread has one `scratch`.
pub(super) fn map_all<T, S, C>(
    parallel: bool,
    count: usize,
    scratch: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, usize) -> T + Sync + Send,
) -> C
where
    T: Send,
    C: FromParallelIterator<T> + FromIterator<T>,
{
    if parallel {
        return (0..count).into_par_iter().map_init(scratch, work).collect();
    }
    let mut scratch = scratch();
    (0..count).map(|index| work(&mut scratch, index)).collect()
}
