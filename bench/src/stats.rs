//! Figures from samples: quantiles, medians, and the interval in which a median lies.
//!
//! The interval comes from order statistics: of n samples, the k-th smallest and the k-th largest enclose the median with
//! a probability that the binomial distribution says, whatever the distribution of the samples. Nothing is drawn by lot, so the
//! same samples give the same interval. Below six samples no interval reaches 95 %, and none is given.

/// What an interval has to hold with.
const CONFIDENCE: f64 = 0.95;

/// A median and the values that enclose it with at least 95 %.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Lower and upper end; none for too few samples.
    pub interval: Option<(f64, f64)>,
    /// How many samples there were.
    pub samples: usize,
}

/// Median and interval; `None` without samples.
pub fn estimate(samples: &[f64]) -> Option<Estimate> {
    let sorted = sorted(samples);
    let median = middle(&sorted)?;
    let ends = rank(sorted.len()).and_then(|rank| Some((*sorted.get(rank - 1)?, *sorted.get(sorted.len() - rank)?)));
    Some(Estimate { median, interval: ends, samples: sorted.len() })
}

/// The median.
pub fn median(samples: &[f64]) -> Option<f64> {
    middle(&sorted(samples))
}

/// The smallest sample that at least this share of all does not exceed.
pub fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let sorted = sorted(samples);
    sorted.get(place(sorted.len(), share)?).copied()
}

/// The same of nanoseconds, in microseconds; sorts them.
pub fn quantile_us(samples: &mut [u32], share: f64) -> Option<f64> {
    samples.sort_unstable();
    samples.get(place(samples.len(), share)?).map(|ns| f64::from(*ns) / 1e3)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of samples"
)]
fn place(count: usize, share: f64) -> Option<usize> {
    let wanted = (count as f64 * share).ceil() as usize;
    count.checked_sub(1).map(|last| wanted.saturating_sub(1).min(last))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = samples.iter().copied().filter(|sample| sample.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { sorted.get(half - 1).map(|lower| f64::midpoint(*lower, upper)) }
}

/// The largest k for which the k-th smallest and k-th largest of n samples enclose the median with 95 %: at most k - 1 samples lie on
/// one side of the median with a probability of at most 2.5 %.
fn rank(count: usize) -> Option<usize> {
    #[expect(clippy::cast_precision_loss, reason = "counts of samples")]
    let n = count as f64;
    let outside = (1.0 - CONFIDENCE) / 2.0;
    // ln of 0.5^n, then of each binomial term, so that no factorial overflows.
    let mut term = n * 0.5_f64.ln();
    let (mut sum, mut rank, mut below) = (0.0, 0, 0.0);
    while rank < count {
        sum += f64::exp(term);
        if sum > outside {
            break;
        }
        rank += 1;
        below += 1.0;
        term += f64::ln((n - below + 1.0) / below);
    }
    (rank > 0).then_some(rank)
}

#[cfg(test)]
mod tests {
    use super::{estimate, median, quantile, quantile_us, rank};

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Sign test, two-sided 5 %.
        let table = [
            (5, None),
            (6, Some(1)),
            (8, Some(1)),
            (9, Some(2)),
            (20, Some(6)),
            (25, Some(8)),
            (50, Some(18)),
            (100, Some(40)),
        ];
        for (count, wanted) in table {
            assert_eq!(rank(count), wanted, "{count} samples");
        }
        assert!(rank(10_000).is_some(), "large numbers neither overflow nor underflow");
    }

    #[test]
    fn an_estimate_is_the_middle_with_its_neighbours() {
        let samples: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let found = estimate(&samples).unwrap();
        assert_eq!((found.median, found.interval, found.samples), (10.5, Some((6.0, 15.0)), 20));
        assert_eq!(estimate(&[3.0, 1.0, 2.0]).unwrap().interval, None);
        assert_eq!(estimate(&[]), None);
        assert_eq!(median(&[f64::NAN, 2.0]), Some(2.0), "what was not measured is no sample");
    }

    #[test]
    fn the_interval_holds_the_median_as_often_as_it_says() {
        // A small generator of even numbers: the true median is 0.5.
        let mut state = 1_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(state >> 32).unwrap()) / f64::from(u32::MAX)
        };
        let tries = 4000;
        let held = (0..tries)
            .filter(|_| {
                let samples: Vec<f64> = (0..20).map(|_| draw()).collect();
                let (low, high) = estimate(&samples).unwrap().interval.unwrap();
                (low..=high).contains(&0.5)
            })
            .count();
        // Exactly 95.86 % for 20 samples; four deviations of 4000 tries are 1.3 %.
        assert!((3782..=3887).contains(&held), "{held} of {tries}");
    }

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (quantile(&samples, 0.5), quantile(&samples, 0.99), quantile(&samples, 1.0)),
            (Some(50.0), Some(99.0), Some(100.0))
        );
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile_us(&mut [3000, 1000, 2000], 0.5), Some(2.0));
    }
}
