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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use control::bundle::{self, DEFAULT_NAMESPACE, Text};

    /// More than a piece holds, several times.
    const OBJECTS: usize = 4_000;

    #[test]
    fn what_all_processors_read_is_what_one_reads() {
        let text = |name: &str, bad: &str| {
            let mut text = String::new();
            for index in 0..OBJECTS {
                write!(text, "---\n# {index}\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n{index}}}\n")
                    .unwrap();
            }
            Text { name: name.to_owned(), bytes: (text + bad).into_bytes() }
        };
        let deep = format!("---\na: {}\n", "[".repeat(api::yaml::DEPTH_MAX * 2));
        let texts = vec![
            text("good", ""),
            text("open", "---\na: [\n"),
            Text::default(),
            text("deep", &deep),
            text("again", ""),
        ];
        let mut pieces = 0;
        let apart = bundle::read_with(texts.clone(), DEFAULT_NAMESPACE, |all| {
            pieces = all.len();
            super::read(all)
        });
        assert!(pieces > texts.len() * 2, "{pieces} pieces");
        let one_by_one = bundle::read(texts, DEFAULT_NAMESPACE);
        assert!(one_by_one.problems().len() > OBJECTS && one_by_one.objects().len() == OBJECTS);
        assert!(format!("{apart:?}") == format!("{one_by_one:?}"), "read otherwise in {pieces} pieces");
    }
}
