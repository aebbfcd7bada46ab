//! Pieces of texts, read on every processor of the machine.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use control::bundle::{Piece, PieceRead};

/// Most threads of one reading: beyond these the part that is done by one weighs more than what they save.
const THREADS_MAX: usize = 8;

/// Reads pieces, this thread among others, and gives back what was read in their order.
pub(super) fn read(pieces: &[Piece<'_>]) -> Vec<PieceRead> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(pieces.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(index) else { return done };
            done.push((index, piece.read()));
        }
    };
    let mut done = thread::scope(|scope| {
        // Where a thread cannot be had the others read what it would have.
        let start = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).filter_map(start).collect();
        let mut done = work();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, read)| read).collect()
}
